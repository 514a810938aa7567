"""`score`, `import` and `export`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from local_shutdown.results import write_results
from local_shutdown.store import RESULTS, read_run
from local_shutdown.terminal import Working, echo


def again(command: str, directory: Path) -> str:
    """A command on a directory, to be copied."""
    return shlex.join(["local-shutdown", command, str(directory)])


@click.command("score", short_help="Rerun the detectors on stored episodes.")
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
def score_command(directory: Path) -> None:
    """Rerun the detectors on stored episodes and rewrite results.csv.

    \b
    Example:
        local-shutdown score runs/2026-11-24-calibration
    """
    read_run(directory)
    with Working("scoring") as step:
        write_results(directory, lambda count: step(f"scoring: {count:,} episodes"))
    echo(f"{directory / RESULTS} written")
    echo(f"next: {again('compare', directory)}")


@click.command("merge", short_help="Join the shards of a run into one run directory.")
@click.argument(
    "directories", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="SHARD_DIR..."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR",
              help="The run directory to create.")  # fmt: skip
@click.option("--partial", is_flag=True,
              help="Merge although shards are missing or unfinished. The result is an unfinished "
                   "run: `run` into it plays the rest.")  # fmt: skip
def merge_command(directories: tuple[Path, ...], out: Path, partial: bool) -> None:
    """Join the shards of a run (`run --shard I/N`) into one run directory, as if one machine had
    played all of it.

    Refuses what does not belong together: shards of other settings or weights, a shard given twice,
    missing, unfinished or still running.

    \b
    Example:
        local-shutdown merge runs/night-shard-* --out runs/night
    """
    from local_shutdown.merge import merge

    with Working("reading") as step:
        done = merge(
            directories, out, partial=partial, seen=lambda n: step(f"reading: {n:,} episodes")
        )
    echo(f"{out}: {done.episodes} episodes from {done.shards} shards")
    for shard in done.missing:
        echo(f"missing: shard {shard}")
    for shard, count in done.unfinished.items():
        echo(f"unfinished: shard {shard} lacks {count} episodes")
    if done.resume:
        echo(f"to resume: {done.resume}")
    echo(f"next: {again('compare', out)}")


@click.command("import", short_help="Import rates, episodes, transcripts or Inspect logs.")
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE..."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR",
              help="The directory to create.")  # fmt: skip
@click.option("--format", "form", default="auto", show_default=True,
              type=click.Choice(["auto", "jsonl", "inspect"]))  # fmt: skip
@click.option("--model", metavar="NAME", help="The model's name, if the file does not give it.")
@click.option("--condition", metavar="ID", help="The condition, if the file does not give it.")
@click.option("--map-tool", "mapping", multiple=True, metavar="NAME=bash|submit",
              help="Map a tool name to bash or submit; common names are built in.")  # fmt: skip
def import_command(
    files: tuple[Path, ...],
    out: Path,
    form: str,
    model: str | None,
    condition: str | None,
    mapping: tuple[str, ...],
) -> None:
    """Import results from elsewhere: rates, episodes, transcripts, Inspect logs.

    If a line is invalid, its file, number and reason are reported and nothing is imported.

    \b
    Examples:
        local-shutdown import published.jsonl --out imports/published
        local-shutdown import logs/*.eval --format inspect --condition E --out imports/o3
    """
    from local_shutdown.importers import import_files, tool_mapping

    with Working("reading") as step:
        summary = import_files(
            files,
            out,
            form,
            model=model,
            condition=condition,
            mapping=tool_mapping(mapping),
            complete=lambda made: write_results(
                made, lambda count: step(f"scoring: {count:,} episodes")
            ),
        )
    echo(str(summary))
    echo(f"next: {again('compare', out)} --reference paper")


@click.command("export", short_help="Export a run as an Inspect log or Parquet.")
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--format", "form", required=True, type=click.Choice(["inspect", "parquet"]))
@click.option(
    "--out", type=click.Path(path_type=Path), help="File or folder.  [default: DIR/FORMAT]"
)
def export_command(directory: Path, form: str, out: Path | None) -> None:
    """Export a run for other tools, as an Inspect .eval log or parquet tables.

    \b
    Example:
        local-shutdown export runs/2026-11-24-calibration --format inspect
    """
    from local_shutdown import exporters

    read_run(directory)
    write = exporters.export_inspect if form == "inspect" else exporters.export_parquet
    # Inside the run: beside it, `compare runs/*` would take it for one.
    for path in write(directory, out or directory / form):
        echo(str(path))
