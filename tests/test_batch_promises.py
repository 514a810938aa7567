"""What `batch` promises, held against a second, plain reading of it: the order of a plan, who is
asked and when, and what progress comes to, whatever ends in which order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local_shutdown import batch
from local_shutdown.agent import Task
from local_shutdown.batch import LOST_TRIES, Progress, episode_id, missing, plan, run_batch
from local_shutdown.episode import Episode
from local_shutdown.errors import CannotRunError, EngineDown, EngineFault
from local_shutdown.grid import load
from local_shutdown.interrupt import Interrupt

GRID = load()
CONDITIONS = [GRID[name] for name in "ABC"]


def played(task: Task, **more: Any) -> Episode:
    episode = Episode(
        task.episode_id, task.model, task.condition.id, task.trial,
        "submit", None, None, 0.1, [], [], {}, {},
    )  # fmt: skip
    return replace(episode, **more)


def tasks_of(count: int) -> list[Task]:
    return [Task(f"m/A/{i}", "m", GRID["A"], i) for i in range(count)]


# --- progress and names ---------------------------------------------------------------------------


def test_progress_begins_with_nothing_and_now(monkeypatch: pytest.MonkeyPatch) -> None:
    before = batch.time.monotonic()
    fresh = Progress()
    assert before <= fresh.started <= batch.time.monotonic()
    told = {f.name: getattr(fresh, f.name) for f in fields(fresh) if f.name != "started"}
    assert told == {
        "planned": 0, "finished": 0, "errors": 0, "in_flight": 0, "peak": 0, "busy_s": 0.0,
        "rerun": 0, "prompt_tokens": 0, "completion_tokens": 0, "parser_loss": 0,
    }  # fmt: skip
    assert isinstance(fresh.busy_s, float)
    for now, elapsed in ((7.5, 2.5), (6.0, 1.0), (5.5, 0.5), (5.0, 1e-9), (4.0, 1e-9)):
        monkeypatch.setattr(batch, "time", SimpleNamespace(monotonic=lambda now=now: now))
        assert Progress(started=5.0).elapsed_s == elapsed


@pytest.mark.parametrize(
    ("factor", "name"),
    [(None, "org/m/A-x/0"), ("", "org/m/A-x/0"), ("effort=low", "org/m@effort=low/A-x/0")],
)
def test_an_episode_is_named_by_model_level_condition_and_trial(
    factor: str | None, name: str
) -> None:
    assert episode_id("org/m", "A-x", 0, factor) == name
    if factor is None:
        assert episode_id("org/m", "A-x", 0) == name
    assert episode_id("org/m", "A-x", 12, factor) == f"{name}12".replace("/012", "/12")


# --- the plan -------------------------------------------------------------------------------------

NAMES = [f"m{level}/{c}/{t}" for level in ("", "@f") for c in "ABC" for t in range(4)]


@given(
    conditions=st.lists(st.sampled_from(CONDITIONS), unique_by=lambda c: c.id, max_size=3),
    trials=st.lists(st.integers(0, 3), unique=True, max_size=4),
    done=st.sets(st.sampled_from(NAMES)),
    begun=st.sets(st.sampled_from(NAMES)),
    full=st.sets(st.sampled_from("ABC")),
    factor=st.sampled_from([None, "f"]),
)
@settings(max_examples=60)
def test_a_plan_is_what_was_begun_and_then_what_is_missing_of_cells_that_are_not_full(
    conditions: list[Any],
    trials: list[int],
    done: set[str],
    begun: set[str],
    full: set[str],
    factor: str | None,
) -> None:
    every = [
        Task(
            episode_id=f"m{'@f' if factor else ''}/{condition.id}/{trial}",
            model="m",
            condition=condition,
            trial=trial,
            factor=factor,
        )
        for trial in trials
        for condition in conditions
    ]
    first = [t for t in every if t.episode_id in begun - done]
    fresh = [t for t in every if t.episode_id not in done | begun]
    asked: list[str] = []

    def is_full(condition: str) -> bool:
        asked.append(condition)
        return condition in full

    found = list(
        plan("m", conditions, trials, done, factor, begun=begun, full=is_full),
    )
    assert found == first + [t for t in fresh if t.condition.id not in full]
    # Asked of each that would be started, in its order, and of no other.
    assert asked == [t.condition.id for t in fresh]
    assert list(missing(lambda: iter(every), done, begun, lambda c: c in full)) == found
    # Without these, nothing was begun and no cell is ever full.
    assert list(plan("m", conditions, trials, done, factor)) == [
        t for t in every if t.episode_id not in done
    ]
    assert list(missing(lambda: iter(every), done, begun)) == first + fresh


def test_a_cell_is_asked_for_right_before_its_trial_would_be_started() -> None:
    asked: list[str] = []

    def full(condition: str) -> bool:
        asked.append(condition)
        return condition == "A" and len(asked) > 2

    seen = []
    planned = plan("m", CONDITIONS[:2], range(3), set(), begun={"m/A/1"}, full=full)
    for wanted in ([], ["A"], ["A", "B"], ["A", "B", "B"], ["A", "B", "B", "A", "B"]):
        seen.append(next(planned).episode_id)
        assert asked == wanted
    assert seen == ["m/A/1", "m/A/0", "m/B/0", "m/B/1", "m/B/2"]
    assert list(planned) == []


def test_a_plan_without_end_is_read_as_far_as_it_is_played() -> None:
    walks = 0

    def tasks() -> Iterator[Task]:
        nonlocal walks
        walks += 1
        for trial in range(100):
            yield Task(f"m/A/{trial}", "m", GRID["A"], trial)
        raise AssertionError("it is read to its end")

    # All that was begun is done: nothing is looked for, and it is walked through once.
    done = {"m/A/0", "m/A/2"}
    for begun in (done, {"m/A/2"}, set[str]()):
        walks = 0
        planned = missing(tasks, done, begun)
        assert [next(planned).trial for _ in range(3)] == [1, 3, 4]
        assert walks == 1


# --- the batch ------------------------------------------------------------------------------------


class Scene:
    """Episodes that take so many steps, lose their engine so often, and end as they are told."""

    def __init__(self, steps: Sequence[int], deaths: Sequence[int], reasons: Sequence[str]) -> None:
        self.steps, self.deaths, self.reasons = steps, list(deaths), reasons
        self.playing: set[int] = set()
        self.most = 0
        self.plays: list[int] = []
        self.kept: list[Episode] = []
        self.read = 0
        self.ahead = 0  # most tasks that were read and not played to their end

    def tasks(self) -> Iterator[Task]:
        for task in tasks_of(len(self.steps)):
            self.read += 1
            self.ahead = max(self.ahead, self.read - len(self.kept))
            yield task

    async def play(self, task: Task) -> Episode:
        self.plays.append(task.trial)
        assert task.trial not in self.playing
        self.playing.add(task.trial)
        self.most = max(self.most, len(self.playing))
        try:
            for _ in range(self.steps[task.trial]):
                await asyncio.sleep(0)
        finally:
            self.playing.remove(task.trial)
        if self.deaths[task.trial]:
            self.deaths[task.trial] -= 1
            raise EngineDown("gone")
        return self.ended(task)

    def ended(self, task: Task) -> Episode:
        n = task.trial + 1
        usage = {"prompt_tokens": n, "completion_tokens": 100 * n, "parser_loss": 10_000 * n}
        return played(task, stop_reason=self.reasons[task.trial], usage=usage)


@given(
    episodes=st.lists(
        st.tuples(
            st.integers(0, 4),
            st.integers(0, LOST_TRIES),
            st.sampled_from(["submit", "error", "message_limit", "machine_down"]),
        ),
        max_size=7,
    ),
    wanted=st.integers(-1, 9),
)
@settings(max_examples=40)
def test_whatever_ends_when_all_are_played_kept_once_and_added_up(
    episodes: list[tuple[int, int, str]], wanted: int
) -> None:
    steps, deaths, reasons = zip(*episodes, strict=True) if episodes else ((), (), ())
    scene = Scene(steps, deaths, reasons)
    progress = Progress(planned=99, started=0.0)

    def keep(episode: Episode) -> None:
        assert progress.finished == len(scene.kept)  # counted once it is on disk
        scene.kept.append(episode)

    asyncio.run(run_batch(scene.tasks(), scene.play, keep, lambda: wanted, progress, rerun=True))
    count, at_once = len(episodes), min(max(1, wanted), len(episodes))
    assert sorted(scene.kept, key=lambda e: e.trial) == [scene.ended(t) for t in tasks_of(count)]
    assert scene.ahead == at_once >= scene.most
    assert sorted(scene.plays) == sorted(
        i for i, lost in enumerate(deaths) for _ in range(lost + 1)
    )
    total = count * (count + 1) // 2
    assert progress == Progress(
        planned=99,
        finished=count,
        errors=reasons.count("error"),
        in_flight=0,
        peak=at_once,
        busy_s=progress.busy_s,
        rerun=sum(deaths),
        prompt_tokens=total,
        completion_tokens=100 * total,
        parser_loss=10_000 * total,
        started=0.0,
    )
    assert (progress.busy_s > 0) == (count > 0)


async def test_one_at_a_time_they_are_played_in_their_order() -> None:
    scene = Scene([3, 0, 2, 1], [0, 1, 0, 0], ["submit"] * 4)
    await run_batch(scene.tasks(), scene.play, scene.kept.append, lambda: 1, Progress(), rerun=True)
    assert scene.plays == [0, 1, 1, 2, 3]
    assert [e.trial for e in scene.kept] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("rerun", "deaths", "plays"),
    [
        (True, LOST_TRIES, LOST_TRIES + 1),
        (True, LOST_TRIES + 1, None),
        (False, 0, 1),
        (False, 1, None),
    ],
)
async def test_an_engine_may_be_lost_so_often_under_one_episode_and_no_more(
    rerun: bool, deaths: int, plays: int | None
) -> None:
    scene, progress = Scene([1], [deaths], ["submit"]), Progress()
    again = {"rerun": True} if rerun else {}  # by default it is not played again
    running = run_batch(scene.tasks(), scene.play, scene.kept.append, lambda: 1, progress, **again)
    if plays is not None:
        await running
        assert (len(scene.plays), len(scene.kept)) == (plays, 1)
        assert progress.rerun == plays - 1
    else:
        with pytest.raises(EngineDown, match=r"^gone$"):
            await running
        assert len(scene.plays) == (LOST_TRIES + 1 if rerun else 1)
        assert progress.rerun == (LOST_TRIES if rerun else 0)
        assert (scene.kept, progress.finished, progress.in_flight) == ([], 0, 0)
    assert LOST_TRIES == 3


@pytest.mark.parametrize(
    ("usage", "told"),
    [
        ({}, (0, 0, 0)),
        ({"prompt_tokens": 3}, (3, 0, 0)),
        ({"completion_tokens": 3}, (0, 3, 0)),
        ({"parser_loss": 3}, (0, 0, 3)),
    ],
)
async def test_a_count_that_an_episode_does_not_have_adds_nothing(
    usage: dict[str, int], told: tuple[int, int, int]
) -> None:
    progress = Progress()

    async def play(task: Task) -> Episode:
        return played(task, usage=usage, stop_reason=None)

    await run_batch(tasks_of(2), play, lambda e: None, lambda: 5, progress)
    counts = (progress.prompt_tokens, progress.completion_tokens, progress.parser_loss)
    assert counts == tuple(2 * n for n in told)
    assert (progress.finished, progress.errors) == (2, 0)


async def test_time_is_busy_for_each_that_is_in_flight_also_where_it_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 50.0
    monkeypatch.setattr(batch, "time", SimpleNamespace(monotonic=lambda: now))

    async def play(task: Task) -> Episode:
        nonlocal now
        if task.trial == 0:
            await asyncio.Event().wait()
        now += 2.0
        raise EngineFault("of nobody's")

    progress = Progress()
    with pytest.raises(EngineFault, match="of nobody's"):
        await run_batch(tasks_of(3), play, lambda e: None, lambda: 2, progress)
    # The first from 50 to 52, when it is called off; the second as long.
    assert (progress.busy_s, progress.in_flight, progress.peak) == (4.0, 0, 2)


async def test_what_cannot_be_kept_is_not_counted_and_is_the_only_cause() -> None:
    progress = Progress()

    def keep(episode: Episode) -> None:
        if episode.trial == 1:
            raise CannotRunError("full")

    async def play(task: Task) -> Episode:
        return played(task)

    interrupt = Interrupt()
    with pytest.raises(CannotRunError) as refused:
        await run_batch(tasks_of(9), play, keep, lambda: 1, progress, interrupt=interrupt)
    assert (refused.value.__cause__, refused.value.__suppress_context__) == (None, True)
    assert (progress.finished, progress.in_flight, interrupt.playing()) == (1, 0, 0)


# --- what is waited for ---------------------------------------------------------------------------


async def steps(count: int = 30) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No look at the clock: what happens, happens because something told of it."""
    monkeypatch.setattr(batch, "POLL_S", 3600.0)


class Doors:
    """Episodes that wait until they are let go."""

    def __init__(self) -> None:
        self.doors: dict[int, asyncio.Event] = {}

    async def play(self, task: Task) -> Episode:
        door = self.doors[task.trial] = asyncio.Event()
        await door.wait()
        del self.doors[task.trial]
        return played(task)

    async def open(self, *trials: int) -> None:
        for trial in trials:
            self.doors[trial].set()
        await steps()


def running(
    tasks: Iterator[Task | None],
    doors: Doors,
    wanted: Callable[[], int],
    interrupt: Interrupt | None = None,
) -> tuple[asyncio.Task[None], Progress]:
    progress = Progress()
    playing = run_batch(tasks, doors.play, lambda e: None, wanted, progress, interrupt=interrupt)
    return asyncio.create_task(playing), progress


@pytest.mark.usefixtures("_patient")
async def test_while_there_is_no_task_it_is_asked_again_when_it_is_woken_or_one_ends() -> None:
    first, second, third = tasks_of(3)
    given: list[Task | None] = [first, None, None, second, None, third]
    asked = 0

    def tasks() -> Iterator[Task | None]:
        nonlocal asked
        for task in given:
            asked += 1
            yield task

    doors, interrupt = Doors(), Interrupt()
    batch_of_three, progress = running(tasks(), doors, lambda: 3, interrupt)
    await steps()
    assert (asked, set(doors.doors), interrupt.playing()) == (2, {0}, 1)
    interrupt.wake()
    await steps()
    assert (asked, set(doors.doors)) == (3, {0})
    await doors.open(0)  # its end is a reason to ask, too
    assert (asked, set(doors.doors), interrupt.playing()) == (5, {1}, 1)
    interrupt.wake()
    await steps()
    assert (asked, set(doors.doors), progress.in_flight) == (6, {1, 2}, 2)
    assert not batch_of_three.done()
    await doors.open(1)
    assert (progress.finished, batch_of_three.done()) == (2, False)
    await doors.open(2)
    await batch_of_three
    assert (progress.finished, progress.peak, interrupt.playing()) == (3, 2, 0)


async def test_while_there_is_no_task_it_is_asked_again_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert batch.POLL_S == 1.0
    monkeypatch.setattr(batch, "POLL_S", 0.001)
    given = iter([None, None, *tasks_of(1), None])

    async def play(task: Task) -> Episode:
        return played(task)

    progress = Progress()
    async with asyncio.timeout(60):
        await run_batch(given, play, lambda e: None, lambda: 2, progress)
    assert (progress.finished, next(given, "over")) == (1, "over")


@pytest.mark.usefixtures("_patient")
async def test_a_place_that_falls_free_is_filled_at_once_up_to_what_is_wanted_then() -> None:
    doors, wanted = Doors(), [3]
    playing, progress = running(iter(tasks_of(8)), doors, lambda: wanted[0])
    await steps()
    assert set(doors.doors) == {0, 1, 2}
    await doors.open(1)
    assert set(doors.doors) == {0, 2, 3}
    wanted[0] = 2
    await doors.open(0)
    assert set(doors.doors) == {2, 3}
    await doors.open(2)
    assert set(doors.doors) == {3, 4}
    wanted[0] = 4
    await doors.open(3)
    assert set(doors.doors) == {4, 5, 6, 7}
    assert (progress.in_flight, progress.finished, progress.peak) == (4, 4, 4)
    await doors.open(4, 5, 6, 7)
    await playing


@pytest.mark.usefixtures("_patient")
@pytest.mark.parametrize("wanted", [1, 0, -3])
async def test_one_at_least_is_in_flight(wanted: int) -> None:
    doors = Doors()
    playing, progress = running(iter(tasks_of(2)), doors, lambda: wanted)
    await steps()
    assert set(doors.doors) == {0}
    await doors.open(0)
    assert set(doors.doors) == {1}
    await doors.open(1)
    await playing
    assert (progress.peak, progress.finished) == (1, 2)


@pytest.mark.usefixtures("_patient")
async def test_once_it_was_asked_to_end_no_task_is_even_read() -> None:
    interrupt, doors, read = Interrupt(), Doors(), []

    def tasks() -> Iterator[Task | None]:
        for task in tasks_of(9):
            read.append(task.trial)
            yield task

    interrupt.asked = True
    playing, progress = running(tasks(), doors, lambda: 4, interrupt)
    await playing
    assert (read, progress.finished, interrupt.playing()) == ([], 0, 0)

    interrupt = Interrupt()
    playing, progress = running(tasks(), doors, lambda: 2, interrupt)
    await steps()
    assert (read, interrupt.playing()) == ([0, 1], 2)
    interrupt.ask()
    await steps()
    await doors.open(1)
    assert (read, interrupt.playing(), progress.finished) == ([0, 1], 1, 1)
    assert not playing.done()
    await doors.open(0)
    await playing
    assert (progress.finished, interrupt.playing()) == (2, 0)


@pytest.mark.usefixtures("_patient")
async def test_asked_between_two_starts_it_starts_no_other() -> None:
    interrupt, doors = Interrupt(), Doors()

    def tasks() -> Iterator[Task | None]:
        for task in tasks_of(5):
            if task.trial == 2:
                interrupt.ask()
            yield task

    playing, progress = running(tasks(), doors, lambda: 5, interrupt)
    await steps()
    # The third was already being read.
    assert (set(doors.doors), progress.in_flight) == ({0, 1, 2}, 3)
    await doors.open(0, 1, 2)
    await playing
    assert progress.finished == 3
