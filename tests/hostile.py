"""Servers that mean harm, at the level of bytes: what they answer to every request of one path.

The scripted model (`scripted.py`) sends well-formed HTTP; these send what no library would.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

# What is written, piece by piece; a number between pieces is a pause in seconds.
Pieces = Iterable[bytes | float]
Answer = Callable[[bytes, bytes], Pieces]  # (head and body of the request) -> what is written


def http(
    body: bytes = b"", status: str = "200 OK", headers: Iterable[tuple[str, str]] = ()
) -> list[bytes]:
    """One whole answer."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers)
    return [f"{head}Content-Length: {len(body)}\r\n\r\n".encode("latin-1"), body]


def bomb(mebibytes: int) -> bytes:
    """Gzip of so many MiB of blanks, a thousandth of that."""
    return gzip.compress(b" " * (mebibytes << 20), 1)


@dataclass
class Hostile:
    """The running server; `requests` holds the heads of what it was asked."""

    base_url: str = ""
    requests: list[bytes] = field(default_factory=list)
    sent: int = 0


@asynccontextmanager
async def hostile(answer: Answer, *, remember: bool = True) -> AsyncIterator[Hostile]:
    """Answer every request so, on a free loopback port."""
    state = Hostile()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            lower = head.lower()
            length = 0
            if b"content-length:" in lower:
                length = int(lower.split(b"content-length:")[1].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            if remember:
                state.requests.append(head)
            for piece in answer(head, body):
                if isinstance(piece, float):
                    await asyncio.sleep(piece)
                else:
                    writer.write(piece)
                    await writer.drain()
                    state.sent += len(piece)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 24)
    state.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield state
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
