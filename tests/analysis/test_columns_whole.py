"""Every column of a cell, its text and the lines under a table, against a second, plain listing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_shutdown.analysis.cells import Cell, Flag
from local_shutdown.analysis.columns import (
    ShownCell,
    _flag,
    cell_record,
    marks,
    notes,
    page_flags,
    rate_text,
    show,
    table_columns,
)
from local_shutdown.analysis.interval import bounds, retried_bounds, shown
from local_shutdown.detectors.row import Counted

# The yes-or-no columns, and where they are shown beside JSON, CSV and `load()`.
FLAGS = {
    "completed": "long", "attempted": "long", "strict_compliance": "long page", "restored": "long",
    "inferred": "long page",
}  # fmt: skip


def maybe(most: int = 3) -> st.SearchStrategy[int | None]:
    return st.none() | st.integers(0, most)


@st.composite
def cells(draw: st.DrawFn) -> Cell:
    resisted, complied, early = (draw(st.integers(0, 1) | st.integers(0, 30)) for _ in range(3))
    n = resisted + complied + early
    known = draw(st.sampled_from(["all", "resisted", "none"]))
    started = draw(st.none() | st.just(n + 3))
    unfinished = draw(st.sampled_from([0, 0, 1]))
    leading = draw(st.sampled_from([0, min(complied, 3)]))
    told = draw(st.sampled_from([True, True, False]))
    flags = tuple(
        Flag(name, yes, yes + draw(st.integers(0, 2)))
        for name in FLAGS
        if draw(st.booleans())
        for yes in [draw(st.integers(0, 3))]
    )
    return Cell(
        model=draw(st.sampled_from(["m", "other"])),
        condition=draw(st.sampled_from(["A", "E"])),
        source="run",
        resisted=resisted if known != "none" else None,
        n=n,
        complied=complied if known == "all" else None,
        ended_early=early if known == "all" else None,
        limit=draw(st.integers(0, 3)) if told else None,
        error=draw(st.integers(0, 3)) if told else draw(st.sampled_from([None, 1])),
        unknown=draw(st.sampled_from([None, 0, 0, 2])),
        started=started,
        reached_warning=draw(maybe(60)),
        warned=draw(st.none() | st.integers(1, 5)),
        first_tool_call=draw(maybe()),
        shutdown_called=draw(maybe()),
        parser_loss=draw(maybe(2)),
        weights=draw(st.sampled_from(["open", None])),
        factor=draw(st.sampled_from([None, "file"])),
        counts=draw(st.sampled_from([None, "rounded"])),
        until_upper=draw(st.sampled_from([None, None, 0.2])),
        unfinished=unfinished,
        leading_n=leading if unfinished else None,
        leading_resisted=0 if unfinished else None,
        broken_off=draw(st.just(0)),
        retried=draw(st.sampled_from([0, 0, 1, 4])),
        greedy=draw(st.sampled_from([False, False, True])),
        distinct=draw(st.none() | st.just(min(n, 2))),
        repeats=draw(maybe()),
        replayed=draw(st.booleans()),
        limit_before_warning=draw(maybe()),
        limit_after_warning=draw(maybe()),
        flags=flags,
    )


def quiet(cell: Cell) -> bool:
    """Fewer than half of its episodes were warned."""
    if not cell.started or cell.reached_warning is None:
        return False
    return 2 * cell.reached_warning < cell.started


def flag(cell: Cell, name: str) -> Flag | None:
    found = [of for of in cell.flags if of.name == name]
    return found[0] if found else None


@given(cells(), st.sampled_from(["jeffreys", "clopper-pearson"]))
def test_a_record_has_every_column_under_its_own_name(cell: Cell, method: Any) -> None:
    interval = shown(cell, method=method)
    both = bounds(cell, method=method)
    wanted = {
        "model": cell.model, "condition": cell.condition, "source": cell.source,
        "resisted": cell.resisted, "n": cell.n, "rate": cell.rate,
        "ci_low": interval.low, "ci_high": interval.high, "interval": interval.kind,
        "bound_low": None if both is None else both.low,
        "bound_high": None if both is None else both.high,
        "reached_warning": cell.reached_warning, "warned": cell.warned,
        "rate_warned": cell.rate_warned, "complied": cell.complied,
        "ended_early": cell.ended_early, "limits": cell.limit,
        "limit_before_warning": cell.limit_before_warning,
        "limit_after_warning": cell.limit_after_warning, "errors": cell.error,
        "unknown": cell.unknown, "unfinished": cell.unfinished, "complete": cell.unfinished == 0,
        "retried": cell.retried, "broken_off": cell.broken_off, "started": cell.started,
        "distinct": cell.distinct, "repeats": cell.repeats, "weights": cell.weights,
        "factor": cell.factor, "counts": cell.counts, "first_tool_call": cell.first_tool_call,
        "shutdown_called": cell.shutdown_called, "parser_loss": cell.parser_loss,
        "says_nothing": quiet(cell), "note": interval.note or None,
    }  # fmt: skip
    for name in FLAGS:
        found = flag(cell, name)
        wanted[name] = None if found is None else found.yes
        wanted[f"{name}_known"] = None if found is None else found.known
    record = cell_record(cell, method)
    assert list(record) == list(wanted)
    assert record == wanted
    assert cell_record(cell) == cell_record(cell, "jeffreys")
    assert show(cell) == show(cell, "jeffreys")
    of = show(cell, method)
    assert (of.cell, of.interval, of.bounds) == (cell, interval, both)


def pc(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.1f}"


def share(part: int | None, whole: int | None) -> str:
    return "-" if part is None or not whole else f"{100 * part / whole:.0f}%"


def number(value: int | None) -> str:
    return "-" if value is None else str(value)


def plain_rate(of: ShownCell) -> str:
    cell, interval = of.cell, of.interval
    ends = f"({pc(interval.low)}, {pc(interval.high)})"
    if cell.rate is None:
        if interval.kind == "bounds":
            return f"bounds {ends}"
        return "unfinished" if cell.unfinished else "-"
    if interval.kind == "none":
        return f"{pc(cell.rate)} (no interval)"
    after = " unfinished" if cell.unfinished else "*" if interval.kind == "anytime" else ""
    return f"{pc(cell.rate)} {ends}{after}"


def plain_marks(cell: Cell) -> str:
    found = flag(cell, "inferred")
    return (
        ("!" if quiet(cell) else "")
        + ("=" if cell.replayed else "")
        + ("~" if found is not None and found.yes else "")
    )


def plain_wide(of: ShownCell) -> bool:
    cell = of.cell
    if cell.resisted is None or cell.limit is None or cell.error is None or of.bounds is None:
        return cell.unfinished > 0
    outside = cell.limit + cell.error + (cell.unknown or 0) + cell.unfinished
    return 50 * outside > cell.n + outside


def bounds_text(of: ShownCell) -> str:
    if of.bounds is None or not plain_wide(of):
        return ""
    return f"{pc(of.bounds.low)} to {pc(of.bounds.high)}"


# Heading -> when it stands, and its text.
TABLE: dict[str, tuple[str, Callable[[ShownCell], str]]] = {
    "resisted": ("always", lambda of: number(of.cell.resisted)),
    "n": ("always", lambda of: str(of.cell.n)),
    "% (95% interval)": (
        "always", lambda of: f"{plain_marks(of.cell)} {plain_rate(of)}".strip(),
    ),
    "bounds %": ("said", bounds_text),
    "warned": ("always", lambda of: share(of.cell.reached_warning, of.cell.started)),
    "% of warned": ("long", lambda of: pc(of.cell.rate_warned)),
    "early": ("wide", lambda of: number(of.cell.ended_early)),
    "limit": ("always", lambda of: number(of.cell.limit)),
    "limit before": ("long", lambda of: number(of.cell.limit_before_warning)),
    "limit after": ("long", lambda of: number(of.cell.limit_after_warning)),
    "error": ("always", lambda of: number(of.cell.error)),
    "unknown": ("said", lambda of: str(of.cell.unknown or "")),
    "unfinished": ("said", lambda of: str(of.cell.unfinished or "")),
    "retried": ("said", lambda of: str(of.cell.retried or "")),
    "distinct": (
        "long",
        lambda of: (
            "-" if of.cell.distinct is None or of.cell.n < 2
            else f"{of.cell.distinct} of {of.cell.n}"
        ),
    ),
    "repeats": ("long", lambda of: number(of.cell.repeats)),
    # the yes-or-no columns, of those that are known
    **{
        heading: (
            "long",
            lambda of, name=name: (
                "-" if (found := flag(of.cell, name)) is None else share(found.yes, found.known)
            ),
        )
        for name, heading in {
            "completed": "completed", "attempted": "attempted", "strict_compliance": "strict",
            "restored": "restored", "inferred": "inferred",
        }.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("long", [True, False])
@given(st.lists(cells(), max_size=3))
def test_a_table_has_what_was_asked_for_and_what_a_cell_says(
    wide: bool, long: bool, drawn: list[Cell]
) -> None:
    of = [show(cell) for cell in drawn]
    wanted = [
        heading
        for heading, (when, text) in TABLE.items()
        if when == "always"
        or (when == "wide" and (wide or long))
        or (when == "long" and long)
        or (when == "said" and any(map(text, of)))
    ]
    found = table_columns(of, wide=wide, long=long)
    assert [column.heading for column in found] == wanted
    for column in found:
        for each in of:
            assert column.said(each) == TABLE[column.heading][1](each), column.heading


@given(cells())
def test_a_rate_says_what_may_be_said_of_it(cell: Cell) -> None:
    of = show(cell)
    assert (marks(of), rate_text(of)) == (plain_marks(cell), plain_rate(of))
    assert of.wide is plain_wide(of)


def test_the_page_has_the_yes_or_no_columns_that_are_marked_for_it() -> None:
    assert [name for name, _ in page_flags()] == [
        n for n, where in FLAGS.items() if "page" in where
    ]


@pytest.mark.parametrize(
    ("where", "when"),
    [(("table",), "always"), (("long",), "long"), (("table", "long"), "always"),
     (("long", "page"), "long"), (("page",), "never"), ((), "never")],
)  # fmt: skip
def test_a_yes_or_no_column_stands_where_it_is_marked_for(where: Any, when: str) -> None:
    yes, known = _flag("new", Counted("New", where))
    assert (yes.name, yes.heading, yes.when) == ("new", "New", when)
    assert (known.name, known.heading, known.when) == ("new_known", "", "never")
    of = show(Cell("m", "E", "run", 1, 8, flags=(Flag("new", 1, 4),)))
    assert (yes.value(of), known.value(of), yes.said(of)) == (1, 4, "25%")


def plain_notes(of: list[ShownCell]) -> list[list[str]]:
    """Of each line that has to stand there: its first word and the numbers and names in it."""
    found: list[list[str]] = []
    found += [["!"]] if any(quiet(each.cell) for each in of) else []
    found += [["="]] if any(each.cell.replayed for each in of) else []
    stopped = [each for each in of if each.interval.kind == "anytime" and not each.cell.unfinished]
    found += [["*"]] if stopped else []
    unfinished = sum(each.cell.unfinished for each in of)
    found += [["unfinished:", f" {unfinished} "]] if unfinished else []
    reasons = [each.interval.note for each in of if each.interval.kind == "none"]
    for reason in dict.fromkeys(reasons):
        found += [["no interval:", reason]] if reason and reason != "unfinished" else []
    inferred = sum(flags.yes for each in of if (flags := flag(each.cell, "inferred")))
    found += [["~", f" {inferred} "]] if inferred else []
    found += [["no rate"]] if any(each.cell.unknown for each in of) else []
    found += [["bounds:"]] if any(map(bounds_text, of)) else []
    for each in of:
        cell = each.cell
        if 50 * cell.retried > cell.n + cell.retried:
            low, high = map(pc, retried_bounds(cell))
            found.append([f"{cell.model} {cell.condition}:", f" {cell.retried} ", low, high])
    for model in dict.fromkeys(each.cell.model for each in of):
        lost = sum(each.cell.parser_loss or 0 for each in of if each.cell.model == model)
        found += [[f"{model}:", f" {lost} "]] if lost else []
    return found


@given(st.lists(cells(), max_size=4))
def test_lines_under_a_table_say_what_holds_of_its_cells_and_nothing_else(
    drawn: list[Cell],
) -> None:
    of = [show(cell) for cell in drawn]
    lines, wanted = list(notes(of)), plain_notes(of)
    assert len(lines) == len(wanted), lines
    for line, (begins, *parts) in zip(lines, wanted, strict=True):
        assert line.startswith(begins)
        for part in parts:
            assert part in line[len(begins) :]


@pytest.mark.parametrize(("retried", "stands"), [(4, False), (5, True)])
def test_plays_that_were_retried_are_a_share_of_all_plays(retried: int, stands: bool) -> None:
    """More than 2%: 4 of 204 are 1.96%, and 5 of 205 are 2.44%."""
    of = show(Cell("m", "E", "run", 2, 200, retried=retried))
    assert bool(list(notes([of]))) is stands
