"""Exact intervals and the equivalence test against a plain enumeration with scipy's binomial."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binom

from local_shutdown.analysis.exact import equivalence_p, exact_difference, fisher_level, score

RATES = np.linspace(0, 1, 4001)


@st.composite
def counts(draw: st.DrawFn, most: int = 9) -> tuple[int, int]:
    n = draw(st.integers(1, most))
    return draw(st.integers(0, n) | st.sampled_from([0, n])), n


@pytest.mark.parametrize("alpha", [1e-12, 1e-6, 0.0002, 0.001, 0.05, 0.3, 0.99])
def test_the_level_of_two_p_values_solves_its_equation(alpha: float) -> None:
    c = fisher_level(alpha)
    assert 0 < c < alpha
    assert c * (1 - math.log(c)) == pytest.approx(alpha, rel=1e-9)


def most_likely(k_a: int, n_a: int, k_b: int, n_b: int, difference: float) -> float:
    """The largest product of both two-sided p-values at a difference, over many rates."""
    rates = RATES[(RATES + difference >= 0) & (RATES + difference <= 1)]
    if difference > 0:
        rates = np.append(rates, 1 - difference)
    if not len(rates):
        rates = np.array([max(0.0, -difference)])

    def two_sided(k: int, n: int, p: Any) -> Any:
        tails = binom.cdf(k, n, p), binom.sf(k - 1, n, p)
        return np.minimum(1, 2 * np.minimum(*tails))

    return float((two_sided(k_a, n_a, rates + difference) * two_sided(k_b, n_b, rates)).max())


@settings(max_examples=60)
@given(counts(), counts(), st.sampled_from([0.05, 0.3, 0.00125]))
def test_an_interval_ends_where_the_product_falls_below_its_level(
    a: tuple[int, int], b: tuple[int, int], alpha: float
) -> None:
    low, high = exact_difference(*a, *b, alpha)
    level = fisher_level(alpha)
    assert -1 <= low <= a[0] / a[1] - b[0] / b[1] <= high <= 1
    for end, outward in ((low, -1), (high, 1)):
        inside = most_likely(*a, *b, end - outward * 0.001)
        assert inside >= level * (1 - 1e-6)
        if end == outward:
            assert most_likely(*a, *b, end) >= level
        else:
            assert most_likely(*a, *b, min(1, max(-1, end + outward * 0.001))) < level
    assert exact_difference(*b, *a, alpha) == (pytest.approx(-high), pytest.approx(-low))


def test_intervals_that_can_be_known_by_hand() -> None:
    """1 of 1 against 0 of 1: rates 1 - x and y, of which 2x * 2y has to be the level at least."""
    for alpha in (0.05, 0.2):
        root = math.sqrt(fisher_level(alpha))
        assert exact_difference(0, 1, 1, 1, alpha) == (-1, pytest.approx(1 - root, abs=1e-7))
        assert exact_difference(1, 1, 0, 1, alpha) == (pytest.approx(root - 1, abs=1e-7), 1)
    assert exact_difference(3, 20, 1, 15) == exact_difference(3, 20, 1, 15, 0.05)
    # n trials each, none against none: 2(1 - p)^n alone has to reach it, b's rate being 0
    for n in (5, 12):
        end = 1 - (fisher_level(0.05) / 2) ** (1 / n)
        assert exact_difference(0, n, 0, n) == (
            pytest.approx(-end, abs=1e-7), pytest.approx(end, abs=1e-7),
        )  # fmt: skip


@settings(max_examples=60)
@given(counts(30), counts(30), st.sampled_from([0.05, 0.2, 0.5, 0.9]))
def test_the_score_is_that_of_the_most_likely_pair_of_rates(
    a: tuple[int, int], b: tuple[int, int], margin: float
) -> None:
    (x, n_a), (y, n_b) = a, b

    def unlikely(q: float) -> float:
        return -float(binom.logpmf(x, n_a, min(q + margin, 1)) + binom.logpmf(y, n_b, q))

    q = minimize_scalar(unlikely, bounds=(0, 1 - margin), method="bounded",
                        options={"xatol": 1e-12}).x  # fmt: skip
    q = min((q, 0.0, 1 - margin), key=unlikely)
    p = q + margin
    wanted = (x / n_a - y / n_b - margin) / math.sqrt(p * (1 - p) / n_a + q * (1 - q) / n_b)

    def found(x: int, n_a: int, y: int, n_b: int, margin: float) -> float:
        one = score(np.array([float(x)]), n_a, np.array([float(y)]), n_b, margin)
        assert one.shape == (1,)
        return float(one[0])

    value = found(x, n_a, y, n_b, margin)
    assert value == pytest.approx(wanted, abs=2e-4, rel=1e-4)
    # the same tables by the other names of a and b, and of resisting
    assert found(y, n_b, x, n_a, -margin) == pytest.approx(-value, abs=1e-7)
    assert found(n_b - y, n_b, n_a - x, n_a, margin) == pytest.approx(value, abs=1e-7)


def test_scores_that_can_be_known_by_hand() -> None:
    """With x = n - y of n the most likely rates lie around 1/2."""
    for n, margin in ((10, 0.1), (7, 0.4)):
        x = np.arange(n + 1.0)
        wanted = (2 * x / n - 1 - margin) / math.sqrt(2 * (1 - margin**2) / 4 / n)
        assert score(x, n, n - x, n, margin) == pytest.approx(wanted)
    assert score(np.array([6.0]), 10, np.array([10.0]), 20, 0.1)[0] == pytest.approx(0, abs=1e-9)


def plain_below(k_a: int, n_a: int, k_b: int, n_b: int, margin: float) -> float:
    """Every table at least as far from "a - b >= margin" as the one seen, and all that have fewer
    in a or more in b than such a one; their largest probability on the edge."""
    x, y = np.meshgrid(np.arange(n_a + 1.0), np.arange(n_b + 1.0), indexing="ij")
    seen = score(x, n_a, y, n_b, margin)[k_a, k_b]
    far = score(x, n_a, y, n_b, margin) <= seen + 1e-9
    below = np.array([[far[i:, : j + 1].any() for j in range(n_b + 1)] for i in range(n_a + 1)])
    rates = np.linspace(0, 1 - margin, 801)[:, None]
    of_a = binom.pmf(np.arange(n_a + 1), n_a, np.minimum(rates + margin, 1))
    of_b = binom.pmf(np.arange(n_b + 1), n_b, rates)
    return float(np.einsum("ri,ij,rj->r", of_a, below, of_b).max())


@settings(max_examples=50)
@given(counts(), counts(), st.sampled_from([0.05, 0.2, 0.5, 0.85]))
def test_equivalence_is_as_likely_as_all_tables_that_speak_as_much_for_it(
    a: tuple[int, int], b: tuple[int, int], margin: float
) -> None:
    wanted = max(plain_below(*a, *b, margin), plain_below(*b, *a, margin))
    assert equivalence_p(*a, *b, margin) == pytest.approx(min(1, wanted), rel=1e-3)


@pytest.mark.parametrize(
    ("a", "b", "margin"),
    [((20, 60), (15, 50), 0.25), ((2, 40), (55, 70), 0.1), ((39, 40), (69, 70), 0.1)],
)
def test_equivalence_of_more_trials_too(
    a: tuple[int, int], b: tuple[int, int], margin: float
) -> None:
    wanted = max(plain_below(*a, *b, margin), plain_below(*b, *a, margin))
    assert equivalence_p(*a, *b, margin) == pytest.approx(min(1, wanted), rel=1e-3)


def test_equivalences_that_can_be_known_by_hand() -> None:
    """One trial each: all tables but "a alone", so 1 - (q + m)(1 - q), at most 1 - m; and none of n
    against none of n at margin m is at most (1 - m)^n where that is the only table so far out."""
    for m in (0.1, 0.5, 0.9):
        for k in (0, 1):
            assert equivalence_p(k, 1, k, 1, m) == pytest.approx(1 - m)
        assert equivalence_p(1, 1, 0, 1, m) == pytest.approx(1)
        assert equivalence_p(0, 1, 1, 1, m) == pytest.approx(1)
    assert equivalence_p(0, 2000, 0, 2000, 0.9) == 1e-300
    assert equivalence_p(0, 30, 30, 30, 0.1) == 1


NO_COUNTS = [((5, 4), "successes is 5"), ((-1, 4), "successes is -1"), ((0, -1), "n is -1"),
             ((0, 0), "n is 0"), ((0.5, 4), "successes is 0.5")]  # fmt: skip


@pytest.mark.parametrize(("wrong", "named"), NO_COUNTS)
def test_counts_that_are_none_are_refused_on_either_side(wrong: Any, named: str) -> None:
    for call in (
        lambda: exact_difference(*wrong, 1, 4), lambda: exact_difference(1, 4, *wrong),
        lambda: equivalence_p(*wrong, 1, 4, 0.1), lambda: equivalence_p(1, 4, *wrong, 0.1),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=named):
            call()


@pytest.mark.parametrize("wrong", [0, 1, -0.5, 1.5])
def test_an_alpha_or_a_margin_that_is_none_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match=f"alpha is {wrong}:"):
        exact_difference(1, 4, 1, 4, wrong)
    with pytest.raises(ValueError, match=f"margin is {wrong}:"):
        equivalence_p(1, 4, 1, 4, wrong)
