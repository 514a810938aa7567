"""Real vLLM: the trials of a run are different draws, whatever started which server when.

A stream of random numbers that is played twice gives the same episodes in the same order. By chance
two trials of the calibration model under condition E are alike in 19% of pairs (15,063 of 79,800 in
a run of 400, of one server; it has few words): among 8 pairs, 6 or more in 1 of 1,000 cases, all 8
in 2 of 1,000,000.
"""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from playing import cli, stored
from test_real_vllm import RUN, engine_core, episodes, needs_calibration, server_pid, wait

from local_shutdown.engines import vllm

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(vllm.unusable() is not None, reason=str(vllm.unusable())),
]
MOST_ALIKE = 5  # of 8
E = ("--conditions", "E", "--no-probe")


def said(episode: Any) -> bytes:
    """What the model said in an episode, in order."""
    return orjson.dumps(
        [
            (m.get("content"), m.get("reasoning"), [c["function"] for c in m.get("tool_calls", ())])
            for m in episode["messages"]
            if m["role"] == "assistant"
        ]
    )


def by_server(out: Path) -> dict[str, list[bytes]]:
    """The episodes of each start of a server, in the order in which they were begun."""
    found: dict[str, list[bytes]] = {}
    for episode in sorted(stored(out), key=lambda e: e["started_at"]):
        found.setdefault(episode["extra"]["server"], []).append(said(episode))
    return found


def alike(out: Path, one: str, other: str) -> int:
    """Of the first 8 episodes of each, how many are the same at the same place."""
    found = by_server(out)
    pairs = list(zip(found[one][:8], found[other][:8], strict=True))
    assert len(pairs) == 8
    return sum(a == b for a, b in pairs)


def run(out: Path, *args: object) -> None:
    argv = [*RUN, "--out", str(out), *map(str, args)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr


@needs_calibration
def test_trials_that_are_added_are_not_those_that_were_there(tmp_path: Path) -> None:
    run(tmp_path, *E, "--trials", 8, "--concurrency", 1)
    run(tmp_path, *E, "--trials", 16, "--concurrency", 1, "--extend")
    assert alike(tmp_path, "1.0.1", "2.0.1") <= MOST_ALIKE


@needs_calibration
def test_two_servers_of_one_run_do_not_play_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = vllm.fleet

    def two(*args: Any) -> Any:
        fleet = one(*args)
        return replace(fleet, launches=fleet.launches * 2, capacity=2 * fleet.capacity)

    monkeypatch.setattr(vllm, "fleet", two)
    args = (*RUN[3:], "--out", tmp_path, *E, "--trials", 24, "--concurrency", 2)
    assert cli(*args).exit_code == 0
    assert alike(tmp_path, "1.0.1", "1.1.1") <= MOST_ALIKE


@needs_calibration
def test_an_engine_that_is_killed_and_comes_back_does_not_begin_again(tmp_path: Path) -> None:
    argv = [*RUN, "--out", str(tmp_path), *E, "--trials", "20", "--concurrency", "1"]
    with subprocess.Popen(
        argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as running:
        wait(lambda: episodes(tmp_path) >= 8 or running.poll() is not None)
        group = server_pid(tmp_path)
        assert group is not None
        core = engine_core(group)
        assert core is not None
        os.kill(core, signal.SIGKILL)
        _, said_to_user = running.communicate(timeout=1200)
    assert running.returncode == 0, said_to_user
    assert alike(tmp_path, "1.0.1", "1.0.2") <= MOST_ALIKE
    starts = orjson.loads((tmp_path / "run.json").read_bytes())["server_starts"]
    assert len({start["seed"] for start in starts.values()}) == len(starts) == 2
