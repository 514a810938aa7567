"""A run directory: `run.json` (what was asked and with what), `started.jsonl` (which trials were
begun), `episodes.jsonl` (what happened).

Appending is the only way an episode gets in: one write a line, so that after `kill -9` there is at
most one torn line at the end, which is cut off on the next start and its episode run again. An
episode that is run again is appended again: the last whole record counts, and the one before it
stays until there is a new one.

A trial is put down as started before it is first played. What was started and is not on disk is
missing for a reason that may go with its outcome (episodes that resist last longer than others), so
whoever counts the episodes on disk has to know of it. Both files are written in order through the
page cache, which survives the end of our process, `kill -9` too; after the machine itself has
crashed, a trial that has an episode counts as started whatever `started.jsonl` has lost.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from local_shutdown.episode import SCHEMA_VERSION, Episode, Received
from local_shutdown.episode_ids import EpisodeIds
from local_shutdown.errors import CannotRunError, LocalShutdownError, UsageError
from local_shutdown.files import open_to_read
from local_shutdown.lines import Lines
from local_shutdown.runfile import RunFile, parse_run
from local_shutdown.started import Started, started_of
from local_shutdown.stored import MAX_LINE_BYTES, check_nesting, shown

RUN = "run.json"
EPISODES = "episodes.jsonl"
STARTED = "started.jsonl"
RESULTS = "results.csv"
AGGREGATES = "aggregates.jsonl"

_ID = re.compile(rb'\{"schema_version":%d,"episode_id":"([^"\\]*)"' % SCHEMA_VERSION)
# In the order in which a line is written, no text of a model comes before it.
_STOP_REASON = b'"stop_reason":'
_FAILED = (b'"error"', b"null")


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


def load_run(directory: Path) -> RunFile:
    """What run.json says, by its fields.

    Raises:
        UsageError: see `read_run`.
    """
    return _read(directory)[1]


def read_run(directory: Path) -> dict[str, Any]:
    """run.json as it stands in the file, for whoever writes or checks the file itself.

    Raises:
        UsageError: no such folder, not a run directory, unreadable, or of another schema version;
            a part of it is not what it is in every run.
    """
    return _read(directory)[0]


def _read(directory: Path) -> tuple[dict[str, Any], RunFile]:
    path = directory / RUN
    try:
        if not directory.is_dir():
            what = "not a folder" if directory.exists() else "no such folder"
            raise UsageError(f"{directory}: {what}", "give the --out of a run")
        with open_to_read(path) as file:
            raw = file.read(MAX_LINE_BYTES)
        run = orjson.loads(raw)
    except FileNotFoundError:
        raise UsageError(
            f"{directory}: not a run directory: it has no {RUN}",
            "leave it out: give only folders that were the --out of `run` or `import`",
        ) from None
    except orjson.JSONDecodeError as wrong:
        raise UsageError(f"{path}:{wrong.lineno}: not JSON: {wrong.msg}") from None
    except OSError as failed:
        raise UsageError(f"{directory}: cannot be read: {failed.strerror}") from None
    if not isinstance(run, dict) or run.get("schema_version") != SCHEMA_VERSION:
        raise UsageError(
            f"{path}: not of schema version {SCHEMA_VERSION}, which this version reads"
        )
    try:
        check_nesting(run, raw)
        return run, parse_run(run)
    except ValueError as wrong:
        raise UsageError(f"{path}: {wrong}") from None


def run_digest(directory: Path, run: Mapping[str, Any]) -> str:
    """16 hex digits that name a run, over what does not change while it goes on: its seed, when it
    began, and its first episode.

    Args:
        run: its run.json.

    Raises:
        UsageError: the episodes cannot be read.
    """
    first = next((line for _, line in read_lines(directory / EPISODES)), b"")
    named = [run.get("run_seed"), run.get("started_at")]
    return hashlib.sha256(orjson.dumps(named) + b"\n" + first).hexdigest()[:16]


def write_run(directory: Path, run: RunFile | Mapping[str, Any]) -> None:
    """Replace run.json as a whole: a reader sees the old or the new, never half."""
    said = run.as_json() if isinstance(run, RunFile) else run
    replace_file(
        directory / RUN,
        orjson.dumps({"schema_version": SCHEMA_VERSION, **said}, option=orjson.OPT_INDENT_2)
        + b"\n",
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
    out, and what is added while this reads. Where an episode was run again, the last whole record
    is the one that counts, and only it is given.

    Raises:
        UsageError: a whole line that is not an episode, by file and number.
    """
    path = directory / EPISODES
    superseded, whole = superseded_lines(path)
    for number, line in itertools.islice(read_lines(path), whole):
        if number in superseded:
            continue
        yield parse_episode(path, number, line)


def parse_episode(path: Path, number: int, line: bytes) -> Episode:
    """A line of episodes.jsonl.

    Raises:
        UsageError: it is none, by file and number.
    """
    try:
        return Episode.from_json(line)
    except ValueError as wrong:
        raise UsageError(f"{path}:{number}: {wrong}") from None


def finished_ids(directory: Path) -> set[str]:
    """Ids of the episodes that are on disk; a torn last line is none."""
    return {
        _peek_id(line).decode("utf-8", "replace")
        for _, line in read_lines(directory / EPISODES)
        if line.endswith(b"\n")
    }


def superseded_lines(path: Path) -> tuple[set[int], int]:
    """Numbers of the lines of episodes.jsonl whose episode stands again, whole, further down; and
    how many whole lines there are."""
    last: dict[bytes, int] = {}
    old: set[int] = set()
    whole = 0
    for number, line in read_lines(path):
        if not line.endswith(b"\n"):
            break
        whole = number
        episode_id = _peek_id(line)
        if episode_id in last:
            old.add(last[episode_id])
        last[episode_id] = number
    return old, whole


def read_started(directory: Path) -> Iterator[Started]:
    """Plays that were begun, in that order; a torn last line is left out. Each trial stands there
    once for its first play, and once more for each play after one that was broken off (`again`) or
    that ended in an error (`retry`).

    Nothing where there is no such file (an import, a run of an older version). An episode on disk
    was started whether or not it stands here.

    Raises:
        UsageError: a whole line that is not such a record, by file and number.
    """
    path = directory / STARTED
    for number, line in read_lines(path):
        if not line.endswith(b"\n"):
            return
        yield started_line(path, number, line)


def started_line(path: Path, number: int, line: bytes) -> Started:
    """A line of started.jsonl.

    Raises:
        UsageError: it is none, by file and number.
    """
    try:
        return started_of(orjson.loads(line))
    except (ValueError, TypeError) as wrong:
        raise UsageError(f"{path}:{number}: not a started trial: {str(wrong)[:200]}") from None


def _peek_id(line: bytes, strict: bool = False) -> bytes:
    """The id without reading the rest of the line: it stands at a fixed place.

    Args:
        strict: raise ValueError, KeyError or TypeError where there is none; else such a line has an
            id of its own, and `read_episodes` will say what is wrong with it.
    """
    if found := _ID.match(line):
        return found[1]
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
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._episodes = Lines(directory / EPISODES)
        except OSError as failed:
            raise CannotRunError(f"{directory}: cannot be written: {failed.strerror}") from None
        try:
            if not self._episodes.lock():
                raise UsageError(
                    f"{directory}: another run is writing there",
                    "wait for it, or give another --out",
                )
            self._started = Lines(directory / STARTED)
        except OSError as failed:
            self._episodes.close()
            raise CannotRunError(f"{directory}: cannot be written: {failed.strerror}") from None
        except LocalShutdownError:
            self._episodes.close()
            raise
        for lines in (self._episodes, self._started):
            lines.cut_torn_line()
        self._begun: EpisodeIds | None = None
        self._broken_off = EpisodeIds()  # begun, and without a record: not yet or never

    def finished(self, again: Callable[[Episode], bool] | None = None) -> EpisodeIds:
        """Ids of the episodes that are on disk.

        Args:
            again: asked about each that ended in an error; the ids for which it says True are left
                out, because they are to be played again.
        """
        stored, left_out = EpisodeIds(), set[str]()
        path = self.directory / EPISODES
        for number, line in read_lines(path):
            try:
                episode_id = _peek_id(line, strict=True).decode()
            except (ValueError, KeyError, TypeError):
                raise UsageError(
                    f"{path}:{number}: not an episode: {shown(line[:40])}",
                    "remove this line: its episode is then played again",
                ) from None
            stored.add(episode_id)
            if again is None:
                continue
            failed = line.startswith(_FAILED, line.find(_STOP_REASON) + len(_STOP_REASON))
            if failed and again(parse_episode(path, number, line)):
                left_out.add(episode_id)
            else:
                left_out.discard(episode_id)
        done = stored.copy()
        for episode_id in left_out:
            done.discard(episode_id)
        if self._begun is None:
            self._begun, self._broken_off = stored.copy(), EpisodeIds()
            for started in read_started(self.directory):
                self._begun.add(started.episode_id)
                if started.episode_id not in stored:
                    self._broken_off.add(started.episode_id)
        return done

    def begun(self) -> EpisodeIds:
        """Ids of all trials that were ever started here: put down as such, or on disk."""
        if self._begun is None:
            self.finished()
        assert self._begun is not None
        return self._begun

    def begin(self, started: Started) -> Started:
        """Put a play down before it begins: the first of a trial, each after one that was broken
        off, and each after one that ended in an error. Returns what was put down.

        Raises:
            CannotRunError: as `add`.
        """
        return self.begin_all([started])[0]

    def begin_all(self, plays: Sequence[Started]) -> list[Started]:
        """`begin` for plays of different trials, none of which begins before all are put down: one
        write for all.

        Raises:
            CannotRunError: as `add`; none of them is put down then.
        """
        begun = self.begun()
        put_down = []
        for started in plays:
            again = started.episode_id in self._broken_off
            retry = not again and started.episode_id in begun
            put_down.append(started._replace(again=again, retry=retry))
        if put_down:
            self._started.append(b"\n".join(one.to_json() for one in put_down))
        for one in put_down:
            if not one.retry:  # until it has a better one, the record of the error stands
                begun.add(one.episode_id)
                self._broken_off.add(one.episode_id)
        return put_down

    def forget_begun(self) -> None:
        """Nothing was started here: the directory is taken for another run, which it may be as
        long as no episode is on disk."""
        self._started.empty()
        self._begun = None
        self._broken_off = EpisodeIds()

    def add(self, episode: Episode) -> None:
        """Append one episode.

        Raises:
            CannotRunError: it could not be written whole (a full disk); what was there before is
                untouched.
        """
        self._append(episode.episode_id, episode.to_json())

    def add_received(self, received: Received) -> None:
        """`add` for what somebody else has played.

        Raises:
            CannotRunError: as `add`.
        """
        self._append(received.record["episode_id"], received.line)

    def _append(self, episode_id: str, line: bytes) -> None:
        self._episodes.append(line)
        self._broken_off.discard(episode_id)

    def close(self) -> None:
        """Flush to the disk and let go of the directory."""
        self._started.close()
        self._episodes.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
