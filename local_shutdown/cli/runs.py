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
from local_shutdown.terminal import clean, console, echo, echo_json, folded

DEFAULT_PLACE = Path("runs")
_GAP = 2  # columns between two of the table
_LEAST_NAME = 28  # columns; a longer name of a run is folded into pieces of 14 or more


@click.command("list", short_help="List runs, how far they are, and how to resume.")
@click.argument(
    "directories", nargs=-1, type=click.Path(path_type=Path, exists=False), metavar="[DIR]..."
)
@click.option("--unfinished", is_flag=True, help="List only runs that can be resumed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def list_command(directories: tuple[Path, ...], unfinished: bool, as_json: bool) -> None:
    """List runs with their state, progress, and the command that resumes each.

    DIR is a run directory or a folder that contains run directories; the default is runs/.

    \b
    Examples:
        local-shutdown list
        local-shutdown list runs imports --unfinished
    """
    places = directories or (DEFAULT_PLACE,)
    for place in places:
        if directories and not place.is_dir():
            what = "not a folder" if place.exists() else "no such folder"
            raise UsageError(f"{place}: {what}", "give a run directory or a folder of runs")
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
    out = console()
    done = [
        f"{run.on_disk}" if run.planned is None else f"{run.on_disk} of {run.planned}"
        for run in found
    ]
    models = [_some(run.models) for run in found]
    conditions = [grid.as_ranges(run.conditions) or "-" for run in found]
    # What is left beside columns that are never cut goes to names: first to those of runs, which
    # somebody is going to type.
    fixed = sum(
        max(map(len, column)) + _GAP
        for column in ([*done, "episodes"], [_state(run) for run in found])
    )
    room = out.width - fixed - _GAP
    wide = {
        "conditions": min(max(map(len, [*conditions, "conditions"])), 16),
        "models": min(max(len(line) for name in models for line in name.split("\n")), 28),
    }
    name_width = max(room - sum(wide.values()) - 2 * _GAP, _LEAST_NAME)
    wide["models"] = max(min(wide["models"], room - name_width - wide["conditions"] - 2 * _GAP), 12)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
    table.add_column("run", no_wrap=True)
    for name, width in (("models", wide["models"]), ("conditions", wide["conditions"])):
        table.add_column(name, overflow="ellipsis", no_wrap=True, max_width=width)
    table.add_column("episodes", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for run, *rest in zip(found, models, conditions, done, strict=True):
        first, *others = rest
        names = "\n".join(folded(name, wide["models"]) for name in first.split("\n"))
        table.add_row(folded(str(run.directory), name_width), names, *others, _state(run))
    out.print(table)
    for run in found:
        if run.why:
            echo(f"{run.directory}: {run.why}")
    going_on = [run for run in found if run.resume]
    if going_on:
        echo("to resume:")
    for run in going_on:
        echo(f"  {run.resume}")


def _state(run: runs.RunState) -> str:
    if run.state != "running" or not run.nodes:
        return run.state
    return f"running, {run.nodes} nodes" if run.nodes > 1 else "running, 1 node"


def _some(models: Sequence[str]) -> str:
    """One model, and how many more: on lines of their own, so that no name is cut."""
    if not models:
        return "-"
    return models[0] if len(models) == 1 else f"{models[0]}\nand {len(models) - 1} more"


@click.command("conditions", short_help="Print the prompts as the model receives them.")
@click.argument("wanted", default="all", metavar="[IDS]")
@click.option("--brief", is_flag=True, help="Print one line per condition, without the prompts.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def conditions_command(wanted: str, brief: bool, as_json: bool) -> None:
    """Print the prompts of conditions, as the model receives them.

    IDS has the form of `run --conditions`: ids and ranges, `all`, or files of your own.

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
