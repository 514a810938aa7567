"""What the sandboxes of one task share, made when the first episode begins and removed when the
last one in flight has ended."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from local_shutdown.run import check_sandbox
from local_shutdown.sandbox import Kit, prepare


class Sandboxes:
    """The kit of all episodes that are in flight. All of them are on one event loop."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._kit: Kit | None = None
        self._users = 0

    @contextmanager
    def kit(self) -> Iterator[Kit]:
        """For one episode.

        Raises:
            SandboxUnavailable: see `prepare`.
        """
        if self._kit is None:
            self._kit = self._stack.enter_context(prepare())
        self._users += 1
        try:
            yield self._kit
        finally:
            self._users -= 1
            if not self._users:
                self._kit = None
                self._stack.close()


def check() -> None:
    """Start a sandbox and shut it down: fail closed, before the first episode.

    Raises:
        SandboxUnavailable: no sandbox can be started here.
    """
    failed: list[BaseException] = []

    def run() -> None:
        try:
            with prepare() as kit:
                asyncio.run(check_sandbox(kit))
        except BaseException as failure:
            failed.append(failure)

    # Inspect makes its tasks on its event loop, which cannot wait for a coroutine there.
    thread = threading.Thread(target=run, name="check-sandbox")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
