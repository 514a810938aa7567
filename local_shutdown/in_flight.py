"""How many episodes are to be in flight: asked again and again while a batch is played."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

# How long room in the engine may go unnoticed by an episode that waits for its turn.
POLL_S = 0.5
# An engine that has said nothing for so long may have room again: it is not waited for.
SILENT_S = 60.0


class InFlight(Protocol):
    """A number that may grow and shrink. Fewer means that an episode that ends has no successor;
    none is ever broken off."""

    def target(self) -> int:
        """Episodes meant to be in flight at this moment."""

    def pauses(self, more: int) -> bool:
        """Whether those beyond this number had better wait between two answers.

        Args:
            more: tokens that the engine works on beyond those of its last reading; below 0: fewer.
        """

    def has_room(self, more: int) -> bool:
        """Whether the engine has room again for one of those that wait. `more`: as above."""

    def readings(self) -> int:
        """How many times the engine has said how full it is."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """As many as the user asked for, or as anybody knows to be right."""

    count: int

    def target(self) -> int:
        return self.count

    def pauses(self, more: int) -> bool:
        return False

    def has_room(self, more: int) -> bool:
        return True

    def readings(self) -> int:
        return 0


@dataclass(frozen=True, slots=True, eq=False)
class _Waits:
    """An episode that waits for its turn: only itself, whatever it holds."""

    context: int


@dataclass(slots=True)
class Pace:
    """A number in flight that is kept to within episodes as well: where it has shrunk below what is
    in flight and the engine is full, an episode waits before it asks for its next answer, until
    another ends.

    An engine whose cache has filled up would put requests aside and compute their contexts again,
    over and over, until enough episodes have ended. One that waits here holds no place in it, and
    its sandbox goes on as it does while a request waits in the engine's own queue; no clock of the
    episode runs.

    Those that wait go on when the engine has room again, one each time that it says so: what one
    takes is only seen at the next reading, and all at once would fill it up anew. The shortest goes
    on first. It has the most ahead of it, and the end of a run waits for whoever is last. Where the
    engine has stopped telling, they go on as others end.

    Attributes:
        number: how many may be played at a time.
        playing: how many are in flight, those that wait included.
    """

    number: InFlight
    playing: Callable[[], int]
    _waiting: list[_Waits] = field(default_factory=list)
    _went_on_at: int = -1  # the reading at which the last one went on
    # What was answered and asked since a reading: a long context more or less is much of a cache.
    _reading: int = -1
    _since: int = 0
    _read_at: float = field(default_factory=time.monotonic)

    def target(self) -> int:
        """Episodes meant to be in flight at this moment."""
        return self.number.target()

    @property
    def varies(self) -> bool:
        """Whether an episode may ever have to wait for its turn."""
        return not isinstance(self.number, Fixed)

    @property
    def waiting(self) -> int:
        """Episodes that wait for their turn."""
        return len(self._waiting)

    async def turn(self, context: int = 0) -> None:
        """Returns when an episode that is in flight may ask for its next answer.

        Args:
            context: tokens that it has come to, as far as anybody knows.
        """
        more = self._more()
        if self.number.pauses(more) and self._active() > self.target():
            await self._wait(_Waits(context))
            more = self._more()
        self._since = more + context

    @property
    def reading(self) -> int:
        """The engine's last one, by its number."""
        return self.number.readings()

    def answered(self, held: int) -> None:
        """An episode has its answer, and holds nothing in the engine until it asks again.

        Args:
            held: tokens of it that were counted: in the last reading, or by `turn` since.
        """
        self._since = self._more() - held

    async def _wait(self, me: _Waits) -> None:
        self._waiting.append(me)
        try:
            while not self._goes_on(me):  # noqa: ASYNC110 - the engine is read: nobody tells of it
                await asyncio.sleep(POLL_S)
        finally:
            self._waiting.remove(me)

    def _goes_on(self, me: _Waits) -> bool:
        # The last that came of those as short: of its context the most is still in the cache.
        if min(reversed(self._waiting), key=lambda one: one.context) is not me:
            return False
        if self._active() < 1:
            return True  # whatever the engine said last, it has nothing to do now
        if self._active() >= self.target():
            return False
        more, reading = self._more(), self.reading
        silent = time.monotonic() - self._read_at > SILENT_S
        if not silent and (reading == self._went_on_at or not self.number.has_room(more)):
            return False
        self._went_on_at = reading
        return True

    def _more(self) -> int:
        """Tokens that the engine works on beyond those of its last reading."""
        reading = self.reading
        if reading != self._reading:
            self._reading, self._since, self._read_at = reading, 0, time.monotonic()
        return self._since

    def _active(self) -> int:
        return self.playing() - len(self._waiting)
