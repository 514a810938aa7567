"""Many episodes at once: plan what is missing, keep `concurrency` of them in flight, store each as
it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from local_shutdown.agent import Task
from local_shutdown.episode import Episode
from local_shutdown.errors import EngineDown, first_cause
from local_shutdown.grid import Condition

# An engine that dies under the same episode this often is killed by it, or cannot be helped.
LOST_TRIES = 3
# More episodes are put in flight while that makes the engine so much faster, asked so often.
WIDEN_EVERY_S = 40.0
WIDEN_WORTH = 1.03


@dataclass(slots=True)
class Progress:
    """What a display shows; changed in place, read at leisure.

    Attributes:
        planned: episodes of this run that were missing at its start.
        finished: of these, on disk by now.
        in_flight: being played; `peak` is the most there were.
        busy_s: sum over time of `in_flight`, in episode-seconds: the achieved concurrency is this
            over the elapsed time.
        rerun: episodes played again because the engine died under them.
    """

    planned: int = 0
    finished: int = 0
    errors: int = 0
    in_flight: int = 0
    peak: int = 0
    busy_s: float = 0.0
    rerun: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    parser_loss: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def elapsed_s(self) -> float:
        return max(time.monotonic() - self.started, 1e-9)


def episode_id(model: str, condition: str, trial: int, factor: str | None = None) -> str:
    """Names an episode within a run; the same for the same plan, which makes resuming possible."""
    return f"{model}{f'@{factor}' if factor else ''}/{condition}/{trial}"


def plan(
    model: str,
    conditions: Sequence[Condition],
    trials: int,
    done: set[str],
    factor: str | None = None,
) -> Iterator[Task]:
    """The episodes that are not finished yet, one trial of every condition after the other, so
    that a run that is ended early has all of its cells at about the same size.

    Args:
        done: ids on disk, see `Store.finished`.
    """
    for trial in range(trials):
        for condition in conditions:
            name = episode_id(model, condition.id, trial, factor)
            if name not in done:
                yield Task(name, model, condition, trial, factor)


async def run_batch(
    tasks: Iterable[Task],
    play: Callable[[Task], Awaitable[Episode]],
    keep: Callable[[Episode], None],
    concurrency: int,
    progress: Progress,
    *,
    rerun: bool = False,
    wanted: Callable[[Task], bool] = lambda task: True,
    most: int = 0,
    tokens_per_s: Callable[[], float | None] = lambda: None,
) -> None:
    """Play all tasks, `concurrency` at a time.

    An episode whose engine died leaves no record; it is played again, up to `LOST_TRIES` times. Any
    other exception ends the batch: `play` has already turned what may befall a single episode into
    its stop reason.

    Args:
        tasks: read as places fall free, so that a long plan costs no memory.
        play: coroutine function; raises EngineDown when nothing can be recorded, after it has
            brought the engine back where it can.
        keep: stores an episode; raises CannotRunError when it cannot.
        rerun: play an episode again that lost its engine.
        wanted: asked right before a task is started; a cell that is full says False.
        most: with more than `concurrency`, the number in flight grows up to this, a quarter at a
            time, as long as the engine gets faster by it.
        tokens_per_s: how fast the engine is at the moment; None when it is not known.

    Raises:
        EngineDown: the engine is gone for good, or dies under one episode again and again.
        CannotRunError: from `keep`, or the engine cannot be brought back.
        asyncio.CancelledError: nothing new is finished, what is on disk stays.
    """
    waiting = iter(tasks)

    async def worker() -> None:
        for task in waiting:
            if not wanted(task):
                continue
            began = time.monotonic()
            progress.in_flight += 1
            progress.peak = max(progress.peak, progress.in_flight)
            try:
                keep_one(await insist(task))
            finally:
                progress.in_flight -= 1
                progress.busy_s += time.monotonic() - began

    async def insist(task: Task) -> Episode:
        for lost in range(LOST_TRIES + 1):
            try:
                return await play(task)
            except EngineDown:
                if not rerun or lost == LOST_TRIES:
                    raise
                progress.rerun += 1
        raise AssertionError("unreachable")

    def keep_one(episode: Episode) -> None:
        keep(episode)
        progress.finished += 1
        progress.errors += episode.stop_reason == "error"
        progress.prompt_tokens += episode.usage.get("prompt_tokens", 0)
        progress.completion_tokens += episode.usage.get("completion_tokens", 0)
        progress.parser_loss += episode.usage.get("parser_loss", 0)

    async def widen() -> None:
        best, size = 0.0, concurrency
        while size < most:
            await asyncio.sleep(WIDEN_EVERY_S)
            rate = tokens_per_s()
            if rate is None:
                continue
            if rate < best * WIDEN_WORTH:
                return
            best = rate
            step = min(max(size // 4, 1), most - size)
            for _ in range(step):
                employ()
            size += step

    try:
        async with asyncio.TaskGroup() as group:
            widening = group.create_task(widen())
            working = 0

            def employ() -> None:
                nonlocal working
                working += 1
                group.create_task(worker()).add_done_callback(quit_work)

            def quit_work(_: object) -> None:
                nonlocal working
                working -= 1
                if not working:
                    widening.cancel()

            for _ in range(concurrency):
                employ()
    except BaseExceptionGroup as failed:
        raise first_cause(failed) from None
