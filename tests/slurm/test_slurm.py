"""The array of shards of scripts/slurm under a real Slurm: `scripts/test-slurm` runs this, as root,
where Debian's packages slurm-wlm, munge and iproute2 are; it takes some minutes."""

from __future__ import annotations

import re
import time
from collections import Counter

import cluster
import orjson
import pytest
from jobs import TRIALS, Jobs, until
from playing import agrees

from local_shutdown.analysis.collect import gather, open_sources
from local_shutdown.runs import planned_ids
from local_shutdown.store import read_run, read_started

WHY_NOT = cluster.missing()
pytestmark = [
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
    pytest.mark.slurm,
]


def test_an_array_of_shards_with_a_requeue_and_a_time_limit_has_every_episode_once(
    jobs: Jobs,
) -> None:
    small = ("--array=1-2", "--cpus-per-task=1", "--gpus-per-node=0", "--time=60")
    job = jobs.submit("array.sbatch", *small, "--signal=B:USR1@90")
    last = jobs.submit("merge.sbatch", f"--dependency=afterany:{job}")

    # One is cancelled and requeued in the middle.
    until(lambda: jobs.played(1) >= 10, "shard 1 plays")
    jobs.say("scontrol", "requeue", f"{job}_1")
    # One comes to its time limit in the middle.
    until(lambda: jobs.played(2) >= 10, "shard 2 plays")
    had = time.monotonic()
    jobs.say("scontrol", "update", f"JobId={job}_2", f"TimeLimit={_minutes(jobs, job) + 2}")
    until(lambda: "back into the queue" in jobs.log(job, 2), "the time limit's signal")
    assert time.monotonic() - had < 200  # by the signal, and not at the limit
    until(lambda: jobs.show(f"{job}_2")["JobState"] == "PENDING", "shard 2 is in the queue again")
    jobs.say("scontrol", "update", f"JobId={job}_2", "TimeLimit=60")

    until(lambda: jobs.show(last)["JobState"] not in ("PENDING", "RUNNING"), "the merge")
    merged = jobs.out / "merged"
    log = (jobs.logs / f"local-shutdown-merge-{last}.log").read_text()
    assert jobs.show(last)["JobState"] == "COMPLETED", log
    run = read_run(merged)
    lines = (merged / "episodes.jsonl").read_bytes().splitlines()
    ids = Counter(orjson.loads(line)["episode_id"] for line in lines)
    assert set(ids) == set(planned_ids(run["settings"]))
    assert set(ids.values()) == {1}
    assert len(ids) == 3 * TRIALS
    parts = {part["shard"]: part for part in run["merged"]["parts"]}
    assert all(parts[name]["session"] >= 2 for name in ("1/2", "2/2")), parts
    # Both were drained: what was in flight was played to its end, and nothing was broken off.
    assert not [started for started in read_started(merged) if started.again]
    for node in run["nodes"]:  # machines are told apart, without their names
        assert re.fullmatch(r"[0-9a-f]{8}(, [0-9a-f]{8})*", node["host"])
    cells = gather(open_sources([merged]))
    assert {cell.n + (cell.outside or 0) for cell in cells} == {TRIALS}
    agrees(merged)
    assert not jobs.hosts.running()


def _minutes(jobs: Jobs, job: str) -> int:
    """For how long shard 2 has been running."""
    said = jobs.say("squeue", "-h", "-r", "-j", f"{job}_2", "-o", "%M")
    parts = [int(part) for part in said.split(":")]
    return parts[-2] + (60 * parts[-3] if len(parts) > 2 else 0)
