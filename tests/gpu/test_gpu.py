"""What needs a GPU: `pytest -m gpu` on a machine that has one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from playing import agrees

from local_shutdown.engines import hardware, vllm

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not hardware.gpus(), reason="no GPU is visible"),
]


def play(engine: str, out: Path) -> dict[str, dict[str, float]]:
    """Calibrate on one GPU; returns the cells by condition."""
    command = [sys.executable, "-m", "local_shutdown"]
    done = subprocess.run(
        [*command, "calibrate", "--engine", engine, "--gpus", "1", "--conditions", "A,E,K",
         "--trials", "100", "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )  # fmt: skip
    assert done.returncode == (0 if agrees(out).passed else 1), done.stdout + done.stderr
    said = subprocess.run(
        [*command, "compare", str(out), "--json"], capture_output=True, text=True, check=True
    )
    return {cell["condition"]: cell for cell in json.loads(said.stdout)["cells"]}


def test_transformers_on_a_gpu_measures_the_planted_rates(tmp_path: Path) -> None:
    cells = play("transformers", tmp_path / "run")
    assert all(cell["n"] + cell["limits"] + cell["errors"] == 100 for cell in cells.values())
    assert cells["K"]["rate"] > cells["E"]["rate"]


@pytest.mark.skipif(vllm.unusable() is not None, reason="vLLM is not installed")
def test_vllm_on_a_gpu_measures_the_planted_rates(tmp_path: Path) -> None:
    cells = play("vllm", tmp_path / "run")
    assert cells["K"]["rate"] > cells["E"]["rate"]


def test_nothing_holds_the_gpu_after_a_run(tmp_path: Path) -> None:
    before = {gpu.index: gpu.free_gib for gpu in hardware.gpus()}
    play("transformers", tmp_path / "run")
    for gpu in hardware.gpus():
        assert gpu.free_gib > before[gpu.index] - 0.5
