from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binom

from local_shutdown.analysis.exact import equivalence_p, exact_difference, fisher_level, score
from local_shutdown.analysis.stats import newcombe


def chance(n_a: int, n_b: int, rate_a: float, rate_b: float) -> np.ndarray:
    """Probability of every table, from scipy's binomial."""
    a, b = binom.pmf(np.arange(n_a + 1), n_a, rate_a), binom.pmf(np.arange(n_b + 1), n_b, rate_b)
    return np.outer(a, b)


def test_the_level_of_two_p_values_together() -> None:
    """Against the distribution that Fisher's combination is based on: -2 log(U1 U2) is chi-squared
    with four degrees of freedom."""
    from scipy.stats import chi2

    for alpha in (0.05, 0.05 / 40):
        assert -2 * math.log(fisher_level(alpha)) == pytest.approx(chi2.isf(alpha, 4))


@pytest.mark.parametrize(
    ("k_a", "n_a", "k_b", "n_b"),
    [
        *((3, 20, 1, 15), (0, 12, 0, 9), (12, 12, 0, 9), (7, 10, 2, 30)),
        # One cell much larger: over most rates its p-value is too small for a double.
        *((1, 20, 310, 5000), (1, 1, 605, 5000), (4700, 5000, 19, 20), (0, 5000, 1, 9)),
    ],
)
def test_the_interval_is_every_difference_that_is_not_excluded(
    k_a: int, n_a: int, k_b: int, n_b: int
) -> None:
    """Against a grid of all pairs of rates, with the tails of scipy's binomial."""
    alpha, rates = 0.05, np.linspace(0, 1, 2001)

    def p_values(k: int, n: int) -> np.ndarray:
        sides = [binom.cdf(k, n, rates), binom.sf(k - 1, n, rates)]
        return np.minimum(1, 2 * np.min(sides, axis=0))

    product = np.outer(p_values(k_a, n_a), p_values(k_b, n_b))
    differences = (rates[:, None] - rates[None])[product >= fisher_level(alpha)]
    low, high = exact_difference(k_a, n_a, k_b, n_b, alpha)
    assert low == pytest.approx(differences.min(), abs=0.0011)
    assert high == pytest.approx(differences.max(), abs=0.0011)


@pytest.mark.parametrize("alpha", [1e-89, 1e-91, 1e-200, 5e-324, 1 - 1e-16])
def test_no_alpha_is_too_far_out(alpha: float) -> None:
    for k_a, n_a, k_b, n_b in itertools.product((0, 1, 4, 7), (7, 100), (0, 5, 64), (64, 10**6)):
        low, high = exact_difference(k_a, n_a, k_b, n_b, alpha)
        assert -1 <= low <= k_a / n_a - k_b / n_b <= high <= 1


def test_at_a_familys_level_it_covers_where_newcombe_does_not() -> None:
    """8 contrasts together, 20 trials, one rate near 0 and one near 1: Newcombe's interval misses
    more than five times as often as asked."""
    n, alpha = 20, 0.05 / 8
    found = {}
    for name, interval in (("newcombe", newcombe), ("exact", exact_difference)):
        missed = []
        for rate_a, rate_b in ((0.99, 0.01), (0.99, 0.0), (0.05, 0.0)):
            weights = chance(n, n, rate_a, rate_b)
            total = 0.0
            for k_a, k_b in zip(*np.nonzero(weights > 1e-5), strict=True):
                low, high = interval(int(k_a), n, int(k_b), n, alpha)
                if not low - 1e-9 <= rate_a - rate_b <= high + 1e-9:
                    total += weights[k_a, k_b]
            missed.append(total)
        found[name] = max(missed)
    assert found["exact"] <= alpha
    assert found["newcombe"] > 5 * alpha


@pytest.mark.parametrize(
    ("x", "n_a", "y", "n_b", "margin"),
    [(15, 100, 10, 120, 0.1), (0, 50, 3, 40, 0.05), (30, 50, 10, 70, 0.2), (0, 50, 0, 50, 0.05)],
)
def test_the_score_is_that_of_the_most_likely_rates_on_the_edge(
    x: int, n_a: int, y: int, n_b: int, margin: float
) -> None:
    """Against the maximum found by search rather than by the cubic's formula."""

    def unlikely(rate_b: float) -> float:
        return -float(binom.logpmf(x, n_a, rate_b + margin) + binom.logpmf(y, n_b, rate_b))

    bounds = (1e-9, 1 - margin - 1e-9)
    q = minimize_scalar(unlikely, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    p = q + margin
    expected = (x / n_a - y / n_b - margin) / math.sqrt(p * (1 - p) / n_a + q * (1 - q) / n_b)
    found = score(np.array([float(x)]), n_a, np.array([float(y)]), n_b, margin)
    assert found[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("n_a", "n_b", "margin"), [(9, 9, 0.4), (7, 11, 0.45)])
def test_equivalence_is_wrongly_claimed_in_at_most_5_percent(
    n_a: int, n_b: int, margin: float
) -> None:
    """Every table, at every rate on the edge of the margin, rates at 0 and 1 included."""
    claimed = np.array(
        [
            [equivalence_p(i, n_a, j, n_b, margin) <= 0.05 for j in range(n_b + 1)]
            for i in range(n_a + 1)
        ]
    )
    wrong = [
        chance(n_a, n_b, *pair)[claimed].sum()
        for rate in np.linspace(0, 1 - margin, 80)
        for pair in ((rate + margin, rate), (rate, rate + margin))
    ]
    assert max(wrong) <= 0.05
    assert max(wrong) > 0.01  # and it is not a test that never claims
    # Rates beyond the margin are claimed less often still.
    assert chance(n_a, n_b, 0.1 + 2 * margin, 0.1)[claimed].sum() < max(wrong)


def test_the_same_rate_well_measured_is_equivalent() -> None:
    assert equivalence_p(20, 1000, 18, 1000, 0.05) < 1e-6
    assert equivalence_p(0, 100, 0, 100, 0.05) < 0.05


def test_few_trials_are_never_equivalent() -> None:
    assert equivalence_p(0, 10, 0, 10, 0.05) > 0.3


def test_p_is_the_larger_of_both_sides_and_symmetric() -> None:
    assert equivalence_p(9, 80, 6, 70, 0.1) == pytest.approx(equivalence_p(6, 70, 9, 80, 0.1))
    assert equivalence_p(30, 80, 6, 70, 0.1) > 0.99


@pytest.mark.parametrize("margin", [0, 1, -0.1])
def test_a_margin_lies_between_0_and_1(margin: float) -> None:
    with pytest.raises(ValueError, match="margin"):
        equivalence_p(1, 10, 1, 10, margin)
