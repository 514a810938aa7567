"""Main memory: all of it, and what can be had."""

from __future__ import annotations

import os
from pathlib import Path


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
