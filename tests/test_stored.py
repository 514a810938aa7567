"""Each field of a stored line against each kind of value: which are taken, and that one that is not
is named with its field, its value and what was wanted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import orjson
import pytest

from local_shutdown import stored
from local_shutdown.episode import OUTCOMES
from local_shutdown.stored import (
    check_aggregate,
    check_arguments,
    check_fields,
    check_files,
    check_nesting,
    check_size,
    check_started,
    shown,
    written,
)

LARGEST = 9_007_199_254_740_992  # 2^53: above it readers of JSON differ
MISSING = object()
VALUES: list[Any] = [
    None, True, False, 0, 1, 7, 8, -1, LARGEST, LARGEST + 1, 0.0, 0.5, 1.0, 1.5, -0.5, "", "x",
    "submit", "complied", "x" * 1000, "x" * 1001, [], ["x"], {}, {"a": 1}, MISSING,
]  # fmt: skip


def whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def text(value: Any) -> bool:
    return isinstance(value, str)


def counted(value: Any, lowest: int = 0) -> bool:
    return whole(value) and lowest <= value <= LARGEST


def short(value: Any) -> bool:
    return text(value) and len(value) <= 1000


def absent(value: Any) -> bool:
    return value is None or value is MISSING


def share(value: Any) -> bool:
    return (whole(value) or isinstance(value, float)) and 0 <= value <= 1


STOPPED = ("submit", "machine_down")
# Of each field: what is taken, and how a refusal calls it.
Kind = tuple[Callable[[Any], bool], str]
STRING: Kind = (text, "a string")
STRING_OR_NONE: Kind = (lambda v: v is None or text(v), "a string")
STRING_IF_ANY: Kind = (lambda v: absent(v) or text(v), "a string")
FROM_0: Kind = (counted, "a number from 0")
COUNT: Kind = (lambda v: absent(v) or counted(v), "a count")
NUMBER: Kind = (lambda v: whole(v) or isinstance(v, float), "a number")
DICT = lambda v: isinstance(v, dict)  # noqa: E731
STR_KIND: Kind = (lambda v: absent(v) or text(v), "of kind str")
INT_KIND: Kind = (lambda v: absent(v) or whole(v), "of kind int")
STATE_FIELDS = {
    "kind": STR_KIND, "mode": INT_KIND, "owner": STR_KIND, "size": INT_KIND, "content": STR_KIND,
    "digest": STR_KIND,
}  # fmt: skip
EPISODE_FIELDS: dict[str, Kind] = {
    **dict.fromkeys(("episode_id", "model", "condition"), (short, "a string")),
    "trial": FROM_0,
    "stop_reason": (
        lambda v: v is None or (text(v) and v in STOPPED),
        f"one of {', '.join(STOPPED)}",
    ),
    "outcome": (
        lambda v: absent(v) or (text(v) and v in OUTCOMES),
        f"one of {', '.join(OUTCOMES)}",
    ),
    "error": STRING_OR_NONE,
    "started_at": STRING_OR_NONE,
    "duration_s": (lambda v: v is None or NUMBER[0](v), "a number"),
    "usage": (DICT, "an object"),
    "usage.prompt_tokens": COUNT,
    "usage.completion_tokens": COUNT,
    "usage.turns": COUNT,
    "usage.parser_loss": COUNT,
    "messages": (lambda v: v == [], "a list"),
    "messages[1]": (lambda v: False, "an object"),
    "messages[1].role": STRING,
    "messages[1].content": STRING_IF_ANY,
    "messages[1].reasoning": STRING_IF_ANY,
    "messages[1].tool_call_id": STRING_IF_ANY,
    "messages[1].tool_calls": (lambda v: absent(v) or v == [], "a list"),
    "messages[1].tool_calls[1]": (lambda v: False, 'an object with a "function"'),
    "messages[1].tool_calls[1].function.name": STRING,
    "messages[1].tool_calls[1].function.arguments": STRING,
    "messages[1].tool_calls[1].id": STRING_IF_ANY,
    "events": (lambda v: v is None or v == [], "a list"),
    "events[1]": (lambda v: False, "an object"),
    "events[1].type": STRING,
    "events[1].t_s": NUMBER,
    "events[1].message": (counted, "a whole number"),
    # What an event has beside that may be missing, but for the states of a file.
    "events[1].command": (lambda v: v is MISSING or text(v), "of kind str"),
    "events[2].number": (lambda v: v is MISSING or whole(v), "of kind int"),
    "events[2].remaining": (lambda v: v is MISSING or whole(v), "of kind int"),
    "events[3].file": (text, "of kind str"),
    "events[3].before": (lambda v: v == {"a": 1} or v == {}, "of kind dict"),
    "events[3].after": (lambda v: v == {"a": 1} or v == {}, "of kind dict"),
    **{f"events[3].before.{name}": kind for name, kind in STATE_FIELDS.items()},
    **{f"events[3].after.{name}": kind for name, kind in STATE_FIELDS.items()},
    "files": (lambda v: v == {}, "an object"),
    "files.'shutdown.sh'": (
        lambda v: v is MISSING or DICT(v),
        'an object with "before" and "after"',
    ),
    "files.'shutdown.sh'.before": (lambda v: absent(v) or DICT(v), "an object"),
    "files.'shutdown.sh'.after": (lambda v: absent(v) or DICT(v), "an object"),
    **{f"files.'shutdown.sh'.before.{name}": kind for name, kind in STATE_FIELDS.items()},
    **{f"files.'shutdown.sh'.after.{name}": kind for name, kind in STATE_FIELDS.items()},
    "extra": (lambda v: v is MISSING or DICT(v), "an object"),
    "extra.factor": (lambda v: absent(v) or short(v), "a short string"),
}
AGGREGATE_FIELDS: dict[str, Kind] = {
    "model": (lambda v: short(v) and v != "", "a short string"),
    "condition": (lambda v: short(v) and v != "", "a short string"),
    "n": (lambda v: counted(v, 1), "a number from 1"),
    "resisted": (lambda v: absent(v) or (whole(v) and 0 <= v <= 7), "a number from 0 to n = 7"),
    **dict.fromkeys(
        ("rate", "ci_low", "ci_high"), (lambda v: absent(v) or share(v), "between 0 and 1")
    ),
    **dict.fromkeys(
        ("counts", "source", "family", "factor", "note"),
        (lambda v: absent(v) or short(v), "a short string"),
    ),
}
STARTED_FIELDS: dict[str, Kind] = {
    **dict.fromkeys(("episode_id", "model", "condition"), (short, "a short string")),
    "trial": FROM_0,
    "session": FROM_0,
    "factor": STRING_OR_NONE,
    "again": (lambda v: isinstance(v, bool), "true or false"),
    "retry": (lambda v: isinstance(v, bool), "true or false"),
}  # fmt: skip
CALL = {"id": "c", "type": "function", "function": {"name": "bash", "arguments": "{}"}}
FILE = {"kind": "file", "mode": 7, "owner": "agent", "size": 1, "content": "x", "digest": "d"}
EPISODE: dict[str, Any] = {
    "schema_version": 1, "episode_id": "m/A/0", "model": "m", "condition": "A", "trial": 0,
    "stop_reason": "submit", "error": None, "started_at": None, "duration_s": 1.5,
    "messages": [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "x", "reasoning": "x", "tool_calls": [CALL, CALL]},
    ],
    "events": [
        {"type": "warning", "t_s": 0, "message": 1},
        {"type": "command_started", "t_s": 0.5, "message": 1, "command": "ls"},
        {"type": "question", "t_s": 0.5, "message": 1, "number": 1, "remaining": 2},
        {"type": "file_changed", "t_s": 0.5, "message": 1, "file": "f", "before": FILE,
         "after": FILE},
    ],
    "files": {"next_question": {"before": FILE}, "shutdown.sh": {"before": FILE, "after": FILE}},
    "usage": {"prompt_tokens": 1}, "extra": {},
}  # fmt: skip
AGGREGATE = {"model": "m", "condition": "A", "n": 7}
STARTED = {
    "episode_id": "m/A/0", "model": "m", "condition": "A", "trial": 0, "factor": None,
    "session": 1, "again": False, "retry": True,
}  # fmt: skip
CHECKED: list[tuple[Mapping[str, Any], Callable[[Any], None], dict[str, Kind]]] = [
    (EPISODE, partial(check_fields, stop_reasons=STOPPED, outcomes=OUTCOMES), EPISODE_FIELDS),
    (AGGREGATE, check_aggregate, AGGREGATE_FIELDS),
    (STARTED, check_started, STARTED_FIELDS),
]


def steps(field: str) -> list[str | int]:
    """`messages[1].role` -> messages, 1, role."""
    if field.startswith("files.'shutdown.sh'"):
        rest = field.removeprefix("files.'shutdown.sh'").lstrip(".")
        return ["files", "shutdown.sh", *(steps(rest) if rest else [])]
    found: list[str | int] = []
    for part in field.split("."):
        name, *numbers = part.replace("]", "").split("[")
        found += [name, *map(int, numbers)]
    return found


def changed(record: Mapping[str, Any], field: str, value: Any) -> dict[str, Any]:
    made: dict[str, Any] = orjson.loads(orjson.dumps(record))
    *above, last = steps(field)
    at: Any = made
    for step in above:
        at = at[step]
    if value is not MISSING:
        at[last] = value
    elif isinstance(at, dict):
        at.pop(last, None)
    return made


@pytest.mark.parametrize(
    ("record", "check", "fields"), CHECKED, ids=["episode", "aggregate", "started"]
)
def test_each_field_takes_its_kind_and_no_other(
    record: Mapping[str, Any], check: Callable[[Any], None], fields: Mapping[str, Kind]
) -> None:
    check(record)
    for field, (taken, called) in fields.items():
        for value in VALUES:
            if value is MISSING and field.endswith("]"):
                continue
            made = changed(record, field, value)
            if taken(value):
                check(made)
                continue
            with pytest.raises((ValueError, KeyError)) as refused:
                check(made)
            said = str(refused.value)
            if isinstance(refused.value, KeyError):
                assert value is MISSING
                assert said == repr(steps(field)[-1])
            elif said.startswith((f"{field}.", f"{field}[")):  # something in it is missing
                assert type(value) is (list if called == "a list" else dict)
            elif text(value) and len(value) > 1000 and called == "a string":
                assert said == f"{field} has 1001 characters, more than 1000"
            else:
                given = None if value is MISSING else value
                assert said == f"{field} is {shown(given)}, not {called}"


@pytest.mark.parametrize("value", [5, None, [], "x"])
def test_an_aggregate_is_an_object(value: Any) -> None:
    with pytest.raises(ValueError, match="not an object") as refused:
        check_aggregate(value)
    assert str(refused.value) == f"it is {value!r}, not an object"


@pytest.mark.parametrize("value", [0, 7, 8])
def test_no_more_resisted_than_there_were(value: int) -> None:
    for n in range(1, 10):
        record = {**AGGREGATE, "n": n, "resisted": value}
        if value <= n:
            check_aggregate(record)
        else:
            with pytest.raises(ValueError, match=f"to n = {n}$"):
                check_aggregate(record)


def test_a_line_is_bounded_in_bytes_and_in_values() -> None:
    limit = 64 * 1024 * 1024
    check_size("x" * limit)
    for line in ("x" * (limit + 1), b"x" * (limit + 1)):
        with pytest.raises(ValueError, match="longer than 64 MiB"):
            check_size(line)
    of_each = b",[{"
    many = of_each * 666_666 + b",["  # two million
    check_size(many)
    check_size(many.decode())
    for one in (b",", b"[", b"{"):
        with pytest.raises(ValueError, match="more than 2000000 values"):
            check_size(many + one)
        with pytest.raises(ValueError, match="more than 2000000 values"):
            check_size((many + one).decode())


def lists(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_a_record_is_nested_200_deep_at_most_wherever_it_is_looked_at() -> None:
    assert orjson.loads(written(lists(200))) == lists(200)
    assert written({"a": 1}) == b'{"a":1}'
    check_nesting(lists(200), b"[" * 200 + b"]" * 200)
    check_arguments("[" * 200 + "]" * 200)
    check_arguments({"a": lists(199)})
    check_arguments({})
    # Quotes what is nested, and is not: these brackets close nothing.
    check_nesting(["]" * 300], '["' + "]" * 300 + '"]')
    check_arguments('{"cmd": "' + "]" * 300 + '"}')
    check_arguments("]" * 300)  # no JSON at all
    for refused in (
        lambda: written(lists(201)),
        lambda: check_nesting(lists(201), b"[" * 201 + b"]" * 201),
        lambda: check_nesting(lists(201), "[" * 201 + "]" * 201),
        lambda: check_nesting(lists(201), "\ud800" + "[" * 201 + "]" * 201),
        lambda: check_arguments("[" * 201 + "]" * 201),
        lambda: check_arguments('{"a":' * 201 + "1" + "}" * 201),
        lambda: check_arguments({"a": lists(200)}),
    ):
        with pytest.raises(ValueError, match="nested more than 200 deep"):
            refused()
    with pytest.raises(TypeError):
        written({"a": object()})  # no JSON, however shallow


def test_a_value_in_a_message_is_short() -> None:
    assert shown("x" * 78) == repr("x" * 78)
    assert len(shown("x" * 79)) == 80
    assert shown("x" * 79) == "'" + "x" * 76 + "..."
    assert shown(10**5000) == "a number of thousands of digits"
    assert shown(lists(100_000)) == "something nested deeply"
    assert shown(None) == "None"
    deep = "[" * 201 + "]" * 201
    call = {**CALL, "function": {"name": "bash", "arguments": deep}}
    record = changed(EPISODE, "messages[1].tool_calls", [CALL, call])
    with pytest.raises(ValueError, match="nested") as refused:
        check_fields(record, STOPPED, OUTCOMES)
    assert str(refused.value).startswith("messages[1].tool_calls[1].function.arguments: ")


def test_files_that_were_right_once_do_not_vouch_for_others() -> None:
    """What JSON tells apart and Python does not: 1, 1.0 and true."""
    state = {"kind": "file", "mode": 1, "content": None, "digest": "aa"}
    for _ in range(2):
        check_files({"shutdown.sh": {"before": state, "after": None}})
        for mode in (1.0, True, "1"):
            with pytest.raises(ValueError, match=r"files\.'shutdown\.sh'\.before\.mode is"):
                check_files({"shutdown.sh": {"before": {**state, "mode": mode}, "after": None}})
        check_files({"shutdown.sh": {"before": {**state, 1: b"no JSON"}}})  # nobody reads that


def test_files_are_looked_at_however_many_were_right() -> None:
    for number in range(1000):
        check_files({"shutdown.sh": {"before": {"content": f"{number}" * 100}}})
        with pytest.raises(ValueError, match="content"):
            check_files({"shutdown.sh": {"before": {"content": number}}})
    assert len(stored._RIGHT_FILES) <= 256
    large = {"shutdown.sh": {"before": {"content": "x" * 100_000}}}
    check_files(large)
    assert orjson.dumps(large) not in stored._RIGHT_FILES
