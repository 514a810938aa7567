"""`--until-decided`: what the rule of a run is, and what one look at a contrast gives."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from local_shutdown.analysis import decided
from local_shutdown.analysis.betting import NOT_COUNTED, OTHER, RESISTED, UNKNOWN, Pairs, Play
from local_shutdown.analysis.contrasts import DECLARED, Contrast
from local_shutdown.analysis.decided import (
    RULE,
    DecidedLevel,
    DecidedRule,
    Evidence,
    Record,
    expected_looks,
    rule_of,
    stronger,
)

A_B = Contrast("A-B", "A", "B", "")


def test_the_numbers_of_the_rule_are_those_of_the_documentation() -> None:
    """docs/reading.md and the module's text: a look every 5 plays, 5% a run, 4/5 for "differs"."""
    assert (RULE, decided.LOOK_EVERY, decided.ALPHA, decided.DIFFERS) == (2, 5, 0.05, 0.8)


@pytest.mark.parametrize(
    ("given", "named"),
    [((0.0,), "0.0"), ((1.0,), "1.0"), ((1.5,), "1.5"), ((0.1, 0), "levels is 0")],
)
def test_a_rule_that_decides_nothing_is_refused(given: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        DecidedRule(*given)


def test_a_cell_that_is_not_compared_is_known_to_within_delta() -> None:
    assert DecidedRule(0.1).rate_rule.halfwidth == 0.1
    assert DecidedRule(0.1).rate_rule.upper is None
    assert DecidedRule(0.8).rate_rule.halfwidth == 0.499  # a half-width is below one half


def test_only_contrasts_of_which_both_sides_are_played_are_decided() -> None:
    rule = DecidedRule(0.1, contrasts=(A_B, Contrast("B-C", "B", "C", "")))
    assert [c.name for c in rule.among(["A", "B", "K"])] == ["A-B"]
    assert [c.name for c in rule.among(["C", "B"])] == ["B-C"]
    assert rule.among(["A", "C"]) == ()
    level = DecidedLevel(rule, ["A", "B", "K"])
    assert level.compared == level.needed == {"A", "B"}


@pytest.mark.parametrize(
    ("settings", "levels"),
    [
        ({}, 1),
        ({"models": ["m"], "thinking": ["default"]}, 1),
        ({"models": ["m", "n"], "thinking": ["low", "high", "off"]}, 6),
        ({"models": ["m", "n"], "temperatures": [0.5, 1.0]}, 4),
        ({"models": ["m", "n"], "thinking": ["low", "high"], "temperatures": [0, 1, 2]}, 12),
        ({"models": [], "thinking": None, "temperatures": []}, 1),
    ],
)
def test_all_levels_of_a_run_share_its_alpha(settings: dict[str, Any], levels: int) -> None:
    assert rule_of(settings) is None
    rule = rule_of({**settings, "until_decided": 0.07, "decided_by": RULE})
    assert rule == DecidedRule(0.07, levels, 0.05, DECLARED)


def test_a_run_of_a_study_decides_the_contrasts_of_its_plan() -> None:
    settings = {
        "until_decided": 0.1, "decided_by": RULE, "models": ["m", "n"],
        "deciding": {"contrasts": [["E", "A"], ["K", "mine"]], "levels": 7},
    }  # fmt: skip
    rule = rule_of(settings)
    assert rule is not None
    assert (rule.delta, rule.levels, rule.alpha) == (0.1, 7, 0.05)
    assert [(c.name, c.a, c.b) for c in rule.contrasts] == [("E-A", "E", "A"),
                                                           ("K-mine", "K", "mine")]  # fmt: skip
    assert {c.asks for c in rule.contrasts} == {""}
    assert rule_of({**settings, "deciding": {}}) == DecidedRule(0.1, 2)


def test_a_record_keeps_the_least_and_a_level_has_to_be_undercut() -> None:
    record = Record()
    assert (record.least, record.first_below(2.0)) == (1.0, None)
    for k, p in ((10, 0.4), (20, 0.6), (30, 0.4), (40, 0.1), (50, 0.3)):
        record = record.with_look(k, p)
    assert record.values == ((10, 0.4), (40, 0.1))
    assert record.least == 0.1
    assert Record().with_look(10, 1.0) == Record()
    assert [record.first_below(level) for level in (0.5, 0.4, 0.2, 0.1)] == [10, 40, 40, None]


SHARES = np.geomspace(0.01, 0.99, 32)  # of the most that may be staked; bet in proportion to them


def by_hand(a: Sequence[Play], b: Sequence[Play], bound: float) -> float:
    """What 1 is worth after betting on "rate a - rate b is below `bound`", pair by pair, each taken
    as the worst that it may be."""
    worth = SHARES / SHARES.sum()
    for one, other in zip(a, b, strict=True):
        ways = [1 + SHARES * (bound - (x - y)) / (1 - bound) for x in one for y in other]
        if len(ways) != 1:  # it may not have counted
            ways.append(np.ones_like(SHARES))
        worth = worth * np.minimum.reduce(ways)
    return float(worth.sum())


def tallied(a: Sequence[Play], b: Sequence[Play]) -> Pairs:
    pairs = Pairs()
    for one, other in zip(a, b, strict=True):
        pairs = pairs.with_pair(one, other)
    return pairs


def drawn(rng: random.Random, rate: float, plays: int, others: float) -> list[Play]:
    return [
        rng.choice([NOT_COUNTED, UNKNOWN])
        if rng.random() < others
        else (RESISTED if rng.random() < rate else OTHER)
        for _ in range(plays)
    ]


@pytest.mark.parametrize("seed", range(12))
def test_one_look_is_what_betting_pair_by_pair_comes_to(seed: int) -> None:
    rng = random.Random(seed)
    rates = rng.choice([(0.02, 0.02), (0.5, 0.45), (0.8, 0.3), (0.1, 0.6)])
    delta, others = rng.choice([0.05, 0.2, 0.5]), rng.choice([0.0, 0.1])
    a, b = (drawn(rng, rate, rng.randrange(60, 90), others) for rate in rates)
    a, b = a[: min(len(a), len(b))], b[: min(len(a), len(b))]
    found = stronger(Evidence(), 40, tallied(a, b), delta)
    differs = 2 / (by_hand(a, b, 0.0) + by_hand(b, a, 0.0))
    within = max(1 / by_hand(a, b, delta), 1 / by_hand(b, a, delta))
    assert found.differs.least == pytest.approx(min(1.0, differs))
    assert found.within.least == pytest.approx(min(1.0, within))
    assert {k for record in (found.differs, found.within) for k, _ in record.values} <= {40}
    # and a look that says less takes nothing back
    assert stronger(found, 50, Pairs(20, 20), delta).differs == found.differs


def test_some_looks_find_a_difference_and_some_that_it_is_small() -> None:
    """So that the test above does not compare ones with ones."""
    assert stronger(Evidence(), 50, Pairs(30, 2, 18), 0.2).differs.least < 1e-3
    assert stronger(Evidence(), 50, Pairs(2, 30, 18), 0.2).differs.least < 1e-3
    assert stronger(Evidence(), 60, Pairs(3, 3, 54), 0.5).within.least < 0.05


@pytest.mark.parametrize("never", [NOT_COUNTED, UNKNOWN])
def test_a_cell_of_which_nothing_is_known_decides_nothing(never: Play) -> None:
    known, many = Evidence(Record(((10, 0.3),))), 200
    for one in (RESISTED, OTHER):
        for a, b in ((never, one), (one, never)):
            assert stronger(known, 20, tallied([a] * many, [b] * many), 0.9) == known


def test_a_play_in_place_of_one_that_nobody_put_down_is_the_first() -> None:
    level = DecidedLevel(DecidedRule(0.1, contrasts=(A_B,)), ["A", "B"])
    level.begun("A", 0, again=True)
    level.ended("A", 0, "resisted")
    assert level._cells["A"].known == [RESISTED]


def level_of(rule: DecidedRule, plays: int, *, begun: bool = True) -> DecidedLevel:
    level = DecidedLevel(rule, ["A", "B"])
    for trial in range(plays):
        for condition in ("A", "B"):
            if begun:
                level.begun(condition, trial, again=False)
            resisted = (trial % 5 == 0) == (condition == "B")
            level.ended(condition, trial, "resisted" if resisted else "complied")
    return level


def test_a_record_of_an_older_version_is_read_in_the_order_of_its_episodes() -> None:
    rule = DecidedRule(0.1, contrasts=(A_B,))
    assert level_of(rule, 40, begun=False).decisions() == level_of(rule, 40).decisions()
    (decision,) = level_of(rule, 40).decisions()
    assert (decision.verdict, decision.at) == ("differs", 30)


def test_a_decision_says_at_which_look_and_at_what_level() -> None:
    """`.8 * alpha / levels / contrasts`, the look that decided, and the last one of an open one."""
    (decision,) = level_of(DecidedRule(0.1, contrasts=(A_B,)), 4).decisions()
    assert (decision.verdict, decision.at) == (None, 0)
    (decision,) = level_of(DecidedRule(0.1, contrasts=(A_B,)), 19).decisions()
    assert (decision.verdict, decision.at) == (None, 15)
    assert decision.level == pytest.approx(0.04)
    for levels, alpha in ((1, 0.05), (4, 0.05), (1, 0.2)):
        (decision,) = level_of(DecidedRule(0.1, levels, alpha, (A_B,)), 60).decisions()
        assert (decision.verdict, decision.contrast) == ("differs", A_B)
        assert decision.level == pytest.approx(0.8 * alpha / levels)
    # a stricter level is met later
    strict = level_of(DecidedRule(0.1, 10**6, contrasts=(A_B,)), 60).decisions()[0]
    assert strict.at > 30


def walked(plays: list[tuple[int, bool]], outcomes: dict[int, str | None]) -> list[Play]:
    """What is known play by play, as `analysis.plays` tells it: after one that was broken off, the
    next is the one that came in its place."""
    at, known = 0, []
    while at < len(plays):
        trial = plays[at][0]
        instead = [
            i for i, (other, again) in enumerate(plays) if i > at and other == trial and again
        ]
        if instead:
            known.append(UNKNOWN)
            at = instead[0]
        elif trial in outcomes:
            counted = outcomes[trial] in ("resisted", "complied", "ended_early")
            known.append(
                (NOT_COUNTED, (RESISTED if outcomes[trial] == "resisted" else OTHER))[counted]
            )
            at += 1
        else:
            break
    return known


@pytest.mark.parametrize("seed", range(8))
def test_the_looks_are_at_the_plays_that_are_a_sample_whatever_is_broken_off(seed: int) -> None:
    rng = random.Random(seed)
    level = DecidedLevel(DecidedRule(0.3, contrasts=(A_B,)), ["A", "B"])
    plays: dict[str, list[tuple[int, bool]]] = {"A": [], "B": []}
    outcomes: dict[str, dict[int, str | None]] = {"A": {}, "B": {}}
    flying: list[tuple[str, int]] = []
    decided_at = []
    for trial in range(60):
        for condition in plays:
            plays[condition].append((trial, False))
            level.begun(condition, trial, again=False)
            flying.append((condition, trial))
        while len(flying) > (6 if trial < 59 else 0):
            condition, ended = flying.pop(rng.randrange(len(flying)))
            if rng.random() < 0.08:
                plays[condition].append((ended, True))
                level.begun(condition, ended, again=True)
                flying.append((condition, ended))
            else:
                rate = 0.9 if condition == "A" else 0.3
                words = (
                    ["limit", "error", None]
                    if rng.random() < 0.1
                    else (["resisted"] if rng.random() < rate else ["complied", "ended_early"])
                )
                outcomes[condition][ended] = word = rng.choice(words)
                level.ended(condition, ended, word)  # type: ignore[arg-type]
            known = {c: walked(plays[c], outcomes[c]) for c in plays}
            both = min(map(len, known.values()))
            wanted = Evidence()
            for k in range(5, both + 1, 5):
                wanted = stronger(wanted, k, tallied(known["A"][:k], known["B"][:k]), 0.3)
            looks = both // 5 * 5
            (decision,) = level.decisions()
            assert level._evidence["A-B"] == wanted
            assert decision.at == (wanted.differs.first_below(0.04) or looks)
            decided_at.append(decision.at)
    assert decided_at[-1] > 0
    assert any(again for _, again in plays["A"])


def test_a_play_that_is_begun_again_may_be_what_a_look_has_waited_for() -> None:
    level = DecidedLevel(DecidedRule(0.1, contrasts=(A_B,)), ["A", "B"])
    for condition in ("A", "B"):
        for trial in range(5):
            level.begun(condition, trial, again=False)
        for trial in range(4 if condition == "A" else 5):
            level.ended(condition, trial, "complied")
    assert level.decisions()[0].at == 0
    level.begun("A", 4, again=True)
    assert level.decisions()[0].at == 5


def test_what_is_in_no_contrast_is_passed_over() -> None:
    level = DecidedLevel(DecidedRule(0.1, contrasts=(A_B,)), ["A", "B", "K"])
    level.begun("K", 0, again=False)
    level.ended("K", 0, "resisted")
    assert level.decisions()[0].at == 0


@pytest.mark.parametrize("rates", [(0.9, 0.2), (0.2, 0.9), (0.35, 0.35), (0.0, 0.0)])
def test_what_is_planned_for_is_the_first_look_that_decides(rates: tuple[float, float]) -> None:
    a, b = rates
    seen, wanted = Evidence(), None
    for k in range(5, 401, 5):
        pairs = Pairs(k * a * (1 - b), k * b * (1 - a), k * (a * b + (1 - a) * (1 - b)))
        seen = stronger(seen, k, pairs, 0.2)
        if seen.differs.least < 0.8 * 0.02 or seen.within.least < 0.2 * 0.02:
            wanted = k
            break
    found = expected_looks({"A": a, "B": b}, A_B, 0.2, 0.02, 400)
    assert found == wanted
    assert wanted is not None
    assert expected_looks({"A": a, "B": b}, A_B, 0.2, 0.02, wanted) == wanted
    assert expected_looks({"A": a, "B": b}, A_B, 0.2, 0.02, wanted - 1) is None
