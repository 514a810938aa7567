"""Limits that the kernel keeps for a whole sandbox: a cgroup v2 each, where we may make one.

Layout: `<parent>/local-shutdown-<pid>-<start time>/<number>`; the folder of a run names the process
that made it, so that the next run can tell a dead run's folder and remove it. Where no cgroup can
be made (cgroup v1, no delegation, a container) rlimits, sized tmpfs and PID 1's watch remain.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_PREFIX = "local-shutdown-"
CONTROLLERS = ("memory", "pids")


@dataclass(frozen=True, slots=True)
class RunGroup:
    """The folder in which a run makes the cgroups of its sandboxes.

    Attributes:
        path: the folder.
        memory_bytes, processes: of each sandbox, see `make`; 0 sets no limit.
        numbers: names of the cgroups to come.
    """

    path: Path
    memory_bytes: int
    processes: int
    numbers: Iterator[int]

    def make(self) -> Path:
        """A new cgroup with its limits set. Remove it with `remove`.

        Raises:
            OSError: the kernel refused.
        """
        path = self.path / str(next(self.numbers))
        path.mkdir()
        if self.memory_bytes:
            (path / "memory.max").write_text(str(self.memory_bytes))
            with contextlib.suppress(OSError):  # absent where the kernel does not account swap
                (path / "memory.swap.max").write_text("0")
        if self.processes:
            (path / "pids.max").write_text(str(self.processes))
        return path


def oom_kills(path: Path) -> int:
    """Processes of the cgroup that the kernel killed because of `memory.max`."""
    try:
        for line in (path / "memory.events").read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    except (OSError, ValueError):
        pass
    return 0


def remove(path: Path) -> bool:
    """Remove an empty cgroup. False when a process is still in it, or still leaving it."""
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def find_parent(
    controllers: tuple[str, ...] = CONTROLLERS, root: Path | None = None
) -> tuple[Path | None, str]:
    """The nearest cgroup above our own in which we may make cgroups with these controllers.

    Our own cannot serve: a cgroup with processes in it hands no controllers on to its children.

    Returns:
        (folder, "") or (None, why there is none).
    """
    root = root or _mount_point()
    if root is None:
        return None, "no cgroup v2 is mounted"
    own = _own_path()
    candidates = [root / own, *(root / own).parents] if own else [root]
    why = f"no cgroup above ours hands on the controllers {' and '.join(controllers)}"
    for folder in candidates:
        if folder == root / own and own:
            continue
        if not folder.is_relative_to(root):
            break
        try:
            handed_on = (folder / "cgroup.subtree_control").read_text().split()
        except OSError:
            continue
        if not set(controllers) <= set(handed_on):
            continue
        # To move a process one must also be allowed to write where both cgroups meet.
        if os.access(folder, os.W_OK) and os.access(folder / "cgroup.procs", os.W_OK):
            return folder, ""
        why = f"no permission to make a cgroup in {folder}"
    return None, why


@contextmanager
def run_group(parent: Path, memory_bytes: int, processes: int) -> Iterator[RunGroup]:
    """The cgroup of this run, removed afterwards; removes those of runs that were killed.

    Raises:
        OSError: the kernel refused.
    """
    remove_leftovers(parent)
    path = parent / f"{_PREFIX}{os.getpid()}-{_start_time(os.getpid())}"
    # A process may prepare more than once, one inside the other.
    path = next(p for i in itertools.count() if not (p := Path(f"{path}-{i}")).exists())
    path.mkdir()
    try:
        wanted = [c for c, on in (("memory", memory_bytes), ("pids", processes)) if on]
        if wanted:
            (path / "cgroup.subtree_control").write_text(" ".join("+" + c for c in wanted))
        yield RunGroup(path, memory_bytes, processes, itertools.count())
    finally:
        _remove_tree(path)


def remove_leftovers(parent: Path) -> int:
    """Kill and remove what runs that are gone have left in `parent`; says how many."""
    count = 0
    for path in parent.glob(_PREFIX + "*"):
        pid, _, rest = path.name.removeprefix(_PREFIX).partition("-")
        if pid.isdigit() and _start_time(int(pid)) != rest.partition("-")[0]:
            _remove_tree(path)
            count += 1
    return count


def _remove_tree(path: Path, wait_s: float = 5.0) -> None:
    with contextlib.suppress(OSError):
        (path / "cgroup.kill").write_text("1")  # Linux 5.14
    deadline = time.monotonic() + wait_s
    while True:
        left = [p for p in path.glob("*/") if not remove(p)] if path.exists() else []
        if not left and remove(path):
            return
        if time.monotonic() > deadline:
            return  # another user's, or a process that cannot die; the next run tries again
        time.sleep(0.01)


def _mount_point() -> Path | None:
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        if fields[fields.index("-") + 1] == "cgroup2":
            return Path(fields[4])
    return None


def _own_path() -> str:
    """Relative to the mount point; empty for its root."""
    try:
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                return line[3:].strip("/")
    except OSError:
        pass
    return ""


def _start_time(pid: int) -> str:
    """Start time of a process in clock ticks since boot; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
