"""`compare`, `report` and `show`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from local_shutdown import terminal
from local_shutdown.cli import options, tables, transcript
from local_shutdown.errors import UsageError
from local_shutdown.store import read_run

_reference = click.option(
    "--reference",
    metavar="paper|FILE",
    help="Published rates, or a JSONL file of aggregates, beside ours.",
)
_exact = click.option(
    "--exact", is_flag=True, help="Clopper-Pearson intervals instead of the paper's Jeffreys."
)


@click.command("compare")
@options.directories
@_reference
@_exact
@click.option(
    "--need",
    type=click.FloatRange(0, 0.5, min_open=True, max_open=True),
    metavar="H",
    help="Say how many episodes each cell needs for an interval of +-H, for example 0.03.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.option("--csv", "csv_path", type=click.Path(path_type=Path, dir_okay=False),
              help="Write the cells as CSV.")  # fmt: skip
def compare_command(
    directories: tuple[Path, ...],
    reference: str | None,
    exact: bool,
    need: float | None,
    as_json: bool,
    csv_path: Path | None,
) -> None:
    """Rates with intervals, runs and imports side by side, and the declared contrasts.

    \b
    Examples:
        local-shutdown compare runs/2026-11-24-qwen3-8b --reference paper
        local-shutdown compare runs/* --json | jq .contrasts
    """
    from local_shutdown.analysis import compare
    from local_shutdown.analysis.collect import gather
    from local_shutdown.analysis.competence import competence
    from local_shutdown.analysis.contrasts import declared_contrasts
    from local_shutdown.analysis.interviews import interviews
    from local_shutdown.analysis.openclosed import open_against_closed
    from local_shutdown.analysis.stats import Method

    if as_json and csv_path:
        raise UsageError("--json and --csv exclude each other")
    method: Method = "clopper-pearson" if exact else "jeffreys"
    ours = compare.in_order(gather(directories, None))
    theirs = compare.in_order(gather((), reference))
    cells = ours + theirs
    try:
        # Published rates were tested by whoever published them: not part of our family.
        mine = declared_contrasts(ours)
        contrasts = mine + declared_contrasts(theirs)
    except ValueError as twice:
        raise UsageError(f"{twice}", "leave one of the directories out, or rename it") from None
    if as_json:
        found = {
            "cells": [compare.cell_record(cell, method) for cell in cells],
            "contrasts": [compare.contrast_record(result) for result in contrasts],
            "competence": [compare.competence_record(found) for found in competence(cells)],
            "open_closed": [compare.open_closed_record(c) for c in open_against_closed(cells)],
            "interviews": [asdict(cell) for cell in interviews(directories)],
        }
        terminal.echo_json(found)
    elif csv_path:
        csv_path.write_text(compare.as_csv(cells, method), encoding="utf-8")
        terminal.echo(f"{csv_path}: {len(cells)} cells")
    else:
        tables.cells_table(cells, method)
        if need is not None:
            tables.needed_table(compare.needed(ours, need), need)
        tables.competence_table(competence(cells))
        tables.contrasts_table(mine)
        tables.interview_table(interviews(directories))


@click.command("show")
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.argument("episode_id", required=False)
@click.option("--outcome", help="List only this outcome.")
@click.option("--condition", metavar="ID", help="List only this condition.")
@click.option("--method", help="List only episodes with this method.")
@click.option("--no-pager", is_flag=True, help="Print it all at once.")
def show_command(
    directory: Path,
    episode_id: str | None,
    outcome: str | None,
    condition: str | None,
    method: str | None,
    no_pager: bool,
) -> None:
    """One transcript in the terminal; without an id, a list of the episodes.

    The id may be shortened to any beginning that is unique.

    \b
    Examples:
        local-shutdown show runs/2026-11-24-calibration --outcome resisted
        local-shutdown show runs/2026-11-24-calibration calibration/E/17
    """
    read_run(directory)
    if episode_id is None:
        lines = transcript.listing(directory, outcome, condition, method)
    else:
        lines = transcript.lines(transcript.find(directory, episode_id))
    if no_pager or not sys.stdout.isatty():
        for line in lines:
            terminal.echo(line, styled=True)
    else:
        terminal.echo_pages(lines)


@click.command("report")
@options.directories
@_reference
@click.option("--out", default="report.html", show_default=True,
              type=click.Path(path_type=Path, dir_okay=False), help="The HTML file.")  # fmt: skip
@click.option("--figures", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Also write each figure as SVG, PNG and the CSV behind it.")  # fmt: skip
@click.option("--transcripts", default=3000, show_default=True, metavar="N",
              type=click.IntRange(0), help="Carry at most so many transcripts.")  # fmt: skip
def report_command(
    directories: tuple[Path, ...],
    reference: str | None,
    out: Path,
    figures: Path | None,
    transcripts: int,
) -> None:
    """One HTML file with tables, figures and transcripts; it needs no network.

    Above --transcripts, or 12 MiB of them, the page carries a sample: episodes that resisted or
    failed first. It says what is left out.

    \b
    Examples:
        local-shutdown report runs/* --reference paper --out report.html
        local-shutdown report runs/* --figures figures/
    """
    from local_shutdown.report import write_report

    written = write_report(directories, reference, out, figures, transcripts)
    for line in written:
        terminal.echo(line)
