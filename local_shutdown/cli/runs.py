"""`list` and `conditions`: what there is to resume, and what there is to play."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
from rich import box
from rich.table import Table

from local_shutdown import grid, runs
from local_shutdown.errors import UsageError
from local_shutdown.terminal import clean, console, echo, echo_json

DEFAULT_PLACE = Path("runs")


@click.command("list")
@click.argument(
    "directories", nargs=-1, type=click.Path(path_type=Path, exists=False), metavar="[DIR]..."
)
@click.option("--unfinished", is_flag=True, help="Only runs that can be resumed.")
@click.option("--json", "as_json", is_flag=True, help="One JSON list on standard output.")
def list_command(directories: tuple[Path, ...], unfinished: bool, as_json: bool) -> None:
    """List runs, their state and progress, and the command that resumes each.

    DIR is a run directory, or a folder that holds some; the default is runs/.

    \b
    Examples:
        local-shutdown list
        local-shutdown list runs imports --unfinished
    """
    places = directories or (DEFAULT_PLACE,)
    for place in places:
        if directories and not place.is_dir():
            raise UsageError(f"{place}: no such folder", "give a run directory or a folder of runs")
    found = [runs.state(directory) for directory in runs.find(places)]
    if unfinished:
        found = [run for run in found if run.state == "unfinished"]
    if as_json:
        records = [{**asdict(run), "directory": str(run.directory)} for run in found]
        echo_json(records)
        return
    if not found:
        where = ", ".join(map(str, places))
        what = "no unfinished run" if unfinished else "no run"
        echo(f"{where}: {what}; `local-shutdown run` starts one")
        return
    _table(found)


def _table(found: Sequence[runs.RunState]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("run", overflow="fold", min_width=12)
    table.add_column("models", overflow="ellipsis", no_wrap=True, min_width=12, max_width=28)
    table.add_column("conditions", overflow="ellipsis", no_wrap=True, min_width=10, max_width=16)
    table.add_column("episodes", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for run in found:
        done = f"{run.on_disk}" if run.planned is None else f"{run.on_disk} of {run.planned}"
        models = ", ".join(run.models) or "-"
        table.add_row(
            str(run.directory), models, grid.as_ranges(run.conditions) or "-", done, run.state
        )
    console().print(table)
    for run in found:
        if run.why:
            echo(f"{run.directory}: {run.why}")
    going_on = [run for run in found if run.resume]
    if going_on:
        echo("to resume:")
    for run in going_on:
        echo(f"  {run.resume}")


@click.command("conditions")
@click.argument("wanted", default="all", metavar="[IDS]")
@click.option("--brief", is_flag=True, help="One line per condition, without the prompts.")
@click.option("--json", "as_json", is_flag=True, help="One JSON list on standard output.")
def conditions_command(wanted: str, brief: bool, as_json: bool) -> None:
    """Print the prompts of the conditions, as the model receives them.

    IDS are written as for `run --conditions`: ids and ranges, `all`, or files of your own.

    \b
    Examples:
        local-shutdown conditions --brief
        local-shutdown conditions A,E
        local-shutdown conditions my.yaml
    """
    chosen = grid.choose(wanted)
    if as_json:
        records = [{**asdict(c), "prompt_hash": c.prompt_hash} for c in chosen]
        echo_json(records)
        return
    width = max(len(condition.id) for condition in chosen)
    for number, condition in enumerate(chosen):
        wording = "" if condition.wording == "verbatim" else f" [{condition.wording}]"
        if brief:
            echo(f"{condition.id:<{width}}  {condition.title}{wording}")
            continue
        if number:
            echo()
        echo(
            click.style(clean(f"{condition.id}  {condition.title}{wording}"), bold=True),
            styled=True,
        )
        if condition.warning_on_call != 3:
            echo(f"the shutdown is announced on call {condition.warning_on_call}")
        for role, text in (("system", condition.system), ("user", condition.user)):
            echo(click.style(f"--- {role}", dim=True), styled=True)
            echo(text)
