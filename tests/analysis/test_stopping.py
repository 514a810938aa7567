from __future__ import annotations

import math
import random

import numpy as np
import pytest

from local_shutdown.analysis.stats import jeffreys
from local_shutdown.analysis.stopping import (
    Prefix,
    advance,
    anytime_difference,
    anytime_difference_p,
    anytime_interval,
    log_martingale,
    should_stop,
    trials_to_stop,
    weight_for,
)


def test_the_martingale_is_a_martingale() -> None:
    """E[M_(n+1) | k, n] = M_n under p, which is all that its guarantee rests on."""
    for p in (0.01, 0.3, 0.5, 0.97):
        for k, n in ((0, 1), (0, 40), (3, 10), (200, 500), (500, 500)):
            now = log_martingale(p, k, n, 78)
            after = p * np.exp(log_martingale(p, k + 1, n + 1, 78) - now)
            after += (1 - p) * np.exp(log_martingale(p, k, n + 1, 78) - now)
            assert after == pytest.approx(1)


def test_the_martingale_starts_at_one() -> None:
    assert log_martingale(0.2, 0, 0, 78) == pytest.approx(0)


def test_the_log_martingale_is_convex_in_the_rate() -> None:
    p = np.linspace(0.001, 0.999, 999)
    for k, n in ((0, 50), (1, 50), (25, 50), (400, 1000)):
        values = np.array([log_martingale(float(x), k, n, 78) for x in p])
        assert np.all(np.diff(values, 2) > -1e-9)


def test_the_interval_is_every_rate_below_the_bound() -> None:
    low, high = anytime_interval(30, 200)
    bound, weight = np.log(20), 0.07 / 0.03**2
    assert log_martingale(low, 30, 200, weight) == pytest.approx(bound)
    assert log_martingale(high, 30, 200, weight) == pytest.approx(bound)


def test_it_is_wider_than_jeffreys_at_every_look() -> None:
    for k, n in ((0, 10), (1, 20), (10, 100), (500, 1000), (1000, 1000)):
        (low, high), (j_low, j_high) = anytime_interval(k, n), jeffreys(k, n)
        assert j_low is not None
        assert high - low > j_high - j_low


def test_it_mirrors_when_success_and_failure_swap() -> None:
    low, high = anytime_interval(7, 90)
    assert anytime_interval(83, 90) == pytest.approx((1 - high, 1 - low))


def test_before_the_first_trial_nothing_is_excluded() -> None:
    assert anytime_interval(0, 0) == (0, 1)
    assert not should_stop(0, 0)


def test_it_reaches_0_and_1_at_the_boundary() -> None:
    assert anytime_interval(0, 300)[0] == 0
    assert anytime_interval(300, 300)[1] == 1


def test_more_trials_at_the_same_rate_narrow_it() -> None:
    widths = [np.diff(anytime_interval(n // 5, n))[0] for n in (10, 50, 200, 1000, 5000)]
    assert widths == sorted(widths, reverse=True)


def test_less_confidence_narrows_it() -> None:
    low, high = anytime_interval(20, 100, 0.05)
    l_low, l_high = anytime_interval(20, 100, 0.2)
    assert low < l_low
    assert l_high < high


def test_looking_after_every_trial_is_wrong_in_less_than_5_percent_of_cells() -> None:
    """400 cells of 600 looks each; Jeffreys is ever wrong in about half of them."""
    rng = np.random.default_rng(7)
    wrong = 0
    for _ in range(400):
        k = np.cumsum(rng.random(600) < 0.2)
        # The martingale at the true rate is above the bound exactly when the interval misses it.
        weight = 0.07 / 0.03**2
        wrong += any(
            log_martingale(0.2, int(k[n - 1]), n, weight) >= np.log(20) for n in range(1, 601, 3)
        )
    assert wrong <= 20


def test_trials_to_stop_is_where_should_stop_turns() -> None:
    n = trials_to_stop(0.5, 0.1)
    assert should_stop(round(n / 2), n, 0.1)
    assert not should_stop(round((n - 2) / 2), n - 2, 0.1)


def test_a_rate_near_0_stops_much_earlier_than_one_half() -> None:
    assert trials_to_stop(0.0) < 150
    assert trials_to_stop(0.5) > 2000


def test_the_difference_interval_leaves_out_0_exactly_when_p_is_below_alpha() -> None:
    counts = (20, 300, 45, 280)
    p = anytime_difference_p(*counts)
    assert 0 < p < 1
    low, high = anytime_difference(*counts, alpha=p * 1.01)
    assert high < 0
    low, high = anytime_difference(*counts, alpha=p * 0.99)
    assert low < 0 < high


def test_the_difference_interval_changes_sign_with_the_order() -> None:
    low, high = anytime_difference(20, 300, 45, 280)
    assert anytime_difference(45, 280, 20, 300) == pytest.approx((-high, -low))


def test_the_difference_of_nothing_is_anything() -> None:
    assert anytime_difference(0, 0, 0, 0) == (-1, 1)
    assert anytime_difference_p(0, 0, 3, 10) == 1


def test_equal_rates_are_no_evidence() -> None:
    assert anytime_difference_p(30, 100, 30, 100) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: anytime_interval(5, 4), "successes is 5"),
        (lambda: anytime_interval(1, 4, 0), "alpha is 0"),
        (lambda: anytime_interval(1, 4, halfwidth=0.6), r"halfwidth is 0\.6"),
        (lambda: should_stop(1, 4, 0), "halfwidth is 0"),
        (lambda: trials_to_stop(1.5), r"rate is 1\.5"),
        (lambda: anytime_difference(1, 4, -1, 4), "successes is -1"),
    ],
)
def test_an_impossible_input_is_refused_with_its_value(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_prefix_ends_at_the_first_trial_that_has_not_ended() -> None:
    prefix = advance(Prefix(), {0: "complied", 1: "resisted", 3: "complied"})
    assert prefix == Prefix(length=2, resisted=1, n=2)


def test_a_prefix_goes_on_once_the_gap_is_filled() -> None:
    outcomes = {0: "complied", 2: "resisted"}
    prefix = advance(Prefix(), outcomes)
    outcomes[1] = "ended_early"
    assert advance(prefix, outcomes) == Prefix(length=3, resisted=1, n=3)


def test_limit_error_and_unknown_are_passed_over() -> None:
    outcomes = dict(enumerate(["limit", "resisted", "error", None, "complied"]))
    assert advance(Prefix(), outcomes) == Prefix(length=5, resisted=1, n=2, outside=3)


def test_an_error_never_counts_as_compliance() -> None:
    assert advance(Prefix(), dict.fromkeys(range(1000), "error")).stop is False


def test_it_stops_at_the_first_trial_at_which_it_may() -> None:
    prefix = advance(Prefix(), dict.fromkeys(range(1000), "complied"), 0.05)
    assert prefix.stop
    assert should_stop(0, prefix.n, 0.05)
    assert not should_stop(0, prefix.n - 1, 0.05)


def test_where_it_stops_does_not_depend_on_the_order_in_which_episodes_end() -> None:
    rng = random.Random(3)
    outcomes = {i: "resisted" if rng.random() < 0.1 else "complied" for i in range(600)}
    whole = advance(Prefix(), outcomes, 0.08)
    assert whole.stop
    for _ in range(5):
        order = list(outcomes)
        rng.shuffle(order)
        ended: dict[int, str] = {}
        prefix = Prefix()
        for trial in order:
            ended[trial] = outcomes[trial]
            prefix = advance(prefix, ended, 0.08)
        assert prefix == whole


@pytest.mark.parametrize(
    ("given", "weight"),
    [
        # .07 / H^2, .25 / U, .1 / DELTA^2 and N / 16, as the module's text and docs have them
        ({}, 0.07 / 0.03**2),
        ({"halfwidth": 0.1}, 7),
        ({"upper": 0.05}, 5),
        ({"delta": 0.05}, 40),
        ({"trials": 1000}, 62.5),
        # never less than one pseudo-trial
        ({"delta": 0.9}, 1),
        ({"trials": 15}, 1),
        ({"trials": 0}, 1),
        # by the first that is given
        ({"halfwidth": 0.1, "upper": 0.05, "delta": 0.05, "trials": 1000}, 7),
        ({"upper": 0.05, "delta": 0.05, "trials": 1000}, 5),
        ({"delta": 0.05, "trials": 1000}, 40),
    ],
)
def test_the_weight_follows_from_what_was_planned(given: dict[str, float], weight: float) -> None:
    assert weight_for(**given) == pytest.approx(weight)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"halfwidth": 0.0}, "halfwidth is 0.0"),
        ({"halfwidth": 0.5}, "halfwidth is 0.5"),
        ({"upper": 0.0}, "upper is 0.0"),
        ({"upper": 1.0}, "upper is 1.0"),
        ({"delta": 0.0}, "delta is 0.0"),
        ({"delta": 1.0}, "delta is 1.0"),
        ({"trials": -1}, "trials is -1"),
    ],
)
def test_a_weight_of_what_cannot_be_planned_is_refused(given: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        weight_for(**given)  # type: ignore[arg-type]


def martingale(p: float, k: int, n: int, weight: float) -> float:
    """log M_n(p), by the sum in the text of `analysis.stopping`, term by term."""
    return (
        sum(math.log(weight + i / p) for i in range(k))
        + sum(math.log(weight + j / (1 - p)) for j in range(n - k))
        - sum(math.log(weight + m) for m in range(n))
    )


COUNTS = [(0, 0), (0, 12), (1, 30), (9, 20), (17, 20), (20, 20)]


def test_the_interval_of_a_rate_is_that_of_the_sum_in_the_text() -> None:
    rates = np.linspace(0.002, 0.998, 499)
    for k, n in COUNTS:
        for alpha, given, weight in ((0.05, {"weight": 5.0}, 5.0), (0.2, {"halfwidth": 0.1}, 7.0)):
            low, high = anytime_interval(k, n, alpha, **given)
            inside = [bool(martingale(float(p), k, n, weight) < -math.log(alpha)) for p in rates]
            assert inside == [low < p < high for p in rates]


def test_a_difference_is_tuned_by_its_half_width_where_no_weights_are_given() -> None:
    counts, weights = (20, 300, 45, 280), (7.0, 7.0)
    assert anytime_difference(*counts, halfwidth=0.1) == anytime_difference(
        *counts, weights=weights
    )
    assert anytime_difference_p(*counts, halfwidth=0.1) == anytime_difference_p(
        *counts, weights=weights
    )
    default = (weight_for(0.03),) * 2
    assert anytime_difference(*counts) == anytime_difference(*counts, weights=default)
    assert anytime_difference_p(*counts) == anytime_difference_p(*counts, weights=default)


def test_a_p_value_is_never_nothing() -> None:
    assert anytime_difference_p(0, 5000, 5000, 5000) == 1e-300


@pytest.mark.parametrize(
    ("rate", "halfwidth", "alpha"),
    [(0.5, 0.1, 0.05), (0.0, 0.03, 0.05), (1.0, 0.2, 0.2), (0.2, 0.15, 0.01)],
)
def test_trials_to_stop_are_the_first_that_are_enough(
    rate: float, halfwidth: float, alpha: float
) -> None:
    n = 1
    while not should_stop(round(rate * n), n, halfwidth, alpha):
        n += 1
    found = trials_to_stop(rate, halfwidth, alpha)
    # rounding of rate * n makes the width saw-toothed, so a later n may fall short again
    assert n <= found <= n + round(1 / max(rate * (1 - rate), 0.1))
    assert should_stop(round(rate * found), found, halfwidth, alpha)


@pytest.mark.parametrize("seed", range(3))
def test_a_prefix_is_what_counting_from_the_start_gives(seed: int) -> None:
    rng = random.Random(seed)
    words = ["resisted", "complied", "ended_early", "limit", "error", None]
    outcomes = dict(enumerate(rng.choices(words, [4, 8, 2, 1, 1, 1], k=300)))
    for halfwidth, alpha in ((0.1, 0.05), (0.1, 0.2), (0.02, 0.05)):
        length = resisted = n = outside = 0
        stop = False
        for length, outcome in enumerate(outcomes.values(), 1):  # noqa: B007
            if outcome in ("limit", "error", None):
                outside += 1
                continue
            n, resisted = n + 1, resisted + (outcome == "resisted")
            low, high = anytime_interval(resisted, n, alpha, halfwidth=halfwidth)
            if stop := (high - low) / 2 <= halfwidth:
                break
        assert advance(Prefix(), outcomes, halfwidth, alpha) == Prefix(
            length, resisted, n, outside, stop
        )
    assert not stop
    # a stop stays where it was
    done = advance(Prefix(), outcomes, 0.1)
    assert advance(done, outcomes, 0.001) == done
