"""Engines that we start ourselves: servers of ours, one for each copy of a model."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

from local_shutdown.engines import chat_template, hardware, weights
from local_shutdown.engines.backend import Backend
from local_shutdown.engines.client import ChatClient
from local_shutdown.engines.engine import Engine, Fleet, Options, Seat
from local_shutdown.engines.metrics import Series
from local_shutdown.engines.plan import Gpu
from local_shutdown.engines.server import Server, describe
from local_shutdown.engines.spec import ModelSpec
from local_shutdown.engines.starts import Starts, unrecorded
from local_shutdown.engines.watch import Patience, watch
from local_shutdown.errors import CannotRunError, first_cause

PATIENCE = Patience()


class Served(Backend):
    """Common to engines with servers of our own."""

    @abstractmethod
    def fleet(
        self,
        spec: ModelSpec,
        folder: Path,
        cards: Sequence[Gpu],
        options: Options,
        say: Callable[[str], None],
    ) -> Fleet:
        """What it would start.

        Args:
            folder: of the weights, or where they would be.
            cards: to use; none is the CPU.
            say: called with the reasons of what is planned.

        Raises:
            UsageError: a flag that is not the user's to set.
            CannotRunError: it does not fit.
        """

    def cannot_use_gpus(self) -> str | None:
        """Why it cannot use the GPUs of this machine; None when it can, or there are none."""
        return hardware.gpus_unusable()

    async def check(
        self,
        spec: ModelSpec,
        options: Options,
        say: Callable[[str], None],
        *,
        fetch: bool,
        planned: Callable[[str], None] = lambda line: None,
    ) -> None:
        spec = await self._described(spec)
        # Before hundreds of GiB are fetched for a machine that cannot hold them.
        self._planned(spec, Path(spec.hf_id), options, planned)
        folder = await weights.fetched(spec, say, fetch=fetch)
        chat_template.require_template(spec, folder, options)

    @asynccontextmanager
    async def open(
        self,
        spec: ModelSpec,
        options: Options,
        directory: Path,
        say: Callable[[str], None],
        starts: Starts | None,
    ) -> AsyncIterator[Engine]:
        spec = await self._described(spec)
        folder = await weights.fetched(spec, say)
        chat_template.require_template(spec, folder, options)
        if spec.revision is not None:  # by its id, an engine would load `main`
            spec = replace(spec, hf_id=str(folder))
        fleet = self._planned(spec, folder, options, say)
        facts = fleet.facts | {
            "revision": weights.revision(folder),
            "weights_digest": weights.digest(folder),
            "generation_config": weights.generation_config(folder),
        }
        async with AsyncExitStack() as stack:
            servers = await _started(stack, fleet, directory, say, starts or unrecorded())
            watched = [Series() for _ in servers]
            seats = await _seats(stack, servers, watched, fleet.ranks, options.request_timeout_s)
            for server, series in zip(servers, watched, strict=True):
                task = asyncio.create_task(watch(server, series, PATIENCE))
                stack.push_async_callback(_cancel, task)
            if servers[0].not_applied:
                facts["generation_config_not_applied"] = list(servers[0].not_applied)
                say(
                    f"warning: this engine cannot apply {', '.join(servers[0].not_applied)} of the "
                    "model's generation_config.json; its answers will differ from other engines'"
                )
            length = servers[0].max_model_len
            told = watched if fleet.metrics else []
            try:
                yield Engine(self.name, spec.name, length, seats, facts, fleet.capacity, told)
            finally:
                facts["servers"] = [describe(server) for server in servers]

    async def _described(self, spec: ModelSpec) -> ModelSpec:
        """With the shape of its cache, from config.json alone where models.yaml has none."""
        return await asyncio.to_thread(weights.described, spec)

    def _planned(
        self, spec: ModelSpec, folder: Path, options: Options, say: Callable[[str], None]
    ) -> Fleet:
        cards = self._cards(options, say)
        try:
            return self.fleet(spec, folder, cards, options, say)
        except CannotRunError:
            # The card of a display, next to those for models: nobody asked for it.
            able = hardware.ablest(cards)
            if options.gpus is not None or len(able) == len(cards):
                raise
            fleet = self.fleet(spec, folder, able, options, say)
            for card in cards:
                if card not in able:
                    say(f"GPU {card.index}: {card.name} is left out: the model does not run on it")
            return fleet

    def _cards(self, options: Options, say: Callable[[str], None]) -> list[Gpu]:
        """The cards for `--gpus`. Cards that were asked for and cannot be used are an error; when
        nobody said anything about them, the CPU is taken, and that is said."""
        if options.gpus == 0:
            return []
        why_not = self.cannot_use_gpus()
        if why_not is None:
            return hardware.choose_gpus(options.gpus)
        if options.gpus is not None:
            raise CannotRunError(
                f"--gpus {options.gpus}: {why_not}",
                "`local-shutdown doctor` says what to do; --gpus 0 runs on the CPU",
            )
        say(f"warning: the GPUs cannot be used: {why_not}; running on the CPU")
        return []


class ManagedClient(ChatClient):
    """The client of a server of ours: follows it to its new port when it was started again, and
    waits for an answer as long as the server computes.

    Args:
        series: what the server says of itself.
    """

    def __init__(self, server: Server, series: Series, timeout_s: float) -> None:
        super().__init__(server.base_url, server.api_key, timeout_s=timeout_s)
        self._server = server
        self._series = series

    def _sign_of_life(self) -> float:
        return max(super()._sign_of_life(), self._series.moved_at)

    async def _post(self, raw: bytes, headers: Mapping[str, str] | None, limit: int) -> bytes:
        self.base_url = self._server.base_url
        return await super()._post(raw, headers, limit)

    async def _lost(self) -> bool:
        """A request may be sent again as it is, to the same server or to its successor; only when
        there is none, the episode has to wait for one."""
        return await self._server.health() == "down"


async def _started(
    stack: AsyncExitStack,
    fleet: Fleet,
    directory: Path,
    say: Callable[[str], None],
    starts: Starts,
) -> list[Server]:
    servers = [Server(launch, directory, n, say, starts) for n, launch in enumerate(fleet.launches)]
    try:
        async with asyncio.TaskGroup() as group:
            for server in servers:
                group.create_task(stack.enter_async_context(server))
    except BaseExceptionGroup as failed:
        raise first_cause(failed) from None
    return servers


async def _seats(
    stack: AsyncExitStack,
    servers: Sequence[Server],
    watched: Sequence[Series],
    ranks: int,
    timeout_s: float,
) -> list[Seat]:
    """One for each copy: each rank of each server."""
    seats = []
    for server, series in zip(servers, watched, strict=True):
        for rank in range(ranks):
            client = await stack.enter_async_context(ManagedClient(server, series, timeout_s))
            headers = {"X-data-parallel-rank": str(rank)} if ranks > 1 else None
            seats.append(Seat(client, server, headers))
    return seats


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
