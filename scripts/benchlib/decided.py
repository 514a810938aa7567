"""Simulated studies for `simulate-decided`, on arrays; written apart from the package."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from local_shutdown.analysis.betting import SHARES
from local_shutdown.analysis.contrasts import DECLARED, Contrast
from local_shutdown.analysis.decided import ALPHA, DIFFERS, LOOK_EVERY
from local_shutdown.analysis.stopping import anytime_interval, weight_for

MOST = 1000
Array = Any


@dataclass
class Study:
    """What became of the simulated studies of one model.

    Attributes:
        name: of the model.
        wrong: share of the studies with at least one wrong decision.
        verdicts: shares of the contrasts that differ, are within, stay open.
        trials: mean number of trials of a study.
    """

    name: str
    together: bool
    wrong: float
    verdicts: tuple[float, float, float]
    trials: float


def log_wealth(z: Array, bound: float, n: Array) -> Array:
    """By study and look: the log of what bets against "the mean of z is `bound` or more" have come
    to after n pairs, z being 1, 0 or -1; of all shares together."""
    total = np.full((len(z), len(n)), -np.inf)
    for share, part in SHARES:
        stake = share / (1 - bound)
        after_a_pair = np.log([1 + stake * (bound - one) for one in (-1, 0, 1)])
        total = np.logaddexp(total, part + after_a_pair[z + 1].cumsum(axis=1)[:, n - 1])
    return total


def paths(
    plays: dict[str, Array], contrast: Contrast, delta: float, n: Array
) -> tuple[Array, Array]:
    """By study and look: the log evidence against "no difference", and for "within"; running
    maxima.

    Args:
        plays: by condition, study and play: whether it resisted.
        n: plays at each look.
    """
    z = plays[contrast.a].astype(int) - plays[contrast.b]
    differs = np.logaddexp(log_wealth(z, 0.0, n), log_wealth(-z, 0.0, n)) - np.log(2)
    within = np.minimum(log_wealth(z, delta, n), log_wealth(-z, delta, n))
    return np.maximum.accumulate(differs, axis=1), np.maximum.accumulate(within, axis=1)


def study(name: str, rates: dict[str, float], delta: float, studies: int, seed: int) -> list[Study]:
    """Simulate them: all conditions together, trial by trial, and one contrast after the other.

    Args:
        rates: by condition.
    """
    rng = np.random.default_rng(seed)
    n = np.arange(LOOK_EVERY, MOST + 1, LOOK_EVERY)
    plays = {condition: rng.random((studies, MOST)) < rate for condition, rate in rates.items()}
    counts = {condition: one.cumsum(axis=1)[:, n - 1] for condition, one in plays.items()}
    contrasts = [c for c in DECLARED if c.a in rates and c.b in rates]
    seen = [paths(plays, c, delta, n) for c in contrasts]
    alone = [c for c in rates if all(c not in (x.a, x.b) for x in contrasts)]
    rate_only = [sum(_rate_only(counts[c][s], n, delta) for c in alone) for s in range(studies)]
    found = []
    for together in (True, False):
        wrong, verdicts, spent = np.zeros(studies, dtype=bool), np.zeros(3), np.array(rate_only)
        for s in range(studies):
            decided, used = _one([(d[s], w[s]) for d, w in seen], contrasts, together, len(n))
            spent[s] += sum(used.values()) * LOOK_EVERY
            for i, contrast in enumerate(contrasts):
                verdict, look = decided.get(i, (2, -1))
                verdicts[verdict] += 1
                estimate = counts[contrast.a][s, look] - counts[contrast.b][s, look]
                truth = rates[contrast.a] - rates[contrast.b]
                wrong[s] |= _is_wrong(verdict, float(estimate), truth, delta)
        shares = (verdicts / max(1, studies * len(contrasts))).tolist()
        found.append(Study(name, together, float(wrong.mean()), tuple(shares), float(spent.mean())))
    return found


def _is_wrong(verdict: int, estimate: float, truth: float, delta: float) -> bool:
    if verdict == 0:
        return abs(truth) < 1e-12 or bool(np.sign(estimate) != np.sign(truth))
    return verdict == 1 and abs(truth) >= delta - 1e-12


def _one(
    seen: list[tuple[Array, Array]], contrasts: list[Contrast], together: bool, looks: int
) -> tuple[dict[int, tuple[int, int]], dict[str, int]]:
    """One study: contrast -> (0 differs or 1 within, look), and looks of each condition."""
    decided: dict[int, tuple[int, int]] = {}
    used = {condition: 0 for c in contrasts for condition in (c.a, c.b)}
    reached = [0] * len(contrasts)

    shares = (DIFFERS * ALPHA, (1 - DIFFERS) * ALPHA)

    def look() -> None:
        news = True
        while news:
            news = False
            said = [verdict for verdict, _ in decided.values()]
            bounds = [np.log(max(1, len(contrasts) - said.count(v)) / shares[v]) for v in (0, 1)]
            for i in range(len(contrasts)):
                if i in decided or reached[i] == 0:
                    continue
                for verdict, bound in enumerate(bounds):
                    path = seen[i][verdict][: reached[i]]
                    if i not in decided and path[-1] > bound:
                        decided[i] = (verdict, int(np.argmax(path > bound)))
                        news = True

    def advance(conditions: set[str]) -> None:
        for condition in conditions:
            used[condition] += 1
        for i, c in enumerate(contrasts):
            reached[i] = max(reached[i], min(used[c.a], used[c.b]))
        look()

    def open_ones(i: int | None = None) -> set[str]:
        which = range(len(contrasts)) if i is None else [i]
        found = {x for j in which if j not in decided for x in (contrasts[j].a, contrasts[j].b)}
        return {condition for condition in found if used[condition] < looks}

    if together:
        while conditions := open_ones():
            advance(conditions)
    else:
        for i, c in enumerate(contrasts):
            while i not in decided and reached[i] < looks:
                least = min(used[c.a], used[c.b])
                advance({x for x in (c.a, c.b) if used[x] == least})
    return decided, used


def _rate_only(counts: Array, n: Array, delta: float) -> int:
    """Trials until a cell that no contrast needs has its interval within +-delta."""
    for k, at in zip(counts.tolist(), n.tolist(), strict=True):
        if _narrow(k, at, delta):
            return int(at)
    return MOST


@cache
def _narrow(k: int, n: int, delta: float) -> bool:
    low, high = anytime_interval(k, n, weight=weight_for(delta=delta))
    return (high - low) / 2 <= delta
