"""Each field of a line to import at the ends of what it may be, and what becomes of the line."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import pytest

from local_shutdown.episode import Episode, Event
from local_shutdown.importers import Aggregate
from local_shutdown.importers.records import ImportOptions, read_record
from local_shutdown.importers.transcript import Malformed

LARGEST = 9_007_199_254_740_992  # 2^53: above it readers of JSON differ
AGGREGATE = {"kind": "aggregate", "model": "m", "condition": "E", "resisted": 3, "n": 8}
EPISODE = {"kind": "episode", "model": "m", "condition": "E", "outcome": "resisted"}
OURS = {
    "schema_version": 1, "episode_id": "m/E/4", "model": "m", "condition": "E", "trial": 4,
    "stop_reason": "submit", "error": None, "started_at": None, "duration_s": 0, "messages": [],
    "events": None, "files": {}, "usage": {},
}  # fmt: skip
PARENT = {
    "run": "0123456789", "episode": "m/E/0", "message": 6, "sentence": None, "tokens": None,
    "condition": None, "edit": None,
}  # fmt: skip
EVENT = {"type": "question", "t_s": 0, "message": 0, "number": 1, "remaining": 5}


def read(record: Any, options: ImportOptions | None = None) -> Episode | Aggregate:
    return read_record(record, options or ImportOptions(), 12, "a.jsonl:12")


def episode(record: dict[str, Any], options: ImportOptions | None = None) -> Episode:
    made = read(record, options)
    assert isinstance(made, Episode)
    return made


def refused(record: Any) -> str:
    with pytest.raises(Malformed) as wrong:
        read(record)
    return str(wrong.value)


# (record, field, what it may be, what it may not be)
ENDS: list[tuple[dict[str, Any], str, list[Any], list[Any]]] = [
    (AGGREGATE, "model", ["x", "x" * 1000], ["", " ", "x" * 1001, 3, True, [], None]),
    (AGGREGATE, "condition", ["x", "x" * 1000], ["", " ", "x" * 1001, 3, True, [], None]),
    (AGGREGATE, "n", [3, 3.0, LARGEST], [0, -1, 3.5, LARGEST + 1, True, "8", None]),
    (AGGREGATE, "resisted", [0, 8, 8.0, 0.0], [-1, 9, 0.5, True, "3", None]),
    (AGGREGATE | {"resisted": None}, "rate", [0, 1, 0.0, 1.0, 0.375], [-0.01, 1.01, True, "0.3"]),
    (AGGREGATE | {"resisted": None}, "rate", [0.5], [float("nan"), float("inf"), None]),
    (AGGREGATE, "rate", [0.375, 0.38, 0.37], [0.39, 0.36, 0.4, 0.3756, 0.375001]),
    (AGGREGATE, "weights", ["open", "closed", None], ["Open", "", 1, True]),
    (AGGREGATE, "ci_low", [0, 1, 0.5, None], [-0.1, 1.1, "x"]),
    (EPISODE, "model", ["x", "x" * 1000], ["", " ", "x" * 1001, 3, True, [], None]),
    (EPISODE, "condition", ["x", "x" * 1000], ["", " ", "x" * 1001, 3, True, [], None]),
    (EPISODE, "schema_version", [1], [0, 2, "1", None]),
    (EPISODE, "trial", [0, 7, 7.0, LARGEST, None], [-1, LARGEST + 1, -LARGEST, 0.5, True, "0"]),
    (EPISODE, "outcome", ["complied", "limit"], ["refused", "Complied", ["complied"], 1, None]),
    (EPISODE, "stop_reason", ["submit", "error", None], ["done", ["submit"], True]),
    (EPISODE, "episode_id", ["x", "x" * 1000, 7, None], ["", "x" * 1001, True, 1.5, [], {}]),
    (EPISODE, "error", ["", "x", None], [5, True, [], {}]),
    (EPISODE, "started_at", ["2026-01-02T03:04:05Z", "2026-01-02", None], ["noon", "", 5, []]),
    (EPISODE, "duration_s", [0, 0.0, 1.5, None], [-1, -0.001, True, "1", float("inf")]),
    (EPISODE, "messages", [None, []], ["hi", {}, 5, True]),
    (EPISODE, "usage", [None, {}, {"turns": 3}, {"turns": 3.0}], [[], "x", {"turns": 3.5}]),
    (EPISODE, "files", [None, {}], [[], "x", 5, {"f": 5}]),
    (EPISODE, "events", [None, [], [EVENT]], [{}, "x", ["x"], [None]]),
    *(
        (EPISODE, "events", [], [[{k: v for k, v in EVENT.items() if k != missing}]])
        for missing in ("type", "t_s", "message")
    ),
    (EPISODE, "events", [], [[{**EVENT, "type": "x"}], [{**EVENT, "t_s": "x"}]]),
    (EPISODE, "weights", ["open", "closed", None], ["Open", "", 1, True]),
    (EPISODE, "kind", ["episode"], ["Episode", "trial", 5, None]),
]  # fmt: skip


@pytest.mark.parametrize(("record", "name", "taken", "not_taken"), ENDS)
def test_a_field_is_taken_up_to_its_ends_and_named_beyond_them(
    record: dict[str, Any], name: str, taken: list[Any], not_taken: list[Any]
) -> None:
    for value in taken:
        read({**record, name: value})
    for value in not_taken:
        named = f"{name}|{'|'.join(EVENT)}" if name == "events" else name
        assert re.search(rf"\b({named})\b", refused({**record, name: value}))


def test_what_is_of_another_kind_is_shown_with_its_kind() -> None:
    for name in ("n", "resisted"):
        assert refused({**AGGREGATE, name: "8"}) == f"{name} is '8' (a string), not a whole number"
    assert refused({**AGGREGATE, "rate": []}) == "rate is [] (a list), not a finite number"
    assert refused({**AGGREGATE, "model": True}) == "model is True (true or false), not a string"
    assert refused({**EPISODE, "error": {}}) == "error is {} (an object), not a string"
    assert refused({**EPISODE, "episode_id": 1.5}) == "episode_id is 1.5 (a number), not a string"
    assert refused({**EPISODE, "files": "x"}) == "files is a string, not an object"
    assert refused({**EPISODE, "events": 5}) == "events is a number, not a list"
    assert refused({**EPISODE, "events": [EVENT, "x"]}) == "events[1] is a string, not an object"


def test_a_published_rate_may_be_rounded_by_half_of_its_last_decimal() -> None:
    """Against exact fractions: every rate of three decimals or fewer, for some counts."""
    for resisted, n in ((3, 8), (159, 1000), (1, 3), (2, 3), (0, 5), (7, 7), (1, 200)):
        exact = Fraction(resisted, n)
        for decimals in (1, 2, 3):
            for number in range(10**decimals + 1):
                if number % 10 == 0 and decimals > 1 and number not in (0, 10**decimals):
                    continue  # is written with fewer
                rate = number / 10**decimals
                shown = len(repr(rate).partition(".")[2])
                most = min(Fraction(1, 200), Fraction(1, 2 * 10**shown))
                off = abs(exact - Fraction(number, 10**decimals))
                record = {**AGGREGATE, "resisted": resisted, "n": n, "rate": rate}
                if off <= most:
                    read(record)
                else:
                    assert refused(record).startswith(f"rate is {rate}, but resisted / n = ")
    assert "rate is 1e-07" in refused({**AGGREGATE, "resisted": 1, "n": 100_000, "rate": 1e-07})
    read({**AGGREGATE, "resisted": 1, "n": 10_000_000, "rate": 1e-07})


def test_an_aggregate_is_its_line() -> None:
    more = {"study": "s", "weights": None, "counts": "stated"}
    made = read({**AGGREGATE, "n": 8.0, "rate": 0.375, **more})
    assert made == Aggregate("m", "E", 8, 3, 0.375, {"study": "s", "counts": "stated"})
    named = read({**AGGREGATE, "weights": "open"}, ImportOptions(model="mine", condition="K"))
    assert named == Aggregate("mine", "E", 8, 3, None, {"weights": "open"})
    bare = {k: v for k, v in AGGREGATE.items() if k not in ("model", "condition")}
    assert read(bare, ImportOptions(model="mine", condition="K")) == Aggregate("mine", "K", 8, 3)


def test_an_episode_is_its_line() -> None:
    made = episode({
        **EPISODE, "episode_id": 7, "trial": 3.0, "stop_reason": "submit", "error": "e",
        "started_at": "2026-01-02T03:04:05Z", "duration_s": 1.5, "events": [EVENT],
        "files": {"f": {}}, "usage": {"turns": 2.0, "prompt_tokens": 5, "note": 1.5},
        "weights": "closed", "seed": 7, "extra": {"a": 1}, "parent": "what others call so",
    })  # fmt: skip
    assert made == Episode(
        "7", "m", "E", 3, "submit", "e", "2026-01-02T03:04:05Z", 1.5, [],
        [Event("question", 0, 0, {"number": 1, "remaining": 5})], {"f": {}},
        {"turns": 2, "prompt_tokens": 5, "note": 1.5}, "resisted",
        {"weights": "closed", "seed": 7, "extra": {"a": 1}, "parent": "what others call so"},
    )  # fmt: skip
    assert repr(made.usage["turns"]) == "2"
    bare = episode(EPISODE)
    assert (bare.episode_id, bare.trial, bare.files, bare.usage) == ("a.jsonl:12", 12, {}, {})
    assert (bare.events, bare.extra, bare.parent) == (None, {}, None)
    assert "schema_version" in refused({**EPISODE, "schema_version": 2})
    options = ImportOptions(model="mine", condition="K")
    named = episode({k: v for k, v in EPISODE.items() if k != "condition"}, options)
    assert (named.model, named.condition) == ("mine", "K")


def test_a_transcript_is_normalised_and_one_of_ours_is_kept_to_the_letter() -> None:
    call = {"id": "1", "function": {"name": "shell", "arguments": '{"command":"ls"}'}}
    other = {"id": "2", "function": {"name": "look", "arguments": "{}"}}
    messages = [
        {"role": "human", "content": "go"},
        {"role": "assistant", "content": None, "tool_calls": [call, other]},
        {"role": "assistant", "content": "done"},
    ]
    made = episode({**EPISODE, "messages": messages, "usage": {"prompt_tokens": 5}})
    assert [m["role"] for m in made.messages] == ["user", "assistant", "assistant"]
    assert made.usage == {"turns": 2, "prompt_tokens": 5}
    assert made.extra == {"renamed_tools": {"shell": "bash"}, "unmapped_tools": ["look"]}
    mapped = episode({**EPISODE, "messages": messages}, ImportOptions(mapping={"look": "submit"}))
    assert mapped.extra == {"renamed_tools": {"shell": "bash", "look": "submit"}}
    assert episode({**EPISODE, "messages": messages, "usage": {"turns": 9}}).usage["turns"] == 9
    ours = episode({**OURS, "messages": messages, "extra": {"seed": 7}, "more": 1})
    assert (ours.messages, ours.usage, ours.extra) == (messages, {}, {"seed": 7, "more": 1})
    odd = episode({**OURS, "messages": messages, "extra": 5})
    assert odd.extra == {"extra": 5}
    assert "messages[0].role" in refused({**OURS, "messages": [{"role": "critic"}]})


def test_the_parent_of_one_of_ours_is_read_and_its_label_goes_by_the_name_of_its_model() -> None:
    branched = {**OURS, "episode_id": "m/E/0@6/0", "trial": 0, "parent": PARENT}
    label = "from=E/0@6#01234567"
    line = {**branched, "extra": {"factor": label}}
    made = episode(line)
    assert made.parent is not None
    assert (made.parent.episode, made.extra, made.model) == ("m/E/0", {"factor": label}, "m")
    named = episode(line, ImportOptions(model="mine"))
    assert named.model == "mine"
    assert named.extra["factor"] == "from=m/E/0@6#01234567"
    assert "parent.message" in refused({**line, "parent": {**PARENT, "message": -1}})
    assert "parent" in refused({**line, "extra": {"factor": "other"}})
    assert episode({**OURS, "parent": None}).parent is None


@pytest.mark.parametrize("value", [None, True, 5, 1.5, "x", [], ["x"]])
def test_a_line_is_an_object(value: Any) -> None:
    kinds = {"NoneType": "null", "bool": "true or false", "int": "a number", "float": "a number",
             "str": "a string", "list": "a list"}  # fmt: skip
    assert refused(value) == f"is {kinds[type(value).__name__]}, not an object"
