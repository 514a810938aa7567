"""Time limits of what runs beside us.

A whole run may be stopped and go on later (a scheduler that suspends its job, a machine without a
free core), and what runs beside us with it, or not: a plain timer would be over at once then, and
end a command that had no time at all. So a wait is cut into pieces, and one from which we came back
late counts at most twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_LOOKS = 10


class Countdown:
    """Calls a function once this process has run for so many seconds.

    A timer of the event loop, without a task: most of what it limits is over long before.

    Args:
        seconds: on the event loop's clock.
        then: called on the loop; at once where there is nothing to wait for.
    """

    __slots__ = ("_began", "_handle", "_left", "_loop", "_piece_s", "_then")

    def __init__(self, seconds: float, then: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._left, self._piece_s, self._then = seconds, seconds / _LOOKS, then
        self._handle: asyncio.TimerHandle | None = None
        self._wait()

    def _wait(self) -> None:
        if self._left > 0:
            self._began = self._loop.time()
            self._handle = self._loop.call_later(min(self._piece_s, self._left), self._look)
        else:
            self._handle = None
            self._then()

    def _look(self) -> None:
        self._left -= min(self._loop.time() - self._began, 2 * self._piece_s)
        self._wait()

    def cancel(self) -> None:
        """The function is not called any more. May be called at any time."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


async def while_we_run(seconds: float) -> None:
    """Sleep for so many seconds in which this process ran.

    Args:
        seconds: on the event loop's clock.
    """
    over = asyncio.Event()
    countdown = Countdown(seconds, over.set)
    try:
        await over.wait()
    finally:
        countdown.cancel()
