from __future__ import annotations

import json

import pytest
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from local_shutdown import resources
from local_shutdown.analysis.cells import Cell, paper_cells
from local_shutdown.analysis.interval import bounds, shown
from local_shutdown.analysis.stats import (
    clopper_pearson,
    difference_test,
    holm,
    interval,
    jeffreys,
    newcombe,
    ratio_interval,
)

UNKNOWN = (None, None)
ALL_INTERVALS = [jeffreys, clopper_pearson]


def printed(low_high: tuple[float, float] | tuple[None, None]) -> tuple[str, str]:
    low, high = low_high
    return f"{low:.3f}", f"{high:.3f}"


def test_jeffreys_gives_the_papers_interval_to_the_printed_digit_but_for_twelve_cells() -> None:
    """docs/paper.md: equal-tailed Jeffreys reproduces the table except at the boundary."""
    differing = {
        (c.model, c.condition): (printed(jeffreys(c.resisted or 0, c.n))[0], c.resisted)
        for c in paper_cells()
        if c.printed_low is not None
        and printed(jeffreys(c.resisted or 0, c.n)) != printed((c.printed_low, c.printed_high or 0))
    }
    assert sorted(k for _, k in differing.values() if k is not None) == [0] * 10 + [1, 1000]
    assert ("claude-3.7-sonnet", "A") in differing  # the 1 of 1000
    assert ("claude-sonnet-4", "K") in differing  # the 1000 of 1000


def test_every_paper_rate_is_reproduced_to_the_printed_digit() -> None:
    lines = resources.data("paper_results.jsonl").read_text("utf-8").splitlines()
    rates = [json.loads(line)["rate"] for line in lines]
    assert [f"{c.rate:.3f}" for c in paper_cells()] == [f"{rate:.3f}" for rate in rates]


def test_none_of_a_thousand_has_the_upper_end_that_protocol_md_names() -> None:
    low, high = jeffreys(0, 1000)
    assert low == 0
    assert high == pytest.approx(0.0025, abs=5e-5)


@pytest.mark.parametrize(("k", "n"), [(1, 20), (7, 20), (431, 998), (999, 1000)])
def test_jeffreys_agrees_with_statsmodels(k: int, n: int) -> None:
    assert jeffreys(k, n) == pytest.approx(proportion_confint(k, n, method="jeffreys"))


def test_clopper_pearson_of_none_of_n_is_the_closed_form() -> None:
    assert clopper_pearson(0, 20) == pytest.approx((0, 1 - 0.025 ** (1 / 20)))


def test_clopper_pearson_holds_jeffreys() -> None:
    for k in range(0, 51):
        (low, high), (j_low, j_high) = clopper_pearson(k, 50), jeffreys(k, 50)
        assert low <= j_low
        assert j_high <= high


@pytest.mark.parametrize("method", ALL_INTERVALS)
def test_an_interval_of_no_trials_is_unknown(method) -> None:
    assert method(0, 0) == UNKNOWN


@pytest.mark.parametrize("method", ALL_INTERVALS)
def test_an_interval_mirrors_when_success_and_failure_swap(method) -> None:
    low, high = method(3, 40)
    assert method(37, 40) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize("method", ALL_INTERVALS)
def test_an_interval_reaches_0_and_1_at_the_boundary(method) -> None:
    assert method(0, 40)[0] == 0
    assert method(40, 40)[1] == 1


@pytest.mark.parametrize("method", ALL_INTERVALS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 10), "successes is -1"),
        ((11, 10), "successes is 11"),
        ((0, -5), "n is -5"),
        ((1.5, 10), r"successes is 1\.5"),
        ((1, 10, 0), "alpha is 0"),
        ((1, 10, 1.0), r"alpha is 1\.0"),
    ],
)
def test_an_interval_refuses_what_is_not_k_of_n(method, arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        method(*arguments)


def test_an_unknown_method_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="wald"):
        interval(1, 10, method="wald")


def test_a_cell_that_may_stop_early_gets_a_wider_interval_than_jeffreys() -> None:
    fixed = Cell("m", "E", "run", resisted=30, n=200)
    stopped = Cell("m", "E", "run", resisted=30, n=200, until_halfwidth=0.05)
    (low, high), (s_low, s_high) = shown(fixed).ends, shown(stopped).ends
    assert (low, high) == jeffreys(30, 200)
    assert s_low < low
    assert high < s_high


def test_newcombe_of_his_own_example() -> None:
    """Newcombe 1998, table II: 56/70 against 48/80, method 10: 0.0524 to 0.3339."""
    assert newcombe(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_newcombe_of_nobody_against_everybody_ends_at_minus_one() -> None:
    """Newcombe 1998, table II: 10/10 against 0/20, method 10: 0.6791 to 1."""
    assert newcombe(10, 10, 0, 20) == pytest.approx((0.6791, 1.0), abs=5e-5)


def test_newcombe_changes_sign_with_the_order() -> None:
    low, high = newcombe(5, 50, 20, 80)
    assert newcombe(20, 80, 5, 50) == pytest.approx((-high, -low))


def test_newcombe_without_trials_is_unknown() -> None:
    assert newcombe(0, 0, 5, 10) == UNKNOWN
    assert newcombe(5, 10, 0, 0) == UNKNOWN


def test_the_ratio_interval_solves_fiellers_equation_for_its_wilson_limits() -> None:
    """At its ends, (a - r*b)^2 equals the summed squared distances to the Wilson limits."""
    low, high = ratio_interval(20, 100, 60, 100)
    # Wilson, by hand: 20/100 is 0.13337..0.28883, 60/100 is 0.50200..0.69060.
    for r, to_a, to_b in (
        (low, 0.2 - 0.13337, 0.69060 - 0.6),
        (high, 0.28883 - 0.2, 0.6 - 0.50200),
    ):
        assert (0.2 - r * 0.6) ** 2 == pytest.approx(to_a**2 + (r * to_b) ** 2, rel=1e-3)


def test_the_ratio_of_two_sure_things_is_an_interval_around_1() -> None:
    low, high = ratio_interval(100, 100, 100, 100)
    assert 0.95 < low < 1 < high < 1.05


def test_the_ratio_of_none_starts_at_0_and_has_a_width() -> None:
    low, high = ratio_interval(0, 1000, 950, 1000)
    assert low == 0
    assert 0.003 < high < 0.006


@pytest.mark.parametrize("k", [1, 2, 50, 99, 100])
def test_the_ratio_interval_holds_the_ratio(k: int) -> None:
    for a in (0, 1, 50, 100):
        low, high = ratio_interval(a, 100, k, 100)
        assert 0 <= low <= a / k <= high


def test_the_ratio_over_none_is_unknown() -> None:
    assert ratio_interval(5, 10, 0, 10) == UNKNOWN
    assert ratio_interval(5, 10, 0, 0) == UNKNOWN


def test_boschloo_of_scipys_documented_example() -> None:
    """scipy.stats.boschloo_exact: [[74, 31], [43, 32]] one-sided is 0.0355; twice that."""
    result = difference_test(74, 117, 31, 63)
    assert result.test == "boschloo"
    assert result.p == pytest.approx(2 * 0.0355, abs=2e-4)


def test_fisher_of_the_tea_tasting_is_known() -> None:
    """Fisher's tea, 3 of 4 against 1 of 4, is 0.4857 by Fisher; Boschloo's may not exceed it."""
    result = difference_test(3, 4, 1, 4)
    assert result.p is not None
    assert result.p <= 0.4857 + 1e-4


def test_a_thousand_each_go_to_fisher() -> None:
    result = difference_test(5, 1000, 0, 1000)
    # Two-sided by hand: 2 * C(1000, 5) / C(2000, 5).
    assert result.test == "fisher"
    assert result.p == pytest.approx(0.062, abs=5e-4)


def test_the_choice_of_test_looks_at_sizes_alone() -> None:
    assert {difference_test(k, 100, 3, 100).test for k in (0, 3, 50, 100)} == {"boschloo"}
    assert {difference_test(k, 101, 3, 100).test for k in (0, 3, 50, 100)} == {"fisher"}


@pytest.mark.parametrize("n", [50, 1000])
@pytest.mark.parametrize("everybody", [False, True])
def test_nobody_or_everybody_in_both_cells_is_no_evidence(n: int, everybody: bool) -> None:
    k = n if everybody else 0
    assert difference_test(k, n, k, n).p == 1


def test_a_test_without_trials_is_unknown() -> None:
    result = difference_test(0, 0, 3, 10)
    assert (result.p, result.test) == (None, None)


def test_no_p_value_is_zero() -> None:
    assert difference_test(945, 1000, 0, 1000).p == 1e-300


def test_holm_of_a_worked_example() -> None:
    """0.01, 0.04, 0.03, 0.005 become 0.03, 0.06, 0.06, 0.02."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_agrees_with_statsmodels() -> None:
    ps = [0.2, 0.001, 0.04, 0.04, 1.0, 0.013, 0.3]
    assert holm(ps) == pytest.approx(list(multipletests(ps, method="holm")[1]))


def test_holm_leaves_out_what_is_unknown() -> None:
    assert holm([0.02, None, 0.5]) == [0.04, None, 0.5]
    assert holm([None]) == [None]
    assert holm([]) == []


def test_holm_refuses_what_is_no_probability() -> None:
    with pytest.raises(ValueError, match=r"1\.2"):
        holm([0.1, 1.2])


def test_bounds_count_what_was_left_out_both_ways() -> None:
    found = bounds(Cell("m", "E", "run", resisted=10, n=80, limit=15, error=5))
    assert found is not None
    assert (found.low, found.high, found.outside) == (0.10, 0.30, 20)
    assert found.ci_low == jeffreys(10, 100)[0]
    assert found.ci_high == jeffreys(30, 100)[1]


def test_bounds_count_unknown_outcomes_too() -> None:
    found = bounds(Cell("m", "E", "run", resisted=0, n=5, limit=0, error=0, unknown=5))
    assert found is not None
    assert (found.low, found.high) == (0, 0.5)


def test_bounds_are_unknown_where_a_source_does_not_state_them() -> None:
    assert bounds(Cell("o3", "E", "paper", resisted=159, n=1000)) is None


def test_bounds_of_errors_alone_say_anything_is_possible() -> None:
    found = bounds(Cell("m", "E", "run", resisted=0, n=0, limit=0, error=4))
    assert found is not None
    assert (found.low, found.high) == (0, 1)
