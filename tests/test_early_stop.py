"""Where a cell stops: by its trials in their order, whatever order they end in."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from detectors import made

from local_shutdown.analysis.decided import DecidedLevel, DecidedRule
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


def test_the_trials_that_a_rare_event_takes_are_the_first_at_which_the_rule_is_met() -> None:
    """Against counting one by one; 73 and 143 are what docs and `analysis.stopping` say."""
    assert (trials_to_upper(0.05), trials_to_upper(0.05, 1)) == (73, 143)
    for upper in (0.05, 0.12, 0.5, 0.9):
        for resisted in (0, 1, 2, 5, 9):
            for alpha in (0.05, 0.2):
                n = max(1, resisted)
                while not StopRule(upper=upper).met(resisted, n, alpha):
                    n += 1
                assert trials_to_upper(upper, resisted, alpha) == n


def test_a_rule_is_met_at_the_confidence_that_is_asked_for() -> None:
    rule, met = StopRule(halfwidth=0.1), []
    for alpha in (0.01, 0.05, 0.2):
        for n in range(20, 400, 20):
            low, high = anytime_interval(n // 5, n, alpha, weight=rule.weight)
            met.append(rule.met(n // 5, n, alpha))
            assert met[-1] == ((high - low) / 2 <= 0.1)
    assert 0 < sum(met[:19]) < sum(met[19:38]) < sum(met[38:])


@pytest.mark.parametrize(
    ("halfwidth", "upper", "named"),
    [
        (None, None, "half-width"),
        (0.6, None, "0.6"),
        (0.5, 0.05, "0.5"),
        (0.0, None, "0.0"),
        (None, 1.0, "1.0"),
        (None, 0.0, "0.0"),
        (0.1, 1.5, "1.5"),
    ],
)
def test_a_rule_out_of_range_is_refused_by_its_value(
    halfwidth: float | None, upper: float | None, named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        StopRule(halfwidth, upper)


@pytest.mark.parametrize("seed", range(4))
def test_what_was_begun_and_what_ended_reaches_the_contrasts_as_it_was(seed: int) -> None:
    """Plays that are broken off, begun in another order than they end, of cells that are compared
    and of one that is not."""
    rng = random.Random(seed)
    rates = {"A": 0.8, "B": 0.3, "C": 0.35, "K": 0.1}
    rule = DecidedRule(0.2)
    stop, level = EarlyStop(None, rule, rates), DecidedLevel(rule, rates)
    assert stop.level is not None
    assert stop.stops
    flying: list[tuple[str, int]] = []
    for trial in range(150):
        for condition in rates:
            flying.append((condition, trial))
            stop.begun(condition, trial, again=False)
            level.begun(condition, trial, again=False)
        for _ in range(rng.randrange(8) if trial < 149 else len(flying)):
            if not flying:
                break
            condition, ended = flying.pop(rng.randrange(len(flying)))
            if rng.random() < 0.02:
                flying.append((condition, ended))
                stop.begun(condition, ended, again=True)
                level.begun(condition, ended, again=True)
                continue
            drawn: Outcome = "resisted" if rng.random() < rates[condition] else "complied"
            stop.ended(made.episode(condition=condition, trial=ended), drawn)
            level.ended(condition, ended, drawn)
        assert stop.level.decisions() == level.decisions()
        for condition in ("A", "B", "C"):
            assert stop.enough(condition) == (condition not in level.needed)
    assert any(decision.verdict for decision in level.decisions())
    # K is in no contrast: its interval within +-DELTA says when
    assert stop.enough("K")


def test_without_any_rule_there_is_none() -> None:
    assert not EarlyStop(None).stops
    assert EarlyStop(HALFWIDTH).stops


def test_the_weight_of_two_halves_is_that_of_the_interval_shown_afterwards() -> None:
    """`analysis.interval` takes the half-width's where both were given."""
    assert StopRule(0.05, 0.02).weight == StopRule(0.05).weight == pytest.approx(28)
    assert StopRule(upper=0.02).weight == pytest.approx(12.5)
