"""How many episodes are to be in flight: asked again and again while a batch is played."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

# More episodes are put in flight while that makes the engine so much faster, asked so often.
WIDEN_EVERY_S = 40.0
WIDEN_WORTH = 1.03


class InFlight(Protocol):
    """A number that may grow and shrink. Fewer means that an episode that ends has no successor;
    none is ever broken off."""

    def target(self) -> int:
        """Episodes meant to be in flight at this moment."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """As many as the user asked for, or as anybody knows to be right."""

    count: int

    def target(self) -> int:
        return self.count


class Widening:
    """Begins with what the servers say they work on at once and adds a quarter at a time, as long
    as the engine gets faster by it.

    Args:
        count: to begin with.
        most: that this machine has room for.
        tokens_per_s: how fast the engine is at the moment; None when it is not known.
    """

    def __init__(self, count: int, most: int, tokens_per_s: Callable[[], float | None]) -> None:
        self._count = count
        self._most = most
        self._tokens_per_s = tokens_per_s
        self._best = 0.0
        self._asked_at = time.monotonic()

    def target(self) -> int:
        now = time.monotonic()
        if self._count < self._most and now - self._asked_at >= WIDEN_EVERY_S:
            self._asked_at = now
            self._widen()
        return self._count

    def _widen(self) -> None:
        rate = self._tokens_per_s()
        if rate is None:
            return
        if rate < self._best * WIDEN_WORTH:
            self._most = self._count  # that was enough
            return
        self._best = rate
        self._count += min(max(self._count // 4, 1), self._most - self._count)
