"""`run STUDY.yaml`, and what `compare` and `report` make of a study."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from local_shutdown import engines
from local_shutdown.cli import cluster_display, display, dryrun, options, tables
from local_shutdown.cli.main import COMMAND
from local_shutdown.errors import (
    CannotRunError,
    LocalShutdownError,
    SandboxUnavailable,
    UsageError,
)
from local_shutdown.frozen_plan import PlanFile, is_study, read_plan
from local_shutdown.record import Settings, open_record
from local_shutdown.results import write_results
from local_shutdown.run import Display, Interrupt, fetching
from local_shutdown.store import RUN
from local_shutdown.study import freeze
from local_shutdown.study.begun import refuse_taken_back
from local_shutdown.study.elsewhere import Contents, contents
from local_shutdown.study.parts import Extent, Machine, extent, settings
from local_shutdown.study.plan import Resolved, resolve
from local_shutdown.study.schema import StudyFile, read_study
from local_shutdown.terminal import echo, note

if TYPE_CHECKING:
    from local_shutdown.cluster.rays import RayNodes

PLACE = Path("runs")
# Options of `run` that say something of this machine; all others are the study's to say.
_OF_THE_MACHINE = frozenset(
    {
        "study", "out", "dry_run", "gpus", "engine", "base_url", "api_key_env", "concurrency",
        "request_timeout", "probe", "retry_errors", "ray_address",
    }
)  # fmt: skip


def machine(
    path: Path, engine: str, base_url: str | None, nodes: RayNodes | None = None
) -> Machine:
    """What the command line says of this machine.

    Args:
        path: of the study.
        engine: of the command line.
        base_url: likewise, checked.
        nodes: that play it instead of this machine.

    Raises:
        UsageError: an option that the study has to say.
        CannotRunError: no such engine here.
    """
    context = click.get_current_context()
    for name in context.params:
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and name not in _OF_THE_MACHINE:
            option = next(p for p in context.command.params if p.name == name).opts[0]
            raise UsageError(
                f"{option} cannot be combined with a study: {path} says what is played",
                "a study is played on several machines with --ray"
                if name in ("shard", "nodes")
                else "write it there; in a study that has begun it is then listed as a deviation",
            )
    said = context.params
    if engine == "auto" and base_url is None:
        engine = read_study(path).row.engine
        if engine == "endpoint":
            raise UsageError(f"{path}: engine: endpoint needs --base-url", "e.g. --base-url URL")
    return Machine(
        engine=nodes.engine(engine) if nodes else engines.choose_kind(engine, base_url),
        options=engines.Options(
            gpus=said["gpus"],
            base_url=base_url,
            api_key=engines.endpoint_key(base_url, said["api_key_env"]) if base_url else None,
            concurrency=said["concurrency"],
            request_timeout_s=said["request_timeout"],
        ),
        probe=said["probe"],
        retry_errors=said["retry_errors"],
        command=context.meta.get(COMMAND, ()),
    )


def run_study(
    path: Path,
    out: Path | None,
    *,
    dry_run: bool,
    machine: Machine,
    nodes: RayNodes | None = None,
) -> None:
    """Play what is missing of a study, or say what that would be; ends the program.

    Args:
        nodes: that play it instead of this machine.

    Raises:
        UsageError: a mistake in the study, or a folder that holds something else.
    """
    study = read_study(path)
    directory = out or PLACE / study.name
    _refuse_strangers(directory)
    resolved = resolve(study, options.finder(machine.engine))
    plan, parts = _checked(resolved, directory, machine)
    if dry_run:
        imports = _check_imports(resolved, directory)
        _say_plan(resolved, directory, plan, parts, imports)
        sys.exit(_dry_run(parts))
    with freeze.locked(directory):
        plan, parts = _checked(resolved, directory, machine)  # as it is now that nobody writes
        for line in freeze.take_imports(directory, resolved, write_results):
            echo(line, err=True)
        _check_imports(resolved, directory)
        freeze.write(directory, plan)
        for line in _deviations(plan):
            echo(line, err=True)
        try:
            failed, refused = _play(study, parts, machine, nodes)
        finally:
            freeze.write(directory, freeze.recorded(directory, plan, plan.runs))
    played = [one.out for one in parts if (one.out / RUN).is_file()]
    if played:
        tables.print_cells(played)
    for line in _deviations(plan):
        note(line)
    given = path if out is None else out
    echo("\nnext:")
    for command in ("compare", "report"):
        echo(f"  local-shutdown {command} {shlex.quote(str(given))}")
    for error in refused:
        echo(f"error: {error}", err=True)
    sys.exit(CannotRunError.exit_code if refused else 1 if failed else 0)


def _checked(
    resolved: Resolved, directory: Path, machine: Machine
) -> tuple[PlanFile, list[Settings]]:
    """The plan and the runs, all that would be refused found out; nothing is written."""
    plan = freeze.planned(directory, resolved)
    parts = settings(resolved, directory, machine, plan)
    refuse_taken_back(resolved.study, parts)
    for one in parts:
        open_record(one)
    return plan, parts


def _check_imports(resolved: Resolved, directory: Path) -> dict[str, Contents]:
    """What each import holds, by its folder.

    Raises:
        UsageError: it cannot be imported, or holds nothing under the conditions of the study.
    """
    played = [condition.id for condition in resolved.conditions]
    found: dict[str, Contents] = {}
    for place, one in enumerate(resolved.imports):
        loc = ("imports", place)
        try:
            inside = contents(one, directory / one.folder)
        except UsageError as wrong:
            raise resolved.study.wrong(loc, wrong.message, wrong.hint) from None
        if not set(inside.conditions) & set(played):
            there = ", ".join(inside.conditions) or "none, it is empty"
            raise resolved.study.wrong(
                loc,
                f"{one.row.path}: nothing in it is of a condition of the study "
                f"({', '.join(played)}); its conditions: {there}",
                "correct the ids there, or give `condition` if the file has one alone",
            )
        found[one.folder] = inside
    return found


def _refuse_strangers(directory: Path) -> None:
    """Refuse a folder with something else in it."""
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"--out {directory}: not a folder", "give a new folder")
    if (directory / RUN).exists():
        raise UsageError(
            f"--out {directory}: holds a run, and a study has several in its folder",
            "give another --out",
        )
    if directory.is_dir() and not is_study(directory):
        there = [p.name for p in directory.iterdir() if not p.name.startswith(".")]
        if [name for name in there if name not in ("imports", "reference")]:
            raise UsageError(
                f"--out {directory}: the folder is not that of a study", "give a new folder"
            )


# --- playing --------------------------------------------------------------------------------------


class _Overall:
    """How far the study is, in a line."""

    def __init__(self, name: str, parts: Sequence[Settings]) -> None:
        self._name = name
        self._parts = parts
        self._now = Extent(0, 0)
        self._at = 0

    def begin(self, at: int) -> None:
        """The run of this number is next."""
        self._now, self._at = extent(self._parts), at

    def __call__(self, finished: int) -> str:
        return (
            f"study {self._name}: run {self._at} of {len(self._parts)}, "
            f"{self._now.on_disk + finished:,} of {self._now.planned:,} episodes"
        )


def _play(
    study: StudyFile, parts: Sequence[Settings], machine: Machine, nodes: RayNodes | None
) -> tuple[bool, list[LocalShutdownError]]:
    """Run after run; whether an episode ended in an error, and what could not be run.

    A model that this machine cannot run does not keep the others from being played.
    """
    from local_shutdown.cli.playing import runner, to_its_end

    refused: list[LocalShutdownError] = []
    overall = _Overall(study.name, parts)
    last: list[Display] = []
    play_one = runner(nodes)

    async def play_all(interrupt: Interrupt) -> bool:
        failed = False
        for number, (one, following) in enumerate(zip_longest(parts, parts[1:]), 1):
            overall.begin(number)
            shown = _shown(one, overall, nodes)
            last[:] = [shown]
            interrupt.say = shown.say
            shown.say(f"{overall(0)}: {one.out}")
            ahead = None if following is None or nodes else following.models[0]
            try:
                async with fetching(ahead, one, shown):
                    failed |= await play_one(one, shown, interrupt)
            except SandboxUnavailable:
                raise
            except CannotRunError as error:
                shown.say(f"{one.out.name}: {error.message}; going on with the others")
                refused.append(error)
            if interrupt.asked:
                break
        return failed

    def interrupted() -> None:
        words = list(machine.command) or ["run", str(study.path)]
        last[-1].say(f"to resume: {shlex.join(['local-shutdown', *words])}")

    failed = to_its_end(play_all, interrupted)
    return failed, refused


def _shown(one: Settings, overall: _Overall, nodes: RayNodes | None) -> Display:
    if nodes is not None:
        return cluster_display.for_this_terminal()
    return display.for_this_terminal(
        {c.id: c.title for c in one.conditions},
        one.trials,
        out=one.out,
        rule=one.stop_rule,
        overall=overall,
    )


# --- what it says beforehand ----------------------------------------------------------------------


def _say_plan(
    resolved: Resolved,
    directory: Path,
    plan: PlanFile,
    parts: Sequence[Settings],
    imports: Mapping[str, Contents],
) -> None:
    row = resolved.study.row
    far = extent(parts)
    echo(f"study {resolved.study.name}" + (f": {row.title}" if row.title else ""))
    begun = is_study(directory) and read_plan(directory).frozen_at == plan.frozen_at
    when = f"frozen on {plan.frozen_at[:10]}" if begun else "frozen by the first run"
    echo(f"plan: {plan.digest} ({when})")
    echo(f"folder: {directory}")
    echo(
        f"episodes: {far.planned:,} in {len(parts)} runs"
        + (f", {far.planned - far.on_disk:,} still to play" if far.on_disk else "")
        + ("; cells may stop earlier" if row.until else "")
    )
    tests = ", ".join(contrast.name for contrast in plan.contrasts) or "none"
    echo(f"declared contrasts: {tests}")
    for line in dryrun.what_deciding_takes(parts[0]):
        echo(line)
    played = [condition.id for condition in resolved.conditions]
    for one in resolved.imports:
        inside = imports[one.folder]
        lacks = [condition for condition in played if condition not in inside.conditions]
        echo(
            f"import: {one.path}: {inside.records:,} record{'' if inside.records == 1 else 's'} "
            f"of {', '.join(inside.models)}"
            + (f"; none of condition {', '.join(lacks)}" if lacks else "")
        )
    if resolved.reference is not None:
        echo(f"reference: {resolved.reference}")
    for line in _deviations(plan):
        echo(line)


def _dry_run(parts: Sequence[Settings]) -> int:
    """What each run would be, and all of them together; the exit status."""
    outlooks = []
    for one in parts:
        echo()
        outlooks.append(dryrun.dry_run_one(one))
    missing = sum(one.missing for one in outlooks)
    known = [one for one in outlooks if one.seconds is not None]
    echo()
    if not missing:
        echo("time: nothing left to play")
    elif not known:
        echo(f"time: no estimate for {missing:,} episodes: nothing of it was played before")
    else:
        seconds = sum(one.seconds or 0.0 for one in known)
        of = sum(one.missing for one in known)
        rest = f"; no estimate for {missing - of:,} more" if missing > of else ""
        echo(f"time: about {dryrun.spoken(seconds / 60)} for {of:,} episodes{rest}")
    refused = sum(not one.ready for one in outlooks)
    if refused:
        echo(f"{refused} of {len(outlooks)} runs cannot be started on this machine as it is")
    return 3 if refused else 0


def _deviations(plan: PlanFile) -> list[str]:
    """A line for each change of the plan, with its date."""
    return [f"deviation from the plan, {d.at[:10]}: {d.said}" for d in plan.deviations]


# --- compare and report ---------------------------------------------------------------------------


def folders(paths: Sequence[Path], say: Callable[[str], None]) -> list[Path]:
    """Directories to compare: the folder of a study in the place of its file.

    Args:
        say: told where the file no longer says what was played.

    Raises:
        UsageError: a study that has not been run.
    """
    return [_folder(path, say) if is_file(path) else path for path in paths]


def is_file(path: Path) -> bool:
    """Whether it names a study by its file."""
    return path.suffix in (".yaml", ".yml") and not path.is_dir()


def _folder(path: Path, say: Callable[[str], None]) -> Path:
    study = read_study(path)
    directory = PLACE / study.name
    if not is_study(directory):
        raise UsageError(
            f"{path}: not played yet: there is no {directory / 'plan.json'}",
            f"`local-shutdown run {shlex.quote(str(path))}` plays it; of a study that was played "
            "into another --out, give that folder",
        )
    plan = read_plan(directory)
    try:
        found = resolve(study, options.finder("endpoint", offline=True))
    except LocalShutdownError:
        return directory  # what is missing here is no matter for what is on disk
    changed = freeze.changes(plan.in_force, found.plan)
    if changed:
        names = ", ".join(dict.fromkeys(what for what, _, _ in changed))
        say(f"{path} has changed since it was played ({names}): what was played is shown")
    return directory
