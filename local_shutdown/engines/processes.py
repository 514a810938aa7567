"""Ending the processes of a server: a whole group, ours or that of a run that was killed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

KILL_WAIT_S = 10.0
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> Callable[[], None]:
    """For `preexec_fn`: TERM when the thread that started the process is gone, as after `kill -9`
    of the run. What that does not reach is found by its written pid, see `end_orphan`."""
    prctl = ctypes.CDLL(None).prctl  # looked up here: after the fork nothing may take a lock

    def before_exec() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)

    return before_exec


def end_group(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """TERM, then KILL, a process that leads its own group, and the group; waits until all of it is
    gone, since a worker that is left holds a GPU."""
    for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, KILL_WAIT_S)):
        _signal(process.pid, number)
        until = time.monotonic() + wait_s
        while time.monotonic() < until:
            if process.poll() is not None and not members(process.pid):
                return
            time.sleep(0.02)


def end_orphan(pid_file: Path, marker: str, say: Callable[[str], None], grace_s: float) -> None:
    """End the server of an earlier run that was killed.

    The process that was written down counts only with the same pid and start time; when it is gone
    and others of its group are not, they count with `marker` in their environment.

    Args:
        pid_file: `<pid> <start time>`, see `write_pid`; goes afterwards.
        marker: name of an environment variable that only our servers have.
        say: called with a line for the user.
    """
    try:
        pid_text, started = pid_file.read_text().split()
        group = int(pid_text)
    except (OSError, ValueError):
        return
    leader = start_time(group)
    ours = leader == started if leader is not None else _marked(group, marker)
    if ours:
        say(f"ending the server of an earlier run (pid {group})")
        for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, KILL_WAIT_S)):
            _signal(group, number)
            until = time.monotonic() + wait_s
            while members(group) and time.monotonic() < until:
                time.sleep(0.02)
    pid_file.unlink(missing_ok=True)


def write_pid(pid_file: Path, pid: int) -> None:
    """Write down a process for `end_orphan`."""
    pid_file.write_text(f"{pid} {start_time(pid) or 0}\n")


def members(group: int) -> list[int]:
    """Living processes of a group; a zombie holds nothing and does not count."""
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        fields = _stat(int(entry.name))
        if fields is not None and fields[0] not in "ZX" and int(fields[2]) == group:
            found.append(int(entry.name))
    return found


def start_time(pid: int) -> str | None:
    """Clock ticks since boot at which a process started; None when there is no such process."""
    fields = _stat(pid)
    return None if fields is None or fields[0] in "ZX" else fields[19]


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name: state, parent, group, ..."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _marked(group: int, marker: str) -> bool:
    for pid in members(group):
        with contextlib.suppress(OSError):
            if f"\0{marker}=".encode() in b"\0" + Path(f"/proc/{pid}/environ").read_bytes():
                return True
    return False


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
