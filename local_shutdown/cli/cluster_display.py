"""What a run on many nodes looks like: its nodes. The rates follow at the end."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

from local_shutdown.cli.display import LOG_EVERY_S, pace
from local_shutdown.cli.painter import Painter
from local_shutdown.cluster.status import ClusterDisplay, NodeStatus, Status
from local_shutdown.model_run import Display
from local_shutdown.terminal import clean, echo

_WIDE = 24  # of a model's name


def lines(status: Status, rows: int) -> list[str]:
    """How a run on nodes stands: a line for the whole, a table of nodes, the busy ones first.

    Args:
        rows: lines there is room for.
    """
    seen: dict[str, int] = {}
    for node in status.nodes:
        seen[node.doing] = seen.get(node.doing, 0) + 1
    said = ", ".join(f"{count} {doing}" for doing, count in sorted(seen.items())) or "none yet"
    head = pace(status.progress) + f"  {status.lost} lost with nodes"
    table = [
        head,
        f"nodes: {said}",
        f"{'node':<6} {'doing':<9} {'model':<{_WIDE}} {'eps/s':>6} {'done':>6} {'flying':>6} lost",
    ]
    order = sorted(status.nodes, key=lambda node: (node.doing != "playing", -node.per_s))
    room = max(rows - len(table) - 1, 0)
    table += [_row(node) for node in order[:room]]
    if len(order) > room:
        table.append(f"... {len(order) - room} more nodes")
    return table


def _row(node: NodeStatus) -> str:
    model = clean(node.model or "").replace("\n", " ")[:_WIDE]
    return (
        f"{node.name:<6} {node.doing:<9} {model:<{_WIDE}} {node.per_s:>6.1f} {node.episodes:>6} "
        f"{node.in_flight:>6} {node.lost or '':>4}  {clean(node.host)}"
    )


class LogNodes(ClusterDisplay):
    """Plain lines, every `LOG_EVERY_S` at most."""

    def __init__(self) -> None:
        self._status: Callable[[], Status] | None = None
        self._told = time.monotonic()

    def say(self, line: str) -> None:
        echo(line, err=True)

    def watch(self, status: Callable[[], Status]) -> None:
        self._status = status

    def taken(self) -> None:
        if self._status is not None and time.monotonic() - self._told >= LOG_EVERY_S:
            self._told = time.monotonic()
            for line in lines(self._status(), 40):
                self.say(line)

    def stop(self) -> None:
        if self._status is not None:
            for line in lines(self._status(), 40):
                self.say(line)
            self._status = None


class LiveNodes(LogNodes):
    """A table that is painted four times a second."""

    def __init__(self) -> None:
        super().__init__()
        self._painter = Painter(sys.stderr, self._draw)

    def say(self, line: str) -> None:
        self._painter.say(line)

    def watch(self, status: Callable[[], Status]) -> None:
        super().watch(status)
        self._painter.start()

    def taken(self) -> None:
        pass  # the painter looks by itself

    def stop(self) -> None:
        if self._status is not None:
            self._painter.stop()
        super().stop()

    def _draw(self, columns: int, rows: int) -> list[str]:
        if self._status is None:
            return []
        return [line[:columns] for line in lines(self._status(), rows - 1)]


def for_this_terminal() -> Display:
    """A live table where standard error is a terminal that can move its cursor."""
    live = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    return LiveNodes() if live else LogNodes()
