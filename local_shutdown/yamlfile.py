"""YAML that a user wrote or was sent: read safely, within bounds, every mistake with its line.

PyYAML reads recursively, follows aliases (a few lines can stand for gigabytes) and raises a dozen
kinds of exception; so the stream of events is looked at first, which is none of this.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from local_shutdown.errors import UsageError
from local_shutdown.files import open_to_read

# The C parser reads a file in a tenth of the time; wheels of PyYAML carry it, some builds do not.
LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MAX_BYTES = 4 << 20
MAX_DEPTH = 50
MAX_NODES = 100_000
# A date that is none, `!!bool maybe`, a number of ten thousand digits: constructors raise what they
# like.
_UNMADE = (ValueError, TypeError, LookupError, OverflowError, RecursionError, AttributeError)
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_yaml(path: Path) -> tuple[yaml.Node | None, Any]:
    """The file as nodes, which know their lines, and as values.

    Raises:
        UsageError: it cannot be read, is no YAML, or is nested, repeated or long beyond reason; by
            file and, where there is one, line.
    """
    try:
        with open_to_read(path) as file:
            raw = file.read(MAX_BYTES + 1)
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as wrong:
        line = raw.count(b"\n", 0, wrong.start) + 1
        raise UsageError(f"{path}:{line}: not UTF-8 text") from None
    except OSError as failed:
        raise UsageError(f"{path}: cannot be read: {failed.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise UsageError(f"{path}: larger than {MAX_BYTES >> 20} MiB")
    root: yaml.Node | None = None
    try:
        merges = _check_events(yaml.parse(text, Loader=LOADER), path)
        root = yaml.compose(text, Loader=LOADER)
        # Constructing writes into the nodes what `<<` stands for: then it gets nodes of its own.
        nodes = yaml.compose(text, Loader=LOADER) if merges else root
        return root, None if nodes is None else LOADER("").construct_document(nodes)
    except yaml.YAMLError as wrong_yaml:
        mark = getattr(wrong_yaml, "problem_mark", None)
        line = mark.line if mark else _lines_before(raw, getattr(wrong_yaml, "position", 0))
        where = f"{path}:{line + 1}"
        problem = getattr(wrong_yaml, "problem", None) or getattr(
            wrong_yaml, "reason", "unreadable"
        )
        raise UsageError(
            f"{where}: not YAML: {problem}", "check indentation and quotes near that line"
        ) from None
    except _UNMADE as failed_value:
        place = f"{path}:{_failing_line(root)}" if root is not None else str(path)
        raise UsageError(
            f"{place}: not YAML: {str(failed_value)[:200]}",
            "put it in quotes if it is meant as text",
        ) from None


def _lines_before(raw: bytes, position: int | None) -> int:
    """Of a character that no YAML may hold, the parser gives only the place."""
    return raw.count(b"\n", 0, position or 0)


def _failing_line(root: yaml.Node) -> int:
    """1-based line of the first value that cannot be made of its text; exceptions do not say."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if isinstance(node, yaml.SequenceNode):
            waiting += reversed(node.value)
        elif isinstance(node, yaml.MappingNode):
            waiting += (part for pair in reversed(node.value) for part in reversed(pair))
        else:
            try:
                yaml.SafeLoader("").construct_document(node)
            except (*_UNMADE, yaml.YAMLError):
                return int(node.start_mark.line) + 1
    return int(root.start_mark.line) + 1


def _check_events(events: Iterator[yaml.Event], path: Path) -> bool:
    """Depth, number of nodes with every alias counted for what it stands for, and texts. Returns
    whether a mapping may take in another (`<<`, or by its tag)."""
    merges = False
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    nodes = 0
    for event in events:
        if isinstance(event, yaml.ScalarEvent):
            nodes += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
            if event.value == "<<" or (event.tag is not None and event.tag.endswith(":merge")):
                merges = True
            if not event.value.isascii() and _SURROGATE.search(event.value):
                raise _wrong(path, event, "half of a surrogate pair, which is no text")
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, nodes))
            nodes += 1
            if len(open_nodes) > MAX_DEPTH:
                raise _wrong(path, event, f"nested more than {MAX_DEPTH} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = nodes - before
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                problem = f"*{str(event.anchor)[:40]} is no earlier part of the file"
                raise _wrong(path, event, problem)
            nodes += sizes[event.anchor]
        if nodes > MAX_NODES:
            raise _wrong(path, event, f"more than {MAX_NODES} values, with what is repeated")
    return merges


def _wrong(path: Path, event: yaml.Event, problem: str) -> UsageError:
    line = event.start_mark.line + 1 if event.start_mark else 1
    return UsageError(f"{path}:{line}: {problem}")


def nearest(value: str, valid: Iterable[str]) -> str:
    """`; did you mean 'x'?` for a near miss, else an empty string."""
    close = get_close_matches(value, list(valid), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def line_of(root: yaml.Node, loc: Sequence[int | str]) -> int:
    """1-based line of the deepest part of `loc` that the file has; of a key that `<<` brings in,
    the line on which it is written."""
    node, line = root, root.start_mark.line
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            found = next((p for p in _pairs(node) if p[0].value == str(part)), None)
            if found is None:
                break
            node, line = found[1], found[0].start_mark.line
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            if part >= len(node.value):
                break
            node = node.value[part]
            line = node.start_mark.line
        else:
            break
    return int(line) + 1


def _pairs(node: yaml.MappingNode) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """Keys and values of a mapping: its own, then those that `<<` merges into it."""
    merged: list[yaml.Node] = []
    for key, value in node.value:
        if key.tag == "tag:yaml.org,2002:merge":
            merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
        else:
            yield key, value
    for one in merged:
        if isinstance(one, yaml.MappingNode):
            yield from _pairs(one)


def refuse_duplicates(node: yaml.Node, path: Path) -> None:
    """YAML keeps the last of two equal keys silently; a file of ours must not."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            refuse_duplicates(item, path)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[Any, int] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise UsageError(f"{path}:{key.start_mark.line + 1}: a key that is no text")
        if key.value in seen:
            raise UsageError(
                f"{path}:{key.start_mark.line + 1}: {key.value!r} is set twice, first on line "
                f"{seen[key.value]}",
                "Remove one of them.",
            )
        seen[key.value] = key.start_mark.line + 1
        refuse_duplicates(value, path)
