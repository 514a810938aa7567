"""Rates over parents and their continuations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import betaln

from local_shutdown.analysis import clustered_interval as intervals
from local_shutdown.analysis.clustered import (
    clustered,
    optimal_continuations,
    paired_change,
    spread,
)
from local_shutdown.analysis.clustered_interval import (
    beta_binomial,
    clustered_interval,
    korn_graubard,
    mean_change,
)
from local_shutdown.analysis.stats import clopper_pearson


def test_the_likelihood_is_that_of_a_beta_binomial() -> None:
    counts = [(0, 7), (3, 7), (5, 9), (9, 9)]
    found = intervals._log_likelihood(counts)
    rate = float(1 / (1 + np.exp(-intervals._LOGITS[60])))
    icc = float(intervals._ICC[9])
    size = 1 / icc - 1
    wanted = sum(
        betaln(k + rate * size, n - k + (1 - rate) * size) - betaln(rate * size, (1 - rate) * size)
        for k, n in counts
    )
    assert found[60, 9] == pytest.approx(float(wanted))
    assert found[60, 0] == pytest.approx(17 * math.log(rate) + 15 * math.log1p(-rate))
    assert found[60, -1] < -1e9  # parents whose continuations ended differently


def test_parents_that_all_ended_alike_count_once_each() -> None:
    """However many continuations: 50 parents that never resisted are 50 trials, not 2,000."""
    low, high = korn_graubard([0.0] * 50, 2000)
    assert (low, high) == pytest.approx(clopper_pearson(0, 50))
    low, high = clustered_interval([(0, 40)] * 50)
    assert low == 0
    assert high >= 0.07
    low, high = clustered_interval([(40, 40)] * 50)
    assert high == 1
    assert low <= 0.93


def test_alike_parents_count_as_all_their_continuations() -> None:
    low, high = clustered_interval([(20, 40)] * 50)
    plain = clopper_pearson(1000, 2000)
    assert high - low == pytest.approx(plain[1] - plain[0], rel=0.1)


def test_one_parent_says_nothing_of_others() -> None:
    assert clustered_interval([(20, 40)]) == (0.0, 1.0)
    assert mean_change([0.3], 40) == (-1.0, 1.0)


@pytest.mark.parametrize("counts", [[], [(0, 0)], [(3, 2)], [(-1, 2)]])
def test_counts_that_cannot_be(counts: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="parent"):
        clustered(counts)


_parent = st.integers(1, 12).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@settings(max_examples=60, deadline=None)
@given(st.lists(_parent, min_size=2, max_size=12))
def test_the_interval_holds_the_rate_and_is_symmetric(counts: list[tuple[int, int]]) -> None:
    found = clustered(counts)
    assert 0 <= found.low <= found.rate <= found.high <= 1
    mirrored = clustered([(n - k, n) for k, n in counts])
    assert mirrored.rate == pytest.approx(1 - found.rate)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - found.high, 1 - found.low), abs=1e-6)
    assert 0 <= beta_binomial(counts)[0] <= beta_binomial(counts)[1] <= 1


def test_spread_of_parents_that_are_alike_and_that_differ() -> None:
    alike = spread([(20, 40)] * 10)
    assert alike.icc == 0
    assert alike.design_effect == pytest.approx(1)
    apart = spread([(40, 40)] * 5 + [(0, 40)] * 5)
    assert apart.icc == pytest.approx(1)
    assert apart.within == 0
    assert apart.design_effect == pytest.approx(40)
    found = clustered([(40, 40)] * 5 + [(0, 40)] * 5)
    assert found.effective == pytest.approx(10)
    for unknown in ([(1, 1), (0, 1)], [(3, 5)], [(0, 5)] * 3):
        assert spread(unknown).icc is None
        assert clustered(unknown).effective is None


def test_spread_finds_the_correlation_that_was_drawn() -> None:
    rng = np.random.default_rng(0)
    rates = rng.beta(0.35, 0.65, 4000)  # icc 1 / (1 + 1) = 0.5
    found = spread([(int(k), 40) for k in rng.binomial(40, rates)])
    assert found.icc == pytest.approx(0.5, abs=0.03)
    assert found.between == pytest.approx(0.35 * 0.65 / 2, abs=0.01)
    assert found.design_effect == pytest.approx(1 + 39 * 0.5, abs=1)


def test_continuations_a_parent_that_tell_most() -> None:
    assert optimal_continuations(0.5, 4) == 2
    assert optimal_continuations(0.1, 9) == 9
    assert optimal_continuations(1.0, 100) == 1
    assert optimal_continuations(0.0, 9) is None
    assert optimal_continuations(None, 9) is None
    with pytest.raises(ValueError, match="cost ratio"):
        optimal_continuations(0.5, 0)


def test_a_change_within_parents_is_told_from_how_parents_differ() -> None:
    rng = np.random.default_rng(4)
    own = rng.beta(0.4, 0.6, 50) * 0.8 + 0.1
    before = [(int(k), 40) for k in rng.binomial(40, own)]
    after = [(int(k), 40) for k in rng.binomial(40, own - 0.1)]
    found = paired_change(before, after)
    assert found is not None
    assert found.low <= -0.1 <= found.high < 0
    assert found.parents == 50
    # unpaired, the same rates tell nothing
    assert clustered(after).high > clustered(before).low


def test_no_change_seen_is_not_no_change() -> None:
    found = paired_change([(40, 40)] * 30 + [(0, 40)] * 20, [(40, 40)] * 30 + [(0, 40)] * 20)
    assert found is not None
    assert found.change == 0
    assert found.low < -0.05
    assert found.high > 0.05


def test_parents_without_one_of_both_are_left_out() -> None:
    found = paired_change([(1, 4), None, (2, 4)], [(2, 4), (1, 4), (0, 0)])
    assert found is not None
    assert found.parents == 1
    assert paired_change([None], [(1, 2)]) is None
