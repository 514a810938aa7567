"""`local-shutdown branch`."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import click

from local_shutdown import branch, engines
from local_shutdown.branch.plan import points_of
from local_shutdown.branch.resumed import require_same_beginnings
from local_shutdown.branch.select import Place, fixed
from local_shutdown.cli import tables
from local_shutdown.cli.branch_display import BranchDisplay
from local_shutdown.cli.branch_settings import Asked, engine_options, settings_of
from local_shutdown.cli.playing import play
from local_shutdown.cli.run import placed
from local_shutdown.episode import OUTCOMES
from local_shutdown.errors import LocalShutdownError, SandboxFault, SandboxUnavailable, UsageError
from local_shutdown.prefix import ONLY_TIMES
from local_shutdown.run import check_sandbox
from local_shutdown.sandbox import prepare
from local_shutdown.store import load_run
from local_shutdown.stored import MAX_TRIALS
from local_shutdown.terminal import echo

_MOST_CELLS = 40  # in the table after a run; `compare` has all
_NAMED = 10  # episodes in a message


@click.command("branch", short_help="Play on from a point of a stored episode.")
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.argument("episodes", nargs=-1, metavar="[EPISODE_ID]...")
@click.option(
    "--at",
    default=branch.AT_WARNING,
    show_default=True,
    metavar="warning|every|sentences|MESSAGE",
    help="The answer that is sampled anew: the one after the warning, every one, or the one with "
    "this number, as `show` prints it. `sentences`: the one after the warning, from its beginning "
    "and after each of its sentences.",
)
@click.option(
    "--samples",
    "--trials",
    "trials",
    default=40,
    show_default=True,
    type=click.IntRange(1, MAX_TRIALS),
    help="Continuations per point.",
)
@click.option(
    "--sample",
    type=click.IntRange(1),
    metavar="N",
    help="Draw N episodes at random instead of naming them.",
)
@click.option(
    "--outcome", type=click.Choice(OUTCOMES), help="With --sample: only episodes with this outcome."
)
@click.option(
    "--of", "of_condition", metavar="ID", help="With --sample: only episodes of this condition."
)
@click.option(
    "--condition",
    metavar="ID",
    help="Show the prompts of this condition in place of the recorded ones; or a file with one "
    "condition of your own.",
)
@click.option(
    "--edit",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Replace a message: YAML or JSON with `message` and `content`, or a text file for the "
    "message right before the point.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Run directory; an existing one is resumed. Default: the unfinished run with these "
    "settings, else runs/<date>-<model>-branch.",
)
@click.option(
    "--gpus", type=int, metavar="N", help="GPUs to use; 0 means CPU. Default: all visible."
)
@click.option(
    "--engine",
    type=click.Choice(list(engines.names())),
    help="Default: the one that played the episode.",
)
@click.option("--base-url", metavar="URL", help="OpenAI-compatible endpoint to use.")
@click.option(
    "--api-key-env",
    metavar="NAME",
    help="Environment variable that holds the endpoint's key.",
)
@click.option("--concurrency", type=click.IntRange(1, 10000), metavar="N",
              help="Episodes in flight.")  # fmt: skip
@click.option(
    "--engine-arg",
    "engine_args",
    multiple=True,
    metavar="ARG",
    help="Argument to pass to vLLM. Default: those that the run was given.",
)
@click.option(
    "--allow-different",
    is_flag=True,
    help="Play even if model, engine or sampling are not the recorded ones; run.json says so.",
)
@click.option(
    "--ignore-times",
    is_flag=True,
    help="Accept results that differ from the recorded ones only in dates and times of day, as "
    "`ls -l` prints them; the model is shown the recorded ones.",
)
@click.option(
    "--skip-unrepeatable",
    is_flag=True,
    help="Leave out episodes whose recorded commands do something else now, instead of stopping.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    metavar="N",
    help="The seed of --sample and of the servers. Default: 0 for --sample, and for the servers "
    "one drawn at random.",
)
@click.option("--extend", is_flag=True, help="Add continuations to a finished directory.")
@click.option(
    "--retry-errors", is_flag=True, help="Replay episodes that have no outcome because of an error."
)
def branch_command(
    directory: Path, episodes: tuple[str, ...], at: str, trials: int, sample: int | None,
    outcome: str | None, of_condition: str | None, condition: str | None, edit: Path | None,
    out: Path | None, gpus: int | None, engine: str | None, base_url: str | None,
    api_key_env: str | None, concurrency: int | None, engine_args: tuple[str, ...],
    allow_different: bool, ignore_times: bool, skip_unrepeatable: bool, seed: int | None,
    extend: bool, retry_errors: bool,
) -> None:  # fmt: skip
    """Play on from a point of a stored episode, many times.

    A fresh sandbox is brought to the same state by running the recorded commands again, each of
    which must print what it printed then. From there the model goes on, with its own answers, to
    the end of the episode: how often does it resist from this point?

    \b
    Examples:
        local-shutdown branch runs/2026-11-24-qwen3-8b qwen3-8b/E/1 --samples 100
        local-shutdown branch runs/2026-11-24-qwen3-8b qwen3-8b/E/1 --at every
        local-shutdown branch runs/2026-11-24-calibration --sample 20 --outcome resisted
        local-shutdown branch runs/2026-11-24-qwen3-8b qwen3-8b/E/1 --condition F

    Exit status: 0 done; 1 done, but some episodes ended in an error; 2 invalid usage or input, an
    episode that cannot be repeated, or a model that is not served as it was; 3 this machine cannot
    run it; 130 interrupted.
    """
    parent = branch.ParentRun.open(directory)
    if out is not None and out.resolve().is_relative_to(directory.resolve()):
        raise UsageError(
            f"--out {out}: is in the run directory that is branched from, which is only read",
            "give a folder beside it",
        )
    selection = branch.Selection(
        episodes, sample, outcome, of_condition, seed or 0, _checked_at(at)
    )
    _check_selection(selection)
    other = None if condition is None else parent.other_condition(condition)
    edited = None if edit is None else branch.read_edit(edit)
    if edited is not None and selection.at == branch.AT_EVERY and edited.message is None:
        raise UsageError(
            f"--edit {edit} is the text of the message before the point, and --at every has many",
            "give a YAML file with `message` and `content`",
        )
    there = None if out is None else _settled(out, parent, selection)
    skipped: dict[str, str] = {}
    if there is not None:
        picked = fixed(parent, there[0], selection.at)
        skipped = there[1]
    else:
        picked = branch.choose(parent, selection)
    points = [
        replace(point, prefix=replace(point.prefix, ignore_times=ignore_times))
        for point in points_of(parent, picked, other, edited)
    ]
    if out is not None and there is not None:
        require_same_beginnings(out, points)
    if there is None:
        points, skipped = _repeatable(points, parent, skip_unrepeatable)
    settings = settings_of(
        parent,
        branch.Branch(
            source=directory,
            run=parent.digest,
            selection=selection,
            points=points,
            sandbox=parent.sandbox,
            recorded={name: parent.model(name) for name in {p.model for p in points}},
            condition=other,
            edit=edited,
            allow_different=allow_different,
            skipped=skipped,
            ignore_times=ignore_times,
        ),
        engine,
        engine_options(
            parent, points, Asked(engine, base_url, api_key_env, gpus, concurrency, engine_args)
        ),
    )
    settings = replace(
        settings,
        options=replace(settings.options, continues=selection.at == branch.AT_SENTENCES),
        trials=trials,
        out=out or Path("runs") / f"{date.today().isoformat()}-{directory.resolve().name}-branch",
        seed=seed,
        extend=extend,
        retry_errors=retry_errors,
    )
    found: str | None = None
    if out is None:
        settings, found = placed(settings)
    display = BranchDisplay()
    if found:
        display.say(found)
    for name, why in skipped.items():
        display.say(f"left out: {name}: {why}")
    display.say(f"{len(points)} points of {len({p.prefix.parent.episode for p in points})} "
                f"episodes, {trials} continuations each")  # fmt: skip
    failed = play(settings, display)
    if len(points) <= _MOST_CELLS:
        tables.print_cells([settings.out])
    echo("\nnext:")
    for words in ("compare", "show"):
        echo(f"  local-shutdown {words} {shlex.quote(str(settings.out))}")
    sys.exit(1 if failed else 0)


def _checked_at(at: str) -> str:
    if at in (branch.AT_WARNING, branch.AT_EVERY, branch.AT_SENTENCES):
        return at
    if not (at.isascii() and at.isdigit() and len(at) < 10):
        raise UsageError(
            f"--at {at}: neither a point nor the number of a message",
            "give warning, every, sentences, or a number that `show` prints before an answer",
        )
    return str(int(at))


def _check_selection(selection: branch.Selection) -> None:
    if selection.episodes and selection.sample is not None:
        raise UsageError("--sample and the ids of episodes cannot be combined")
    if not selection.episodes and selection.sample is None:
        raise UsageError(
            "which episodes?", "give their ids, or --sample N to draw some; `show` lists them"
        )
    if selection.episodes and (selection.outcome or selection.condition):
        raise UsageError("--outcome and --of are for --sample")


def _settled(
    out: Path, parent: branch.ParentRun, selection: branch.Selection
) -> tuple[list[tuple[str, Place]], dict[str, str]] | None:
    """The points that an earlier call with this selection settled on, and what it left out."""
    try:
        run = load_run(out).as_json()
    except LocalShutdownError:
        return None  # the run will say what is wrong with it
    found = run.get("settings", {}).get("branch") or {}
    if found.get("run") != parent.digest or found.get("selection") != selection.as_dict():
        return None
    about = run.get("branched_from")
    skipped = about.get("skipped") if isinstance(about, dict) else None
    points = [
        (episode, (message, kept[0] if kept else None))
        for episode, message, *kept in found["points"]
    ]
    return points, dict(skipped) if isinstance(skipped, dict) else {}


def _repeatable(
    points: Sequence[branch.Point], parent: branch.ParentRun, skip: bool
) -> tuple[list[branch.Point], dict[str, str]]:
    """The points that can be brought about again.

    Raises:
        UsageError: one cannot, and is not to be left out; or none can.
        SandboxUnavailable: no sandbox can be started.
    """

    async def found_out() -> dict[str, str]:
        with prepare(parent.sandbox) as kit:
            await check_sandbox(kit)
            try:
                return await branch.unrepeatable(points, kit)
            except SandboxFault as fault:
                raise SandboxUnavailable(fault.message) from None

    cannot = asyncio.run(found_out())
    left = [point for point in points if point.prefix.parent.episode not in cannot]
    if cannot and (not skip or not left):
        listed = "; ".join(f"{name}: {why}" for name, why in list(cannot.items())[:_NAMED])
        more = f"; and {len(cannot) - _NAMED} more" if len(cannot) > _NAMED else ""
        raise UsageError(
            f"{parent.directory}: cannot be brought back to the point: {listed}{more}",
            "choose an earlier point, or other episodes"
            + ("; --ignore-times accepts other times" if ONLY_TIMES in listed else "")
            + ("; --skip-unrepeatable leaves these out" if left else ""),
        )
    return left, cannot
