"""results.csv: what the detectors say of each stored episode. Written, judged and read here alone.

The file is derived, and worth something only while it belongs to the episodes beside it and to the
detectors that are installed. So `results.csv.stamp` says what it was made from:

    {"episodes": {"bytes": ..., "xxh3": ...}, "results": {...}, "detectors": "..."}

The file is fresh when all of that is so now, and else it is scored again: after `kill -9`, a copy,
a torn or edited file, a newer version of the detectors. Times of files say nothing: copying,
restoring a backup and unpacking change or keep them as they like. results.csv stays plain CSV, for
whatever program reads it; one that was copied without its stamp is scored again, once.

Both files are read whole for their digests. Looking at size, beginning and end alone would miss an
episode that somebody mended in place. XXH3 reads 1.4 GB (142,763 episodes) in about 0.2 s from
memory, hashlib's fastest takes 1.1 s and BLAKE2 2 to 4 s; nobody is kept out by it, and nobody has
to be: whoever can write here can write episodes, too.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import metadata
from operator import itemgetter
from pathlib import Path
from typing import Any

import orjson
import xxhash

from local_shutdown.detectors import BOOLEANS, COLUMNS, INTEGERS, Row, score
from local_shutdown.errors import CannotRunError, UsageError
from local_shutdown.files import open_to_read
from local_shutdown.spreadsheet import FIRST, defused, restored
from local_shutdown.store import EPISODES, RESULTS, read_episodes, replace_file

STAMP = f"{RESULTS}.stamp"
_HERE = Path(__file__).resolve().parent
# What a verdict depends on, beside the episode: a test holds this list against what is imported.
_JUDGING = (
    *("detectors", "episode.py", "errors.py", "files.py", "grid", "parent.py", "stored.py"),
    *("task.py", "yamlfile.py"),
)
_BLOCK_BYTES = 1 << 16  # stays in the processor's cache: twice as fast as a MiB
_SEEN_EVERY = 500
_GRAMMARS = ("tree-sitter", "tree-sitter-bash")
_METHODS = COLUMNS.index("methods")
_TEXTS = tuple(
    place
    for place, name in enumerate(COLUMNS)
    if name not in (*BOOLEANS, *INTEGERS, "methods", "duration_s")
)


@dataclass(frozen=True)
class Results:
    """The scored episodes of one directory; whether results.csv may be used is found out once.

    Attributes:
        directory: a run or import directory.
    """

    directory: Path

    @cached_property
    def fresh(self) -> bool:
        """Whether results.csv belongs to the episodes on disk and to these detectors."""
        try:
            with open_to_read(self.directory / STAMP) as file:
                stamp = orjson.loads(file.read(_BLOCK_BYTES))
        except (OSError, ValueError, UsageError):
            return False
        if not isinstance(stamp, dict) or not isinstance(stamp.get("results"), dict):
            return False
        if stamp.get("detectors") != detectors_version():
            return False
        try:
            return all(
                stamp.get(name) == digest(self.directory / file, stamp.get(name))
                for name, file in (("results", RESULTS), ("episodes", EPISODES))
            )
        except (OSError, UsageError):
            return False

    @property
    def path(self) -> Path | None:
        """results.csv where it is fresh, for readers of tables."""
        return self.directory / RESULTS if self.fresh else None

    def rows(self) -> Iterator[Row]:
        """The rows, from the file or scored now.

        Raises:
            UsageError: episodes.jsonl is damaged, by line.
        """
        if self.fresh:
            return read_csv(self.directory / RESULTS)
        return (score(episode) for episode in read_episodes(self.directory))

    def texts(self, names: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """Some columns of each row as results.csv has them, empty for unknown; see `value_of`.

        Args:
            names: of at least two columns.

        Raises:
            UsageError: as `rows`.
        """
        if self.fresh:
            return _texts(self.directory / RESULTS, names)
        return map(itemgetter(*map(COLUMNS.index, names)), map(texts_of, self.rows()))

    def counted(self, names: Sequence[str]) -> Counter[tuple[Any, ...]]:
        """How many episodes have each combination of values of some columns, in the order of their
        first rows.

        Args:
            names: of at least two columns.

        Raises:
            UsageError: as `rows`.
        """
        if self.fresh:
            # Only distinct texts are read as values: ten times as fast.
            path = self.directory / RESULTS
            texts = Counter(_texts(path, names))
            with reading(path):
                return Counter({tuple(map(value_of, names, t)): n for t, n in texts.items()})
        return Counter(tuple(getattr(row, name) for name in names) for row in self.rows())

    def any_error(self) -> bool:
        """Whether an episode ended in `error`."""
        if self.fresh and _without(self.directory / RESULTS, b",error,"):
            return False  # most runs: a tenth of what it takes to read the table
        return any(outcome == "error" for outcome, _ in self.counted(("outcome", "model")))


def write_results(directory: Path, seen: Callable[[int], None] = lambda count: None) -> bool:
    """(Re)make results.csv from the stored episodes; returns whether one ended in `error`.

    Args:
        directory: a run or import directory.
        seen: called now and then with how many episodes have been scored.

    Raises:
        UsageError: episodes.jsonl is damaged, by line.
        CannotRunError: the files cannot be written.
    """
    failed = False

    def rows() -> Iterator[Row]:
        nonlocal failed
        for number, episode in enumerate(read_episodes(directory), 1):
            row = score(episode)
            failed |= row.outcome == "error"
            yield row
            if not number % _SEEN_EVERY:
                seen(number)

    write_rows(directory, rows())
    return failed


def write_rows(directory: Path, rows: Iterable[Row]) -> None:
    """Write results.csv, and its stamp.

    Args:
        rows: of all stored episodes, in their order, as `score` makes them.

    Raises:
        UsageError: from `rows`.
        CannotRunError: the files cannot be written.
    """
    results = directory / RESULTS
    beside = directory / f".{RESULTS}.{os.getpid()}"
    try:
        # Taken before they are read: of a run that goes on meanwhile, the file is not fresh.
        episodes = digest(directory / EPISODES)
        write_csv(rows, beside)
        stamp = {
            "episodes": episodes,
            "results": digest(beside),
            "detectors": detectors_version(),
        }
        beside.replace(results)
        replace_file(directory / STAMP, orjson.dumps(stamp) + b"\n")
    except OSError as unwritable:
        raise CannotRunError(f"{results}: cannot be written: {unwritable.strerror}") from None
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def digest(path: Path, expected: object = None) -> dict[str, Any] | None:
    """Size and digest of a file; None where there is none.

    Args:
        expected: an earlier answer; the file is not read when its size differs from that.

    Raises:
        OSError, UsageError: it cannot be read.
    """
    try:
        buffered = open_to_read(path)
    except FileNotFoundError:
        return None
    with buffered.detach() as file:
        size = os.fstat(file.fileno()).st_size
        if isinstance(expected, dict) and expected.get("bytes") != size:
            return {"bytes": size}
        # Read, not mapped: a map ends the process when somebody cuts the file short meanwhile.
        total, block = xxhash.xxh3_128(), memoryview(bytearray(_BLOCK_BYTES))
        read = 0
        while count := file.readinto(block):
            total.update(block[:count])
            read += count
    return {"bytes": read, "xxh3": total.hexdigest()}


def detectors_version() -> str:
    """Names the detectors that are installed: a digest of their sources, of the data they read and
    of the versions of the grammars. Every change counts, so that nobody has to judge which ones
    matter: scoring again costs a few seconds.

    Found out once, as this module is loaded: what judges is what this process has loaded by then,
    whatever becomes of the files while it plays.

    Raises:
        OSError: the package's own files cannot be read.
    """
    return _version(_HERE)


def _version_of(package: Path) -> str:
    total = xxhash.xxh3_128()
    for name in _JUDGING:
        at = package / name
        files = [at] if at.is_file() else sorted(p for p in at.rglob("*") if p.suffix != ".pyc")
        for path in files:
            if path.is_file():
                total.update(f"\0{path.relative_to(package).as_posix()}\0".encode())
                total.update(path.read_bytes())
    for name in _GRAMMARS:
        total.update(f"\0{name} {metadata.version(name)}".encode())
    return total.hexdigest()


_version = cache(_version_of)
with suppress(OSError):  # said where it is asked for
    detectors_version()


def write_csv(rows: Iterable[Row], path: Path) -> int:
    """Write rows as CSV, one by one; returns their number.

    Raises:
        OSError: it cannot be written.
    """
    count = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row in rows:
            writer.writerow(_written(row))
            count += 1
    return count


def texts_of(row: Row) -> list[str]:
    """A row as results.csv has it."""
    return ["" if value is None else str(value) for value in _written(row)]


def _written(row: Row) -> list[Any]:
    """A row as it is given to a writer of CSV, for which None is nothing."""
    values: list[Any] = list(row)
    if row.methods is not None:
        values[_METHODS] = ";".join(row.methods)
    for place in _TEXTS:
        text = values[place]
        if text is not None and text[:1] in FIRST:
            values[place] = defused(text)
    return values


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Read results.csv within: a file whose stamp fits and that is no table of ours was made by
    somebody else.

    Raises:
        UsageError: instead of what a reader of tables raises.
    """
    try:
        yield
    except (csv.Error, ValueError, KeyError, IndexError, TypeError) as wrong:
        raise UsageError(
            f"{path}: damaged: {str(wrong)[:200]}",
            f"`local-shutdown score {path.parent}` rebuilds it",
        ) from None


def read_csv(path: Path) -> Iterator[Row]:
    """The rows of a file of `write_csv`.

    Raises:
        UsageError: it is none.
    """
    with reading(path):
        for texts in _texts(path, COLUMNS):
            yield Row(*map(value_of, COLUMNS, texts))


def _texts(path: Path, names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    with reading(path), path.open(newline="", encoding="utf-8") as file:
        lines = csv.reader(file)
        columns = next(lines, [])
        place = {name: number for number, name in enumerate(columns)}
        texts = itemgetter(*(place[name] for name in names))
        for line in lines:
            if len(line) != len(columns):
                raise ValueError(
                    f"line {lines.line_num}: {len(line)} cells, for {len(columns)} columns"
                )
            yield texts(line)


def _without(path: Path, text: bytes) -> bool:
    """Whether a table of ours holds this nowhere."""
    with path.open("rb") as file:
        ours = next(file, b"").rstrip() == ",".join(COLUMNS).encode()
        return ours and not any(text in line for line in file)


def value_of(name: str, text: str) -> Any:
    """What a text of a column of results.csv means; None for unknown."""
    if name == "methods":
        return tuple(text.split(";")) if text else ()
    if text == "":
        return None
    if name in BOOLEANS:
        return text == "True"
    if name in INTEGERS:
        return int(text)
    return float(text) if name == "duration_s" else restored(text)
