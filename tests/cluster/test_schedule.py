"""The scheduler alone: events in, assignments out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from local_shutdown.cluster.schedule import Fetch, Play, Scheduler, Start
from local_shutdown.cluster.standing import Expected

ROOT = Path(__file__).resolve().parents[2]


def expected(per_s: float = 10.0, start_s: float = 60.0) -> Expected:
    return Expected(per_s, start_s, trial_s=5.0)


def starts(found: object) -> list[tuple[str, str]]:
    assert isinstance(found, list)
    return [(one.node, one.model) for one in found if isinstance(one, Start)]


def test_the_longest_model_is_started_first() -> None:
    ours = Scheduler([("short", 100, expected()), ("long", 50_000, expected())])
    ours.join("n1", ["short", "long"], 0.0)
    assert starts(ours.place(0.0)) == [("n1", "long")]


def test_each_model_gets_the_nodes_that_it_needs_to_end_with_the_others() -> None:
    ours = Scheduler([("a", 60_000, expected()), ("b", 20_000, expected())])
    for n in range(4):
        ours.join(f"n{n}", ["a", "b"], 0.0)
    placed = [model for _, model in starts(ours.place(0.0))]
    assert sorted(placed) == ["a", "a", "a", "b"]


def test_a_node_joins_only_where_what_is_left_is_worth_a_start() -> None:
    for trials, joins in ((100_000, True), (500, False)):
        ours = Scheduler([("a", trials, expected())])
        ours.join("n1", ["a"], 0.0)
        ours.place(0.0)
        ours.up("n1", 60.0, 100)
        ours.place(60.0)
        ours.join("n2", ["a"], 61.0)
        assert bool(starts(ours.place(61.0))) is joins


def test_a_node_gets_what_it_has_in_flight_and_little_more() -> None:
    ours = Scheduler([("a", 100_000, expected())])
    ours.join("n1", ["a"], 0.0)
    ours.place(0.0)
    ours.up("n1", 60.0, 50)
    (play,) = [one for one in ours.place(60.0) if isinstance(one, Play)]
    assert 50 <= play.trials <= 150


def test_what_a_lost_node_had_is_given_to_others() -> None:
    ours = Scheduler([("a", 90, expected())])
    for name in ("n1", "n2"):
        ours.join(name, ["a"], 0.0)
    ours.place(0.0)
    first = "n1" if ours.phase("n1")[0] == "starting" else "n2"
    other = "n2" if first == "n1" else "n1"
    ours.up(first, 60.0, 100)
    ours.place(60.0)
    ours.lose(first)
    assert ours.left == 90
    assert starts(ours.place(61.0)) in ([(other, "a")], [])
    ours.up(other, 120.0, 100)
    given = [one.trials for one in ours.place(121.0) if isinstance(one, Play)]
    assert given == [90]
    ours.report(other, 90, 100, 130.0)
    assert ours.left == 0


def test_a_model_that_a_node_cannot_serve_goes_to_another() -> None:
    ours = Scheduler([("a", 100, expected()), ("b", 100, expected())])
    ours.join("n1", ["b"], 0.0)
    assert starts(ours.place(0.0)) == [("n1", "b")]
    ours.cannot("n1", "b")
    assert starts(ours.place(1.0)) == []
    assert ours.unplayable() == ["a", "b"]
    ours.join("n2", ["a", "b"], 2.0)
    assert len(starts(ours.place(2.0))) == 1
    assert ours.unplayable() == []


def test_the_end_of_a_model_is_shared_by_speed() -> None:
    ours = Scheduler([("a", 4_000, expected())])
    for name in ("n1", "n2"):
        ours.join(name, ["a"], 0.0)
    ours.place(0.0)
    for name in ("n1", "n2"):
        ours.up(name, 60.0, 4_000)
    given = {one.node: one.trials for one in ours.place(60.0) if isinstance(one, Play)}
    # Either could have taken all of them.
    assert given == {"n1": 2_000, "n2": 2_000}


def short_run(*since: float) -> Scheduler:
    """Twelve trials, and nodes that begin to start at these times; the first is up at 10 s."""
    ours = Scheduler([("a", 12, expected(per_s=0.02))])
    for n, when in enumerate(since, 1):
        ours.join(f"n{n}", ["a"], when)
        assert starts(ours.place(when)) == [(f"n{n}", "a")]
    ours.up("n1", 10.0, 20)
    return ours


def given(found: object) -> dict[str, int]:
    assert isinstance(found, list)
    return {one.node: one.trials for one in found if isinstance(one, Play)}


def test_a_short_run_is_spread_over_nodes_that_come_up_at_about_the_same_time() -> None:
    ours = short_run(0.0, 0.0)
    assert given(ours.place(10.0)) == {"n1": 6}
    assert given(ours.place(11.0)) == {}
    ours.up("n2", 12.0, 20)
    assert given(ours.place(12.0)) == {"n2": 6}
    assert ours.left == 12


def test_a_short_run_does_not_wait_for_a_node_that_starts_slowly() -> None:
    ours = short_run(0.0, 0.0)
    assert given(ours.place(10.0)) == {"n1": 6}
    assert given(ours.place(14.0)) == {"n1": 6}


def test_a_short_run_does_not_wait_for_a_node_that_began_to_start_later() -> None:
    assert given(short_run(0.0, 8.0).place(10.0)) == {"n1": 12}


def busy(until: float) -> tuple[Scheduler, dict[str, int]]:
    """Two nodes near the end of `a`, and trials of `b` that nobody plays; and what each has."""
    ours = Scheduler([("a", 300_000, expected(per_s=50.0)), ("b", 0, expected())])
    out = {"n1": 0, "n2": 0}
    for name in out:
        ours.join(name, ["a", "b"], 0.0)
    ours.place(0.0)
    for name in out:
        ours.up(name, 60.0, 100)
    for play in ours.place(60.0):
        assert isinstance(play, Play)
        out[play.node] += play.trials
    now = 60.0
    while (now := now + 2.0) <= until:
        for name in out:
            more = ours.report(name, 100, 100, now)
            out[name] += (more.trials if more else 0) - 100
    ours.waiting("b", 20_000)
    return ours, out


def test_a_model_lets_a_node_go_that_it_can_do_without_and_another_wants() -> None:
    ours, out = busy(2_900.0)
    assert not starts(ours.place(2_900.0))
    more = {name: ours.report(name, out[name], 100, 2_902.0) for name in out}
    (goes,) = [name for name, play in more.items() if play is None]
    assert starts(ours.place(2_902.0)) == [(goes, "b")]


def test_a_node_that_was_to_leave_stays_when_its_model_loses_the_other() -> None:
    ours, out = busy(2_900.0)
    ours.place(2_900.0)
    more = {name: ours.report(name, 100, 100, 2_902.0) for name in out}
    (goes,) = [name for name, play in more.items() if play is None]
    (stays,) = set(out) - {goes}
    ours.lose(stays)
    found = ours.place(2_920.0)
    assert [(one.node, one.model) for one in found if isinstance(one, Play)] == [(goes, "a")]
    assert not starts(found)


def test_weights_are_wanted_before_their_model_is() -> None:
    ours = Scheduler([("a", 50_000, expected()), ("b", 10_000, expected())])
    ours.join("n1", ["a", "b"], 0.0)
    ours.place(0.0)
    ours.up("n1", 60.0, 100)
    found = [one for one in ours.place(100.0) if isinstance(one, Fetch)]
    assert found == [Fetch("n1", "b")]
    assert not [one for one in ours.place(200.0) if isinstance(one, Fetch)]


@pytest.mark.parametrize(
    "extra", [(), ("--own-weights",), ("--lost-per-hour", "20", "--back", "30")]
)
def test_the_simulator_plays_everything_and_no_run_beats_the_bound(
    tmp_path: Path, extra: tuple[str, ...]
) -> None:
    where = tmp_path / "rows.json"
    argv = [sys.executable, "scripts/simulate-cluster", "--nodes", "5", "12", "--models", "8"]
    done = subprocess.run(
        [*argv, "--trials", "600", *extra, "--json", str(where)],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(where.read_text())
    assert [row["nodes"] for row in rows] == [5, 12]
    for row in rows:
        assert 0.1 < row["share"] <= 1.0
        assert row["starts"] >= 8
    if "--lost-per-hour" in extra:
        assert rows[0]["lost_nodes"] > 0
        assert rows[0]["played_again"] > 0


@pytest.mark.long
def test_a_simulation_with_the_same_seed_goes_the_same_way(tmp_path: Path) -> None:
    found = []
    for seed in ("1", "11"):  # of Python's hashes: sets of names are walked in another order
        where = tmp_path / f"{seed}.json"
        argv = [sys.executable, "scripts/simulate-cluster", "--nodes", "16", "--models", "20"]
        subprocess.run(
            [*argv, "--trials", "2000", "--seed", "2", "--json", str(where)],
            cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed}, check=True, timeout=600,
        )  # fmt: skip
        found.append(json.loads(where.read_text()))
    assert found[0] == found[1]


def test_an_engine_that_stood_idle_between_two_lots_has_lost_nothing_by_it() -> None:
    ours = Scheduler([("a", 2000, expected())])
    ours.join("n1", ["a"], 0.0)
    ours.place(0.0)
    ours.up("n1", 60.0, 50)
    now, model = 60.0, ours._models["a"]

    def play_all() -> None:
        nonlocal now
        ours.place(now)
        while ours.left:
            now += 1.0
            ours.report("n1", min(10, model.out), 50, now)

    play_all()
    assert len(model.emptied) == 1
    now += 1000.0
    ours.waiting("a", 2000)  # of a node that was lost
    play_all()
    assert len(model.emptied) == 2
    assert model.emptied[1] == pytest.approx(model.emptied[0], abs=0.5)
