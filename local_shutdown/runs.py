"""Run directories from outside: what state one is in, and what would go on with it."""

from __future__ import annotations

import fcntl
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from local_shutdown.batch import episode_id
from local_shutdown.branch.plan import continuation_id
from local_shutdown.errors import LocalShutdownError
from local_shutdown.factors import DEFAULT, crossed
from local_shutdown.runfile import RunFile, RunSettings
from local_shutdown.shard import shard_of
from local_shutdown.store import AGGREGATES, EPISODES, RUN, finished_ids, load_run, read_lines

State = Literal["running", "finished", "unfinished", "imported", "unreadable"]
# Runs stand in a folder of their own or one below it: `runs/`, `runs/night-of-the-12th/`.
_DEPTH = 3
# Episodes of one run: some thirty times those of the paper. `bundle` and `verify` list them.
MOST_PLANNED = 5_000_000


@dataclass(frozen=True, slots=True)
class RunState:
    """What there is of a run or an import.

    Attributes:
        directory: of the run.
        state: `running` while a process writes there; `finished`; `unfinished`: the command goes on
            with it; `imported`; `unreadable`: `why` says what is wrong with it.
        models: as the run's tables call them.
        conditions: ids.
        on_disk: episodes.
        planned: episodes asked for; None where a rule may stop cells early, and for imports.
        errors: of those on disk, how many ended in `error`; None where nobody counted.
        started_at: ISO 8601, UTC; None when not recorded.
        resume: the command that goes on with it; None where there is nothing to go on with.
        why: what is wrong, where it cannot be read.
        nodes: that its last call played on, of a run on many machines.
    """

    directory: Path
    state: State
    models: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    on_disk: int = 0
    planned: int | None = None
    started_at: str | None = None
    resume: str | None = None
    why: str | None = None
    nodes: int = 0


def find(places: Iterable[Path]) -> Iterator[Path]:
    """Run directories at and below some folders, each once, the oldest name first."""
    seen: set[Path] = set()
    for place in places:
        for directory in _below(place, _DEPTH):
            if (real := directory.resolve()) not in seen:
                seen.add(real)
                yield directory


def _below(place: Path, depth: int) -> Iterator[Path]:
    if (place / RUN).is_file():
        yield place
    elif depth:
        try:
            inside = sorted(path for path in place.iterdir() if path.is_dir())
        except OSError:
            return
        for path in inside:
            yield from _below(path, depth - 1)


def state(directory: Path) -> RunState:
    """The state of one directory; never raises for what is in it."""
    try:
        run = load_run(directory)
        done = finished_ids(directory)
    except (LocalShutdownError, OSError, ValueError) as wrong:
        return RunState(directory, "unreadable", why=str(wrong).splitlines()[0])
    known = RunState(
        directory,
        "imported",
        models=tuple(facts.display_name or name for name, facts in run.models.items()),
        conditions=tuple(run.conditions),
        on_disk=len(done),
        started_at=run.started_at,
        nodes=sum(one.session == run.session and not one.left_out for one in run.nodes),
    )
    if not run.played:
        return known
    settings = run.settings
    rule = any((settings.until_halfwidth, settings.until_upper, settings.until_decided))
    plan = planned(settings.as_json())
    known = replace(known, planned=None if rule else plan.episodes)
    if is_running(directory):
        return replace(known, state="running")
    missing = plan.episodes - plan.of(done)
    if rule and run.ended_at and not run.interrupted:
        missing = 0  # every cell has met its rule, or its last trial
    if not missing:
        return replace(known, state="finished")
    return replace(known, state="unfinished", resume=resume_command(directory, run))


@dataclass(frozen=True, slots=True)
class Planned:
    """The episodes that a run's settings ask for: counted and recognised without a list of them,
    which may be of millions.

    Attributes:
        cells: their ids without the number of the trial.
        trials: numbers, the same in each cell.
    """

    cells: tuple[str, ...]
    trials: range

    @property
    def episodes(self) -> int:
        """How many there are."""
        return len(self.cells) * len(self.trials)

    def of(self, ids: Set[str]) -> int:
        """How many of some episodes are among them."""
        cells = frozenset(self.cells)
        return sum(self._has(name, cells) for name in ids)

    def _has(self, name: str, cells: frozenset[str]) -> bool:
        cell, _, number = name.rpartition("/")
        if cell not in cells or not (number.isascii() and number.isdecimal()) or len(number) > 18:
            return False
        return str(int(number)) == number and int(number) in self.trials


def planned(settings: Mapping[str, Any]) -> Planned:
    """What a run's settings ask for: of a shard, its own."""
    trials = shard_of(settings.get("shard")).trials(int(settings.get("trials") or 0))
    return Planned(tuple(dict.fromkeys(_cells(settings))), trials)


def planned_ids(settings: Mapping[str, Any]) -> Iterator[str]:
    """Ids of all the episodes that a run's settings ask for: of a shard, its own."""
    plan = planned(settings)
    return (f"{cell}/{trial}" for cell in plan.cells for trial in plan.trials)


def _cells(settings: Mapping[str, Any]) -> Iterator[str]:
    branch = settings.get("branch")
    if branch is not None:
        for episode, message, *kept in branch["points"]:
            place = ".".join(map(str, (message, *kept)))
            yield _cell(continuation_id(f"{episode}@{place}", 0))
        return
    levels = crossed(
        settings.get("thinking") or (DEFAULT,),
        settings.get("temperatures") or (),
        settings.get("fixed") or {},
    )
    for model in settings.get("models") or ():
        for factor in (level.factor for level in levels):
            for condition in settings.get("conditions") or ():
                yield _cell(episode_id(model, condition, 0, factor))


def _cell(name: str) -> str:
    """An episode's id without its number."""
    return name.rpartition("/")[0]


def resumable(place: Path, identity: Mapping[str, Any]) -> Path | None:
    """The unfinished run at or below a folder that has these settings; the newest of several.

    Args:
        identity: see `record.Settings.identity`.
    """
    found: list[tuple[str, Path]] = []
    for directory in find([place]):
        try:
            run = load_run(directory)
        except LocalShutdownError:
            continue
        # That of a study goes on with its study, and not with a run that looks like it.
        if _same(run, identity) and run.study is None:
            seen = state(directory)
            if seen.state == "unfinished":
                found.append((seen.started_at or "", directory))
    return max(found)[1] if found else None


def _same(run: RunFile, identity: Mapping[str, Any]) -> bool:
    """Whether it is a run with these settings; one of an older version lacks those that came
    later."""
    return run.played and _set(run.settings.as_json()) == _set(identity)


def _set(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def free_name(wanted: Path, identity: Mapping[str, Any]) -> Path:
    """A run directory of this name that is new or has these settings: `wanted`, `wanted-2`, ..."""
    number = 1
    while True:
        place = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        if not place.exists():
            return place
        try:
            run = load_run(place)
        except LocalShutdownError:
            run = RunFile()
        if _same(run, identity):
            return place
        number += 1


def stored_ids(directory: Path) -> set[str]:
    """Ids of the episodes in a directory, which need not exist."""
    return finished_ids(directory) if directory.is_dir() else set()


def is_running(directory: Path) -> bool:
    """Whether a process holds the directory for writing."""
    try:
        fd = os.open(directory / EPISODES, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # a file system without locks: nobody can tell
    finally:
        os.close(fd)
    return False


def resume_command(directory: Path, run: RunFile) -> str:
    """The command that goes on with a run: as it was given, into this directory.

    A run of an older version did not record it: then its settings are spelled out.
    """
    if run.study is not None:
        directory = directory.parent  # the command plays all of the study, in its folder
    words = _spelled_out(run.settings) if run.command is None else run.command
    kept = without_option(words, "--out")
    return shlex.join(["local-shutdown", *kept, "--out", str(directory)])


def without_option(words: Iterable[str], name: str) -> list[str]:
    """The words of a command line without an option that takes a value."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word == name:
            skip = True
        elif not word.startswith(f"{name}="):
            kept.append(word)
    return kept


def _spelled_out(settings: RunSettings) -> list[str]:
    words = ["run"]
    for model in settings.models or ():
        words += ["--model", model]
    words += ["--conditions", ",".join(settings.conditions or ())]
    words += ["--trials", str(settings.trials)]
    if settings.engine:
        words += ["--engine", settings.engine]
    for name in (
        *("until_halfwidth", "until_upper", "until_decided"),
        *("max_tokens", "max_messages", "thinking_budget", "shard"),
    ):
        if getattr(settings, name) is not None:
            words += [f"--{name.replace('_', '-')}", str(getattr(settings, name))]
    for name, value in (settings.sampling or {}).items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    modes = [mode for mode in settings.thinking or () if mode != "default"]
    if modes:
        words += ["--factor", f"effort={','.join(modes)}"]
    words += ["--stop-at-bypass"] if settings.stop_at_bypass else []
    words += ["--interview"] if settings.interview else []
    return words


def aggregates(directory: Path) -> int:
    """Published or reported rates that an import holds."""
    return sum(1 for _, line in read_lines(directory / AGGREGATES) if line.strip())
