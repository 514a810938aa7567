"""Plays that were broken off and played again: which of the others are a sample."""

from __future__ import annotations

from pathlib import Path

import orjson
from playing import compared

from local_shutdown.analysis.cells import Cell
from local_shutdown.analysis.interval import anytime_compared, shown
from local_shutdown.analysis.plays import Moment, broken, moments
from local_shutdown.analysis.stopping import anytime_interval, weight_for
from local_shutdown.analysis.trials import Trials
from local_shutdown.started import Started
from local_shutdown.store import STARTED

R, C, LIMIT = "resisted", "complied", "limit"


def first(*trials: int) -> list[tuple[int, bool]]:
    return [(trial, False) for trial in trials]


def again(*trials: int) -> list[tuple[int, bool]]:
    return [(trial, True) for trial in trials]


def test_where_nothing_was_broken_off_it_is_every_play() -> None:
    assert not broken(first(0, 1, 2))
    assert moments(first(0, 1, 2), {0: R, 1: LIMIT, 2: C}) == [Moment(1, 2, 0)]


def test_what_began_after_a_broken_play_and_before_the_break_is_left_out() -> None:
    # 0, 1, 2, 3 begin; 1 and 3 are killed, 2 was quick; then 1, 3 and 4.
    plays = first(0, 1, 2, 3) + again(1, 3) + first(4)
    outcomes = {0: R, 1: C, 2: C, 3: R, 4: R}
    assert broken(plays)
    assert moments(plays, outcomes) == [Moment(1, 1, 0), Moment(3, 4, 1)]


def test_a_play_that_is_broken_off_twice_is_two_unknown_ones() -> None:
    plays = first(0, 1) + again(1) + first(2) + again(1, 2) + first(3)
    # 0, then 1 (unknown), again 1 (unknown), again 1, 2 and 3
    assert moments(plays, {0: C, 1: R, 2: R, 3: C})[-1] == Moment(2, 4, 2)


def test_each_moment_knows_how_many_were_unknown_before_it() -> None:
    plays = first(0, 1) + again(1) + first(2) + again(2) + first(3)
    assert moments(plays, {0: R, 1: C, 2: R, 3: C}) == [
        Moment(1, 1, 0), Moment(1, 2, 1), Moment(2, 4, 2),
    ]  # fmt: skip


def test_a_play_that_nothing_was_broken_off_for_takes_no_other_out() -> None:
    # One that came again without a first (of an older version), and one that is said twice.
    assert moments(again(2) + first(3), {2: R, 3: C}) == [Moment(1, 2, 0)]
    assert moments(first(0, 1, 0), {0: R, 1: C}) == [Moment(2, 3, 0)]


def test_a_crash_of_one_server_leaves_what_began_after_it() -> None:
    # 1 dies with its server while 0 goes on elsewhere; 2 begins before 1 is played again.
    plays = first(0, 1, 2) + again(1) + first(3)
    assert moments(plays, {0: R, 1: R, 2: C, 3: R})[-1] == Moment(3, 3, 1)


def test_trials_that_have_not_ended_are_unknown_too() -> None:
    plays = first(0, 1, 2) + again(1) + first(3, 4)
    found = moments(plays, {0: R, 2: C, 3: C})
    assert found[0] == Moment(1, 1, 0)
    assert found[-1] == Moment(1, 2, 3)  # 1 twice, and 4


def cell(resisted: int, n: int, **more: object) -> Cell:
    return Cell(
        "m", "E", "run", resisted, n, complied=n - resisted, ended_early=0, limit=0, error=0,
        started=n, planned=n, first_planned=n, **more,
    )  # fmt: skip


def test_the_interval_is_that_of_the_sample_and_holds_the_rate_on_disk() -> None:
    sample = {"sample_resisted": 30, "sample_n": 60, "sample_unknown": 2}
    lead = {"leading_resisted": 5, "leading_n": 10}
    found = shown(cell(30, 100, broken_off=20, **sample, **lead))
    weight = weight_for(trials=100)
    low = max(anytime_interval(30, 62, weight=weight)[0], anytime_interval(5, 10, weight=weight)[0])
    high = anytime_interval(32, 62, weight=weight)[1]
    assert found.kind == "anytime"
    assert found.low == min(low, 0.3)
    assert found.high == high
    assert "20" in found.note


def test_no_test_of_a_difference_takes_what_is_on_disk_for_a_sample() -> None:
    sample = {"sample_resisted": 1, "sample_n": 3, "sample_unknown": 1}
    a = cell(20, 100, broken_off=60, leading_resisted=0, leading_n=1, **sample)
    b = cell(60, 100)
    (low, high), p = anytime_compared(a, b)
    assert p is not None
    assert p > 0.05
    assert low is not None
    assert high is not None
    assert low < 0 < high
    whole, _ = anytime_compared(cell(20, 100), b)
    assert whole[1] is not None
    assert whole[1] < 0


def test_trials_of_an_older_version_come_before_those_that_were_put_down() -> None:
    trials = Trials()
    for trial, outcome in enumerate((R, C, R, C)):
        trials.add((outcome, str(trial), "", "", ""))
    trials.play(first(2, 3) + again(2))
    trials.fill_gaps()
    facts = trials.facts()
    assert (facts["leading_resisted"], facts["leading_n"]) == (1, 2)
    assert (facts["sample_resisted"], facts["sample_n"], facts["sample_unknown"]) == (2, 3, 1)
    assert facts["broken_off"] == 1


def test_a_directory_in_which_plays_were_broken_off_says_so(tmp_path: Path) -> None:
    from local_shutdown.episode import Episode, Event
    from local_shutdown.store import Store, write_run

    write_run(tmp_path, {"kind": "run", "settings": {"trials": 3}, "models": {"m": {}}})

    def started(trial: int, session: int) -> Started:
        return Started(f"m/E/{trial}", "m", "E", trial, None, session)

    def played(trial: int) -> Episode:
        call = {"id": "c", "function": {"name": "bash", "arguments": f"{trial}"}}
        said = {"role": "assistant", "content": str(trial), "tool_calls": [call]}
        return Episode(
            f"m/E/{trial}", "m", "E", trial, "submit", None, None, 1.0, [said],
            [Event("survived", 0.1, 2, {})], {}, {"turns": 1},
        )  # fmt: skip

    with Store(tmp_path) as store:
        for trial in range(3):
            store.begin(started(trial, 1))
        store.add(played(1))
    with Store(tmp_path) as store:
        for trial in (0, 2):
            store.begin(started(trial, 2))
            store.add(played(trial))
    lines = [orjson.loads(line) for line in (tmp_path / STARTED).read_bytes().splitlines()]
    assert [line.get("again", False) for line in lines] == [False] * 3 + [True] * 2
    (cell,) = compared(tmp_path)["cells"]
    assert (cell["n"], cell["resisted"], cell["complete"]) == (3, 3, True)
    assert cell["interval"] == "anytime"
    # of the sample: 0 unknown, 0 again and 2 again; 1 was quick, which says nothing
    weight = weight_for(trials=3)
    assert cell["ci_low"] == anytime_interval(2, 3, weight=weight)[0]


def test_a_play_broken_off_in_one_shard_takes_nothing_from_the_others(tmp_path: Path) -> None:
    """Trial 0 of shard 1/2 was broken off, and is played again in the merged run: what began
    between the two in shard 1 is left out (trial 2), and all of shard 2 is in."""
    from local_shutdown.episode import Episode, Event
    from local_shutdown.store import Store, write_run

    def started(trial: int) -> Started:
        return Started(f"m/E/{trial}", "m", "E", trial, None, 1)

    def played(trial: int) -> Episode:
        call = {"id": "c", "function": {"name": "bash", "arguments": f"{trial}"}}
        said = {"role": "assistant", "content": str(trial), "tool_calls": [call]}
        return Episode(
            f"m/E/{trial}", "m", "E", trial, "submit", None, None, 1.0, [said],
            [Event("survived", 0.1, 2, {})], {}, {"turns": 1},
        )  # fmt: skip

    merged = {"shards": 2, "parts": [], "missing": []}
    write_run(tmp_path, {"kind": "run", "settings": {"trials": 6}, "merged": merged})
    with Store(tmp_path) as store:
        for trial in (0, 2, 4, 1, 3, 5):
            store.begin(started(trial))
        for trial in (2, 1, 3, 5):
            store.add(played(trial))
    with Store(tmp_path) as store:
        for trial in (0, 4):
            store.begin(started(trial))
            store.add(played(trial))
    (cell,) = compared(tmp_path)["cells"]
    weight = weight_for(trials=6)
    # 0 unknown, 0 again, 4 again, and 1, 3, 5
    assert cell["ci_low"] == anytime_interval(5, 6, weight=weight)[0]
