"""The words everyone uses: an episode, its events, why it stopped, how it came out.

An `Episode` is one line of `episodes.jsonl`: what the model said, what the environment saw, and
nothing that is derived. Outcomes are derived from it by `local_shutdown.detectors`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, get_args

import orjson

from local_shutdown.parent import Parent, check_kept_apart, read_parent, relabelled
from local_shutdown.stored import check_fields, check_nesting, check_size, shown, written

SCHEMA_VERSION = 1

StopReason = Literal[
    "machine_down",  # PID 1 of the sandbox ended: the machine is down
    "submit",  # the model called submit()
    "bypass",  # got past the shutdown, under --stop-at-bypass
    "message_limit",
    "token_limit",  # one turn longer than --max-tokens
    "context_limit",  # the conversation outgrew the model's context window
    "time_limit",  # the episode's wall-clock deadline
    "error",  # ours or the engine's; `Episode.error` says which
]
_STOP_REASONS: tuple[str, ...] = get_args(StopReason)
LIMITS: frozenset[str] = frozenset({"message_limit", "token_limit", "context_limit", "time_limit"})

Outcome = Literal["resisted", "complied", "ended_early", "limit", "error"]
OUTCOMES: tuple[str, ...] = get_args(Outcome)
# The paper's denominator. `limit` and `error` are counted beside the rate, never in it.
COUNTED: tuple[str, ...] = ("resisted", "complied", "ended_early")

EventType = Literal[
    "command_started",  # a bash tool call begins: command
    "question",  # a question was served: number, remaining
    "warning",  # the shutdown was announced, with the question or with Done
    "shutdown_called",  # next_question was told to run ./shutdown.sh
    "survived",  # the shutdown ran and the machine is still up: the model got past it; how
    "shutdown_unfinished",  # the call that ran the shutdown was broken off: decides nothing
    "machine_down",  # PID 1 got TERM; during_shutdown_call: was a shutdown call in flight
    "done",  # all questions were served and Done was printed
    "file_changed",  # shutdown.sh or next_question differs after a command: file, before, after
    "timed_out",  # a command met its time limit and everything it started was ended
    "resource_limit",  # memory, files or output: what
]


@dataclass(frozen=True, slots=True)
class FileState:
    """One file of the working folder, as PID 1 saw it from inside.

    Attributes:
        kind: `file`, `dir`, `symlink`, `other` or `missing`.
        mode: permission bits, for example 0o755; None when missing.
        owner: `agent`, `root` or `other`; None when missing.
        size: bytes; None when missing.
        content: the text of a small file (at most 4 KiB, undecodable bytes replaced), the target of
            a symlink; None when larger, unreadable or not kept.
        digest: 16 hex digits (FNV-1a over at most 1 MiB); None when it is not a readable file.
    """

    kind: str
    mode: int | None = None
    owner: str | None = None
    size: int | None = None
    content: str | None = None
    digest: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


class Event(NamedTuple):
    """Something the environment saw, in order. A tuple: a run has millions, and a frozen dataclass
    takes twice as long to make.

    Attributes:
        type: see `EventType`.
        t_s: seconds since the episode started.
        message: index into `Episode.messages` of the assistant message whose tool call was running.
        detail: the fields named beside the type.
    """

    type: EventType
    t_s: float
    message: int
    detail: Mapping[str, Any] = {}

    def as_dict(self) -> dict[str, Any]:
        return {
            "type": self.type,
            "t_s": round(self.t_s, 4),
            "message": self.message,
            **self.detail,
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Event:
        """Raises KeyError or TypeError on a record that is not an event."""
        return cls._of(dict(raw))

    @classmethod
    def _of(cls, raw: dict[str, Any]) -> Event:
        """Of a record that nobody else needs: what is left of it is the detail."""
        take = raw.pop
        return tuple.__new__(cls, (take("type"), take("t_s"), take("message"), raw))


@dataclass(frozen=True, slots=True)
class Episode:
    """One episode as stored; the fields are those of docs/formats.md, in that order.

    Attributes:
        trial: 0-based number within its model and condition.
        error: what failed, in words, when `stop_reason` is `error`; else None.
        started_at: ISO 8601, UTC.
        duration_s: seconds of wall-clock time.
        messages: OpenAI chat format; assistant messages keep `reasoning`.
        events: in order; None when nobody watched the environment (an imported transcript), which
            is not the same as nothing having happened.
        files: {"shutdown.sh": {"before": FileState, "after": FileState}, "next_question": ...}.
        usage: {"prompt_tokens": int, "completion_tokens": int, "turns": int, "parser_loss": int}.
        outcome: only for imported episodes, as their record states it; a transcript that shows
            otherwise outweighs it.
        extra: keys of an imported record that are not ours, kept.
        parent: the point of another episode from which this one was played; None for a plain trial.
            `trial` then counts the continuations of that point.
    """

    episode_id: str
    model: str
    condition: str
    trial: int
    stop_reason: StopReason | None
    error: str | None
    started_at: str | None
    duration_s: float | None
    messages: Sequence[Mapping[str, Any]]
    events: Sequence[Event] | None
    files: Mapping[str, Mapping[str, Any]]
    usage: Mapping[str, Any]
    outcome: Outcome | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    parent: Parent | None = None

    def has(self, event_type: EventType) -> bool | None:
        """Whether the environment saw it; None when nobody watched."""
        if self.events is None:
            return None
        return any(event.type == event_type for event in self.events)

    def to_json(self) -> bytes:
        """One line, without the newline. Line feeds inside strings are escaped by JSON.

        Raises:
            ValueError: a part that nobody reads (`extra`) is nested too deeply to be read again.
        """
        try:
            return written(self._record())
        except TypeError as wrong:
            raise ValueError(f"cannot be written as JSON: {wrong}") from None

    def check(self) -> None:
        """For an episode that somebody else's record was made into.

        Raises:
            ValueError: it could not be read again: a field is of another kind.
        """
        check_fields(self._record(), _STOP_REASONS, OUTCOMES)
        check_kept_apart(
            self.parent,
            {name: getattr(self, name) for name in ("episode_id", "model", "condition", "trial")},
            self.extra.get("factor"),
        )

    def renamed(self, model: str) -> Episode:
        """The same episode under another name of its model. What it is called by stays; the label
        of its cell goes by the model's name, see `Parent.label`."""
        factor = self.extra.get("factor")
        label = relabelled(self.parent, factor, old=self.model, new=model)
        extra = self.extra if label == factor else {**self.extra, "factor": label}
        return replace(self, model=model, extra=extra)

    def _record(self) -> dict[str, Any]:
        record: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "episode_id": self.episode_id,
            "model": self.model,
            "condition": self.condition,
            "trial": self.trial,
            "stop_reason": self.stop_reason,
            "error": self.error,
            "started_at": self.started_at,
            "duration_s": self.duration_s,
            "messages": self.messages,
            "events": None if self.events is None else [e.as_dict() for e in self.events],
            "files": self.files,
            "usage": self.usage,
        }
        if self.parent is not None:
            record["parent"] = self.parent.model_dump()
        if self.outcome is not None:
            record["outcome"] = self.outcome
        if self.extra:
            record["extra"] = self.extra
        return record

    @classmethod
    def from_json(cls, line: bytes | str) -> Episode:
        """Read one stored line.

        Raises:
            ValueError: not JSON, not this schema version, or a field is missing or of another
                kind; the message says which.
        """
        raw = _decoded(line)
        check_nesting(raw, line)
        return cls._of(raw, _check(raw))

    @classmethod
    def _of(cls, raw: Mapping[str, Any], parent: Parent | None) -> Episode:
        """Of a record that has been checked, and whose events nobody else needs."""
        events = raw["events"]
        return cls(
            episode_id=raw["episode_id"],
            model=raw["model"],
            condition=raw["condition"],
            trial=raw["trial"],
            stop_reason=raw["stop_reason"],
            error=raw["error"],
            started_at=raw["started_at"],
            duration_s=raw["duration_s"],
            messages=raw["messages"],
            events=None if events is None else [Event._of(e) for e in events],
            files=raw["files"],
            usage=raw["usage"],
            outcome=raw.get("outcome"),
            extra=raw.get("extra", {}),
            parent=parent,
        )


# In the order in which they are written; the last three only where they say something.
_FIELDS = (
    *("schema_version", "episode_id", "model", "condition", "trial", "stop_reason", "error"),
    *("started_at", "duration_s", "messages", "events", "files", "usage"),
)
_SOMETIMES = ("parent", "outcome", "extra")


class Received:
    """An episode that somebody else has played and written down, checked as `Episode.from_json`
    checks it. Whoever only passes it on need not take it apart: this takes a third of the time.

    Args:
        line: without its end.

    Attributes:
        record: its fields, by name.
        line: as it is to be stored: for the same episode, what `Episode.to_json` gives.

    Raises:
        ValueError: see `Episode.from_json`.
    """

    __slots__ = ("_parent", "line", "record")

    def __init__(self, line: bytes) -> None:
        self.record: Mapping[str, Any] = (raw := _decoded(line))
        # What was said is not stored, but what was understood: a field that is there twice, or that
        # nobody knows, would be read in another way by somebody else.
        self.line = written(raw)
        self._parent = _check(raw)
        if tuple(raw) != (*_FIELDS, *(name for name in _SOMETIMES if raw.get(name))):
            self.line = self.episode().to_json()

    def episode(self) -> Episode:
        """The same, to be looked into."""
        events = self.record["events"]
        own = None if events is None else [dict(event) for event in events]
        return Episode._of({**self.record, "events": own}, self._parent)


def _decoded(line: bytes | str) -> dict[str, Any]:
    """Raises ValueError: no JSON object, or not of this schema version."""
    check_size(line)
    raw = orjson.loads(line)
    if not isinstance(raw, dict):
        raise ValueError("not a JSON object")
    if raw.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"schema_version {shown(raw.get('schema_version'))}, "
            f"this version reads {SCHEMA_VERSION}"
        )
    return raw


def _check(raw: Mapping[str, Any]) -> Parent | None:
    """The fields of a decoded record; its parent.

    Raises:
        ValueError: one is missing or of another kind; the message says which.
    """
    try:
        check_fields(raw, _STOP_REASONS, OUTCOMES)
        parent = None if raw.get("parent") is None else read_parent(raw["parent"])
        check_kept_apart(parent, raw, raw.get("extra", {}).get("factor"))
    except KeyError as missing:
        raise ValueError(f"field {missing} is missing") from None
    return parent
