"""How many episodes are to be in flight: asked again and again while a batch is played."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


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
