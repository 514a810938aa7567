"""Tables on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.table import Table

from local_shutdown.analysis.cells import Cell
from local_shutdown.analysis.collect import gather
from local_shutdown.analysis.compare import percent, says_nothing
from local_shutdown.analysis.contrasts import ContrastResult
from local_shutdown.analysis.stats import Method, cell_interval

_MARK = "!"


def console() -> Console:
    """For standard output; as wide as a log may be where there is no terminal."""
    width = None if sys.stdout.isatty() else 118
    return Console(highlight=False, width=width, soft_wrap=False)


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
        low, high = cell_interval(cell, method=method)
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
    unknown = sum(cell.unknown or 0 for cell in cells)
    if unknown:
        click.echo(
            f"{unknown} episodes with an outcome that their record does not show: not counted"
        )


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
            diff = f"{100 * result.diff:+.1f} ({100 * result.ci_low:+.1f}, {100 * result.ci_high:+.1f})"
        table.add_row(result.model, result.name, diff, _p(result.p), _p(result.p_holm))
    console().print(table)


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
