"""transformers: the command line of our thin server over its continuous batching."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from local_shutdown.engines.engine import DEFAULT_IN_FLIGHT, Fleet, Options, version
from local_shutdown.engines.plan import Gpu
from local_shutdown.engines.server import API_KEY_VARIABLE, Launch
from local_shutdown.engines.spec import ModelSpec

CONTEXT = 8192
EPISODE_TOKENS = 1024
CPU_CACHE_MOST_GIB = 2.0


def fleet(spec: ModelSpec, folder: Path, cards: Sequence[Gpu], options: Options) -> Fleet:
    """The one server; accelerate spreads the model over its cards, none meaning the CPU.

    Args:
        folder: of the weights.
    """
    context = options.max_model_len or min(spec.context or CONTEXT, 32768)
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
    return Fleet([launch], 1, options.concurrency or DEFAULT_IN_FLIGHT, facts)


def _cpu_cache_gib(spec: ModelSpec, options: Options) -> float:
    """Cache for the episodes in flight at `EPISODE_TOKENS` each: every page of it is touched at the
    start, and a mask as long as the cache goes with it, so more than needed costs seconds."""
    per_token = spec.kv.bytes_per_token() if spec.kv else 64 * 1024
    tokens = (options.concurrency or DEFAULT_IN_FLIGHT) * EPISODE_TOKENS
    return min(CPU_CACHE_MOST_GIB, max(0.03, tokens * per_token / 2**30))
