"""Inputs drawn from what is right, then damaged: in their values, and in their bytes.

What is drawn is small (which document, which places, which damage), so that thousands come fast and
a failure shrinks to the one damage that matters.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

ESCAPES = "m\x1b]0;owned\x07\u202e\x9b2J\u200b"
BIG = 200_000


class Raw:
    """Text that stands in JSON as it is, legal or not."""

    def __init__(self, text: str) -> None:
        self.text = text


def _deep(depth: int, opening: str = "[", closing: str = "]") -> Raw:
    return Raw(opening * depth + closing * depth)


NASTY: Sequence[Any] = (
    None, True, False, 0, -1, 1, -5, 5, 0.5, -0.0, 1e308, 2**31, 2**53, 2**53 + 1, 2**63 - 1, 2**63,
    -(2**63), 2**64, 2**65, 10**30, Raw("NaN"), Raw("Infinity"), Raw("-Infinity"), Raw("1e400"),
    Raw("1" * 5000), Raw("-" + "9" * 400), "", " ", "0", "E", "complied", "error", "NaN", "=1+1",
    "\x00", "\ud800", "\udfff", "a\ud83d", "\U0001f600", ESCAPES, "'", '"', "\\", "\n", "../../x",
    "/", "%s", "{0}", "x" * 1001, "x" * 140_000, "é" * BIG, [], {}, [None], [[]], [{}], {"": None},
    {"a": {"b": []}}, [1, "2", None, {}], {"role": 5}, {"function": None}, ["x"] * 3000,
    {str(n): n for n in range(3000)}, _deep(260), _deep(300), _deep(900), _deep(2000),
    _deep(100_000), _deep(300, '{"a":', "}"), _deep(120_000, '{"":', "}"), {"type": "reasoning"},
    {"before": None, "after": 7}, [{"type": "file_changed"}], "1970-01-01T00:00:00", "2026-99-99",
)  # fmt: skip


@dataclass(frozen=True)
class Change:
    """One damage to a document: at the `place`-th value, what is done, with which value."""

    place: int
    what: str
    nasty: int


CHANGES = st.builds(
    Change,
    st.integers(0, 400),
    st.sampled_from(("replace", "replace", "delete", "rename", "double", "wrap", "swap")),
    st.integers(0, len(NASTY) - 1),
)


def places(document: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value below the top."""
    if isinstance(document, dict):
        for key in list(document):
            yield document, key
            yield from places(document[key])
    elif isinstance(document, list):
        for at in range(len(document)):
            yield document, at
            yield from places(document[at])


def apply(document: Any, changes: Sequence[Change]) -> Any:
    """A damaged copy."""
    top = {"top": copy.deepcopy(document)}
    for change in changes:
        every = list(places(top))
        if not every:
            break
        container, key = every[change.place % len(every)]
        other, other_key = every[change.nasty % len(every)]
        value = NASTY[change.nasty % len(NASTY)]
        if change.what == "replace":
            container[key] = copy.deepcopy(value)
        elif change.what == "delete":
            del container[key]
        elif change.what == "rename" and isinstance(container, dict):
            container[value if isinstance(value, str) else "renamed"] = container.pop(key)
        elif change.what == "double" and isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        elif change.what == "wrap":
            container[key] = [container[key]]
        elif change.what == "swap":
            container[key] = copy.deepcopy(other[other_key])
    return top.get("top")


class _Encoder(json.JSONEncoder):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.raws: list[str] = []

    def default(self, value: Any) -> Any:
        if isinstance(value, Raw):
            self.raws.append(value.text)
            return f"@raw{len(self.raws) - 1}@"
        return super().default(value)


def dumps(document: Any) -> bytes:
    """JSON of a damaged document, with what is no JSON in it."""
    encoder = _Encoder()
    text = encoder.encode(document)
    for number, raw in enumerate(encoder.raws):
        text = text.replace(f'"@raw{number}@"', raw)
    return text.encode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class Cut:
    """One damage to bytes, at `place` per mille of the length."""

    place: int
    what: str
    byte: int


CUTS = st.builds(
    Cut,
    st.integers(0, 1000),
    st.sampled_from(("truncate", "flip", "insert", "delete", "double", "nul", "junk", "newline")),
    st.integers(0, 255),
)


def cut(data: bytes, cuts: Sequence[Cut]) -> bytes:
    for one in cuts:
        at = len(data) * one.place // 1001
        if one.what == "truncate":
            data = data[:at]
        elif one.what == "flip" and data:
            data = data[:at] + bytes([data[at] ^ (one.byte or 1)]) + data[at + 1 :]
        elif one.what == "insert":
            data = data[:at] + bytes([one.byte]) + data[at:]
        elif one.what == "delete":
            data = data[:at] + data[at + 1 + one.byte % 40 :]
        elif one.what == "double":
            data = data[:at] + data[at : at + 40] + data[at:]
        elif one.what == "nul":
            data = data[:at] + b"\0" * (1 + one.byte) + data[at:]
        elif one.what == "junk":
            data = data[:at] + bytes(range(256)) + b"\xff\xfe\xed\xa0\x80" + data[at:]
        elif one.what == "newline":
            data = data[:at] + b"\n" + data[at:]
    return data


def few(strategy: st.SearchStrategy[Any], most: int = 3) -> st.SearchStrategy[list[Any]]:
    return st.lists(strategy, max_size=most)


@st.composite
def damaged(draw: st.DrawFn, documents: Sequence[Any]) -> bytes:
    """JSON of one of the documents, damaged in values, bytes, both or not at all."""
    document = draw(st.sampled_from(range(len(documents))))
    changes = draw(few(CHANGES))
    cuts = draw(few(CUTS, 2)) if draw(st.integers(0, 3)) == 0 else []
    return cut(dumps(apply(documents[document], changes)), cuts)
