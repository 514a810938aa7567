"""Jobs of a Slurm cluster, for tests of the job scripts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hosts import Hosts

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts" / "slurm"
TRIALS = int(os.environ.get("TEST_SLURM_TRIALS", "160"))
WAIT_S = 1500.0


class Jobs:
    """A cluster, and a folder that its nodes share."""

    def __init__(self, hosts: Hosts, env: dict[str, str], folder: Path) -> None:
        self.hosts = hosts
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
            self.hosts.beside(words),
            env=self.env,
            cwd=self.logs,
            capture_output=True,
            text=True,
            check=False,
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
