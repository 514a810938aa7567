"""What is known of each cell while a run goes on: for the live table and the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from local_shutdown.analysis.compare import percent
from local_shutdown.analysis.stop_rule import StopRule
from local_shutdown.analysis.stopping import Prefix, advance, anytime_interval, weight_for
from local_shutdown.detectors import outcome as outcome_of
from local_shutdown.episode import COUNTED, Outcome
from local_shutdown.errors import UsageError
from local_shutdown.results import Results, value_of
from local_shutdown.shard import WHOLE, Shard, shard_of
from local_shutdown.store import load_run, read_episodes, read_started

# Outcomes by condition and trial; keyed by (model, factor).
Trials = Mapping[int, Outcome | None]
Earlier = Mapping[tuple[str, str | None], Mapping[str, Trials]]
# Trials by condition, keyed likewise.
BrokenOff = Mapping[tuple[str, str | None], Mapping[str, set[int]]]
_CELL = ("model", "factor", "condition")


class Counts:
    """Outcomes per condition, as they come in; of one model at one effort.

    Those that have ended while others are in flight are no sample: short episodes end first, and
    length goes with the outcome. So the rate is that of the leading trials, which are all there,
    and its interval the one that holds at whatever moment somebody looks (`analysis.interval`).
    Trials of which a play was broken off count as unknown there: of all first plays, which are a
    sample, those are the ones whose outcome nobody knows.

    Args:
        trials: asked for in each condition.
        weight: of the interval, see `analysis.stopping`.
        shard: the part of the trials that is played here.
    """

    def __init__(
        self, conditions: Sequence[str], trials: int, weight: float, shard: Shard = WHOLE
    ) -> None:
        self.cells: dict[str, Counter[str | None]] = {c: Counter() for c in conditions}
        self._outcomes: dict[str, dict[int, Outcome | None]] = {c: {} for c in conditions}
        self._leading: dict[str, Prefix] = {}
        self._broken_off: dict[str, set[int]] = {}
        self._trials = len(shard.trials(trials))
        self._shard = shard
        self._weight = weight

    def break_off(self, condition: str, trials: set[int]) -> None:
        """Trials of which a play was broken off, whose outcome is lost."""
        self._broken_off[condition] = set(map(self._shard.number, trials))

    def add(self, condition: str, trial: int, result: Outcome | None) -> None:
        """A trial has ended; one that had ended before was played again."""
        cell = self.cells.setdefault(condition, Counter())
        outcomes = self._outcomes.setdefault(condition, {})
        trial = self._shard.number(trial)
        if trial in outcomes:
            cell[outcomes[trial]] -= 1
            self._leading.pop(condition, None)
        cell[result] += 1
        outcomes[trial] = result

    def done(self, condition: str) -> str:
        """`12/100`."""
        return f"{min(self.cells[condition].total(), self._trials)}/{self._trials}"

    @property
    def width(self) -> int:
        """Columns that `done` takes at most."""
        return max(5, 2 * len(str(self._trials)) + 1)

    def leading(self, condition: str) -> tuple[int, int]:
        """(resisted, counted) of the trials before the first that has not ended."""
        before = self._leading.get(condition, Prefix())
        outcomes = self._outcomes[condition]
        self._leading[condition] = now = advance(before, outcomes, stops=lambda k, n: False)
        return now.resisted, now.n

    def rate(self, condition: str) -> str:
        """`12.3 (4.5-28.1)`, or a dash."""
        resisted, n = self.leading(condition)
        if not n:
            return "-"
        low, high = self._interval(condition, resisted, n)
        return f"{percent(resisted / n)} ({percent(low)}-{percent(high)})"

    def _interval(self, condition: str, resisted: int, n: int) -> tuple[float, float]:
        outcomes, length = self._outcomes[condition], self._leading[condition].length
        lost = [t for t in self._broken_off.get(condition, ()) if t < length]
        if not lost:
            return anytime_interval(resisted, n, weight=self._weight)
        again = [outcomes[trial] for trial in lost]
        known = resisted - again.count("resisted")
        n_first = n - sum(found in COUNTED for found in again) + len(lost)
        low = anytime_interval(known, n_first, weight=self._weight)[0]
        high = anytime_interval(known + len(lost), n_first, weight=self._weight)[1]
        return min(low, resisted / n), max(high, resisted / n)


def on_disk(directory: Path) -> Earlier:
    """Outcomes of a run that is gone on with. Where results.csv does not have them (after a kill),
    they are read off the episodes; empty where those are damaged, which the run will say."""
    found: dict[tuple[str, str | None], dict[str, dict[int, Outcome | None]]] = {}
    results = Results(directory)
    with suppress(UsageError, ValueError):
        if not results.fresh:
            for e in read_episodes(directory):
                cells = found.setdefault((e.model, e.extra.get("factor")), {})
                cells.setdefault(e.condition, {})[e.trial] = outcome_of(e)
            return found
        by_text: dict[tuple[str, ...], dict[int, Any]] = {}
        for row in results.texts((*_CELL, "trial", "outcome")):
            cell = by_text.get(row[:3])
            if cell is None:  # only the names of a cell are read as values: there are few of them
                model, factor, condition = map(value_of, _CELL, row)
                cells = found.setdefault((model, factor), {})
                cell = by_text[row[:3]] = cells.setdefault(condition, {})
            cell[int(row[3])] = value_of("outcome", row[4])
        return found
    return {}


def broken_off(directory: Path, there: Earlier) -> BrokenOff:
    """Trials of which a play was broken off, or that were begun and are not on disk: as of now,
    nobody plays there. Empty where `started.jsonl` is damaged, which the run will say.

    Args:
        there: what is on disk.
    """
    found: dict[tuple[str, str | None], dict[str, set[int]]] = {}
    with suppress(UsageError):
        for one in read_started(directory):
            key = one.model, one.factor
            if one.again or one.trial not in there.get(key, {}).get(one.condition, {}):
                found.setdefault(key, {}).setdefault(one.condition, set()).add(one.trial)
        return found
    return {}


def weight_of(directory: Path, trials: int, rule: StopRule | None) -> float:
    """Weight of the intervals of a run: by its rule, else by the trials that were planned before
    its first episode.

    Args:
        directory: of the run, which need not exist yet.
        trials: asked for now.
    """
    if rule is not None:
        return rule.weight
    try:
        run = load_run(directory)
    except UsageError:
        return weight_for(trials=trials)
    first = run.looks[0].trials if run.looks else run.settings.trials
    own = None if first is None else len(shard_of(run.settings.shard).trials(first))
    return weight_for(trials=trials if own is None else own)
