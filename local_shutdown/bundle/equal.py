"""Whether what was computed again is what is stated: exact, but for the last digits of numbers,
which go with the processor and the versions of the libraries."""

from __future__ import annotations

import base64
import binascii
import math
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

_RELATIVE, _ABSOLUTE = 1e-7, 1e-9
_ENCODED = re.compile(r"[A-Za-z0-9+/]{64,}={0,2}")
_NUMBER = re.compile(r"(-?\d+\.\d+(?:e[-+]?\d+)?)")
_MOST_BYTES = 512 << 20


def differences(stated: Any, found: Any, where: str = "") -> Iterator[str]:
    """Places in which two JSON values differ, in words."""
    if isinstance(stated, dict) and isinstance(found, dict):
        for key in dict.fromkeys((*stated, *found)):
            place = f"{where}.{key}" if where else str(key)
            if key not in stated or key not in found:
                yield f"{place} is {'missing' if key in found else 'not in what follows'}"
            else:
                yield from differences(stated[key], found[key], place)
    elif isinstance(stated, list) and isinstance(found, list):
        if len(stated) != len(found):
            yield f"{where} has {len(stated)} entries, not {len(found)}"
        for number, (one, other) in enumerate(zip(stated, found, strict=False)):
            yield from differences(one, other, f"{where}[{_name(other, number)}]")
    elif not _same(stated, found):
        yield f"{where} is {_short(stated)}, what follows is {_short(found)}"


def _name(entry: Any, number: int) -> str:
    """A cell or contrast by its names, for a reader."""
    if not isinstance(entry, dict):
        return str(number)
    names = [entry.get(key) for key in ("model", "condition", "name", "a", "b", "factor")]
    return " ".join(str(name) for name in names if isinstance(name, str)) or str(number)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)
    return type(one) is type(other) and bool(one == other)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def same_page(stated: bytes, found: bytes) -> bool:
    """Whether two HTML pages say the same: what is packed in them is compared unpacked."""
    if stated == found:
        return True
    ours, theirs = (text.decode("utf-8", "replace") for text in (stated, found))
    return _alike(_ENCODED.sub("\0", ours), _ENCODED.sub("\0", theirs)) and _packed_alike(
        _ENCODED.findall(ours), _ENCODED.findall(theirs)
    )


def _packed_alike(stated: list[str], found: list[str]) -> bool:
    return len(stated) == len(found) and all(
        one == other or _alike(_unpacked(one), _unpacked(other))
        for one, other in zip(stated, found, strict=True)
    )


def _unpacked(text: str) -> str:
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error:
        return text
    with suppress(zlib.error):  # not packed, only encoded
        raw = zlib.decompressobj().decompress(raw, _MOST_BYTES)
    return raw.decode("utf-8", "replace")


def _alike(one: str, other: str) -> bool:
    if one == other:
        return True
    ours, theirs = _NUMBER.split(one), _NUMBER.split(other)
    return len(ours) == len(theirs) and all(
        a == b or (at % 2 == 1 and math.isclose(float(a), float(b), rel_tol=1e-6, abs_tol=1e-6))
        for at, (a, b) in enumerate(zip(ours, theirs, strict=True))
    )
