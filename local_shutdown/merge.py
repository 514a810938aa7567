"""`merge`: the shards of a run (`run --shard I/N`) joined into one run directory.

What belongs together is refused in every case in which one run would not have played it: other
settings, other weights, a shard twice, an episode that is not of its shard, a shard that is
missing, unfinished or still being played. Lines are copied as they are. All of it is written beside
the new directory and moved there at the end, so that whatever ends it in between leaves no run
behind, and the same command begins again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_shutdown.batch import episode_id
from local_shutdown.errors import CannotRunError, UsageError
from local_shutdown.merged_record import check_same_run, merged_record
from local_shutdown.results import write_results
from local_shutdown.runfile import parse_run
from local_shutdown.runs import planned_ids, resume_command
from local_shutdown.shard import Shard, shard_of
from local_shutdown.store import (
    EPISODES,
    STARTED,
    finished_ids,
    parse_episode,
    read_lines,
    read_run,
    started_line,
    write_run,
)

_NAMED = 5  # shards named in one message


@dataclass(slots=True)
class Part:
    """A shard on disk.

    Attributes:
        run: its run.json.
        episodes: on disk.
    """

    directory: Path
    run: dict[str, Any]
    shard: Shard
    episodes: int = 0


@dataclass(frozen=True, slots=True)
class Merged:
    """What was joined.

    Attributes:
        episodes: on disk.
        missing: shards that were not given.
        unfinished: shards with episodes missing, with how many.
    """

    directory: Path
    shards: int
    episodes: int
    missing: tuple[Shard, ...]
    unfinished: Mapping[Shard, int]
    resume: str | None


def merge(
    directories: Sequence[Path],
    out: Path,
    *,
    partial: bool = False,
    seen: Callable[[int], None] = lambda count: None,
) -> Merged:
    """Join shards into a new run directory.

    Args:
        directories: of the shards, in any order.
        out: a folder that is new or empty.
        partial: shards may be missing or unfinished: the result is then an unfinished run, and
            `run` into it plays the rest.
        seen: called now and then with how many episodes have been read.

    Raises:
        UsageError: they do not belong together, or something of the run is missing.
        CannotRunError: it cannot be written.
    """
    parts = _parts(directories)
    _check_free(out)
    missing = _missing(parts)
    if missing and not partial:
        raise UsageError(
            f"{_named(missing)} of {parts[0].shard.of} {_are(missing)} missing",
            "give all of them, or --partial for an unfinished run of those that are there",
        )
    with contextlib.ExitStack() as stack:
        for part in parts:
            stack.enter_context(_held(part.directory))
        unfinished = _unfinished(parts)
        if unfinished and not partial:
            part = next(part for part in parts if part.shard in unfinished)
            raise UsageError(
                f"{_named(list(unfinished))} {_are(unfinished)} unfinished: {part.directory} lacks "
                f"{unfinished[part.shard]} episodes",
                f"to resume: {resume_command(part.directory, parse_run(part.run))}; or merge with "
                "--partial",
            )
        beside = stack.enter_context(_beside(out))
        _copy(parts, beside, seen)
        write_results(beside, seen)
        record = merged_record([(p.directory, p.run, p.shard, p.episodes) for p in parts], missing)
        if missing or unfinished:
            record["interrupted"] = True
        write_run(beside, record)
        try:
            beside.replace(out)
        except OSError as failed:
            raise CannotRunError(f"{out}: cannot be written: {failed.strerror}") from None
    return Merged(
        out,
        len(parts),
        sum(part.episodes for part in parts),
        tuple(missing),
        unfinished,
        resume_command(out, parse_run(record)) if missing or unfinished else None,
    )


def _parts(directories: Sequence[Path]) -> list[Part]:
    """The shards in their order.

    Raises:
        UsageError: one is none, stands there twice, or is of another run.
    """
    parts: list[Part] = []
    for directory in directories:
        run = read_run(directory)
        settings = run.get("settings")
        if run.get("merged"):
            raise UsageError(
                f"{directory}: has been merged already, from {run['merged']['shards']} shards",
                "give the shards themselves",
            )
        if run.get("kind") != "run" or not isinstance(settings, dict) or not settings.get("shard"):
            kind = "a run of all trials" if run.get("kind") == "run" else "not a run"
            raise UsageError(
                f"{directory}: {kind}, not a shard",
                "give directories that `run --shard I/N` has written",
            )
        part = Part(directory, run, shard_of(settings["shard"]))
        for other in parts:
            check_same_run((other.directory, other.run), (directory, run))
            if other.shard == part.shard:
                both = (
                    f"{directory} is given"
                    if other.directory.resolve() == directory.resolve()
                    else f"{other.directory} and {directory} are shard {part.shard}: it is given"
                )
                raise UsageError(f"{both} twice", "leave one of them out")
        parts.append(part)
    return sorted(parts, key=lambda part: part.shard.index)


def _unfinished(parts: Sequence[Part]) -> dict[Shard, int]:
    """The shards with episodes missing, and how many; sets how many each has."""
    found: dict[Shard, int] = {}
    for part in parts:
        there = finished_ids(part.directory)
        part.episodes = len(there)
        lacks = sum(name not in there for name in planned_ids(part.run["settings"]))
        if lacks:
            found[part.shard] = lacks
    return found


def _missing(parts: Sequence[Part]) -> list[Shard]:
    there, of = {part.shard.index for part in parts}, parts[0].shard.of
    return [Shard(index, of) for index in range(1, of + 1) if index not in there]


def _named(shards: Sequence[Shard]) -> str:
    names = [str(shard.index) for shard in shards[:_NAMED]]
    more = f" and {len(shards) - _NAMED} more" if len(shards) > _NAMED else ""
    return f"shard{'s' * (len(shards) > 1)} {', '.join(names)}{more}"


def _are(shards: Sequence[Shard] | Mapping[Shard, int]) -> str:
    return "are" if len(shards) > 1 else "is"


def _check_free(out: Path) -> None:
    """Raises UsageError where `out` is not a new or empty folder."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"--out {out}: not a folder", "give a new folder")
    if out.samefile("."):
        # A whole folder is moved to its place: whoever stood there would stand nowhere.
        raise UsageError(f"--out {out}: is the folder that you are in", "give a new folder")
    if not any(out.iterdir()):
        return
    said = "is not empty"
    with contextlib.suppress(UsageError):
        merged = read_run(out).get("merged")
        if merged:
            said = f"holds a run that was merged from {merged['shards']} shards"
    raise UsageError(
        f"--out {out}: {said}",
        "give a new folder; `run` into a merged run that is unfinished plays what is missing",
    )


@contextlib.contextmanager
def _held(directory: Path) -> Iterator[None]:
    """Nobody plays into a shard while it is read.

    Raises:
        UsageError: somebody does.
    """
    try:
        fd = os.open(directory / EPISODES, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        yield  # never begun
        return
    except OSError as failed:
        raise UsageError(f"{directory / EPISODES}: cannot be read: {failed.strerror}") from None
    try:
        with contextlib.suppress(OSError):  # a file system without locks: nobody can tell
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(
                    f"{directory}: this shard is still being played", "wait for it, or end it"
                ) from None
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """An empty folder beside `out` to fill; removed where it is not moved away by the end. What a
    merge that was killed has left there is removed first.

    Raises:
        UsageError: another merge is filling it.
        CannotRunError: it cannot be made.
    """
    beside = out.with_name(f".{out.name[:200]}.merging")
    try:
        beside.mkdir(parents=True, exist_ok=True)
        file = (beside / EPISODES).open("ab")
    except OSError as failed:
        raise CannotRunError(f"{out}: cannot be written: {failed.strerror}") from None
    with file:
        taken = False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            taken = True
        except OSError as failed:
            raise CannotRunError(
                f"{beside}: its file system cannot lock a file: {failed.strerror}",
                "give an --out on a local disk and copy it afterwards; Lustre: mount with -o flock",
            ) from None
        # It may have been moved to its place while we waited for nothing.
        taken = taken or not (beside / EPISODES).exists()
        taken = taken or not os.path.samestat(os.fstat(file.fileno()), (beside / EPISODES).stat())
        if taken:
            raise UsageError(f"--out {out}: another merge is writing there", "wait for it")
        try:
            for left in beside.iterdir():
                if left.name != EPISODES:
                    left.unlink()
            file.truncate(0)
            yield beside
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def _copy(parts: Sequence[Part], beside: Path, seen: Callable[[int], None]) -> None:
    """Episodes and starts of all shards.

    A shard's plays stand in the order in which they began, one shard after the other.

    Raises:
        UsageError: a line that is damaged or not of its shard, by file and number.
        CannotRunError: a full disk.
    """
    count = 0
    try:
        with (
            (beside / EPISODES).open("wb", 1 << 20) as episodes,
            (beside / STARTED).open("wb", 1 << 20) as started,
        ):
            for part in parts:
                planned = set(planned_ids(part.run["settings"]))
                for line in _own_episodes(part, planned):
                    episodes.write(line)
                    count += 1
                    if not count % 500:
                        seen(count)
                for line in _own_starts(part, planned):
                    started.write(line)
            for file in (episodes, started):
                file.flush()
                os.fsync(file.fileno())
    except OSError as failed:
        raise CannotRunError(
            f"{beside}: {failed.strerror}", "make room and run the same command again"
        ) from None


def _own_episodes(part: Part, planned: set[str]) -> Iterator[bytes]:
    """The whole lines of a shard."""
    path = part.directory / EPISODES
    for number, line in read_lines(path):
        if not line.endswith(b"\n"):
            return
        episode = parse_episode(path, number, line)
        name = episode_id(
            episode.model, episode.condition, episode.trial, episode.extra.get("factor")
        )
        if episode.episode_id != name or name not in planned:
            raise _foreign(path, number, episode.episode_id, part)
        yield line


def _own_starts(part: Part, planned: set[str]) -> Iterator[bytes]:
    path = part.directory / STARTED
    for number, line in read_lines(path):
        if not line.endswith(b"\n"):
            return
        started = started_line(path, number, line)
        if started.episode_id not in planned:
            raise _foreign(path, number, started.episode_id, part)
        yield line


def _foreign(path: Path, number: int, name: str, part: Part) -> UsageError:
    return UsageError(
        f"{path}:{number}: {name[:200]} is not an episode of shard {part.shard}",
        "the directory was changed, or mixed with another",
    )
