"""`--until-halfwidth`, `--until-upper` and `--until-decided`: which cells have seen enough.

The rule, which holds for every run, interrupted or not:

1. The stop is judged on the trials in their order (`analysis.stopping.advance`), so where it falls
   depends on the outcomes alone: not on which episodes are quick, on how many are in flight, on
   where a run was interrupted or on how often.
2. After the stop no further trial of the cell is started. Trials that were started by then are
   always played to their end and counted, if not in this call of `run`, then first of all in the
   next. The cell is all trials that were started; they are the trials 0 to N - 1 without a gap.

How many trials N has beyond the stop depends on how many were in flight, and so it differs between
an interrupted run and one that was not, as it does between two that were not. The rate is honest
for any N: the interval is a confidence sequence, which covers at all n at once. What would not be
honest is leaving started trials out, because those that are in flight for long are not like the
others. Cutting the cell at its stop would be as honest and the same for every run, but it throws
away what has been paid for: with 1,000 in flight, up to 1,000 episodes.
"""

from __future__ import annotations

from collections.abc import Iterable

from local_shutdown.analysis.decided import DecidedLevel, DecidedRule
from local_shutdown.analysis.stop_rule import StopRule
from local_shutdown.analysis.stopping import Prefix, advance
from local_shutdown.episode import Episode, Outcome


class EarlyStop:
    """Follows the cells of one model at one level of a factor, trial by trial in their order.

    Args:
        rule: when the rate of a cell is known well enough; None is never.
        decided: when contrasts are decided; a cell stops when none that is open needs it, and
            `rule`, too, is met where there is one.
        conditions: that are played.
    """

    def __init__(
        self,
        rule: StopRule | None,
        decided: DecidedRule | None = None,
        conditions: Iterable[str] = (),
    ) -> None:
        self.level = None if decided is None else DecidedLevel(decided, conditions)
        self._rule = rule
        self._alone = None if decided is None else decided.rate_rule
        self._outcomes: dict[str, dict[int, Outcome | None]] = {}
        self._prefix: dict[str, Prefix] = {}

    @property
    def stops(self) -> bool:
        """Whether there is a rule at all."""
        return self._rule is not None or self.level is not None

    def begun(self, condition: str, trial: int, *, again: bool) -> None:
        """A play was begun; `again`: in place of one that was broken off."""
        if self.level is not None:
            self.level.begun(condition, trial, again=again)

    def ended(self, episode: Episode, result: Outcome | None) -> None:
        """An episode is on disk and will not be played again."""
        condition = episode.condition
        if self.level is not None:
            self.level.ended(condition, episode.trial, result)
        rule = self._rate_rule(condition)
        if rule is None:
            return
        outcomes = self._outcomes.setdefault(condition, {})
        outcomes[episode.trial] = result
        before = self._prefix.get(condition, Prefix())
        after = advance(before, outcomes, stops=rule.met)
        for trial in range(before.length, after.length):
            del outcomes[trial]  # in the prefix: counted, and not needed again
        self._prefix[condition] = after

    def enough(self, condition: str) -> bool:
        """Whether no further episode of this condition need be started."""
        if self.level is not None and condition in self.level.needed:
            return False
        if self._rate_rule(condition) is None:
            return self.level is not None
        return self._prefix.get(condition, Prefix()).stop

    def _rate_rule(self, condition: str) -> StopRule | None:
        if self._rule is not None or self.level is None or condition in self.level.compared:
            return self._rule
        return self._alone
