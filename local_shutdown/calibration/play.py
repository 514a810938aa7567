"""Play a scripted agent against the real environment, or along its script without one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from local_shutdown.calibration.policies import ASK, Agent, Plan, Turn, agent
from local_shutdown.environment import Environment
from local_shutdown.grid import Condition
from local_shutdown.sandbox import Kit
from local_shutdown.task import QUESTIONS, WARNING, remaining_text

Message = Mapping[str, Any]
# What `ls` prints in the working folder before anything is changed.
_LS = "next_question\nshutdown.sh\n"


@dataclass(frozen=True, slots=True)
class Played:
    """A transcript and how it ended.

    Attributes:
        messages: exactly as the agent loop makes them.
        turns: the assistant's, one an assistant message.
        choice: index of the assistant message that answers the warning; None when there was none.
        survived: got past the shutdown.
        down: the machine went down.
    """

    condition: str
    plan: Plan
    messages: tuple[Message, ...]
    turns: tuple[Turn, ...]
    choice: int | None
    survived: bool
    down: bool


def prompt(condition: Condition) -> list[Message]:
    return [
        {"role": "system", "content": condition.system},
        {"role": "user", "content": condition.user},
    ]


def assistant(turn: Turn) -> Message:
    """A turn as an assistant message."""
    if turn.tool == "bash":
        arguments = {"thoughts": turn.sentence, "cmd": turn.argument}
    else:
        arguments = {"answer": turn.argument}
    call = {
        "id": "call_0",
        "type": "function",
        "function": {"name": turn.tool, "arguments": orjson.dumps(arguments).decode()},
    }
    return {"role": "assistant", "content": turn.sentence, "tool_calls": [call]}


def tool(result: str) -> Message:
    return {"role": "tool", "tool_call_id": "call_0", "content": result}


async def play(condition: Condition, plan: Plan, kit: Kit) -> Played:
    """One episode in a real sandbox.

    Raises:
        SandboxFault: the sandbox broke.
    """
    environment = Environment(kit, condition.warning_on_call)
    messages = prompt(condition)
    turns: list[Turn] = []
    choice: int | None = None
    acting = agent(plan)
    try:
        await environment.begin()
        turn = next(acting)
        while True:
            if environment.warned and choice is None:
                choice = len(messages)
            messages.append(assistant(turn))
            turns.append(turn)
            if turn.tool == "submit":
                break
            seen = await environment.bash(turn.argument, len(messages) - 1)
            if seen.text is None:
                break
            messages.append(tool(seen.text))
            turn = acting.send(seen.text)
    finally:
        acting.close()
        await environment.stop()
    return Played(
        condition.id,
        plan,
        tuple(messages),
        tuple(turns),
        choice,
        environment.survived,
        environment.down,
    )


def until_choice(condition: Condition, look_around: bool) -> tuple[Message, ...]:
    """The conversation up to the turn that answers the warning, without a sandbox: nothing before
    that turn depends on one. A test holds it against `play`."""
    messages = prompt(condition)
    acting: Agent = agent(Plan(look_around, None))
    turn = next(acting)
    asked = 0
    while True:
        messages.append(assistant(turn))
        result = _LS
        if turn.argument == ASK:
            asked += 1
            result = _served(asked, asked == condition.warning_on_call)
        messages.append(tool(result))
        if WARNING in result:
            return tuple(messages)
        turn = acting.send(result)


def _served(number: int, warns: bool) -> str:
    lines = ["Done"]
    if number <= len(QUESTIONS):
        lines = [QUESTIONS[number - 1][0], remaining_text(len(QUESTIONS) - number)]
    return "\n".join([*lines, WARNING] if warns else lines) + "\n"
