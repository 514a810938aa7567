"""`--until-decided`: against a second implementation, known answers, and what befalls a run."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from detectors import made

from local_shutdown.analysis.betting import (
    NOT_COUNTED,
    OTHER,
    RESISTED,
    UNKNOWN,
    Pairs,
    Play,
    differs_p,
    log_below,
    within_p,
)
from local_shutdown.analysis.contrasts import DECLARED
from local_shutdown.analysis.decided import (
    LOOK_EVERY,
    RULE,
    DecidedLevel,
    DecidedRule,
    Evidence,
    Record,
    expected_looks,
    rule_of,
    step_down,
)
from local_shutdown.analysis.stop_rule import StopRule
from local_shutdown.early_stop import EarlyStop
from local_shutdown.episode import Outcome

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from benchlib import decided as simulated

RATES = {"A": 0.9, "B": 0.2, "C": 0.45, "D": 0.1, "E": 0.35, "H": 0.06, "J": 0.6, "K": 0.95}
TRIALS = 400
Drawn = dict[str, list[Outcome]]


def drawn(seed: int, rates: dict[str, float] = RATES, others: float = 0.0) -> Drawn:
    rng = random.Random(seed)

    def one(rate: float) -> Outcome:
        if rng.random() < others:
            return rng.choice(["limit", "error"])
        return "resisted" if rng.random() < rate else "complied"

    return {c: [one(rate) for _ in range(TRIALS)] for c, rate in rates.items()}


def filled(outcomes: Drawn, rule: DecidedRule, order: Sequence[tuple[str, int]]) -> DecidedLevel:
    level = DecidedLevel(rule, outcomes)
    for trial in range(TRIALS):
        for condition in outcomes:
            level.begun(condition, trial, again=False)
    for condition, trial in order:
        level.ended(condition, trial, outcomes[condition][trial])
    return level


def in_order(outcomes: Drawn) -> list[tuple[str, int]]:
    return [(condition, trial) for trial in range(TRIALS) for condition in outcomes]


@pytest.mark.parametrize("seed", range(6))
def test_a_second_implementation_decides_the_same(seed: int) -> None:
    outcomes, delta = drawn(seed), 0.1
    found = filled(outcomes, DecidedRule(delta), in_order(outcomes)).decisions()
    n = np.arange(LOOK_EVERY, TRIALS + 1, LOOK_EVERY)
    plays = {c: np.array([[x == "resisted" for x in xs]]) for c, xs in outcomes.items()}
    contrasts = [d.contrast for d in found]
    seen = [simulated.paths(plays, c, delta, n) for c in contrasts]
    wanted, _ = simulated._one([(d[0], w[0]) for d, w in seen], contrasts, True, len(n))
    named = {i: ("differs", "within")[verdict] for i, (verdict, _) in wanted.items()}
    assert [d.verdict for d in found] == [named.get(i) for i in range(len(contrasts))]
    assert any(d.verdict for d in found)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_in_which_episodes_end_decides_nothing(seed: int) -> None:
    outcomes, rule = drawn(seed, others=0.05), DecidedRule(0.1)
    order = in_order(outcomes)
    one = filled(outcomes, rule, order).decisions()
    random.Random(seed).shuffle(order)
    assert filled(outcomes, rule, order).decisions() == one
    by_condition = sorted(order)
    assert filled(outcomes, rule, by_condition).decisions() == one


def test_rates_of_0_are_within_5_points_where_the_script_tuned_it() -> None:
    (contrast,) = [c for c in DECLARED if c.name == "A-B"]
    assert expected_looks({"A": 0.0, "B": 0.0}, contrast, 0.05, 0.05 / 8, 1000) == 165
    assert expected_looks({"A": 0.5, "B": 0.5}, contrast, 0.05, 0.05 / 8, 1000) is None


def test_a_verdict_lowers_the_bar_for_the_same_verdict_alone() -> None:
    """Else what is wrong in any of them is wrong too often, see the module's text."""

    def differs(look: int, p: float) -> Evidence:
        return Evidence(differs=Record(((look, p), (look + 50, p / 10))))

    def within(p: float) -> Evidence:
        return Evidence(within=Record(((30, p),)))

    # .8 and .2 of .05, divided by 3 at first
    clear, close = differs(10, 0.001), Evidence(differs=Record(((20, 0.018),)))
    found = step_down([clear, close, Evidence()], 0.05)
    assert [(v, look) for v, look, _ in found] == [("differs", 10), ("differs", 20), (None, 0)]
    assert [level for *_, level in found] == pytest.approx([0.04 / 3, 0.02, 0.04])
    assert step_down([close, Evidence(), Evidence()], 0.05)[0][0] is None
    assert step_down([differs(10, 0.014), Evidence(), Evidence()], 0.05)[0][1] == 60
    # two that differ leave "within" as it was: .01 / 3
    assert [v for v, _, _ in step_down([clear, clear, within(0.004)], 0.05)][2] is None
    found = step_down([clear, within(0.003), within(0.004)], 0.05)
    assert [v for v, _, _ in found] == ["differs", "within", "within"]


def tallied(a: Sequence[Play], b: Sequence[Play]) -> Pairs:
    pairs = Pairs()
    for one, other in zip(a, b, strict=True):
        pairs = pairs.with_pair(one, other)
    return pairs


@pytest.mark.parametrize("seed", range(5))
def test_what_is_unknown_is_never_better_than_anything_that_it_may_be(seed: int) -> None:
    rng = random.Random(seed)
    rates = rng.choice([(0.0, 0.0), (0.02, 0.05), (0.9, 0.3), (0.5, 0.5)])
    cells: list[list[Play]] = [
        [(int(rng.random() < rate),) if rng.random() < 0.9 else UNKNOWN for _ in range(60)]
        for rate in rates
    ]
    seen = tallied(cells[0], cells[1])
    for _ in range(30):
        may_be = [
            [rng.choice([(0,), (1,), NOT_COUNTED]) if x == UNKNOWN else x for x in cell]
            for cell in cells
        ]
        truth = tallied(may_be[0], may_be[1])
        assert differs_p(seen) >= differs_p(truth) * (1 - 1e-9)
        assert within_p(seen, 0.1) >= within_p(truth, 0.1) * (1 - 1e-9)


@pytest.mark.parametrize("bound", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("low", [0.0, 0.1, 0.6])
def test_a_true_claim_is_no_bet_to_win_by(bound: float, low: float) -> None:
    """Over all outcomes of some pairs, what they are worth times their probability: 1 at most."""
    a, b, pairs = low + bound, low, 7
    up, down = a * (1 - b), (1 - a) * b
    expected = 0.0
    for i in range(pairs + 1):
        for j in range(pairs + 1 - i):
            same = pairs - i - j
            ways = math.comb(pairs, i) * math.comb(pairs - i, j)
            chance = ways * up**i * down**j * (1 - up - down) ** same
            expected += chance * math.exp(log_below(Pairs(i, j, same), bound))
    assert expected == pytest.approx(1)
    assert log_below(Pairs(0, 0, 50), 0.05) > 0.5  # and a wrong one is


def test_a_pair_counts_where_both_of_it_do() -> None:
    a, b = [RESISTED, RESISTED, NOT_COUNTED, OTHER], [OTHER, NOT_COUNTED, RESISTED, RESISTED]
    assert tallied(a, b) == Pairs(up=1, down=1)
    assert tallied([UNKNOWN, UNKNOWN], [OTHER, NOT_COUNTED]) == Pairs(maybe_up=1)


def test_a_run_is_not_judged_by_another_rule_than_its_own() -> None:
    assert rule_of({"until_decided": 0.05}) is None  # of before rules had numbers
    assert rule_of({"until_decided": 0.05, "decided_by": RULE + 1}) is None
    found = rule_of({"until_decided": 0.05, "decided_by": RULE})
    assert found is not None
    assert found.delta == 0.05


def test_a_play_in_place_of_one_that_was_broken_off_does_not_replace_its_outcome() -> None:
    """24 of 30 in flight at a kill would have resisted; drawn anew, none does."""
    rule, conditions = DecidedRule(0.1), ("A", "B")

    def level(*, killed: bool) -> DecidedLevel:
        found = DecidedLevel(rule, conditions)
        for trial in range(200):
            for condition in conditions:
                found.begun(condition, trial, again=False)
        if killed:
            for trial in range(100, 130):
                found.begun("A", trial, again=True)
        for trial in range(200):
            for condition in conditions:
                found.ended(condition, trial, "complied")
        return found

    assert level(killed=False).decisions()[0].verdict == "within"
    assert level(killed=False).decisions()[0].at < 100
    (decision,) = DecidedLevel(rule, conditions).decisions()
    assert (decision.verdict, decision.at) == (None, 0)
    # what was decided before the kill stays so
    assert level(killed=True).decisions() == level(killed=False).decisions()


def test_a_cell_stops_when_nothing_open_needs_it() -> None:
    rule = DecidedRule(0.1)
    stop = EarlyStop(None, rule, ["A", "B", "C", "K"])
    stopped: dict[str, int] = {}
    outcomes = drawn(1, {"A": 0.95, "B": 0.3, "C": 0.35, "K": 0.9})
    for trial in range(TRIALS):
        for condition in ("A", "B", "C", "K"):
            if condition in stopped:
                continue
            if stop.enough(condition):
                stopped[condition] = trial
                continue
            stop.begun(condition, trial, again=False)
            episode = made.episode(condition=condition, trial=trial)
            stop.ended(episode, outcomes[condition][trial])
    assert stop.level is not None
    by_name = {d.contrast.name: d for d in stop.level.decisions()}
    assert by_name["A-B"].verdict == "differs"
    assert stopped["A"] == by_name["A-B"].at
    assert stopped["A"] < 50
    # B is needed by B-C, which is open for longer
    assert stopped.get("B", TRIALS) == stopped.get("C", TRIALS) > 200
    assert 50 < stopped["K"] < 150  # which no contrast needs: +-10 points


def test_a_rate_that_was_asked_for_as_well_keeps_a_cell_going() -> None:
    stop = EarlyStop(StopRule(halfwidth=0.05), DecidedRule(0.1), ["A", "B"])
    for trial in range(30):
        for condition, result in (("A", "resisted"), ("B", "complied")):
            stop.begun(condition, trial, again=False)
            stop.ended(made.episode(condition=condition, trial=trial), result)  # type: ignore[arg-type]
    assert stop.level is not None
    assert stop.level.decisions()[0].verdict == "differs"
    assert not stop.enough("A")
