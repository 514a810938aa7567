"""Simulated studies for `simulate-decided`, on arrays; written apart from the package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import gammaln

from local_shutdown.analysis.contrasts import DECLARED, Contrast
from local_shutdown.analysis.decided import ALPHA, DIFFERS, LOOK_EVERY
from local_shutdown.analysis.stopping import anytime_interval, weight_for

MOST = 1000
_GOLDEN = (5**0.5 - 1) / 2
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


def log_martingale(p: Array, k: Array, n: Array, w: float) -> Array:
    """log M_n(p) of the beta-binomial mixture, elementwise."""
    p = np.clip(p, 1e-12, 1 - 1e-12)
    a, b = w * p, w * (1 - p)
    mixed = gammaln(a + k) - gammaln(a) + gammaln(b + n - k) - gammaln(b)
    return mixed - (gammaln(w + n) - gammaln(w)) - k * np.log(p) - (n - k) * np.log1p(-p)


def evidence(d: float, ka: Array, kb: Array, n: Array, w: float) -> Array:
    """The least log M_a(p + d) + log M_b(p) over p, by golden section, elementwise."""
    low = np.full(ka.shape, max(1e-12, 1e-12 - d))
    high = np.full(ka.shape, min(1 - 1e-12, 1 - 1e-12 - d))

    def at(p: Array) -> Array:
        return log_martingale(p + d, ka, n, w) + log_martingale(p, kb, n, w)

    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = at(left), at(right)
    for _ in range(30):
        less = at_left < at_right
        high, low = np.where(less, right, high), np.where(less, low, left)
        new = np.where(less, high - _GOLDEN * (high - low), low + _GOLDEN * (high - low))
        left, right = np.where(less, new, right), np.where(less, left, new)
        found = at(new)
        at_left, at_right = np.where(less, found, at_right), np.where(less, at_left, found)
    return np.minimum(at_left, at_right)


def paths(
    counts: dict[str, Array], contrast: Contrast, delta: float, n: Array
) -> tuple[Array, Array]:
    """By study and look: the log evidence against "no difference", and for "within", where the
    estimate is inside; running maxima."""
    w = weight_for(delta=delta)
    ka, kb = counts[contrast.a], counts[contrast.b]
    at = np.broadcast_to(n, ka.shape)
    differs = evidence(0.0, ka, kb, at, w)
    inside = np.abs(ka - kb) < delta * at
    within = np.full(ka.shape, -np.inf)
    within[inside] = np.minimum(
        evidence(delta, ka[inside], kb[inside], at[inside], w),
        evidence(-delta, ka[inside], kb[inside], at[inside], w),
    )
    running = np.maximum.accumulate
    return running(differs, axis=1), running(within, axis=1)


def study(
    name: str, rates: dict[str, float], delta: float, studies: int, seed: int, together: bool
) -> Study:
    """Simulate them.

    Args:
        rates: by condition.
        together: all conditions trial by trial, or one contrast after the other.
    """
    rng = np.random.default_rng(seed)
    n = np.arange(LOOK_EVERY, MOST + 1, LOOK_EVERY)
    counts = {
        condition: (rng.random((studies, MOST)) < rate).cumsum(axis=1)[:, n - 1]
        for condition, rate in rates.items()
    }
    contrasts = [c for c in DECLARED if c.a in rates and c.b in rates]
    seen = [paths(counts, c, delta, n) for c in contrasts]
    signs = [counts[c.a] - counts[c.b] for c in contrasts]
    wrong = np.zeros(studies, dtype=bool)
    verdicts = np.zeros(3)
    spent = np.zeros(studies)
    for s in range(studies):
        decided, used = _one([(d[s], w[s]) for d, w in seen], contrasts, together, len(n))
        for i, contrast in enumerate(contrasts):
            truth = rates[contrast.a] - rates[contrast.b]
            if i not in decided:
                verdicts[2] += 1
                continue
            verdict, look = decided[i]
            verdicts[verdict] += 1
            if verdict == 0:
                wrong[s] |= bool(abs(truth) < 1e-12 or np.sign(signs[i][s, look]) != np.sign(truth))
            else:
                wrong[s] |= abs(truth) >= delta - 1e-12
        alone = [c for c in rates if all(c not in (x.a, x.b) for x in contrasts)]
        spent[s] = sum(used.values()) * LOOK_EVERY
        spent[s] += sum(_rate_only(counts[c][s], n, delta) for c in alone)
    shares = verdicts / max(1, studies * len(contrasts))
    return Study(name, together, float(wrong.mean()), tuple(shares.tolist()), float(spent.mean()))


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
        low, high = anytime_interval(k, at, weight=weight_for(delta=delta))
        if (high - low) / 2 <= delta:
            return int(at)
    return MOST
