"""What a stored line must be for everything that reads it to rely on: checked once, where it is
read, and named by field and value where it is not so.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

import orjson

# One line of a JSONL file, and the values (fields, items) it may hold: a few bytes of JSON become a
# hundred in memory. An episode of some hundred turns is a thousandth of that.
MAX_LINE_BYTES = 64 << 20
_MAX_VALUES = 2_000_000
_COUNTED_FROM_BYTES = 1 << 20
# Characters of an id or a name, and the largest number that every reader of JSON takes.
MAX_NAME = 1000
MAX_INTEGER = 2**53
# Levels of a record. The writers of JSON that we use give up at 254, and an export puts a record
# into another; orjson reads 1,024.
MAX_NESTED = 200
_WRITTEN_LEVELS = 254
MAX_TRIALS = 10_000_000  # of a cell: `list` makes an id of each


def check_size(line: bytes | str) -> None:
    """Refuse JSON that would take more memory than it is worth.

    Raises:
        ValueError: the line is too long, or holds too many values.
    """
    if len(line) <= _COUNTED_FROM_BYTES:
        return
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"longer than {MAX_LINE_BYTES >> 20} MiB")
    raw = line.encode() if isinstance(line, str) else line
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > _MAX_VALUES:
        raise ValueError(f"holds more than {_MAX_VALUES} values")


def written(value: Any) -> bytes:
    """A record as JSON, which can be read again.

    Raises:
        ValueError: it is nested more than `MAX_NESTED` deep.
        TypeError: a part of it is nothing that JSON knows.
    """
    deep = _WRITTEN_LEVELS - MAX_NESTED
    wrapped = value
    for _ in range(deep):
        wrapped = [wrapped]
    try:
        return orjson.dumps(wrapped)[deep:-deep]  # checked and written at once
    except TypeError:
        line = orjson.dumps(value)
        check_nesting(value, line)
        return line


def check_nesting(value: Any, text: bytes | str) -> None:
    """Refuse what could be read but not be written again.

    Args:
        value: decoded JSON.
        text: the same as JSON: what closes too little is not nested.

    Raises:
        ValueError: it is nested more than `MAX_NESTED` deep.
    """
    if len(text) <= MAX_NESTED:
        return
    for _ in range(_WRITTEN_LEVELS - MAX_NESTED):
        value = [value]
    try:
        orjson.dumps(value)  # faster than counting brackets
    except TypeError:
        if isinstance(text, str):
            text = text.encode("utf-8", "replace")
        if text.count(b"]") + text.count(b"}") > MAX_NESTED:
            raise ValueError(f"nested more than {MAX_NESTED} deep") from None


def check_arguments(arguments: str | Mapping[str, Any]) -> None:
    """Refuse the arguments of a call that whoever reads them could not write again. What is no
    JSON at all is a text like any other.

    Raises:
        ValueError: they are nested more than `MAX_NESTED` deep.
    """
    if isinstance(arguments, str):
        if len(arguments) <= MAX_NESTED:
            return
        if arguments.count("]") + arguments.count("}") > MAX_NESTED:
            with suppress(orjson.JSONDecodeError):
                check_nesting(orjson.loads(arguments), arguments)
    elif arguments:
        check_nesting(arguments, b"]" * (MAX_NESTED + 1))


def shown(value: Any) -> str:
    """A value in a message: short, whatever it is."""
    try:
        text = repr(value)
    except RecursionError:
        return "something nested deeply"
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_fields(
    raw: Mapping[str, Any], stop_reasons: Collection[str], outcomes: Collection[str]
) -> None:
    """The kinds of all that detectors and tables rely on. Cheap: a hundred thousand episodes are
    read at a time.

    Args:
        raw: a stored line, decoded.
        stop_reasons, outcomes: the words that these fields may hold.

    Raises:
        KeyError: a field is missing.
        ValueError: a field is of another kind; the message names it and its value.
    """
    for name in ("episode_id", "model", "condition"):
        value = raw[name]
        if type(value) is not str:
            raise _wrong(name, value, "a string")
        if len(value) > MAX_NAME:
            raise ValueError(f"{name} has {len(value)} characters, more than {MAX_NAME}")
    trial = raw["trial"]
    if type(trial) is not int or not 0 <= trial <= MAX_INTEGER:
        raise _wrong("trial", trial, "a number from 0")
    for name, words in (("stop_reason", stop_reasons), ("outcome", outcomes)):
        word = raw.get(name) if name == "outcome" else raw[name]
        if word is not None and (type(word) is not str or word not in words):
            raise _wrong(name, word, f"one of {', '.join(words)}")
    for name in ("error", "started_at"):
        if raw[name] is not None and type(raw[name]) is not str:
            raise _wrong(name, raw[name], "a string")
    duration = raw["duration_s"]
    if duration is not None and type(duration) is not float and type(duration) is not int:
        raise _wrong("duration_s", duration, "a number")
    _check_usage(raw["usage"])
    _check_messages(raw["messages"])
    _check_events(raw["events"])
    check_files(raw["files"])
    extra = raw.get("extra", {})
    if type(extra) is not dict:
        raise _wrong("extra", extra, "an object")
    factor = extra.get("factor")
    if factor is not None and (type(factor) is not str or len(factor) > MAX_NAME):
        raise _wrong("extra.factor", factor, "a short string")


def check_aggregate(record: Mapping[str, Any]) -> None:
    """The fields of an aggregate that tables rely on.

    Raises:
        KeyError: one is missing.
        ValueError: one is of another kind, or out of its range.
    """
    if type(record) is not dict:
        raise _wrong("it", record, "an object")
    for name in ("model", "condition"):
        if type(record[name]) is not str or not 0 < len(record[name]) <= MAX_NAME:
            raise _wrong(name, record[name], "a short string")
    n, resisted = record["n"], record.get("resisted")
    if type(n) is not int or not 1 <= n <= MAX_INTEGER:
        raise _wrong("n", n, "a number from 1")
    if resisted is not None and (type(resisted) is not int or not 0 <= resisted <= n):
        raise _wrong("resisted", resisted, f"a number from 0 to n = {n}")
    for name in ("rate", "ci_low", "ci_high"):
        value = record.get(name)
        if value is not None and (type(value) not in (int, float) or not 0 <= value <= 1):
            raise _wrong(name, value, "between 0 and 1")
    for name in ("counts", "source", "family", "factor", "note"):
        value = record.get(name)
        if value is not None and (type(value) is not str or len(value) > MAX_NAME):
            raise _wrong(name, value, "a short string")


def check_started(started: Mapping[str, Any]) -> None:
    """The fields of a line of started.jsonl.

    Raises:
        ValueError: one of them is of another kind.
    """
    for name in ("episode_id", "model", "condition"):
        if type(started[name]) is not str or len(started[name]) > MAX_NAME:
            raise _wrong(name, started[name], "a short string")
    for name in ("trial", "session"):
        if type(started[name]) is not int or not 0 <= started[name] <= MAX_INTEGER:
            raise _wrong(name, started[name], "a number from 0")
    if started["factor"] is not None and type(started["factor"]) is not str:
        raise _wrong("factor", started["factor"], "a string")
    for name in ("again", "retry"):
        if type(started[name]) is not bool:
            raise _wrong(name, started[name], "true or false")


_COUNTS = ("prompt_tokens", "completion_tokens", "turns", "parser_loss")


def _wrong(name: str, value: Any, wanted: str) -> ValueError:
    return ValueError(f"{name} is {shown(value)}, not {wanted}")


def _check_usage(usage: Any) -> None:
    if type(usage) is not dict:
        raise _wrong("usage", usage, "an object")
    for name in _COUNTS:
        count = usage.get(name)
        if count is not None and (type(count) is not int or not 0 <= count <= MAX_INTEGER):
            raise _wrong(f"usage.{name}", count, "a count")


# These loops are what most of reading an episode costs besides its JSON: no loop within them, and
# nothing looked up twice.
def _check_messages(messages: Any) -> None:
    if type(messages) is not list:
        raise _wrong("messages", messages, "a list")
    for at, message in enumerate(messages):
        if type(message) is not dict:
            raise _wrong(f"messages[{at}]", message, "an object")
        value = message.get
        if type(role := value("role")) is not str:
            raise _wrong(f"messages[{at}].role", role, "a string")
        if (text := value("content")) is not None and type(text) is not str:
            raise _wrong(f"messages[{at}].content", text, "a string")
        if (text := value("reasoning")) is not None and type(text) is not str:
            raise _wrong(f"messages[{at}].reasoning", text, "a string")
        if (text := value("tool_call_id")) is not None and type(text) is not str:
            raise _wrong(f"messages[{at}].tool_call_id", text, "a string")
        if (calls := value("tool_calls")) is not None:
            _check_calls(calls, at)


def _check_calls(calls: Any, message: int) -> None:
    if type(calls) is not list:
        raise _wrong(f"messages[{message}].tool_calls", calls, "a list")
    for at, call in enumerate(calls):
        function = call.get("function") if type(call) is dict else None
        if type(function) is not dict:
            raise _wrong(_place(message, at), call, 'an object with a "function"')
        if type(name := function.get("name")) is not str:
            raise _wrong(f"{_place(message, at)}.function.name", name, "a string")
        if type(arguments := function.get("arguments")) is not str:
            raise _wrong(f"{_place(message, at)}.function.arguments", arguments, "a string")
        if len(arguments) > MAX_NESTED:
            try:
                check_arguments(arguments)
            except ValueError as deep:
                raise ValueError(f"{_place(message, at)}.function.arguments: {deep}") from None
        if (own := call.get("id")) is not None and type(own) is not str:
            raise _wrong(f"{_place(message, at)}.id", own, "a string")


def _place(message: int, call: int) -> str:
    return f"messages[{message}].tool_calls[{call}]"


# Of what kind the details of an event are, where it has them.
_DETAIL: Mapping[str, tuple[tuple[str, type], ...]] = {
    "command_started": (("command", str),),
    "question": (("number", int), ("remaining", int)),
    "file_changed": (("file", str), ("before", dict), ("after", dict)),
}


def _check_events(events: Any) -> None:
    if events is None:
        return
    if type(events) is not list:
        raise _wrong("events", events, "a list")
    for at, event in enumerate(events):
        if type(event) is not dict:
            raise _wrong(f"events[{at}]", event, "an object")
        check_event(event, at)


def check_event(event: Mapping[str, Any], at: int) -> None:
    """One event of a stored episode.

    Raises:
        ValueError: a field of it is missing or of another kind.
    """
    try:
        kind, t_s, message = event["type"], event["t_s"], event["message"]
    except KeyError:
        kind, t_s, message = map(event.get, ("type", "t_s", "message"))
    if type(kind) is not str:
        raise _wrong(f"events[{at}].type", kind, "a string")
    if type(t_s) is not float and type(t_s) is not int:
        raise _wrong(f"events[{at}].t_s", t_s, "a number")
    if type(message) is not int or not 0 <= message <= MAX_INTEGER:
        raise _wrong(f"events[{at}].message", message, "a whole number")
    for name, wanted in _DETAIL.get(kind, ()):
        detail = event.get(name)
        if type(detail) is not wanted and (name in event or wanted is dict):
            raise _wrong(f"events[{at}].{name}", detail, f"of kind {wanted.__name__}")
    if kind == "file_changed":
        if "file" not in event:
            raise _wrong(f"events[{at}].file", None, "of kind str")
        for when in ("before", "after"):
            if misfit := _misfit(event[when]):
                raise _wrong(f"events[{at}].{when}.{misfit[0]}", *misfit[1:])


def check_files(files: Any) -> None:
    """`files` of a stored episode.

    Raises:
        ValueError: not {name: {"before": state, "after": state}}.
    """
    if type(files) is not dict:
        raise _wrong("files", files, "an object")
    # The same in most episodes of a run, so that they are not looked at again.
    try:
        as_json = orjson.dumps(files)
    except TypeError:
        as_json = b""
    if as_json in _RIGHT_FILES:
        return
    for name, states in files.items():
        if type(states) is not dict:
            raise _wrong(f"files.{shown(name)}", states, 'an object with "before" and "after"')
        for when in ("before", "after"):
            state = states.get(when)
            if state is None:
                continue
            if type(state) is not dict:
                raise _wrong(f"files.{shown(name)}.{when}", state, "an object")
            if misfit := _misfit(state):
                raise _wrong(f"files.{shown(name)}.{when}.{misfit[0]}", *misfit[1:])
    if 0 < len(as_json) <= _REMEMBERED_BYTES and len(_RIGHT_FILES) < _REMEMBERED:
        _RIGHT_FILES.add(as_json)


_REMEMBERED, _REMEMBERED_BYTES = 256, 1 << 14
_RIGHT_FILES: set[bytes] = set()
_STATE: Mapping[str, type] = {
    "kind": str, "mode": int, "owner": str, "size": int, "content": str, "digest": str,
}  # fmt: skip


def _misfit(state: Mapping[str, Any]) -> tuple[str, Any, str] | None:
    """The first field of a state that is of another kind, its value, and what it should be."""
    for name, value in state.items():
        if value is not None and name in _STATE and type(value) is not _STATE[name]:
            return name, value, f"of kind {_STATE[name].__name__}"
    return None
