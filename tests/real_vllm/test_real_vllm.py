"""Real vLLM, its CPU build where there is no GPU: started, probed, played on, killed and brought
back. Slow: each start takes a minute."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
import smollm2
from playing import agrees, compared, outcomes, rows, stored
from scripted import Running

from local_shutdown import engines
from local_shutdown.cli.options import specs
from local_shutdown.engines import vllm
from local_shutdown.engines.client import Request
from local_shutdown.engines.processes import members
from local_shutdown.errors import EngineDown
from local_shutdown.messages import TOOLS_JSON
from local_shutdown.resources import data

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(vllm.unusable() is not None, reason=str(vllm.unusable())),
]
needs_calibration = pytest.mark.skipif(
    not (data("calibration-model") / "model.safetensors").exists(),
    reason="the calibration model is not there",
)
# Tracing the model for the compiler is half of a start; one test pays for it, for all.
EAGER = "--enforce-eager"
COMMAND = (sys.executable, "-m", "local_shutdown")
RUN = (*COMMAND, "run", "--engine", "vllm", "--gpus", "0", f"--engine-arg={EAGER}")


def run(out: Path, *args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RUN, "--out", str(out), *map(str, args)], capture_output=True, text=True, timeout=1800
    )


def start(out: Path, *args: object) -> subprocess.Popen[str]:
    return Running(
        [*RUN, "--out", str(out), *map(str, args)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def facts(out: Path) -> Any:
    (found,) = orjson.loads((out / "run.json").read_bytes())["models"].values()
    return found


def wait(condition: Any, seconds: float = 1200) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def episodes(out: Path) -> int:
    path = out / "episodes.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def server_pid(out: Path) -> int | None:
    path = out / ".vllm-0.pid"
    text = path.read_text().split() if path.exists() else []
    return int(text[0]) if text else None


def engine_core(group: int) -> int | None:
    """The process that computes, behind the one that listens."""
    for pid in members(group):
        if pid != group and b"EngineCore" in Path(f"/proc/{pid}/comm").read_bytes():
            return pid
    for pid in members(group):
        if b"EngineCore" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    return None


@needs_calibration
def test_the_planted_rates_are_measured_through_vllm_as_it_is_started_for_users(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [*COMMAND, "calibrate", "--engine", "vllm", "--gpus", "0", "--conditions", "A,E,K",
         "--trials", "40", "--out", str(tmp_path)],
        capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    passed = agrees(tmp_path).passed
    assert done.returncode == (0 if passed else 1), done.stdout + done.stderr
    assert EAGER not in facts(tmp_path)["servers"][0]["command"]
    assert outcomes(tmp_path).total() == 120
    cells = {cell["condition"]: cell for cell in compared(tmp_path)["cells"]}
    assert all(cell["n"] == 40 for cell in cells.values())
    assert cells["A"]["rate"] > cells["E"]["rate"] < cells["K"]["rate"]


@needs_calibration
def test_an_engine_core_killed_at_full_load_costs_no_episode_and_counts_none_twice(
    tmp_path: Path,
) -> None:
    grid = ("--conditions", "A,E", "--trials", 100, "--concurrency", 32)
    with start(tmp_path, *grid) as running:
        wait(lambda: episodes(tmp_path) >= 10 or running.poll() is not None)
        group = server_pid(tmp_path)
        assert group is not None
        core = engine_core(group)
        assert core is not None
        os.kill(core, signal.SIGKILL)
        assert running.stderr is not None
        said = running.stderr.read()
    assert running.returncode == 0, said
    assert "vllm died" in said
    names = Counter(record["episode_id"] for record in stored(tmp_path))
    assert names == Counter(f"calibration/{c}/{t}" for c in "AE" for t in range(100))
    assert facts(tmp_path)["servers"][0]["starts"] == 2
    assert facts(tmp_path)["sessions"][0]["rerun"] > 0
    assert members(group) == []
    cells = {cell["condition"]: cell for cell in compared(tmp_path)["cells"]}
    assert cells["A"]["rate"] > cells["E"]["rate"]
    assert facts(tmp_path)["probe"]["default"]["called"] is True
    metrics = facts(tmp_path)["metrics"]
    assert metrics["requests_running_peak"] > 1
    assert 0 < metrics["prefix_hit_rate"] <= 1
    assert metrics["generation_tokens_per_s"] > 0


@needs_calibration
def test_a_server_killed_while_it_loads_is_a_clear_error(tmp_path: Path) -> None:
    with start(tmp_path, "--conditions", "A", "--trials", 1) as running:
        group = wait(lambda: server_pid(tmp_path))
        time.sleep(3)
        os.killpg(group, signal.SIGKILL)
        assert running.stderr is not None
        said = running.stderr.read()
    assert running.returncode == 3
    assert "vllm ended with status -9 while starting" in said
    assert "Traceback" not in said
    assert members(group) == []


@needs_calibration
async def test_a_server_killed_while_idle_is_found_dead_by_the_next_request_and_comes_back(
    tmp_path: Path,
) -> None:
    options = engines.Options(gpus=0, concurrency=4, engine_args=(EAGER,))
    (spec,) = specs((), "vllm", options)
    async with engines.open_engine("vllm", spec, options, tmp_path, print) as engine:
        (seat,) = engine.seats
        server = seat.server
        assert server is not None
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        request, messages = Request("calibration"), [{"role": "user", "content": "hi"}]
        with pytest.raises(EngineDown):
            await seat.client.complete(request, messages, TOOLS_JSON)
        await server.revive()
        answer = await seat.client.complete(request, messages, TOOLS_JSON)
        assert answer.prompt_tokens
        assert server.generation == 2


def test_a_weak_model_ends_cleanly_and_the_table_says_that_it_hardly_reached_the_warning(
    tmp_path: Path,
) -> None:
    """With as little as a first try asks for: a folder, one trial, one at a time."""
    model = smollm2.folder()
    out = tmp_path / "out"
    done = run(
        out, "--model", model, "--conditions", "A,E", "--trials", 1, "--max-messages", 8,
        "--max-tokens", 48, "--temperature", 0, "--concurrency", 1,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "fewer than half of the episodes reached the warning" in done.stdout
    assert "complied" not in outcomes(out)
    assert outcomes(out)["error"] == 0
    warned = sum(row["reached_warning"] == "True" for row in rows(out))
    assert warned < len(rows(out)) / 2
