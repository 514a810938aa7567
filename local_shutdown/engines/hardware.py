"""What this machine has: GPUs with free memory, processors, memory."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from local_shutdown.engines.plan import Gpu
from local_shutdown.errors import CannotRunError, UsageError


def gpus() -> list[Gpu]:
    """Visible NVIDIA GPUs, as nvidia-smi reports them; honours CUDA_VISIBLE_DEVICES, by number or
    by UUID.

    nvidia-smi and not torch: asking torch would open a context on every card, and costs seconds.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = "--query-gpu=index,memory.total,memory.free,uuid,name"
    try:
        said = subprocess.run(
            [program, query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    wanted = None if visible is None else [part.strip() for part in visible.split(",")]
    found = []
    for line in said.splitlines():
        parts = [part.strip() for part in line.split(",", 4)]
        if len(parts) < 5 or not all(part.isdigit() for part in parts[:3]):
            continue  # "No devices were found", or a card that does not say
        index, total, free, uuid, name = parts
        if wanted is None or any(_names(part, index, uuid) for part in wanted):
            found.append(Gpu(int(index), name, int(total) / 1024, int(free) / 1024))
    return found


def _names(part: str, index: str, uuid: str) -> bool:
    return part == index or (part.startswith("GPU-") and uuid.startswith(part))


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
            "--gpus 0 runs on the CPU; nvidia-smi and CUDA_VISIBLE_DEVICES say what is visible",
        )
    return sorted(sorted(found, key=lambda g: -g.free_gib)[:wanted], key=lambda g: g.index)


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


def ram_gib() -> float:
    """Physical memory, GiB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def free_ram_gib() -> float | None:
    """Memory that can be had now, GiB, within the limit of the control group that a container or a
    batch system has put us in; None where the kernel does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line[:13] == "MemAvailable:")
    except (OSError, StopIteration, ValueError, IndexError):
        return None
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            free = min(free, int(limit) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass  # no such limit, or an older kind of group
    return max(free, 0) / 2**30


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
        "memory_gib": round(ram_gib(), 1),
        "gpus": [f"{gpu.name}, {gpu.memory_gib:.0f} GiB" for gpu in gpus()],
        "system": platform.system(),
        "kernel": platform.release(),
    }
