"""Where a cell stops: by its trials in their order, whatever order they end in."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from detectors import made

from local_shutdown.analysis.stop_rule import StopRule, trials_to_upper
from local_shutdown.analysis.stopping import anytime_interval
from local_shutdown.early_stop import EarlyStop
from local_shutdown.episode import Outcome

HALFWIDTH = StopRule(halfwidth=0.15)
Outcomes = Sequence[Outcome | None]


def play(rule: StopRule | None, outcomes: Outcomes, order: Sequence[int], cell: str = "E") -> int:
    """In how many trials that ended in this order the cell has seen enough; 0 for never."""
    stop = EarlyStop(rule)
    for count, trial in enumerate(order, 1):
        assert not stop.enough(cell)
        stop.ended(made.episode(condition=cell, trial=trial), outcomes[trial])
        if stop.enough(cell):
            return count
    return 0


def first_stop(rule: StopRule, outcomes: Outcomes) -> int:
    """The same by counting from the start, trial by trial."""
    resisted = n = 0
    for length, outcome in enumerate(outcomes, 1):
        if outcome in ("limit", "error", None):
            continue
        n += 1
        resisted += outcome == "resisted"
        low, high = anytime_interval(resisted, n, weight=rule.weight)
        if rule.halfwidth is not None and (high - low) / 2 <= rule.halfwidth:
            return length
        if rule.upper is not None and high <= rule.upper:
            return length
    return 0


def drawn(seed: int, count: int = 400) -> Outcomes:
    rng = random.Random(seed)
    return rng.choices(["resisted", "complied", "ended_early", "limit", "error", None],
                       [4, 8, 2, 1, 1, 1], k=count)  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rule", [HALFWIDTH, StopRule(upper=0.55), StopRule(0.15, 0.55)])
def test_in_order_it_stops_where_the_interval_first_meets_the_rule(
    rule: StopRule, seed: int
) -> None:
    outcomes = drawn(seed)
    wanted = first_stop(rule, outcomes)
    assert wanted > 0
    assert play(rule, outcomes, range(len(outcomes))) == wanted


@pytest.mark.parametrize("seed", range(5))
def test_the_stop_waits_for_the_trials_before_it_and_for_no_other(seed: int) -> None:
    outcomes = drawn(seed)
    wanted = first_stop(HALFWIDTH, outcomes)
    # All later trials first: they decide nothing; then those up to the stop, backwards.
    later = list(range(wanted, len(outcomes)))
    order = [*later, *reversed(range(wanted))]
    assert play(HALFWIDTH, outcomes, order) == len(outcomes)
    # One is missing, so nothing is decided, however many others there are.
    assert play(HALFWIDTH, outcomes, [t for t in range(len(outcomes)) if t != 3]) == 0


def test_cells_do_not_count_for_each_other() -> None:
    stop = EarlyStop(HALFWIDTH)
    for trial in range(400):
        stop.ended(made.episode(condition="A", trial=trial), "complied")
    assert stop.enough("A")
    assert not stop.enough("E")


def test_trials_of_another_cell_do_not_fill_a_gap() -> None:
    stop = EarlyStop(HALFWIDTH)
    for trial in range(1, 400):
        stop.ended(made.episode(condition="A", trial=trial), "complied")
    stop.ended(made.episode(condition="E", trial=0), "complied")
    assert not stop.enough("E")
    stop.ended(made.episode(condition="A", trial=0), "complied")
    assert stop.enough("A")


def test_a_long_cell_takes_no_memory_for_what_has_been_counted() -> None:
    stop = EarlyStop(StopRule(halfwidth=0.001))
    for trial in range(1000):
        stop.ended(made.episode(condition="E", trial=trial), "complied")
    assert not stop._outcomes["E"]


def test_without_a_rule_nothing_stops() -> None:
    assert play(None, ["complied"] * 500, range(500)) == 0


@pytest.mark.parametrize("resisted", [0, 1, 3])
def test_the_trials_that_a_rare_event_takes_are_those_at_which_it_stops(resisted: int) -> None:
    wanted = trials_to_upper(0.05, resisted)
    rule = StopRule(upper=0.05)
    assert rule.met(resisted, wanted)
    assert not rule.met(resisted, wanted - 1)
    outcomes: list[Outcome | None] = ["resisted"] * resisted + ["complied"] * wanted
    assert play(rule, outcomes, range(len(outcomes))) == wanted
