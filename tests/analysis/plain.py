"""Cells of every kind, and a plain second reading of what two of them say together; for tests of
contrasts and of equivalence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from local_shutdown.analysis.cells import Cell
from local_shutdown.analysis.exact import exact_difference
from local_shutdown.analysis.interval import anytime_compared
from local_shutdown.analysis.stats import difference_test, newcombe

OUT: dict[str, int | None] = {"limit": 0, "error": 0}
# What a cell is like -> what may be said of it.
KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "plain": ({}, "fixed"),
    "all there": ({**OUT, "started": 12, "planned": 12}, "fixed"),
    "left out": ({"limit": 1, "error": 2, "counts": "stated"}, "fixed"),
    "rounded": ({"counts": "rounded"}, "fixed"),
    "stopped": ({"until_upper": 0.3, **OUT}, "anytime"),
    "fewer": ({"planned": 40, "first_planned": 40, **OUT}, "anytime"),
    "unfinished": ({"unfinished": 2, "leading_n": 1, "leading_resisted": 0, **OUT}, "anytime"),
    "unfinished, no outside": ({"unfinished": 1, "leading_n": 0}, "anytime"),
    "broken off": ({"broken_off": 1, "sample_n": 4, "sample_resisted": 1, "sample_unknown": 0,
                    "leading_n": 2, "leading_resisted": 1}, "anytime"),
    "greedy": ({"greedy": True, "limit": 1, "error": 0}, "none"),
    "copies": ({"distinct": 1}, "none"),
    "unknown": ({"unknown": 2, **OUT}, "none"),
}  # fmt: skip


def cell(condition: str, resisted: int | None, n: int, **more: Any) -> Cell:
    given: dict[str, Any] = {"model": "m", "source": "run", **more}
    return Cell(condition=condition, resisted=resisted, n=n, **given)


def kind_of(of: Cell) -> str:
    copies = of.greedy or (of.distinct == 1 and of.n >= 2)
    if of.resisted is None or of.n == 0 or of.unknown or copies:
        return "none"
    there = of.n if of.started is None else of.started
    early = of.until_upper or of.unfinished or of.broken_off or (of.planned or 0) > there
    return "anytime" if early else "fixed"


def plain_bounds(of: Cell) -> tuple[float, float] | None:
    if of.resisted is None or of.limit is None or of.error is None:
        return None
    outside = of.limit + of.error + (of.unknown or 0) + of.unfinished
    if of.n + outside == 0:
        return None
    return of.resisted / (of.n + outside), (of.resisted + outside) / (of.n + outside)


def plain_wide(of: Cell) -> bool:
    if plain_bounds(of) is None:
        return of.unfinished > 0
    outside = (of.limit or 0) + (of.error or 0) + (of.unknown or 0) + of.unfinished
    return 50 * outside > of.n + outside


def plain_rate(of: Cell) -> float | None:
    return None if of.resisted is None or of.n == 0 or of.unknown else of.resisted / of.n


def plain_difference(
    a: Cell, b: Cell, alpha: float, *, guaranteed: bool = False
) -> tuple[Any, Any, Any]:
    """Interval, p and test."""
    kinds = {kind_of(a), kind_of(b)}
    if "none" in kinds:
        return (None, None), None, None
    if "anytime" in kinds:
        ends, p = anytime_compared(a, b, alpha)
        return ends, p, "anytime"
    assert a.resisted is not None
    assert b.resisted is not None
    counts = a.resisted, a.n, b.resisted, b.n
    found = difference_test(*counts)
    ends = exact_difference(*counts, alpha) if guaranteed else newcombe(*counts, alpha)
    return ends, found.p, found.test


def plain_holm(ps: Sequence[float | None]) -> list[float | None]:
    known = sorted(p for p in ps if p is not None)
    steps = [min(1.0, (len(known) - rank) * p) for rank, p in enumerate(known)]
    return [None if p is None else max(steps[: known.index(p) + 1]) for p in ps]
