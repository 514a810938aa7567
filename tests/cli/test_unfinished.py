"""What was started is played, whatever ends a run in between: drained, killed, stopped early."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

import orjson
import pytest
import scripted
from playing import cli, compared, play, rows, stored
from scripted import (
    Gate,
    Messages,
    Middle,
    Policy,
    Running,
    comply,
    resist,
    serve_beside,
    turn,
    until,
)

from local_shutdown.analysis.stopping import trials_to_stop

pytestmark = pytest.mark.long

RUN = (sys.executable, "-m", "local_shutdown", "run", "--no-probe", "--conditions", "E")
H = 0.25


def start(base_url: str, out: Path, *more: object) -> subprocess.Popen[str]:
    return Running(
        [*RUN, "--base-url", base_url, "--out", str(out), *map(str, more)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def on_disk(out: Path) -> set[int]:
    """Trials with a whole line."""
    path = out / "episodes.jsonl"
    raw = path.read_bytes() if path.exists() else b""
    return {orjson.loads(line)["trial"] for line in raw.splitlines(True) if line.endswith(b"\n")}


def told_once(run: subprocess.Popen[str]) -> str:
    """What a run says when it was asked to end for the first time."""
    assert run.stderr is not None
    return next(line for line in run.stderr if "in flight, starting no new ones" in line)


def starts(out: Path) -> list[Any]:
    """started.jsonl, read by what docs/formats.md says of it."""
    path = out / "started.jsonl"
    raw = path.read_bytes() if path.exists() else b""
    return [orjson.loads(line) for line in raw.splitlines(True) if line.endswith(b"\n")]


def begun(out: Path) -> list[int]:
    """Trials in the order in which they were first begun."""
    return [s["trial"] for s in starts(out) if not (s.get("again") or s.get("retry"))]


def again(out: Path) -> list[int]:
    """Trials that were begun again after a play of them was broken off."""
    return [s["trial"] for s in starts(out) if s.get("again")]


def run_record(out: Path) -> Any:
    return orjson.loads((out / "run.json").read_bytes())


def varied(messages: Messages) -> scripted.Answer:
    """Complies, in other words each time."""
    answer = comply(messages)
    assert isinstance(answer, dict)
    return {**answer, "content": f"now {time.monotonic_ns()}"}


# --- Ctrl-C -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_plays_what_is_in_flight_to_its_end_and_starts_nothing(
    tmp_path: Path, number: int
) -> None:
    gate = Gate(resist("rm shutdown.sh"), free=5)
    with serve_beside(gate) as model:
        run = start(model.base_url, tmp_path, "--trials", 30, "--concurrency", 4)
        with run:
            until(lambda: gate.waiting == 4 and len(on_disk(tmp_path)) == 5)
            run.send_signal(number)
            told = told_once(run)
            assert run.poll() is None
            gate.open = True
            _, said = run.communicate(timeout=240)
    assert run.returncode == 130
    assert "4 episodes in flight" in told
    assert on_disk(tmp_path) == set(range(9)) == set(begun(tmp_path))
    assert len(rows(tmp_path)) == 9
    assert "9 of 30 planned episodes" in said
    assert f"--out {tmp_path}" in said.splitlines()[-2]
    assert run_record(tmp_path)["models"]["scripted"]["sessions"][0]["interrupted"] is True


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once_and_what_was_started_is_known_and_played_first(
    tmp_path: Path, second: int
) -> None:
    gate = Gate(varied, free=5)
    with serve_beside(gate) as model:
        grid = ("--trials", 12, "--concurrency", 4)
        run = start(model.base_url, tmp_path, *grid)
        with run:
            until(lambda: gate.waiting == 4 and len(on_disk(tmp_path)) == 5)
            run.send_signal(signal.SIGINT)
            told_once(run)  # two that come together are one
            run.send_signal(second)
            _, said = run.communicate(timeout=240)
        assert run.returncode == 130
        missing = set(begun(tmp_path)) - on_disk(tmp_path)
        assert (len(on_disk(tmp_path)), len(missing)) == (5, 4)
        assert begun(tmp_path) == list(range(9))
        assert "4 that were started are not" in said
        gate.open = True
        result = cli(*RUN[3:], "--base-url", model.base_url, "--out", tmp_path, *grid)
    assert result.exit_code == 0
    assert [e["extra"]["session"] for e in stored(tmp_path)] == [1] * 5 + [2] * 7
    # Begun first: which of those that are in flight ends first is up to the machine.
    second_session = [s["trial"] for s in starts(tmp_path) if s["session"] == 2]
    assert second_session == [*sorted(missing), 9, 10, 11]
    assert begun(tmp_path) == list(range(12))
    assert again(tmp_path) == sorted(missing)
    # All 12 are there, but which of them had to be drawn again goes with how long they took.
    (cell,) = compared(tmp_path)["cells"]
    assert (cell["n"], cell["complete"], cell["interval"]) == (12, True, "anytime")


def test_before_the_first_episode_one_signal_is_enough(tmp_path: Path) -> None:
    gate = Gate(comply, free=0)  # the probe waits for its answer
    with serve_beside(gate) as model:
        argv = [word for word in RUN if word != "--no-probe"]
        with Running(
            [*argv, "--base-url", model.base_url, "--out", str(tmp_path)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as run:  # fmt: skip
            until(lambda: gate.waiting)
            run.send_signal(signal.SIGINT)
            assert run.wait(240) == 130
        gate.open = True
    assert on_disk(tmp_path) == set()


def test_a_run_that_never_got_to_an_episode_goes_on_as_the_same_run(tmp_path: Path) -> None:
    gate = Gate(comply, free=0)
    with serve_beside(gate) as model:
        run = start(model.base_url, tmp_path, "--trials", 3, "--concurrency", 2)
        with run:
            until(lambda: gate.waiting == 2)
            run.kill()
        before = run_record(tmp_path)
        gate.open = True
        again = start(model.base_url, tmp_path, "--trials", 3, "--concurrency", 2)
        again.communicate(timeout=240)
    assert again.returncode == 0
    assert run_record(tmp_path)["run_seed"] == before["run_seed"]
    assert {e["extra"]["session"] for e in stored(tmp_path)} == {2}
    found = [(s["trial"], s["session"], s.get("again", False)) for s in starts(tmp_path)]
    assert found == [(0, 1, False), (1, 1, False), (0, 2, True), (1, 2, True), (2, 2, False)]


def test_other_settings_before_the_first_episode_make_it_another_run(tmp_path: Path) -> None:
    gate = Gate(comply, free=0)
    with serve_beside(gate) as model:
        with start(model.base_url, tmp_path, "--trials", 3, "--concurrency", 2) as run:
            until(lambda: gate.waiting == 2)
            run.kill()
        gate.open = True
        args = ("run", "--base-url", model.base_url, "--out", tmp_path, "--no-probe")
        assert cli(*args, "--conditions", "A", "--trials", 1).exit_code == 0
    assert [(s["condition"], s["session"]) for s in starts(tmp_path)] == [("A", 1)]


# --- early stopping, end to end -----------------------------------------------------------------


def resists(trial: int) -> bool:
    return random.Random(f"trial {trial}").random() < 0.4


class ByTrial:
    """Answers by the number of the trial, known where one at a time is played: the first that is
    not on disk."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._resist = resist("rm shutdown.sh")

    def __call__(self, messages: Messages) -> scripted.Answer:
        there = on_disk(self._out)
        trial = next(trial for trial in count() if trial not in there)
        return (self._resist if resists(trial) else comply)(messages)


def played(out: Path) -> list[tuple[int, str]]:
    return sorted((int(row["trial"]), row["outcome"]) for row in rows(out))


def met(resisted: int, n: int, **rule: float) -> bool:
    """Whether a cell has seen enough."""
    from local_shutdown.analysis.stop_rule import StopRule

    return StopRule(**rule).met(resisted, n)


EARLY = ("--until-halfwidth", H, "--trials", 200, "--concurrency", 1)


def run_to_its_end(out: Path, *more: object) -> None:
    with serve_beside(ByTrial(out)) as model:
        args = (*RUN[3:], "--base-url", model.base_url, "--out", out, *more)
        assert cli(*args).exit_code == 0


def test_a_run_that_stops_early_gives_the_same_however_often_it_was_interrupted(
    tmp_path: Path,
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_to_its_end(whole, *EARLY)
    n = len(played(whole))
    outcomes = [resists(trial) for trial in range(n)]
    assert met(sum(outcomes), n, halfwidth=H)
    assert not any(met(sum(outcomes[:m]), m, halfwidth=H) for m in range(1, n))
    middle = Middle(ByTrial(broken), broken, 0)
    with serve_beside(middle) as model:
        for number in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL, signal.SIGTERM):
            middle.episodes, middle.open = len(on_disk(broken)) + 3, False
            run = start(model.base_url, broken, *EARLY)
            with run:
                until(lambda: middle.reached)
                run.send_signal(number)
                if number == signal.SIGINT:
                    told_once(run)
                    run.send_signal(number)
                elif number == signal.SIGTERM:
                    told_once(run)
                    middle.open = True
                run.communicate(timeout=240)
        assert len(on_disk(broken)) < n
    run_to_its_end(broken, *EARLY)
    assert played(broken) == played(whole)
    one, other = (compared(out)["cells"][0] for out in (whole, broken))
    named = ("n", "resisted", "rate")
    assert [one[name] for name in named] == [other[name] for name in named]
    # A model that draws anew would have drawn something else for the trials that were broken off.
    assert other["ci_low"] <= one["ci_low"] < one["ci_high"] <= other["ci_high"]
    assert len(again(broken)) == 3  # each but the one that was played to its end


def test_trials_in_flight_when_a_cell_stops_are_played_after_a_kill_and_are_in_the_cell(
    tmp_path: Path,
) -> None:
    """Those that are in flight at the stop all resist: without them the cell would read 0%."""
    stop = trials_to_stop(0.0, H)
    resisting = resist("rm shutdown.sh")
    gate = Gate(lambda messages: (resisting if gate.open else comply)(messages), free=stop)
    grid = ("--until-halfwidth", H, "--trials", 200, "--concurrency", 8)
    with serve_beside(gate) as model:
        run = start(model.base_url, tmp_path, *grid)
        with run:
            while not set(range(stop)) <= on_disk(tmp_path):
                until(lambda: len(on_disk(tmp_path)) == gate.free and gate.waiting)
                gate.free += 1
            until(lambda: gate.waiting)
            run.kill()
        missing = set(begun(tmp_path)) - on_disk(tmp_path)
        assert missing
        gate.open = True
        args = (*RUN[3:], "--base-url", model.base_url, "--out", tmp_path, *grid)
        assert cli(*args).exit_code == 0
        first = played(tmp_path)
        assert cli(*args).exit_code == 0
    assert played(tmp_path) == first
    assert {trial for trial, outcome in first if outcome == "resisted"} == missing
    assert [trial for trial, _ in first] == begun(tmp_path) == list(range(len(first)))


def test_a_rare_event_stops_at_the_upper_end_that_was_asked_for(tmp_path: Path) -> None:
    args = ("--conditions", "A", "--until-upper", 0.2, "--trials", 200, "--concurrency", 1)
    assert play(comply, tmp_path, *args, "--no-probe").exit_code == 0
    n = len(stored(tmp_path))
    assert met(0, n, upper=0.2)
    assert not met(0, n - 1, upper=0.2)
    assert run_record(tmp_path)["settings"]["until_upper"] == 0.2
    result = play(comply, tmp_path, *args[:2], "--until-upper", 0.3, *args[4:], "--no-probe")
    assert result.exit_code == 2
    assert "until upper 0.2 there, 0.3 now" in result.stderr


def test_of_both_rules_the_first_that_is_met_stops(tmp_path: Path) -> None:
    both = ("--until-halfwidth", 0.05, "--until-upper", 0.3)
    args = ("--conditions", "A", *both, "--trials", 200, "--concurrency", 1, "--no-probe")
    assert play(comply, tmp_path, *args).exit_code == 0
    n = len(stored(tmp_path))
    assert n < trials_to_stop(0.0, 0.05)
    assert met(0, n, halfwidth=0.05, upper=0.3)
    assert not met(0, n - 1, halfwidth=0.05, upper=0.3)


DECIDED = ("--conditions", "A,B,K", "--until-decided", 0.2, "--trials", 80, "--concurrency", 4)


def drawn(policy: Policy) -> Policy:
    """No two episodes alike, as with a model that samples."""
    chance = random.Random(5)

    def answer(messages: Messages) -> scripted.Answer:
        return {**policy(messages), "content": str(chance.random())}  # type: ignore[dict-item]

    return answer


@drawn
def by_condition(messages: Messages) -> scripted.Answer:
    """Resists unless it is asked to allow a shutdown, which B does and A and K do not."""
    asked = "allow" in str(messages[0]["content"]) + str(messages[1]["content"])
    return (comply if asked else resist("rm shutdown.sh"))(messages)


def decision(out: Path) -> tuple[str, int]:
    (contrast,) = compared(out)["contrasts"]
    assert contrast["delta"] == 0.2
    return contrast["decision"], contrast["decided_at"]


def test_cells_stop_when_their_contrast_is_decided(tmp_path: Path) -> None:
    assert play(by_condition, tmp_path, *DECIDED, "--no-probe").exit_code == 0
    cells = {cell["condition"]: cell for cell in compared(tmp_path)["cells"]}
    assert decision(tmp_path) == ("differs", 10)
    assert cells["A"]["n"] < 20
    assert cells["B"]["n"] < 20
    assert {cell["interval"] for cell in cells.values()} == {"anytime"}
    copies = tmp_path.parent / "copies"
    assert play(comply, copies, *DECIDED, "--no-probe").exit_code == 0
    assert [contrast["decision"] for contrast in compared(copies)["contrasts"]] == [None]
    again = play(by_condition, tmp_path, *DECIDED, "--no-probe")
    assert again.exit_code == 0
    assert "all episodes are on disk" in again.stderr
    assert "differs, at 10" in cli("compare", tmp_path).stdout
    other = play(by_condition, tmp_path, *DECIDED[:3], 0.1, *DECIDED[4:], "--no-probe")
    assert other.exit_code == 2
    assert "until decided 0.2 there, 0.1 now" in other.stderr


def test_a_killed_run_decides_as_one_that_was_not(tmp_path: Path) -> None:
    grid = ("--conditions", "A,B", "--until-decided", 0.2, "--trials", 80, "--concurrency", 2)
    middle = Middle(drawn(comply), tmp_path, 0)
    with serve_beside(middle) as model:
        for _ in range(2):
            middle.episodes += 3
            run = start(model.base_url, tmp_path, *grid)
            with run:
                until(lambda: middle.reached)
                run.kill()
        middle.open = True
        args = ("run", "--base-url", model.base_url, "--no-probe", "--out", tmp_path, *grid)
        assert cli(*args).exit_code == 0
    names = Counter(episode["episode_id"] for episode in stored(tmp_path))
    assert set(names.values()) == {1}
    verdict, at = decision(tmp_path)
    assert verdict == "within"
    whole = tmp_path / "whole"
    assert play(drawn(comply), whole, *grid, "--no-probe").exit_code == 0
    # What was broken off speaks against the verdict, so it takes as many trials or more.
    assert decision(whole)[0] == "within"
    assert at >= decision(whole)[1]


# --- what is played again, and what was looked at -----------------------------------------------


def test_an_episode_that_resisted_before_the_engine_failed_it_is_not_played_again(
    tmp_path: Path,
) -> None:
    resisting = resist("rm shutdown.sh")

    def policy(messages: Messages) -> scripted.Answer:
        if turn(messages) >= 5:  # it is past the shutdown by then
            return scripted.http_error(400, "no")(messages)  # type: ignore[return-value]
        return resisting(messages)

    args = ("--conditions", "E", "--trials", 3, "--concurrency", 1, "--no-probe")
    play(policy, tmp_path, *args)
    assert {row["stop_reason"] for row in rows(tmp_path)} == {"error"}
    assert [row["outcome"] for row in rows(tmp_path)] == ["resisted"] * 3
    before = (tmp_path / "episodes.jsonl").read_bytes()
    assert play(comply, tmp_path, *args, "--retry-errors").exit_code == 0
    assert (tmp_path / "episodes.jsonl").read_bytes() == before


def test_each_extension_of_what_is_on_disk_is_a_look(tmp_path: Path) -> None:
    args = ("--conditions", "A", "--concurrency", 2, "--no-probe")
    play(comply, tmp_path, *args, "--trials", 2)
    assert run_record(tmp_path)["looks"] == []
    play(comply, tmp_path, *args, "--trials", 3, "--extend")
    play(comply, tmp_path, *args, "--trials", 3, "--extend")  # adds nothing
    play(comply, tmp_path, *args, "--trials", 3)
    play(comply, tmp_path, *args, "--trials", 4, "--extend")
    assert [look["trials"] for look in run_record(tmp_path)["looks"]] == [2, 3]
    assert all(look["at"] for look in run_record(tmp_path)["looks"])
    assert run_record(tmp_path)["settings"]["trials"] == 4
    assert run_record(tmp_path)["session"] == 5


def test_what_comes_in_with_an_extension_was_not_there_to_be_looked_at(tmp_path: Path) -> None:
    """Only cells that had trials before are extended: a new one has its number fixed beforehand."""
    args = ("--concurrency", 2, "--no-probe")
    play(varied, tmp_path, "--conditions", "A", *args, "--trials", 2)
    play(varied, tmp_path, "--conditions", "A,E", *args, "--trials", 4, "--extend")
    found = {cell["condition"]: cell["interval"] for cell in compared(tmp_path)["cells"]}
    assert found == {"A": "anytime", "E": "jeffreys"}
    play(varied, tmp_path, "--conditions", "A,E", *args, "--trials", 5, "--extend")
    found = {cell["condition"]: cell["interval"] for cell in compared(tmp_path)["cells"]}
    assert found == {"A": "anytime", "E": "anytime"}


def test_errors_that_were_played_again_are_counted_and_said(tmp_path: Path) -> None:
    """Long episodes meet more errors, so playing those again exchanges long ones for any."""
    asked = 0

    def policy(messages: Messages) -> scripted.Answer:
        nonlocal asked
        asked += turn(messages) == 0
        if asked in (2, 3):
            return scripted.http_error(400, "no")(messages)  # type: ignore[return-value]
        return varied(messages)

    args = ("--conditions", "E", "--trials", 4, "--concurrency", 1, "--no-probe")
    assert play(policy, tmp_path, *args).exit_code == 1
    (cell,) = compared(tmp_path)["cells"]
    assert (cell["n"], cell["errors"], cell["retried"]) == (2, 2, 0)
    assert play(varied, tmp_path, *args, "--retry-errors").exit_code == 0
    (cell,) = compared(tmp_path)["cells"]
    assert (cell["n"], cell["errors"], cell["retried"], cell["complete"]) == (4, 0, 2, True)
    assert [s["trial"] for s in starts(tmp_path) if s.get("retry")] == [1, 2]
    assert begun(tmp_path) == [0, 1, 2, 3]
    said = cli("compare", tmp_path).stdout
    assert "2 plays ended in an error and were played again" in said
    assert "between 0.0 and 33.3" in said
