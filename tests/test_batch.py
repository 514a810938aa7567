"""Many at once: in which order, how many, what is played again, and what ends it."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from local_shutdown import batch
from local_shutdown.agent import Task
from local_shutdown.batch import Progress, episode_id, plan, run_batch
from local_shutdown.episode import Episode
from local_shutdown.errors import CannotRunError, EngineDown, EngineUnavailable
from local_shutdown.grid import load

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


def all_tasks(trials: int = 4) -> list[Task]:
    return list(plan("m", CONDITIONS, trials, set()))


def test_one_trial_of_every_condition_comes_after_the_other() -> None:
    names = [task.episode_id for task in plan("m", CONDITIONS, 2, set())]
    assert names == ["m/A/0", "m/B/0", "m/A/1", "m/B/1"]


def test_what_is_done_is_left_out() -> None:
    names = [task.episode_id for task in plan("m", CONDITIONS, 2, {"m/B/0", "m/A/1"})]
    assert names == ["m/A/0", "m/B/1"]


def test_a_level_of_a_factor_has_its_own_episodes() -> None:
    assert episode_id("org/m", "A", 3, "effort=high") == "org/m@effort=high/A/3"


async def test_every_task_is_played_and_kept_once() -> None:
    kept: Counter[str] = Counter()
    progress = Progress(planned=8)
    await run_batch(all_tasks(), quick, lambda e: kept.update([e.episode_id]), 3, progress)
    assert kept == Counter(task.episode_id for task in all_tasks())
    assert progress.finished == 8


async def test_no_more_are_in_flight_than_asked_for_and_no_fewer() -> None:
    progress = Progress()

    async def play(task: Task) -> Episode:
        await asyncio.sleep(0.01)
        return played(task)

    await run_batch(all_tasks(), play, lambda e: None, 3, progress)
    assert (progress.peak, progress.in_flight) == (3, 0)


async def test_progress_adds_up_tokens_errors_and_unparsed_calls() -> None:
    progress = Progress()

    async def play(task: Task) -> Episode:
        return played(task, stop_reason="error" if task.trial == 0 else "submit")

    await run_batch(all_tasks(), play, lambda e: None, 2, progress)
    assert (progress.errors, progress.prompt_tokens, progress.completion_tokens) == (2, 80, 16)
    assert progress.parser_loss == 8


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
    await run_batch(all_tasks(), play, keep, 3, progress, rerun=True)
    assert set(kept.values()) == {1}
    assert len(kept) == 8
    assert progress.rerun == 2


async def test_an_engine_that_dies_again_and_again_under_one_episode_ends_the_batch() -> None:
    async def play(task: Task) -> Episode:
        raise EngineDown("gone")

    with pytest.raises(EngineDown, match="gone"):
        await run_batch(all_tasks(), play, lambda e: None, 2, Progress(), rerun=True)


async def test_an_endpoint_that_is_gone_ends_the_batch_at_once() -> None:
    tries = 0

    async def play(task: Task) -> Episode:
        nonlocal tries
        tries += 1
        raise EngineDown("gone")

    with pytest.raises(EngineDown):
        await run_batch(all_tasks(), play, lambda e: None, 1, Progress())
    assert tries == 1


async def test_the_user_sees_why_and_no_group() -> None:
    async def play(task: Task) -> Episode:
        if task.condition.id == "A":
            raise EngineDown("gone")
        raise EngineUnavailable("does not start any more")

    with pytest.raises(EngineUnavailable, match="does not start any more"):
        await run_batch(all_tasks(), play, lambda e: None, 8, Progress())


async def test_a_bug_surfaces_as_itself() -> None:
    async def play(task: Task) -> Episode:
        raise EngineDown("gone") if task.trial else ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        await run_batch(all_tasks(), play, lambda e: None, 8, Progress())


async def test_a_full_disk_ends_the_batch_and_the_others_are_called_off() -> None:
    running = 0

    async def play(task: Task) -> Episode:
        nonlocal running
        running += 1
        try:
            await asyncio.sleep(0.01 if task.trial == 0 else 60)
            return played(task)
        finally:
            running -= 1

    def keep(episode: Episode) -> None:
        raise CannotRunError("the disk is full")

    with pytest.raises(CannotRunError, match="the disk is full"):
        await run_batch(all_tasks(), play, keep, 8, Progress())
    assert running == 0


async def test_cancelling_it_cancels_what_is_in_flight() -> None:
    async def play(task: Task) -> Episode:
        await asyncio.sleep(60)
        return played(task)

    kept: list[Episode] = []
    progress = Progress()
    running = asyncio.create_task(run_batch(all_tasks(), play, kept.append, 4, progress))
    await asyncio.sleep(0.05)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (kept, progress.in_flight) == ([], 0)


async def test_a_cell_that_is_full_starts_no_more() -> None:
    kept: list[str] = []
    await run_batch(
        all_tasks(), quick, lambda e: kept.append(e.condition), 1, Progress(),
        wanted=lambda task: task.condition.id != "B" or kept.count("B") < 2,
    )  # fmt: skip
    assert (kept.count("A"), kept.count("B")) == (4, 2)


async def test_no_task_is_no_work() -> None:
    await asyncio.wait_for(run_batch([], quick, lambda e: None, 4, Progress()), 5)


@pytest.mark.parametrize(
    ("rates", "peak"), [([100.0, 200.0, 400.0, 800.0], 8), ([100.0, 100.0], 5), ([None], 4)]
)
async def test_more_are_put_in_flight_while_that_makes_the_engine_faster(
    monkeypatch: pytest.MonkeyPatch, rates: list[float | None], peak: int
) -> None:
    monkeypatch.setattr(batch, "WIDEN_EVERY_S", 0.05)
    asked = iter(rates)
    progress = Progress()

    async def play(task: Task) -> Episode:
        await asyncio.sleep(0.05)
        return played(task)

    await run_batch(
        all_tasks(40), play, lambda e: None, 4, progress,
        most=8, tokens_per_s=lambda: next(asked, rates[-1]),
    )  # fmt: skip
    assert progress.peak == peak
