"""Engines: vllm, transformers, or somebody's endpoint, behind one client."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from local_shutdown.engines import hardware, transformers, vllm, weights
from local_shutdown.engines.client import ChatClient
from local_shutdown.engines.endpoint import endpoint_url, open_endpoint
from local_shutdown.engines.engine import (
    DEFAULT_IN_FLIGHT,
    MOST_IN_FLIGHT,
    Engine,
    Fleet,
    Kind,
    Options,
    Seat,
    version,
)
from local_shutdown.engines.key import endpoint_key
from local_shutdown.engines.metrics import Series
from local_shutdown.engines.server import Server, describe
from local_shutdown.engines.spec import ModelSpec
from local_shutdown.engines.starts import Starts, unrecorded
from local_shutdown.engines.watch import Patience, watch
from local_shutdown.errors import CannotRunError, first_cause

__all__ = [
    "DEFAULT_IN_FLIGHT",
    "MOST_IN_FLIGHT",
    "Engine",
    "Fleet",
    "Kind",
    "Options",
    "Seat",
    "check",
    "choose_kind",
    "endpoint_key",
    "endpoint_url",
    "open_engine",
    "version",
]

PATIENCE = Patience()


def choose_kind(wanted: str, base_url: str | None) -> Kind:
    """What `--engine` and `--base-url` come to on this machine.

    Raises:
        CannotRunError: nothing that could run is installed.
    """
    if wanted == "endpoint" or (wanted == "auto" and base_url):
        return "endpoint"
    if wanted == "vllm":
        why_not = vllm.unusable()
        if why_not:
            raise CannotRunError(f"--engine vllm: {why_not}", "scripts/setup --vllm installs it")
        return "vllm"
    if wanted == "auto" and vllm.unusable() is None:
        return "vllm"
    if importlib.util.find_spec("transformers") and importlib.util.find_spec("torch"):
        return "transformers"
    raise CannotRunError(
        "no engine is installed: neither vLLM nor transformers with torch",
        "run scripts/setup, or pip install 'local-shutdown[transformers]', or give --base-url",
    )


@asynccontextmanager
async def open_engine(
    kind: Kind,
    spec: ModelSpec,
    options: Options,
    directory: Path,
    say: Callable[[str], None],
    starts: Starts | None = None,
) -> AsyncIterator[Engine]:
    """Serve a model, and stop serving it at the end, whatever happens in between.

    Args:
        directory: of the run, for logs and pid files.
        say: called with lines for the user.
        starts: gives each start of a server its seed; without it they are drawn.

    Raises:
        EngineUnavailable: it does not start, or the endpoint does not answer.
        CannotRunError: the model does not fit, or has no weights here.
    """
    if kind == "endpoint":
        async with open_endpoint(spec, options) as engine:
            yield engine
        return
    folder = await weights.fetched(spec, say)
    fleet = _fleet(kind, spec, folder, options, say)
    facts = fleet.facts | {
        "revision": weights.revision(folder),
        "weights_digest": weights.digest(folder),
        "generation_config": weights.generation_config(folder),
    }
    async with AsyncExitStack() as stack:
        starts = starts or unrecorded()
        servers = [
            Server(launch, directory, n, say, starts) for n, launch in enumerate(fleet.launches)
        ]
        try:
            async with asyncio.TaskGroup() as group:
                for server in servers:
                    group.create_task(stack.enter_async_context(server))
        except BaseExceptionGroup as failed:
            raise first_cause(failed) from None
        seats: list[Seat] = []
        for server in servers:
            for rank in range(fleet.ranks):
                client = await stack.enter_async_context(
                    ManagedClient(server, options.request_timeout_s)
                )
                headers = {"X-data-parallel-rank": str(rank)} if fleet.ranks > 1 else None
                seats.append(Seat(client, server, headers))
        series = [Series() for _ in servers] if kind == "vllm" else []
        for server, one in zip(servers, series or [Series() for _ in servers], strict=True):
            stack.push_async_callback(_cancel, asyncio.create_task(watch(server, one, PATIENCE)))
        length = servers[0].max_model_len
        if servers[0].not_applied:
            facts["generation_config_not_applied"] = list(servers[0].not_applied)
            say(
                f"warning: this engine cannot apply {', '.join(servers[0].not_applied)} of the "
                "model's generation_config.json; its answers will differ from other engines'"
            )
        try:
            yield Engine(kind, spec.name, length, seats, facts, fleet.capacity, series)
        finally:
            facts["servers"] = [describe(server) for server in servers]


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def check(
    kind: Kind,
    spec: ModelSpec,
    options: Options,
    say: Callable[[str], None],
    *,
    fetch: bool = True,
) -> None:
    """What `open_engine` would refuse, before anything is started or written.

    Args:
        fetch: fetch the weights when they are not here; else only see whether they can be had.

    Raises:
        UsageError: a flag or address that is wrong.
        CannotRunError: the model does not fit, or has no weights here, or the endpoint does not
            answer.
    """
    if kind == "endpoint":
        async with open_endpoint(spec, options):
            return
    folder = await weights.fetched(spec, say, fetch=fetch)
    _fleet(kind, spec, folder, options, lambda line: None)


def _fleet(
    kind: Kind, spec: ModelSpec, folder: Path, options: Options, say: Callable[[str], None]
) -> Fleet:
    cards = hardware.choose_gpus(options.gpus)
    if kind == "vllm":
        return vllm.fleet(spec, cards, options, say)
    return transformers.fleet(spec, folder, cards, options)


class ManagedClient(ChatClient):
    """The client of a server of ours: follows it to its new port when it was started again."""

    def __init__(self, server: Server, timeout_s: float) -> None:
        super().__init__(server.base_url, server.api_key, timeout_s=timeout_s)
        self._server = server

    async def _post(self, raw: bytes, headers: Mapping[str, str] | None, limit: int) -> bytes:
        self.base_url = self._server.base_url
        return await super()._post(raw, headers, limit)

    async def _lost(self) -> bool:
        """A request may be sent again as it is, to the same server or to its successor; only when
        there is none, the episode has to wait for one."""
        return await self._server.health() == "down"
