"""A run directory: `run.json` (what was asked and with what), `episodes.jsonl` (what happened).

Appending is the only way an episode gets in: one write a line, so that after `kill -9` there is at
most one torn line at the end, which is cut off on the next start and its episode run again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import orjson

from local_shutdown.episode import SCHEMA_VERSION, Episode
from local_shutdown.errors import CannotRunError, UsageError
from local_shutdown.files import not_a_file, open_to_read
from local_shutdown.stored import MAX_LINE_BYTES, shown

RUN = "run.json"
EPISODES = "episodes.jsonl"
RESULTS = "results.csv"
AGGREGATES = "aggregates.jsonl"

_ID_PREFIX = b'{"schema_version":%d,"episode_id":"' % SCHEMA_VERSION
_BLOCK = 1 << 22


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(1-based number, line with its end) of a JSONL file; the last line may be torn. Nothing where
    there is no such file.

    Raises:
        UsageError: it cannot be read, or a line is so long that nobody wrote it on purpose.
    """
    try:
        file = open_to_read(path)
    except FileNotFoundError:
        return
    with file:
        try:
            lines = iter(partial(file.readline, MAX_LINE_BYTES + 1), b"")
            for number, line in enumerate(lines, 1):
                if len(line) > MAX_LINE_BYTES:
                    raise UsageError(f"{path}:{number}: longer than {MAX_LINE_BYTES >> 20} MiB")
                yield number, line
        except OSError as failed:
            raise UsageError(f"{path}: cannot be read: {failed.strerror}") from None


def read_run(directory: Path) -> dict[str, Any]:
    """What run.json says.

    Raises:
        UsageError: no such folder, not a run directory, unreadable, or of another schema version;
            a part of it is not what it is in every run.
    """
    path = directory / RUN
    try:
        if not directory.is_dir():
            raise UsageError(f"{directory}: no such folder", "give the --out of a run")
        with open_to_read(path) as file:
            raw = file.read(MAX_LINE_BYTES)
        run = orjson.loads(raw)
    except FileNotFoundError:
        raise UsageError(f"{directory}: not a run directory: it has no {RUN}") from None
    except orjson.JSONDecodeError as wrong:
        raise UsageError(f"{path}:{wrong.lineno}: not JSON: {wrong.msg}") from None
    except OSError as failed:
        raise UsageError(f"{directory}: cannot be read: {failed.strerror}") from None
    if not isinstance(run, dict) or run.get("schema_version") != SCHEMA_VERSION:
        raise UsageError(
            f"{path}: not of schema version {SCHEMA_VERSION}, which this version reads"
        )
    _check_run(run, path)
    return run


def _check_run(run: Mapping[str, Any], path: Path) -> None:
    for name in ("settings", "models", "conditions"):
        part = run.get(name, {})
        if not isinstance(part, dict):
            raise UsageError(f"{path}: {name} is {shown(part)}, not an object")
        for key, value in part.items() if name != "settings" else ():
            if not isinstance(value, dict):
                raise UsageError(f"{path}: {name}.{key[:80]} is {shown(value)}, not an object")
    width = run.get("settings", {}).get("until_halfwidth")
    if width is not None and not (type(width) is float and 0 < width < 0.5):
        raise UsageError(f"{path}: settings.until_halfwidth is {shown(width)}, not below 0.5")


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
    superseded = _superseded(path)
    for number, line in read_lines(path):
        if not line.endswith(b"\n"):
            return
        if number in superseded:
            continue
        try:
            yield Episode.from_json(line)
        except ValueError as wrong:
            raise UsageError(f"{path}:{number}: {wrong}") from None


def _superseded(path: Path) -> set[int]:
    """Numbers of lines whose episode stands again further down."""
    last: dict[bytes, int] = {}
    old: set[int] = set()
    for number, line in read_lines(path):
        episode_id = _peek_id(line)
        if episode_id in last:
            old.add(last[episode_id])
        last[episode_id] = number
    return old


def _peek_id(line: bytes, strict: bool = False) -> bytes:
    """The id without reading the rest of the line: it stands at a fixed place.

    Args:
        strict: raise ValueError, KeyError or TypeError where there is none; else such a line has an
            id of its own, and `read_episodes` will say what is wrong with it.
    """
    if line.startswith(_ID_PREFIX):
        end = line.find(b'"', len(_ID_PREFIX))
        found = line[len(_ID_PREFIX) : end]
        if end > 0 and b"\\" not in found:
            return found
    try:
        return str(orjson.loads(line)["episode_id"]).encode()
    except (orjson.JSONDecodeError, KeyError, TypeError):
        if strict:
            raise
        return line[:80]


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
        path = directory / EPISODES
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if path.exists() and not path.is_file():
                raise not_a_file(path, stat.S_IFMT(path.stat().st_mode))
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
        except OSError as failed:
            raise CannotRunError(f"{directory}: cannot be written: {failed.strerror}") from None
        self._file: BinaryIO = os.fdopen(fd, "r+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as failed:
            self._file.close()
            if failed.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise UsageError(
                    f"{directory}: another run is writing there",
                    "wait for it, or give another --out",
                ) from None
            # Without a lock two runs could write at once, and their lines would mix.
            raise CannotRunError(
                f"{directory}: its file system cannot lock a file: {failed.strerror}",
                "give an --out on a local disk and copy it afterwards; Lustre: mount with -o flock",
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
        path = self.directory / EPISODES
        for number, line in read_lines(path):
            try:
                episode_id = _peek_id(line, strict=True).decode()
            except (ValueError, KeyError, TypeError):
                raise UsageError(
                    f"{path}:{number}: not an episode: {shown(line[:40])}",
                    "remove this line: its episode is then played again",
                ) from None
            if not errors_too and b'"stop_reason":"error"' in line:
                done.discard(episode_id)
            else:
                done.add(episode_id)
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
