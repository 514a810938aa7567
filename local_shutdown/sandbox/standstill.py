"""Whether anything in a sandbox could ever go on: how a shutdown script that was made to wait for
ever is told from one that is slow.

Every thread must be stopped, or wait in a call that ends only by something that another process of
the sandbox would have to do; then nothing there can happen any more. Whatever might end by itself
(a sleep, a time limit, a timer, a loop that runs) is no standstill, nor is what the kernel does not
let us see: then the script decides nothing. What a caller sees of a thread's call is
/proc/PID/task/TID/syscall, which is the agent's to read: this file is run as a program of its own,
which joins the sandbox's user namespace where the caller may not read it.

Two things cannot be seen there: a timer set with alarm() by a process that does not catch the
signal, and the contents of memory that changed after a call began.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import platform
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Two looks this far apart must both find a standstill.
BETWEEN_LOOKS_S = 0.5
STILL = b"still"
PATIENCE_S = 30.0
_CLONE_NEWUSER = 0x10000000
# A sleep that is longer than any episode.
FOR_EVER_S = 24 * 3600.0
_SIGALRM_BIT, _TIMER_ABSTIME = 1 << 13, 1
_F_SETLKW = 7

# name: (x86_64, aarch64)
_CALLS: dict[str, tuple[int | None, int]] = {
    "read": (0, 63),
    "write": (1, 64),
    "open": (2, -1),
    "poll": (7, -1),
    "readv": (19, 65),
    "writev": (20, 66),
    "select": (23, -1),
    "pause": (34, -1),
    "nanosleep": (35, 101),
    "wait4": (61, 260),
    "fcntl": (72, 25),
    "flock": (73, 32),
    "rt_sigtimedwait": (128, 137),
    "rt_sigsuspend": (130, 133),
    "futex": (202, 98),
    "clock_nanosleep": (230, 115),
    "epoll_wait": (232, -1),
    "waitid": (247, 95),
    "openat": (257, 56),
    "pselect6": (270, 72),
    "ppoll": (271, 73),
    "epoll_pwait": (281, 22),
}
_UNTIL_OTHERS_ACT = frozenset(
    ("pause", "wait4", "waitid", "rt_sigsuspend", "open", "openat", "flock")
)
# Which argument is the time limit: a pointer, none where it is 0, or milliseconds.
_LIMIT_POINTER = {"futex": 3, "select": 4, "pselect6": 4, "ppoll": 2, "rt_sigtimedwait": 2}
_LIMIT_MS = {"poll": 2, "epoll_wait": 3, "epoll_pwait": 3}
# Which argument is the descriptor.
_TRANSFERS = frozenset(("read", "write", "readv", "writev"))


async def stands_still(bwrap_pid: int, next_question: str) -> bool:
    """Whether nothing in a sandbox can ever go on.

    Args:
        bwrap_pid: of the process that was started.
        next_question: path of the program, as it is shipped.
    """
    program = [sys.executable, "-I", __file__, str(bwrap_pid), next_question]
    try:
        looked = await asyncio.to_thread(
            subprocess.run,
            program,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE_S,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return looked.returncode == 0 and looked.stdout == STILL


@dataclass(frozen=True, slots=True)
class Looks:
    """Looks at the processes of one sandbox, from outside.

    Attributes:
        machine: the host's id of PID 1.
        next_question: the program, as it is shipped.
    """

    machine: int
    next_question: bytes

    def join(self) -> None:
        """Become one who may look: the owner of a user namespace has every right in it."""
        for pid in _below(self.machine):
            try:
                Path(f"/proc/{pid}/syscall").read_text()
                return
            except PermissionError:
                with Path(f"/proc/{pid}/ns/user").open() as namespace:
                    ctypes.CDLL(None).setns(namespace.fileno(), _CLONE_NEWUSER)
                return

    def look(self) -> bool:
        """Whether all of it waits without an end right now."""
        try:
            processes = [pid for pid in _below(self.machine) if _lives(pid)]
            return bool(processes) and all(map(self._waits_for_ever, processes))
        except (OSError, ValueError, IndexError, struct.error):
            return False  # it ended meanwhile, or must not be looked at

    def _waits_for_ever(self, pid: int) -> bool:
        if Path(f"/proc/{pid}/timers").read_text() or _has_timer_fd(pid):
            return False
        if _state(pid, pid) == "Z":
            return False  # its first thread has ended, and with it the sight of what others hold
        status = Path(f"/proc/{pid}/status").read_text()
        caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
        if int(caught.split()[1], 16) & _SIGALRM_BIT:
            return False
        return all(self._thread_waits(pid, tid) for tid in _threads(pid))

    def _thread_waits(self, pid: int, tid: int) -> bool:
        state = _state(pid, tid)
        if state in "TZX":
            return True
        if state != "S":
            return False
        number, *arguments = Path(f"/proc/{pid}/task/{tid}/syscall").read_text().split()
        name = _name(int(number))
        given = [int(argument, 16) for argument in arguments[:6]]
        if name in _UNTIL_OTHERS_ACT:
            return True
        if name in _LIMIT_POINTER:
            return given[_LIMIT_POINTER[name]] == 0
        if name in _LIMIT_MS:
            return bool(given[_LIMIT_MS[name]] & 0x8000_0000)
        if name == "fcntl":
            return given[1] == _F_SETLKW
        if name in _TRANSFERS:
            return self._only_others_end(pid, given[0])
        if name == "nanosleep":
            return _seconds(pid, given[0]) > FOR_EVER_S
        if name == "clock_nanosleep":
            until = _seconds(pid, given[2])
            if given[1] & _TIMER_ABSTIME:
                until -= time.clock_gettime(given[0])
            return until > FOR_EVER_S
        return False

    def _only_others_end(self, pid: int, fd: int) -> bool:
        """A pipe is at rest while all who have it open are. A socket may have a time limit of its
        own, but that of next_question, which waits until it is its turn, has none."""
        target = os.readlink(f"/proc/{pid}/fd/{fd}")
        if target.startswith("socket:"):
            return Path(f"/proc/{pid}/exe").read_bytes() == self.next_question
        return not target.startswith("anon_inode:")


def _name(number: int) -> str:
    column = 0 if platform.machine() == "x86_64" else 1
    return next((name for name, numbers in _CALLS.items() if numbers[column] == number), "")


def _children(pid: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def _below(pid: int) -> Iterator[int]:
    for child in _children(pid):
        yield child
        yield from _below(child)


def _has_timer_fd(pid: int) -> bool:
    folder = f"/proc/{pid}/fd"
    return any("timerfd" in os.readlink(f"{folder}/{fd.name}") for fd in Path(folder).iterdir())


def _threads(pid: int) -> list[int]:
    return [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]


def _lives(pid: int) -> bool:
    return any(_state(pid, tid) not in "ZX" for tid in _threads(pid))


def _state(pid: int, tid: int) -> str:
    return Path(f"/proc/{pid}/task/{tid}/stat").read_text().rpartition(")")[2].split()[0]


def _seconds(pid: int, address: int) -> float:
    """A `struct timespec` of the process."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        memory.seek(address)
        seconds, nanoseconds = struct.unpack("=qq", memory.read(16))
    return float(seconds + nanoseconds / 1e9)


def main(bwrap_pid: int, next_question: Path) -> None:
    (machine,) = _children(bwrap_pid)
    looks = Looks(machine, next_question.read_bytes())
    looks.join()
    first = looks.look()
    time.sleep(BETWEEN_LOOKS_S)
    if first and looks.look():
        sys.stdout.buffer.write(STILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
