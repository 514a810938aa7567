"""Reads what a command prints: the head and the tail, and a count of the rest."""

from __future__ import annotations

import asyncio
import os


class Capture:
    """Reads one output pipe: keeps the head and the tail, counts the rest, and closes the pipe
    when a command prints without end (it then dies of SIGPIPE, as under `| head`)."""

    __slots__ = ("_fd", "_head", "_keep", "_loop", "_most", "_tail", "count", "flooded")

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, keep: int, most: int) -> None:
        self._loop = loop
        self._fd = fd
        self._keep = keep
        self._most = most
        self._head = b""
        self._tail = b""
        self.count = 0
        self.flooded = False
        loop.add_reader(fd, self._read)

    def _read(self) -> bool:
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self.close()
            return False
        self.count += len(data)
        room = self._keep // 2 - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if data:
            self._tail = (self._tail + data)[-self._keep // 2 :]
        if self.count > self._most:
            self.flooded = True
            self.close()
            return False
        return True

    def drain(self) -> bytes:
        """What is there by now: a background process may hold the pipe open for ever."""
        while self._fd >= 0 and self._read():
            pass
        self.close()
        missing = self.count - len(self._head) - len(self._tail)
        note = f"\n[... {missing} bytes left out ...]\n".encode() if missing else b""
        return self._head + note + self._tail

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
