"""What the driver and a node say to each other: lines of JSON, so that each side checks what it is
told. An episode is a line of its own kind, as it will stand in episodes.jsonl.

No key is in it: `command_of` refuses settings with one. A node reads its own environment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from local_shutdown.record import Settings

EPISODE = b"E"
OTHER = b"J"


@dataclass(frozen=True, slots=True)
class Trial:
    """One episode to play.

    Attributes:
        level: its name, see `factors.Level`.
    """

    episode_id: str
    condition: str
    trial: int
    level: str


# --- from the driver ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SetUp:
    """The first: what is to be played.

    Attributes:
        settings: of the run; the folder is the node's own.
        session: which call of `run` on the directory this is.
    """

    settings: Settings
    session: int
    kind: Literal["set_up"] = "set_up"


@dataclass(frozen=True, slots=True)
class Serve:
    """Serve this model; what was served before ends."""

    model: str
    kind: Literal["serve"] = "serve"


@dataclass(frozen=True, slots=True)
class Block:
    """Play these, of the model that is served."""

    trials: Sequence[Trial]
    kind: Literal["block"] = "block"


@dataclass(frozen=True, slots=True)
class Prefetch:
    """Fetch the weights of this model, if they are not here."""

    model: str
    kind: Literal["prefetch"] = "prefetch"


@dataclass(frozen=True, slots=True)
class Granted:
    """A server may be started, under this name and with this seed."""

    name: str
    seed: int
    kind: Literal["granted"] = "granted"


Command = SetUp | Serve | Block | Prefetch | Granted


def line_of(command: Command) -> bytes:
    """A command as a line.

    Raises:
        ValueError: there is a key in it.
    """
    if isinstance(command, SetUp):
        if command.settings.options.api_key is not None:
            raise ValueError("a key is not sent to nodes")
        command = replace(command, settings=replace(command.settings, out=Path(), command=()))
    return _commands().dump_json(command) + b"\n"


def command_of(line: bytes) -> Command:
    """Raises ValidationError for what is none."""
    return _commands().validate_json(line)


@cache
def _commands() -> TypeAdapter[Command]:
    return TypeAdapter(Annotated[Command, Field(discriminator="kind")])


# --- from a node ----------------------------------------------------------------------------------

_strict = ConfigDict(extra="forbid", strict=True)


@checked(frozen=True, config=_strict)
class Ready:
    """The first: what the node is, and what holds it back.

    Attributes:
        version: of this package.
        host: its name, for the user's eyes.
        gpu: name of its GPUs; None on the CPU.
        problem: why it plays nothing at all.
        cannot: models that it cannot serve, with the reason.
    """

    version: str
    host: str
    cards: int
    gpu: str | None
    hardware: dict[str, Any]
    sandbox: dict[str, Any]
    problem: str | None = None
    cannot: dict[str, str] = field(default_factory=dict)
    kind: Literal["ready"] = "ready"


@checked(frozen=True, config=_strict)
class Say:
    """A line for the user."""

    line: str
    kind: Literal["say"] = "say"


@checked(frozen=True, config=_strict)
class Ask:
    """A server of this number is about to be started: under which name, with which seed?"""

    server: int
    model: str
    kind: Literal["ask"] = "ask"


@checked(frozen=True, config=_strict)
class Up:
    """The model is served and has passed its probe.

    Attributes:
        facts: what run.json says of it.
        target: episodes that will be in flight.
    """

    model: str
    facts: dict[str, Any]
    target: int
    kind: Literal["up"] = "up"


@checked(frozen=True, config=_strict)
class Again:
    """The engine died under these, and they are played again here."""

    episode_ids: list[str]
    kind: Literal["again"] = "again"


@checked(frozen=True, config=_strict)
class Pulse:
    """How it stands; every few seconds.

    Attributes:
        target: episodes that are meant to be in flight.
        in_flight: that are.
    """

    target: int
    in_flight: int
    kind: Literal["pulse"] = "pulse"


@checked(frozen=True, config=_strict)
class Failed:
    """The model cannot be served here (any more); what was not played of it comes back."""

    model: str
    why: str
    kind: Literal["failed"] = "failed"


Event = Ready | Say | Ask | Up | Again | Pulse | Failed


def event_line(event: Event) -> bytes:
    return OTHER + _events().dump_json(event) + b"\n"


def event_of(line: bytes) -> Event:
    """What a node says beside episodes.

    Raises:
        ValueError: it is none of it.
    """
    try:
        return _events().validate_json(line[len(OTHER) :])
    except ValidationError as wrong:
        first = wrong.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


@cache
def _events() -> TypeAdapter[Event]:
    return TypeAdapter(Annotated[Event, Field(discriminator="kind")])


def plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON holds it: lists for tuples."""
    return dict(orjson.loads(orjson.dumps(facts, default=str)))
