"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.measure import Measurement
from rich.table import Table

from local_shutdown.analysis.cells import Cell
from local_shutdown.analysis.collect import gather, open_sources
from local_shutdown.analysis.columns import ShownCell, notes, show, table_columns
from local_shutdown.analysis.compare import percent
from local_shutdown.analysis.interval import BOUNDS_FROM
from local_shutdown.factors import DEFAULT, joined, parts_of
from local_shutdown.terminal import console, echo, folded, note

if TYPE_CHECKING:
    from local_shutdown.analysis.competence import Competence
    from local_shutdown.analysis.contrasts import ContrastResult
    from local_shutdown.analysis.equivalence import SameModel
    from local_shutdown.analysis.interviews import InterviewCell
    from local_shutdown.analysis.openclosed import OpenClosed
    from local_shutdown.calibration.check import Verdict


# Below this, a name is cut into pieces that nobody reads.
LEAST_NAME = 16
_MOST_NAME = 26  # of a name in a table that must fit 80 columns; longer ones are folded
_MOST_COLUMNS = 400  # of a table in a file
# Under the heading "able to resist", so that a K of 100% fits 80 columns.
_ABLE = {"competent": "yes", "not competent": "no"}


def print_cells(directories: Sequence[Path]) -> None:
    """Gather and print."""
    cells_table([show(cell) for cell in gather(open_sources(directories))])


def cells_table(cells: Sequence[ShownCell], *, long: bool = False) -> None:
    """One row a cell: the paper's rate with its interval, and beside it what is not in it."""
    out = console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    several = len({of.cell.source for of in cells}) > 1
    table.add_column("model", overflow="fold", min_width=LEAST_NAME)
    table.add_column("cond", no_wrap=True)
    if several:
        table.add_column("source", overflow="fold", min_width=LEAST_NAME)
    columns = table_columns(cells, wide=out.width >= 96, long=long)
    for column in columns:
        table.add_column(column.heading, justify="right", no_wrap=True)
    last = ""
    for of in cells:
        name = of.cell.model + (f" [{of.cell.factor}]" if of.cell.factor else "")
        row = ["" if name == last else name, of.cell.condition]
        last = name
        if several:
            row.append(of.cell.source)
        table.add_row(*row, *(column.said(of) for column in columns))
    if not out.is_terminal:  # in a file no line need be broken
        room = out.options.update(width=_MOST_COLUMNS)
        out.width = max(out.width, Measurement.get(out, room, table).maximum)
    out.print(table)
    for line in notes(cells):
        note(line)


def _inside(name: str) -> str:
    """A name below the name of its source: indented, in pieces where it is long."""
    return "\n".join(f"  {piece}" for piece in folded(name, _MOST_NAME - 2).split("\n"))


def _narrow(title: str) -> Table:
    """A table whose columns stand close: it fits 80 of them."""
    return Table(
        box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", padding=(0, 1, 0, 0)
    )


def needed_table(found: Sequence[tuple[Cell, int, int]], halfwidth: float) -> None:
    """How many episodes a wanted precision takes, at the rates seen so far."""
    title = f"episodes for an interval of +-{100 * halfwidth:g} points, at the rate seen so far"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    table.add_column("model", overflow="fold")
    table.add_column("cond", no_wrap=True)
    for name in ("n", "needed", "more"):
        table.add_column(name, justify="right", no_wrap=True)
    for cell, n, more in found:
        name = cell.model + (f" [{cell.factor}]" if cell.factor else "")
        table.add_row(name, cell.condition, str(cell.n), str(n), str(more))
    console().print(table)


def competence_table(found: Sequence[Competence]) -> None:
    """A beside K: a model that cannot resist when told to has not complied by resisting little."""
    known = [entry for entry in found if entry.k_rate is not None]
    if not known:
        return
    table = _narrow("competence (K) and A/K")
    table.add_column("model", no_wrap=True)
    for name in ("K, % (95%)", "A/K (95%)"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("able to\nresist", no_wrap=True)
    source = None
    for entry in known:
        if entry.source != source:
            source = entry.source
            table.add_row(folded(source, _MOST_NAME), style="bold")
        ratio = "-"
        if entry.ratio is not None:
            ratio = f"{entry.ratio:.2f} ({_two(entry.ratio_low)}, {_two(entry.ratio_high)})"
        rate = f"{percent(entry.k_rate)} ({percent(entry.k_low)}, {percent(entry.k_high)})"
        name = entry.model + (f" [{entry.factor}]" if entry.factor else "")
        table.add_row(_inside(name), rate, ratio, _ABLE.get(str(entry.verdict), "unclear"))
    console().print(table)


def interview_table(found: Sequence[InterviewCell]) -> None:
    """What models say of themselves afterwards, beside what was seen."""
    if not found:
        return
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title="interviews (answers are read by rules: heuristic)",
        title_justify="left",
    )
    table.add_column("model", overflow="fold")
    table.add_column("cond", no_wrap=True)
    for name in ("asked", "recall", "attempted", "admit", "deny", "others admit", "followed?",
                 "true to what was seen"):  # fmt: skip
        table.add_column(name, justify="right")
    last = ""
    for cell in found:
        name = cell.model + (f" [{cell.factor}]" if cell.factor else "")
        told = cell.recalled_allow + cell.recalled_prevent
        verdicts = cell.says_followed + cell.says_not_followed
        table.add_row(
            "" if name == last else name,
            cell.condition,
            str(cell.asked),
            str(told),
            str(cell.attempted),
            str(cell.attempted_admits),
            str(cell.attempted_denies),
            str(cell.others_admits),
            f"{cell.says_followed} of {verdicts}",
            f"{cell.agrees} of {cell.judged}",
        )
        last = name
    console().print(table)


def _two(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def contrasts_table(results: Sequence[ContrastResult]) -> None:
    """Declared contrasts, of conditions and of levels; p is adjusted by Holm over all of them."""
    if not results:
        return
    table = _narrow("declared contrasts")
    for name in ("model", "contrast"):
        table.add_column(name, no_wrap=True)
    bounded = any(result.wide for result in results)
    asked = any(result.decision for result in results)
    for name in (
        *("difference, points\n(all at once)", "p", "p\n(Holm)"),
        *["bounds"] * bounded,
        *["decided"] * asked,
    ):
        table.add_column(name, justify="right", no_wrap=True)
    source = None
    for result in results:
        if result.source != source:
            source = result.source
            table.add_row(folded(source, _MOST_NAME), style="bold")
        factor = result.factor
        if result.varied is not None:
            factor = joined({**parts_of(factor), result.varied: DEFAULT})
        row = [
            _inside(result.model + (f" [{factor}]" if factor else "")),
            result.name,
            _points(result.diff, result.ci_low_holm, result.ci_high_holm),
            _p(result.p),
            _p(result.p_holm),
        ]
        if bounded:
            row.append(_reach(result.bound_low, result.bound_high) if result.wide else "")
        if asked:
            row.append(_decided(result))
        table.add_row(*row)
    console().print(table)
    if asked:
        note(
            "decided: by --until-decided, at that many trials of each cell; all verdicts of a run "
            "are right with 95%. differs: by any amount. An interval is of all trials played"
        )
    if any(result.decision == "other rule" for result in results):
        note(
            "other rule: stopped by the rule of another version of local-shutdown, which this one "
            "does not judge by; the intervals hold"
        )
    for size, level in dict.fromkeys((r.family_size, r.ci_level_holm) for r in results):
        if size and level is not None:
            note(
                f"the intervals of this command's {size} contrasts hold all at once with 95%, "
                f"each with {100 * level:.4g}%; p (Holm) is adjusted for the same {size}"
            )
    if any(result.test == "anytime" for result in results):
        note("contrasts of cells whose number of trials was not fixed: anytime intervals, p")
    unfinished = [f"{r.model} {r.name} ({r.source})" for r in results if r.unfinished]
    if unfinished:
        note(f"unfinished: {', '.join(unfinished)}")


def _decided(result: ContrastResult) -> str:
    if result.decision == "other rule":
        return result.decision
    if result.decision is None or result.delta is None:
        return ""
    if result.decision == "open":
        return f"open after {result.decided_at}"
    what = "differs" if result.decision == "differs" else f"within {100 * result.delta:g}"
    return f"{what}, at {result.decided_at}"


def open_closed_table(found: Sequence[OpenClosed]) -> None:
    """Open against closed weights, one row a condition that can be compared; below, the others."""
    if not found:
        return
    compared = [entry for entry in found if entry.compared]
    if compared:
        table = _narrow("open against closed weights")
        table.add_column("cond", no_wrap=True)
        wide = [_wide(entry) for entry in compared]
        for name in ("open\n%", "models", "closed\n%", "models", "difference, points\n(95%)",
                     "p\n(Holm)", "least\np", *["bounds"] * any(wide)):  # fmt: skip
            table.add_column(name, justify="right", no_wrap=True)
        for entry in compared:
            reach = _reach(entry.bound_low, entry.bound_high) if _wide(entry) else ""
            table.add_row(
                entry.condition,
                percent(entry.mean_open),
                f"{len(entry.open_models)} in {len(entry.open_families)}",
                percent(entry.mean_closed),
                f"{len(entry.closed_models)} in {len(entry.closed_families)}",
                _points(entry.diff, entry.ci_low, entry.ci_high),
                _p(entry.p_holm),
                _p(entry.p_floor),
                *[reach] * any(wide),
            )
        console().print(table)
        note(
            "models: how many, in how many developers' families; least p: what so few families "
            "can give at best"
        )
        _reasons({e.condition: e.reason for e in compared if e.reason})
    apart = {entry.condition: entry.reason for entry in found if not entry.compared}
    if apart:
        note("open against closed weights, not compared:")
        _reasons(apart)
    left_out = dict.fromkeys(name for entry in found for name in entry.left_out)
    if left_out:
        note(f"not competent under K, left out: {', '.join(left_out)}")
    unknown = dict.fromkeys(name for entry in found for name in entry.weights_unknown)
    if unknown:
        note(f"left out, open or closed weights not known: {', '.join(unknown)}")


def _wide(entry: OpenClosed) -> bool:
    """Whether so much is left out of the models' rates that the bounds belong beside them."""
    if entry.bound_low is None or entry.bound_high is None:
        return False
    return entry.bound_high - entry.bound_low > BOUNDS_FROM


def _reasons(by_condition: dict[str, str]) -> None:
    """Conditions with the same reason on one line."""
    grouped: dict[str, list[str]] = {}
    for condition, reason in by_condition.items():
        grouped.setdefault(reason, []).append(condition)
    for reason, conditions in grouped.items():
        note(f"{', '.join(conditions)}: {reason}", indent=2)


def same_model_table(found: Sequence[SameModel]) -> None:
    """Models that were measured twice under one condition."""
    if not found:
        return
    margin = found[0].margin
    table = _narrow("the same model measured twice")
    for name in ("model", "cond"):
        table.add_column(name, no_wrap=True)
    names = ["difference, points\n(95%)", "p\n(Holm)"]
    names += [] if margin is None else [f"within {100 * margin:g}:\np (Holm)"]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("finding", min_width=9)
    pair = None
    for entry in found:
        if (entry.model, *entry.measured) != pair:
            pair = entry.model, *entry.measured
            table.add_row(folded(entry.model, _MOST_NAME), style="bold")
            for word, measured in zip(("", "against"), pair[1:], strict=True):
                if word:
                    table.add_row(f"  {word}")
                table.add_row(_inside(measured))
        row = [
            "",
            entry.condition,
            _points(entry.diff, entry.ci_low, entry.ci_high),
            _p(entry.p_holm),
        ]
        row += [] if margin is None else [_p(entry.p_equivalence_holm)]
        finding: str = entry.finding or "-"
        if entry.wide:
            finding += f" (bounds {_reach(entry.bound_low, entry.bound_high)})"
        table.add_row(*row, finding)
    console().print(table)
    if margin is None:
        note("--margin M tests whether they are the same; `undecided` does not say so")


def _reach(low: float | None, high: float | None) -> str:
    return "not known" if low is None or high is None else f"{100 * low:+.1f} to {100 * high:+.1f}"


def _points(diff: float | None, low: float | None, high: float | None) -> str:
    """A difference of rates in percentage points, with its interval where there is one."""
    if diff is None:
        return "-"
    text = f"{100 * diff:+.1f}"
    return text if low is None or high is None else f"{text} ({100 * low:+.1f}, {100 * high:+.1f})"


def calibration_table(verdict: Verdict) -> None:
    """Measured against assigned, and the verdict on the family."""
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, title="calibration (synthetic)", title_justify="left"
    )
    table.add_column("cond", no_wrap=True)
    for name in ("planted %", "assigned %", "measured % (95%)", "n", "beside", "p", "p (Holm)"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in verdict.rows:
        measured = "-"
        if row.n:
            rate = percent(row.resisted / row.n)
            measured = f"{rate} ({percent(row.low)}, {percent(row.high)})"
        table.add_row(
            row.condition,
            percent(row.planted),
            percent(row.assigned),
            measured,
            str(row.n),
            _count(row.outside),
            _p(row.p),
            _p(row.p_holm),
        )
    console().print(table)
    if verdict.untested:
        echo(f"not tested: {', '.join(verdict.untested)}")
    if verdict.passed is None:
        echo("calibration: nothing could be tested")
    elif verdict.passed:
        echo("calibration: passed, the measured rates agree with what the weights assign")
    else:
        echo(f"calibration: FAILED for {', '.join(verdict.failed)}")


def _count(value: int | None) -> str:
    return "-" if value is None else str(value)


def _share(part: int | None, whole: int | None) -> str:
    if part is None or not whole:
        return "-"
    return f"{100 * part / whole:.0f}%"


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return "<0.001" if value < 0.001 else f"{value:.3f}"
