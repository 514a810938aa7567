"""The way to a node: a process of `worker` behind two pipes, on this machine or behind Ray."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Protocol

from local_shutdown.engines.processes import die_with_parent

BATCH_BYTES = 4 << 20
WAIT_S = 5.0
_LINE_BYTES = 256 << 20


class LinkLost(Exception):
    """The node is gone; the message says what is known of it."""


class Link(Protocol):
    """One node, as the driver sees it.

    Attributes:
        place: where it is, for the user's eyes.
    """

    place: str

    async def send(self, line: bytes) -> None:
        """Raises LinkLost."""

    async def receive(self) -> Sequence[bytes]:
        """Lines that it said, without their ends; none when it says nothing for a while.

        Raises:
            LinkLost: it is gone.
        """

    async def close(self) -> None:
        """End it, and what it started."""


class Nodes(Protocol):
    """Where nodes come from."""

    async def new(self) -> Sequence[Link]:
        """Nodes that have come since this was last asked."""

    def rest(self) -> None:
        """A run is over; the next one begins with the same nodes."""


class WorkerProcess:
    """A worker on this machine. Its input ends with us, whatever ends us."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self.place = f"pid {os.getpid()}"

    async def start(self) -> int:
        """Returns its pid."""
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "local_shutdown.cluster.worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES,
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )
        return self._process.pid

    async def send(self, line: bytes) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line)
            await self._process.stdin.drain()
        except (ConnectionError, RuntimeError) as gone:
            raise LinkLost(f"its worker has ended: {gone}") from None

    async def receive(self) -> Sequence[bytes]:
        assert self._process is not None
        assert self._process.stdout is not None
        lines: list[bytes] = []
        size, wait_s = 0, WAIT_S
        while size < BATCH_BYTES:
            try:
                async with asyncio.timeout(wait_s):
                    line = await self._process.stdout.readline()
            except TimeoutError:
                break
            if not line.endswith(b"\n"):
                if lines:
                    break  # said in its next call
                status = await self._process.wait()
                raise LinkLost(f"its worker ended with status {status}")
            lines.append(line[:-1])
            size += len(line)
            wait_s = 0.05  # what else is there
        return lines

    async def close(self) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(60):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
