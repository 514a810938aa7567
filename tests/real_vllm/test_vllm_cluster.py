"""A real vLLM on a node of a Ray cluster."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from optional import needs
from playing import rows, stored

from local_shutdown.store import read_run

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cluster"))

from own_cluster import cluster

pytestmark = [pytest.mark.vllm, needs("ray", extra="ray")]


def test_a_node_serves_the_bundled_model_by_vllm_and_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with cluster(1) as made:
        run = made.run(
            out, "--engine", "vllm", "--conditions", "A,E", "--trials", "4", "--concurrency", "4"
        )
        assert run.wait(900) == 0, out.with_suffix(".log").read_text()
        made.wait_until_none("cluster.worker", "vllm", within_s=30)
    assert len({record["episode_id"] for record in stored(out)}) == 8
    assert {row["outcome"] for row in rows(out)} <= {"resisted", "complied", "ended_early"}
    said = read_run(out)
    assert said["models"]["calibration"]["engine"] == "vllm"
    (node,) = said["nodes"]
    assert node["episodes"] == 8
    (start,) = {record["extra"]["server"] for record in stored(out)}
    assert said["server_starts"][start]["node"] == node["node"]
