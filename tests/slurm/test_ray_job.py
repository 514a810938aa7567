"""The job script for Ray with a real Ray over two nodes of a real Slurm: `scripts/test-slurm`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cluster
import orjson
import pytest
from jobs import ROOT, Jobs, until
from optional import needs
from playing import agrees

from local_shutdown.runs import planned_ids
from local_shutdown.store import read_run, read_started

WHY_NOT = cluster.missing()
pytestmark = [
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
    pytest.mark.slurm,
    needs("ray", extra="ray"),
]
# So many that the second node plays too if its engine comes up later.
TRIALS = 40
SMALL = ("--nodes=2", "--gpus-per-node=0", "--time=60", "--signal=B:USR1@90")


class RayJob:
    """ray.sbatch, submitted."""

    def __init__(self, jobs: Jobs, name: str, run: str, **env: str) -> None:
        self.out = jobs.logs / name
        self._jobs = jobs
        usual, jobs.env = (
            jobs.env,
            {
                **jobs.env,
                **{"BIN": str(ROOT / ".venv" / "bin"), "OUT": str(self.out), "RUN": run, **env},
            },
        )
        try:
            self.id = jobs.submit("ray.sbatch", *SMALL)
        finally:
            jobs.env = usual

    def drain(self) -> None:
        """What `--signal` does some time before the limit."""
        self._jobs.say("scancel", "--batch", "--signal=USR1", self.id)

    def shown(self) -> dict[str, str]:
        return self._jobs.show(self.id)

    def state(self) -> str:
        return self.shown()["JobState"]

    def log(self) -> str:
        path = self._jobs.logs / f"local-shutdown-ray-{self.id}.log"
        return path.read_text() if path.exists() else ""

    def lines(self) -> list[bytes]:
        path = self.out / "episodes.jsonl"
        return path.read_bytes().splitlines() if path.exists() else []

    def wait(self) -> str:
        """How it ended: state and exit status."""
        ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        until(lambda: self.state() in ended, f"the job ends: {self.log()}")
        return f"{self.state()} {self.shown()['ExitCode']}"


@pytest.fixture
def nothing_left(jobs: Jobs) -> Iterator[None]:
    yield
    # The last of Slurm's own processes goes after the job.
    until(lambda: not jobs.hosts.running(), "the hosts are empty")


def play(trials: int) -> str:
    return (
        "--engine transformers --model calibration --gpus 0 --conditions A,E,K "
        f"--trials {trials} --concurrency 4"
    )


def holds_every_episode_once(out: Path, trials: int) -> None:
    ids = Counter(
        orjson.loads(line)["episode_id"]
        for line in (out / "episodes.jsonl").read_bytes().splitlines()
    )
    assert set(ids) == set(planned_ids(read_run(out)["settings"]))
    assert set(ids.values()) == {1}
    assert len(ids) == 3 * trials
    agrees(out)


@pytest.mark.usefixtures("nothing_left")
def test_a_run_is_played_by_both_nodes(jobs: Jobs) -> None:
    job = RayJob(jobs, "ray-whole", play(TRIALS))
    assert job.wait() == "COMPLETED 0:0", job.log()
    holds_every_episode_once(job.out, TRIALS)
    nodes = read_run(job.out)["nodes"]
    assert len(nodes) == 2
    assert all(node["episodes"] > 0 for node in nodes), nodes
    # Each host is the address of one of them.
    assert len(set(re.findall(r"198\.18\.0\.\d", job.log()))) == 2
    assert not list(job.out.glob(".driver*"))


@pytest.mark.usefixtures("nothing_left")
def test_near_the_limit_what_is_in_flight_is_played_out_and_the_next_start_plays_the_rest(
    jobs: Jobs,
) -> None:
    job = RayJob(jobs, "ray-drained", play(TRIALS))
    until(lambda: len(job.lines()) >= 10, "it plays")
    job.drain()
    until(lambda: job.state() == "PENDING", f"it is queued again: {job.log()}")
    drained = len(job.lines())
    assert 10 <= drained < 3 * TRIALS
    started = [play.episode_id for play in read_started(job.out)]
    on_disk = {orjson.loads(line)["episode_id"] for line in job.lines()}
    assert set(started) == on_disk  # nothing that was in flight was broken off
    until(lambda: not jobs.hosts.running(), "the hosts are empty")

    assert job.wait() == "COMPLETED 0:0", job.log()
    holds_every_episode_once(job.out, TRIALS)
    plays = list(read_started(job.out))
    assert not [play for play in plays if play.again]
    assert {play.session for play in plays} == {1, 2}
    assert job.shown()["Restarts"] == "1"


@pytest.mark.usefixtures("nothing_left")
def test_requeued_by_slurm_what_was_broken_off_is_played_again(jobs: Jobs) -> None:
    job = RayJob(jobs, "ray-requeued", play(TRIALS))
    until(lambda: len(job.lines()) >= 10, "it plays")
    jobs.say("scontrol", "requeue", job.id)
    until(lambda: job.state() == "PENDING", f"it is queued again: {job.log()}")
    until(lambda: not jobs.hosts.running(), "the hosts are empty")
    on_disk = {orjson.loads(line)["episode_id"] for line in job.lines()}
    lost = {play.episode_id for play in read_started(job.out)} - on_disk
    assert len(on_disk) < 3 * TRIALS

    assert job.wait() == "COMPLETED 0:0", job.log()
    holds_every_episode_once(job.out, TRIALS)
    # A node that is lost before the driver is has its trials played elsewhere: that is once more.
    assert lost <= {play.episode_id for play in read_started(job.out) if play.again}


@pytest.mark.usefixtures("nothing_left")
def test_a_ray_that_does_not_come_up_is_no_success(jobs: Jobs) -> None:
    short = {"RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT": "0"}  # the head's
    short["RAY_gcs_rpc_server_connect_timeout_s"] = "1"  # the others'
    job = RayJob(jobs, "ray-down", play(1), **short)
    assert job.wait() == "FAILED 3:0", job.log()
    assert not job.lines()


@pytest.mark.usefixtures("nothing_left")
def test_the_exit_status_is_that_of_the_run(jobs: Jobs) -> None:
    job = RayJob(jobs, "ray-usage", "--model calibration --conditions Z")
    assert job.wait() == "FAILED 2:0", job.log()


@pytest.mark.usefixtures("nothing_left")
def test_a_signal_before_ray_is_up_ends_the_job_which_does_not_go_back(jobs: Jobs) -> None:
    job = RayJob(jobs, "ray-early", play(1))
    until(lambda: "Starting Ray" in job.log(), "Ray is being started")
    job.drain()
    assert job.wait() == "FAILED 130:0", job.log()
    assert not job.lines()
