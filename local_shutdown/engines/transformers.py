"""transformers: the command line of our thin server over its continuous batching."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from local_shutdown.engines.engine import DEFAULT_IN_FLIGHT, Fleet, Options, version
from local_shutdown.engines.plan import Gpu, visible_env
from local_shutdown.engines.served import Served
from local_shutdown.engines.server import API_KEY_VARIABLE, Launch
from local_shutdown.engines.spec import KvCache, ModelSpec

CONTEXT = 8192
LONGEST_CONTEXT = 32768
# What an episode holds when it is planned for on the CPU, where every page of the cache is touched
# at the start and a mask as long as the cache goes with it: more than needed costs seconds.
EPISODE_TOKENS = 1024
CPU_CACHE_MOST_GIB = 2.0


class Transformers(Served):
    """One server; accelerate spreads the model over its cards."""

    name = "transformers"
    remedy = "run scripts/setup, or pip install 'local-shutdown[transformers]'"

    def unusable(self, base_url: str | None) -> str | None:
        missing = [n for n in ("transformers", "torch") if importlib.util.find_spec(n) is None]
        return f"{' and '.join(missing)}: not installed" if missing else None

    def fleet(
        self,
        spec: ModelSpec,
        folder: Path,
        cards: Sequence[Gpu],
        options: Options,
        say: Callable[[str], None],
    ) -> Fleet:
        context = options.max_model_len or min(spec.context or CONTEXT, LONGEST_CONTEXT)
        if not cards and options.max_model_len is None:
            context = _cut(context, spec, say)
        # Each costs a sort of the vocabulary for every token, so the server wants to know
        # beforehand.
        per_request = sorted({"top_p", "top_k"} & {*options.sampled, *spec.sampling})
        in_flight = options.concurrency or DEFAULT_IN_FLIGHT

        def argv(port: int) -> list[str]:
            return [
                *(sys.executable, "-m", "local_shutdown.engines.transformers_server"),
                *("--model", str(folder), "--served-model-name", spec.name),
                *("--host", "127.0.0.1", "--port", str(port)),
                *("--api-key-env", API_KEY_VARIABLE, "--max-model-len", str(context)),
                *("--device", "cuda" if cards else "cpu"),
                *(("--dtype", options.dtype) if options.dtype else ()),
                *(("--tool-call-parser", spec.tool_parser) if spec.tool_parser else ()),
                *(("--reasoning-parser", spec.reasoning_parser) if spec.reasoning_parser else ()),
                *(("--per-request-sampling", ",".join(per_request)) if per_request else ()),
                *(("--trust-remote-code",) if spec.remote_code else ()),
                *(() if cards else ("--kv-cache-tokens", str(in_flight * EPISODE_TOKENS))),
            ]

        env = {"HF_HUB_OFFLINE": "1", **visible_env(cards)}
        facts = {
            "engine": "transformers",
            "engine_version": version("transformers"),
            "torch_version": version("torch"),
            "decoding_constrained": False,
        }
        launch = Launch("transformers", argv, env, spec.name)
        return Fleet([launch], 1, in_flight, facts)


def _cut(context: int, spec: ModelSpec, say: Callable[[str], None]) -> int:
    """On the CPU: no longer than the cache holds, but what an episode needs."""
    per_token = _bytes_per_token(spec.kv) if spec.kv else 0.0
    width = 2.0 if spec.dtype == "float32" else 1.0
    if not per_token:
        return context
    most = int(CPU_CACHE_MOST_GIB * 2**30 / (per_token * width)) // 1024 * 1024
    shorter = max(min(context, most), min(context, CONTEXT))
    if shorter < context:
        say(f"plan: max-model-len cut to {shorter}: a cache in main memory holds no more.")
    return shorter


def _bytes_per_token(kv: KvCache) -> float:
    """In 16 bits. Its batching keeps every token of windowed layers, too."""
    window = kv.sliding
    extra = window.layers * 2 * window.heads * window.dim * 2 if window else 0
    return kv.bytes_per_token() + extra
