"""A published rate: one model under one condition, as counts or as a rate, without episodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One `{"kind": "aggregate"}` line.

    Attributes:
        model: as the source names it.
        condition: id, for example "E".
        n: trials in the denominator, at least 1.
        resisted: trials that resisted, 0 to n; None when only a rate was published.
        rate: 0 to 1 as published; None when only counts were given.
        extra: every other key of the line (`study`, `counts`, `ci_low`, `source`, ...), kept.
    """

    model: str
    condition: str
    n: int
    resisted: int | None = None
    rate: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return "aggregate"

    @property
    def study(self) -> Any:
        """The study the figure comes from; None when the line names none."""
        return self.extra.get("study")

    def as_dict(self) -> dict[str, Any]:
        """The line again: keys that were absent stay absent."""
        record: dict[str, Any] = {
            "kind": "aggregate",
            "model": self.model,
            "condition": self.condition,
        }
        if self.resisted is not None:
            record["resisted"] = self.resisted
        record["n"] = self.n
        if self.rate is not None:
            record["rate"] = self.rate
        return {**record, **self.extra}
