"""Nodes without Ray: workers of this machine behind their pipes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from local_shutdown.cluster.links import Link, WorkerProcess


class LocalNodes:
    """So many workers, and more when they are asked for.

    Args:
        made: makes the way to one.
    """

    def __init__(self, count: int, made: Callable[[], WorkerProcess] = WorkerProcess) -> None:
        self._wanted = count
        self._made = made
        self.links: list[WorkerProcess] = []
        self.pids: list[int] = []

    def add(self) -> None:
        self._wanted += 1

    async def new(self) -> Sequence[Link]:
        came = [self._made() for _ in range(self._wanted - len(self.links))]
        for link in came:
            self.pids.append(await link.start())
        self.links += came
        return came

    def rest(self) -> None:
        pass
