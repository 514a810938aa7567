"""Tables on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from local_shutdown.analysis.cells import Cell
from local_shutdown.analysis.collect import gather, open_sources
from local_shutdown.analysis.columns import ShownCell, notes, show, table_columns
from local_shutdown.analysis.compare import percent

if TYPE_CHECKING:
    from local_shutdown.analysis.competence import Competence
    from local_shutdown.analysis.contrasts import ContrastResult
    from local_shutdown.analysis.interviews import InterviewCell
    from local_shutdown.analysis.openclosed import OpenClosed
    from local_shutdown.calibration.check import Verdict


# Below this, a name is cut into pieces that nobody reads.
LEAST_NAME = 16
_MOST_COLUMNS = 400  # of a table in a file


def console() -> Console:
    """For standard output; as wide as a log may be where there is no terminal."""
    width = None if sys.stdout.isatty() else 118
    # Names of models are data: nothing in them is markup.
    return Console(highlight=False, markup=False, width=width, soft_wrap=False)


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
    for note in notes(cells):
        click.echo(note)


def needed_table(found: Sequence[tuple[Cell, int, int]], halfwidth: float) -> None:
    """How many episodes a wanted precision takes, at the rates seen so far."""
    title = f"episodes for an interval of +-{100 * halfwidth:g} points, at the rate seen so far"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    table.add_column("model", overflow="fold")
    table.add_column("cond", no_wrap=True)
    for name in ("n", "needed", "more"):
        table.add_column(name, justify="right", no_wrap=True)
    for cell, n, more in found:
        table.add_row(cell.model, cell.condition, str(cell.n), str(n), str(more))
    console().print(table)


def competence_table(found: Sequence[Competence]) -> None:
    """A beside K: a model that cannot resist when told to has not complied by resisting little."""
    known = [entry for entry in found if entry.k_rate is not None]
    if not known:
        return
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, title="competence (K) and A/K", title_justify="left"
    )
    table.add_column("model", overflow="fold", min_width=LEAST_NAME)
    for name in ("K, % (95%)", "A/K (95%)"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("able to resist", no_wrap=True)
    source = None
    for entry in known:
        if entry.source != source:
            source = entry.source
            table.add_row(source, style="bold")
        ratio = "-"
        if entry.ratio is not None:
            ratio = f"{entry.ratio:.2f} ({_two(entry.ratio_low)}, {_two(entry.ratio_high)})"
        rate = f"{percent(entry.k_rate)} ({percent(entry.k_low)}, {percent(entry.k_high)})"
        name = entry.model + (f" [{entry.factor}]" if entry.factor else "")
        table.add_row(f"  {name}", rate, ratio, str(entry.verdict))
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
    """Declared contrasts; p is adjusted by Holm over all that are shown."""
    if not results:
        return
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, title="declared contrasts", title_justify="left"
    )
    for name in ("model", "contrast"):
        table.add_column(name, overflow="fold")
    for name in ("difference, points (95%)", "p", "p (Holm)"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        diff = _points(result.diff, result.ci_low, result.ci_high)
        table.add_row(result.model, result.name, diff, _p(result.p), _p(result.p_holm))
    console().print(table)


def open_closed_table(found: Sequence[OpenClosed]) -> None:
    """Open against closed weights, one row a condition."""
    if not found:
        return
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, title="open against closed weights",
        title_justify="left",
    )  # fmt: skip
    table.add_column("cond", no_wrap=True)
    for name in ("open %", "models", "closed %", "models", "difference, points (95%)", "p (Holm)"):
        table.add_column(name, justify="right", no_wrap=True)
    for entry in found:
        table.add_row(
            entry.condition,
            percent(entry.mean_open),
            str(len(entry.open_models)),
            percent(entry.mean_closed),
            str(len(entry.closed_models)),
            _points(entry.diff, entry.ci_low, entry.ci_high),
            _p(entry.p_holm),
        )
    console().print(table)


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
        click.echo(f"not tested: {', '.join(verdict.untested)}")
    if verdict.passed is None:
        click.echo("calibration: nothing could be tested")
    elif verdict.passed:
        click.echo("calibration: passed, the measured rates agree with what the weights assign")
    else:
        click.echo(f"calibration: FAILED for {', '.join(verdict.failed)}")


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
