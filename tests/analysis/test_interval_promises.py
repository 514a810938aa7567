"""Intervals of one cell and of two, against a plain second reading of the rules; for one cell it
plays through every way in which trials without an outcome may end."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local_shutdown.analysis.cells import Cell
from local_shutdown.analysis.exact import fisher_level
from local_shutdown.analysis.interval import (
    anytime_compared,
    anytime_weight,
    bounds,
    is_anytime,
    is_sample,
    retried_bounds,
    shown,
)
from local_shutdown.analysis.stats import clopper_pearson, jeffreys
from local_shutdown.analysis.stopping import (
    anytime_difference,
    anytime_difference_p,
    anytime_interval,
)

PLAIN = {"jeffreys": (jeffreys, "jeffreys"), "clopper-pearson": (clopper_pearson, "exact")}


def cell(resisted: int | None = 30, n: int = 100, **more: Any) -> Cell:
    return Cell("m", "E", "run", resisted, n, **more)


@st.composite
def cells(draw: st.DrawFn, *, least: int = 0, unknown: bool = True) -> Cell:
    n = draw(st.integers(least, 14))
    resisted = draw(st.integers(0, n))
    more: dict[str, Any] = {"started": n}
    if draw(st.booleans()):
        more |= {"unfinished": draw(st.integers(1, 3))}
        more |= {"leading_n": draw(st.integers(0, n))}
        more |= {"leading_resisted": draw(st.integers(0, min(more["leading_n"], resisted)))}
    if draw(st.integers(0, 3)) == 0:
        size = draw(st.integers(1, 14))
        more |= {"broken_off": 2, "sample_n": size, "sample_resisted": draw(st.integers(0, size))}
        more |= {"sample_unknown": draw(st.integers(0, 2)), "leading_n": size // 2}
        more |= {"leading_resisted": more["sample_resisted"] // 2}
    more |= draw(
        st.sampled_from([
            {}, {"planned": n, "first_planned": n}, {"planned": n + 1, "first_planned": 48},
            {"planned": n, "first_planned": 2, "looked_at": 2}, {"until_halfwidth": 0.1},
            {"until_upper": 0.1}, {"until_decided": 0.2},
        ])
    )  # fmt: skip
    if unknown:
        more |= draw(st.sampled_from([{}, {}, {"unknown": 0}, {"unknown": 2}]))
    return cell(resisted, n, **more)


def weight(of: Cell) -> float:
    if of.until_halfwidth is not None:
        return 0.07 / of.until_halfwidth**2
    if of.until_upper is not None:
        return 0.25 / of.until_upper
    if of.until_decided is not None:
        return 0.1 / of.until_decided**2
    return max(1.0, (of.n if of.first_planned is None else of.first_planned) / 16)


def not_fixed(of: Cell) -> bool:
    """Whether anything but a plan decided how many trials are there."""
    there = of.n if of.started is None else of.started
    return any((
        of.until_halfwidth, of.until_upper, of.until_decided, of.unfinished, of.broken_off,
        of.looked_at is not None and there + of.unfinished > of.looked_at,
        of.planned is not None and of.planned > there,
    ))  # fmt: skip


def reach(of: Cell, k: int, n: int, more: int, alpha: float) -> tuple[float, float]:
    found = [
        anytime_interval(k + a, n + b, alpha, weight=weight(of))
        for b in range(more + 1)
        for a in range(b + 1)
    ]
    return min(low for low, _ in found), max(high for _, high in found)


def cut(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    ends = max(one[0], other[0]), min(one[1], other[1])
    return ends if ends[0] <= ends[1] else (min(one[0], other[0]), max(one[1], other[1]))


def wanted(of: Cell, alpha: float, method: str) -> tuple[str, float | None, float | None]:
    assert of.resisted is not None
    plain, name = PLAIN[method]
    if of.unknown:
        left = of.unknown + of.unfinished
        if not_fixed(of):
            return "bounds", *reach(of, of.resisted, of.n, left, alpha)
        ends = plain(of.resisted, of.n + left, alpha), plain(of.resisted + left, of.n + left, alpha)
        return "bounds", ends[0][0], ends[1][1]
    if of.n == 0:
        return "none", None, None
    if not not_fixed(of):
        return name, *plain(of.resisted, of.n, alpha)
    if not of.unfinished and not of.broken_off:
        return "anytime", *anytime_interval(of.resisted, of.n, alpha, weight=weight(of))
    if of.broken_off:
        assert of.sample_n is not None
        sample = of.sample_resisted or 0, of.sample_n, of.sample_unknown or 0
    else:
        sample = of.resisted, of.n, of.unfinished
    ends = reach(of, *sample, alpha)
    if of.leading_n:
        first = of.leading_resisted or 0, of.leading_n
        ends = cut(ends, anytime_interval(*first, alpha, weight=weight(of)))
    if of.broken_off:
        ends = min(ends[0], of.resisted / of.n), max(ends[1], of.resisted / of.n)
    return ("anytime" if of.leading_n or not of.unfinished else "bounds"), *ends


@settings(max_examples=80)
@given(cells(), st.sampled_from([0.05, 0.3]), st.sampled_from(list(PLAIN)))
def test_the_interval_of_a_cell_is_that_of_the_rules(of: Cell, alpha: float, method: str) -> None:
    assert is_anytime(of) is not_fixed(of)
    assert anytime_weight(of) == pytest.approx(weight(of))
    found = shown(of, alpha, method)  # type: ignore[arg-type]
    kind, low, high = wanted(of, alpha, method)
    assert found.kind == kind
    if low is None:
        assert found.ends == (None, None)
        return
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.ends == (found.low, found.high)


@settings(max_examples=40)
@given(
    cells(), st.none() | st.integers(0, 3), st.none() | st.integers(0, 3),
    st.sampled_from([0.05, 0.3]), st.sampled_from(list(PLAIN)),
)  # fmt: skip
def test_bounds_are_those_of_both_ways_of_counting(
    of: Cell, limit: int | None, error: int | None, alpha: float, method: str
) -> None:

    of = replace(of, limit=limit, error=error)
    found = bounds(of, alpha, method)  # type: ignore[arg-type]
    assert of.resisted is not None
    left = (limit or 0) + (error or 0) + (of.unknown or 0) + of.unfinished
    if limit is None or error is None or of.n + left == 0:
        assert found is None
        return
    assert found is not None
    ends = [
        anytime_interval(k, of.n + left, alpha, weight=weight(of))
        if not_fixed(of)
        else PLAIN[method][0](k, of.n + left, alpha)
        for k in (of.resisted, of.resisted + left)
    ]
    assert (found.low, found.high, found.outside) == (
        of.resisted / (of.n + left), (of.resisted + left) / (of.n + left), left,
    )  # fmt: skip
    assert (found.ci_low, found.ci_high) == (ends[0][0], ends[1][1])


def test_there_are_no_bounds_of_what_is_not_stated() -> None:
    assert bounds(cell(None, 10, limit=0, error=0)) is None
    assert bounds(cell(0, 0, limit=0, error=0)) is None
    for n, resisted, limit, unfinished in [(0, 0, 1, 0), (0, 0, 0, 1), (0, 0, 2, 2), (2, 1, 0, 2)]:
        found = bounds(cell(resisted, n, limit=limit, error=0, unfinished=unfinished))
        assert found is not None
        outside = limit + unfinished
        assert (found.low, found.high, found.outside) == (
            resisted / (n + outside), (resisted + outside) / (n + outside), outside,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("of", "kind", "said"),
    [
        (cell(), "jeffreys", ""),
        (cell(None), "none", ""),
        (cell(None, unfinished=2), "none", "unfinished"),
        (cell(None, unknown=2), "none", ""),
        (cell(0, 0), "none", ""),
        (cell(0, 0, unfinished=1), "none", "unfinished"),
        (cell(greedy=True), "none", "temperature 0"),
        (cell(greedy=True, distinct=1), "none", "temperature 0"),
        (cell(distinct=1), "none", "one trajectory"),
        (cell(unknown=4), "bounds", "unknown outcomes: 4"),
        (cell(unknown=4, unfinished=3), "bounds", "unknown outcomes: 4"),
        (cell(unfinished=3, leading_n=0), "bounds", "unfinished: 3"),
        (cell(unfinished=3, leading_n=1, leading_resisted=1), "anytime", "unfinished: 3"),
        (cell(unfinished=3, leading_n=1, broken_off=5), "anytime", "unfinished: 3"),
        (cell(broken_off=5, until_upper=0.1), "anytime", "broken off.*: 5"),
        (cell(until_upper=0.1, looked_at=3), "anytime", "stop"),
        (cell(until_halfwidth=0.1, planned=200), "anytime", "stop"),
        (cell(until_decided=0.1), "anytime", "stop"),
        (cell(looked_at=99, planned=200), "anytime", "extended"),
        (cell(looked_at=100), "jeffreys", ""),
        (cell(looked_at=100, unfinished=1), "bounds", "unfinished: 1"),
        (cell(planned=101), "anytime", "fewer"),
        (cell(planned=101, started=101), "jeffreys", ""),
    ],
)  # fmt: skip
def test_why_an_interval_is_not_the_plain_one(of: Cell, kind: str, said: str) -> None:

    found = shown(of)
    assert found.kind == kind
    assert re.match(said, found.note)
    assert bool(found.note) is bool(said)


def test_an_unknown_method_and_an_impossible_alpha_are_refused() -> None:
    for of in (cell(), cell(unknown=3)):
        with pytest.raises(ValueError, match="wald"):
            shown(of, method="wald")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="alpha is 1"):
            shown(of, 1)
    with pytest.raises(ValueError, match="alpha is 0"):
        anytime_compared(cell(until_upper=0.1), cell(), 0)


@settings(max_examples=12)
@given(cells(least=1, unknown=False), cells(least=1, unknown=False), st.sampled_from([0.05, 0.3]))
def test_two_cells_are_compared_by_what_may_still_become_of_them(
    a: Cell, b: Cell, alpha: float
) -> None:
    weights = weight(a), weight(b)

    def sample(of: Cell) -> tuple[int, int, int]:
        if of.broken_off:
            assert of.sample_n is not None
            return of.sample_resisted or 0, of.sample_n, of.sample_unknown or 0
        assert of.resisted is not None
        return of.resisted, of.n, of.unfinished

    (k_a, n_a, u_a), (k_b, n_b, u_b) = sample(a), sample(b)
    # Every way of ending.
    ends = [
        (k_a + i, n_a + u_a, k_b + j, n_b + u_b) for i in range(u_a + 1) for j in range(u_b + 1)
    ]
    signs = {(x / n > y / m) - (x / n < y / m) for x, n, y, m in ends}
    (low, high), p = anytime_compared(a, b, alpha)
    level = alpha if len(ends) == 1 else fisher_level(alpha)
    found = [anytime_difference(*end, level, weights=weights) for end in ends]
    hull = min(end[0] for end in found), max(end[1] for end in found)
    evidence = max(anytime_difference_p(*end, weights=weights) for end in ends)
    if len(ends) > 1:
        evidence = evidence if len(signs) == 1 else 1.0
        first = []
        for of in (a, b):
            assert of.resisted is not None
            none = of.leading_n is None
            first += [of.resisted, of.n] if none else [of.leading_resisted or 0, of.leading_n or 0]
        evidence = min(evidence, anytime_difference_p(*first, weights=weights))
        evidence *= 1 - math.log(evidence)
        hull = cut(hull, anytime_difference(*first, level, weights=weights))
    if a.broken_off or b.broken_off:
        assert a.rate is not None
        assert b.rate is not None
        hull = min(hull[0], a.rate - b.rate), max(hull[1], a.rate - b.rate)
    assert (low, high) == (pytest.approx(hull[0], abs=1e-7), pytest.approx(hull[1], abs=1e-7))
    assert p == pytest.approx(min(1.0, evidence))


def test_a_comparison_turns_its_sign_with_its_cells() -> None:
    one = cell(9, 12, unfinished=2, leading_n=5, leading_resisted=5, first_planned=64)
    other = cell(2, 20, planned=30, first_planned=30)
    (low, high), p = anytime_compared(one, other)
    turned, same_p = anytime_compared(other, one)
    assert low is not None
    assert high is not None
    assert turned == (pytest.approx(-high), pytest.approx(-low))
    assert p == pytest.approx(same_p)


NO_SAMPLES = {"greedy": cell(greedy=True), "copies": cell(distinct=1), "empty": cell(0, 0),
              "unknown": cell(unknown=1), "unstated": cell(None)}  # fmt: skip


@pytest.mark.parametrize("name", NO_SAMPLES)
def test_what_is_no_sample_is_compared_with_nothing_on_either_side(name: str) -> None:
    of, stopped = NO_SAMPLES[name], cell(until_upper=0.1)
    assert (is_sample(of), is_sample(stopped)) == (False, True)
    for pair in itertools.permutations((of, stopped)):
        assert anytime_compared(*pair) == ((None, None), None)


@pytest.mark.parametrize(
    ("of", "ends"),
    [
        (cell(3, 9, retried=1), (0.3, 0.4)), (cell(0, 8, retried=2), (0, 0.2)),
        (cell(8, 8, retried=2), (0.8, 1)), (cell(3, 9), (None, None)),
        (cell(None, 9, retried=1), (None, None)), (cell(0, 0, retried=1), (None, None)),
        (cell(3, 9, retried=1, unknown=1), (None, None)),
    ],
)  # fmt: skip
def test_the_reach_of_plays_that_were_played_again(
    of: Cell, ends: tuple[float | None, float | None]
) -> None:
    assert retried_bounds(of) == ends


@pytest.mark.parametrize("turned", [False, True])
def test_where_nobody_or_everybody_resisted_so_far_one_more_trial_reaches_further(
    turned: bool,
) -> None:
    """0 of 100 with 5 unfinished: had one of these resisted, the interval would reach further than
    had none. Against every completion."""
    none = cell(0, 20, unfinished=2, leading_n=0, first_planned=100)
    some = cell(20, 20, unfinished=2, leading_n=0, first_planned=100) if turned else cell(
        4, 20, unfinished=2, leading_n=0, first_planned=100
    )  # fmt: skip
    for a, b in ((none, some), (some, none)):
        assert a.resisted is not None
        assert b.resisted is not None
        found = [
            anytime_difference(a.resisted + i, 22, b.resisted + j, 22, fisher_level(0.05),
                               weights=(6.25, 6.25))
            for i in range(3) for j in range(3)
        ]  # fmt: skip
        (low, high), _ = anytime_compared(a, b)
        assert low == pytest.approx(min(end[0] for end in found), abs=1e-7)
        assert high == pytest.approx(max(end[1] for end in found), abs=1e-7)
