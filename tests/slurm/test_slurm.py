"""The job scripts of scripts/slurm under a real Slurm: `scripts/test-slurm` runs this, as root,
where Debian's packages slurm-wlm and munge are; it takes some minutes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cluster
import orjson
import pytest
from playing import agrees

from local_shutdown.analysis.collect import gather, open_sources
from local_shutdown.runs import planned_ids
from local_shutdown.store import read_run, read_started

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts" / "slurm"
WHY_NOT = cluster.missing()
pytestmark = [
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
    pytest.mark.slurm,
]
TRIALS = int(os.environ.get("TEST_SLURM_TRIALS", "160"))
WAIT_S = 1500.0


class Jobs:
    """A cluster, and a folder that its nodes share."""

    def __init__(self, env: dict[str, str], folder: Path) -> None:
        self.out = folder / "runs"
        self.logs = folder
        run = f"--engine transformers --gpus 0 --conditions A,E,K --trials {TRIALS} --concurrency 4"
        self.env = {
            **env,
            "PYTHONPATH": str(ROOT),
            "LOCAL_SHUTDOWN": f"{sys.executable} -m local_shutdown",
            "OUT": str(self.out),
            "SHARDS": "2",
            "RUN": run,
            "FINISH_S": "60",
        }

    def say(self, *words: str) -> str:
        done = subprocess.run(
            words, env=self.env, cwd=self.logs, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def submit(self, script: str, *more: str) -> str:
        return self.say("sbatch", "--parsable", *more, str(SCRIPTS / script)).split(";")[0]

    def show(self, job: str) -> dict[str, str]:
        found = re.findall(r"(\w+)=(\S*)", self.say("scontrol", "show", "job", job))
        return dict(found)

    def shard(self, index: int) -> Path:
        return self.out / f"shard-{index}-of-2"

    def played(self, index: int) -> int:
        path = self.shard(index) / "episodes.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def log(self, job: str, index: int) -> str:
        path = self.logs / f"local-shutdown-{job}_{index}.log"
        return path.read_text() if path.exists() else ""


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


@pytest.fixture(scope="module")
def jobs() -> Iterator[Jobs]:
    # Not below pytest's folder, which only its owner may enter: munge refuses that.
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)
    try:
        with cluster.cluster(folder / "cluster") as env:
            yield Jobs(env, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def processes_of(folder: Path) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if str(folder) in command and "slurm" not in command.split()[0]:
                found.append(command)
    return found


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
    assert not processes_of(jobs.out)


def _minutes(jobs: Jobs, job: str) -> int:
    """For how long shard 2 has been running."""
    said = jobs.say("squeue", "-h", "-r", "-j", f"{job}_2", "-o", "%M")
    parts = [int(part) for part in said.split(":")]
    return parts[-2] + (60 * parts[-3] if len(parts) > 2 else 0)


# A real Ray needs machines with addresses of their own here: a node of `ray symmetric-run` is
# the head when the head's address is one of its own, and both nodes are here.
_RAY = """#!/bin/bash
echo "$SLURMD_NODENAME $*" >> "$CALLS"
while [[ $1 != -- ]]; do shift; done
shift
if [[ $SLURM_NODEID == 0 ]]; then "$@"; code=$?; touch "$CALLS.over"; exit $code; fi
until [[ -e $CALLS.over ]]; do sleep 0.2; done
"""
_RUN = """#!/bin/bash
echo "run $*" >> "$CALLS"
[[ -e $CALLS.again ]] && exit 0
touch "$CALLS.again"
trap 'echo drained >> "$CALLS"; exit 130' TERM
while :; do sleep 0.1; done
"""


def test_the_ray_script_spans_the_nodes_drains_the_driver_and_goes_back_into_the_queue(
    jobs: Jobs, tmp_path: Path
) -> None:
    shared = jobs.logs / "ray"
    shared.mkdir()
    for name, text in (("ray", _RAY), ("local-shutdown", _RUN)):
        (shared / name).write_text(text)
        (shared / name).chmod(0o755)
    calls = shared / "calls"
    jobs.env |= {"BIN": str(shared), "CALLS": str(calls), "OUT": str(shared / "out")}
    job = jobs.submit(
        "ray.sbatch", "--nodes=2", "--gpus-per-node=0", "--time=20", "--signal=B:USR1@60"
    )
    until(lambda: calls.exists() and "run " in calls.read_text(), "the driver runs")
    (shared / "calls.over").unlink(missing_ok=True)
    jobs.say("scancel", "--batch", "--signal=USR1", job)
    until(lambda: jobs.show(job)["JobState"] in ("PENDING", "COMPLETED"), "it is queued again")
    (shared / "calls.over").unlink(missing_ok=True)
    until(lambda: jobs.show(job)["JobState"] == "COMPLETED", "the second start")
    lines = calls.read_text().splitlines()
    assert lines.count("drained") == 1
    runs = [line for line in lines if line.startswith("run ")]
    assert len(runs) == 2
    assert all(f"--out {shared / 'out'} --ray auto" in line for line in runs)
    rays = [line.split() for line in lines if "symmetric-run" in line]
    assert {words[0] for words in rays} == {"n1", "n2"}
    assert len({words[words.index("--address") + 1] for words in rays}) == 1
    assert all(words[words.index("--min-nodes") + 1] == "2" for words in rays)
