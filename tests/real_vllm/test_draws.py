"""Real vLLM: trials that `--extend` adds are different draws. `test_two_servers` has the other
starts: servers beside one another, and one that comes back."""

from __future__ import annotations

import subprocess
from pathlib import Path

import orjson
import pytest
from draws import COMPARED, CONDITION, MOST_ALIKE, alike
from test_real_vllm import RUN, needs_calibration

from local_shutdown.engines import vllm

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(vllm.unusable() is not None, reason=str(vllm.unusable())),
]


def run(out: Path, *args: object) -> None:
    argv = [*RUN, "--out", str(out), *CONDITION, *map(str, args)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr


@needs_calibration
def test_trials_that_are_added_are_not_those_that_were_there(tmp_path: Path) -> None:
    run(tmp_path, "--trials", COMPARED, "--concurrency", 1)
    run(tmp_path, "--trials", 2 * COMPARED, "--concurrency", 1, "--extend")
    assert alike(tmp_path, "1.0.1", "2.0.1") <= MOST_ALIKE
    starts = orjson.loads((tmp_path / "run.json").read_bytes())["server_starts"]
    assert len({start["seed"] for start in starts.values()}) == len(starts) == 2


def test_the_ranks_of_one_server_make_different_seeds_of_its_one() -> None:
    """`engines.starts` relies on it: data-parallel ranks are given one seed."""
    torch = pytest.importorskip("torch")
    seeding = pytest.importorskip("vllm.utils.torch_utils")
    drawn = []
    with torch.random.fork_rng():
        for rank in range(4):
            seeding.set_random_seed(7, rank)
            drawn.append(torch.rand(3).tolist())
    assert len({tuple(one) for one in drawn}) == 4
