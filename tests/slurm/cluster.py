"""A Slurm of one controller and two nodes, each a host of its own on this machine, from Debian's
packages, as root; for a test. Everything it makes lies in one folder."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hosts import ADDRESSES, CONTROLLER, Hosts, hosts
from hosts import PROGRAMS as HOST_PROGRAMS

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "srun", *HOST_PROGRAMS)

_CONF = """\
ClusterName=test
SlurmctldHost={host}({address})
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=10
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=30
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
_NODE = "NodeName={name} NodeAddr={address} CPUs=1\n"


def missing() -> str | None:
    """Why there can be no cluster here; None when there can."""
    lacking = [name for name in PROGRAMS if _program(name) is None]
    if lacking:
        return f"no {', '.join(lacking)}: apt-get install slurm-wlm munge iproute2"
    return None if os.geteuid() == 0 else "slurmd wants root"


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _found(name: str) -> str:
    found = _program(name)
    assert found is not None
    return found


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[Hosts, dict[str, str]]]:
    """The hosts, and the environment in which sbatch and the others talk to Slurm beside them.

    Args:
        folder: new; readable for all, down from the root.
    """
    (folder / "munge").mkdir(parents=True)
    folder.chmod(0o755)
    (folder / "munge").chmod(0o755)
    (folder / "state").mkdir()
    key = folder / "munge" / "key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    conf = folder / "slurm.conf"
    nodes = "".join(_NODE.format(name=name, address=at) for name, at in ADDRESSES.items())
    name = socket.gethostname().split(".")[0]
    conf.write_text(_CONF.format(host=name, address=CONTROLLER, folder=folder) + nodes)
    env = {**os.environ, "SLURM_CONF": str(conf)}
    files = [f"--{name}-file={folder}/munge/{name}" for name in ("key", "pid", "log", "seed")]
    with hosts(folder) as made:
        made.start([_found("munged"), "-F", f"--socket={folder}/munge/socket", *files], env)
        _until(lambda: (folder / "munge" / "socket").exists(), "munged")
        made.start([_found("slurmctld"), "-D", "-i"], env)
        for node in ADDRESSES:
            made.start([_found("slurmd"), "-D", "-N", node], env, node)
        idle = made.beside(["sinfo", "-h", "-N", "-o", "%T"])
        _until(lambda: _said(idle, env).split().count("idle") == len(ADDRESSES), "both nodes")
        try:
            yield made, env
        finally:
            subprocess.run(made.beside(["scancel", "-u", "root"]), env=env, check=False, timeout=60)
            time.sleep(2)


def _said(words: list[str], env: dict[str, str]) -> str:
    return subprocess.run(words, env=env, capture_output=True, text=True, check=False).stdout


def _until(condition: object, what: str) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 120
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not come up")
        time.sleep(0.2)
