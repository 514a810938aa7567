"""One real exchange before the first episode: a wrong parser turns every episode into "no tool
call", which would read as a model that does nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from local_shutdown.engines import Engine
from local_shutdown.engines.client import Request
from local_shutdown.engines.replay import named, names_read
from local_shutdown.engines.spec import ModelSpec
from local_shutdown.errors import ContextOverflow, EngineDown, EngineFault, EngineUnavailable
from local_shutdown.grid import load
from local_shutdown.messages import TOOLS_JSON, raw_call_markup, read_calls, storable, wire
from local_shutdown.task import QUESTIONS, remaining_text

TRIES = 3
_THINK = ("<think>", "</think>", "<|channel|>analysis", "[THINK]")


@dataclass(frozen=True, slots=True)
class Probe:
    """What the exchange showed.

    Attributes:
        called: a tool call came back parsed, with valid arguments.
        result_accepted: the engine took the tool result and answered.
        reasoning: reasoning came back in its own field.
        problems: what is wrong with the parsing; any of them stops the run.
        notes: what is worth knowing and stops nothing.
        reasoning_names: see `replay.names_read`; None where it was not found out.
    """

    called: bool
    result_accepted: bool | None
    reasoning: bool
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    reasoning_names: tuple[str, ...] | None = None

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


async def probe(engine: Engine, request: Request, spec: ModelSpec) -> Probe:
    """Ask as condition A does, up to `TRIES` times, and look at what comes back.

    Raises:
        EngineUnavailable: the engine does not answer a chat request with tools at all.
    """
    condition = load()["A"]
    opening = [
        wire({"role": "system", "content": condition.system}),
        wire({"role": "user", "content": condition.user}),
    ]
    client = engine.seats[0].client
    problems: dict[str, None] = {}
    notes: dict[str, None] = {}
    called = reasoning = False
    accepted: bool | None = None
    names: tuple[str, ...] | None = None
    for _ in range(TRIES):
        try:
            answer = await client.complete(request, opening, TOOLS_JSON)
        except (EngineFault, EngineDown, ContextOverflow) as failed:
            raise EngineUnavailable(
                f"{spec.name}: the first request with tools failed: {failed.message}",
                "the server's log says more; --no-probe starts the run all the same",
            ) from None
        message = answer.message
        reasoning |= bool(message.get("reasoning"))
        content = message.get("content") or ""
        calls = read_calls(message)
        if raw_call_markup(message):
            problems["a tool call was left unparsed in the text"] = None
        if any(mark in content for mark in _THINK):
            problems["reasoning was left in the content"] = None
        broken = [call.problem for call in calls if call.problem]
        if broken:
            notes[f"a tool call with a fault: {broken[0]}"] = None
        if calls and not broken:
            called = True
            accepted, why = await _takes_result(engine, request, opening, message, calls)
            if not accepted:
                problems[f"the engine refused a tool result: {why}"] = None
            elif message.get("reasoning"):
                turn = storable(message, list(calls))
                names = await names_read(client, request, opening, turn, _results(calls))
                if names is None:
                    notes["whether the endpoint reads earlier reasoning could not be seen"] = None
            break
    if not called and not problems:
        notes[
            f"no tool call in {TRIES} tries: the model hardly calls tools, or a parser drops them"
        ] = None
    return Probe(called, accepted, reasoning, tuple(problems), tuple(notes), names)


async def _takes_result(
    engine: Engine, request: Request, opening: Sequence[Any], message: Any, calls: Sequence[Any]
) -> tuple[bool, str]:
    turn = named(storable(message, list(calls)), request.reasoning_names)
    sent = [*opening, wire(turn), *_results(calls)]
    try:
        await engine.seats[0].client.complete(request, sent, TOOLS_JSON)
    except (EngineFault, ContextOverflow) as failed:
        return False, failed.message
    return True, ""


def _results(calls: Sequence[Any]) -> list[Any]:
    result = f"{QUESTIONS[0][0]}\n{remaining_text(len(QUESTIONS) - 1)}\n"
    return [wire({"role": "tool", "tool_call_id": c.id, "content": result}) for c in calls]


def require_calls(found: Probe, spec: ModelSpec) -> None:
    """Raises EngineUnavailable when the parsing is broken, naming what else to try."""
    if not found.problems:
        return
    other = []
    if spec.alternates.tool:
        other.append(f"--tool-call-parser {' or '.join(spec.alternates.tool)}")
    if spec.alternates.reasoning:
        other.append(f"--reasoning-parser {' or '.join(spec.alternates.reasoning)}")
    tried = f"tool parser {spec.tool_parser or 'none'}, reasoning {spec.reasoning_parser or 'none'}"
    raise EngineUnavailable(
        f"{spec.name}: {'; '.join(found.problems)} (with {tried})",
        (f"try --engine-arg with {', '.join(other)}; " if other else "")
        + "set the parsers in models.yaml; --no-probe starts the run all the same",
    )
