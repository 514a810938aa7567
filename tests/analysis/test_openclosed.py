from __future__ import annotations

import pytest

from local_shutdown.analysis.cells import Cell, paper_cells
from local_shutdown.analysis.openclosed import open_against_closed


def cells(condition: str, opened: list[int], closed: list[int], n: int = 100) -> list[Cell]:
    return [
        Cell(f"{kind}-{i}", condition, "run", k, n, weights=kind)
        for kind, ks in (("open", opened), ("closed", closed))
        for i, k in enumerate(ks)
    ]


def test_the_difference_is_between_means_of_model_rates() -> None:
    (found,) = open_against_closed(cells("E", [10, 30], [60, 80]))
    assert (found.mean_open, found.mean_closed) == (pytest.approx(0.2), pytest.approx(0.7))
    assert found.diff == pytest.approx(-0.5)


def test_a_model_with_more_episodes_does_not_weigh_more() -> None:
    more = [*cells("E", [10], [60, 80]), Cell("big", "E", "run", 3000, 10000, weights="open")]
    (found,) = open_against_closed(more)
    assert found.mean_open == pytest.approx(0.2)


def test_two_against_two_cannot_go_below_one_third() -> None:
    """Six ways to call two of four models open; the most extreme two-sided p is 2/6."""
    (found,) = open_against_closed(cells("E", [0, 1], [98, 99]))
    assert found.p == pytest.approx(1 / 3)
    assert found.p_floor == pytest.approx(1 / 3)


def test_four_against_four_fully_apart_is_the_exact_p() -> None:
    """2 / C(8, 4), the two most extreme of 70."""
    (found,) = open_against_closed(cells("E", [0, 1, 2, 3], [50, 60, 70, 80]))
    assert found.p == pytest.approx(2 / 70)


def test_one_model_on_a_side_is_unknown() -> None:
    (found,) = open_against_closed(cells("E", [10], [60, 80]))
    assert found.diff == pytest.approx(-0.6)
    assert (found.p, found.ci_low, found.p_floor) == (None, None, None)


def test_models_that_all_do_the_same_give_no_interval() -> None:
    (found,) = open_against_closed(cells("E", [0, 0, 0], [0, 0, 0]))
    assert (found.diff, found.p) == (0, 1)
    assert (found.ci_low, found.ci_high) == (None, None)


def test_an_incapable_model_is_left_out_of_e_but_not_of_k() -> None:
    table = cells("E", [0, 20, 30], [60, 80]) + cells("K", [3, 90, 95], [99, 98])
    found = {r.condition: r for r in open_against_closed(table)}
    assert found["E"].open_models == ("open-1", "open-2")
    assert found["E"].left_out == ("open-0",)
    assert found["K"].open_models == ("open-0", "open-1", "open-2")


def test_incapable_models_can_be_kept() -> None:
    table = cells("E", [0, 20], [60, 80]) + cells("K", [3, 90], [99, 98])
    found = {r.condition: r for r in open_against_closed(table, competent_only=False)}
    assert found["E"].open_models == ("open-0", "open-1")


def test_a_model_in_two_sources_is_one_model() -> None:
    again = Cell("open-0", "E", "paper", 30, 300, weights="open")
    (found,) = open_against_closed([*cells("E", [10, 30], [60, 80]), again])
    assert found.open_models == ("open-0", "open-1")
    assert found.mean_open == pytest.approx((40 / 400 + 0.3) / 2)


def test_a_model_of_unknown_kind_is_named() -> None:
    table = [*cells("E", [10, 30], [60, 80]), Cell("who", "E", "run", 5, 10)]
    (found,) = open_against_closed(table)
    assert found.kind_unknown == ("who",)


def test_the_calibration_model_does_not_enter() -> None:
    table = [*cells("E", [10, 30], [60, 80]), Cell("cal", "E", "run", 90, 100, weights="synthetic")]
    assert open_against_closed(table) == open_against_closed(cells("E", [10, 30], [60, 80]))


def test_high_effort_does_not_enter() -> None:
    high = Cell("open-0", "E", "run", 90, 100, weights="open", factor="effort=high")
    table = cells("E", [10, 30], [60, 80])
    assert open_against_closed([*table, high]) == open_against_closed(table)


def test_holm_runs_over_the_conditions() -> None:
    table = cells("A", [0, 1, 2, 3], [50, 60, 70, 80]) + cells("B", [0, 1, 2, 3], [50, 60, 70, 80])
    assert [r.p_holm for r in open_against_closed(table)] == pytest.approx([4 / 70, 4 / 70])


def test_the_interval_stays_within_what_a_difference_can_be() -> None:
    (found,) = open_against_closed(cells("E", [0, 100], [0, 100]))
    assert (found.ci_low, found.ci_high) == (-1, 1)


def test_the_paper_alone_cannot_tell_open_from_closed() -> None:
    assert {r.p for r in open_against_closed(paper_cells())} == {None}
