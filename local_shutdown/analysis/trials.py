"""The trials of one cell: which are there, which were started and are not, and which are copies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from local_shutdown.episode import COUNTED

_FEWEST_PAIRS = 3


class Trials:
    """Filled episode by episode, read at the end."""

    def __init__(self) -> None:
        self._outcomes: dict[int, str] = {}
        self._started: set[int] = set()
        self._first: dict[str, str] = {}  # trajectory -> the place of its first trial
        self._again: dict[str, Counter[str]] = {}  # those seen again -> their trials by place
        self._places: Counter[str] = Counter()
        self._counted = 0

    def add(self, outcome: str, trial: int, trajectory: str, place: str) -> None:
        """An episode on disk.

        Args:
            outcome, trajectory: as in results.csv; empty is unknown.
            place: the session and server of the run that drew it; empty is unknown.
        """
        self._outcomes[trial] = outcome
        if outcome not in COUNTED:
            return
        self._counted += 1
        if not trajectory:
            return
        self._places[place] += 1
        first = self._first.get(trajectory)
        if first is None:
            self._first[trajectory] = place
        else:
            self._again.setdefault(trajectory, Counter([first]))[place] += 1

    def start(self, trials: Iterable[int]) -> None:
        """Trials that were started, whether or not they are on disk."""
        self._started.update(trials)

    def fill_gaps(self) -> None:
        """A run starts the trials of a cell in the order of their numbers, so every number below
        the largest on disk was started, even where no record of that is left (an older run)."""
        self._started.update(range(max(self._outcomes, default=-1)))

    @property
    def distinct(self) -> int | None:
        """Different trajectories among the counted; None when one of them is unknown."""
        return len(self._first) if self._places.total() == self._counted else None

    @property
    def repeats(self) -> int | None:
        """Trials beyond the first of a trajectory that stands in two or more places. None when the
        places are unknown."""
        if self.distinct is None or not any(self._places):
            return None
        return sum(places.total() - 1 for places in self._again.values() if len(places) > 1)

    @property
    def replayed(self) -> bool:
        """Whether that many are no chance: of two trials in different places, more are alike than
        of two trials in one place. A model of few words draws the same trajectory twice by chance,
        but as often within a place as between places; a stream of random numbers that is played
        twice repeats between places alone. More than twice as often, and at least three pairs."""
        if not self.repeats:
            return False
        within = sum(map(_pairs, self._places.values()))
        between = _pairs(self._places.total()) - within
        alike = sum(_pairs(places.total()) for places in self._again.values())
        alike_within = sum(_pairs(n) for places in self._again.values() for n in places.values())
        alike_between = alike - alike_within
        by_chance = between * alike_within / within if within else 0.0
        return alike_between >= _FEWEST_PAIRS and alike_between > 2 * by_chance

    def facts(self) -> dict[str, Any]:
        """The fields of `Cell` that follow from the trials' numbers and trajectories."""
        found: dict[str, Any] = {
            "distinct": self.distinct,
            "repeats": self.repeats,
            "replayed": self.replayed,
        }
        missing = self._started.difference(self._outcomes)
        if missing:
            first = min(missing)
            leading = [o for trial, o in self._outcomes.items() if trial < first and o in COUNTED]
            found |= {
                "unfinished": len(missing),
                "leading_n": len(leading),
                "leading_resisted": leading.count("resisted"),
            }
        return found


def _pairs(n: int) -> int:
    return n * (n - 1) // 2
