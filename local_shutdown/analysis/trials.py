"""The trials of one cell: which are there, which were started and are not, and which are copies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

from local_shutdown.analysis.plays import Play, broken, moments
from local_shutdown.episode import COUNTED

_FEWEST_PAIRS = 3


class Trials:
    """Filled episode by episode, read at the end."""

    def __init__(self) -> None:
        self._drawn: list[tuple[str, ...]] = []
        self._read: list[int] = []
        self._started: set[int] = set()
        self._plays: Sequence[Play] = ()
        self.retried = 0  # plays that ended in an error and were played once more
        # (outcome, trial, trajectory, session, server) of one more episode on disk, as results.csv
        # has them, empty for unknown. The list's own method: there are 100,000s of episodes.
        self.add = self._drawn.append

    def start(self, trials: Iterable[int]) -> None:
        """Trials that were started, whether or not they are on disk."""
        self._started.update(trials)

    def play(self, plays: Sequence[Play]) -> None:
        """The plays in the order in which they began; see `analysis.plays`."""
        self.start(trial for trial, _ in plays)
        self._plays = plays

    def fill_gaps(self, sequences: int = 1) -> None:
        """A run starts the trials of a cell in the order of their numbers, so every number below
        the largest on disk was started, even where no record of that is left (an older run).

        Args:
            sequences: in how many that is so, each on its own; see `shard.sequences`.
        """
        if sequences == 1:
            self._started.update(range(max(self._numbers(), default=0)))
            return
        largest: dict[int, int] = {}
        for trial in sorted(self._numbers()):
            largest[trial % sequences] = trial
        for of, trial in largest.items():
            self._started.update(range(of, trial, sequences))

    def fill_gaps_of_a_run(self, sequences: int = 1) -> None:
        """The same for imported episodes, where all of them say which session of a run of ours
        played them: an export of an unfinished run is as unfinished as the run."""
        if all(any(_PLACE(draw)) for draw in self._drawn):
            self.fill_gaps(sequences)

    def facts(self) -> dict[str, Any]:
        """The fields of `Cell` that follow from the trials' numbers and trajectories."""
        return {
            **self._copies(),
            **self._missing(),
            **self._sample(),
            **({"retried": self.retried} if self.retried else {}),
        }

    def _numbers(self) -> Sequence[int]:
        """Of all on disk; read again only where more have come."""
        if len(self._read) != len(self._drawn):
            self._read = list(map(int, map(_TRIAL, self._drawn)))
        return self._read

    def _missing(self) -> dict[str, int]:
        missing = self._started.difference(self._numbers())
        if not missing:
            return {}
        first = min(missing)
        numbered = zip(self._numbers(), self._drawn, strict=True)
        leading = [d[0] for trial, d in numbered if trial < first and d[0] in COUNTED]
        return {
            "unfinished": len(missing),
            "leading_n": len(leading),
            "leading_resisted": leading.count("resisted"),
        }

    def _sample(self) -> dict[str, int]:
        """What is a sample, where plays were broken off."""
        if not broken(self._plays):
            return {}
        # Those of an older version, which put none down, came before all others.
        noted = {trial for trial, _ in self._plays}
        earlier = [(trial, False) for trial in sorted(self._started - noted)]
        outcomes = dict(zip(self._numbers(), map(_OUTCOME, self._drawn), strict=True))
        found = moments([*earlier, *self._plays], outcomes)
        return {
            "broken_off": sum(again for _, again in self._plays),
            "leading_resisted": found[0].resisted,
            "leading_n": found[0].n,
            "sample_resisted": found[-1].resisted,
            "sample_n": found[-1].n,
            "sample_unknown": found[-1].unknown,
        }

    def _copies(self) -> dict[str, Any]:
        """`distinct`, None when a trajectory is unknown; `repeats`, None when the places are."""
        counted = [draw for draw in self._drawn if draw[0] in COUNTED]
        seen = Counter(map(_TRAJECTORY, counted))
        if "" in seen:
            return {}
        if not any(map(any, map(_PLACE, counted))):
            return {"distinct": len(seen)}
        if len(seen) == len(counted):
            return {"distinct": len(seen), "repeats": 0}
        places: dict[str, Counter[tuple[str, ...]]] = {}
        for (name, *place), count in Counter(map(_TRAJECTORY_AND_PLACE, counted)).items():
            if seen[name] > 1:
                places.setdefault(name, Counter())[tuple(place)] = count
        spread = sum(seen[name] - 1 for name, by_place in places.items() if len(by_place) > 1)
        return {
            "distinct": len(seen),
            "repeats": spread,
            "replayed": spread > 0 and _replayed(Counter(map(_PLACE, counted)), places.values()),
        }


_OUTCOME, _TRIAL, _TRAJECTORY = map(itemgetter, range(3))
_PLACE = itemgetter(3, 4)  # session and server
_TRAJECTORY_AND_PLACE = itemgetter(2, 3, 4)


def _replayed(
    sizes: Counter[tuple[str, ...]], repeated: Iterable[Counter[tuple[str, ...]]]
) -> bool:
    """Whether so many repeats are no chance: of two trials in different places, more are alike than
    of two trials in one place. A model of few words draws the same trajectory twice by chance, but
    as often within a place as between places; a stream of random numbers that is played twice
    repeats between places alone. More than twice as often, and at least three pairs.

    Args:
        sizes: trials of each place.
        repeated: of each trajectory that stands there more than once, its trials by place.
    """
    alike = alike_within = 0
    for by_place in repeated:
        alike += _pairs(by_place.total())
        alike_within += sum(map(_pairs, by_place.values()))
    within = sum(map(_pairs, sizes.values()))
    between = _pairs(sizes.total()) - within
    by_chance = between * alike_within / within if within else 0.0
    return alike - alike_within >= _FEWEST_PAIRS and alike - alike_within > 2 * by_chance


def _pairs(n: int) -> int:
    return n * (n - 1) // 2
