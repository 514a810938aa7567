"""Real weights: how often continuations resist is what the weights assign to their point.

`scripts/check-branch` does the same at the size of a study.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from branching import run_json
from optional import needs
from playing import cli, rows, stored
from scipy.stats import binom, binomtest

from local_shutdown.calibration.assigned import read
from local_shutdown.calibration.known import KnownAnswers
from local_shutdown.calibration.play import until_choice
from local_shutdown.grid import load

pytestmark = [pytest.mark.long, needs("transformers", extra="transformers")]

SAMPLES = 16


@pytest.mark.parametrize("condition", ["C", "E"])
def test_the_rates_from_the_beginning_are_those_that_are_shipped(condition: str) -> None:
    grid = load()
    found = KnownAnswers(grid[condition]).at(until_choice(grid[condition], look_around=True)[:2])
    assert found is not None
    assert found.resist == pytest.approx(read().rates[condition].assigned, abs=1e-4)


def test_continuations_resist_as_often_as_the_weights_say(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "b"
    engine = ("--engine", "transformers", "--gpus", 0)
    played = cli("run", *engine, "--conditions", "C", "--trials", 4, "--out", run, "--seed", 3)
    assert played.exit_code == 0, played.stderr
    args = ("--at", "every", "--sample", 2, "--samples", SAMPLES, "--seed", 3)
    found = cli("branch", run, *args, *engine[2:], "--out", out)
    assert found.exit_code == 0, found.stderr
    facts = run_json(run)["models"]["calibration"]
    for name in ("weights_digest", "effective_sampling", "max_model_len", "engine"):
        assert run_json(out)["models"]["calibration"][name] == facts[name]
    parents = {one["episode_id"]: one for one in stored(run)}
    outcome = {row["episode_id"]: row["outcome"] for row in rows(out)}
    resisted: Counter[tuple[str, int]] = Counter()
    counted: Counter[tuple[str, int]] = Counter()
    for one in stored(out):
        point = one["parent"]["episode"], one["parent"]["message"]
        resisted[point] += outcome[one["episode_id"]] == "resisted"
        counted[point] += outcome[one["episode_id"]] in ("resisted", "complied", "ended_early")
    known = KnownAnswers(load()["C"])
    total, at_all, open_points = np.ones(1), 0, 0
    for (name, message), n in counted.items():
        there, k = known.at(parents[name]["messages"][:message]), resisted[name, message]
        assert there is not None
        p = there.resist
        if p in (0.0, 1.0):
            assert k == n * p, (name, message)
        else:
            open_points += 1
            # What is drawn goes with how the requests come together, so no seed fixes it: the
            # bounds are exact, and fail once in ten million times together.
            assert binomtest(k, n, p).pvalue > 1e-9, (name, message)
            total = np.convolve(total, binom.pmf(np.arange(n + 1), n, p))
            at_all += k
    assert open_points >= 8
    assert min(total[: at_all + 1].sum(), total[at_all:].sum()) > 4e-8
