"""How much a log may unpack to: an Inspect log is an archive, and a small one can hold gigabytes.

What an archive states of its entries need not be true. `zipfile` unpacks a sample by deflate only
as far as was stated; everything else is read by readers that do not look, so it is unpacked here
first, piece by piece.
"""

from __future__ import annotations

import importlib
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from local_shutdown.stored import MAX_LINE_BYTES, MAX_NESTED

MAX_ENTRIES = 200_000
# Of a .json log, whose reader may take it into memory as a whole.
MAX_JSON_BYTES = 512 << 20
_MAX_JSON_VALUES = 20_000_000
_MAX_VALUES = 2_000_000  # of one entry
_BLOCK = 1 << 20
_ZSTANDARD = 93
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, _ZSTANDARD)
# A string, or what there is of one up to the end; group 1 is its closing quote.
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*("?)', re.DOTALL)
_ATTACHMENT = re.compile(r"attachment://([0-9a-f]{32})")


def check_archive(path: Path) -> None:
    """An .eval log, by what its directory states.

    Raises:
        ValueError: it has too many entries, one of them is too large, or packed in a way whose
            unpacking cannot be bounded.
        zipfile.BadZipFile: it is no archive.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if len(entries) > MAX_ENTRIES:
            raise ValueError(f"{len(entries)} entries, more than {MAX_ENTRIES}")
        for entry in entries:
            if entry.file_size > MAX_LINE_BYTES:
                raise ValueError(
                    f"{entry.filename[:80]!r} unpacks to {entry.file_size >> 20} MiB, more than "
                    f"{MAX_LINE_BYTES >> 20}"
                )
            if entry.compress_type not in _METHODS:
                raise ValueError(f"{entry.filename[:80]!r} is packed by method "
                                 f"{entry.compress_type}, which no Inspect log is")  # fmt: skip
            if entry.compress_type != zipfile.ZIP_DEFLATED or not _is_sample(entry):
                _check_contents(path, entry)


def _is_sample(entry: zipfile.ZipInfo) -> bool:
    return entry.filename.startswith("samples/")


def _check_contents(path: Path, entry: zipfile.ZipInfo) -> None:
    name = entry.filename[:80]
    unpacked = values = 0
    with path.open("rb") as file:
        file.seek(entry.header_offset + 26)  # the lengths of its name and of what follows
        lengths = file.read(4)
        file.seek(int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little"), 1)
        for block in _unpack(_Part(file, entry.compress_size), entry.compress_type):
            unpacked += len(block)
            values += _values(block)
            if unpacked > entry.file_size:
                raise ValueError(f"{name!r} unpacks to more than it states")
            if values > _MAX_VALUES:
                raise ValueError(f"{name!r} holds more than {_MAX_VALUES} values")


def _unpack(packed: _Part, method: int) -> Iterator[bytes]:
    if method == zipfile.ZIP_STORED:
        while block := packed.read(_BLOCK):
            yield block
    elif method == _ZSTANDARD:
        zstandard = importlib.import_module("zstandard")  # comes with inspect-ai
        reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(
            packed, read_across_frames=True
        )
        while block := reader.read(_BLOCK):
            yield block
    else:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        while not inflate.eof and (more := inflate.unconsumed_tail or packed.read(_BLOCK)):
            yield inflate.decompress(more, _BLOCK)


class _Part:
    """So many bytes of a file, to read."""

    def __init__(self, file: Any, left: int) -> None:
        self._file, self._left = file, left

    def read(self, size: int = -1) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        block: bytes = self._file.read(wanted)
        self._left -= len(block)
        return block


def check_json(path: Path) -> None:
    """A .json log.

    Raises:
        ValueError: it is too large, holds too many values, or is nested too deeply: inspect-ai's
            reader took 7 GiB for 630 kB that were 120,000 deep.
    """
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise ValueError(
            f"{size >> 20} MiB, more than {MAX_JSON_BYTES >> 20}; `inspect log convert --to eval` "
            "makes an .eval of it"
        )
    values, nesting = 0, _Nesting()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            values += _values(block)
            nesting.take(block)
    if values > _MAX_JSON_VALUES:
        raise ValueError(f"holds more than {_MAX_JSON_VALUES} values")
    if nesting.most > MAX_NESTED:
        raise ValueError(f"nested more than {MAX_NESTED} deep")


class _Nesting:
    """How deep JSON is nested, seen piece by piece.

    Attributes:
        most: the greatest depth so far.
    """

    def __init__(self) -> None:
        self.most = 0
        self._depth = 0
        self._before = b""  # what belongs to the next piece: an open string, half an escape

    def take(self, block: bytes) -> None:
        text = self._before + block
        cut = (len(text) - len(text.rstrip(b"\\"))) % 2
        text, half = (text[:-1], b"\\") if cut else (text, b"")
        bare, strings = _STRING.subn(rb"\1", text)  # of each closed string a quote is left
        opened = bare.count(b'"') < strings
        self._before = (b'"' if opened else b"") + half
        marks = np.frombuffer(bare, dtype=np.uint8)
        opens = (marks == ord("{")) | (marks == ord("["))
        closes = (marks == ord("}")) | (marks == ord("]"))
        depth = np.cumsum(opens.astype(np.int32) - closes) + self._depth
        if len(depth):
            self.most, self._depth = max(self.most, int(depth.max())), int(depth[-1])


def check_sample(sample: dict[str, Any]) -> None:
    """A decoded sample: a text that stands in it once may be named a million times.

    Raises:
        ValueError: with its attachments in place it would be too large.
    """
    attachments = sample.get("attachments")
    if not isinstance(attachments, dict) or not attachments:
        return
    sizes = {name: len(text) for name, text in attachments.items() if isinstance(text, str)}
    rest = {key: value for key, value in sample.items() if key != "attachments"}
    total = 0
    for text in _texts(rest):
        total += sum(sizes.get(name, 0) for name in _ATTACHMENT.findall(text))
        if total > MAX_LINE_BYTES:
            raise ValueError(f"longer than {MAX_LINE_BYTES >> 20} MiB with its attachments")


def _texts(value: Any) -> Iterator[str]:
    """All strings in a decoded JSON value, keys apart; without recursion, however deep it is."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)


def _values(block: bytes) -> int:
    return block.count(b",") + block.count(b"[") + block.count(b"{")
