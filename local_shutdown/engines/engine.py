"""A model being served, whoever serves it: what the loop asks of it and run.json says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, ClassVar

from local_shutdown.engines.client import REQUEST_TIMEOUT_S, ChatClient
from local_shutdown.engines.metrics import Reading, Series, merge, summary
from local_shutdown.engines.nodes import Nodes
from local_shutdown.engines.server import Launch, Server

Kind = str  # a name in `backends.BACKENDS`
# Where nobody says how many episodes at once: what vLLM is planned for at most, and what an
# engine of unknown size gets.
MOST_IN_FLIGHT = 4096
DEFAULT_IN_FLIGHT = 64


@dataclass(frozen=True, slots=True)
class Options:
    """What the user said of the engine.

    Attributes:
        gpus: number of GPUs, 0 for the CPU, None for all visible.
        base_url: of an endpoint.
        api_key: for an endpoint.
        max_model_len: tokens; None lets the planner choose.
        engine_args: flags passed through to vLLM.
        concurrency: episodes meant to be in flight; None asks the server's capacity.
        request_timeout_s: for an answer, without a sign of life of the server.
        dtype: in which our transformers server computes; None for the checkpoint's own.
        sampled: the sampling fields that requests will set, for example `top_p`.
        continues: answers are to be continued from their tokens, see `continuation`.
        nodes: machines that share one copy of a model.
        other_nodes: those beside this one, from a driver that has them; None asks Slurm.
    """

    # Sent to nodes as JSON (`cluster.wire`), where what only this process has stays None.
    __pydantic_config__: ClassVar = {"arbitrary_types_allowed": True}

    gpus: int | None = None
    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    max_model_len: int | None = None
    engine_args: tuple[str, ...] = ()
    concurrency: int | None = None
    request_timeout_s: float = REQUEST_TIMEOUT_S
    dtype: str | None = None
    sampled: tuple[str, ...] = ()
    continues: bool = False
    nodes: int = 1
    other_nodes: Nodes | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Fleet:
    """The servers that a model is to get.

    Attributes:
        launches: one for each server.
        ranks: data-parallel copies behind each port.
        capacity: requests all of them work on at once.
        facts: what run.json says of them.
        metrics: they tell figures of themselves at /metrics.
    """

    launches: list[Launch]
    ranks: int
    capacity: int
    facts: dict[str, Any]
    metrics: bool = False


@dataclass(slots=True)
class Seat:
    """A copy of the model that an episode stays with, so that its prefix is cached there."""

    client: ChatClient
    server: Server | None
    headers: Mapping[str, str] | None
    load: int = 0

    @property
    def ready(self) -> bool:
        """Its server is not known to be down at this moment."""
        return self.server is None or self.server.settled


@dataclass(slots=True)
class Engine:
    """A model being served.

    Attributes:
        served_name: what requests call the model.
        max_model_len: tokens of context, as the engine says it; None where it does not.
        facts: what run.json says of it.
        capacity: requests it works on at once; None where nobody knows.
        series: what each server of ours has said of itself.
    """

    kind: Kind
    served_name: str
    max_model_len: int | None
    seats: list[Seat]
    facts: dict[str, Any] = field(default_factory=dict)
    capacity: int | None = None
    series: list[Series] = field(default_factory=list)

    @property
    def reading(self) -> Reading | None:
        """The newest metrics of all servers together; None while one has given none."""
        newest = [series.last for series in self.series]
        known = [reading for reading in newest if reading is not None]
        return merge(known) if known and len(known) == len(newest) else None

    @property
    def tokens_per_s(self) -> float | None:
        """Generated tokens a second, as the servers count them, over the last half minute."""
        rates = [series.tokens_per_s for series in self.series]
        known = [rate for rate in rates if rate is not None]
        return sum(known) if known and len(known) == len(rates) else None

    def metrics(self) -> dict[str, Any]:
        """The servers' own numbers over the time they were watched; empty where there are none."""
        return summary(self.series)

    def take_seat(self) -> Seat:
        """The least loaded copy, of those that are not being started again where there are any.
        Give it back with `leave`."""
        seat = min(self.seats, key=lambda s: (not s.ready, s.load))
        seat.load += 1
        return seat

    def leave(self, seat: Seat) -> None:
        seat.load -= 1


def version(distribution: str) -> str | None:
    """Version of an installed package, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
