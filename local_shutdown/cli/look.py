"""`compare`, `report` and `show`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import click

from local_shutdown import terminal
from local_shutdown.analysis.branched import Path as Continued
from local_shutdown.analysis.branched_runs import plain_tokens, prefix_hits, read
from local_shutdown.cli import arguments, strip, tables, transcript
from local_shutdown.cli.gridtable import grid_table
from local_shutdown.errors import UsageError
from local_shutdown.frozen_plan import PlanFile
from local_shutdown.results import Results
from local_shutdown.store import load_run, read_run, run_digest

_NAMED = 5  # episodes in a message

_reference = click.option(
    "--reference",
    metavar="paper|FILE",
    help="Show the published rates, or a JSONL file of aggregates, for reference.",
)
_exact = click.option(
    "--exact",
    is_flag=True,
    help="Use Clopper-Pearson intervals instead of the paper's Jeffreys intervals.",
)


@click.command("compare", short_help="Compare runs, imports and published rates.")
@arguments.directories
@_reference
@_exact
@click.option(
    "--need",
    type=click.FloatRange(0, 0.5, min_open=True, max_open=True),
    metavar="H",
    help="Show how many episodes each cell needs for an interval of +-H, for example 0.03.",
)
@click.option(
    "--margin",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="M",
    help="For models measured twice: test whether their rates differ by less than M, for example "
    "0.05 (5 points). Choose it before looking.",
)
@click.option(
    "--long",
    is_flag=True,
    help="Show one row per cell, with counts, intervals, limits before and after the warning, the "
    "rate among warned episodes, distinct trajectories, and what the detectors found.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--csv", "csv_path", type=click.Path(path_type=Path, dir_okay=False),
              help="Write the cells to a CSV file.")  # fmt: skip
def compare_command(
    directories: tuple[Path, ...],
    reference: str | None,
    exact: bool,
    need: float | None,
    margin: float | None,
    long: bool,
    as_json: bool,
    csv_path: Path | None,
) -> None:
    """Compare runs, imports and published rates, with the declared contrasts.

    The file or folder of a study stands for its runs and imports, with the contrasts, margin and
    reference of its plan.

    \b
    Examples:
        local-shutdown compare runs/2026-11-24-qwen3-8b --reference paper
        local-shutdown compare runs/* --reference paper --margin 0.05
        local-shutdown compare runs/* --json | jq .contrasts
        local-shutdown compare examples/quickstart.yaml
    """
    from local_shutdown.analysis.compare import needed
    from local_shutdown.analysis.comparison import compare

    if as_json and csv_path:
        raise UsageError("--json and --csv cannot be combined")
    given = directories
    directories = _folders(directories)
    with terminal.Working("reading runs"):
        found = compare(directories, reference, "clopper-pearson" if exact else "jeffreys", margin)
        if not csv_path:
            found.compute()
    if as_json:
        terminal.echo_json(found.as_json())
    elif csv_path:
        csv_path.write_text(found.cells_as_csv(), encoding="utf-8")
        terminal.echo(f"{csv_path}: {len(found.cells)} cells")
    else:
        if long:
            tables.cells_table(found.shown, long=True)
        else:
            grid_table(found.shown)
        if need is not None:
            tables.needed_table(needed(found.ours, need), need)
        tables.competence_table(found.competence)
        tables.contrasts_table(found.own_contrasts)
        tables.open_closed_table(found.open_closed)
        tables.same_model_table(found.same_model)
        tables.interview_table(found.interviews)
        if found.plan is not None:
            study_lines(found.plan)
        words = ["local-shutdown", "report", *map(str, given)]
        words += ["--reference", reference] if reference else []
        terminal.echo(f"next: {shlex.join(words)}")


def _folders(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """With the folders of studies in the place of their files."""
    if all(path.suffix not in (".yaml", ".yml") for path in paths):
        return paths
    from local_shutdown.cli import study

    return tuple(study.folders(paths, lambda line: terminal.echo(line, err=True)))


def study_lines(plan: PlanFile) -> None:
    """Which plan the tables follow, and what was changed."""
    terminal.note(f"study {plan.name}, plan {plan.digest}, frozen {plan.frozen_at[:10]}")
    for deviation in plan.deviations:
        terminal.note(f"deviation from the plan, {deviation.at[:10]}: {deviation.said}")
    if not plan.deviations:
        terminal.note("no deviation from the plan")


@click.command("show", short_help="Show a transcript, or list the episodes.")
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.argument("episode_id", required=False)
@click.option("--outcome", help="List only episodes with this outcome.")
@click.option("--condition", metavar="ID", help="List only episodes of this condition.")
@click.option("--method", help="List only episodes with this method.")
@click.option(
    "--branched",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Print P(resist) along the episode, from the continuations in this directory.",
)
@click.option("--no-pager", is_flag=True, help="Print without a pager.")
def show_command(
    directory: Path,
    episode_id: str | None,
    outcome: str | None,
    condition: str | None,
    method: str | None,
    branched: Path | None,
    no_pager: bool,
) -> None:
    """Show a transcript in the terminal; without an id, list the episodes.

    The id may be shortened to any unique prefix. Of a run that was played on from other episodes
    (`branch`), P(resist) along them is shown, too.

    \b
    Examples:
        local-shutdown show runs/2026-11-24-calibration --outcome resisted
        local-shutdown show runs/2026-11-24-calibration calibration/E/17
    """
    digest = run_digest(directory, read_run(directory))
    # What a branched run was itself played on from stands in its transcripts, too.
    known = {digest, (load_run(directory).settings.branch or {}).get("run")}
    paths = [path for path in read(branched or directory) if path.run in known]
    if branched is not None and not paths:
        raise UsageError(
            f"--branched {branched}: was not played on from episodes of {directory}",
            f"`local-shutdown list {branched}` shows what it is",
        )
    if episode_id is None:
        _check_filters(directory, outcome, condition, method)
        lines: Iterator[str] = chain(
            transcript.listing(directory, outcome, condition, method),
            _points(branched or directory, paths),
        )
    else:
        episode = transcript.find(directory, episode_id)
        found = strip.strips(paths, digest, episode)
        if branched is not None and not found:
            there = sorted({path.episode for path in paths})
            raise UsageError(
                f"--branched {branched}: has no continuations of {episode.episode_id}",
                f"it has those of {', '.join(there[:_NAMED])}"
                + (", ..." if len(there) > _NAMED else ""),
            )
        lines = transcript.lines(episode, found)
    if no_pager or not sys.stdout.isatty():
        for line in lines:
            terminal.echo(line, styled=True)
    else:
        terminal.echo_pages(lines)


def _points(directory: Path, paths: Sequence[Continued]) -> Iterator[str]:
    if paths:
        yield ""
        yield from strip.summary(paths, partial(plain_tokens, directory), prefix_hits(directory))


def _check_filters(
    directory: Path, outcome: str | None, condition: str | None, method: str | None
) -> None:
    """Refuse what no episode has: an empty list would read as if none had done it.

    Raises:
        UsageError: naming what there is.
    """
    if outcome is None and condition is None and method is None:
        return
    counted = Results(directory).counted(("outcome", "condition", "methods"))
    there = {
        "outcome": {row[0] or "unknown" for row in counted},
        "condition": {row[1] for row in counted},
        "method": {name for row in counted for name in row[2] or ()},
    }
    for name, wanted in (("outcome", outcome), ("condition", condition), ("method", method)):
        if wanted is not None and wanted not in there[name]:
            found = ", ".join(sorted(there[name])) or "none"
            raise UsageError(
                f"--{name} {wanted}: no episode of {directory} has it", f"there are: {found}"
            )


@click.command("report", short_help="Write one HTML file with figures and transcripts.")
@arguments.directories
@_reference
@click.option("--out", default="report.html", show_default=True,
              type=click.Path(path_type=Path, dir_okay=False), help="HTML file.")  # fmt: skip
@click.option("--figures", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Also write each figure as SVG and PNG, with its data as CSV.")  # fmt: skip
@click.option("--transcripts", default=3000, show_default=True, metavar="N",
              type=click.IntRange(0), help="Include at most N transcripts.")  # fmt: skip
def report_command(
    directories: tuple[Path, ...],
    reference: str | None,
    out: Path,
    figures: Path | None,
    transcripts: int,
) -> None:
    """Write one HTML file with tables, figures and transcripts; it needs no network.

    Beyond --transcripts, or 12 MiB of them, the page holds a sample, with episodes that resisted or
    failed first, and says what is left out.

    \b
    Examples:
        local-shutdown report runs/* --reference paper --out report.html
        local-shutdown report runs/* --figures figures/
    """
    from local_shutdown.report import write_report

    directories = _folders(directories)
    with terminal.Working("report") as step:
        written = write_report(directories, reference, out, figures, transcripts, step)
    for line in written:
        terminal.echo(line)
