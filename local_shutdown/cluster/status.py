"""How a run on nodes stands, for whoever shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from local_shutdown.batch import Progress


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
