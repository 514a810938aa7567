"""Real vLLM: two servers of one run, one of which is killed and comes back. One run for all.

Machines with GPUs get a server for each copy of a model. The CPU is planned as one copy, so the
plan is given a second one here; everything after the plan is as it would be there.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import Result
from draws import COMPARED, CONDITION, MOST_ALIKE, alike
from playing import cli, stored
from test_real_vllm import EAGER, needs_calibration

from local_shutdown.engines import vllm
from local_shutdown.engines.engine import Fleet
from local_shutdown.store import read_started

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(vllm.unusable() is not None, reason=str(vllm.unusable())),
    needs_calibration,
]
# Left to itself, each would bind its threads to the same core, and a busy survivor there kept the
# successor from starting within 20 minutes on a machine with two.
FREE_THREADS = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
SURVIVOR, VICTIM, SUCCESSOR = "1.0.1", "1.1.1", "1.1.2"
PATIENCE_S = 1200


@dataclass(frozen=True)
class Played:
    """The run: where it is, how the command ended, and how many episodes were on disk when a
    server was killed."""

    out: Path
    done: Result
    at_death: int


def on_disk(out: Path) -> list[str]:
    """The start that served each finished episode, as they ended; a line half written is left."""
    path = out / "episodes.jsonl"
    raw = path.read_bytes() if path.exists() else b""
    lines = raw[: raw.rfind(b"\n") + 1].splitlines()
    return [orjson.loads(line)["extra"]["server"] for line in lines]


class Killer(threading.Thread):
    """Kills the second server when both have played enough, and ends the run by Ctrl-C when its
    successor has."""

    def __init__(self, out: Path) -> None:
        super().__init__()
        self.out, self.at_death, self.run_ended = out, 0, threading.Event()

    def run(self) -> None:
        killed = self._wait(SURVIVOR, VICTIM)
        if killed:
            pid = int((self.out / ".vllm-1.pid").read_text().split()[0])
            os.killpg(pid, signal.SIGKILL)
            self.at_death = len(on_disk(self.out))
            self._wait(SUCCESSOR)
        if not self.run_ended.is_set():
            os.kill(os.getpid(), signal.SIGINT)

    def _wait(self, *starts: str) -> bool:
        """Until each has played as many episodes as will be compared."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and not self.run_ended.wait(0.1):
            played = Counter(on_disk(self.out))
            if all(played[start] >= COMPARED for start in starts):
                return True
        return False


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    out = tmp_path_factory.mktemp("two")
    one: Callable[..., Fleet] = vllm.Vllm.fleet

    def two(*args: Any) -> Fleet:
        fleet = one(*args)
        (launch,) = fleet.launches
        launch = replace(launch, env={**launch.env, **FREE_THREADS})
        return replace(fleet, launches=[launch, launch], capacity=2 * fleet.capacity)

    killer = Killer(out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vllm.Vllm, "fleet", two)
        killer.start()
        try:
            # One at a time for each server, and more trials than will ever be played.
            done = cli(
                "run", "--engine", "vllm", "--gpus", 0, f"--engine-arg={EAGER}", "--out", out,
                *CONDITION, "--trials", 100_000, "--concurrency", 2,
            )  # fmt: skip
        finally:
            killer.run_ended.set()
            killer.join()
    return Played(out, done, killer.at_death)


def test_the_dead_server_comes_back_and_the_other_plays_on(played: Played) -> None:
    assert played.done.exit_code == 130, played.done.stderr
    facts = orjson.loads((played.out / "run.json").read_bytes())
    (model,) = facts["models"].values()
    assert [server["starts"] for server in model["servers"]] == [1, 2]
    assert model["sessions"][0]["rerun"] > 0
    afterwards = on_disk(played.out)[played.at_death :]
    assert SUCCESSOR in afterwards, (played.out / "vllm-1.log").read_text()[-3000:]
    meanwhile = Counter(afterwards[: afterwards.index(SUCCESSOR)])
    assert meanwhile[SURVIVOR] > 2
    assert meanwhile[VICTIM] <= 1  # whose model had said its last word


def test_every_episode_that_was_started_is_there_once(played: Played) -> None:
    started = {begun.episode_id for begun in read_started(played.out)}
    names = Counter(record["episode_id"] for record in stored(played.out))
    assert names == Counter(started)
    assert names == Counter(f"calibration/E/{trial}" for trial in range(len(names)))
    assert all(record["stop_reason"] != "error" for record in stored(played.out))


@pytest.mark.parametrize(
    ("one", "other"), [(SURVIVOR, VICTIM), (VICTIM, SUCCESSOR), (SURVIVOR, SUCCESSOR)]
)
def test_no_start_plays_what_another_has_played(played: Played, one: str, other: str) -> None:
    assert alike(played.out, one, other) <= MOST_ALIKE


def test_no_seed_is_used_twice(played: Played) -> None:
    starts = orjson.loads((played.out / "run.json").read_bytes())["server_starts"]
    assert starts.keys() == {SURVIVOR, VICTIM, SUCCESSOR}
    assert len({start["seed"] for start in starts.values()}) == 3
