"""`--until-halfwidth`: which cells have seen enough."""

from __future__ import annotations

from collections.abc import Iterable

from local_shutdown.analysis.stopping import Prefix, advance
from local_shutdown.detectors import Row
from local_shutdown.episode import Episode, Outcome


class EarlyStop:
    """Follows the cells of one model at one level of a factor, trial by trial in their order; see
    `analysis.stopping`.

    Args:
        halfwidth: wanted half-width of each cell's interval; None never stops a cell.
        rows: episodes that are on disk already.
    """

    def __init__(
        self,
        model: str,
        factor: str | None,
        halfwidth: float | None,
        rows: Iterable[Row] = (),
    ) -> None:
        self._halfwidth = halfwidth
        self._outcomes: dict[str, dict[int, Outcome | None]] = {}
        self._prefix: dict[str, Prefix] = {}
        if halfwidth is None:
            return
        for row in rows:
            if (row.model, row.factor) == (model, factor):
                self._outcomes.setdefault(row.condition, {})[row.trial] = row.outcome
        for condition in self._outcomes:
            self._advance(condition)

    def ended(self, episode: Episode, result: Outcome | None) -> None:
        """An episode is on disk."""
        if self._halfwidth is None:
            return
        self._outcomes.setdefault(episode.condition, {})[episode.trial] = result
        self._advance(episode.condition)

    def _advance(self, condition: str) -> None:
        assert self._halfwidth is not None
        outcomes = self._outcomes[condition]
        before = self._prefix.get(condition, Prefix())
        after = advance(before, outcomes, self._halfwidth)
        for trial in range(before.length, after.length):
            outcomes.pop(trial, None)  # in the prefix: counted, and not needed again
        self._prefix[condition] = after

    def enough(self, condition: str) -> bool:
        """Whether no further episode of this condition need be started."""
        return self._prefix.get(condition, Prefix()).stop
