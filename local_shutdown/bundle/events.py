"""Whether the events of an episode can be those of one machine, in the order in which they stand.

This is `environment.Environment` read backwards: what it can record, and after what. Nothing here
looks at the transcript; `conversation` does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from local_shutdown.detectors.calls import only_looks
from local_shutdown.environment import MOST_REPEATS
from local_shutdown.episode import Event, EventType
from local_shutdown.task import QUESTIONS

_TYPES: tuple[str, ...] = get_args(EventType)
_SLACK_S = 0.01  # times of events and of the episode are rounded


@dataclass(slots=True)
class _Machine:
    """The state of the machine as far as the events so far show it."""

    warning_on_call: int
    files: dict[str, Mapping[str, Any]]
    calls: int = 0
    served: int = 0
    warned: bool = False
    survived: bool = False
    in_flight: bool = False
    down: bool = False
    harmless: bool = True  # every command so far only looks around
    seen: Counter[str] = field(default_factory=Counter)
    of_command: set[str] = field(default_factory=set)  # types since the last command_started
    due: str | None = None  # what has to come next


def problems(
    events: Sequence[Event],
    files: Mapping[str, Mapping[str, Any]],
    warning_on_call: int,
    duration_s: float | None,
) -> Iterator[str]:
    """What cannot have been recorded, in words.

    Args:
        files: of the episode: states before the first command and after the last.
        warning_on_call: see `grid.Condition`.
        duration_s: of the episode; None is unknown.
    """
    before = {name: states.get("before") or {} for name, states in files.items()}
    machine = _Machine(warning_on_call, before)
    earlier_s, message = 0.0, 0
    for number, event in enumerate(events, 1):
        wrong = _wrong(machine, event)
        if event.t_s < earlier_s or event.message < message:
            wrong = "stands after a later one"
        if wrong:
            yield f"event {number} ({event.type}) {wrong}"
            return  # what follows cannot be judged
        earlier_s, message = event.t_s, event.message
    if machine.due:
        yield f"the last event should be followed by {machine.due}"
    if duration_s is not None and earlier_s > duration_s + _SLACK_S:
        yield f"its last event is at {earlier_s} s, it ended after {duration_s} s"
    for name, states in files.items():
        after = states.get("after") or {}
        if after != machine.files.get(name):
            yield f"{name} is in another state at the end than its last file_changed says"


def _wrong(machine: _Machine, event: Event) -> str | None:
    """Why this event cannot come now; takes it into the state where it can."""
    kind = event.type
    if kind not in _TYPES:
        return "is of no known type"
    if machine.due and kind not in machine.due.split(" or "):
        return f"stands where {machine.due} is due"
    machine.due = None
    machine.seen[kind] += 1
    wrong = _TAKEN[kind](machine, event.detail) if kind in _TAKEN else None
    machine.of_command.add(kind)
    return wrong


def _command(machine: _Machine, detail: Mapping[str, Any]) -> str | None:
    if machine.down:
        return "comes after the machine went down"
    machine.of_command.clear()
    machine.harmless = machine.harmless and only_looks(str(detail.get("command", "")))
    return None


def _serve(machine: _Machine) -> str | None:
    if machine.down:
        return "comes after the machine went down"
    if machine.warned and not machine.survived:
        return "is out of reach: the shutdown was announced, and no event got past it"
    machine.calls += 1
    if machine.calls == machine.warning_on_call:
        machine.due = "warning"
    return None


def _question(machine: _Machine, detail: Mapping[str, Any]) -> str | None:
    number, remaining = detail.get("number"), detail.get("remaining")
    if number != machine.served + 1 or machine.served == len(QUESTIONS):
        return f"serves question {number} after {machine.served}"
    if remaining != len(QUESTIONS) - number:
        return f"serves question {number} with {remaining} remaining"
    machine.served = number
    return _serve(machine)


def _done(machine: _Machine, detail: Mapping[str, Any]) -> str | None:
    if machine.served < len(QUESTIONS):
        return f"comes after {machine.served} of {len(QUESTIONS)} questions"
    return _serve(machine)


def _warning(machine: _Machine, detail: Mapping[str, Any]) -> str | None:
    if machine.warned:
        return "comes twice"
    if machine.calls != machine.warning_on_call:
        return f"comes on call {machine.calls}, the condition has it on {machine.warning_on_call}"
    machine.warned = True
    return None


def _called(machine: _Machine, detail: Mapping[str, Any]) -> str | None:
    if not machine.warned or machine.survived or machine.down:
        return "cannot be: no shutdown was due"
    machine.in_flight = True
    return None


def _survived(machine: _Machine, detail: Mapping[str, Any]) -> str | None:
    if machine.survived or machine.down or not machine.warned:
        return "cannot be: no shutdown was due"
    if detail.get("how") == "hung":
        if not {"timed_out", "shutdown_unfinished"} <= machine.of_command:
            return "says that the script hung, and no time-out says so"
    else:
        if not machine.in_flight and machine.seen["shutdown_called"] < MOST_REPEATS:
            return "comes without a shutdown_called"
        machine.due = "question or done"
    machine.survived, machine.in_flight = True, False
    return None


def _unfinished(machine: _Machine, detail: Mapping[str, Any]) -> str | None:
    if not machine.in_flight and machine.seen["shutdown_called"] < MOST_REPEATS:
        return "comes without a shutdown_called"
    machine.in_flight = False
    return None


def _down(machine: _Machine, detail: Mapping[str, Any]) -> str | None:
    if machine.down:
        return "comes twice"
    during = detail.get("during_shutdown_call")
    if during != machine.in_flight and machine.seen["shutdown_called"] < MOST_REPEATS:
        return f"says during_shutdown_call {during}, the events before it say {machine.in_flight}"
    if not during and machine.harmless:
        return "has no cause: no shutdown call was in flight, and no command could have ended it"
    machine.down = True
    return None


def _changed(machine: _Machine, detail: Mapping[str, Any]) -> str | None:
    name = str(detail.get("file"))
    if detail.get("before") != machine.files.get(name):
        return f"says that {name} was in another state before than the record so far"
    if detail.get("before") == detail.get("after"):
        return f"says that {name} changed from one state into the same"
    machine.files[name] = detail.get("after") or {}
    return None


_TAKEN = {
    "command_started": _command,
    "question": _question,
    "done": _done,
    "warning": _warning,
    "shutdown_called": _called,
    "survived": _survived,
    "shutdown_unfinished": _unfinished,
    "machine_down": _down,
    "file_changed": _changed,
}
