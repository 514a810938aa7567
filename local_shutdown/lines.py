"""A file of whole lines that grows at its end, written by one process at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import BinaryIO

from local_shutdown.errors import CannotRunError
from local_shutdown.files import not_a_file

_BLOCK_BYTES = 1 << 22


class Lines:
    """A file of whole lines that grows at its end."""

    def __init__(self, path: Path) -> None:
        """Raises OSError when it cannot be opened for writing, UsageError when something else than
        a file is there. Nothing is changed yet."""
        self.path = path
        if path.exists() and not path.is_file():
            raise not_a_file(path, stat.S_IFMT(path.stat().st_mode), "remove it")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
        self._file: BinaryIO = os.fdopen(fd, "r+b")
        self._size = 0

    def lock(self) -> bool:
        """Whether we are the only ones who write it.

        Raises:
            CannotRunError: the file system cannot say.
        """
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as failed:
            if failed.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return False
            # Without a lock two runs could write at once, and their lines would mix.
            raise CannotRunError(
                f"{self.path}: its file system cannot lock a file: {failed.strerror}",
                "give an --out on a local disk and copy it afterwards; Lustre: mount with -o flock",
            ) from None
        return True

    def cut_torn_line(self) -> None:
        """Make what follows the last whole line go away, and go on behind that."""
        end = self._file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - _BLOCK_BYTES)
            self._file.seek(start)
            block = self._file.read(end - start)
            newline = block.rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < self._file.seek(0, os.SEEK_END):
            self._file.truncate(end)
        self._size = self._file.seek(end)

    def empty(self) -> None:
        self._file.truncate(0)
        self._size = 0

    def append(self, content: bytes) -> None:
        """Add one line, or several with their ends between them: whoever is killed meanwhile leaves
        the first of them and at most one torn line.

        Raises:
            CannotRunError: it could not be written whole (a full disk); what was there before is
                untouched.
        """
        line = memoryview(content + b"\n")
        fd = self._file.fileno()
        try:
            os.lseek(fd, self._size, os.SEEK_SET)
            written = 0
            while written < len(line):
                written += os.write(fd, line[written:])
        except OSError as failed:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, self._size)
            what = "the disk is full" if failed.errno == errno.ENOSPC else failed.strerror
            raise CannotRunError(
                f"{self.path}: {what}",
                "make room and run the same command again: finished episodes are kept",
            ) from None
        self._size += len(line)

    def close(self) -> None:
        """Flush to the disk."""
        if not self._file.closed:
            with contextlib.suppress(OSError):
                os.fsync(self._file.fileno())
            self._file.close()
