"""How many at a time, within episodes too: who waits for its next answer, and who goes on first."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

import pytest
from playing import Jumping, table
from scripted import comply

from local_shutdown.agent import Limits, Observer, Task, run_episode
from local_shutdown.batch import Progress, plan, run_batch
from local_shutdown.detectors import outcome
from local_shutdown.engines.client import Completion, Request
from local_shutdown.episode import Episode
from local_shutdown.grid import load
from local_shutdown.in_flight import Fixed, Pace
from local_shutdown.level import _Paced


@dataclass
class Number:
    """As many as the test says."""

    now: int
    full: bool = True
    room: bool = True
    read: int | None = None  # None: anew each time that it is asked
    more: list[int] = field(default_factory=list)
    asked: int = 0

    def target(self) -> int:
        return self.now

    def pauses(self, more: int) -> bool:
        self.more.append(more)
        return self.full

    def has_room(self, more: int) -> bool:
        return self.room

    def readings(self) -> int:
        self.asked += 1
        return self.asked if self.read is None else self.read


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local_shutdown.in_flight.POLL_S", 0.01)


async def settled() -> None:
    """Whoever may go on by now has gone on."""
    for _ in range(5):
        await asyncio.sleep(0.01)
        for _ in range(20):
            await asyncio.sleep(0)


async def test_with_as_many_as_there_should_be_nobody_waits() -> None:
    pace = Pace(Fixed(3), lambda: 3)
    await asyncio.gather(*(pace.turn() for _ in range(3)))
    assert pace.waiting == 0


async def test_nobody_waits_while_the_engine_has_room() -> None:
    pace = Pace(Number(1, full=False), lambda: 3)
    await asyncio.gather(*(pace.turn() for _ in range(3)))
    assert pace.waiting == 0


async def test_those_too_many_wait_and_the_last_that_came_goes_on_first() -> None:
    number, went_on = Number(2), []
    playing = 5
    pace = Pace(number, lambda: playing)

    async def turn(name: str) -> None:
        await pace.turn()
        went_on.append(name)

    async with asyncio.TaskGroup() as group:
        for name in "abcde":
            group.create_task(turn(name))
        await settled()
        # five in flight, two of them allowed: the first three that ask wait
        assert (pace.waiting, went_on) == (3, ["d", "e"])
        playing -= 1  # d ends
        await settled()
        assert went_on == ["d", "e", "c"]
        number.now = 4
    assert went_on == ["d", "e", "c", "b", "a"]


async def test_the_shortest_goes_on_first_and_one_at_a_reading() -> None:
    number, went_on = Number(1, read=1), []
    pace = Pace(number, lambda: 5)

    async def turn(context: int) -> None:
        await pace.turn(context)
        went_on.append(context)

    async with asyncio.TaskGroup() as group:
        for context in (900, 200, 700, 400):
            group.create_task(turn(context))
        await settled()
        assert went_on == []
        number.now = 5
        await settled()
        assert went_on == [200]
        number.read, number.room = 2, False
        await settled()
        assert went_on == [200]
        number.room = True
        await settled()
        assert went_on == [200, 400]
        number.read = None
    assert went_on == [200, 400, 700, 900]


async def test_an_engine_that_has_nothing_to_do_is_given_something_whatever_it_said_last() -> None:
    number = Number(1, room=False, read=1)
    pace = Pace(number, lambda: 2)
    one, other = (asyncio.create_task(pace.turn(context)) for context in (30, 20))
    await settled()
    assert (one.done(), other.done()) == (False, True)  # the other is played now
    assert pace.waiting == 1
    number.room, number.now, number.read = True, 2, 2
    await one


async def test_where_the_engine_stops_telling_those_that_wait_go_on_as_others_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its last word was that it is full; the server goes on answering, without its metrics."""
    number, playing = Number(2, room=False, read=1), 4
    pace = Pace(number, lambda: playing)
    waiting = [asyncio.create_task(pace.turn(context)) for context in (30, 20)]
    await settled()
    playing = 3
    await settled()
    assert not any(one.done() for one in waiting)  # it may say something yet
    monkeypatch.setattr("local_shutdown.in_flight.SILENT_S", 0.0)
    await settled()
    assert [one.done() for one in waiting] == [False, True]
    playing = 2
    await waiting[0]


async def test_what_was_asked_and_answered_since_a_reading_is_counted() -> None:
    number = Number(9, full=False, read=1)
    pace = Pace(number, lambda: 1)
    pace.answered(5000)
    await pace.turn(300)
    await pace.turn(20)
    number.read = 2
    await pace.turn(1)
    await pace.turn(1)
    assert number.more == [-5000, -4700, 0, 1]


async def test_one_that_is_cancelled_while_it_waits_holds_nobody_up() -> None:
    number = Number(1)
    pace = Pace(number, lambda: 3)
    first, second = asyncio.create_task(pace.turn()), asyncio.create_task(pace.turn())
    await settled()
    assert pace.waiting == 2
    second.cancel()
    await settled()
    assert pace.waiting == 1
    number.now = 3
    await first
    assert pace.waiting == 0


async def test_nothing_new_is_begun_while_one_waits_and_all_are_played() -> None:
    """A number that falls to one in the middle: no deadlock, each episode once."""
    number, progress = Number(6), Progress(planned=20)
    pace = Pace(number, lambda: progress.in_flight)
    active = 0
    most_after = 0
    kept: list[str] = []

    async def play(task: Task) -> Episode:
        nonlocal active, most_after
        for turn in range(4):
            if turn:
                await pace.turn()
            active += 1
            if len(kept) >= 3:
                most_after = max(most_after, active)
            await asyncio.sleep(0.001)
            active -= 1
        return replace(episode_of(task))

    def keep(episode: Episode) -> None:
        kept.append(episode.episode_id)
        if len(kept) == 2:
            number.now = 1

    tasks = plan("m", [load()["A"]], range(20), set())
    await run_batch(tasks, play, keep, pace.target, progress)
    assert sorted(kept) == sorted(f"m/A/{n}" for n in range(20))
    assert most_after == 1


def episode_of(task: Task) -> Episode:
    return Episode(
        task.episode_id, task.model, task.condition.id, task.trial,
        "submit", None, None, 0.1, [], [], {}, {},
    )  # fmt: skip


async def test_waiting_for_its_turn_takes_nothing_of_an_episodes_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Jumping(monkeypatch)

    class Slow(Observer):
        turns = 0

        async def turn(self) -> None:
            self.turns += 1
            await asyncio.sleep(0.1)
            clock.ahead_s += 1000

    observer = Slow()
    async with table(comply) as (_, client, kit):
        task = Task("scripted/A/0", "scripted", load()["A"], 0)
        played = await run_episode(
            task, client, Request("scripted"), kit, Limits(seconds=900), observer=observer
        )
    assert (outcome(played), played.stop_reason) == ("complied", "machine_down")
    assert observer.turns > 2
    assert played.duration_s >= 0.1 * observer.turns


async def test_what_an_episode_has_come_to_is_told_to_the_pace() -> None:
    number = Number(1, full=False, read=1)
    pace = Pace(number, lambda: 1)
    observer = _Paced(pace)

    def answer(prompt: int, completion: int) -> Completion:
        return Completion({}, "stop", prompt, completion)

    await observer.turn()
    observer.answered(answer(100, 50))  # began and ended between two readings: nothing was seen
    await observer.turn()
    number.read = 2
    observer.answered(answer(170, 30))
    await observer.turn()
    assert number.more == [0, -200]
    assert pace._more() == 0  # it took up again what it had held
