"""Other machines on which workers of a model run that is larger than one machine.

The interface is `Nodes`: whoever has the machines (Slurm here, a cluster's driver elsewhere) says
what they are called, under which address they reach this one, and starts a command on one of them.
vLLM is told to spread by itself (`--nnodes`, `--node-rank`, `--headless`, backend `mp`) and not
through its Ray executor: it needs nothing installed beside vLLM, the processes are ours to start
and to end, and inside a Ray actor that owns a node's GPUs it asks for no second placement group.

To run workers from another driver, pass an object with these three members in
`engines.Options(nodes=N, other_nodes=...)`; `start` gets the complete command and environment, and
what it returns has to end the command, and all its children, when told.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from local_shutdown.engines.processes import die_with_parent, end_group
from local_shutdown.errors import CannotRunError, EngineUnavailable

_INFINIBAND = Path("/sys/class/infiniband")


class Worker(Protocol):
    """A command that runs on another machine."""

    def poll(self) -> int | None:
        """Its exit status; None while it runs."""

    def end(self, grace_s: float) -> None:
        """TERM, KILL after a grace, and return when all of it is gone."""


@runtime_checkable
class Nodes(Protocol):
    """The machines beside this one.

    Attributes:
        names: of these machines; one worker is started on each, in this order.
        address: of this machine, as they reach it.
    """

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def address(self) -> str: ...

    def start(
        self, name: str, argv: Sequence[str], env: Mapping[str, str], log: Path, pid_file: Path
    ) -> Worker:
        """Start a command on a machine.

        Args:
            name: one of `names`.
            argv: of the command; its files lie at the same paths there.
            env: added to the environment there.
            log: takes its output, on this machine.
            pid_file: for the process here that stands for it, see `processes.end_orphan`.

        Raises:
            EngineUnavailable: it cannot be started.
        """


@dataclass(frozen=True, slots=True)
class LocalProcess:
    """A process of this machine that leads its own group, for example `srun`, which hands on the
    signals it gets."""

    process: subprocess.Popen[bytes]

    def poll(self) -> int | None:
        return self.process.poll()

    def end(self, grace_s: float) -> None:
        end_group(self.process, grace_s)


@dataclass(frozen=True, slots=True)
class Slurm:
    """The other nodes of the Slurm job that we run in; a worker is a job step of one task.

    Attributes:
        names: as Slurm calls them.
        address: of this node.
    """

    names: tuple[str, ...]
    address: str

    def start(
        self, name: str, argv: Sequence[str], env: Mapping[str, str], log: Path, pid_file: Path
    ) -> Worker:
        from local_shutdown.engines.processes import write_pid

        # --overlap: the step of the run itself holds the node's processors already.
        step = ["srun", "--overlap", "--nodes=1", "--ntasks=1", f"--nodelist={name}"]
        step += ["--kill-on-bad-exit=1", "--export=ALL"]
        try:
            with log.open("ab") as out:
                process = subprocess.Popen(
                    [*step, *argv],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=die_with_parent(),
                    env={**os.environ, **env},
                )
            write_pid(pid_file, process.pid)
        except OSError as failed:
            raise EngineUnavailable(f"a worker on {name} cannot be started: {failed}") from None
        return LocalProcess(process)


def find(wanted: int, given: Nodes | None) -> Nodes:
    """The machines for `--nodes`.

    Args:
        wanted: how many in all, this one included; 2 or more.
        given: by a driver that has machines of its own.

    Raises:
        CannotRunError: there are none, or fewer.
    """
    found = given or _of_slurm()
    if found is None:
        raise CannotRunError(
            f"--nodes {wanted}: no other nodes are known here",
            "start it in a Slurm job (sbatch --nodes, see docs/slurm.md); or start head and "
            "workers yourself with the commands that --dry-run shows, and use --base-url",
        )
    there = len(found.names) + 1
    if there < wanted:
        raise CannotRunError(f"--nodes {wanted}: the job has {there}", f"sbatch --nodes={wanted}")
    return found


def _of_slurm() -> Slurm | None:
    """The other nodes of this job; None outside of one."""
    said = os.environ.get("SLURM_JOB_NODELIST")
    if not said or shutil.which("srun") is None:
        return None
    try:
        listed = subprocess.run(
            ["scontrol", "show", "hostnames", said],
            capture_output=True, text=True, timeout=60, check=True,
        ).stdout.split()  # fmt: skip
    except (OSError, subprocess.SubprocessError) as failed:
        raise CannotRunError(f"scontrol show hostnames {said}: {failed}") from None
    this = os.environ.get("SLURMD_NODENAME") or (listed[0] if listed else "")
    return Slurm(tuple(name for name in listed if name != this), address_of(this))


def address_of(name: str) -> str:
    """What others reach this machine by: the cluster's name of it, where names lead anywhere."""
    for known in (name, socket.gethostname()):
        try:
            if known and socket.gethostbyname(known):
                return known
        except OSError:
            continue
    return "127.0.0.1"


def interconnect(folder: Path = _INFINIBAND) -> str:
    """What lies between the nodes, as far as this one can tell, in a sentence for the plan."""
    try:
        adapters = sorted(entry.name for entry in folder.iterdir())
    except OSError:
        adapters = []
    if adapters:
        some = ", ".join(adapters[:4]) + (" and more" if len(adapters) > 4 else "")
        return f"between the nodes: InfiniBand or RoCE ({some}), as this node has it."
    return (
        "between the nodes: no InfiniBand adapter on this node, so Ethernet; the stages of a "
        "pipeline pass little, and tensor parallel stays within a node."
    )
