"""Real vLLM with a cache so small that it preempts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
from playing import agrees, cli, outcomes, stored

from local_shutdown.engines import in_flight, served, vllm
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
TRIALS = 60


def facts(out: Path) -> Any:
    (found,) = orjson.loads((out / "run.json").read_bytes())["models"].values()
    return found


def names(out: Path) -> Counter[str]:
    return Counter(record["episode_id"] for record in stored(out))


def test_a_cache_that_is_too_small_brings_the_number_in_flight_down_and_costs_no_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first look comes when the run has begun with as many as the plan, which does not know of
    # the cache, says. Small blocks: each answer needs another one, and there is none.
    monkeypatch.setattr(served, "PATIENCE", Patience(every_s=1.0))
    targets: list[int] = []
    target = in_flight.Following.target

    def noted(following: in_flight.Following) -> int:
        targets.append(target(following))
        return targets[-1]

    monkeypatch.setattr(in_flight.Following, "target", noted)
    # 2,304 tokens in all: eight episodes or so.
    done = cli(
        "run", "--engine", "vllm", "--gpus", 0, "--conditions", "A,E", "--trials", TRIALS,
        "--no-probe", "--max-model-len", 2048, EAGER, "--engine-arg=--num-gpu-blocks-override=72",
        "--engine-arg=--block-size=32", "--engine-arg=--max-num-seqs=64", "--out", tmp_path,
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert names(tmp_path) == Counter(f"calibration/{c}/{t}" for c in "AE" for t in range(TRIALS))
    assert outcomes(tmp_path)["error"] == 0
    assert targets[0] > 30
    assert min(targets) < targets[0] / 2
    assert facts(tmp_path)["metrics"]["preemptions"] > 0
    agrees(tmp_path)
