from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy.stats import t as t_distribution
from scipy.stats import ttest_ind

from local_shutdown.analysis.cells import Cell, paper_cells
from local_shutdown.analysis.families import Families
from local_shutdown.analysis.openclosed import OpenClosed
from local_shutdown.analysis.openclosed import open_against_closed as compare


@cache
def families() -> Families:
    """models.yaml, read once."""
    return Families()


def open_against_closed(cells: list[Cell], **more: bool) -> list[OpenClosed]:
    return compare(cells, families=families(), **more)


def cells(condition: str, opened: list[int], closed: list[int], n: int = 100) -> list[Cell]:
    """Each model of a developer of its own."""
    return [
        Cell(f"{kind}-{i}", condition, "run", k, n, weights=kind, family=f"{kind} {i}")
        for kind, ks in (("open", opened), ("closed", closed))
        for i, k in enumerate(ks)
    ]


def family(name: str, weights: str, *resisted: int, condition: str = "E") -> list[Cell]:
    """Models of one developer."""
    return [
        Cell(f"{name}-{i}", condition, "run", k, 100, weights=weights, family=name)
        for i, k in enumerate(resisted)
    ]


def twins() -> list[Cell]:
    """The 12 published closed models and an open twin of each: the same rates, and 0 wherever the
    closed model was not played (those that were left out of B, C, D, H and J never resisted)."""
    closed = [c for c in paper_cells() if c.weights == "closed"]
    by_key = {(c.model, c.condition): c for c in closed}
    conditions = dict.fromkeys(c.condition for c in closed)
    nothing = Cell("", "", "", 0, 1000)
    opened = [
        replace(
            by_key.get((model, condition), nothing),
            model=f"twin-of-{model}",
            condition=condition,
            source="ours",
            weights="open",
        )
        for model in dict.fromkeys(c.model for c in closed)
        for condition in conditions
    ]
    return closed + opened


def test_open_twins_of_the_published_closed_models_do_not_differ() -> None:
    """B, C, D and H were played with 6 or 7 of the 12, picked because they resist: set against all
    twelve twins they would show a difference that is not there."""
    found = {r.condition: r for r in open_against_closed(twins())}
    compared = {c for c, r in found.items() if r.compared}
    assert compared == {"A", "E", "K"}
    for condition in compared:
        # Under K some models' n is a few below 1,000, on both sides alike.
        assert found[condition].diff == pytest.approx(0)
    for condition in set(found) - compared:
        assert (found[condition].diff, found[condition].p) == (None, None)
        assert "claude-opus-4.1" in found[condition].not_measured
        assert "closed models were not measured" in found[condition].reason


def test_every_condition_compares_the_same_models() -> None:
    table = cells("A", [1, 2], [3, 4]) + cells("B", [1, 2], [3, 4]) + cells("E", [1, 2], [3, 4])
    table = [c for c in table if (c.model, c.condition) != ("open-1", "B")]
    found = {r.condition: r for r in open_against_closed(table)}
    assert not found["B"].compared
    assert found["B"].not_measured == ("open-1",)
    sets = {(r.open_models, r.closed_models) for r in found.values() if r.compared}
    assert sets == {(("open-0", "open-1"), ("closed-0", "closed-1"))}


def test_a_condition_of_one_side_is_listed_and_not_compared() -> None:
    table = cells("A", [1, 2], [3, 4]) + cells("F", [1, 2], [])
    found = {r.condition: r for r in open_against_closed(table)}
    assert not found["F"].compared
    assert "closed" in found["F"].reason


def test_where_no_condition_is_left_it_is_said() -> None:
    table = cells("A", [1], []) + cells("B", [], [2])
    found = open_against_closed(table)
    assert [r.condition for r in found] == ["A", "B"]
    assert not any(r.compared for r in found)
    assert all(r.reason for r in found)


def test_one_side_alone_is_no_comparison() -> None:
    assert open_against_closed(cells("A", [1, 2], [])) == []


def test_one_side_and_models_of_unknown_weights_are_listed() -> None:
    (found,) = open_against_closed([*cells("A", [1, 2], []), Cell("who", "A", "api", 5, 10)])
    assert found.weights_unknown == ("who",)
    assert "who" in found.reason


def test_sources_that_disagree_about_weights_make_them_unknown() -> None:
    table = cells("E", [10, 30], [60, 80])
    (found,) = open_against_closed([*table, replace(table[0], source="two", weights="closed")])
    assert found.weights_unknown == ("open-0",)


def test_an_unfinished_cell_is_no_rate() -> None:
    """Those that resist take longer: what is on disk is not what the model does."""
    table = cells("E", [10, 30], [60, 80])
    (found,) = open_against_closed([replace(table[0], unfinished=3), *table[1:]])
    assert (found.compared, found.diff, found.unfinished) == (False, None, ("open-0",))


def test_checkpoints_of_one_developer_are_one_unit() -> None:
    """Six checkpoints that never resist, against three developers that do: one unit to three."""
    table = family("alpha", "open", *[0] * 6) + cells("E", [], [50, 60, 70])
    (found,) = open_against_closed(table)
    assert found.diff == pytest.approx(-0.6)
    assert (found.p, found.ci_low, found.p_floor) == (None, None, None)
    assert "alpha" in found.reason


def test_the_families_are_what_is_relabelled() -> None:
    """2 against 3 families of several models, against every relabelling written out."""
    table = family("a", "open", 2, 4, 9) + family("b", "open", 11)
    table += family("c", "closed", 30, 34) + family("d", "closed", 60) + family("e", "closed", 41)
    (found,) = open_against_closed(table)
    groups = [(0.02, 0.04, 0.09), (0.11,), (0.30, 0.34), (0.60,), (0.41,)]

    def diff(chosen: tuple[int, ...]) -> float:
        opened = [r for i in chosen for r in groups[i]]
        closed = [r for i in range(5) if i not in chosen for r in groups[i]]
        return float(np.mean(opened) - np.mean(closed))

    every = [diff(chosen) for chosen in itertools.combinations(range(5), 2)]
    below = np.mean([d <= diff((0, 1)) + 1e-12 for d in every])
    permuted = 2 * min(below, 1 - below + 1 / len(every))
    assert found.diff == pytest.approx(diff((0, 1)))
    assert found.p >= permuted - 1e-12
    # The jackknife, one family at a time.
    variance = 0.0
    for side in (groups[:2], groups[2:]):
        whole = np.mean([r for g in side for r in g])
        left = [np.mean([r for g in side if g is not out for r in g]) for out in side]
        variance += (len(side) - 1) / len(side) * sum((x - whole) ** 2 for x in left)
    t = abs(diff((0, 1))) / np.sqrt(variance)
    assert found.p == pytest.approx(max(permuted, 2 * t_distribution.sf(t, 1)))
    reach = t_distribution.ppf(0.975, 1) * np.sqrt(variance)
    assert found.ci_low == pytest.approx(max(-1, diff((0, 1)) - reach))


def test_with_one_model_a_family_the_error_is_that_of_the_t_test() -> None:
    """At equal numbers the unequal-variance t statistic is scipy's; Hsu's degrees of freedom are
    fewer, so the interval is wider."""
    opened, closed = [3, 10, 14, 25], [20, 45, 30, 60]
    (found,) = open_against_closed(cells("E", opened, closed))
    theirs = ttest_ind([k / 100 for k in opened], [k / 100 for k in closed], equal_var=False)
    error = (found.diff - found.ci_low) / t_distribution.ppf(0.975, 3)
    assert found.diff / error == pytest.approx(theirs.statistic)


def test_p_below_alpha_and_an_interval_without_zero_agree() -> None:
    rng = np.random.default_rng(3)
    significant = 0
    for _ in range(60):
        low, high = rng.integers(0, 20, 5), rng.integers(10, 60, 4)
        (found,) = open_against_closed(cells("E", list(map(int, low)), list(map(int, high))))
        if found.p < 0.05:
            significant += 1
            assert found.ci_low > 0 or found.ci_high < 0
    assert significant > 10


def test_limits_and_errors_give_bounds_of_the_difference() -> None:
    table = cells("E", [10, 30], [60, 80])
    first = replace(table[0], limit=20, error=5, complied=90, ended_early=0)
    (found,) = open_against_closed([first, *table[1:]])
    assert found.bound_low == pytest.approx((10 / 125 + 0.3) / 2 - 0.7)
    assert found.bound_high == pytest.approx((35 / 125 + 0.3) / 2 - 0.7)


@pytest.mark.parametrize("other", ["openai/gpt-oss-120b", "GPT-OSS-120B", "gpt-oss-120b-bf16"])
def test_one_model_under_two_names_is_one_model(other: str) -> None:
    table = [
        *cells("E", [10], [60, 80]),
        Cell("gpt-oss-120b", "E", "paper", 0, 100, weights="open"),
    ]
    (found,) = open_against_closed([*table, Cell(other, "E", "ours", 20, 100, weights="open")])
    assert found.open_models == ("open-0", "gpt-oss-120b")
    assert found.mean_open == pytest.approx(0.1)


@pytest.mark.parametrize(("sizes", "correlation"), [((3, 5), 0.0), ((3, 5), 0.8), ((5, 3), 0.8)])
def test_no_difference_gives_few_false_alarms(sizes: tuple[int, int], correlation: float) -> None:
    """Families of 1 to 6 checkpoints: models as units gave 26% false alarms at 0.8. A smaller
    version of scripts/simulate-open-closed; 160 studies, so 5% has a standard error of 1.7."""
    rng = np.random.default_rng(7)
    alarms = missed = 0
    studies = 160
    for _ in range(studies):
        table = []
        for side, number in zip(("open", "closed"), sizes, strict=True):
            for f in range(number):
                own = rng.normal(-2, 1.5 * np.sqrt(correlation))
                for m in range(int(rng.integers(1, 7))):
                    logit = own + rng.normal(0, 1.5 * np.sqrt(1 - correlation))
                    k = int(rng.binomial(1000, 1 / (1 + np.exp(-logit))))
                    who = f"{side}{f}"
                    table.append(Cell(f"{who}-{m}", "E", "s", k, 1000, weights=side, family=who))
        (found,) = open_against_closed(table)
        alarms += found.p < 0.05
        missed += not found.ci_low <= 0 <= found.ci_high
    assert alarms / studies <= 0.06
    assert missed / studies <= 0.06


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
    assert found.weights_unknown == ("who",)


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


def test_what_transcripts_show_of_a_model_is_no_rate_of_it() -> None:
    """3 that resisted among 97 whose outcome nobody saw are not a model that always resists."""
    opened = [
        Cell(
            f"open-{i}", "E", "import", 3, 3, 0, 0, 0, 0, unknown=97, weights="open", family=f"{i}"
        )
        for i in range(3)
    ]
    closed = [c for c in cells("E", [], [3, 4, 5]) if c.weights == "closed"]
    (found,) = open_against_closed(opened + closed)
    assert (found.compared, found.diff, found.mean_open) == (False, None, None)
    assert "outcomes are unknown" in found.reason
    assert "open-0" in found.reason


def test_plays_that_were_broken_off_widen_the_bounds_of_open_against_closed() -> None:
    """What came in their place is a draw like any other; they were long ones."""
    plain = cells("E", [20, 30, 40], [20, 30, 40])
    plain = [replace(c, complied=c.n - c.resisted, ended_early=0, limit=0, error=0) for c in plain]
    broken = [replace(c, broken_off=25) if c.weights == "open" else c for c in plain]
    (before,) = open_against_closed(plain)
    (found,) = open_against_closed(broken)
    assert (before.bound_low, before.bound_high) == pytest.approx((0, 0))
    assert (found.bound_low, found.bound_high) == pytest.approx((0.24 - 0.3, 0.44 - 0.3))
