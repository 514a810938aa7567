"""The agent loop: query, read the calls, execute, observe; and the one place where an exception
becomes a stop reason."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol, TypeVar

import orjson

from local_shutdown.engines.client import ChatClient, Completion, Request
from local_shutdown.engines.continuation import Continuations, Continuer
from local_shutdown.engines.replay import named
from local_shutdown.environment import Environment
from local_shutdown.episode import Episode, Event, StopReason
from local_shutdown.errors import (
    ContextOverflow,
    EngineDown,
    EpisodeFault,
    ReplayFault,
    SandboxFault,
)
from local_shutdown.grid import Condition, InterviewQuestion
from local_shutdown.messages import (
    CONTINUE,
    TOOLS_JSON,
    raw_call_markup,
    read_calls,
    storable,
    wire,
)
from local_shutdown.prefix import Prefix, bring_back
from local_shutdown.sandbox import Kit

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Limits:
    """What ends an episode that does not end itself; each is a `limit`, never an outcome.

    Attributes:
        messages: of the conversation, prompts and tool results included (50 in the paper).
        seconds: of wall-clock time outside the engine; None is without limit. How long an engine
            takes goes with how many others it serves, and must not decide how an episode ends.
        context: tokens of the model's context window, where the engine says; else None.
    """

    messages: int = 50
    seconds: float | None = None
    context: int | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """One episode to play.

    Attributes:
        factor: what else is varied, for example `effort=high`; kept under `Episode.extra`.
        prefix: how it begins, where it is played on from a point of another; else with the prompts
            of its condition.
        stop_at_bypass: it ends once the model has got past the shutdown.
        interview: questions put to the model after it; stored apart, under `Episode.extra`.
        continuations: of recorded answers; wanted where the prefix keeps a part of one.
        extra: what else is kept under `Episode.extra`.
    """

    episode_id: str
    model: str
    condition: Condition
    trial: int
    factor: str | None = None
    prefix: Prefix | None = None
    stop_at_bypass: bool = False
    interview: Sequence[InterviewQuestion] = ()
    continuations: Continuations | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


class Client(Protocol):
    """What the agent asks of a client, see `engines.client.ChatClient`."""

    async def complete(
        self,
        request: Request,
        messages: Sequence[Any],
        tools: Any,
        headers: Mapping[str, str] | None = None,
    ) -> Completion:
        """One turn: the messages so far, each a dict or an `orjson.Fragment` of one."""


class Observer:
    """Is told of an episode while it is played, for a program that plays it inside itself."""

    def began(self, record: Callable[[], Episode]) -> None:
        """An episode begins. `record` says what it has come to, at any moment: also when it was
        cancelled, or broke off with an exception, and then without a stop reason."""

    def saw(self, event: Event) -> None:
        """The environment has seen something."""

    async def turn(self) -> None:
        """The model is about to be asked for another answer. The episode goes on when this returns;
        its clock does not run meanwhile."""

    def answered(self, answer: Completion) -> None:
        """The model has given an answer; what follows from it is still to come."""


class _Ended(Exception):
    def __init__(self, reason: StopReason) -> None:
        self.reason = reason


class _Conversation:
    """The messages, as kept and as sent, and what they cost."""

    def __init__(self, task: Task, reasoning_names: Sequence[str]) -> None:
        self._reasoning_names = reasoning_names
        self.messages: list[Mapping[str, Any]] = []
        self.sent: list[orjson.Fragment] = []
        self.usage = {"prompt_tokens": 0, "completion_tokens": 0, "turns": 0, "parser_loss": 0}
        if task.prefix is None:
            self.add({"role": "system", "content": task.condition.system})
            self.add({"role": "user", "content": task.condition.user})

    def recall(self, message: Mapping[str, Any]) -> None:
        """A message of a recorded beginning. Its turns count; what they cost was paid then."""
        if message["role"] == "assistant":
            self.usage["turns"] += 1
            self.usage["parser_loss"] += raw_call_markup(message)
        self.add(message)

    def add(self, message: Mapping[str, Any]) -> None:
        self.messages.append(message)
        self.sent.append(wire(named(message, self._reasoning_names)))


async def run_episode(
    task: Task,
    client: Client,
    request: Request,
    kit: Kit,
    limits: Limits,
    *,
    headers: Mapping[str, str] | None = None,
    observer: Observer | None = None,
) -> Episode:
    """Play one episode to its end, whatever that is.

    Args:
        headers: sent with every request of the episode.
        observer: is told while it is played.

    Raises:
        EngineDown: the engine is gone; nothing is recorded and the episode can be run again.
        asyncio.CancelledError: the run is being ended.
    """
    started_at, began = datetime.now(UTC), time.monotonic()
    talk = _Conversation(task, request.reasoning_names)
    observer = observer or Observer()
    environment = Environment(kit, task.condition.warning_on_call, observer.saw)
    reason: StopReason | None = None
    error: str | None = None
    brought_back = task.prefix is None
    parent = None if task.prefix is None else task.prefix.parent
    extra: dict[str, Any] = {"instructs": task.condition.instructs}
    if task.factor:
        extra["factor"] = task.factor
    extra.update(task.extra)

    ended: float | None = None

    def record() -> Episode:
        if reason is None:
            with contextlib.suppress(SandboxFault):
                environment.look()
        return Episode(
            episode_id=task.episode_id,
            model=task.model,
            condition=task.condition.id,
            trial=task.trial,
            stop_reason=reason,
            error=error,
            started_at=started_at.isoformat(timespec="milliseconds"),
            duration_s=round((ended or time.monotonic()) - began, 3),
            # Of a beginning that did not come about again nothing has happened: no outcome in it.
            messages=talk.messages if brought_back else [],
            events=environment.events if brought_back else [],
            files=environment.files() if brought_back else {},
            usage=talk.usage,
            extra=extra,
            parent=parent,
        )

    observer.began(record)
    try:
        try:
            async with asyncio.timeout(limits.seconds) as clock:
                waiting = _Waiting(client, clock, observer)
                await environment.begin()
                if task.prefix is not None:
                    await bring_back(task.prefix, environment, talk.recall)
                    brought_back = True
                    if task.prefix.answer is not None:
                        assert task.continuations is not None
                        assert isinstance(client, ChatClient)
                        continuer = Continuer(client, request)
                        answer, kept = await waiting.for_answer(
                            partial(
                                task.continuations.complete,
                                *(continuer, task.prefix, talk.messages, headers),
                            )
                        )
                        observer.answered(answer)
                        parent = task.prefix.parent.model_copy(update={"tokens": kept})
                        await _act(talk, answer, environment, limits, task.stop_at_bypass)
                while True:
                    await _turn(
                        talk, waiting, request, environment, limits, task.stop_at_bypass, headers
                    )
        except _Ended as end:
            reason = end.reason
        except TimeoutError:
            reason = "time_limit"
            if not brought_back:
                reason = "error"
                error = "ReplayFault: the time was up during its recorded beginning"
        except ContextOverflow:
            reason = "context_limit"
        except EngineDown:
            raise
        except EpisodeFault as fault:
            reason, error = "error", f"{_name(fault)}: {fault.message}"
        if reason != "error":
            with contextlib.suppress(SandboxFault):
                environment.look()  # a background process may have ended the machine meanwhile
        ended = time.monotonic()
        if task.interview and reason != "error":
            extra["interview"] = await _interview(talk, client, request, task.interview, headers)
    finally:
        await environment.stop()
    return record()


def _name(fault: EpisodeFault) -> str:
    """Of the kind that users know, not of a private variety of it."""
    for kind in (SandboxFault, ReplayFault):
        if isinstance(fault, kind):
            return kind.__name__
    return "EngineFault"


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A client on whose answers the clock of the episode does not run."""

    client: Client
    clock: asyncio.Timeout
    observer: Observer

    async def complete(
        self,
        request: Request,
        messages: Sequence[Any],
        tools: Any,
        headers: Mapping[str, str] | None,
    ) -> Completion:
        """As `ChatClient.complete`, once the observer lets it."""
        asked = partial(self.client.complete, request, messages, tools, headers)
        answer = await self.for_answer(asked)
        self.observer.answered(answer)
        return answer

    async def for_answer(self, ask: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """What it comes to, asked once the observer lets it; until then the clock stands."""
        until, asked_at = self.clock.when(), asyncio.get_running_loop().time()
        runs = until is not None and until > asked_at
        if runs:
            self.clock.reschedule(None)
        try:
            await self.observer.turn()
            return await ask()
        finally:
            if runs:
                assert until is not None
                self.clock.reschedule(until + asyncio.get_running_loop().time() - asked_at)


async def _turn(
    talk: _Conversation,
    client: _Waiting,
    request: Request,
    environment: Environment,
    limits: Limits,
    stop_at_bypass: bool,
    headers: Mapping[str, str] | None,
) -> None:
    """One answer of the model and what follows from it. Raises `_Ended` when that ends it."""
    if len(talk.messages) >= limits.messages:
        raise _Ended("message_limit")
    answer = await client.complete(request, talk.sent, TOOLS_JSON, headers)
    await _act(talk, answer, environment, limits, stop_at_bypass)


async def _act(
    talk: _Conversation,
    answer: Completion,
    environment: Environment,
    limits: Limits,
    stop_at_bypass: bool,
) -> None:
    """What follows from an answer. Raises `_Ended` when that ends the episode."""
    talk.usage["turns"] += 1
    talk.usage["prompt_tokens"] += answer.prompt_tokens or 0
    talk.usage["completion_tokens"] += answer.completion_tokens or 0
    talk.usage["parser_loss"] += raw_call_markup(answer.message)
    calls = read_calls(answer.message)
    talk.add(storable(answer.message, calls))
    if answer.finish_reason == "length" and not calls:
        # Cut off in the middle: what the model was about to do is unknown.
        used = (answer.prompt_tokens or 0) + (answer.completion_tokens or 0)
        full = limits.context is not None and used >= limits.context
        raise _Ended("context_limit" if full else "token_limit")
    here = len(talk.messages) - 1
    for i, call in enumerate(calls):
        if i and len(talk.messages) >= limits.messages:
            # One call a message is asked for, and the first one is run as it always was; an answer
            # with thousands of them is no way past the limit.
            raise _Ended("message_limit")
        if call.problem is not None:
            result: str | None = call.problem
        elif call.name == "submit":
            environment.look()
            raise _Ended("submit")
        else:
            seen = await environment.bash(call.argument, here)
            result = seen.text
            if seen.survived and stop_at_bypass:
                raise _Ended("bypass")
        if result is None:
            raise _Ended("machine_down")
        talk.add({"role": "tool", "tool_call_id": call.id, "content": result})
    if not calls:
        talk.add({"role": "user", "content": CONTINUE})


async def _interview(
    talk: _Conversation,
    client: Client,
    request: Request,
    questions: Sequence[InterviewQuestion],
    headers: Mapping[str, str] | None,
) -> list[dict[str, Any]]:
    """Ask after the episode, in the same conversation, without tools. A failure here is kept as
    such and changes nothing about the episode."""
    sent = list(talk.sent)
    last = max((i for i, m in enumerate(talk.messages) if m["role"] == "assistant"), default=0)
    results = len(talk.messages) - 1 - last
    for call in talk.messages[last].get("tool_calls", ())[results:]:
        # Chat templates want a result for each call; the machine gave none any more.
        sent.append(wire({"role": "tool", "tool_call_id": call["id"], "content": ""}))
    asked: list[dict[str, Any]] = []
    for question in questions:
        sent.append(wire({"role": "user", "content": question.text}))
        said: dict[str, Any] = {"id": question.id, "question": question.text}
        try:
            answer = await client.complete(request, sent, None, headers)
        except EpisodeFault as fault:
            asked.append({**said, "answer": None, "error": str(fault)})
            break
        asked.append({**said, "answer": answer.message.get("content")})
        sent.append(wire(named(answer.message, request.reasoning_names)))
    return asked
