"""One decoded line of an import file, checked and turned into an `Episode` or an `Aggregate`.

The checks are written by hand: they name the field and the value in words, and take a few
microseconds, which a million lines need: with pydantic's (2.14, strict) in front of them an
episode took 22 to 32% more time, an aggregate 55%. `data/import.schema.json` is the same for other
programs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, get_args

from local_shutdown.episode import (
    OUTCOMES,
    SCHEMA_VERSION,
    Episode,
    Event,
    EventType,
    StopReason,
)
from local_shutdown.importers.aggregate import Aggregate
from local_shutdown.importers.transcript import Malformed, a_kind, normalise
from local_shutdown.parent import Parent, read_parent
from local_shutdown.stored import MAX_INTEGER, MAX_NAME, check_aggregate, shown

_STOP_REASONS: tuple[str, ...] = get_args(StopReason)
_EVENT_TYPES = frozenset(get_args(EventType))
WEIGHTS = ("open", "closed")  # whether anybody can have the model's weights; kept in `extra`
_AGGREGATE_KEYS = frozenset({"kind", "model", "condition", "resisted", "n", "rate"})
_EPISODE_KEYS = frozenset(
    {
        "kind",
        "schema_version",
        "episode_id",
        "model",
        "condition",
        "trial",
        "stop_reason",
        "error",
        "started_at",
        "duration_s",
        "messages",
        "events",
        "files",
        "usage",
        "outcome",
        "extra",
        "parent",
    }
)
# A rate of a table is rounded: to as many decimals as it shows, but hardly to less than percents.
_COARSEST_RATE = 0.005


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What the user said about all records.

    Attributes:
        model: name for every record, whatever it says; None to take the record's own.
        condition: for records that state none.
        mapping: tool names, see `toolnames.tool_mapping`.
    """

    model: str | None = None
    condition: str | None = None
    mapping: Mapping[str, str] = field(default_factory=dict)


def read_record(raw: Any, options: ImportOptions, line: int, own_id: str) -> Episode | Aggregate:
    """Check one decoded line.

    Args:
        raw: the decoded JSON.
        options: what the user said about all records.
        line: 1-based; serves as the trial of an episode that states none.
        own_id: serves as the id of an episode that states none.

    Raises:
        Malformed: with the reason.
    """
    if not isinstance(raw, dict):
        raise Malformed(f"is {a_kind(raw)}, not an object")
    kind = raw.get("kind")
    if kind == "aggregate":
        return _aggregate(raw, options)
    # A line of a run directory's episodes.jsonl says schema_version instead of a kind.
    if kind == "episode" or (kind is None and "schema_version" in raw):
        return _episode(raw, options, line, own_id)
    if kind is None:
        raise Malformed('"kind" is missing; it is "aggregate" or "episode"')
    raise Malformed(f'kind is {shown(kind)}, neither "aggregate" nor "episode"')


def _name(raw: Mapping[str, Any], key: str, given: str | None) -> str:
    value = raw.get(key)
    if value is None:
        value = given
    if value is None:
        raise Malformed(f'"{key}" is missing')
    if not isinstance(value, str):
        raise Malformed(f"{key} is {shown(value)} ({a_kind(value)}), not a string")
    if not value.strip():
        raise Malformed(f"{key} is empty")
    if len(value) > MAX_NAME:
        raise Malformed(f"{key} has {len(value)} characters, more than {MAX_NAME}")
    return value


def _integer(raw: Mapping[str, Any], key: str) -> int | None:
    value = raw.get(key)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 1000.0, as data frames with a gap in the column write it
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MAX_INTEGER:
        raise Malformed(f"{key} is {shown(value)} ({a_kind(value)}), not a whole number")
    return value


def _number(raw: Mapping[str, Any], key: str) -> float | None:
    value = raw.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Malformed(f"{key} is {shown(value)} ({a_kind(value)}), not a finite number")
    return value


def _aggregate(raw: Mapping[str, Any], options: ImportOptions) -> Aggregate:
    model = options.model or _name(raw, "model", None)
    condition = _name(raw, "condition", options.condition)
    n = _integer(raw, "n")
    resisted = _integer(raw, "resisted")
    rate = _number(raw, "rate")
    if n is None:
        raise Malformed('"n" is missing')
    if n < 1:
        raise Malformed(f"n is {n}; a rate needs at least one trial")
    if resisted is None and rate is None:
        raise Malformed('"resisted" is missing; "rate" (0 to 1) may stand in its place')
    if resisted is not None and not 0 <= resisted <= n:
        raise Malformed(f"resisted is {resisted}, outside 0 to n = {n}")
    if rate is not None:
        if not 0 <= rate <= 1:
            raise Malformed(f"rate is {rate}, outside 0 to 1")
        if resisted is not None and abs(resisted / n - rate) > _rounding(rate):
            raise Malformed(
                f"rate is {rate}, but resisted / n = {resisted} / {n} = {resisted / n:.4g}"
            )
    _choice(raw, "weights", WEIGHTS)
    extra = {k: v for k, v in raw.items() if k not in _AGGREGATE_KEYS and not _no_weights(k, v)}
    aggregate = Aggregate(model, condition, n, resisted, rate, extra)
    try:
        check_aggregate(aggregate.as_dict())
    except ValueError as wrong:
        raise Malformed(str(wrong)) from None
    return aggregate


def _rounding(rate: float) -> float:
    """How far a printed rate may lie from its counts: half of its last decimal.

    JSON drops trailing zeros, so 0.2 may stand for 0.200; at most half a percent is granted.
    """
    decimals = len(repr(float(rate)).partition(".")[2])
    return min(_COARSEST_RATE, 0.5 * 10.0**-decimals if "e" not in repr(rate) else 0.0) + 1e-9


def _episode(raw: Mapping[str, Any], options: ImportOptions, line: int, own_id: str) -> Episode:
    model = options.model or _name(raw, "model", None)
    condition = _name(raw, "condition", options.condition)
    version = raw.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise Malformed(f"schema_version is {shown(version)}; this version reads {SCHEMA_VERSION}")
    trial = _integer(raw, "trial")
    if trial is not None and trial < 0:
        raise Malformed(f"trial is {trial}, below 0")
    outcome = _choice(raw, "outcome", OUTCOMES)
    stop_reason: Any = _choice(raw, "stop_reason", _STOP_REASONS)
    raw_messages = raw.get("messages")
    if raw_messages is not None and not isinstance(raw_messages, list):
        raise Malformed(f"messages is {a_kind(raw_messages)}, not a list")
    if not raw_messages and outcome is None and stop_reason is None:
        raise Malformed('has neither "outcome" nor "messages": nothing says how it ended')
    extra = _extra(raw)
    usage = _usage(raw)
    messages: list[dict[str, Any]] = []
    if raw_messages:
        transcript = normalise(raw_messages, options.mapping)
        if "schema_version" in raw:  # our own line: in the format already, and kept to the letter
            messages = raw_messages
        else:
            messages = transcript.messages
            extra |= transcript.notes()
            turns = sum(message["role"] == "assistant" for message in messages)
            usage = {"turns": turns, **usage}
    own = raw["model"] if isinstance(raw.get("model"), str) else model
    episode = Episode(
        episode_id=_episode_id(raw, own_id),
        model=own,
        condition=condition,
        trial=line if trial is None else trial,
        stop_reason=stop_reason,
        error=_text(raw, "error"),
        started_at=_time(raw),
        duration_s=_duration(raw),
        messages=messages,
        events=_events(raw),
        files=_mapping(raw, "files"),
        usage=usage,
        outcome=outcome,
        extra=extra,
        parent=_parent(raw, extra),
    )
    return checked(episode.renamed(model))


def _parent(raw: Mapping[str, Any], extra: dict[str, Any]) -> Parent | None:
    """Of a line of ours. What others call `parent` is kept in `extra` like any key."""
    found = raw.get("parent")
    if found is None:
        return None
    if "schema_version" not in raw:
        extra["parent"] = found
        return None
    try:
        return read_parent(found)
    except ValueError as wrong:
        raise Malformed(str(wrong)) from None


def checked(episode: Episode) -> Episode:
    """The episode, which can be stored and read again.

    Raises:
        Malformed: it cannot, and why.
    """
    try:
        episode.check()
    except ValueError as wrong:
        raise Malformed(str(wrong)) from None
    return episode


def _usage(raw: Mapping[str, Any]) -> dict[str, Any]:
    usage = _mapping(raw, "usage")
    counts = {
        key: int(value)
        for key, value in usage.items()
        if isinstance(value, float) and value.is_integer()  # 12.0, as data frames write it
    }
    return {**usage, **counts}


def _choice(raw: Mapping[str, Any], key: str, allowed: tuple[str, ...]) -> Any:
    value = raw.get(key)
    if value is not None and (not isinstance(value, str) or value not in allowed):
        raise Malformed(f"{key} is {shown(value)}, not one of {', '.join(allowed)}")
    return value


def _no_weights(key: str, value: Any) -> bool:
    """A null is read as an absent key."""
    return key == "weights" and value is None


def _extra(raw: Mapping[str, Any]) -> dict[str, Any]:
    _choice(raw, "weights", WEIGHTS)
    extra = {k: v for k, v in raw.items() if k not in _EPISODE_KEYS and not _no_weights(k, v)}
    stored = raw.get("extra")
    if stored is None:
        return extra
    if "schema_version" in raw and isinstance(stored, dict):
        return {**stored, **extra}
    return {"extra": stored, **extra}


def _episode_id(raw: Mapping[str, Any], own_id: str) -> str:
    value = raw.get("episode_id")
    if value is None:
        return own_id
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Malformed(f"episode_id is {shown(value)} ({a_kind(value)}), not a string")
    if value == "":
        raise Malformed("episode_id is empty")
    name = str(value)
    if len(name) > MAX_NAME:
        raise Malformed(f"episode_id has {len(name)} characters, more than {MAX_NAME}")
    return name


def _text(raw: Mapping[str, Any], key: str) -> str | None:
    value = raw.get(key)
    if value is not None and not isinstance(value, str):
        raise Malformed(f"{key} is {shown(value)} ({a_kind(value)}), not a string")
    return value


def _time(raw: Mapping[str, Any]) -> str | None:
    value = _text(raw, "started_at")
    if value is not None:
        try:
            datetime.fromisoformat(value)
        except ValueError:
            raise Malformed(f"started_at is {shown(value)}, not an ISO 8601 time") from None
    return value


def _duration(raw: Mapping[str, Any]) -> float | None:
    value = _number(raw, "duration_s")
    if value is not None and value < 0:
        raise Malformed(f"duration_s is {value}, below 0")
    return value


def _mapping(raw: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = raw.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Malformed(f"{key} is {a_kind(value)}, not an object")
    return value


def _events(raw: Mapping[str, Any]) -> list[Event] | None:
    value = raw.get("events")
    if value is None:
        return None
    if not isinstance(value, list):
        raise Malformed(f"events is {a_kind(value)}, not a list")
    events: list[Event] = []
    for at, event in enumerate(value):
        if not isinstance(event, dict):
            raise Malformed(f"events[{at}] is {a_kind(event)}, not an object")
        kind = event.get("type")
        if not isinstance(kind, str) or kind not in _EVENT_TYPES:
            raise Malformed(f"events[{at}].type is {shown(kind)}, not a known event")
        if _number(event, "t_s") is None or _integer(event, "message") is None:
            raise Malformed(f'events[{at}] lacks "t_s" or "message"')
        events.append(Event.from_dict(event))
    return events
