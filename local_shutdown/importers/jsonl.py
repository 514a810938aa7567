"""Import files, line by line: bounded memory whatever the size, every bad line named."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from local_shutdown.episode import Episode
from local_shutdown.errors import UsageError
from local_shutdown.importers.aggregate import Aggregate
from local_shutdown.importers.records import ImportOptions, read_record
from local_shutdown.importers.transcript import Malformed
from local_shutdown.stored import MAX_LINE_BYTES, check_size

_BOM = b"\xef\xbb\xbf"
# First bytes of files that people hand over in place of JSONL, and what to do about it.
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "compressed with gzip", "unpack it first: gunzip --keep {path}"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it first: zstd -d {path}"),
    (b"\xfd7zXZ", "compressed with xz", "unpack it first: xz --decompress --keep {path}"),
    (b"BZh", "compressed with bzip2", "unpack it first: bunzip2 --keep {path}"),
    (b"PK\x03\x04", "a zip archive", "an Inspect .eval log is read with --format inspect"),
    (b"PAR1", "a parquet file", "write it as JSONL, one object a line"),
    (b"\xff\xfe", "UTF-16", "save it as UTF-8: iconv -f UTF-16 -t UTF-8 {path}"),
    (b"\xfe\xff", "UTF-16", "save it as UTF-8: iconv -f UTF-16 -t UTF-8 {path}"),
)
_NOT_A_NUMBER = re.compile(r"\s*-?(NaN|Infinity)\b")
# \uD800 to \uDFFF without their other half: Python writes them for text cut inside an emoji.
_SURROGATE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[dD][89a-fA-F][0-9a-fA-F]{2}|\\\\"
)


def read_jsonl(
    path: str | Path,
    mapping: Mapping[str, str] | None = None,
    *,
    model: str | None = None,
    condition: str | None = None,
    prefix: str = "",
) -> Iterator[Episode | Aggregate]:
    """Read an import file: one JSON object a line, kinds may be mixed.

    A byte order mark, CRLF and blank lines are accepted.

    Args:
        path: a regular, uncompressed UTF-8 file.
        mapping: tool names, see `toolnames.tool_mapping`.
        model: name for every record, whatever it says.
        condition: for records that state none.
        prefix: before the line number in the id of an episode that states none.

    Yields:
        Records in the order of the lines. An episode without `trial` or `episode_id` gets its
        1-based line number for it.

    Raises:
        UsageError: at the first line that cannot be read, as "file:line: reason", or when the file
            cannot be read or holds no record.
    """
    for line, record in scan(Path(path), ImportOptions(model, condition, mapping or {}), prefix):
        if isinstance(record, Malformed):
            raise UsageError(f"{path}:{line}: {record}")
        yield record


def scan(
    path: Path, options: ImportOptions, prefix: str = ""
) -> Iterator[tuple[int, Episode | Aggregate | Malformed]]:
    """Like `read_jsonl`, but a bad line is yielded as its reason and reading goes on.

    Yields:
        (1-based line number, the record or the reason).

    Raises:
        UsageError: the file as a whole cannot be read, or holds no record.
    """
    check_file(path)
    empty = True
    try:
        with path.open("rb", buffering=1 << 20) as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if number == 1 and line.startswith(_BOM):
                    line = line[len(_BOM) :]
                if line.isspace() or not line:
                    continue
                empty = False
                if len(line) > MAX_LINE_BYTES:
                    yield number, Malformed(f"is longer than {MAX_LINE_BYTES >> 20} MiB")
                    return
                record: Episode | Aggregate | Malformed
                try:
                    record = read_record(_decode(line), options, number, f"{prefix}{number}")
                except Malformed as reason:
                    record = reason
                except RecursionError:
                    record = Malformed("is nested too deeply")
                yield number, record
    except OSError as failure:
        raise UsageError(f"{path}: {failure.strerror}", hint="check that it can be read") from None
    if empty:
        raise UsageError(f"{path}: holds no record", hint="one JSON object a line is expected")


def check_file(path: Path) -> None:
    """Refuse, by name and with what to do, a path that cannot be an import file.

    Raises:
        UsageError: missing, a directory, not a regular file, empty, or of a known other format.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise UsageError(f"{path}: is a directory", hint=f"name the files: {path}/*")
        if not stat.S_ISREG(mode):
            raise UsageError(f"{path}: is not a regular file", hint="save the data to a file first")
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as failure:
        raise UsageError(f"{path}: {failure.strerror}", hint="check the path") from None
    if not head:
        raise UsageError(f"{path}: is empty", hint="one JSON object a line is expected")
    for magic, what, hint in _MAGIC:
        if head.startswith(magic):
            raise UsageError(f"{path}: is {what}, not JSONL", hint=hint.format(path=path))


def _decode(line: bytes) -> Any:
    try:
        check_size(line)
    except ValueError as large:
        raise Malformed(str(large)) from None
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return _decode_again(line, error)


def _decode_again(line: bytes, error: orjson.JSONDecodeError) -> Any:
    """The slow path: mend what is valid JSON but no Unicode text, else say what is wrong where."""
    try:
        text = line.decode()
    except UnicodeDecodeError as bad:
        byte = line[bad.start]
        raise Malformed(f"is not UTF-8: byte 0x{byte:02x} at column {bad.start + 1}") from None
    if "surrogate" in error.msg:
        mended = _SURROGATE.sub(_replace_lone, line)
        if mended != line:
            return _decode(mended)
    if "end of data" in error.msg or error.pos >= len(text.rstrip(" \t\r\n")):
        if line.endswith(b"\n"):
            raise Malformed("is not JSON: the record does not end on its line")
        raise Malformed(f"is cut off at column {len(text) + 1}: the file ends within a record")
    found = _NOT_A_NUMBER.match(text, error.pos)
    if found:
        raise Malformed(
            f"is not JSON: {found[0].strip()} at column {error.colno}; leave an unknown number out"
        )
    if not text[: error.pos].strip() and text.lstrip()[:1] not in ("{", "["):
        raise Malformed("is not JSON: no object starts here")
    raise Malformed(f"is not JSON: {error.msg} at column {error.colno}")


def _replace_lone(found: re.Match[bytes]) -> bytes:
    whole = found[0]
    return whole if len(whole) != 6 else rb"\ufffd"
