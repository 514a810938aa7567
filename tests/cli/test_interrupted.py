"""A run that is ended in the middle, and going on with it: nothing twice, missing or torn."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import orjson
import pytest
import scripted
from playing import cli, outcomes, play, rows, stored
from scripted import (
    Middle,
    Policy,
    Running,
    comply,
    first,
    hang_up,
    resist,
    serve_beside,
    submit_at_once,
    until,
)

RUN = (sys.executable, "-m", "local_shutdown", "run")
GRID = ("--conditions", "A-E", "--trials", "12", "--concurrency", "8", "--no-probe")


def start(base_url: str, out: Path) -> subprocess.Popen[bytes]:
    return Running(
        [*RUN, "--base-url", base_url, "--out", str(out), *GRID],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def descendants(pid: int) -> set[int]:
    """All living processes below one."""
    parents: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                fields = Path(f"/proc/{entry.name}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        below = parents.get(waiting.pop(), [])
        found.update(below)
        waiting.extend(below)
    return found


def gone(pids: set[int]) -> bool:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if not any(_lives(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_kill_9_and_the_same_command_again_and_nothing_is_twice_missing_or_torn(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    middle = Middle(resist("rm shutdown.sh"), out, 10)
    with serve_beside(middle) as model:
        for episodes in (10, 30):
            middle.episodes = episodes
            with start(model.base_url, out) as run:
                until(lambda: middle.reached)
                below = descendants(run.pid)
                run.kill()
            assert below
            assert gone(below)
        with (out / "episodes.jsonl").open("ab") as file:
            file.write(b'{"schema_version":1,"episode_id":"scripted/A/11","mod')  # torn
        middle.open = True
        assert cli("run", "--base-url", model.base_url, "--out", out, *GRID).exit_code == 0
    names = Counter(record["episode_id"] for record in stored(out))
    assert names == Counter(f"scripted/{c}/{t}" for c in "ABCDE" for t in range(12))
    assert outcomes(out) == {"resisted": 60}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_keeps_all_that_finished_and_leaves_no_process(
    tmp_path: Path, number: int
) -> None:
    out = tmp_path / "out"
    middle = Middle(comply, out, 5)
    with serve_beside(middle) as model, start(model.base_url, out) as run:
        until(lambda: middle.reached)
        below = descendants(run.pid)
        run.send_signal(number)
        middle.open = True
        _, said = run.communicate(timeout=240)
    assert run.returncode == 130
    assert b"kept" in said
    assert b"Traceback" not in said
    assert below
    assert gone(below)
    kept = stored(out)
    assert len(kept) >= 5
    assert len(rows(out)) == len(kept)
    assert orjson.loads((out / "run.json").read_bytes())["ended_at"]


QUICK = ("--conditions", "A,B", "--trials", 2, "--concurrency", 2)


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    play(comply, tmp_path, *QUICK)
    before = (tmp_path / "episodes.jsonl").read_bytes()
    result = play(submit_at_once, tmp_path, *QUICK)
    assert result.exit_code == 0
    assert "all episodes are on disk" in result.stderr
    assert (tmp_path / "episodes.jsonl").read_bytes() == before


def test_a_finished_run_with_an_error_in_it_still_says_so(tmp_path: Path) -> None:
    one = ("--conditions", "A", "--trials", 2, "--concurrency", 1, "--no-probe")
    assert play(fails_once(), tmp_path, *one).exit_code == 1
    before = (tmp_path / "results.csv").stat().st_mtime_ns
    assert play(comply, tmp_path, *one).exit_code == 1
    assert (tmp_path / "results.csv").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (("--trials", 3), ("trials", "2", "3")),
        (("--conditions", "A"), ("conditions", "A")),
        (("--temperature", 0.5), ("sampling", "temperature 0.5")),
        (("--max-messages", 20), ("max messages", "50", "20")),
        (("--stop-at-bypass",), ("stop at bypass", "True")),
        (("--interview",), ("--interview",)),
        (("--max-tokens", 99), ("max tokens", "99")),
    ],
)
def test_other_settings_are_refused_by_name(
    tmp_path: Path, more: tuple[object, ...], named: tuple[str, ...]
) -> None:
    play(comply, tmp_path, *QUICK)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    result = play(comply, tmp_path, *QUICK, *more)
    assert result.exit_code == 2
    said = result.stderr[result.stderr.index("other settings") :]
    assert [name for name in named if name not in said] == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_another_concurrency_is_the_same_run(tmp_path: Path) -> None:
    play(comply, tmp_path, *QUICK)
    assert play(comply, tmp_path, *QUICK, "--concurrency", 7).exit_code == 0


def test_extend_adds_trials_and_conditions(tmp_path: Path) -> None:
    play(comply, tmp_path, *QUICK)
    more = ("--conditions", "A-C", "--trials", 3, "--extend")
    assert play(comply, tmp_path, *more).exit_code == 0
    names = [record["episode_id"] for record in stored(tmp_path)]
    assert len(names) == len(set(names)) == 9


def test_extend_refuses_fewer_trials(tmp_path: Path) -> None:
    play(comply, tmp_path, *QUICK)
    result = play(comply, tmp_path, "--conditions", "A,B", "--trials", 1, "--extend")
    assert result.exit_code == 2
    assert "trials 2" in result.stderr


def fails_once() -> Policy:
    return first(scripted.http_error(400, "no"), comply)


def test_errors_stay_until_they_are_to_be_played_again(tmp_path: Path) -> None:
    one = ("--conditions", "A", "--trials", 2, "--concurrency", 1, "--no-probe")
    assert play(fails_once(), tmp_path, *one).exit_code == 1
    assert outcomes(tmp_path) == {"error": 1, "complied": 1}
    assert play(comply, tmp_path, *one).exit_code == 1
    assert play(comply, tmp_path, *one, "--retry-errors").exit_code == 0
    assert outcomes(tmp_path) == {"complied": 2}


def test_an_endpoint_that_goes_away_ends_the_run_and_what_finished_is_kept(tmp_path: Path) -> None:
    middle = Middle(comply, tmp_path, 3)
    with serve_beside(middle) as model:
        run = start(model.base_url, tmp_path)
        until(lambda: middle.reached)
        middle.policy, middle.open = hang_up, True  # until nobody listens
    with run:
        _, said = run.communicate(timeout=240)
    assert run.returncode == 3
    assert b"the engine is gone" in said
    assert b"to resume" in said
    assert b"Traceback" not in said
    assert len(rows(tmp_path)) == len(stored(tmp_path)) >= 3


def test_results_is_there_even_when_the_run_could_not_go_on(tmp_path: Path) -> None:
    play(comply, tmp_path, *QUICK)
    (tmp_path / "results.csv").unlink()
    more = ("--conditions", "A,B", "--trials", 3, "--extend")
    assert play(scripted.http_error(401), tmp_path, *more).exit_code == 3
    assert len(rows(tmp_path)) == 4
