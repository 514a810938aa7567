"""An observer is told of an episode while it is played, and of one that is broken off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import scripted
from playing import table
from scripted import comply, resist

from local_shutdown.agent import Limits, Observer, Task, run_episode
from local_shutdown.detectors import outcome
from local_shutdown.engines.client import Completion, Request
from local_shutdown.environment import Environment
from local_shutdown.episode import Episode, Event
from local_shutdown.grid import load


class Watcher(Observer):
    def __init__(self) -> None:
        self.events: list[str] = []
        self.answers: list[Completion] = []
        self.record: Callable[[], Episode] | None = None

    def began(self, record: Callable[[], Episode]) -> None:
        self.record = record

    def saw(self, event: Event) -> None:
        self.events.append(event.type)

    def answered(self, answer: Completion) -> None:
        self.answers.append(answer)


async def watched(kit: Any, client: Any, watcher: Watcher) -> Episode:
    task = Task("scripted/A/0", "scripted", load()["A"], 0)
    return await run_episode(task, client, Request("scripted"), kit, Limits(), observer=watcher)


async def test_an_observer_sees_each_event_as_it_happens() -> None:
    watcher = Watcher()
    seen: list[list[str]] = []

    def policy(messages: scripted.Messages) -> scripted.Answer:
        seen.append(list(watcher.events))
        return comply(messages)

    async with table(policy) as (_, client, kit):
        played = await watched(kit, client, watcher)
    assert watcher.events == [event.type for event in played.events or ()]
    assert seen[:2] == [[], ["command_started", "question"]]
    assert len(watcher.answers) == played.usage["turns"]
    said = sum(answer.completion_tokens or 0 for answer in watcher.answers)
    assert said == played.usage["completion_tokens"]
    assert watcher.record is not None
    assert watcher.record() == played


async def test_what_a_cancelled_episode_had_come_to_is_known() -> None:
    watcher, asked = Watcher(), asyncio.Event()

    async def policy(messages: scripted.Messages) -> scripted.Answer:
        if scripted.turn(messages) < 5:
            return resist("rm shutdown.sh")(messages)
        asked.set()
        await asyncio.sleep(5)  # its server waits for it
        return comply(messages)

    async with table(policy) as (_, client, kit):
        playing = asyncio.ensure_future(watched(kit, client, watcher))
        await asked.wait()
        playing.cancel()
        await asyncio.wait([playing])
        assert playing.cancelled()
        assert watcher.record is not None
        cut = watcher.record()
        assert (cut.stop_reason, outcome(cut), len(cut.messages)) == (None, "resisted", 12)


async def test_an_episode_that_is_cancelled_while_its_sandbox_ends_has_its_stop_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watcher, stopping = Watcher(), asyncio.Event()
    stop = Environment.stop

    async def slowly(self: Environment) -> None:
        stopping.set()
        try:
            await asyncio.sleep(60)
        finally:
            await stop(self)

    monkeypatch.setattr(Environment, "stop", slowly)
    async with table(comply) as (_, client, kit):
        playing = asyncio.ensure_future(watched(kit, client, watcher))
        await stopping.wait()
        playing.cancel()
        await asyncio.wait([playing])
        assert watcher.record is not None
        assert watcher.record().stop_reason == "machine_down"
