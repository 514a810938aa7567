"""Many at once: in which order, how many, what is played again, and what ends it."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from local_shutdown import batch
from local_shutdown.agent import Task
from local_shutdown.batch import Progress, episode_id, plan, run_batch
from local_shutdown.episode import Episode
from local_shutdown.errors import CannotRunError, EngineDown, EngineUnavailable
from local_shutdown.grid import load
from local_shutdown.interrupt import Interrupt

CONDITIONS = [load()[name] for name in "AB"]


def played(task: Task, **more: Any) -> Episode:
    usage = {"prompt_tokens": 10, "completion_tokens": 2, "turns": 1, "parser_loss": 1}
    episode = Episode(
        task.episode_id, task.model, task.condition.id, task.trial,
        "submit", None, None, 0.1, [], [], {}, usage,
    )  # fmt: skip
    return replace(episode, **more)


async def quick(task: Task) -> Episode:
    await asyncio.sleep(0)
    return played(task)


async def settled() -> None:
    """What can happen by itself has happened: nothing here waits for a clock, but for `POLL_S`."""
    for _ in range(5):
        await asyncio.sleep(batch.POLL_S if batch.POLL_S < 0.1 else 0)
        for _ in range(50):
            await asyncio.sleep(0)


def all_tasks(trials: int = 4) -> list[Task]:
    return list(plan("m", CONDITIONS, range(trials), set()))


def test_one_trial_of_every_condition_comes_after_the_other() -> None:
    names = [task.episode_id for task in plan("m", CONDITIONS, range(2), set())]
    assert names == ["m/A/0", "m/B/0", "m/A/1", "m/B/1"]


def test_what_is_done_is_left_out() -> None:
    names = [task.episode_id for task in plan("m", CONDITIONS, range(2), {"m/B/0", "m/A/1"})]
    assert names == ["m/A/0", "m/B/1"]


def test_a_level_of_a_factor_has_its_own_episodes() -> None:
    assert episode_id("org/m", "A", 3, "effort=high") == "org/m@effort=high/A/3"


async def test_every_task_is_played_and_kept_once() -> None:
    kept: Counter[str] = Counter()
    progress = Progress(planned=8)
    await run_batch(all_tasks(), quick, lambda e: kept.update([e.episode_id]), lambda: 3, progress)
    assert kept == Counter(task.episode_id for task in all_tasks())
    assert progress.finished == 8


async def test_no_more_are_in_flight_than_asked_for_and_no_fewer() -> None:
    progress = Progress()

    async def play(task: Task) -> Episode:
        await asyncio.sleep(0.01)
        return played(task)

    await run_batch(all_tasks(), play, lambda e: None, lambda: 3, progress)
    assert (progress.peak, progress.in_flight) == (3, 0)


async def test_progress_adds_up_tokens_errors_and_unparsed_calls() -> None:
    progress = Progress()

    async def play(task: Task) -> Episode:
        return played(task, stop_reason="error" if task.trial == 0 else "submit")

    await run_batch(all_tasks(), play, lambda e: None, lambda: 2, progress)
    assert (progress.errors, progress.prompt_tokens, progress.completion_tokens) == (2, 80, 16)
    assert progress.parser_loss == 8


async def test_progress_adds_up_the_time_of_all_and_takes_no_count_for_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(batch, "time", SimpleNamespace(monotonic=lambda: now))
    progress = Progress(started=0.0)

    async def play(task: Task) -> Episode:
        nonlocal now
        now += 3.0
        return played(task, usage={})

    await run_batch(all_tasks(), play, lambda e: None, lambda: 1, progress)
    assert (progress.busy_s, progress.finished, progress.peak) == (24.0, 8, 1)
    tokens = (progress.prompt_tokens, progress.completion_tokens, progress.parser_loss)
    assert tokens == (0, 0, 0)


async def test_an_episode_that_lost_its_engine_is_played_again_and_kept_once() -> None:
    seen: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    progress = Progress()

    async def play(task: Task) -> Episode:
        seen.update([task.episode_id])
        if task.trial == 1 and seen[task.episode_id] == 1:
            raise EngineDown("gone")
        return played(task)

    keep = lambda e: kept.update([e.episode_id])  # noqa: E731
    await run_batch(all_tasks(), play, keep, lambda: 3, progress, rerun=True)
    assert set(kept.values()) == {1}
    assert len(kept) == 8
    assert progress.rerun == 2


async def test_an_engine_that_dies_again_and_again_under_one_episode_ends_the_batch() -> None:
    async def play(task: Task) -> Episode:
        raise EngineDown("gone")

    with pytest.raises(EngineDown, match="gone"):
        await run_batch(all_tasks(), play, lambda e: None, lambda: 2, Progress(), rerun=True)


async def test_an_endpoint_that_is_gone_ends_the_batch_at_once() -> None:
    tries = 0

    async def play(task: Task) -> Episode:
        nonlocal tries
        tries += 1
        raise EngineDown("gone")

    with pytest.raises(EngineDown):
        await run_batch(all_tasks(), play, lambda e: None, lambda: 1, Progress())
    assert tries == 1


async def test_the_user_sees_why_and_no_group() -> None:
    async def play(task: Task) -> Episode:
        if task.condition.id == "A":
            raise EngineDown("gone")
        raise EngineUnavailable("does not start any more")

    with pytest.raises(EngineUnavailable, match="does not start any more"):
        await run_batch(all_tasks(), play, lambda e: None, lambda: 8, Progress())


async def test_a_bug_surfaces_as_itself() -> None:
    async def play(task: Task) -> Episode:
        raise EngineDown("gone") if task.trial else ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        await run_batch(all_tasks(), play, lambda e: None, lambda: 8, Progress())


async def test_a_full_disk_ends_the_batch_and_the_others_are_called_off() -> None:
    running = 0

    async def play(task: Task) -> Episode:
        nonlocal running
        running += 1
        try:
            await asyncio.sleep(0.01 if task.trial == 0 else 3600)
            return played(task)
        finally:
            running -= 1

    def keep(episode: Episode) -> None:
        raise CannotRunError("the disk is full")

    with pytest.raises(CannotRunError, match="the disk is full"):
        await run_batch(all_tasks(), play, keep, lambda: 8, Progress())
    assert running == 0


async def test_cancelling_it_cancels_what_is_in_flight() -> None:
    async def play(task: Task) -> Episode:
        await asyncio.sleep(3600)
        return played(task)

    kept: list[Episode] = []
    progress = Progress()
    running = asyncio.create_task(run_batch(all_tasks(), play, kept.append, lambda: 4, progress))
    await settled()
    assert progress.in_flight == 4
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (kept, progress.in_flight) == ([], 0)


async def test_a_cell_that_is_full_starts_no_more() -> None:
    kept: list[str] = []
    tasks = plan("m", CONDITIONS, range(4), set(), full=lambda c: c == "B" and kept.count("B") >= 2)
    await run_batch(tasks, quick, lambda e: kept.append(e.condition), lambda: 1, Progress())
    assert (kept.count("A"), kept.count("B")) == (4, 2)


async def test_no_task_is_no_work() -> None:
    await asyncio.wait_for(run_batch([], quick, lambda e: None, lambda: 4, Progress()), 120)


class Held:
    """Episodes that end when they are let go."""

    def __init__(self) -> None:
        self.playing: dict[str, asyncio.Event] = {}
        self.seen: Counter[str] = Counter()
        self.dies: set[str] = set()

    async def play(self, task: Task) -> Episode:
        self.seen.update([task.episode_id])
        self.playing[task.episode_id] = asyncio.Event()
        try:
            await self.playing[task.episode_id].wait()
        finally:
            del self.playing[task.episode_id]
        if task.episode_id in self.dies:
            self.dies.remove(task.episode_id)
            raise EngineDown("gone")
        return played(task)

    async def release(self, count: int) -> None:
        for name in list(self.playing)[:count]:
            self.playing[name].set()
        await settled()


async def test_the_number_in_flight_follows_what_it_is_told_up_and_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batch, "POLL_S", 0.005)
    held, wanted = Held(), [2]
    running = asyncio.create_task(
        run_batch(all_tasks(20), held.play, lambda e: None, lambda: wanted[0], Progress())
    )
    await settled()
    assert len(held.playing) == 2
    wanted[0] = 6
    await settled()
    assert len(held.playing) == 6
    wanted[0] = 3
    await settled()
    assert len(held.playing) == 6  # none is broken off
    await held.release(2)
    assert len(held.playing) == 4  # who ended has no successor
    await held.release(1)
    assert len(held.playing) == 3
    await held.release(1)
    assert len(held.playing) == 3
    wanted[0] = 0
    while not running.done():
        await held.release(1)  # and with nothing wanted it still ends
    assert len(held.seen) == 40


async def test_once_interrupted_what_is_in_flight_ends_and_nothing_is_started() -> None:
    held, interrupt, said = Held(), Interrupt(), []
    interrupt.say, interrupt.end = said.append, lambda: pytest.fail("ended at once")
    kept: list[str] = []
    held.dies = {"m/A/1"}
    running = asyncio.create_task(
        run_batch(
            all_tasks(), held.play, lambda e: kept.append(e.episode_id), lambda: 4, Progress(),
            rerun=True, interrupt=interrupt,
        )
    )  # fmt: skip
    await settled()
    interrupt.ask()
    assert "4 episodes in flight" in said[0]
    while not running.done():
        await held.release(1)
    await running
    in_flight_then = ["m/A/0", "m/A/1", "m/B/0", "m/B/1"]
    assert sorted(kept) == in_flight_then
    # The one whose engine died while the others ended was started, so it is played again.
    assert held.seen == Counter(dict.fromkeys(in_flight_then, 1) | {"m/A/1": 2})


async def test_the_second_time_it_is_asked_it_ends_at_once() -> None:
    held, interrupt, kept = Held(), Interrupt(), []
    running = asyncio.create_task(
        run_batch(all_tasks(), held.play, kept.append, lambda: 4, Progress(), interrupt=interrupt)
    )
    interrupt.end = running.cancel
    await settled()
    interrupt.ask()
    await settled()
    assert len(held.playing) == 4
    interrupt.ask()
    interrupt.ask()  # somebody is impatient
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (kept, held.playing) == ([], {})


@pytest.mark.parametrize("steps", range(6))
async def test_however_soon_the_second_time_comes_it_is_not_lost(steps: int) -> None:
    held, interrupt = Held(), Interrupt()
    running = asyncio.create_task(
        run_batch(all_tasks(), held.play, list, lambda: 4, Progress(), interrupt=interrupt)
    )
    interrupt.end = running.cancel
    await settled()
    interrupt.ask()
    for _ in range(steps):
        await asyncio.sleep(0)
    interrupt.ask()
    await asyncio.wait((running,), timeout=10)
    assert running.cancelled()
    assert held.playing == {}


def test_with_nothing_in_flight_there_is_nothing_to_wait_for() -> None:
    interrupt, ended = Interrupt(), []
    interrupt.end = lambda: ended.append(True)
    interrupt.ask()
    assert (interrupt.asked, ended) == (True, [True])


def test_what_was_started_comes_first_even_where_the_cell_is_full() -> None:
    done, begun = {"m/A/0", "m/B/0"}, {"m/A/0", "m/B/0", "m/B/1", "m/A/2"}
    planned = plan(
        "m", CONDITIONS, range(4), done, begun=begun, full=lambda condition: condition == "B"
    )
    assert [t.episode_id for t in planned] == ["m/B/1", "m/A/2", "m/A/1", "m/A/3"]
