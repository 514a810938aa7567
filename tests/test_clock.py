"""Time limits count the time in which we ran, and no more of it."""

from __future__ import annotations

import asyncio

import pytest

from local_shutdown import clock
from local_shutdown.clock import Countdown, while_we_run


class Loop:
    """A loop whose time is told: each timer rings late by what is said."""

    def __init__(self, late: list[float]) -> None:
        self.now, self.late = 100.0, late
        self.timers: list[float] = []
        self.real = asyncio.get_running_loop()

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, then: object) -> asyncio.Handle:
        self.timers.append(delay)

        def rings() -> None:
            self.now += delay + (self.late.pop(0) if self.late else 0.0)
            assert callable(then)
            then()

        return self.real.call_soon(rings)


@pytest.mark.parametrize(
    ("late", "timers", "took"),
    [
        ([], [1.0] * 10, 10.0),
        ([0.5], [1.0] * 9 + [0.5], 10.0),  # late by half a piece: that was time, too
        ([1000.0], [1.0] * 9, 1009.0),  # stopped for long: counted as two pieces
        ([7.0] * 10, [1.0] * 5, 40.0),
        ([0.0] * 9 + [50.0], [1.0] * 10, 60.0),
    ],
)
@pytest.mark.parametrize("asleep", [False, True])
async def test_time_in_which_we_did_not_run_is_not_counted(
    late: list[float],
    timers: list[float],
    took: float,
    asleep: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = Loop(list(late))
    monkeypatch.setattr(clock.asyncio, "get_running_loop", lambda: loop)
    rang = asyncio.Event()
    if asleep:
        sleeper = loop.real.create_task(while_we_run(10.0))
        sleeper.add_done_callback(lambda _: rang.set())
    else:
        Countdown(10.0, rang.set)
    await rang.wait()
    assert loop.timers == pytest.approx(timers)
    assert loop.now - 100.0 == pytest.approx(took)


@pytest.mark.parametrize("seconds", [0, 0.0, -1.0])
async def test_where_there_is_nothing_to_wait_for_it_is_over_at_once(seconds: float) -> None:
    rang: list[bool] = []
    countdown = Countdown(seconds, lambda: rang.append(True))
    assert rang == [True]
    countdown.cancel()
    await while_we_run(seconds)
    assert rang == [True]


async def test_what_is_called_off_does_not_ring() -> None:
    rang: list[bool] = []
    countdown = Countdown(0.02, lambda: rang.append(True))
    await asyncio.sleep(0.008)
    countdown.cancel()
    countdown.cancel()
    sleeper = asyncio.create_task(while_we_run(0.02))
    await asyncio.sleep(0)
    sleeper.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeper
    await asyncio.sleep(0.05)
    assert rang == []


async def test_it_rings_once() -> None:
    rang = asyncio.Event()
    count: list[int] = []
    countdown = Countdown(0.01, lambda: (count.append(1), rang.set()))
    await rang.wait()
    await asyncio.sleep(0.03)
    countdown.cancel()
    assert count == [1]
