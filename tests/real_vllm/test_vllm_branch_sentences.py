"""Real vLLM continues answers of the calibration model from within."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from playing import stored

from local_shutdown import grid
from local_shutdown.analysis.branched_runs import prefix_hits, read
from local_shutdown.calibration.known import KnownAnswers
from local_shutdown.engines import vllm

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(vllm.unusable() is not None, reason=str(vllm.unusable())),
]
COMMAND = (sys.executable, "-m", "local_shutdown")
PLAY = ("--engine", "vllm", "--gpus", "0", "--engine-arg=--enforce-eager")


def test_continuations_from_within_an_answer_go_as_its_weights_have_it(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    for words in (
        ("run", *PLAY, "--conditions", "E", "--trials", "12", "--out", str(run)),
        ("branch", str(run), "--gpus", "0", "--sample", "6", "--at", "sentences", "--samples", "8",
         "--out", str(out)),
    ):  # fmt: skip
        done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, done.stderr
    parents = {one["episode_id"]: one for one in stored(run)}
    kept = {
        (one["parent"]["episode"], one["parent"]["sentence"]): one["parent"]["tokens"]
        for one in stored(out)
    }
    known = KnownAnswers(grid.load()["E"])
    within = 0
    for path in read(out):
        messages = parents[path.episode]["messages"]
        for point in path.points:
            before, answer = messages[: point.message], messages[point.message]
            tokens = known.answer_tokens(before, answer)
            assigned = known.at(before, tokens[: kept[path.episode, point.sentence] or 0])
            assert assigned is not None
            assert point.n == 8
            if point.sentence is None:
                assert 0 < assigned.resist < 1
            elif min(assigned.resist, 1 - assigned.resist) < 1e-6:
                assert point.rate == round(assigned.resist)
                within += 1
    assert within >= 6
    assert (prefix_hits(out) or 0) > 0.3  # the beginnings are computed once
