"""Intervals and tests of counts against their formulas, written out a second time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import beta, binom, hypergeom, norm

from local_shutdown.analysis.stats import (
    BOSCHLOO_MAX_PRODUCT,
    SMALLEST_P,
    UNKNOWN,
    DifferenceTest,
    clopper_pearson,
    difference_test,
    holm,
    interval,
    jeffreys,
    newcombe,
    ratio_interval,
)


@st.composite
def counts(draw: st.DrawFn, least: int = 1, most: int = 60) -> tuple[int, int]:
    n = draw(st.integers(least, most))
    return draw(st.integers(0, n) | st.sampled_from([0, n])), n


ALPHAS = st.sampled_from([None, 0.05, 0.3, 0.001])


def at(alpha: float | None) -> tuple[tuple[float, ...], float]:
    """The argument, and the alpha that is meant."""
    return ((), 0.05) if alpha is None else ((alpha,), alpha)


@settings(max_examples=100)
@given(counts(), ALPHAS)
def test_intervals_of_a_rate_are_quantiles_of_the_beta(
    of: tuple[int, int], given_alpha: float | None
) -> None:
    (k, n), (argument, alpha) = of, at(given_alpha)
    low = 0 if k == 0 else beta.ppf(alpha / 2, k + 0.5, n - k + 0.5)
    high = 1 if k == n else beta.ppf(1 - alpha / 2, k + 0.5, n - k + 0.5)
    assert jeffreys(k, n, *argument) == pytest.approx((low, high))
    assert interval(k, n, *argument) == jeffreys(k, n, alpha)
    assert interval(k, n, alpha, "jeffreys") == jeffreys(k, n, alpha)
    low = 0 if k == 0 else beta.ppf(alpha / 2, k, n - k + 1)
    high = 1 if k == n else beta.ppf(1 - alpha / 2, k + 1, n - k)
    assert clopper_pearson(k, n, *argument) == pytest.approx((low, high))
    assert interval(k, n, *argument, method="clopper-pearson") == clopper_pearson(k, n, alpha)
    for found in (jeffreys(k, n), clopper_pearson(k, n)):
        assert [type(end) for end in found] == [float, float]


def wilson(k: int, n: int, alpha: float) -> tuple[float, float]:
    z = float(norm.ppf(1 - alpha / 2))
    middle, reach = k + z * z / 2, z * math.sqrt(k * (n - k) / n + z * z / 4)
    return max(0.0, (middle - reach) / (n + z * z)), min(1.0, (middle + reach) / (n + z * z))


@settings(max_examples=100)
@given(counts(), counts(), ALPHAS)
def test_the_interval_of_a_difference_is_newcombes_formula(
    a: tuple[int, int], b: tuple[int, int], given_alpha: float | None
) -> None:
    argument, alpha = at(given_alpha)
    (low_a, high_a), (low_b, high_b) = wilson(*a, alpha), wilson(*b, alpha)
    rate_a, rate_b = a[0] / a[1], b[0] / b[1]
    low = rate_a - rate_b - math.hypot(rate_a - low_a, high_b - rate_b)
    high = rate_a - rate_b + math.hypot(high_a - rate_a, rate_b - low_b)
    found = newcombe(*a, *b, *argument)
    assert found == pytest.approx((max(-1, low), min(1, high)), abs=1e-9)
    assert found[0] is not None
    assert -1 <= found[0] <= found[1] <= 1


@settings(max_examples=100)
@given(counts(), counts(), ALPHAS)
def test_the_interval_of_a_ratio_solves_donner_and_zous_equation(
    a: tuple[int, int], b: tuple[int, int], given_alpha: float | None
) -> None:
    """(a - r b)^2 is the sum of the squared ways to the ends of both Wilson intervals that lie
    apart (low end) or towards each other (high end)."""
    argument, alpha = at(given_alpha)
    found = ratio_interval(*a, *b, *argument)
    if b[0] == 0:
        assert found == (None, None)
        return
    (low_a, high_a), (low_b, high_b) = wilson(*a, alpha), wilson(*b, alpha)
    x, y = a[0] / a[1], b[0] / b[1]

    def equation(to_a: float, to_b: float) -> Callable[[float], float]:
        return lambda r: (x - r * y) ** 2 - to_a**2 - (r * to_b) ** 2

    low = brentq(equation(x - low_a, high_b - y), 0, x / y, xtol=1e-13) if x else 0.0
    most = x / y + 1
    while equation(high_a - x, y - low_b)(most) < 0:
        most *= 2
    high = brentq(equation(high_a - x, y - low_b), x / y, most, xtol=1e-13)
    assert found == (pytest.approx(low, rel=1e-6, abs=1e-9), pytest.approx(high, rel=1e-6))


def plain_boschloo(k_a: int, n_a: int, k_b: int, n_b: int) -> float:
    """Twice the smaller side; a side is the largest chance, over a common rate, of tables whose
    one-sided Fisher p is not above the one seen."""
    x, y = np.meshgrid(np.arange(n_a + 1), np.arange(n_b + 1), indexing="ij")
    rates = np.linspace(0.0005, 0.9995, 1000)[:, None, None]
    chance = binom.pmf(x, n_a, rates) * binom.pmf(y, n_b, rates)
    sides = []
    for fisher in (hypergeom.cdf(x, n_a + n_b, x + y, n_a),
                   hypergeom.sf(x - 1, n_a + n_b, x + y, n_a)):  # fmt: skip
        below = fisher <= fisher[k_a, k_b] * (1 + 1e-9)
        sides.append(float((chance * below).sum(axis=(1, 2)).max()))
    return min(1.0, 2 * min(sides))


@settings(max_examples=25)
@given(counts(most=9), counts(most=9))
def test_a_test_of_few_trials_is_boschloos(a: tuple[int, int], b: tuple[int, int]) -> None:
    found = difference_test(*a, *b)
    if a[0] + b[0] in (0, a[1] + b[1]):
        assert found == DifferenceTest(1.0, "boschloo")
    else:
        assert found == DifferenceTest(pytest.approx(plain_boschloo(*a, *b), rel=2e-3), "boschloo")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("a", "b"),
    [((5, 101), (15, 100)), ((2, 4), (0, 5000)), ((3, 5000), (1, 3)), ((9, 300), (9, 90))],
)  # fmt: skip
def test_a_test_of_many_trials_is_fishers(a: tuple[int, int], b: tuple[int, int]) -> None:
    """All tables of the same margins that are no likelier than the one seen."""
    (k_a, n_a), (k_b, n_b) = a, b
    chance = hypergeom.pmf(np.arange(n_a + 1), n_a + n_b, k_a + k_b, n_a)
    wanted = chance[chance <= chance[k_a] * (1 + 1e-9)].sum()
    assert difference_test(*a, *b) == DifferenceTest(pytest.approx(wanted), "fisher")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("n_a", "n_b", "test"),
    [(100, 100, "boschloo"), (101, 100, "fisher"), (1, 10_000, "boschloo"), (10_001, 1, "fisher"),
     (73, 137, "fisher"), (10_000, 1, "boschloo")],
)  # fmt: skip
def test_which_test_by_the_sizes(n_a: int, n_b: int, test: str) -> None:
    assert BOSCHLOO_MAX_PRODUCT == 10_000
    assert difference_test(0, n_a, 0, n_b) == DifferenceTest(1.0, test)  # type: ignore[arg-type]
    assert difference_test(n_a, n_a, n_b, n_b) == DifferenceTest(1.0, test)  # type: ignore[arg-type]


def test_a_p_value_is_neither_0_nor_above_1() -> None:
    assert difference_test(0, 3000, 3000, 3000) == DifferenceTest(SMALLEST_P, "fisher")
    assert difference_test(3000, 3000, 0, 3000) == DifferenceTest(1e-300, "fisher")
    assert difference_test(500, 1000, 500, 1000) == DifferenceTest(pytest.approx(1), "fisher")  # type: ignore[arg-type]
    # twice the smaller side may be more
    assert difference_test(1, 2, 1, 2) == DifferenceTest(1.0, "boschloo")


def test_nothing_is_known_without_trials() -> None:
    assert UNKNOWN == (None, None)
    for empty in ((0, 0, 3, 10), (3, 10, 0, 0), (0, 0, 0, 0)):
        assert newcombe(*empty) == ratio_interval(*empty) == (None, None)
        assert difference_test(*empty) == DifferenceTest(None, None)
    assert jeffreys(0, 0) == clopper_pearson(0, 0) == (None, None)
    assert interval(0, 0) == interval(0, 0, method="clopper-pearson") == (None, None)
    # one trial is enough
    for one in ((0, 1, 1, 1), (1, 1, 1, 1)):
        assert None not in newcombe(*one)
        assert None not in ratio_interval(*one)
        assert difference_test(*one).p is not None


P = st.none() | st.sampled_from([0.0, 0.01, 0.01, 0.02, 0.2, 1.0]) | st.floats(0, 1)


@settings(max_examples=100)
@given(st.lists(P, max_size=8))
def test_holm_multiplies_by_how_many_are_left(ps: list[float | None]) -> None:
    known = sorted(p for p in ps if p is not None)
    steps = [min(1.0, p * (len(known) - i)) for i, p in enumerate(known)]
    wanted = [None if p is None else max(steps[: known.index(p) + 1]) for p in ps]
    # of equal p-values each may stand at any of their places: the largest so far is the first's
    assert holm(ps) == wanted
    assert holm(tuple(ps)) == wanted


@pytest.mark.parametrize("wrong", [-0.001, 1.001, math.nan])
def test_holm_refuses_what_is_no_p_value_wherever_it_stands(wrong: float) -> None:
    for ps in ([wrong, 0.1], [None, 0.0, 1.0, wrong]):
        with pytest.raises(ValueError, match=f"p-value is {wrong}:"):
            holm(ps)


NO_COUNTS = [((5, 4), "successes is 5"), ((-1, 4), "successes is -1"), ((0, -1), "n is -1"),
             ((0.5, 4), "successes is 0.5"), ((0, 4.5), "n is 4.5")]  # fmt: skip


@pytest.mark.parametrize(("wrong", "named"), NO_COUNTS)
def test_counts_that_are_none_are_refused_on_either_side(wrong: Any, named: str) -> None:
    for one in (jeffreys, clopper_pearson, interval):
        with pytest.raises(ValueError, match=named):
            one(*wrong)
    for two in (newcombe, ratio_interval, difference_test):
        for both in ((*wrong, 1, 4), (1, 4, *wrong), (*wrong, 0, 0), (0, 0, *wrong)):
            with pytest.raises(ValueError, match=named):
                two(*both)


@pytest.mark.parametrize("alpha", [0, 1, -0.5, 1.5])
def test_an_alpha_that_is_none_is_refused(alpha: float) -> None:
    for call in (
        lambda: jeffreys(1, 4, alpha), lambda: clopper_pearson(1, 4, alpha),
        lambda: interval(1, 4, alpha), lambda: interval(0, 0, alpha, "clopper-pearson"),
        lambda: jeffreys(0, 0, alpha), lambda: newcombe(1, 4, 1, 4, alpha),
        lambda: newcombe(0, 0, 1, 4, alpha), lambda: ratio_interval(1, 4, 1, 4, alpha),
        lambda: ratio_interval(1, 4, 0, 0, alpha),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"alpha is {alpha}:"):
            call()


def test_a_method_that_is_none_is_named() -> None:
    for wrong in ("wald", "exact", ""):
        with pytest.raises(ValueError, match=repr(wrong)):
            interval(1, 4, method=wrong)  # type: ignore[arg-type]
