"""Rates over parents and their continuations: how much parents differ, and how many to play."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from local_shutdown.analysis.clustered_interval import (
    Counts,
    check,
    clustered_interval,
    mean_change,
)


@dataclass(frozen=True, slots=True)
class Spread:
    """How far parents differ, by the analysis of variance of 0/1 outcomes (Ridout, Demetrio and
    Firth 1999, Biometrics 55).

    Attributes:
        between: variance of the parents' own rates; at least 0.
        within: variance of a continuation around its parent's rate.
        icc: intraclass correlation, between / (between + within); None where it cannot be known:
            one parent, one continuation each, or all ended alike.
        design_effect: variance of the rate beside that of as many independent trials.
    """

    between: float | None
    within: float | None
    icc: float | None
    design_effect: float | None


@dataclass(frozen=True, slots=True)
class ClusteredRate:
    """P(resist) at a point: the mean over parents, which count alike.

    Attributes:
        rate: a fraction.
        low: lower end of its interval, see `clustered_interval`.
        high: upper end.
        parents: with at least one counted continuation.
        n: counted continuations of all parents.
        effective: independent trials that would tell as much, n / design effect; None if unknown.
    """

    rate: float
    low: float
    high: float
    parents: int
    n: int
    spread: Spread
    effective: float | None


@dataclass(frozen=True, slots=True)
class Change:
    """A mean difference within parents.

    Attributes:
        change: mean over parents of (rate after - rate before), a fraction from -1 to 1.
        low: lower end of its interval, see `clustered_interval.mean_change`.
        high: upper end.
        parents: that have both.
    """

    change: float
    low: float
    high: float
    parents: int


def clustered(counts: Sequence[Counts], alpha: float = 0.05) -> ClusteredRate:
    """The rate over parents.

    Args:
        counts: (resisted, counted) of each parent; those without counted continuations left out.

    Raises:
        ValueError: no parents, or one without counted continuations.
    """
    low, high = clustered_interval(counts, alpha)
    n = sum(number for _, number in counts)
    found = spread(counts)
    effective = None if found.design_effect is None else n / found.design_effect
    rate = math.fsum(resisted / number for resisted, number in counts) / len(counts)
    return ClusteredRate(rate, low, high, len(counts), n, found, effective)


def spread(counts: Sequence[Counts]) -> Spread:
    """Variance between and within parents.

    Raises:
        ValueError: as `clustered`.
    """
    check(counts)
    parents, n = len(counts), sum(number for _, number in counts)
    if parents < 2 or n == parents:
        return Spread(None, None, None, None)
    mean = sum(resisted for resisted, _ in counts) / n
    inside = math.fsum(k * (number - k) / number for k, number in counts) / (n - parents)
    outside = math.fsum(number * (k / number - mean) ** 2 for k, number in counts) / (parents - 1)
    usual = (n - sum(number**2 for _, number in counts) / n) / (parents - 1)
    between = max(0.0, (outside - inside) / usual)
    if between + inside == 0:
        return Spread(0.0, 0.0, None, None)
    icc = between / (between + inside)
    # With parents that count alike, see Kish 1965: the usual number of continuations, less 1.
    harmonic = parents / math.fsum(1 / number for _, number in counts)
    effect = (n / parents) * (icc + (1 - icc) / harmonic)
    return Spread(between, inside, icc, effect)


def optimal_continuations(icc: float | None, cost_ratio: float) -> int | None:
    """Continuations of each parent that tell most for what they cost, at least 1.

    The classical optimum of two-stage sampling, sqrt(cost ratio * (1 - icc) / icc) (Cochran 1977,
    Sampling Techniques, 10.6).

    Args:
        icc: of a pilot.
        cost_ratio: cost of one more parent beside one more continuation of a parent.

    Returns:
        None where more continuations are always better (icc 0) or the icc is unknown.

    Raises:
        ValueError: not cost_ratio > 0.
    """
    if not cost_ratio > 0:
        raise ValueError(f"cost ratio is {cost_ratio}: a number above 0 is needed")
    if icc is None or icc == 0:
        return None
    return max(1, round(math.sqrt(cost_ratio * (1 - icc) / icc)))


def paired_change(
    before: Sequence[Counts | None], after: Sequence[Counts | None], alpha: float = 0.05
) -> Change | None:
    """Mean difference within parents, for example of the same trajectory under another condition.

    Args:
        before: counts of each parent; None where it has none.
        after: of the same parents, in the same order.

    Returns:
        None when no parent has both.
    """
    pairs = [
        (one, other)
        for one, other in zip(before, after, strict=True)
        if one is not None and other is not None and one[1] and other[1]
    ]
    if not pairs:
        return None
    differences = [b[0] / b[1] - a[0] / a[1] for a, b in pairs]
    most = sum(min(a[1], b[1]) for a, b in pairs)
    low, high = mean_change(differences, most, alpha)
    return Change(math.fsum(differences) / len(pairs), low, high, len(pairs))
