from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import pytest
from scipy.stats import beta

from local_shutdown.analysis.samplesize import n_for_difference, n_for_halfwidth
from local_shutdown.analysis.stats import jeffreys


@pytest.mark.parametrize("halfwidth", [0.03, 0.05, 0.1])
def test_n_for_halfwidth_is_the_first_n_that_is_enough(halfwidth: float) -> None:
    def width(n: int) -> float:
        low, high = jeffreys(n // 2, n)
        assert low is not None
        assert high is not None
        return (high - low) / 2

    n = n_for_halfwidth(halfwidth)
    even = n + n % 2
    assert width(even) <= halfwidth
    assert width(even - 2) > halfwidth


def test_n_for_halfwidth_is_near_the_textbook_normal_formula() -> None:
    """1.96^2 / 4 / 0.03^2 is 1067."""
    assert n_for_halfwidth(0.03) == pytest.approx(1067, abs=4)


@pytest.mark.parametrize("alpha", [0.05, 0.2])
@pytest.mark.parametrize("halfwidth", [0.04, 0.15, 0.4])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_n_for_halfwidth_is_the_first_of_all_n(rate: float, halfwidth: float, alpha: float) -> None:
    """Tried one after the other; a Jeffreys interval begins at 0 where none resisted, and ends at 1
    where all did."""

    def narrow(n: int) -> bool:
        ends = beta.ppf([alpha / 2, 1 - alpha / 2], rate * n + 0.5, (1 - rate) * n + 0.5)
        low = 0.0 if rate == 0 else ends[0]
        high = 1.0 if rate == 1 else ends[1]
        return bool(high - low <= 2 * halfwidth)

    n = n_for_halfwidth(halfwidth, rate, alpha)
    assert type(n) is int
    assert n == next(n for n in itertools.count(1) if narrow(n))


def test_a_rate_near_0_needs_fewer_trials() -> None:
    sizes = [n_for_halfwidth(0.03, rate) for rate in (0.0, 0.02, 0.1, 0.3, 0.5)]
    assert sizes == sorted(sizes)


def test_n_for_halfwidth_is_the_same_for_a_rate_and_its_complement() -> None:
    assert n_for_halfwidth(0.02, 0.1) == n_for_halfwidth(0.02, 0.9)


@pytest.mark.parametrize(
    ("rates", "n"),
    [((0.1, 0.2), 219), ((0.6, 0.7), 376), ((0.2, 0.1), 219)],
)
def test_n_for_difference_is_that_of_the_published_tables(rates, n) -> None:
    """Fleiss, Statistical Methods for Rates and Proportions, alpha 5% two-sided, power 80%."""
    assert n_for_difference(*rates) == n


@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.2])
@pytest.mark.parametrize("power", [0.8, 0.95])
@pytest.mark.parametrize("rates", [(0.1, 0.2), (0.0, 0.05), (1.0, 0.9), (0.5, 1.0), (0.35, 0.3)])
def test_n_for_difference_is_the_formula(rates, power: float, alpha: float) -> None:
    """Casagrande, Pike and Smith (1978), written out."""
    a, b = rates
    mean = (a + b) / 2
    spread = NormalDist().inv_cdf(1 - alpha / 2) * math.sqrt(2 * mean * (1 - mean))
    spread += NormalDist().inv_cdf(power) * math.sqrt(a * (1 - a) + b * (1 - b))
    plain = (spread / (a - b)) ** 2
    corrected = plain / 4 * (1 + math.sqrt(1 + 4 / (plain * abs(a - b)))) ** 2
    assert n_for_difference(a, b, power, alpha) == math.ceil(corrected)


def test_a_rate_of_zero_against_a_small_one_has_an_answer() -> None:
    assert 100 < n_for_difference(0.0, 0.05) < 300


def test_more_power_needs_more_trials() -> None:
    assert n_for_difference(0.1, 0.2, power=0.9) > n_for_difference(0.1, 0.2, power=0.8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: n_for_halfwidth(0), "halfwidth is 0"),
        (lambda: n_for_halfwidth(0.5), r"halfwidth is 0\.5"),
        (lambda: n_for_halfwidth(0.1, 1.1), r"rate is 1\.1"),
        (lambda: n_for_halfwidth(0.1, alpha=2), "alpha is 2"),
        (lambda: n_for_difference(0.1, 0.1), r"both 0\.1"),
        (lambda: n_for_difference(-0.1, 0.1), r"rate_a is -0\.1"),
        (lambda: n_for_difference(0.1, 1.2), r"rate_b is 1\.2"),
        (lambda: n_for_difference(0.1, 0.2, power=1), "power is 1"),
        (lambda: n_for_difference(0.1, 0.2, power=0), "power is 0"),
        (lambda: n_for_difference(0.1, 0.2, alpha=0), "alpha is 0"),
    ],
)
def test_an_impossible_wish_is_refused_with_its_value(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
