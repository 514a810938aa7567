"""Starts bwrap with the descriptors that its arguments name."""

from __future__ import annotations

import fcntl
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from local_shutdown.sandbox.kit import HIGH_FD, Kit
from local_shutdown.sandbox.policy import (
    ARGS_FD,
    BLOCK_FD,
    CONTROL_FD,
    FIRST_FILE_FD,
    INFO_FD,
    INFO_READ_FD,
    INIT_FD,
    NEXT_QUESTION_FD,
    SECCOMP_FD,
)

# Runs its other arguments in the cgroup whose `cgroup.procs` is its standard output.
_JOIN_CGROUP = ("/bin/sh", "-c", 'echo 0 && exec "$0" "$@" >/dev/null')


@dataclass(frozen=True, slots=True)
class Spawned:
    """A bwrap that was started; the descriptors are the caller's to close.

    Attributes:
        errors_fd: what bwrap and PID 1 write to standard error.
        info_fd, block_fd: bwrap says its child's pid, and waits for the end of the other; -1 where
            it maps the user ids itself.
    """

    pid: int
    errors_fd: int
    info_fd: int = -1
    block_fd: int = -1


@contextmanager
def _no_core_dumps() -> Iterator[None]:
    """A limit of 0 would still start the host's own program where core_pattern is a pipe; 1 stops
    that too. Given to what starts meanwhile, and the filter keeps it there; PID 1, which has the
    filter already, could not set it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    least = 1 if hard == resource.RLIM_INFINITY else min(1, hard)
    resource.setrlimit(resource.RLIMIT_CORE, (least, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


def spawn(kit: Kit, control_fd: int, group: Path | None) -> Spawned:
    """Start bwrap.

    Args:
        control_fd: PID 1's end of the control socket; stays the caller's.
        group: the cgroup to start it in. bwrap must be in it before it makes the cgroup namespace,
            or the sandbox would see its place on the host.

    Raises:
        OSError: out of descriptors or processes, or a file is gone.
    """
    opened: list[int] = []

    def pipe() -> tuple[int, int]:
        read, write = os.pipe()
        opened.extend((read, write))
        return read, write

    def high(fd: int) -> int:
        opened.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH_FD))
        return opened[-1]

    kept: list[int] = []
    try:
        errors_read, errors_write = pipe()
        passed = [(control_fd, CONTROL_FD), (errors_write, 2)]
        info_read = block_write = -1
        if kit.id_map is not None:
            info_read, info_write = pipe()
            block_read, block_write = pipe()
            passed += [
                (info_write, INFO_FD),
                (info_read, INFO_READ_FD),
                (block_read, BLOCK_FD),
            ]
        files = [
            (0, "/dev/null"),
            (ARGS_FD, kit.args_path),
            (SECCOMP_FD, kit.seccomp_path),
            (INIT_FD, kit.init_path),
            (NEXT_QUESTION_FD, kit.next_question_path),
            *((FIRST_FILE_FD + i, str(path)) for i, (_, path) in enumerate(kit.files)),
        ]
        argv, output = kit.argv, "/dev/null"
        if group is not None:
            argv, output = [*_JOIN_CGROUP, *argv], f"{group}/cgroup.procs"
        with _no_core_dumps():
            pid = os.posix_spawn(
                argv[0],
                argv,
                {"PATH": "/usr/bin:/bin"},
                # Not in the terminal's foreground group: Ctrl-C is for the run, which ends them.
                setpgroup=0,
                file_actions=[
                    *((os.POSIX_SPAWN_DUP2, high(fd), inside) for fd, inside in passed),
                    *((os.POSIX_SPAWN_OPEN, fd, path, os.O_RDONLY, 0) for fd, path in files),
                    (os.POSIX_SPAWN_OPEN, 1, output, os.O_WRONLY, 0),
                ],
            )
        kept = [errors_read, info_read, block_write]
        return Spawned(pid, *kept)
    finally:
        for fd in opened:
            if fd not in kept:
                os.close(fd)
