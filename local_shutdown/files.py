"""Opening what a user names: a file, and nothing that waits or is something else."""

from __future__ import annotations

import os
import stat
from io import BufferedReader, FileIO
from pathlib import Path

from local_shutdown.errors import UsageError


def open_to_read(path: Path) -> BufferedReader:
    """A regular file, opened; never waits for a FIFO or a device that somebody put in its place.

    Raises:
        FileNotFoundError: it does not exist.
        UsageError: it is not a file, or cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as failed:
        said = failed.strerror if isinstance(failed, OSError) else failed
        raise UsageError(f"{path}: cannot be read: {said}") from None
    kind = stat.S_IFMT(os.fstat(fd).st_mode)
    if kind != stat.S_IFREG:
        os.close(fd)
        raise not_a_file(path, kind)
    return BufferedReader(FileIO(fd, "rb"), 1 << 20)


def not_a_file(path: Path, kind: int, hint: str | None = None) -> UsageError:
    """What to say of a path that holds something else.

    Args:
        kind: `stat.S_IFMT` of its mode.
        hint: what to do; nobody is told to remove a folder that they named as a file by mistake.
    """
    names = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    return UsageError(f"{path}: {names.get(kind, 'a device')}, not a file", hint)
