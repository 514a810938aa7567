"""How many trials a question needs, decided before the run."""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.special import betaincinv
from statsmodels.stats.proportion import (
    samplesize_proportions_2indep_onetail,
)

from local_shutdown.analysis.cells import check_alpha


def n_for_halfwidth(halfwidth: float, rate: float = 0.5, alpha: float = 0.05) -> int:
    """Trials after which a Jeffreys interval is `halfwidth` to each side, n fixed beforehand.

    Args:
        halfwidth: half of high - low, a fraction.
        rate: expected rate; 0.5, the default, is the worst case.
        alpha: 1 - confidence.

    Raises:
        ValueError: not 0 < halfwidth < 0.5, rate outside [0, 1], or not 0 < alpha < 1.
    """
    if not 0 < halfwidth < 0.5:
        raise ValueError(f"halfwidth is {halfwidth}: it must lie strictly between 0 and 0.5")
    if not 0 <= rate <= 1:
        raise ValueError(f"rate is {rate}: a rate lies between 0 and 1")
    check_alpha(alpha)

    def narrow(n: int) -> bool:
        a, b = rate * n + 0.5, (1 - rate) * n + 0.5  # k = rate * n, not rounded: monotone in n
        low = 0.0 if rate == 0 else float(betaincinv(a, b, alpha / 2))
        high = 1.0 if rate == 1 else float(betaincinv(a, b, 1 - alpha / 2))
        return (high - low) / 2 <= halfwidth

    return _smallest(narrow)


def n_for_difference(rate_a: float, rate_b: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Trials in EACH cell to find a difference with the wanted power, two-sided.

    The normal approximation with Fleiss's continuity correction (Casagrande, Pike and Smith 1978,
    Biometrics 34(3)), which matches Fisher's exact test; Boschloo's needs somewhat fewer. For one
    of m contrasts under Holm, pass alpha / m: enough for its strictest step.

    Raises:
        ValueError: a rate outside [0, 1], equal rates, or power or alpha not in (0, 1).
    """
    for name, value in (("rate_a", rate_a), ("rate_b", rate_b)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}: a rate lies between 0 and 1")
    if rate_a == rate_b:
        raise ValueError(f"rate_a and rate_b are both {rate_a}: no n finds a difference of 0")
    if not 0 < power < 1:
        raise ValueError(f"power is {power}: it must lie strictly between 0 and 1")
    check_alpha(alpha)
    diff = rate_a - rate_b
    uncorrected = float(
        samplesize_proportions_2indep_onetail(
            diff, rate_b, power, alpha=alpha, alternative="two-sided"
        )
    )
    root = math.sqrt(1 + 4 / (uncorrected * abs(diff)))
    return math.ceil(uncorrected / 4 * (1 + root) ** 2)


def _smallest(enough: Callable[[int], bool]) -> int:
    """The smallest n >= 1 that is enough, for a question that more trials never unsettle."""
    high = 1
    while not enough(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
