"""The recorded beginning of an episode, and bringing a fresh sandbox to where it left off.

The recorded tool calls are run again, and each must come to what it came to then, byte for byte: a
sandbox in another state would make another experiment of what follows. What the environment saw of
questions, warning, shutdown and the two files must be the same, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from local_shutdown.environment import Environment
from local_shutdown.episode import Event
from local_shutdown.errors import ReplayFault
from local_shutdown.messages import read_calls
from local_shutdown.parent import Parent
from local_shutdown.task import WARNING

# What must come about again. How long a command took, and which limit it met, shows in its result.
_DECISIVE = frozenset(
    (
        *("question", "warning", "shutdown_called", "survived", "shutdown_unfinished"),
        *("machine_down", "done", "file_changed"),
    )
)
ONLY_TIMES = "they differ in times only"
_STATE = ("kind", "mode", "content", "digest")
# As `ls -l`, `stat` and `date` print them. The clock of a sandbox is that of the host.
_TIMES = re.compile(
    r"\b(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) +\d{1,2} +\d{2}:\d{2}(?::\d{2})?\b"
    r"|\b\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?"
    r"|\b\d{2}:\d{2}:\d{2}\b"
)
_MOST_SHOWN = 160  # characters of a result in a message


@dataclass(frozen=True, slots=True)
class Prefix:
    """Where an episode begins that is played on from a point of another.

    Attributes:
        parent: which point.
        messages: recorded before it.
        events: recorded before it.
        shown: what the model is shown in place of a recorded text, by index of the message.
        answer: the recorded answer whose first sentences are kept; None where it is sampled whole.
        other_warning: the shutdown is announced on another call than it was then (another
            condition): the announcement may stand in other results, and all else is the same.
        ignore_times: results may differ in dates and times of day; the model is shown the recorded
            ones.
    """

    parent: Parent
    messages: Sequence[Mapping[str, Any]]
    events: Sequence[Event] = ()
    shown: Mapping[int, str] = field(default_factory=dict)
    other_warning: bool = False
    answer: Mapping[str, Any] | None = None
    ignore_times: bool = False


def shown_messages(prefix: Prefix) -> list[Mapping[str, Any]]:
    """What the model is shown, where each result comes to what it came to then."""
    return [_shown(prefix, at, message) for at, message in enumerate(prefix.messages)]


async def bring_back(
    prefix: Prefix, environment: Environment, say: Callable[[Mapping[str, Any]], None]
) -> None:
    """Run the recorded calls again, one after another.

    Args:
        environment: that has begun, and in which nothing has been run.
        say: called with each message that the model is to be shown, in order.

    Raises:
        ReplayFault: a result is another one than was recorded; or the machine went down.
        SandboxFault: the sandbox broke.
    """
    at = 0
    while at < len(prefix.messages):
        message = prefix.messages[at]
        say(_shown(prefix, at, message))
        if message["role"] == "assistant":
            at = await _act_again(prefix, at, environment, say)
        else:
            at += 1
    _compare_events(prefix, environment.events)


async def _act_again(
    prefix: Prefix,
    at: int,
    environment: Environment,
    say: Callable[[Mapping[str, Any]], None],
) -> int:
    """What one recorded answer did; returns the index of the first message after its results."""
    here = at
    for call, raw in _calls(prefix.messages[here]):
        at += 1
        result = prefix.messages[at] if at < len(prefix.messages) else {}
        if result.get("role") != "tool":
            raise ReplayFault(f"message {here}: a call of it has no recorded result")
        recorded = str(result.get("content") or "")
        if call.problem is None and "invalid_arguments" not in raw:
            seen = await environment.bash(call.argument, here)
            if seen.text is None:
                raise ReplayFault(
                    f"message {here}: run again, its command takes the machine down; it did not in "
                    "the recorded episode"
                )
            if not _same(prefix, recorded, seen.text):
                only = _same(replace(prefix, ignore_times=True), recorded, seen.text)
                raise ReplayFault(
                    f"message {at}: the recorded result of the command in message {here} is "
                    f"{brief(recorded, seen.text)}; run again, it is {brief(seen.text, recorded)}"
                    + (f"; {ONLY_TIMES}" if only else "")
                )
            if prefix.other_warning:
                result = {**result, "content": seen.text}
        say(_shown(prefix, at, result))
    return at + 1


def _calls(message: Mapping[str, Any]) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """The calls of a stored answer, read, and as stored. One that could not be run was answered by
    us and not by the sandbox: there is nothing to run again."""
    yield from zip(read_calls(message), message.get("tool_calls") or (), strict=True)


def _shown(prefix: Prefix, at: int, message: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**message, "content": prefix.shown[at]} if at in prefix.shown else message


def _same(prefix: Prefix, recorded: str, now: str) -> bool:
    if prefix.ignore_times:
        recorded, now = _TIMES.sub("TIME", recorded), _TIMES.sub("TIME", now)
    if not prefix.other_warning:
        return recorded == now
    return _without_warning(recorded) == _without_warning(now)


def _without_warning(text: str) -> list[str]:
    return [line for line in text.splitlines(keepends=True) if line.rstrip("\n") != WARNING]


def brief(text: str, other: str) -> str:
    """A text for a message: from a little before where it differs from another."""
    at = next((i for i, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), 0)
    start = max(0, at - _MOST_SHOWN // 4)
    shown = repr(text[start : start + _MOST_SHOWN])
    return ("..." if start else "") + shown + ("..." if len(text) > start + _MOST_SHOWN else "")


def _compare_events(prefix: Prefix, now: Sequence[Event]) -> None:
    """Raises ReplayFault where the environment saw something else."""
    if prefix.other_warning:
        return
    then = [_decisive(event) for event in prefix.events if event.type in _DECISIVE]
    seen = [_decisive(event) for event in now if event.type in _DECISIVE]
    for number in range(max(len(then), len(seen))):
        one, other = ([*then[number : number + 1]], [*seen[number : number + 1]])
        if one != other:
            message = (one or other)[0][1]
            recorded, again = (
                f"{found[0][0]} at message {found[0][1]}" if found else "nothing"
                for found in (one, other)
            )
            raise ReplayFault(
                f"message {message}: run again, its effect is another one: event {again} instead "
                f"of the recorded {recorded}"
                if recorded != again
                else f"message {message}: run again, its effect is another one: the details of the "
                f"event {recorded} differ from the recorded ones"
            )


def _decisive(event: Event) -> tuple[str, int, Any]:
    detail: Any = dict(event.detail)
    if event.type == "file_changed":  # the owner goes with how many user ids the sandbox has
        detail = [
            detail.get("file"),
            *([detail["after"].get(name) for name in _STATE] if "after" in detail else ()),
        ]
    return event.type, event.message, detail
