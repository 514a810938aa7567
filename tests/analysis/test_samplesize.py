from __future__ import annotations

import pytest

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
    ],
)
def test_an_impossible_wish_is_refused_with_its_value(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
