"""How many episodes are to be in flight: asked again and again while a batch is played."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

# How long a number that has grown may go unnoticed by an episode that waits for its turn.
POLL_S = 0.5


class InFlight(Protocol):
    """A number that may grow and shrink. Fewer means that an episode that ends has no successor;
    none is ever broken off."""

    def target(self) -> int:
        """Episodes meant to be in flight at this moment."""

    def pauses(self) -> bool:
        """Whether those beyond this number had better wait between two answers."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """As many as the user asked for, or as anybody knows to be right."""

    count: int

    def target(self) -> int:
        return self.count

    def pauses(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Pace:
    """A number in flight that is kept to within episodes as well: where it has shrunk below what is
    in flight and the engine is full, an episode waits before it asks for its next answer, until
    another ends.

    An engine whose cache has filled up would put requests aside and compute their contexts again,
    over and over, until enough episodes have ended. One that waits here holds no place in it, and
    its sandbox goes on as it does while a request waits in the engine's own queue; no clock of the
    episode runs. The last that came to wait goes on first: of its context the most is still in the
    engine's cache.

    Attributes:
        number: how many may be played at a time.
        playing: how many are in flight, those that wait included.
    """

    number: InFlight
    playing: Callable[[], int]
    _waiting: list[object] = field(default_factory=list)

    def target(self) -> int:
        """Episodes meant to be in flight at this moment."""
        return self.number.target()

    @property
    def waiting(self) -> int:
        """Episodes that wait for their turn."""
        return len(self._waiting)

    async def turn(self) -> None:
        """Returns when an episode that is in flight may ask for its next answer."""
        if not self.number.pauses() or self._active() <= self.target():
            return
        me = object()
        self._waiting.append(me)
        try:
            while self._waiting[-1] is not me or self._active() >= self.target():  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)  # the number follows the engine: nobody tells of it
        finally:
            self._waiting.remove(me)

    def _active(self) -> int:
        return self.playing() - len(self._waiting)
