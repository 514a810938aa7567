"""What this machine has: GPUs with free memory, processors, memory."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from local_shutdown.engines import drivers, memory
from local_shutdown.engines import gpus as found_gpus
from local_shutdown.engines.plan import Gpu
from local_shutdown.errors import CannotRunError, UsageError

SHM = Path("/dev/shm")
# What the processes of one model, split over several cards, want of it: vLLM's message queues take
# 160 MiB a group and NCCL 32 MiB a card (u); Docker's default is 64 MB.
SHM_NEEDED_GIB = 0.5


def gpus() -> list[Gpu]:
    """Visible GPUs; see `gpus.visible`."""
    return found_gpus.visible()


def gpus_unusable() -> str | None:
    """Why the GPUs of this machine cannot be used; None when they can, or there are none."""
    cards = gpus()
    if cards:
        return drivers.unusable(cards)
    hidden = found_gpus.hidden()
    return hidden[0] if hidden else None


def choose_gpus(wanted: int | None) -> list[Gpu]:
    """The cards for `--gpus`: all visible by default, the freest first when fewer are asked for.

    Raises:
        UsageError: a negative number.
        CannotRunError: more than there are.
    """
    if wanted is not None and wanted < 0:
        raise UsageError(f"--gpus {wanted}: give 0 for the CPU, or a number of GPUs")
    found = gpus() if wanted != 0 else []
    if wanted is None:
        return found
    if wanted > len(found):
        raise CannotRunError(
            f"--gpus {wanted}: {len(found)} visible here",
            "--gpus 0 runs on the CPU; nvidia-smi or amd-smi, and CUDA_VISIBLE_DEVICES, say what "
            "is visible",
        )
    return sorted(sorted(found, key=lambda g: -g.free_gib)[:wanted], key=lambda g: g.index)


def ablest(cards: Sequence[Gpu]) -> list[Gpu]:
    """Of cards that differ, those with as much memory as the largest."""
    most = max((card.memory_gib for card in cards), default=0.0)
    return [card for card in cards if card.memory_gib > most / 1.02]


def too_full(need_gib: Mapping[int, float]) -> list[str]:
    """The GPUs with less free memory than is needed, each in words.

    Args:
        need_gib: GPU index to GiB that must be free.
    """
    return [
        f"GPU {gpu.index}: {gpu.free_gib:.1f} of {gpu.memory_gib:.1f} GiB are free, "
        f"{need_gib[gpu.index]:.1f} are needed"
        for gpu in gpus()
        if gpu.free_gib < need_gib.get(gpu.index, 0.0)
    ]


def holders() -> str:
    """The processes that hold GPU memory, as nvidia-smi names them."""
    program = shutil.which("nvidia-smi") or "nvidia-smi"
    query = "--query-compute-apps=pid,process_name,used_memory"
    try:
        said = subprocess.run(
            [program, query, "--format=csv,noheader"], capture_output=True, text=True, timeout=30
        ).stdout
    except (OSError, subprocess.SubprocessError):
        said = ""
    found = [line.strip() for line in said.splitlines() if line.strip()]
    return "; ".join(f"pid {line}" for line in found) or "processes that nvidia-smi does not show"


def shm_gib(folder: Path = SHM) -> float | None:
    """Size of the shared memory that processes of one model talk through, GiB; None without any.
    Containers give 64 MB unless told otherwise."""
    try:
        size = os.statvfs(folder)
    except OSError:
        return None
    return size.f_frsize * size.f_blocks / 2**30


def slurm_host() -> str | None:
    """Tells the nodes of a Slurm job apart, without their names; None outside of one."""
    name, job = os.environ.get("SLURMD_NODENAME"), os.environ.get("SLURM_JOB_ID", "")
    if not name:
        return None
    job = os.environ.get("SLURM_ARRAY_JOB_ID", job)
    return hashlib.sha256(f"{job} {name}".encode()).hexdigest()[:8]


def describe() -> dict[str, Any]:
    """What run.json says of the hardware. No host name: run directories are published."""
    cpu = platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return {
        "cpu": cpu,
        "cpus": os.cpu_count(),
        "memory_gib": round(memory.ram_gib(), 1),
        "gpus": [f"{gpu.name}, {gpu.memory_gib:.0f} GiB" for gpu in gpus()],
        "system": platform.system(),
        "kernel": platform.release(),
    }
