"""`--until-decided DELTA`: play a declared contrast until its question is answered.

A contrast (a - b) of one model at one level of a factor is *decided*

- as `differs` when the anytime p-value of "no difference" is below the level at a look;
- as `within` when the p-values of "the difference is +DELTA or more" and of "it is -DELTA or less"
  are both below it.

Looks. Both cells are looked at after their first k plays, k = 5, 10, 15, ..., in the order in which
they began, never in that of completion. The outcomes alone therefore say where a contrast is
decided: not which episodes are quick, how many are in flight, or which condition is played first.
Play k of a and play k of b are a pair, and the p-values are those of `analysis.betting`: wealth
that is a supermartingale from pair to pair, whichever k has been reached. The looks are on one
path, fixed before the first trial. A play without an outcome (limit, error) holds a place among the
k and takes its pair out. One that was broken off by a kill counts as unknown, in whatever way
speaks against the verdict; which plays are a sample after a kill stands in `analysis.plays`.

Level. Let m contrasts be declared in a level (of a factor, of a model), and L levels in the run. A
level has alpha / L, of which "no difference" has four fifths and "DELTA or more" one fifth
(`DIFFERS`). In each of these two families Holm's step-down goes through the m hypotheses, with
p-values that hold at all looks at once: a contrast differs at a look if the p-value of "no
difference" is below the family's share divided by (m - contrasts that differ), and is within if the
other one is below its share divided by (m - contrasts that are within). Proof, for either family:
let m0 of its hypotheses be true. By Ville's inequality and the union bound, the p-value of none of
these is ever below share / m0, but with a probability of the share. Then none is ever rejected:
before the first would be, only others have been, m - m0 at most, so its level is at most share /
m0. (Holm 1979; Ville 1939; for p-values that hold at all times Howard, Ramdas, McAuliffe and Sekhon
2021.) Hence over a whole run, at whatever moment and for whatever reason it ends, a wrong decision
(a difference where there is none, or "within" where it is DELTA or more) has probability at most
alpha. "Differs" is about any difference: a contrast can differ by less than DELTA.

One step-down over both, divided by the contrasts that are not decided at all, would be wrong: one
that "differs" may be one that differs by DELTA or more, whose "within" would have been an error
that was not made; its share is then given to the others, and counted twice.
(`scripts/simulate-decided` found that: where ten contrasts differ by exactly DELTA and one rate is
0, 6.4% of 2,000 studies had a wrong decision.) Four fifths, because models that resist differ
between most conditions, and the models that never do are decided soon in any case.

A verdict names no sign. At the level of the first step the estimate has the wrong one with
probability share / m at most; for the levels of later steps the proof does not say it, since the
contrast was never one of the m0 (errors of direction in step-down tests: Shaffer 1980). In
`scripts/simulate-decided` a wrong sign counts as a wrong decision.

The rule has a number, `RULE`, in run.json and in the plan of a study. A run is never judged by
another rule than that by which its cells were stopped: one that was begun under the first
(likelihoods of both rates, looks every 10 plays; its run.json has no number) has no verdicts, and
is not gone on with.

A cell stops when every contrast that needs it is decided. A cell that no contrast needs stops when
its interval is within +-DELTA; one whose rate was asked for as well, when that is met too. What is
reported after a stop is the anytime interval over all trials that were started, as after any early
stop (`early_stop`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from local_shutdown.analysis.betting import (
    NOT_COUNTED,
    OTHER,
    RESISTED,
    UNKNOWN,
    Pairs,
    Play,
    differs_p,
    within_p,
)
from local_shutdown.analysis.contrasts import DECLARED, Contrast
from local_shutdown.analysis.stop_rule import StopRule
from local_shutdown.analysis.stopping import weight_for
from local_shutdown.episode import COUNTED, Outcome

RULE = 2
LOOK_EVERY = 5
ALPHA = 0.05
DIFFERS = 0.8  # of alpha, for "no difference"

Verdict = Literal["differs", "within"]


@dataclass(frozen=True, slots=True)
class Record:
    """The least p-value so far, each time that there was a new one: (look, p-value)."""

    values: tuple[tuple[int, float], ...] = ()

    @property
    def least(self) -> float:
        return self.values[-1][1] if self.values else 1.0

    def with_look(self, k: int, p: float) -> Record:
        return Record((*self.values, (k, p))) if p < self.least else self

    def first_below(self, level: float) -> int | None:
        """The first look with a p-value below a level."""
        return next((k for k, p in self.values if p < level), None)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the looks at one contrast have given.

    Attributes:
        differs: p-values of "no difference".
        within: of "it is DELTA or more", to either side.
    """

    differs: Record = Record()
    within: Record = Record()


@dataclass(frozen=True, slots=True)
class Decision:
    """One contrast.

    Attributes:
        contrast: which.
        verdict: None while it is open.
        at: plays of each cell at the look that decided it; at the last look while it is open.
        level: the p-value was below this; of an open one, that of "no difference" has to be.
    """

    contrast: Contrast
    verdict: Verdict | None
    at: int
    level: float


@dataclass(frozen=True, slots=True)
class DecidedRule:
    """`--until-decided`.

    Attributes:
        delta: the difference that would matter, a fraction.
        levels: levels of a factor times models in the run, which share alpha.
        alpha: probability of any wrong decision in the run.
        contrasts: declared before the first trial.
    """

    delta: float
    levels: int = 1
    alpha: float = ALPHA
    contrasts: tuple[Contrast, ...] = DECLARED

    def __post_init__(self) -> None:
        weight_for(delta=self.delta)
        if self.levels < 1:
            raise ValueError(f"levels is {self.levels}: there is at least one")

    def among(self, conditions: Iterable[str]) -> tuple[Contrast, ...]:
        """The contrasts between these conditions."""
        there = set(conditions)
        return tuple(c for c in self.contrasts if c.a in there and c.b in there)

    @property
    def rate_rule(self) -> StopRule:
        """For cells that no contrast needs."""
        return StopRule(halfwidth=min(self.delta, 0.499))


def rule_of(settings: Mapping[str, Any]) -> DecidedRule | None:
    """The rule of a run, from its settings as run.json has them; None where nobody asked for one,
    or where it is another than this one.

    A run of a study decides the contrasts of the study's plan (`deciding`), and shares alpha with
    its other runs.
    """
    delta = settings.get("until_decided")
    if delta is None or settings.get("decided_by") != RULE:
        return None
    deciding = settings.get("deciding")
    if deciding:
        contrasts = tuple(Contrast(f"{a}-{b}", a, b, "") for a, b in deciding["contrasts"])
        return DecidedRule(delta, deciding["levels"], contrasts=contrasts)
    counts = [len(settings.get(name) or (None,)) for name in ("models", "thinking", "temperatures")]
    return DecidedRule(delta, math.prod(counts))


class _Sequence:
    """One cell: the plays that are a sample, in the order in which they began (`analysis.plays`).

    Attributes:
        known: what the first of them came to, as far as none of them may still end.
    """

    def __init__(self) -> None:
        self.known: list[Play] = []
        self._plays: list[int] = []
        self._came_instead: dict[int, int] = {}  # play -> the one in place of it
        self._last: dict[int, int] = {}  # trial -> its play so far
        self._outcomes: dict[int, Outcome | None] = {}
        self._at = 0

    def begun(self, trial: int, again: bool) -> None:
        if again and trial in self._last:
            self._came_instead[self._last[trial]] = len(self._plays)
        self._last[trial] = len(self._plays)
        self._plays.append(trial)
        self._go_on()

    def ended(self, trial: int, result: Outcome | None) -> None:
        if trial not in self._last:  # of an older version, which put no beginnings down
            self.begun(trial, again=False)
        self._outcomes[trial] = result
        self._go_on()

    def _go_on(self) -> None:
        """To the first play that may still end."""
        while self._at < len(self._plays):
            trial = self._plays[self._at]
            if self._at in self._came_instead:
                self.known.append(UNKNOWN)
                self._at = self._came_instead[self._at]
            elif trial in self._outcomes:
                result = self._outcomes[trial]
                counted = RESISTED if result == "resisted" else OTHER
                self.known.append(counted if result in COUNTED else NOT_COUNTED)
                self._at += 1
            else:
                return


class DecidedLevel:
    """The cells of one model at one level of a factor, play by play.

    Args:
        rule: see `DecidedRule`.
        conditions: that are played.
    """

    def __init__(self, rule: DecidedRule, conditions: Iterable[str]) -> None:
        self.contrasts = rule.among(conditions)
        self._rule = rule
        self._cells = {c: _Sequence() for x in self.contrasts for c in (x.a, x.b)}
        self._evidence = {c.name: Evidence() for c in self.contrasts}
        self._pairs = {c.name: Pairs() for c in self.contrasts}
        self._looked = {c.name: 0 for c in self.contrasts}
        self._decisions: list[Decision] | None = None

    def begun(self, condition: str, trial: int, *, again: bool) -> None:
        """A play was begun.

        Args:
            again: in place of one of the same trial that was broken off.
        """
        if condition in self._cells:
            self._cells[condition].begun(trial, again)
            self._look(condition)

    def ended(self, condition: str, trial: int, result: Outcome | None) -> None:
        """A trial is on disk. Looks are made as soon as both cells of a contrast have got there."""
        if condition in self._cells:
            self._cells[condition].ended(trial, result)
            self._look(condition)

    def _look(self, condition: str) -> None:
        for contrast in self.contrasts:
            if condition not in (contrast.a, contrast.b):
                continue
            name = contrast.name
            a, b = self._cells[contrast.a].known, self._cells[contrast.b].known
            first = self._looked[name]
            for k in range(first + LOOK_EVERY, min(len(a), len(b)) + 1, LOOK_EVERY):
                for play in range(k - LOOK_EVERY, k):
                    self._pairs[name] = self._pairs[name].with_pair(a[play], b[play])
                self._evidence[name] = stronger(
                    self._evidence[name], k, self._pairs[name], self._rule.delta
                )
                self._looked[name] = k
                self._decisions = None

    def decisions(self) -> list[Decision]:
        """Of every contrast, in their order: what all looks so far decide."""
        if self._decisions is None:
            found = step_down(
                [self._evidence[c.name] for c in self.contrasts],
                self._rule.alpha / self._rule.levels,
            )
            self._decisions = [
                Decision(contrast, verdict, at or self._looked[contrast.name], level)
                for contrast, (verdict, at, level) in zip(self.contrasts, found, strict=True)
            ]
        return self._decisions

    @property
    def compared(self) -> set[str]:
        """Conditions that a contrast needs, decided or not."""
        return set(self._cells)

    @property
    def needed(self) -> set[str]:
        """Conditions of contrasts that are not decided."""
        still = [d.contrast for d in self.decisions() if d.verdict is None]
        return {condition for contrast in still for condition in (contrast.a, contrast.b)}


def stronger(known: Evidence, k: int, pairs: Pairs, delta: float) -> Evidence:
    """With a further look.

    Args:
        known: what the looks before gave.
        k: plays of each cell.
        pairs: of these.
        delta: see `DecidedRule`.
    """
    return Evidence(
        known.differs.with_look(k, differs_p(pairs)),
        known.within.with_look(k, within_p(pairs, delta)),
    )


def step_down(
    evidence: Sequence[Evidence], alpha: float
) -> list[tuple[Verdict | None, int, float]]:
    """Holm's step-down in each of the two families: verdict, look and level of each contrast; of an
    open one the level at which it would differ. See the module's text."""
    found: list[tuple[Verdict | None, int, float]] = [(None, 0, alpha)] * len(evidence)
    while True:
        said = [verdict for verdict, _, _ in found]
        differs = DIFFERS * alpha / max(1, len(evidence) - said.count("differs"))
        within = (1 - DIFFERS) * alpha / max(1, len(evidence) - said.count("within"))
        for i, seen in enumerate(evidence):
            if said[i] is not None:
                continue
            found[i] = (None, 0, differs)
            if (look := seen.differs.first_below(differs)) is not None:
                found[i] = ("differs", look, differs)
            elif (look := seen.within.first_below(within)) is not None:
                found[i] = ("within", look, within)
        if [verdict for verdict, _, _ in found] == said:
            return found


def expected_looks(
    rates: Mapping[str, float], contrast: Contrast, delta: float, level: float, most: int
) -> int | None:
    """Trials of each cell after which a contrast would be decided if the outcomes followed the
    rates exactly; None when `most` trials do not decide it. For planning.

    Args:
        level: alpha for this contrast, as in the first step.
    """
    seen = Evidence()
    a, b = rates[contrast.a], rates[contrast.b]
    for k in range(LOOK_EVERY, most + 1, LOOK_EVERY):
        up, down = k * a * (1 - b), k * (1 - a) * b
        seen = stronger(seen, k, Pairs(up, down, k - up - down), delta)
        if step_down([seen], level)[0][0] is not None:
            return k
    return None
