"""Intervals and tests for rates, on scipy and statsmodels.

Rates are fractions of n trials. Every function here takes counts and holds for an n fixed
beforehand; a cell whose n was not needs `analysis.stopping` (`analysis.interval.shown` picks).

scipy.stats and statsmodels are imported where they are used: together they take seconds to load,
which `run` and `show`, that want one interval, need not pay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import betaincinv

from local_shutdown.analysis.cells import check_counts

Interval = tuple[float, float] | tuple[None, None]
Method = Literal["jeffreys", "clopper-pearson"]
TestName = Literal["boschloo", "fisher", "anytime"]

UNKNOWN: Interval = (None, None)
# Boschloo's time grows with n_a * n_b: 0.05 to 0.1 s at 100 x 100 (the default trials),
# 1.6 s at 400 x 400 and 27 s at 1000 x 1000, where Fisher takes 2 ms.
BOSCHLOO_MAX_PRODUCT = 10_000
SMALLEST_P = 1e-300  # smaller ones come out as 0, which no p-value is


def jeffreys(successes: int, n: int, alpha: float = 0.05) -> Interval:
    """Equal-tailed Jeffreys interval, the paper's (docs/paper.md, "The outcome").

    Quantiles alpha/2 and 1 - alpha/2 of Beta(k + 1/2, n - k + 1/2), with low = 0 at k = 0 and
    high = 1 at k = n (Brown, Cai and DasGupta 2001, Statistical Science 16(2)).

    Against the 73 intervals that the paper's data print, to 0.1%: 61 agree. The other 12 are all in
    Table 2 with counts graded `rounded`: 0/1000 ten times (printed upper end 0.2%, here 0.25%),
    1000/1000 once (printed lower end 99.8%, here 99.75%) and 1/1000 once (printed upper end 0.4%,
    here 0.47%). The shortest (highest-density) 95% interval gives those 12, but misses 38 others.

    Args:
        successes: 0..n.
        n: trials.
        alpha: 1 - confidence.

    Returns:
        (low, high), fractions; (None, None) when n is 0.

    Raises:
        ValueError: not 0 <= successes <= n, or not 0 < alpha < 1.
    """
    check_counts(successes, n, alpha)
    if n == 0:
        return UNKNOWN
    a, b = successes + 0.5, n - successes + 0.5
    low = 0.0 if successes == 0 else float(betaincinv(a, b, alpha / 2))
    high = 1.0 if successes == n else float(betaincinv(a, b, 1 - alpha / 2))
    return low, high


def clopper_pearson(successes: int, n: int, alpha: float = 0.05) -> Interval:
    """Clopper-Pearson interval: coverage at least 1 - alpha for every rate, so wider.

    Args, Returns, Raises: as `jeffreys`.
    """
    check_counts(successes, n, alpha)
    if n == 0:
        return UNKNOWN
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(successes, n, alpha, method="beta")
    return float(low), float(high)


def interval(successes: int, n: int, alpha: float = 0.05, method: Method = "jeffreys") -> Interval:
    """Interval by the method's name.

    Raises:
        ValueError: an unknown method, or as `jeffreys`.
    """
    if method == "jeffreys":
        return jeffreys(successes, n, alpha)
    if method == "clopper-pearson":
        return clopper_pearson(successes, n, alpha)
    raise ValueError(f"method is {method!r}: use `jeffreys` or `clopper-pearson`")


def newcombe(
    successes_a: int, n_a: int, successes_b: int, n_b: int, alpha: float = 0.05
) -> Interval:
    """Newcombe's interval for rate a - rate b of two independent cells.

    The hybrid of two Wilson intervals, method 10 of Newcombe 1998, Statistics in Medicine 17.

    Returns:
        (low, high), fractions; (None, None) when either n is 0.

    Raises:
        ValueError: as `jeffreys`.
    """
    check_counts(successes_a, n_a, alpha)
    check_counts(successes_b, n_b, alpha)
    if n_a == 0 or n_b == 0:
        return UNKNOWN
    from statsmodels.stats.proportion import confint_proportions_2indep

    low, high = confint_proportions_2indep(
        successes_a, n_a, successes_b, n_b, method="newcomb", compare="diff", alpha=alpha
    )
    return max(float(low), -1.0), min(float(high), 1.0)


def ratio_interval(
    successes_a: int, n_a: int, successes_b: int, n_b: int, alpha: float = 0.05
) -> Interval:
    """Interval for rate a / rate b of two independent cells; for A/K.

    MOVER-R on two Wilson intervals (Donner and Zou 2012, Statistical Methods in Medical Research
    21(4)), the ratio's counterpart of Newcombe's: closed form, and sound at 0 of n and n of n.
    statsmodels' score interval for ratios is not used: in 0.15 it collapses to a point at
    50/100 against 100/100.

    Returns:
        (low, high), low >= 0; (None, None) when either n is 0 or `successes_b` is 0.

    Raises:
        ValueError: as `jeffreys`.
    """
    check_counts(successes_a, n_a, alpha)
    check_counts(successes_b, n_b, alpha)
    if n_a == 0 or n_b == 0 or successes_b == 0:
        return UNKNOWN
    a, b = successes_a / n_a, successes_b / n_b
    low_a, high_a = _wilson(successes_a, n_a, alpha)
    low_b, high_b = _wilson(successes_b, n_b, alpha)
    # u * (2p - u) = p^2 - (u - p)^2, so neither root is of a negative number.
    low_a2, high_a2 = low_a * (2 * a - low_a), high_a * (2 * a - high_a)
    low_b2, high_b2 = low_b * (2 * b - low_b), high_b * (2 * b - high_b)
    # The textbook's low end, (ab - root) / high_b2, multiplied out: high_b2 may be 0.
    low = low_a2 / (a * b + math.sqrt(max((a * b) ** 2 - low_a2 * high_b2, 0))) if a else 0.0
    high = (a * b + math.sqrt(max((a * b) ** 2 - high_a2 * low_b2, 0))) / low_b2
    return max(low, 0.0), high


def _wilson(successes: int, n: int, alpha: float) -> tuple[float, float]:
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(successes, n, alpha, method="wilson")
    return max(float(low), 0.0), min(float(high), 1.0)


@dataclass(frozen=True, slots=True)
class DifferenceTest:
    """A two-sided p-value and the test it comes from; both None when either cell is empty."""

    p: float | None
    test: TestName | None


def difference_test(successes_a: int, n_a: int, successes_b: int, n_b: int) -> DifferenceTest:
    """Two-sided exact test of equal rates in two independent cells.

    Boschloo's where n_a * n_b is at most 10,000: more powerful than Fisher's at the same guaranteed
    level (Boschloo 1970; Mehrotra, Chan and Berger 2003, Biometrics 59(2)); two-sided is twice the
    smaller side. Fisher's above that, for the time. The rule looks at the sizes alone, never at the
    outcomes. When nobody or everybody resisted in both cells, p is 1; below 1e-300 it is 1e-300.

    Raises:
        ValueError: as `jeffreys`.
    """
    check_counts(successes_a, n_a)
    check_counts(successes_b, n_b)
    if n_a == 0 or n_b == 0:
        return DifferenceTest(None, None)
    table = np.array([[successes_a, successes_b], [n_a - successes_a, n_b - successes_b]])
    test: TestName = "boschloo" if n_a * n_b <= BOSCHLOO_MAX_PRODUCT else "fisher"
    if successes_a + successes_b in (0, n_a + n_b):
        return DifferenceTest(1.0, test)
    from scipy.stats import boschloo_exact, fisher_exact

    found = boschloo_exact(table) if test == "boschloo" else fisher_exact(table)
    return DifferenceTest(min(max(float(found.pvalue), SMALLEST_P), 1.0), test)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p-values (Holm 1979), in the order given.

    None (not computable) stays None and is not counted into the family: what is missing depends on
    which cells were run, not on what they showed. (statsmodels' `multipletests` does the same, but
    runs a full garbage collection at every call.)

    Raises:
        ValueError: a p-value lies outside [0, 1].
    """
    for p in p_values:
        if p is not None and not 0 <= p <= 1:
            raise ValueError(f"p-value is {p}: it must lie between 0 and 1")
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[i] = largest
    return adjusted
