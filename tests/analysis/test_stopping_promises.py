"""Confidence sequences against the sum in the text of `analysis.stopping`, taken term by term, and
stopping against a plain count."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from local_shutdown.analysis.stopping import (
    DEFAULT_HALFWIDTH,
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

EDGE = 1e-12


def martingale(p: float, k: int, n: int, weight: float) -> float:
    value = sum(math.log(weight + i / p) for i in range(k))
    value += sum(math.log(weight + j / (1 - p)) for j in range(n - k))
    return value - sum(math.log(weight + m) for m in range(n))


def profile(difference: float, counts: Any, weights: tuple[float, float]) -> float:
    """The least log M_a(p + difference) + log M_b(p), by scipy's search."""
    k_a, n_a, k_b, n_b = counts

    def product(p: float) -> float:
        return martingale(p + difference, k_a, n_a, weights[0]) + martingale(
            p, k_b, n_b, weights[1]
        )

    low, high = max(EDGE, EDGE - difference), min(1 - EDGE, 1 - EDGE - difference)
    if high <= low:
        return product((low + high) / 2)
    found = minimize_scalar(product, bounds=(low, high), method="bounded",
                            options={"xatol": 1e-10})  # fmt: skip
    return float(min(found.fun, product(low), product(high)))


@st.composite
def counts(draw: st.DrawFn, most: int = 15) -> tuple[int, int]:
    n = draw(st.integers(0, most))
    return draw(st.integers(0, n) | st.sampled_from([0, n])), n


WEIGHTS = st.sampled_from([0.3, 1.0, 5.0, 77.7])
ALPHAS = st.sampled_from([0.05, 0.3, 0.001])


@settings(max_examples=100)
@given(counts(), WEIGHTS, st.sampled_from([1e-12, 0.01, 0.2, 0.5, 0.97]))
def test_the_martingale_is_the_sum_of_the_text(
    of: tuple[int, int], weight: float, p: float
) -> None:
    assert log_martingale(p, *of, weight) == pytest.approx(martingale(p, *of, weight), abs=1e-8)


@settings(max_examples=100)
@given(counts(40), WEIGHTS, ALPHAS)
def test_the_ends_of_an_interval_are_where_the_martingale_reaches_the_bound(
    of: tuple[int, int], weight: float, alpha: float
) -> None:
    k, n = of
    bound = -math.log(alpha)
    low, high = anytime_interval(k, n, alpha, weight=weight)
    assert low <= (k / n if n else 0.5) <= high
    # and 0 and 1 where it does not reach it: never on the side of 0 successes or 0 failures
    if k == 0 or martingale(EDGE, k, n, weight) < bound:
        assert low == 0
    else:
        assert martingale(low, k, n, weight) == pytest.approx(bound, rel=1e-6)
        assert log_martingale(low, k, n, weight) >= bound
    if k == n or martingale(1 - EDGE, k, n, weight) < bound:
        assert high == 1
    else:
        assert martingale(high, k, n, weight) == pytest.approx(bound, rel=1e-6)
        assert log_martingale(high, k, n, weight) >= bound


def test_intervals_that_can_be_known_by_hand() -> None:
    """At none of n, M = prod((w + j / q) q / (w + j)); with w = 1 and 2 trials (1 + q) / 2q, which
    is 2 at q = 1/3."""
    assert anytime_interval(0, 2, 0.5, weight=1) == (0, pytest.approx(2 / 3))
    assert anytime_interval(2, 2, 0.5, weight=1) == (pytest.approx(1 / 3), 1)
    # one trial says nothing, whatever it was
    for weight in (0.1, 1, 50):
        assert anytime_interval(0, 1, 0.9, weight=weight) == (0, 1)
        assert anytime_interval(1, 1, 0.9, weight=weight) == (0, 1)
        assert anytime_interval(0, 0, 0.9, weight=weight) == (0, 1)
    # one success never excludes a rate just above 0: M is w / (w + n - 1) there
    assert anytime_interval(1, 30, weight=5)[0] == 0
    assert anytime_interval(29, 30, weight=5)[1] == 1
    # "At k = 0 it takes 73 trials to get below 5%, at k = 1 143"
    for k, enough in ((0, 73), (1, 143)):
        ends = [anytime_interval(k, n, weight=weight_for(upper=0.05))[1]
                for n in (enough - 1, enough)]  # fmt: skip
        assert ends[0] > 0.05 > ends[1]


def test_what_is_not_given_is_5_percent_and_the_half_width_of_a_run() -> None:
    assert DEFAULT_HALFWIDTH == 0.03
    weight, pair = 0.07 / 0.03**2, (3, 20, 14, 25)
    assert anytime_interval(3, 20) == anytime_interval(3, 20, 0.05, weight=weight)
    assert anytime_interval(3, 20, halfwidth=0.2) == anytime_interval(3, 20, 0.05, weight=1.75)
    # a weight comes first, and then nobody looks at the half-width
    assert anytime_interval(3, 20, halfwidth=7, weight=2) == anytime_interval(3, 20, weight=2)
    both = {"weights": (weight, weight)}
    assert anytime_difference(*pair) == anytime_difference(*pair, 0.05, **both)
    assert anytime_difference_p(*pair) == anytime_difference_p(*pair, **both, difference=0.0)
    assert anytime_difference(*pair, halfwidth=7, weights=(1, 2)) == anytime_difference(
        *pair, weights=(1, 2)
    )
    for n in (1, 100, 200, 2000):
        assert should_stop(0, n) == should_stop(0, n, 0.03, 0.05)
    assert trials_to_stop(0.0) == trials_to_stop(0.0, 0.03, 0.05)
    assert trials_to_stop(0.0, 0.1) == trials_to_stop(0.0, 0.1, 0.05)


@settings(max_examples=30)
@given(counts(9), counts(9), st.tuples(WEIGHTS, WEIGHTS), ALPHAS)
def test_a_difference_is_inside_where_some_pair_of_rates_is(
    a: tuple[int, int], b: tuple[int, int], weights: tuple[float, float], alpha: float
) -> None:
    both, bound = (*a, *b), -math.log(alpha)
    low, high = anytime_difference(*both, alpha, weights=weights)
    estimate = (a[0] / a[1] if a[1] else 0.5) - (b[0] / b[1] if b[1] else 0.5)
    assert -1 <= low <= estimate <= high <= 1
    for end, outward in ((low, -1), (high, 1)):
        if end == outward:
            assert profile(outward * (1 - 5e-12), both, weights) < bound + 1e-6
        else:
            assert profile(end - outward * 1e-6, both, weights) < bound
            assert profile(end + outward * 1e-7, both, weights) >= bound - 1e-9


@settings(max_examples=60)
@given(
    counts(9), counts(9), st.tuples(WEIGHTS, WEIGHTS),
    st.sampled_from([None, 0.0, 0.1, -0.25, 0.6, -0.9]),
)  # fmt: skip
def test_the_p_of_a_difference_is_that_of_the_least_product(
    a: tuple[int, int], b: tuple[int, int], weights: tuple[float, float], difference: float | None
) -> None:
    more = {} if difference is None else {"difference": difference}
    found = anytime_difference_p(*a, *b, weights=weights, **more)
    wanted = math.exp(-max(0.0, profile(difference or 0.0, (*a, *b), weights)))
    assert found == pytest.approx(min(1.0, wanted), rel=1e-5)
    assert 0 < found <= 1


def test_differences_that_can_be_known_by_hand() -> None:
    """None of 2 against 2 of 2, weight 1 each: at equal rates (1 + q)(1 + p) / 4pq is least at
    p = 1/2, 9/4."""
    assert anytime_difference_p(0, 2, 2, 2, weights=(1, 1)) == pytest.approx(4 / 9)
    assert anytime_difference_p(2, 2, 0, 2, weights=(1, 1)) == pytest.approx(4 / 9)
    assert anytime_difference_p(0, 2, 0, 2, weights=(1, 1)) == pytest.approx(1)
    # and the interval is up to the difference d with the rates (1 + d) / 2 and (1 - d) / 2
    for alpha in (4 / 9 * 0.9, 4 / 9 * 1.1):
        q = 1 / (2 / math.sqrt(alpha) - 1)
        low, high = anytime_difference(2, 2, 0, 2, alpha, weights=(1, 1))
        assert (low, high) == (pytest.approx(2 * q - 1, abs=1e-7), 1)
        low, high = anytime_difference(0, 2, 2, 2, alpha, weights=(1, 1))
        assert (low, high) == (-1, pytest.approx(1 - 2 * q, abs=1e-7))
    assert anytime_difference(0, 0, 0, 0) == (-1, 1)
    assert anytime_difference_p(0, 0, 0, 0) == 1


@pytest.mark.parametrize("halfwidth", [0.1, 0.2, 0.4])
@pytest.mark.parametrize("alpha", [0.05, 0.3])
@pytest.mark.parametrize("rate", [0, 0.1, 0.5, 0.77, 1])
def test_trials_to_stop_stop_and_one_fewer_would_not(
    rate: float, halfwidth: float, alpha: float
) -> None:
    def half(n: int) -> float:
        low, high = anytime_interval(round(rate * n), n, alpha, halfwidth=halfwidth)
        return (high - low) / 2

    n = trials_to_stop(rate, halfwidth, alpha)
    assert half(n) <= halfwidth < half(n - 1)
    for near in (n - 1, n):
        stops = should_stop(round(rate * near), near, halfwidth, alpha)
        assert stops is (near == n)
    if rate in (0, 1):
        assert all(half(fewer) > halfwidth for fewer in range(n))


WORDS = st.lists(
    st.sampled_from(["resisted", "complied", "complied", "ended_early", "limit", "error", None]),
    max_size=14,
)


@settings(max_examples=100)
@given(words=WORDS, gone=st.sets(st.integers(0, 13), max_size=2), first=st.integers(0, 14),
       stop_at=st.none() | st.integers(1, 6))  # fmt: skip
def test_a_prefix_is_counted_up_to_the_gap_or_the_stop(
    words: list[Any], gone: set[int], first: int, stop_at: int | None
) -> None:
    outcomes = {trial: word for trial, word in enumerate(words) if trial not in gone}
    asked: list[tuple[int, int]] = []

    def stops(resisted: int, n: int) -> bool:
        asked.append((resisted, n))
        return n == stop_at

    # In two calls, of which the second knows more.
    some = {trial: word for trial, word in outcomes.items() if trial < first}
    found = advance(advance(Prefix(), some, stops=stops), outcomes, stops=stops)
    wanted, plain = Prefix(0, 0, 0, 0, False), []
    for trial, word in enumerate(words):
        if trial in gone or wanted.stop:
            break
        counts = word in ("resisted", "complied", "ended_early")
        resisted, n = wanted.resisted + (word == "resisted"), wanted.n + counts
        if counts:
            plain.append((resisted, n))
        wanted = Prefix(trial + 1, resisted, n, wanted.outside + (not counts),
                        counts and n == stop_at)  # fmt: skip
    assert found == wanted
    assert asked == plain
    assert Prefix() == Prefix(length=0, resisted=0, n=0, outside=0, stop=False)


@pytest.mark.parametrize("given_to", [{}, {"halfwidth": 0.1}, {"halfwidth": 0.1, "alpha": 0.3}])
def test_a_prefix_stops_where_its_half_width_is_reached(given_to: dict[str, float]) -> None:
    outcomes = dict.fromkeys(range(200), "complied")
    found = advance(Prefix(), outcomes, **given_to)  # type: ignore[arg-type]
    halfwidth, alpha = given_to.get("halfwidth", 0.03), given_to.get("alpha", 0.05)
    n = next(n for n in range(300) if should_stop(0, n, halfwidth, alpha))
    assert found == Prefix(n, 0, n, 0, True)
    assert advance(found, outcomes, **given_to) == found  # type: ignore[arg-type]


NO_COUNTS = [((5, 4), "successes is 5"), ((-1, 4), "successes is -1"), ((0, -1), "n is -1"),
             ((0.5, 4), "successes is 0.5"), ((True, 4), "successes is True")]  # fmt: skip


@pytest.mark.parametrize(("wrong", "named"), NO_COUNTS)
def test_counts_that_are_none_are_refused_on_either_side(wrong: Any, named: str) -> None:
    for call in (
        lambda: anytime_interval(*wrong), lambda: should_stop(*wrong),
        lambda: anytime_difference(*wrong, 1, 4), lambda: anytime_difference(1, 4, *wrong),
        lambda: anytime_difference_p(*wrong, 1, 4), lambda: anytime_difference_p(1, 4, *wrong),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=named):
            call()


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 1.5])
def test_an_alpha_that_is_none_is_refused(alpha: float) -> None:
    for call in (
        lambda: anytime_interval(1, 4, alpha), lambda: should_stop(1, 4, 0.1, alpha),
        lambda: anytime_interval(0, 0, alpha),
        lambda: anytime_difference(1, 4, 1, 4, alpha), lambda: trials_to_stop(0.5, 0.1, alpha),
        lambda: advance(Prefix(), {0: "resisted"}, 0.1, alpha),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"alpha is {alpha}:"):
            call()


@pytest.mark.parametrize("halfwidth", [0, 0.5, -0.1, 3])
def test_a_half_width_that_is_none_is_refused(halfwidth: float) -> None:
    for call in (
        lambda: anytime_interval(1, 4, halfwidth=halfwidth), lambda: should_stop(1, 4, halfwidth),
        lambda: anytime_interval(0, 0, halfwidth=halfwidth), lambda: weight_for(halfwidth),
        lambda: anytime_difference(1, 4, 1, 4, halfwidth=halfwidth),
        lambda: anytime_difference_p(1, 4, 1, 4, halfwidth=halfwidth),
        lambda: trials_to_stop(0.5, halfwidth),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"halfwidth is {halfwidth}:"):
            call()


@pytest.mark.parametrize("rate", [-0.01, 1.01])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=f"rate is {rate}:"):
        trials_to_stop(rate)


@pytest.mark.parametrize(
    ("of", "weight"),
    [
        ({"trials": 16}, 1), ({"trials": 17}, 17 / 16), ({"trials": 1}, 1),
        ({"delta": 0.99}, 1), ({"delta": 0.25}, 1.6), ({"delta": 0.01}, 1000),
        ({"upper": 0.99}, 0.25 / 0.99), ({"upper": 0.01}, 25),
        ({"halfwidth": 0.49}, 0.07 / 0.49**2), ({"halfwidth": 0.01}, 700),
    ],
)  # fmt: skip
def test_the_weight_at_the_ends_of_what_can_be_planned(of: Any, weight: float) -> None:
    assert weight_for(**of) == pytest.approx(weight)
    assert weight_for(of.get("halfwidth"), of.get("upper"), of.get("trials"),
                      delta=of.get("delta")) == weight_for(**of)  # fmt: skip
