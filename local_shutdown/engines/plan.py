"""How a model is served: the cards and the plan that the planner makes of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from local_shutdown.engines.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Gpu:
    """One card.

    Attributes:
        index: as nvidia-smi or amd-smi counts, by PCI address; of a MIG device that of its card
            times 100, plus its own number.
        name: of the product.
        memory_gib: all of it.
        free_gib: not held by other processes now.
        uuid: as the driver tells it.
        capability: CUDA's compute capability; None where it is not told.
        mig: a slice of a card; slices cannot share a model.
    """

    index: int
    name: str
    memory_gib: float
    free_gib: float
    uuid: str = ""
    capability: tuple[int, int] | None = None
    mig: bool = False
    vendor: Literal["nvidia", "amd"] = "nvidia"

    @property
    def device(self) -> str:
        """What CUDA_VISIBLE_DEVICES calls it, with CUDA_DEVICE_ORDER=PCI_BUS_ID."""
        return self.uuid if self.mig else str(self.index)


def visible_env(cards: Sequence[Gpu]) -> dict[str, str]:
    """Environment that shows a server these cards and no others; none of them is the CPU.

    CUDA counts the fastest card first unless told otherwise; nvidia-smi counts by PCI address, and
    so do we.
    """
    shown = ",".join(card.device for card in cards)
    env = {"CUDA_VISIBLE_DEVICES": shown, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    if any(card.vendor == "amd" for card in cards):
        env["HIP_VISIBLE_DEVICES"] = shown  # vLLM refuses two that differ
    return env


@dataclass(frozen=True, slots=True)
class Plan:
    """How one model is served.

    Attributes:
        spec: the model.
        gpus: the cards used, in order; empty on the CPU.
        tensor_parallel: cards that share one copy of the weights.
        data_parallel: copies behind one port, in each server.
        servers: servers, each on a port of its own.
        max_model_len: tokens a conversation may grow to; with an unknown native context only what
            was planned for: the server's /v1/models says the real one.
        max_num_seqs: episodes a copy works on at once.
        kv_tokens: tokens the cache of one copy holds, estimated; None when the size is unknown.
        flags: of every server, without model, host, port and name.
        env: of every server, without the choice of cards.
        why: one sentence a decision, to be printed and recorded.
        nodes: machines that share one copy, each with cards like `gpus`; a pipeline stage each.
    """

    spec: ModelSpec
    gpus: tuple[Gpu, ...]
    tensor_parallel: int
    data_parallel: int
    servers: int
    max_model_len: int
    max_num_seqs: int
    kv_tokens: int | None
    flags: tuple[str, ...]
    env: Mapping[str, str]
    why: tuple[str, ...]
    nodes: int = 1

    @property
    def copies(self) -> int:
        """Independent copies of the model."""
        return self.servers * self.data_parallel

    @property
    def capacity(self) -> int:
        """Episodes all copies work on at once."""
        return self.copies * self.max_num_seqs

    def argv(
        self, host: str, port: int, *, served_name: str | None = None, python: str = sys.executable
    ) -> list[str]:
        """The command line of one server; the servers of a plan differ in port and cards only.

        Args:
            host: address to listen on.
            port: port to listen on.
            served_name: what requests call the model; default `spec.name`.
            python: the interpreter that has vLLM.
        """
        # `python -m`, because the `vllm` script of the CPU build looks for metadata it lacks.
        return [
            *(python, "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", self.spec.hf_id, "--host", host, "--port", str(port)),
            *("--served-model-name", served_name or self.spec.name),
            *self.flags,
        ]

    def node_argv(self, rank: int, address: str, port: int) -> list[str]:
        """What the command line of a node has beyond `argv` or `worker_argv`.

        Args:
            rank: of the node; 0 is the head, which answers requests.
            address: of the head, as the others reach it.
            port: on which they meet.
        """
        rendezvous = ["--master-addr", address, "--master-port", str(port)]
        return ["--node-rank", str(rank), *rendezvous, *(["--headless"] if rank else [])]

    def worker_argv(self, *, python: str = sys.executable) -> list[str]:
        """The command line of a node other than the head, without `node_argv`.

        Args:
            python: the interpreter that has vLLM there.
        """
        # The API server's own module knows nothing of --headless.
        serve = [python, "-m", "vllm.entrypoints.cli.main", "serve", self.spec.hf_id]
        return [*serve, "--served-model-name", self.spec.name, *self.flags]

    def server_env(self, server: int = 0) -> dict[str, str]:
        """Environment variables to set for one server.

        Args:
            server: 0 to `servers` - 1.
        """
        return {**self.env, **visible_env(self.cards_of(server))}

    def cards_of(self, server: int) -> tuple[Gpu, ...]:
        """The cards of one server."""
        share = len(self.gpus) // self.servers if self.gpus else 0
        return self.gpus[server * share : (server + 1) * share]

    def as_dict(self) -> dict[str, Any]:
        """What run.json records."""
        return {
            "tensor_parallel": self.tensor_parallel,
            "data_parallel": self.data_parallel,
            "servers": self.servers,
            **({"nodes": self.nodes} if self.nodes > 1 else {}),
            "max_model_len": self.max_model_len,
            "max_num_seqs": self.max_num_seqs,
            "kv_tokens": self.kv_tokens,
            "gpus": [f"{gpu.index}: {gpu.name}" for gpu in self.gpus],
            "flags": list(self.flags),
            "env": dict(self.env),
            "why": list(self.why),
        }
