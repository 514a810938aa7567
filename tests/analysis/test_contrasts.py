from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from local_shutdown.analysis.cells import Cell, paper_cells
from local_shutdown.analysis.contrasts import DECLARED, declared_contrasts, difference
from local_shutdown.analysis.exact import exact_difference
from local_shutdown.analysis.stats import difference_test, holm, newcombe
from local_shutdown.analysis.stopping import anytime_difference_p, weight_for


def cell(condition: str, resisted: int, n: int = 100, model: str = "m", **more) -> Cell:
    return Cell(model, condition, "run", resisted, n, **more)


def test_the_declared_family_is_the_one_of_the_plan() -> None:
    expected = ["A-B", "B-C", "D-E", "E-F", "E-G", "E-H", "E-I", "E-J"]
    assert [c.name for c in DECLARED] == expected


def test_a_contrast_is_a_minus_b_with_newcombes_interval() -> None:
    (found,) = declared_contrasts([cell("A", 40), cell("B", 10)])
    assert (found.name, found.diff) == ("A-B", pytest.approx(0.3))
    assert (found.ci_low, found.ci_high) == newcombe(40, 100, 10, 100)
    assert found.p == difference_test(40, 100, 10, 100).p


def test_a_contrast_with_a_missing_cell_is_not_there() -> None:
    assert [c.name for c in declared_contrasts([cell("A", 1), cell("C", 1)])] == []


def test_a_cell_without_counted_episodes_makes_the_contrast_unknown() -> None:
    (found,) = declared_contrasts([cell("A", 0, 0), cell("B", 3)])
    assert (found.diff, found.ci_low, found.p, found.p_holm) == (None, None, None, None)
    assert found.rate_b == pytest.approx(0.03)


def test_holm_runs_over_all_models_of_the_table() -> None:
    cells = [cell("D", 30), cell("E", 10), cell("D", 20, model="o"), cell("E", 8, model="o")]
    found = declared_contrasts(cells)
    assert [c.p_holm for c in found] == holm([c.p for c in found])
    assert {c.family_size for c in found} == {2}


def test_an_unknown_contrast_does_not_enlarge_the_family() -> None:
    found = declared_contrasts([cell("A", 5), cell("B", 1), cell("C", 0, 0)])
    assert {c.family_size for c in found} == {1}


def test_the_calibration_model_cannot_move_the_p_of_a_real_model() -> None:
    real = [cell("A", 30), cell("B", 15)]
    planted = [
        cell(c, k, model="calibration", weights="synthetic") for c, k in (("A", 90), ("B", 20))
    ]
    alone, together = declared_contrasts(real)[0], declared_contrasts(real + planted)[0]
    assert together == alone


def test_cells_of_different_sources_are_not_contrasted() -> None:
    assert declared_contrasts([cell("A", 30), replace(cell("B", 15), source="paper")]) == []


def test_cells_of_different_effort_are_not_contrasted() -> None:
    assert declared_contrasts([cell("A", 30), cell("B", 15, factor="effort=high")]) == []


def test_rounded_counts_are_marked() -> None:
    (found,) = declared_contrasts([cell("A", 30, counts="rounded"), cell("B", 15)])
    assert found.rounded


def test_the_same_cell_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="two cells"):
        declared_contrasts([cell("A", 30), cell("A", 15)])


def test_early_stopped_cells_get_the_anytime_test() -> None:
    a, b = cell("A", 90, 300, until_halfwidth=0.06), cell("B", 30, 300, until_halfwidth=0.06)
    (low, high), test = difference(a, b)
    n_low, n_high = newcombe(90, 300, 30, 300)
    assert test.test == "anytime"
    assert low is not None
    assert high is not None
    assert low < n_low
    assert n_high < high


def test_cells_of_different_half_widths_are_each_weighted_by_their_own() -> None:
    a, b = cell("A", 90, 300, until_halfwidth=0.06), cell("B", 30, 300, until_halfwidth=0.03)
    _, test = difference(a, b)
    weights = weight_for(0.06), weight_for(0.03)
    assert test.p == anytime_difference_p(90, 300, 30, 300, weights=weights)


def test_the_papers_system_prompt_effect_is_found() -> None:
    """docs/paper.md, "What it found", 2: raised in every model but gpt-oss-120b."""
    found = {(c.model, c.name): c for c in declared_contrasts(paper_cells())}
    raised = {"grok-4", "codex-mini", "o4-mini", "o3", "gpt-5"}
    for model in raised:
        assert found[model, "B-C"].ci_high < 0
        assert found[model, "D-E"].p_holm < 0.01
    assert found["gpt-oss-120b", "B-C"].p_holm == 1


def test_the_familys_intervals_are_at_the_level_of_holms_first_step() -> None:
    cells = [cell("D", 30), cell("E", 10), cell("D", 20, model="o"), cell("E", 8, model="o")]
    found = declared_contrasts(cells)
    for result, counts in zip(found, ((30, 10), (20, 8)), strict=True):
        expected = exact_difference(counts[0], 100, counts[1], 100, 0.05 / 2)
        assert (result.ci_low_holm, result.ci_high_holm) == expected
        assert (result.ci_level, result.ci_level_holm) == (0.95, 1 - 0.05 / 2)
        assert result.ci_low_holm < result.ci_low
        assert result.ci_high < result.ci_high_holm


def test_one_contrast_alone_needs_no_wider_interval() -> None:
    (found,) = declared_contrasts([cell("A", 40), cell("B", 10)])
    assert (found.ci_low_holm, found.ci_high_holm) == (found.ci_low, found.ci_high)


def test_a_familys_interval_without_0_has_an_adjusted_p_below_alpha() -> None:
    cells = [cell(c, k, model=f"m{i}") for i in range(6) for c, k in (("A", 12 + 5 * i), ("B", 12))]
    found = declared_contrasts(cells)
    outside = [r for r in found if r.ci_low_holm > 0]
    assert 0 < len(outside) < len(found)
    assert all(r.p_holm < 0.05 for r in outside)


def test_limits_and_unfinished_trials_give_bounds_both_ways() -> None:
    whole = {"complied": 90, "ended_early": 0, "error": 0}
    a = cell("A", 10, limit=20, **whole)
    b = cell("B", 10, limit=0, unfinished=5, leading_n=80, leading_resisted=8, **whole)
    (found,) = declared_contrasts([a, b])
    assert found.wide
    assert found.bound_low == pytest.approx(10 / 120 - 15 / 105)
    assert found.bound_high == pytest.approx(30 / 120 - 10 / 105)


def test_a_cell_with_hardly_anything_left_out_needs_no_bounds() -> None:
    whole = {"complied": 90, "ended_early": 0, "error": 0}
    (found,) = declared_contrasts(
        [cell("A", 10, limit=1, **whole), cell("B", 10, limit=0, **whole)]
    )
    assert not found.wide


def test_an_unfinished_cell_never_gets_the_plain_interval() -> None:
    """Ten trials are under way, and those that resist take longer: without them 5 of 90 against 25
    of 90 looks certain; had all of them resisted, it is 15 of 100."""
    a = cell("A", 5, 90, unfinished=10, leading_n=60, leading_resisted=4)
    (found,) = declared_contrasts([a, cell("B", 25, 90)])
    assert (found.test, found.interval, found.unfinished) == ("anytime", "anytime", 10)
    assert difference_test(5, 90, 25, 90).p < 0.001
    assert found.p > difference_test(5, 90, 25, 90).p
    low, high = newcombe(5, 90, 25, 90)
    assert found.ci_low < low
    assert found.ci_high > high


def test_unfinished_cells_hold_the_difference_at_any_pair_of_leading_trials() -> None:
    """The pair of numbers at which both cells stand is picked to look worst, among all of them: the
    product of the martingales alone is not made for that."""
    rng = np.random.default_rng(2)
    studies, alarms = 60, 0
    for _ in range(studies):
        a, b = (np.cumsum(rng.random(60) < 0.3) for _ in range(2))
        gaps = [
            (abs(a[i - 1] / i - b[j - 1] / j) * np.sqrt(i * j / (i + j)), i, j)
            for i in range(10, 61, 10)
            for j in range(10, 61, 10)
        ]
        _, i, j = max(gaps)
        pair = [
            cell(c, int(k[n - 1]), n, unfinished=60, leading_n=n, leading_resisted=int(k[n - 1]))
            for c, k, n in (("D", a, i), ("E", b, j))
        ]
        alarms += difference(*pair)[1].p < 0.05
    assert alarms / studies <= 0.05


def test_copies_of_one_episode_are_no_sample() -> None:
    (found,) = declared_contrasts([cell("A", 0, distinct=1), cell("B", 30)])
    assert (found.ci_low, found.p, found.ci_low_holm, found.interval) == (None,) * 4


def test_an_extended_cell_has_the_anytime_test() -> None:
    looked = {"planned": 200, "first_planned": 100, "looked_at": 100}
    (found,) = declared_contrasts([cell("A", 40, 200, **looked), cell("B", 20, 200, **looked)])
    assert found.test == "anytime"
    assert found.p > difference_test(40, 200, 20, 200).p
