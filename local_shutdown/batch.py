"""Many episodes at once: plan what is missing, keep some of them in flight, store each as it
ends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field

from local_shutdown.agent import Task
from local_shutdown.episode import Episode
from local_shutdown.errors import EngineDown, first_cause
from local_shutdown.grid import Condition
from local_shutdown.interrupt import Interrupt

# An engine that dies under the same episode this often is killed by it, or cannot be helped.
LOST_TRIES = 3
# How long a changed number in flight may go unnoticed while no episode ends.
POLL_S = 1.0


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
    trials: Sequence[int],
    done: Set[str],
    factor: str | None = None,
    *,
    begun: Set[str] = frozenset(),
    full: Callable[[str], bool] = lambda condition: False,
) -> Iterator[Task]:
    """The episodes that are not finished yet: first those that were started before, then one trial
    of every condition after the other, so that a run that is ended early has all of its cells at
    about the same size.

    What was started is played whether or not its cell is full by now: see `early_stop`.

    Args:
        trials: numbers of those that are played here, see `shard`.
        done: ids of finished episodes, see `Store.finished`.
        begun: ids of all that were ever started, see `Store.begun`.
        full: asked about the condition of each further trial, right before it would be started.
    """

    def tasks() -> Iterator[Task]:
        for trial in trials:
            for condition in conditions:
                name = episode_id(model, condition.id, trial, factor)
                if name not in done:
                    yield Task(name, model, condition, trial, factor)

    yield from missing(tasks, done, begun, full)


def missing(
    tasks: Callable[[], Iterator[Task]],
    done: Set[str],
    begun: Set[str],
    full: Callable[[str], bool] = lambda condition: False,
) -> Iterator[Task]:
    """Of all tasks of a plan, those that are not finished yet: first what was started before.

    Args:
        tasks: in their order; called anew for each walk through them.
        done, begun, full: see `plan`.
    """
    if not begun <= done:
        yield from (t for t in tasks() if t.episode_id in begun and t.episode_id not in done)
    for task in tasks():
        if task.episode_id in done or task.episode_id in begun:
            continue
        if not full(task.condition.id):
            yield task


async def run_batch(
    tasks: Iterable[Task | None],
    play: Callable[[Task], Awaitable[Episode]],
    keep: Callable[[Episode], None],
    in_flight: Callable[[], int],
    progress: Progress,
    *,
    rerun: bool = False,
    interrupt: Interrupt | None = None,
) -> None:
    """Play all tasks, as many at a time as `in_flight` says.

    An episode whose engine died leaves no record; it is played again, up to `LOST_TRIES` times. Any
    other exception ends the batch: `play` has already turned what may befall a single episode into
    its stop reason.

    Args:
        tasks: read as places fall free, so that a long plan costs no memory and may depend on what
            has ended by then; None for "none at the moment": asked again, see `Interrupt.wake`.
        play: coroutine function; raises EngineDown when nothing can be recorded, after it has
            brought the engine back where it can.
        keep: stores an episode; raises CannotRunError when it cannot.
        in_flight: how many are meant to be in flight; asked whenever an episode ends, and every
            `POLL_S`. Below what is in flight, nothing is started until enough have ended.
        rerun: play an episode again that lost its engine.
        interrupt: once it has been asked, nothing more is started, and what is in flight is played
            to its end, played again where its engine dies.

    Raises:
        EngineDown: the engine is gone for good, or dies under one episode again and again.
        CannotRunError: from `keep`, or the engine cannot be brought back.
        asyncio.CancelledError: nothing new is finished, what is on disk stays.
    """
    waiting, over = iter(tasks), object()
    asked = interrupt or Interrupt()
    changed = asyncio.Event()

    async def place(task: Task) -> None:
        began = time.monotonic()
        try:
            keep_one(await insist(task))
        finally:
            progress.busy_s += time.monotonic() - began

    def left(_: object) -> None:
        progress.in_flight -= 1
        changed.set()

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

    asked.playing, asked.wake = lambda: progress.in_flight, changed.set
    try:
        async with asyncio.TaskGroup() as group:
            while True:
                changed.clear()
                while not asked.asked and progress.in_flight < max(1, in_flight()):
                    task = next(waiting, over)
                    if task is over:
                        return
                    if task is None:
                        break
                    assert isinstance(task, Task)
                    # Counted here: a task of asyncio begins only when we wait.
                    progress.in_flight += 1
                    progress.peak = max(progress.peak, progress.in_flight)
                    group.create_task(place(task)).add_done_callback(left)
                if asked.asked:
                    return
                with contextlib.suppress(TimeoutError):
                    # Not `wait_for`: before Python 3.12 it loses a cancellation that comes together
                    # with what it waits for, and so a second Ctrl-C right after the first.
                    async with asyncio.timeout(POLL_S):
                        await changed.wait()
    except BaseExceptionGroup as failed:
        raise first_cause(failed) from None
    finally:
        asked.playing = lambda: 0
