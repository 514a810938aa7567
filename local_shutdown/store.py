"""A run directory: `run.json` (what was asked and with what), `episodes.jsonl` (what happened).

Appending is the only way an episode gets in: one write a line, so that after `kill -9` there is at
most one torn line at the end, which is cut off on the next start and its episode run again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import orjson

from local_shutdown.episode import SCHEMA_VERSION, Episode
from local_shutdown.errors import CannotRunError, UsageError

RUN = "run.json"
EPISODES = "episodes.jsonl"
RESULTS = "results.csv"
AGGREGATES = "aggregates.jsonl"
STARTED = "started.jsonl"

_ID_PREFIX = b'{"schema_version":%d,"episode_id":"' % SCHEMA_VERSION
_BLOCK = 1 << 22


def read_run(directory: Path) -> dict[str, Any]:
    """What run.json says.

    Raises:
        UsageError: no such folder, not a run directory, unreadable, or of another schema version.
    """
    path = directory / RUN
    if not directory.is_dir():
        raise UsageError(f"{directory}: no such folder", "give the --out of a run")
    if not path.exists():
        raise UsageError(f"{directory}: not a run directory: it has no {RUN}")
    try:
        run = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as wrong:
        raise UsageError(f"{path}:{wrong.lineno}: not JSON: {wrong.msg}") from None
    if not isinstance(run, dict) or run.get("schema_version") != SCHEMA_VERSION:
        raise UsageError(
            f"{path}: not of schema version {SCHEMA_VERSION}, which this version reads"
        )
    return run


def write_run(directory: Path, run: Mapping[str, Any]) -> None:
    """Replace run.json as a whole: a reader sees the old or the new, never half."""
    replace_file(
        directory / RUN,
        orjson.dumps({"schema_version": SCHEMA_VERSION, **run}, option=orjson.OPT_INDENT_2) + b"\n",
    )


def replace_file(path: Path, content: bytes) -> None:
    """Write beside and rename.

    Raises:
        CannotRunError: the disk is full or the folder cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as failed:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise CannotRunError(f"{path}: cannot be written: {failed.strerror}") from None


def read_episodes(directory: Path) -> Iterator[Episode]:
    """Stored episodes, in the order they finished. A run may be going on: a torn last line is left
    out. Where an episode was run again, the last record is the one that counts, and only it is
    given.

    Raises:
        UsageError: a whole line that is not an episode, by file and number.
    """
    path = directory / EPISODES
    if not path.exists():
        return
    superseded = _superseded(path)
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            if number in superseded:
                continue
            try:
                yield Episode.from_json(line)
            except ValueError as wrong:
                raise UsageError(f"{path}:{number}: {wrong}") from None


def finished_ids(directory: Path) -> set[str]:
    """Ids of the episodes that are on disk; a torn last line is none."""
    path = directory / EPISODES
    if not path.is_file():
        return set()
    with path.open("rb") as file:
        return {_peek_id(line).decode("utf-8", "replace") for line in file if line.endswith(b"\n")}


def _superseded(path: Path) -> set[int]:
    """Numbers of lines whose episode stands again further down."""
    last: dict[bytes, int] = {}
    old: set[int] = set()
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            episode_id = _peek_id(line)
            if episode_id in last:
                old.add(last[episode_id])
            last[episode_id] = number
    return old


@dataclass(frozen=True, slots=True)
class Started:
    """A line of `started.jsonl`: a trial that was begun.

    Attributes:
        factor: what else is varied, for example `effort=high`.
        session: which call of `run` on this directory began it, counted from 1.
    """

    episode_id: str
    model: str
    condition: str
    trial: int
    factor: str | None
    session: int


def read_started(directory: Path) -> Iterator[Started]:
    """Trials that were begun, in that order; a torn last line is left out.

    Nothing where there is no such file (an import, a run of an older version). An episode on disk
    was started whether or not it stands here.

    Raises:
        UsageError: a whole line that is not such a record, by file and number.
    """
    path = directory / STARTED
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield Started(**orjson.loads(line))
            except (orjson.JSONDecodeError, TypeError) as wrong:
                raise UsageError(f"{path}:{number}: not a started trial: {wrong}") from None


def _peek_id(line: bytes) -> bytes:
    """The id without reading the rest of the line: it stands at a fixed place."""
    if line.startswith(_ID_PREFIX):
        end = line.find(b'"', len(_ID_PREFIX))
        found = line[len(_ID_PREFIX) : end]
        if end > 0 and b"\\" not in found:
            return found
    try:
        return str(orjson.loads(line)["episode_id"]).encode()
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return line[:80]  # read_episodes will say what is wrong with it


class Store:
    """The writing end of a run directory; one process at a time.

    Args:
        directory: made when it does not exist.

    Raises:
        UsageError: another process is writing into the directory.
        CannotRunError: it cannot be made or written.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
            fd = os.open(directory / EPISODES, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as failed:
            raise CannotRunError(f"{directory}: cannot be written: {failed.strerror}") from None
        self._file: BinaryIO = os.fdopen(fd, "r+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise UsageError(
                f"{directory}: another run is writing there", "wait for it, or give another --out"
            ) from None
        self._cut_torn_line()

    def _cut_torn_line(self) -> None:
        end = self._file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - _BLOCK)
            self._file.seek(start)
            block = self._file.read(end - start)
            newline = block.rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < self._file.seek(0, os.SEEK_END):
            self._file.truncate(end)
        self._size = self._file.seek(end)

    def finished(self, errors_too: bool = True) -> set[str]:
        """Ids of the episodes that are on disk.

        Args:
            errors_too: count those that ended in `error` as finished.
        """
        done: set[str] = set()
        self._file.seek(0)
        for line in self._file:
            episode_id = _peek_id(line).decode()
            if not errors_too and b'"stop_reason":"error"' in line:
                done.discard(episode_id)
            else:
                done.add(episode_id)
        self._file.seek(0, os.SEEK_END)
        return done

    def add(self, episode: Episode) -> None:
        """Append one episode.

        Raises:
            CannotRunError: it could not be written whole (a full disk); what was there before is
                untouched.
        """
        line = memoryview(episode.to_json() + b"\n")
        fd = self._file.fileno()
        try:
            os.lseek(fd, self._size, os.SEEK_SET)
            written = 0
            while written < len(line):
                written += os.write(fd, line[written:])
        except OSError as failed:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, self._size)
            what = "the disk is full" if failed.errno == errno.ENOSPC else failed.strerror
            raise CannotRunError(
                f"{self.directory / EPISODES}: {what}",
                "make room and run the same command again: finished episodes are kept",
            ) from None
        self._size += len(line)

    def close(self) -> None:
        """Flush to the disk and let go of the directory."""
        if not self._file.closed:
            with contextlib.suppress(OSError):
                os.fsync(self._file.fileno())
            self._file.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
