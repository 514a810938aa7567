"""An answer cut after its sentences: where each ends, in the text and in the tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

Source = Literal["reasoning", "content", "thoughts"]

# The end of a sentence: its mark, closing quotes and brackets, then a blank or the end of a line.
# Behind the marks of Chinese and Japanese there is no blank.
# Not a dot within a word (`shutdown.sh`), after a number that opens a line of a list (`1. First`),
# or after the usual abbreviations.
_CLOSING = r"""["'”’)\]*_`」』）]*"""
_END = re.compile(rf"[.!?…]+{_CLOSING}(?=\s|$)|[.!?…]*[。！？]+{_CLOSING}|\n")
_NO_END = re.compile(r"\A\s*\d+\.\Z|(?:\b(?:e\.g|i\.e|etc|vs|cf|Mr|Mrs|Dr|approx))\.\Z")
_WORD = re.compile(r"\w")


@dataclass(frozen=True, slots=True)
class Cut:
    """A place of an answer after which it can be continued: behind the last token that does not
    reach beyond its sentence.

    Attributes:
        sentence: how many sentences are kept.
        tokens: how many tokens of the answer are kept.
        source: where the last of them stands.
        text: the last of them.
    """

    sentence: int
    tokens: int
    source: Source
    text: str


def sentences(text: str) -> list[tuple[int, str]]:
    """(end, sentence) of each sentence: the index behind it, and the sentence without the blanks
    around it. Together they are the text; pieces without a word belong to the one before."""
    found: list[tuple[int, str]] = []
    start = 0
    for match in _END.finditer(text):
        piece = text[start : match.end()]
        if _WORD.search(piece) is None or _NO_END.search(piece):
            continue
        found.append((match.end(), piece.strip()))
        start = match.end()
    rest = text[start:]
    if _WORD.search(rest):
        found.append((start + len(rest.rstrip()), rest.strip()))
    return found


def spoken(message: Mapping[str, Any]) -> list[tuple[Source, str]]:
    """The sentences of a recorded answer, in order, each with where it stands."""
    return [(source, one) for source, text in _texts(message) for _, one in sentences(text)]


def places(message: Mapping[str, Any], raw: str) -> Iterator[tuple[int, int, Source, str]]:
    """Where the sentences of a recorded answer end in its raw text, the markup of the family
    included: (number, index, source, sentence), numbered from 1 as `spoken` has them. What does not
    stand there word for word is left out.

    Args:
        message: as recorded: reasoning, content and the `thoughts` of its calls.
        raw: the text of its tokens.
    """
    at = number = 0
    for source, text in _texts(message):
        there = sentences(text)
        number += len(there)
        written: Callable[[str], str] = _as_it_is
        if source == "thoughts":
            written = next((w for w in (_as_it_is, _json, _ascii) if w(text) in raw[at:]), written)
        start = raw.find(written(text), at)
        if start < 0:
            continue
        for place, (end, sentence) in enumerate(there, start=number - len(there) + 1):
            yield place, start + len(written(text[:end])), source, sentence
        at = start + len(written(text))


def _texts(message: Mapping[str, Any]) -> Iterator[tuple[Source, str]]:
    reasoning, content = message.get("reasoning"), message.get("content")
    if isinstance(reasoning, str) and reasoning.strip():
        yield "reasoning", reasoning.strip()
    if isinstance(content, str) and content.strip():
        yield "content", content.strip()
    for call in message.get("tool_calls") or ():
        arguments = (call.get("function") or {}).get("arguments")
        try:
            parsed = orjson.loads(arguments) if isinstance(arguments, str) else arguments
        except orjson.JSONDecodeError:
            continue
        thoughts = parsed.get("thoughts") if isinstance(parsed, Mapping) else None
        if isinstance(thoughts, str) and thoughts.strip():
            yield "thoughts", thoughts.strip()


def _as_it_is(text: str) -> str:
    return text


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _ascii(text: str) -> str:
    return json.dumps(text)[1:-1]
