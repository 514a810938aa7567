"""How a run on nodes stands, for whoever shows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from local_shutdown.batch import Progress
from local_shutdown.model_run import Display


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node.

    Attributes:
        doing: checking, left out, idle, starting, playing or lost.
        model: that it serves or starts.
        per_s: episodes a second since it came.
        lost: episodes that it had and did not finish.
    """

    name: str
    host: str
    doing: str
    model: str | None
    in_flight: int
    episodes: int
    per_s: float
    lost: int


@dataclass(frozen=True, slots=True)
class Status:
    """The run.

    Attributes:
        lost: episodes that nodes had and did not finish; they are played elsewhere.
    """

    progress: Progress
    lost: int
    nodes: Sequence[NodeStatus]


class ClusterDisplay(Display):
    """A display that can show nodes; it is told that episodes come in (`taken`), and not how they
    came out (`ended`)."""

    def taken(self) -> None:
        """An episode is on disk."""

    def watch(self, status: Callable[[], Status]) -> None:
        """The run begins; what `status` returns changes with it."""
