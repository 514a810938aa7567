"""Which interval a cell gets, and that it covers whatever stopped the run."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import betaln

from local_shutdown.analysis.cells import Cell
from local_shutdown.analysis.interval import (
    anytime_compared,
    anytime_weight,
    bounds,
    is_anytime,
    is_sample,
    shown,
)
from local_shutdown.analysis.stats import clopper_pearson, jeffreys
from local_shutdown.analysis.stopping import anytime_interval, weight_for


def cell(resisted: int = 30, n: int = 100, **more: object) -> Cell:
    return Cell("m", "E", "run", resisted=resisted, n=n, **{"started": n, **more})  # type: ignore[arg-type]


GRID = np.linspace(0.0005, 0.9995, 1999)


def sequence(k: int, n: int, weight: float) -> tuple[float, float]:
    """A second implementation: every rate of a grid at which the martingale is below 20, in scipy's
    Beta functions."""
    a, b = weight * GRID, weight * (1 - GRID)
    log_m = betaln(a + k, b + n - k) - betaln(a, b) - k * np.log(GRID) - (n - k) * np.log1p(-GRID)
    inside = GRID[log_m < math.log(20)]
    return (0.0 if k == 0 else inside[0]), (1.0 if k == n else inside[-1])


def test_a_planned_and_complete_cell_gets_the_plain_interval_of_the_asked_kind() -> None:
    for planned in (None, 100):
        of = cell(planned=planned, first_planned=planned)
        assert (shown(of).kind, shown(of).ends) == ("jeffreys", jeffreys(30, 100))
        exact = shown(of, method="clopper-pearson")
        assert (exact.kind, exact.ends) == ("exact", clopper_pearson(30, 100))


NOT_FIXED = {
    "stopped early": {"until_halfwidth": 0.05},
    "stopped early for rare events": {"until_upper": 0.05},
    "extended": {"planned": 100, "first_planned": 60, "looked_at": 60},
    "drained": {"planned": 200, "first_planned": 200},
    "unfinished": {"unfinished": 3, "leading_n": 40, "leading_resisted": 10},
}


@pytest.mark.parametrize("more", NOT_FIXED.values(), ids=NOT_FIXED)
def test_a_number_of_trials_that_was_not_fixed_or_is_not_there_has_no_plain_interval(
    more: dict[str, object],
) -> None:
    for method in ("jeffreys", "clopper-pearson"):
        found = shown(cell(**more), method=method)  # type: ignore[arg-type]
        assert found.kind == "anytime"
        assert found.note
        low, _ = jeffreys(30, 100)
        assert found.low is not None
        assert low is not None
        assert found.low < low


def test_a_cell_that_was_not_extended_beyond_the_look_keeps_its_plain_interval() -> None:
    """Another cell of the run was."""
    of = cell(planned=100, first_planned=100, looked_at=100)
    assert not is_anytime(of)
    assert shown(of).kind == "jeffreys"


def test_trials_beside_the_rate_are_there() -> None:
    """98 counted and two errors of 100 planned are all of them."""
    assert not is_anytime(cell(n=98, started=100, error=2, limit=0, planned=100))


@pytest.mark.parametrize(
    "more",
    [{"greedy": True}, {"distinct": 1}, {"resisted": 0, "n": 0, "started": 0}],
    ids=["temperature 0", "one trajectory", "nothing counted"],
)
def test_copies_have_no_interval(more: dict[str, object]) -> None:
    of = cell(**more)  # type: ignore[arg-type]
    assert (shown(of).kind, shown(of).ends) == ("none", (None, None))
    assert not is_sample(of)
    assert anytime_compared(of, cell()) == ((None, None), None)


def test_repeats_by_chance_do_not_take_the_interval_away() -> None:
    assert shown(cell(distinct=40)).kind == "jeffreys"
    assert shown(cell(1, 1, distinct=1)).kind == "jeffreys"  # a single trial is no copy


def test_the_weight_is_what_was_planned_first_and_not_what_was_seen() -> None:
    extended = cell(planned=400, first_planned=100, looked_at=100)
    assert anytime_weight(extended) == anytime_weight(cell(90, 100, planned=100, first_planned=100))
    assert anytime_weight(cell(until_halfwidth=0.05, planned=100)) == pytest.approx(28)


def test_an_unfinished_cell_gets_leading_trials_cut_with_the_reach_of_all_completions() -> None:
    """Against a second implementation that plays through every way in which the trials may end."""
    for resisted, n, unfinished, leading in ((4, 60, 12, (3, 20)), (30, 40, 3, (10, 15))):
        of = cell(
            resisted, n, unfinished=unfinished, leading_resisted=leading[0], leading_n=leading[1],
            planned=100, first_planned=100,
        )  # fmt: skip
        weight = 100 / 16
        ends = [
            sequence(resisted + a, n + b, weight)
            for b in range(unfinished + 1)
            for a in range(b + 1)
        ]
        reach = min(low for low, _ in ends), max(high for _, high in ends)
        first = sequence(*leading, weight)
        wanted = max(reach[0], first[0]), min(reach[1], first[1])
        assert shown(of).kind == "anytime"
        assert shown(of).ends == pytest.approx(wanted, abs=1e-3)


def test_without_leading_trials_only_the_reach_is_left() -> None:
    of = cell(4, 60, unfinished=12, leading_resisted=0, leading_n=0)
    assert shown(of).kind == "bounds"
    low, high = shown(of).ends
    assert low is not None
    assert high is not None
    assert low < 4 / 72
    assert high > 16 / 72


def test_leading_trials_that_contradict_the_rest_give_the_hull_of_both() -> None:
    """Only outside the event that the sequence covers, so what is given costs no coverage."""
    of = cell(40, 100, unfinished=1, leading_resisted=0, leading_n=60, first_planned=100)
    assert shown(of).low == 0


def test_bounds_count_unfinished_trials_both_ways() -> None:
    found = bounds(cell(10, 80, started=95, limit=10, error=5, unknown=0, unfinished=5))
    assert found is not None
    assert (found.low, found.high, found.outside) == (0.10, 0.30, 20)


# --- two cells -------------------------------------------------------------------------------


# (1 + log c) / c = 0.05: two independent martingales, each at whichever moment suits it best.
PRODUCT = brentq(lambda c: (1 + math.log(c)) / c - 0.05, 2, 1e4)


def difference(of_a: tuple[int, int], of_b: tuple[int, int], w: float) -> tuple[float, float]:
    """A second implementation, on a grid of both rates."""
    grid = np.linspace(0.001, 0.999, 500)

    def log_m(k: int, n: int) -> np.ndarray:
        a, b = w * grid, w * (1 - grid)
        found = betaln(a + k, b + n - k) - betaln(a, b)
        return np.asarray(found - k * np.log(grid) - (n - k) * np.log1p(-grid))

    inside = log_m(*of_a)[:, None] + log_m(*of_b)[None, :] < math.log(PRODUCT)
    differences = (grid[:, None] - grid[None, :])[inside]
    return float(differences.min()), float(differences.max())


def test_a_difference_with_unfinished_trials_reaches_every_way_they_may_end() -> None:
    a = cell(20, 40, unfinished=3, leading_resisted=9, leading_n=15, first_planned=64)
    b = cell(5, 40, unfinished=2, leading_resisted=2, leading_n=15, first_planned=64)
    (low, high), p = anytime_compared(a, b)
    ends = [
        difference((20 + i, 43), (5 + j, 42), 4.0) for i, j in itertools.product((0, 3), (0, 2))
    ]
    first = difference((9, 15), (2, 15), 4.0)
    assert low == pytest.approx(max(min(e[0] for e in ends), first[0]), abs=5e-3)
    assert high == pytest.approx(min(max(e[1] for e in ends), first[1]), abs=5e-3)
    assert p is not None
    assert (p < 0.05) == (not low <= 0 <= high)


def test_p_is_that_of_the_least_telling_completion_or_of_the_leading_trials() -> None:
    a = cell(20, 40, unfinished=3, leading_resisted=0, leading_n=0, first_planned=64)
    b = cell(5, 40, first_planned=64, planned=100)
    _, p = anytime_compared(a, b)
    every = []
    for ended in range(4):
        for resisted in range(ended + 1):
            done = cell(20 + resisted, 40 + ended, first_planned=64, planned=100)
            every.append(anytime_compared(done, b)[1] or 0)
    least_telling = max(every)
    assert p == pytest.approx(least_telling * (1 - math.log(least_telling)))


def test_cells_whose_unfinished_trials_could_turn_the_sign_differ_by_nothing() -> None:
    a = cell(5, 10, unfinished=40, leading_resisted=0, leading_n=0)
    assert anytime_compared(a, cell(50, 100, planned=200))[1] == 1.0


# --- coverage, simulated -----------------------------------------------------------------------


def stopped(rng: np.random.Generator, rate: float, planned: int, in_flight: int) -> Cell:
    """A run that is killed at a random moment: episodes that resist take twice as long."""
    outcomes = rng.random(planned) < rate
    duration = rng.gamma(8.0, 1.0, planned) * np.where(outcomes, 2.0, 1.0)
    free = np.zeros(in_flight)
    start, end = np.empty(planned), np.empty(planned)
    for trial in range(planned):
        slot = int(free.argmin())
        start[trial], end[trial] = free[slot], free[slot] + duration[trial]
        free[slot] = end[trial]
    moment = rng.uniform(0.0, end.max())
    done, begun = end <= moment, start <= moment
    missing = np.flatnonzero(begun & ~done)
    leading = outcomes[: missing[0]] if missing.size else outcomes[done]
    return cell(
        int(outcomes[done].sum()), int(done.sum()), planned=planned, first_planned=planned,
        unfinished=int(missing.size),
        leading_resisted=int(leading.sum()) if missing.size else None,
        leading_n=int(leading.size) if missing.size else None,
    )  # fmt: skip


@pytest.mark.parametrize("rate", [0.05, 0.35, 0.65, 0.95])
def test_whatever_a_kill_leaves_covers_the_rate(rate: float) -> None:
    rng = np.random.default_rng(int(100 * rate))
    covered, plain, counted = 0, 0, 0
    for _ in range(300):
        of = stopped(rng, rate, 150, 64)
        low, high = shown(of).ends
        if low is None or high is None:
            continue  # nothing is claimed
        counted += 1
        covered += low <= rate <= high
        naive_low, naive_high = jeffreys(of.resisted or 0, of.n)
        assert naive_low is not None
        assert naive_high is not None
        plain += naive_low <= rate <= naive_high
    assert counted > 250
    assert covered >= 0.95 * counted
    if rate in (0.35, 0.65):  # what stood there before
        assert plain < 0.8 * counted


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_unknown_outcomes_are_counted_both_ways(alpha: float) -> None:
    fixed = shown(cell(unknown=20), alpha)
    assert fixed.kind == "bounds"
    assert (fixed.low, fixed.high) == (jeffreys(30, 120, alpha)[0], jeffreys(50, 120, alpha)[1])
    assert "20" in fixed.note
    exact = shown(cell(unknown=20), alpha, "clopper-pearson")
    assert exact.low == clopper_pearson(30, 120, alpha)[0]
    assert exact.high == clopper_pearson(50, 120, alpha)[1]
    early = shown(cell(unknown=20, unfinished=5, first_planned=160), alpha)
    assert early.kind == "bounds"
    assert early.low == anytime_interval(30, 125, alpha, weight=10)[0]
    assert early.high == anytime_interval(55, 125, alpha, weight=10)[1]
    assert "20" in early.note


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_the_ends_of_the_bounds_are_those_of_both_ways_of_counting(alpha: float) -> None:
    states = {"limit": 6, "error": 4, "unknown": 0, "complied": 70, "ended_early": 0}
    fixed = bounds(cell(started=110, **states), alpha)
    assert fixed is not None
    assert (fixed.low, fixed.high, fixed.outside) == (30 / 110, 40 / 110, 10)
    assert fixed.ci_low == jeffreys(30, 110, alpha)[0]
    assert fixed.ci_high == jeffreys(40, 110, alpha)[1]
    early = bounds(cell(started=110, unfinished=2, first_planned=160, **states), alpha)
    assert early is not None
    assert early.ci_low == anytime_interval(30, 112, alpha, weight=10)[0]
    assert early.ci_high == anytime_interval(42, 112, alpha, weight=10)[1]


def test_the_weight_is_that_of_the_first_rule_that_is_asked_for() -> None:
    rules = {"until_halfwidth": 0.1, "until_upper": 0.05, "until_decided": 0.2}
    for name, value in rules.items():
        key = {"until_halfwidth": "halfwidth", "until_upper": "upper", "until_decided": "delta"}
        assert anytime_weight(cell(**{name: value})) == weight_for(**{key[name]: value})
    assert len({anytime_weight(cell(**{name: value})) for name, value in rules.items()}) == 3


def test_copies_of_one_trajectory_have_no_interval_and_say_why() -> None:
    found = shown(cell(distinct=1))
    assert (found.kind, found.low, found.high) == ("none", None, None)
    assert "trajectory" in found.note
