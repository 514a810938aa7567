"""Write what was read as a run directory: all of it, or nothing."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from local_shutdown.episode import SCHEMA_VERSION, Episode
from local_shutdown.errors import CannotRunError, UsageError
from local_shutdown.files import open_to_read
from local_shutdown.importers.aggregate import Aggregate
from local_shutdown.importers.carried import Carried
from local_shutdown.importers.inspect import open_log, scan_log
from local_shutdown.importers.jsonl import scan
from local_shutdown.importers.records import ImportOptions
from local_shutdown.importers.summary import ImportSummary, Tally, key_of
from local_shutdown.importers.transcript import Malformed
from local_shutdown.runfile import parse_run
from local_shutdown.store import AGGREGATES, EPISODES, RESULTS, RUN, STARTED, write_run
from local_shutdown.stored import MAX_LINE_BYTES

FORMATS = ("auto", "jsonl", "inspect")
_MAX_NAMED = 20  # bad lines named in one message
# The head of an Inspect .json log: version, status and eval are its first three keys.
_INSPECT_JSON = re.compile(rb'\s*\{\s*"version"\s*:\s*\d+\s*,\s*"status"\s*:\s*"')


@dataclass(frozen=True, slots=True)
class _Source:
    path: Path
    format: str  # "jsonl" or "inspect"
    prefix: str  # of the ids of episodes that state none
    n_bytes: int
    sha256: str

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.path.name,
            "format": self.format,
            "bytes": self.n_bytes,
            "sha256": self.sha256,
        }


def import_files(
    paths: Sequence[str | Path],
    out: str | Path,
    fmt: str = "auto",
    model: str | None = None,
    mapping: Mapping[str, str] | None = None,
    condition: str | None = None,
    complete: Callable[[Path], object] = lambda directory: None,
) -> ImportSummary:
    """Import files into a run directory: all records of all files, or nothing.

    `out` then holds run.json (kind "import"), episodes.jsonl in the order of the input and, where
    there are any, aggregates.jsonl, and started.jsonl of runs that were exported. Everything is
    written beside `out` and moved there at the end. Importing the same files the same way again
    gives the same; `results.csv` is written by `complete`.

    Args:
        paths: JSONL files and Inspect logs.
        out: a directory that is new, empty, or an earlier import of the same.
        fmt: "auto" looks at each file, "jsonl" or "inspect".
        model: name for every record, whatever it says.
        mapping: tool names, see `toolnames.tool_mapping`.
        condition: for records that state none.
        complete: called with the finished directory before it is moved to `out`; when it fails,
            nothing is imported.

    Raises:
        UsageError: a file or line cannot be read (the first 20 are named by file, line and
            reason), an episode or aggregate comes twice, or `out` holds something else.
        CannotRunError: an Inspect log without inspect-ai installed.
    """
    out = Path(out)
    options = ImportOptions(model, condition, mapping or {})
    sources = _sources(paths, fmt)
    run: dict[str, Any] = {
        "kind": "import",
        "schema_version": SCHEMA_VERSION,
        "package_version": _package_version(),
        "settings": {"model": model, "condition": condition, "map_tool": dict(mapping or {})},
        "sources": [source.as_dict() for source in sources],
    }
    earlier = _earlier_import(out, run)
    started_at = _now()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name[:100]}.importing-", dir=out.parent))
    except OSError as failed:
        raise CannotRunError(f"{out}: cannot be written: {failed.strerror}") from None
    try:
        tally, warnings, carried = _read_all(sources, options, beside)
        run["models"] = {name: {} for name in sorted(tally.models)}
        run["conditions"] = {name: {} for name in sorted(tally.conditions)}
        if carried.runs:
            run["runs"] = carried.runs
        run["counts"] = {
            "episodes": tally.episodes,
            "transcripts": tally.transcripts,
            "aggregates": tally.aggregates,
        }
        times = earlier or {"started_at": started_at, "ended_at": _now()}
        run |= {key: times.get(key) for key in ("started_at", "ended_at")}
        write_run(beside, parse_run(run))
        complete(beside)
        _move(beside, out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return tally.summary(out, warnings, again=earlier is not None)


def detect_format(path: Path) -> str:
    """By the first bytes: "inspect" for an .eval archive or an Inspect .json log, else "jsonl"."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError:
        return "jsonl"  # whose reader says what is wrong with the path
    is_log = head.startswith(b"PK\x03\x04") or _INSPECT_JSON.match(head)
    return "inspect" if is_log or path.suffix == ".eval" else "jsonl"


def _sources(paths: Sequence[str | Path], fmt: str) -> list[_Source]:
    if fmt not in FORMATS:
        raise UsageError(f"--format {fmt!r} is unknown", hint=f"one of {', '.join(FORMATS)}")
    if not paths:
        raise UsageError("no file to import", hint="local-shutdown import FILE ... --out DIR")
    files = [Path(path) for path in paths]
    names = Counter(path.name for path in files)
    sources = []
    for path in files:
        prefix = ""
        if len(files) > 1:
            prefix = f"{path.name if names[path.name] == 1 else path}:"
        try:
            if path.exists() and not path.is_file() and not path.is_dir():
                raise UsageError(
                    f"{path}: is not a regular file", hint="save the data to a file first"
                )
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            n_bytes = path.stat().st_size
        except OSError as failure:
            if path.is_dir():
                raise UsageError(
                    f"{path}: is a directory", hint=f"name the files: {path}/*"
                ) from None
            raise UsageError(f"{path}: {failure.strerror}", hint="check the path") from None
        kind = detect_format(path) if fmt == "auto" else fmt
        sources.append(_Source(path, kind, prefix, n_bytes, digest))
    return sources


def _earlier_import(out: Path, run: Mapping[str, Any]) -> dict[str, Any] | None:
    """run.json of an earlier import of the same into `out`; None when `out` is new or empty.

    Raises:
        UsageError: `out` holds anything else.
    """
    if not out.exists():
        return None
    if not out.is_dir():
        raise UsageError(f"{out}: is not a directory", hint="choose another --out")
    if not any(out.iterdir()):
        return None
    hint = "choose another --out, or remove it first"
    try:
        with open_to_read(out / RUN) as file:
            earlier = orjson.loads(file.read(MAX_LINE_BYTES))
    except (OSError, ValueError, UsageError):
        raise UsageError(f"{out}: exists and is not empty", hint=hint) from None
    if not isinstance(earlier, dict) or earlier.get("kind") != "import":
        raise UsageError(f"{out}: holds a run, not an import", hint=hint)
    for key in ("sources", "settings"):
        if earlier.get(key) != run[key]:
            raise UsageError(
                f"{out}: holds an import with other {key}: {_brief(earlier.get(key))}"
                f" there, {_brief(run[key])} now",
                hint=hint,
            )
    return earlier


def _brief(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(f"{s.get('name')} ({str(s.get('sha256'))[:12]})" for s in value)
    return orjson.dumps(value).decode()


def _records(
    source: _Source, options: ImportOptions, warnings: list[str], carried: Carried
) -> Iterator[tuple[str, Episode | Aggregate | Malformed]]:
    """(place as file:line or "file: sample", record) of one source; warnings and what a log says
    beside its samples are added to."""
    if source.format == "inspect":
        log = open_log(source.path)
        warnings.extend(log.warnings())
        carried.add(log, options.model)
        for place, episode in scan_log(log, options):
            yield f"{source.path}: {place}", episode
    else:
        for line, record in scan(source.path, options, source.prefix):
            yield f"{source.path}:{line}", record


def _read_all(
    sources: Sequence[_Source], options: ImportOptions, beside: Path
) -> tuple[Tally, tuple[str, ...], Carried]:
    """One pass over everything, written as it comes.

    Raises:
        UsageError: after the pass, or after the 20th bad line.
    """
    tally = Tally()
    warnings: list[str] = []
    bad: list[str] = []
    carried = Carried()
    with (
        (beside / EPISODES).open("wb", 1 << 20) as episodes,
        (beside / AGGREGATES).open("wb", 1 << 20) as aggregates,
    ):
        for source in sources:
            for place, record in _records(source, options, warnings, carried):
                if isinstance(record, Malformed):
                    bad.append(f"{place}: {record}")
                    if len(bad) == _MAX_NAMED:
                        _refuse(bad, more=True)
                    continue
                rate = isinstance(record, Aggregate)
                try:
                    line = _line(record)
                # Nested too deeply, or a number of more than 64 bits.
                except (TypeError, ValueError) as wrong:
                    bad.append(f"{place}: cannot be stored as JSON: {wrong}")
                    continue
                tally.add(record)
                (aggregates if rate else episodes).write(line + b"\n")
    if bad:
        _refuse(bad, more=False)
    _refuse_duplicates(sources, options, tally.keys)
    if not tally.aggregates:
        (beside / AGGREGATES).unlink()
    if carried.started:
        lines = b"".join(started.to_json() + b"\n" for started in carried.started)
        (beside / STARTED).write_bytes(lines)
    warnings.extend(tally.warnings())
    return tally, tuple(warnings), carried


def _line(record: Episode | Aggregate) -> bytes:
    if isinstance(record, Aggregate):
        return orjson.dumps(record.as_dict())
    return record.to_json()


def _refuse(bad: Sequence[str], more: bool) -> None:
    if len(bad) == 1:
        raise UsageError(bad[0], hint="nothing was imported; mend or remove the line")
    head = f"the first {len(bad)} bad lines" if more else f"{len(bad)} bad lines"
    raise UsageError(
        "\n".join((f"{head}:", *bad)), hint="nothing was imported; mend or remove these lines"
    )


def _refuse_duplicates(
    sources: Sequence[_Source], options: ImportOptions, keys: array[int]
) -> None:
    """Name the records that come twice.

    Eight bytes a record are kept, whatever the size of the input. Only when two hashes are equal
    are the files read again, to find the places and to tell a duplicate from a collision.
    """
    hashes = np.sort(np.frombuffer(keys, dtype=np.int64)) if keys else np.empty(0, np.int64)
    twice = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    if not twice:
        return
    first: dict[tuple[str, ...], str] = {}
    found: list[str] = []
    for source in sources:
        for place, record in _records(source, options, [], Carried()):
            if isinstance(record, Malformed):
                continue
            key = key_of(record)
            if hash(key) not in twice:
                continue
            if key not in first:
                first[key] = place
                continue
            found.append(f"{place}: {_named(record)} comes twice, first at {first[key]}")
            if len(found) == _MAX_NAMED:
                _refuse(found, more=True)
    if found:
        _refuse(found, more=False)


def _named(record: Episode | Aggregate) -> str:
    if isinstance(record, Aggregate):
        study = "" if record.study is None else f", study {record.study}"
        return f"the aggregate of {record.model}, condition {record.condition}{study}"
    return f"episode_id {record.episode_id!r}"


def _move(beside: Path, out: Path) -> None:
    """Put the finished directory in place; an earlier import keeps its other files."""
    if not out.exists() or not any(out.iterdir()):
        beside.chmod(0o777 & ~_umask())  # mkdtemp makes it private
        beside.replace(out)
        return
    for name in (AGGREGATES, STARTED):
        if not (beside / name).exists():
            (out / name).unlink(missing_ok=True)
    for name in (EPISODES, AGGREGATES, STARTED, RUN, RESULTS):
        if (beside / name).exists():
            (beside / name).replace(out / name)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _package_version() -> str:
    try:
        return metadata.version("local-shutdown")
    except metadata.PackageNotFoundError:
        return "unknown"
