"""Rates over parents beside the formulas as their sources give them, written out in another way."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from scipy.special import betaln
from scipy.stats import beta, norm, t

from local_shutdown.analysis import clustered_interval as intervals
from local_shutdown.analysis.clustered import (
    Change,
    ClusteredRate,
    Spread,
    clustered,
    optimal_continuations,
    paired_change,
    spread,
)
from local_shutdown.analysis.clustered_interval import (
    beta_binomial,
    check,
    clustered_interval,
    korn_graubard,
    mean_change,
)

Counts = tuple[int, int]
ALPHAS = (0.05, 0.1, 0.01)
near = pytest.approx


def parents(seed: int, least: int = 2) -> list[Counts]:
    """Drawn: alike or apart, few continuations or many."""
    draw = random.Random(seed)
    most = draw.choice([1, 2, 5, 12])
    rates = draw.choice([[0.0], [1.0], [0.5], [0.0, 1.0], [0.1, 0.4], [0.05, 0.9]])
    counts = []
    for _ in range(draw.randint(least, 8)):
        n, rate = draw.randint(1, most), draw.choice(rates)
        counts.append((sum(draw.random() < rate for _ in range(n)), n))
    return counts


# --- the second computations ---------------------------------------------------------------------


def clopper(successes: float, n: float, alpha: float) -> tuple[float, float]:
    low = beta.ppf(alpha / 2, successes, n - successes + 1) if successes > 1e-12 else 0.0
    high = beta.ppf(1 - alpha / 2, successes + 1, n - successes) if n - successes > 1e-12 else 1.0
    return float(low), float(high)


def effective(values: Sequence[float], most: float, alpha: float) -> float:
    """Korn and Graubard: n* = p(1 - p) / var, times (z / t)^2; a parent each where none differ."""
    number = len(values)
    mean = float(np.mean(values))
    if mean in (0.0, 1.0):
        return number
    squares = sum((value - mean) ** 2 for value in values)
    if np.std(values) == 0:
        return most
    variance = squares / (number - 1) / number
    quantiles = norm.isf(alpha / 2) / t.isf(alpha / 2, number - 1)
    return min(most, float(mean * (1 - mean) / variance * quantiles**2))


def log_likelihood(counts: Sequence[Counts], icc: float) -> Any:
    """At every rate of the grid."""
    rate = np.array([rate_of(x) for x in LOGITS])
    if icc == 0:
        return sum(k * np.log(rate) + (n - k) * np.log(1 - rate) for k, n in counts)
    if icc == 1:
        if any(0 < k < n for k, n in counts):
            return np.full(len(rate), -1e12)
        return sum(np.log(rate if k else 1 - rate) for k, _ in counts)
    a, b = rate * (1 / icc - 1), (1 - rate) * (1 / icc - 1)
    return sum(betaln(k + a, n - k + b) - betaln(a, b) for k, n in counts)


LOGITS = [-9 + i / 8 for i in range(145)]
ICCS = [0.0, *(1 / (1 + math.exp(7 - 0.75 * i)) for i in range(17)), 1.0]


def rate_of(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def profile_interval(counts: Sequence[Counts], alpha: float) -> tuple[float, float]:
    profile = np.max([log_likelihood(counts, icc) for icc in ICCS], axis=0)
    drop = float(t.isf(alpha / 2, len(counts) - 1)) ** 2 / 2
    least = profile.max() - drop
    inside = [i for i, value in enumerate(profile) if value >= least]

    def crossing(out: int, into: int) -> float:
        share = (least - profile[out]) / (profile[into] - profile[out])
        return rate_of(LOGITS[out] + share * (LOGITS[into] - LOGITS[out]))

    low = 0.0 if inside[0] == 0 else crossing(inside[0] - 1, inside[0])
    high = 1.0 if inside[-1] == 144 else crossing(inside[-1] + 1, inside[-1])
    return low, high


def change_interval(values: Sequence[float], most: int, alpha: float) -> tuple[float, float]:
    """Newcombe 1998, method 10: the two one-sided means joined by their correlation."""
    if len(values) == 1:
        return -1.0, 1.0
    ends = []
    for sign in (1, -1):
        part = [sign * value if sign * value > 0 else 0.0 for value in values]
        n = effective(part, most, alpha)
        mean = sum(part) / len(part)
        ends.append((mean, *clopper(mean * n, n, alpha), part))
    (up, up_low, up_high, rises), (down, down_low, down_high, falls) = ends
    phi = 0.0
    if len(set(rises)) > 1 and len(set(falls)) > 1:
        phi = float(np.cov(rises, falls)[0, 1] / np.std(rises, ddof=1) / np.std(falls, ddof=1))
    d1, d2 = up - up_low, down_high - down
    e1, e2 = up_high - up, down - down_low
    low = up - down - math.sqrt(max(0, d1 * d1 + d2 * d2 - 2 * phi * d1 * d2))
    high = up - down + math.sqrt(max(0, e1 * e1 + e2 * e2 - 2 * phi * e1 * e2))
    return max(-1.0, low), min(1.0, high)


def spread_of(counts: Sequence[Counts]) -> Spread:
    """Ridout et al. 1999 (the ANOVA estimator), in exact fractions."""
    m, n = len(counts), sum(size for _, size in counts)
    if m == 1 or n == m:
        return Spread(None, None, None, None)
    p = Fraction(sum(k for k, _ in counts), n)
    within = sum((k * (1 - Fraction(k, s)) for k, s in counts), Fraction(0)) / (n - m)
    msb = sum((s * (Fraction(k, s) - p) ** 2 for k, s in counts), Fraction(0)) / (m - 1)
    n0 = (n - Fraction(sum(s * s for _, s in counts), n)) / (m - 1)
    between = max(Fraction(0), (msb - within) / n0)
    if within + between == 0:
        return Spread(0.0, 0.0, None, None)
    icc = between / (within + between)
    # variance of the mean of the parents' means beside that of n trials that are independent
    each = sum((icc + (1 - icc) / s for _, s in counts), Fraction(0)) / m**2
    return Spread(float(between), float(within), float(icc), float(each * n))


def same(found: Spread, wanted: Spread) -> None:
    for name in Spread.__slots__:
        one, other = getattr(found, name), getattr(wanted, name)
        assert (one is None) == (other is None), name
        assert one is None or one == near(other, abs=1e-12), name


# --- both ----------------------------------------------------------------------------------------


def test_the_likelihood_at_every_rate_and_correlation() -> None:
    for counts in ([(0, 7), (3, 7), (5, 9), (9, 9)], [(0, 3), (4, 4), (1, 1)], [(1, 1)]):
        found = intervals._log_likelihood(counts)
        wanted = np.transpose([log_likelihood(counts, icc) for icc in ICCS])
        assert found.shape == (145, 19)
        assert np.allclose(found, wanted, rtol=1e-8, atol=1e-8)


def test_intervals_of_drawn_parents() -> None:
    for seed in range(48):
        counts, alpha = parents(seed), ALPHAS[seed % 3]
        rates, n = [k / size for k, size in counts], sum(size for _, size in counts)
        star = effective(rates, n, alpha)
        mean = sum(rates) / len(rates)
        one = clopper(mean * star, star, alpha)
        assert korn_graubard(rates, n, alpha) == near(one, abs=1e-9), counts
        assert korn_graubard(rates, 2, alpha) == near(
            clopper(mean * effective(rates, 2, alpha), effective(rates, 2, alpha), alpha), abs=1e-9
        )
        other = profile_interval(counts, alpha)
        assert beta_binomial(counts, alpha) == near(other, abs=1e-6), counts
        both = min(one[0], other[0], mean), max(one[1], other[1], mean)
        assert clustered_interval(counts, alpha) == near(both, abs=1e-6), counts


def test_changes_of_drawn_parents() -> None:
    for seed in range(150):
        draw = random.Random(seed)
        few = draw.choice([[0.0], [0.0, 0.25, -0.25], [0.5], [-0.1], [1.0, -1.0], [0.0, 0.3]])
        values = [draw.choice(few) for _ in range(draw.randint(1, 9))]
        most, alpha = draw.choice([2, 9, 200]), ALPHAS[seed % 3]
        wanted = change_interval(values, most, alpha)
        assert mean_change(values, most, alpha) == near(wanted, abs=1e-7), values


def test_the_spread_and_the_rate_of_drawn_parents() -> None:
    for seed in range(150):
        counts = parents(seed, least=1)
        wanted = spread_of(counts)
        same(spread(counts), wanted)
        found = clustered(counts, 0.1)
        n = sum(size for _, size in counts)
        low, high = clustered_interval(counts, 0.1)
        star = None if wanted.design_effect is None else near(n / wanted.design_effect)
        rate = near(float(sum(Fraction(k, size) for k, size in counts) / len(counts)))
        assert found == ClusteredRate(rate, low, high, len(counts), n, found.spread, star)
        same(found.spread, wanted)


def test_the_spread_of_every_two_parents_of_up_to_three() -> None:
    each = [(k, n) for n in (1, 2, 3) for k in range(n + 1)]
    for pair in itertools.combinations_with_replacement(each, 2):
        same(spread(pair), spread_of(pair))
    # as far apart as within: 2/3 * 1/3 * 3 / 4, and (3 * 2/9 - 1/6) / 3
    assert spread([(0, 3), (2, 3)]) == Spread(near(1 / 6), near(1 / 6), 0.5, near(2.0))


def test_without_another_word_the_level_is_95_percent() -> None:
    counts = [(1, 4), (3, 5), (0, 2), (2, 2)]
    rates, values = [0.25, 0.6, 0.0, 1.0], [0.1, -0.3, 0.0, 0.4]
    assert clustered_interval(counts) == clustered_interval(counts, 0.05)
    assert korn_graubard(rates, 13) == korn_graubard(rates, 13, 0.05)
    assert beta_binomial(counts) == beta_binomial(counts, 0.05)
    assert mean_change(values, 20) == mean_change(values, 20, 0.05)
    assert clustered(counts) == clustered(counts, 0.05)
    after = [(2, 4), (3, 5), (1, 2), (0, 2)]
    assert paired_change(counts, after) == paired_change(counts, after, 0.05)
    assert clustered(counts) != clustered(counts, 0.06)
    assert paired_change(counts, after) != paired_change(counts, after, 0.06)


def test_by_hand() -> None:
    """Two parents of two: rates 0 and 1, so within 0, and each parent counts once."""
    assert spread([(0, 2), (2, 2)]) == Spread(0.5, 0.0, 1.0, 2.0)
    # rates 0.5 and 0.5: between is below 0, so 0
    assert spread([(1, 2), (1, 2)]) == Spread(0.0, 0.5, 0.0, 1.0)
    # of sizes 1 and 3: within 2/3 / 2 = 1/3; between (1/12 + ... ) below it
    assert spread([(0, 1), (1, 3)]) == Spread(0.0, near(1 / 3), 0.0, near((4 / 2) * (2 / 3)))
    assert spread([(2, 2), (3, 3)]) == Spread(0.0, 0.0, None, None)
    assert spread([(0, 1), (1, 1)]) == Spread(None, None, None, None)
    assert spread([(1, 2)]) == Spread(None, None, None, None)
    assert korn_graubard([0.0, 0.0], 50) == near((0.0, 1 - 0.025**0.5))
    assert korn_graubard([1.0, 1.0], 50) == near((0.025**0.5, 1.0))
    assert korn_graubard([0.5, 0.5], 4) == near(clopper(2, 4, 0.05))
    assert korn_graubard([0.0, 1.0], 10) == near(
        clopper(*(s * (1.959964 / 12.706205) ** 2 for s in (0.5, 1)), 0.05), abs=1e-5
    )


def test_parents_of_which_some_have_no_counterpart() -> None:
    before = [(1, 4), None, (2, 4), (0, 0), (1, 2), (0, 2)]
    after = [(3, 4), (1, 4), None, (1, 1), (0, 0), (2, 5)]
    changes, most = [0.5, 0.4], 4 + 2
    low, high = mean_change(changes, most, 0.2)
    assert paired_change(before, after, 0.2) == Change(near(0.45), near(low), near(high), 2)
    swapped = paired_change(after, before, 0.2)
    assert swapped == Change(near(-0.45), near(-high), near(-low), 2)
    assert paired_change([(1, 4)], [(3, 4)]) == Change(0.5, -1.0, 1.0, 1)
    for one, other in (([], []), ([None], [(1, 2)]), ([(1, 2)], [None]), ([(0, 0)], [(1, 2)])):
        assert paired_change(one, other) is None
    with pytest.raises(ValueError, match="argument 2"):
        paired_change([(1, 2)], [])


def test_continuations_that_tell_most_for_what_they_cost() -> None:
    for icc in (0.01, 0.05, 0.2, 0.5, 0.9, 1.0):
        for ratio in (0.01, 0.5, 1, 3, 40.0):
            wanted = max(1, round((ratio * (1 - icc) / icc) ** 0.5))
            assert optimal_continuations(icc, ratio) == wanted
    for icc in (None, 0, 0.0):
        assert optimal_continuations(icc, 1) is None
    for ratio in (0, -1, math.nan):
        with pytest.raises(ValueError, match=f"{ratio}"):
            optimal_continuations(0.5, ratio)
        with pytest.raises(ValueError, match=f"{ratio}"):
            optimal_continuations(None, ratio)


@pytest.mark.parametrize(
    ("counts", "right"),
    [([(0, 1)], True), ([(1, 1)], True), ([(1, 2), (2, 2)], True), ([], False), ([(0, 0)], False),
     ([(2, 1)], False), ([(-1, 1)], False), ([(1, 2), (3, 2)], False), ([(1, 2), (0, 0)], False)],
)  # fmt: skip
def test_counts_that_can_be_and_that_cannot(counts: list[Counts], right: bool) -> None:
    if right:
        check(counts)
        return
    for call in (check, clustered, spread, clustered_interval):
        with pytest.raises(ValueError, match="no parents" if not counts else "each parent"):
            call(counts)


def test_differences_that_can_be_and_that_cannot() -> None:
    assert mean_change([1.0], 1) == mean_change([-1.0], 1) == (-1.0, 1.0)
    assert mean_change([1.0, 1.0], 9)[1] == 1.0
    assert mean_change([-1.0, -1.0], 9)[0] == -1.0
    for values in ([], [1.01], [-1.01], [0.5, 2.0], [0.5, -2.0], [math.nan]):
        with pytest.raises(ValueError, match="differences"):
            mean_change(values, 9)


def test_an_end_of_the_grid_is_the_end_of_the_rates() -> None:
    assert beta_binomial([(0, 5)] * 4)[0] == 0.0
    assert beta_binomial([(5, 5)] * 4)[1] == 1.0
    low, high = beta_binomial([(1, 2), (0, 2)])  # so few that nothing is excluded
    assert (low, high) == (0.0, 1.0)
