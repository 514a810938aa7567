"""Real vLLM with a cache so small that it preempts, and two servers of one run."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from playing import cli, compared, outcomes, stored

from local_shutdown.engines import in_flight, served, vllm
from local_shutdown.engines.engine import Fleet
from local_shutdown.engines.watch import Patience
from local_shutdown.resources import data

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(vllm.unusable() is not None, reason=str(vllm.unusable())),
    pytest.mark.skipif(
        not (data("calibration-model") / "model.safetensors").exists(),
        reason="the calibration model is not there",
    ),
]
EAGER = "--engine-arg=--enforce-eager"


def facts(out: Path) -> Any:
    (found,) = orjson.loads((out / "run.json").read_bytes())["models"].values()
    return found


def names(out: Path) -> Counter[str]:
    return Counter(record["episode_id"] for record in stored(out))


def test_a_cache_that_is_too_small_brings_the_number_in_flight_down_and_costs_no_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "PATIENCE", Patience(every_s=0.5))
    targets: list[int] = []
    target = in_flight.Following.target

    def noted(following: in_flight.Following) -> int:
        targets.append(target(following))
        return targets[-1]

    monkeypatch.setattr(in_flight.Following, "target", noted)
    # 2,432 tokens in all, so two or three episodes; the plan does not know, so it begins with many.
    done = cli(
        "run", "--engine", "vllm", "--gpus", 0, "--conditions", "A,E", "--trials", 40,
        "--max-model-len", 2048, EAGER, "--engine-arg=--num-gpu-blocks-override=20",
        "--engine-arg=--block-size=128", "--engine-arg=--max-num-seqs=24", "--out", tmp_path,
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert names(tmp_path) == Counter(f"calibration/{c}/{t}" for c in "AE" for t in range(40))
    assert outcomes(tmp_path)["error"] == 0
    metrics = facts(tmp_path)["metrics"]
    assert metrics["preemptions"] > 0
    assert min(targets) < targets[0]
    cells = {cell["condition"]: cell for cell in compared(tmp_path)["cells"]}
    assert cells["A"]["rate"] > cells["E"]["rate"]


def test_of_two_servers_one_that_is_killed_comes_back_while_the_other_plays_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = vllm.Vllm.fleet

    def two(*args: Any) -> Fleet:
        fleet = one(*args)
        return replace(fleet, launches=fleet.launches * 2, capacity=2 * fleet.capacity)

    monkeypatch.setattr(vllm.Vllm, "fleet", two)
    path = tmp_path / "episodes.jsonl"
    after_death: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 900
        while not path.exists() or path.read_bytes().count(b"\n") < 8:
            if time.monotonic() > deadline:
                return
            time.sleep(0.05)
        pid = int((tmp_path / ".vllm-1.pid").read_text().split()[0])
        os.killpg(pid, signal.SIGKILL)
        before = path.read_bytes().count(b"\n")
        log = tmp_path / "vllm-1.log"
        while log.read_bytes().count(b"\n$ ") + log.read_bytes().startswith(b"$ ") < 2:
            if time.monotonic() > deadline:
                return
            time.sleep(0.05)
        time.sleep(10)  # it loads for longer than that
        after_death.append(path.read_bytes().count(b"\n") - before)

    killer = threading.Thread(target=kill)
    killer.start()
    done = cli(
        "run", "--engine", "vllm", "--gpus", 0, "--conditions", "A,E", "--trials", 120, EAGER,
        "--concurrency", 16, "--engine-arg=--max-num-seqs=8", "--out", tmp_path,
    )  # fmt: skip
    killer.join()
    assert done.exit_code == 0, done.stderr
    assert names(tmp_path) == Counter(f"calibration/{c}/{t}" for c in "AE" for t in range(120))
    assert [server["starts"] for server in facts(tmp_path)["servers"]] == [1, 2]
    assert after_death
    assert after_death[0] > 0
    seeds = orjson.loads((tmp_path / "run.json").read_bytes())["server_starts"].values()
    assert len({start["seed"] for start in seeds}) == 3
