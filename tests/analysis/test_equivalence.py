from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from local_shutdown.analysis.cells import Cell
from local_shutdown.analysis.contrasts import difference
from local_shutdown.analysis.equivalence import cell_equivalence_p, same_model
from local_shutdown.analysis.exact import equivalence_p
from local_shutdown.analysis.stats import holm
from local_shutdown.analysis.stopping import log_martingale, should_stop, weight_for


def cell(source: str, resisted: int, n: int = 1000, model: str = "gpt-oss-120b", **more) -> Cell:
    return Cell(model, more.pop("condition", "E"), source, resisted, n, **more)


def test_ours_beside_the_papers() -> None:
    (found,) = same_model([cell("ours", 5, model="openai/gpt-oss-120b"), cell("paper", 1)], 0.05)
    assert (found.model, found.source_a, found.source_b) == ("gpt-oss-120b", "ours", "paper")
    assert found.diff == pytest.approx(0.004)
    assert found.p_equivalence == pytest.approx(equivalence_p(5, 1000, 1, 1000, 0.05))
    assert found.finding == "same"


def test_two_precisions_of_the_weights_are_one_model() -> None:
    (found,) = same_model(
        [cell("r", 300, model="qwen3-32b"), cell("r", 305, model="qwen3-32b-fp8")]
    )
    assert (found.model_a, found.model_b) == ("qwen3-32b", "qwen3-32b-fp8")


def test_two_engines_are_compared_and_two_efforts_are_not() -> None:
    engines = [cell("r", 1), cell("r", 2, factor="engine=vllm")]
    efforts = [cell("r", 1), cell("r", 2, factor="effort=high")]
    assert len(same_model(engines)) == 1
    assert same_model(efforts) == []


def test_other_models_and_conditions_are_not_compared() -> None:
    cells = [cell("a", 1), cell("b", 1, model="gpt-oss-20b"), cell("b", 1, condition="A")]
    assert same_model(cells, 0.05) == []


def test_without_a_margin_nothing_is_the_same() -> None:
    (found,) = same_model([cell("a", 5), cell("b", 5)])
    assert (found.p_equivalence, found.finding) == (None, "undecided")


def test_few_trials_are_neither_the_same_nor_different() -> None:
    (found,) = same_model([cell("a", 1, 20), cell("b", 2, 20)], 0.05)
    assert found.finding == "undecided"


def test_a_small_difference_well_measured_is_both() -> None:
    (found,) = same_model([cell("a", 300, 10000), cell("b", 420, 10000)], 0.05)
    assert found.finding == "same and different"


def test_a_large_difference_is_different() -> None:
    (found,) = same_model([cell("a", 300), cell("b", 120)], 0.05)
    assert found.finding == "different"
    assert found.p_equivalence_holm == 1


def test_both_p_values_are_adjusted_over_all_pairs() -> None:
    cells = [cell(s, k, 200, condition=c) for c, k in (("A", 20), ("E", 4)) for s in ("a", "b")]
    found = same_model(cells, 0.1)
    assert [f.p_equivalence_holm for f in found] == holm([f.p_equivalence for f in found])
    assert {f.family_size for f in found} == {2}


def test_an_unfinished_cell_can_never_be_claimed_the_same() -> None:
    left = {"unfinished": 1, "leading_n": 999, "leading_resisted": 5}
    (found,) = same_model([cell("a", 5, **left), cell("b", 5)], 0.05)
    assert (found.p_equivalence, found.finding, found.unfinished) == (None, "undecided", 1)


def test_copies_are_no_measurement() -> None:
    (found,) = same_model([cell("a", 0, greedy=True), cell("b", 0)], 0.05)
    assert (found.ci_low, found.p, found.p_equivalence, found.finding) == (None,) * 4


def test_limits_give_bounds() -> None:
    cut = cell("a", 5, complied=995, ended_early=0, limit=250, error=0)
    whole = cell("b", 5, complied=995, ended_early=0, limit=0, error=0)
    (found,) = same_model([cut, whole], 0.05)
    assert found.wide
    assert found.bound_high == pytest.approx(255 / 1250 - 5 / 1000)


def test_cells_that_stop_early_use_the_martingale() -> None:
    """Against the least product of both martingales on a grid of rates, one margin away."""
    a, b = cell("a", 40, 400, until_halfwidth=0.05), cell("b", 44, 400, until_halfwidth=0.05)
    margin, weight = 0.1, weight_for(0.05)
    rates = np.linspace(0.0005, 0.8995, 2000)
    least = [
        min(
            log_martingale(high, *first, weight) + log_martingale(low, *second, weight)
            for low, high in zip(rates, rates + margin, strict=True)
        )
        for first, second in (((40, 400), (44, 400)), ((44, 400), (40, 400)))
    ]
    expected = max(np.exp(-np.array(least)))
    assert cell_equivalence_p(a, b, margin) == pytest.approx(expected, rel=1e-3)
    assert cell_equivalence_p(a, replace(b, resisted=80), margin) == 1


def test_early_stops_claim_equivalence_wrongly_in_at_most_5_percent() -> None:
    rng = np.random.default_rng(5)
    stops = cache(should_stop)
    wrong, studies, halfwidth, margin = 0, 60, 0.1, 0.12

    def stopped(source: str, rate: float) -> Cell:
        k = n = 0
        while n == 0 or not stops(k, n, halfwidth):
            k, n = k + int(rng.random() < rate), n + 1
        return cell(source, k, n, until_halfwidth=halfwidth)

    for _ in range(studies):
        p = cell_equivalence_p(stopped("a", 0.02), stopped("b", 0.02 + margin), margin)
        wrong += p is not None and p < 0.05
    assert wrong / studies <= 0.05


def test_adding_100_until_significant_gives_few_false_alarms() -> None:
    """`--extend` after a look, up to 1,000 trials: 13 to 17% with a test for a fixed n."""
    rng = np.random.default_rng(11)
    studies, rate, alarms, plain = 100, 0.2, 0, 0
    for _ in range(studies):
        a, b = (np.cumsum(rng.random(1000) < rate) for _ in range(2))
        seen = plainly = False
        for n in range(100, 1001, 100):
            k_a, k_b = int(a[n - 1]), int(b[n - 1])
            pooled = (k_a + k_b) / (2 * n)
            z = (k_a - k_b) / n / np.sqrt(max(pooled * (1 - pooled) * 2 / n, 1e-12))
            plainly |= bool(abs(z) > 1.96)
            if abs(z) < 1.5:  # no test finds that at 5%
                continue
            looks = {"planned": n, "first_planned": 100, "looked_at": 100 if n > 100 else None}
            pair = [Cell("m", c, "r", k, n, **looks) for c, k in (("D", k_a), ("E", k_b))]
            seen |= bool((difference(*pair)[1].p or 0) < 0.05)
        alarms += seen
        plain += plainly
    assert plain > alarms  # what optional stopping does to a test for a fixed n
    assert alarms / studies <= 0.05 + 2 * 0.022


def test_what_was_broken_off_and_played_again_is_not_called_the_same() -> None:
    """The trials on disk are no sample: the long ones were exchanged for others."""
    played = {"planned": 1000, "broken_off": 64, "leading_n": 100, "leading_resisted": 10}
    played |= {"sample_resisted": 10, "sample_n": 110, "sample_unknown": 1}
    a, b = cell("a", 100, **played), cell("b", 100)
    assert cell_equivalence_p(a, b, 0.1) is None
    (found,) = same_model([a, b], 0.1)
    assert found.finding == "undecided"


def test_a_difference_lies_in_its_interval_where_plays_were_broken_off() -> None:
    played = {"planned": 1000, "broken_off": 64, "leading_n": 100, "leading_resisted": 60}
    played |= {"sample_resisted": 600, "sample_n": 990, "sample_unknown": 1}
    a, b = cell("a", 100, **played), cell("b", 100)
    (low, high), _ = difference(a, b)
    assert low is not None
    assert high is not None
    assert low <= 0 <= high
