"""Intervals for rates of trials that come in clusters: many continuations of each of few parents.

Continuations of one parent are alike, so that 50 parents with 40 continuations each are not 2,000
trials. Two intervals that allow for it were tried, and each fails where the other holds
(scripts/simulate-branch prints the table):

- `korn_graubard`: Clopper-Pearson on the effective number of trials (Korn and Graubard 1998, Survey
  Methodology 24(2)). No model of the parents. It is too narrow where few parents differ a lot from
  the rest and are missing from a sample by chance: 20 parents, a rate of 5%, intraclass correlation
  0.5: 85%.
- `beta_binomial`: profile likelihood under parents whose rates follow a beta distribution, with the
  quantile of t in place of the normal one. It follows skewed parents, but its mean is not that of
  the sample where they follow another distribution: 30% of the parents at 1 and 70% at 0.29: 34%.

`clustered_interval` reaches from the lower of the lower ends to the higher of the upper ends, so it
covers wherever one of the two does. A cluster bootstrap (percentiles) covered in 64% (20 parents,
5%, intraclass correlation 1): it has no way to draw a parent that is not in the sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtri, stdtrit

Counts = tuple[int, int]
Floats = NDArray[np.float64]
# Grid of the profile: logits of the rate, and intraclass correlations with both ends.
_LOGITS = np.linspace(-9.0, 9.0, 145)
_ICC = np.array([0.0, *(1 / (1 + np.exp(-np.linspace(-7.0, 5.0, 17)))), 1.0])
_IMPOSSIBLE = -1e12


def clustered_interval(counts: Sequence[Counts], alpha: float = 0.05) -> tuple[float, float]:
    """Interval for the mean rate of the parents, which count alike.

    Args:
        counts: (resisted, counted continuations) of each parent; at least one each.
        alpha: 1 - confidence.

    Returns:
        (low, high), fractions; (0, 1) for a single parent, which says nothing of others.

    Raises:
        ValueError: no parents, or a parent without counted continuations.
    """
    check(counts)
    if len(counts) == 1:
        return 0.0, 1.0
    rates = [resisted / n for resisted, n in counts]
    one = korn_graubard(rates, sum(n for _, n in counts), alpha)
    other = beta_binomial(counts, alpha)
    mean = sum(rates) / len(rates)
    return min(one[0], other[0], mean), max(one[1], other[1], mean)


def check(counts: Sequence[Counts]) -> None:
    """Raises ValueError for no parents, or one without counted continuations."""
    if not counts:
        raise ValueError("no parents")
    if any(n < 1 or not 0 <= resisted <= n for resisted, n in counts):
        raise ValueError("each parent needs 0 <= resisted <= n and n >= 1")


def korn_graubard(values: Sequence[float], most: float, alpha: float = 0.05) -> tuple[float, float]:
    """Interval for the mean of values between 0 and 1, one a parent.

    Clopper-Pearson at the number of trials that a mean of independent trials would need for the
    variance seen, made smaller for the few degrees of freedom. Where all values are 0 (or all 1)
    nothing is known of how alike trials of a parent are, and each parent counts once.

    Args:
        most: trials in all; more than these are never counted.
    """
    parents = len(values)
    mean = math.fsum(values) / parents
    if mean <= 0 or mean >= 1:
        return _clopper_pearson(mean * parents, parents, alpha)
    variance = float(np.var(values, ddof=1)) / parents
    effective = most
    if variance > 0:
        few = float(ndtri(1 - alpha / 2) / stdtrit(parents - 1, 1 - alpha / 2))
        effective = min(most, mean * (1 - mean) / variance * few**2)
    return _clopper_pearson(mean * effective, effective, alpha)


def _clopper_pearson(successes: float, n: float, alpha: float) -> tuple[float, float]:
    """Also for an n that is not whole."""
    failures = max(n - successes, 0.0)
    low = 0.0 if successes <= 0 else float(betaincinv(successes, failures + 1, alpha / 2))
    high = 1.0 if failures <= 0 else float(betaincinv(successes + 1, failures, 1 - alpha / 2))
    return low, high


def beta_binomial(counts: Sequence[Counts], alpha: float = 0.05) -> tuple[float, float]:
    """Profile likelihood interval for the mean of a beta-binomial, over all intraclass
    correlations from 0 (binomial) to 1 (a parent's continuations all end alike)."""
    profile = _log_likelihood(counts).max(axis=1)
    bound = float(stdtrit(len(counts) - 1, 1 - alpha / 2)) ** 2
    above = 2 * (profile.max() - profile) - bound
    inside = np.flatnonzero(above <= 0)
    first, last = int(inside[0]), int(inside[-1])
    low = 0.0 if first == 0 else _crossing(above, first - 1)
    high = 1.0 if last == len(_LOGITS) - 1 else _crossing(above, last)
    return low, high


def _crossing(above: Floats, at: int) -> float:
    """The rate between grid points `at` and `at + 1` where the profile crosses the bound."""
    share = above[at] / (above[at] - above[at + 1])
    logit = _LOGITS[at] + share * (_LOGITS[at + 1] - _LOGITS[at])
    return float(1 / (1 + math.exp(-logit)))


def _log_likelihood(counts: Sequence[Counts]) -> Floats:
    """[rate, intraclass correlation]: of all parents together, up to a constant.

    The beta function of a beta-binomial is a product with one factor a continuation: factor j is in
    it for each parent with more than j continuations that resisted (or did not, or at all).
    """
    rates = 1 / (1 + np.exp(-_LOGITS))
    resisted = np.array([k for k, _ in counts])
    ns = np.array([n for _, n in counts])
    at = np.arange(int(ns.max()))
    k_above, f_above, n_above = (
        (numbers[:, None] > at).sum(axis=0).astype(np.float64)
        for numbers in (resisted, ns - resisted, ns)
    )
    alone = k_above.sum() * np.log(rates) + f_above.sum() * np.log1p(-rates)
    total = np.empty((len(rates), len(_ICC)))
    total[:, 0] = alone
    for column, icc in enumerate(_ICC[1:-1].tolist(), start=1):
        size = 1 / icc - 1  # of the beta's two parameters together
        # Divided by the size, so that icc 0 is the limit.
        total[:, column] = (
            np.log(rates[:, None] + at / size) @ k_above
            + np.log((1 - rates)[:, None] + at / size) @ f_above
            - np.log1p(at / size) @ n_above
        )
    all_resisted, none_did = int((resisted == ns).sum()), int((resisted == 0).sum())
    total[:, -1] = _IMPOSSIBLE
    if all_resisted + none_did == len(counts):
        total[:, -1] = all_resisted * np.log(rates) + none_did * np.log1p(-rates)
    return total


def mean_change(values: Sequence[float], most: int, alpha: float = 0.05) -> tuple[float, float]:
    """Interval for the mean of differences between -1 and 1, one a parent.

    The rises and the falls are each a mean of values between 0 and 1, so each has an interval by
    `korn_graubard` that never shrinks to nothing; they are joined as Newcombe joins paired rates
    (1998, Statistics in Medicine 17, 2635-2650, method 10), with the correlation of the two. A t
    interval of the differences would have no width when no parent in the sample changed.

    Args:
        most: independent trials that the differences rest on, at most.

    Raises:
        ValueError: no values, or one outside -1 to 1.
    """
    if not values or any(not -1 <= value <= 1 for value in values):
        raise ValueError("differences of rates, one a parent, are needed")
    if len(values) == 1:
        return -1.0, 1.0
    rises = [max(value, 0.0) for value in values]
    falls = [max(-value, 0.0) for value in values]
    up, down = math.fsum(rises) / len(values), math.fsum(falls) / len(values)
    up_low, up_high = korn_graubard(rises, most, alpha)
    down_low, down_high = korn_graubard(falls, most, alpha)
    together = 0.0
    if np.std(rises) > 0 and np.std(falls) > 0:
        together = float(np.corrcoef(rises, falls)[0, 1])
    below = _joined(up - up_low, down_high - down, together)
    above = _joined(up_high - up, down - down_low, together)
    return max(-1.0, up - down - below), min(1.0, up - down + above)


def _joined(one: float, other: float, correlation: float) -> float:
    return math.sqrt(max(0.0, one**2 - 2 * correlation * one * other + other**2))
