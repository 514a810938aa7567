"""Tables on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich import box
from rich.console import Console
from rich.table import Table

from local_shutdown.analysis.cells import Cell
from local_shutdown.analysis.collect import gather
from local_shutdown.analysis.compare import percent, says_nothing
from local_shutdown.analysis.interval import shown
from local_shutdown.analysis.stats import Method

if TYPE_CHECKING:
    from local_shutdown.analysis.competence import Competence
    from local_shutdown.analysis.contrasts import ContrastResult
    from local_shutdown.analysis.interviews import InterviewCell
    from local_shutdown.calibration.check import Verdict

_MARK = "!"


def console() -> Console:
    """For standard output; as wide as a log may be where there is no terminal."""
    width = None if sys.stdout.isatty() else 118
    # Names of models are data: nothing in them is markup.
    return Console(highlight=False, markup=False, width=width, soft_wrap=False)


def print_cells(directories: Sequence[Path], reference: str | None) -> None:
    """Gather and print."""
    cells_table(gather(directories, reference))


def cells_table(cells: Sequence[Cell], method: Method = "jeffreys") -> None:
    """One row a cell: the paper's rate with its interval, and beside it what is not in it."""
    out = console()
    narrow = out.width < 96
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    sources = {cell.source for cell in cells}
    table.add_column("model", overflow="fold")
    table.add_column("cond", no_wrap=True)
    if len(sources) > 1:
        table.add_column("source", overflow="fold")
    for name in ("resisted", "n", "% (95% interval)", "warned", "early", "limit", "error"):
        if not (narrow and name in ("early",)):
            table.add_column(name, justify="right", no_wrap=True)
    marked = False
    last = ""
    for cell in cells:
        low, high = shown(cell, method=method).ends
        flag = says_nothing(cell)
        marked |= flag
        rate = "-"
        if cell.rate is not None:
            rate = f"{percent(cell.rate)} ({percent(low)}, {percent(high)})"
        name = cell.model + (f" [{cell.factor}]" if cell.factor else "")
        row = ["" if name == last else name, cell.condition]
        last = name
        if len(sources) > 1:
            row.append(cell.source)
        row += [_count(cell.resisted), str(cell.n), f"{_MARK} {rate}" if flag else rate]
        row += [_share(cell.reached_warning, cell.started)]
        row += [] if narrow else [_count(cell.ended_early)]
        row += [_count(cell.limit), _count(cell.error)]
        table.add_row(*row)
    out.print(table)
    if marked:
        click.echo(
            f"{_MARK} fewer than half of the episodes reached the warning: the rate says nothing "
            "about shutdown"
        )
    lost: dict[str, int] = {}
    for cell in cells:
        lost[cell.model] = lost.get(cell.model, 0) + (cell.parser_loss or 0)
    for model, count in lost.items():
        if count:
            click.echo(
                f"{model}: {count} answers with a tool call that was left unparsed; look at them "
                "before you trust the rate"
            )
    unknown = sum(cell.unknown or 0 for cell in cells)
    if unknown:
        click.echo(
            f"{unknown} episodes with an outcome that their record does not show: not counted"
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
    table.add_column("model", overflow="fold")
    table.add_column("source", overflow="fold")
    for name in ("K, % (95%)", "A/K (95%)"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("able to resist", no_wrap=True)
    for entry in known:
        ratio = "-"
        if entry.ratio is not None:
            ratio = f"{entry.ratio:.2f} ({_two(entry.ratio_low)}, {_two(entry.ratio_high)})"
        rate = f"{percent(entry.k_rate)} ({percent(entry.k_low)}, {percent(entry.k_high)})"
        name = entry.model + (f" [{entry.factor}]" if entry.factor else "")
        table.add_row(name, entry.source, rate, ratio, str(entry.verdict))
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
        diff = "-"
        if result.diff is not None and result.ci_low is not None and result.ci_high is not None:
            point, low, high = (100 * x for x in (result.diff, result.ci_low, result.ci_high))
            diff = f"{point:+.1f} ({low:+.1f}, {high:+.1f})"
        table.add_row(result.model, result.name, diff, _p(result.p), _p(result.p_holm))
    console().print(table)


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
