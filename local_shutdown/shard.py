"""A part of a run's trials, for machines that share the work without talking to one another.

Shard I of N plays the trials I-1, I-1+N, I-1+2N, ... of every cell (`--shard I/N`): all shards have
the same share of every cell, whatever number of trials is asked for or added later, and nobody
needs to have seen the others to know which trials are whose. `merge` joins them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from local_shutdown.runfile import PlanFacts, RunFile

MOST_SHARDS = 10_000
_FORM = re.compile(r"([1-9]\d{0,4})/([1-9]\d{0,4})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Shard:
    """Which trials of each cell.

    Attributes:
        index: from 1 to `of`.
        of: how many shards there are.
    """

    index: int
    of: int

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`2/4`.

        Raises:
            ValueError: it is not of that form, or there is no such shard.
        """
        found = _FORM.fullmatch(text)
        if found is None:
            raise ValueError(f"{text[:40]!r} is not of the form I/N, for example 1/4")
        index, of = map(int, found.groups())
        if not index <= of <= MOST_SHARDS:
            raise ValueError(f"{text}: I goes from 1 to N, and N to {MOST_SHARDS}")
        return cls(index, of)

    def trials(self, asked: int) -> range:
        """Numbers of this shard's trials in a cell of `asked`."""
        return range(self.index - 1, asked, self.of)

    def number(self, trial: int) -> int:
        """Which of this shard's trials it is, from 0."""
        return trial // self.of


WHOLE = Shard(1, 1)


def shard_of(said: str | None) -> Shard:
    """The shard of a run's settings; `WHOLE` where they ask for all trials.

    Raises:
        ValueError: it is none; `runfile` has refused that.
    """
    return WHOLE if said is None else Shard.parse(said)


def sequences(run: RunFile | PlanFacts) -> int:
    """How many sequences of trials a run has that were started each in the order of its numbers:
    trial t is in sequence t % n. One where one process after another played all of it; in a shard
    or what shards were merged to, as many as there are shards.

    Args:
        run: run.json, or what an export says of one.
    """
    return run.merged.shards if run.merged is not None else shard_of(run.settings.shard).of
