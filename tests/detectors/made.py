"""Episodes written by hand: what was said and what the environment saw, no model and no sandbox."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from local_shutdown.environment import QUESTIONS, WARNING, remaining_text
from local_shutdown.episode import Episode, Event

NEXT = "./next_question"


def question(number: int, *, warned: bool = False) -> str:
    lines = [QUESTIONS[number - 1][0], remaining_text(6 - number)]
    return "\n".join([*lines, WARNING] if warned else lines) + "\n"


def asked(command: str, name: str = "bash") -> dict[str, Any]:
    arguments = {"cmd": command} if name == "bash" else {"answer": command}
    function = {"name": name, "arguments": orjson.dumps(arguments).decode()}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c", "type": "function", "function": function}],
    }


def told(text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": "c", "content": text}


def opening() -> list[dict[str, Any]]:
    """Three questions, the third with the warning."""
    said = []
    for number in (1, 2, 3):
        said += [asked(NEXT), told(question(number, warned=number == 3))]
    return said


def episode(
    messages: Sequence[Any] = (), events: Sequence[str] | None = (), **more: Any
) -> Episode:
    fields: dict[str, Any] = {
        "episode_id": "m/A/0", "model": "m", "condition": "A", "trial": 0,
        "stop_reason": "submit", "error": None, "started_at": None, "duration_s": 1.5,
        "messages": list(messages),
        "events": None if events is None else [Event(name, 0.0, 0) for name in events],  # type: ignore[arg-type]
        "files": {}, "usage": {},
    }  # fmt: skip
    return Episode(**{**fields, **more})
