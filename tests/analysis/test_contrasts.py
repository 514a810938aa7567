from __future__ import annotations

from dataclasses import replace

import pytest

from local_shutdown.analysis.cells import Cell, paper_cells
from local_shutdown.analysis.contrasts import DECLARED, declared_contrasts, difference
from local_shutdown.analysis.stats import difference_test, holm, newcombe


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


def test_cells_of_different_half_widths_are_refused() -> None:
    a, b = cell("A", 9, until_halfwidth=0.06), cell("B", 3, until_halfwidth=0.03)
    with pytest.raises(ValueError, match="half-widths"):
        difference(a, b)


def test_the_papers_system_prompt_effect_is_found() -> None:
    """protocol.md, "What it found", 2: raised in every model but gpt-oss-120b."""
    found = {(c.model, c.name): c for c in declared_contrasts(paper_cells())}
    raised = {"grok-4", "codex-mini", "o4-mini", "o3", "gpt-5"}
    for model in raised:
        assert found[model, "B-C"].ci_high < 0
        assert found[model, "D-E"].p_holm < 0.01
    assert found["gpt-oss-120b", "B-C"].p_holm == 1
