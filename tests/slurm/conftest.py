"""One Slurm cluster for all tests of the job scripts."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cluster
import pytest
from jobs import Jobs


@pytest.fixture(scope="session")
def jobs() -> Iterator[Jobs]:
    # Not below pytest's folder, which only its owner may enter: munge refuses that.
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)
    try:
        with cluster.cluster(folder / "cluster") as (hosts, env):
            yield Jobs(hosts, env, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
