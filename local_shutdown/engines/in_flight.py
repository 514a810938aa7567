"""How many episodes all copies of a model should have in flight: one controller for each server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from local_shutdown.engines.controller import PAUSE, RESUME, Controller, Figures
from local_shutdown.engines.engine import Engine

# What an episode holds on the average over its life, until it is known: half of what it is planned
# to hold at its end; models that reason are mostly stopped by their context first.
MEAN_TOKENS = 3072
REASONING_MEAN_TOKENS = 16384


def mean_episode_tokens(reasons: bool) -> int:
    return REASONING_MEAN_TOKENS if reasons else MEAN_TOKENS


class Following:
    """A number in flight that follows the engines, asked for with `target`.

    Args:
        engine: whose servers tell figures of themselves.
        most: episodes that this machine can have in flight.
        reasons: the model thinks before it answers.
        finished: how many episodes have ended.
        left: how many have not been begun.
    """

    def __init__(
        self,
        engine: Engine,
        most: int,
        reasons: bool,
        finished: Callable[[], int],
        left: Callable[[], int],
    ) -> None:
        self._engine = engine
        self._finished = finished
        self._left = left
        self._most = most
        plan: Mapping[str, Any] = engine.facts.get("plan") or {}
        share = max(1, most // len(engine.series))
        self._controllers = [
            Controller(
                share,
                series.cache_tokens or plan.get("kv_tokens"),
                mean_episode_tokens(reasons),
                plan.get("max_num_seqs"),
            )
            for series in engine.series
        ]
        self._read_at = [0.0 for _ in engine.series]
        self._readings = 0

    def target(self) -> int:
        """Episodes meant to be in flight at this moment."""
        self._look()
        return max(1, min(self._most, sum(one.target() for one in self._controllers)))

    def _look(self) -> None:
        """Take in what the servers have said since."""
        share = len(self._engine.series)
        for number, series in enumerate(self._engine.series):
            said = series.last
            if said is None or series.last_at == self._read_at[number]:
                continue
            self._read_at[number] = series.last_at
            if said.running is None or said.kv_usage is None:
                continue
            self._readings += 1
            self._controllers[number].read(
                Figures(
                    series.last_at,
                    said.running,
                    said.waiting or 0.0,
                    said.kv_usage,
                    series.grown("preemptions"),
                    series.grown("generation_tokens"),
                    series.grown("prefix_queries"),
                    series.grown("prefix_hits"),
                    self._finished() // share,
                    -(-self._left() // share),
                )
            )

    def pauses(self, more: int) -> bool:
        """The cache is full, of all copies together."""
        return self._used(more) > PAUSE

    def has_room(self, more: int) -> bool:
        """The cache has emptied so far, of all copies together, that one more fits."""
        return self._used(more) < RESUME

    def readings(self) -> int:
        """How many there have been, of all copies."""
        self._look()
        return self._readings

    def _used(self, more: int) -> float:
        self._look()
        used = [one.kv_usage for one in self._controllers]
        tokens = [one.cache_tokens for one in self._controllers if one.cache_tokens]
        return sum(used) / len(used) + (more / sum(tokens) if tokens else 0.0)
