"""A node of a run on many machines, as its driver knows it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from local_shutdown.cluster import wire
from local_shutdown.cluster.links import Link
from local_shutdown.cluster.schedule import Scheduler
from local_shutdown.cluster.status import NodeStatus
from local_shutdown.cluster.supply import Given
from local_shutdown.record import now
from local_shutdown.runfile import NodeFacts, Session

# A node must not differ in these from the one that served the model first: their episodes are
# counted together.
SAME = (
    *("engine", "engine_version", "weights_digest", "generation_config", "max_model_len"),
    *("generation_config_not_applied", "effective_sampling", "requests", "decoding_constrained"),
)


@dataclass(slots=True)
class Node:
    """One node of a run.

    Attributes:
        ready: what it said of itself; None until then, and when it is left out.
        starts: names of the servers that it was allowed to start.
        given: trials that it has, by id.
        target, in_flight: as it last said.
        lost: trials that it had and did not finish.
        why_not: why it plays nothing (any more).
    """

    name: str
    link: Link
    joined: float
    ready: wire.Ready | None = None
    starts: set[str] = field(default_factory=set)
    given: dict[str, Given] = field(default_factory=dict)
    target: int = 1
    in_flight: int = 0
    episodes: int = 0
    blocks: int = 0
    lost: int = 0
    models: dict[str, int] = field(default_factory=dict)
    why_not: str | None = None
    gone: bool = False

    def entry(self, seed: int, session: int) -> NodeFacts:
        """What run.json says of it. Run directories are published: `host` tells machines of one
        directory apart, and names none."""
        ready, host = self.ready, None
        if ready is not None:
            host = hashlib.sha256(f"{seed} {ready.host}".encode()).hexdigest()[:8]
        left_out = {"left_out": self.why_not} if ready is None and self.why_not else {}
        return NodeFacts(
            node=self.name,
            host=host,
            cards=ready.cards if ready else 0,
            gpu=ready.gpu if ready else None,
            episodes=self.episodes,
            blocks=self.blocks,
            lost=self.lost,
            models=dict(self.models),
            session=session,
            **left_out,
        )

    def status(self, scheduler: Scheduler) -> NodeStatus:
        """How it stands."""
        passed_s = time.monotonic() - self.joined
        return NodeStatus(
            self.name,
            self.ready.host if self.ready else self.link.place,
            *self._doing(scheduler),
            in_flight=self.in_flight,
            episodes=self.episodes,
            per_s=self.episodes / max(passed_s, 1e-9),
            lost=self.lost,
        )

    def _doing(self, scheduler: Scheduler) -> tuple[str, str | None]:
        if self.gone:
            if self.why_not is None:
                return "ended", None
            return ("left out" if self.ready is None else "lost"), None
        if self.ready is None:
            return "checking", None
        phase, model = scheduler.phase(self.name)
        idle = phase == "free" or (phase == "playing" and not self.given)
        return ("idle" if idle else phase), model


def differs(known: Mapping[str, Any], facts: Mapping[str, Any]) -> str | None:
    """In what a node's engine differs from that of the node that served the model first, where
    that forbids counting their episodes together; None when it does not."""
    for name in SAME:
        if known.get(name) != facts.get(name):
            return f"{name} is {facts.get(name)!r} there, {known.get(name)!r} elsewhere"
    return None


def session_entry(
    session: int, wall_s: float, interrupted: bool, nodes: int, seen: Mapping[str, int]
) -> Session:
    """What run.json says of one model in one call of `run`.

    Args:
        nodes: that played it.
        seen: its episodes and errors.
    """
    return Session(
        session=session,
        ended_at=now(),
        interrupted=interrupted,
        wall_s=round(wall_s, 1),
        episodes=seen["episodes"],
        errors=seen["errors"],
        nodes=nodes,
        episodes_per_s=round(seen["episodes"] / max(wall_s, 1e-9), 2),
    )
