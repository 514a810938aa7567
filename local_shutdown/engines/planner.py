"""Which cards a model gets, how long its context is and how many episodes it plays at once.

Pure: cards and model in, a plan or a refusal out. The rules are ours (reconstructed from vLLM's
documentation on parallelism): the smallest tensor-parallel size that leaves a useful key-value
cache, the other cards as copies, because copies do not wait for one another and slices do. Each
copy is a server of its own: one process in front of several engines is a bottleneck, and one dead
engine behind it ends them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor

from local_shutdown.engines import drivers
from local_shutdown.engines.fit import (
    EPISODE_TOKENS,
    MEMORY_UTILIZATION,
    SHORTEST_MAX_MODEL_LEN,
    USEFUL_EPISODES,
    Room,
    episode_tokens,
    kv_bytes,
    planned_weights_gib,
    refusal,
    room,
    tensor_parallel_sizes,
)
from local_shutdown.engines.flags import number, options, server_flags, split_engine_args
from local_shutdown.engines.plan import Gpu, Plan
from local_shutdown.engines.spec import GIB, ModelSpec, overhead_gib
from local_shutdown.errors import CannotRunError, UsageError

DEFAULT_MAX_MODEL_LEN = 32768
# vLLM's own defaults: sequences a copy works on at once, on cards of 70 GiB and more, and on less.
MAX_NUM_SEQS = 1024
SMALL_CARD_NUM_SEQS = 256
LARGE_CARD_GIB = 70
# On the CPU a cache beyond this is never filled before the user gives up.
CPU_CACHE_LIMIT_GIB = 8


def plan(
    spec: ModelSpec,
    gpus: Sequence[Gpu],
    *,
    concurrency: int,
    max_model_len: int | None = None,
    engine_args: Sequence[str] = (),
    ram_gib: float | None = None,
    free_ram_gib: float | None = None,
) -> Plan:
    """Decide how to serve a model.

    Args:
        spec: the model.
        gpus: the cards to use; none plans for vLLM's CPU build.
        concurrency: the most episodes that will be in flight over all copies.
        max_model_len: tokens; None takes the native context up to 32768.
        engine_args: flags for vLLM as the user gave them; they win over ours.
        ram_gib: the machine's memory, checked on the CPU when given.
        free_ram_gib: what of it is free now; vLLM's CPU build refuses a cache beyond it.

    Raises:
        UsageError: a flag that is not the user's to set, a wrong value, or a length beyond the
            native context.
        CannotRunError: it does not fit; the hint says what would.
    """
    user = split_engine_args(engine_args)
    given = {**options(spec.server_args), **options(user)}
    why: list[str] = []
    length = conversation_length(spec, max_model_len, given, why)
    asked_for = max_model_len is not None or "--max-model-len" in given
    if spec.remote_code and "--no-trust-remote-code" not in given:
        why.append("--trust-remote-code: it needs Python code from its own repository.")
    if not gpus:
        wanted = _OnCpu(spec, length, asked_for, concurrency, ram_gib, free_ram_gib)
        return _plan_cpu(wanted, given, user, why)

    card_gib, utilization = card_share(gpus, given, why)
    pipeline = number(given, "--pipeline-parallel-size") or 1
    if any(gpu.mig for gpu in gpus):
        gpus = _one_slice_a_copy(gpus, given, why)
    if any(gpu.vendor == "amd" for gpu in gpus):
        why.append("AMD cards: planned for like others; not yet tried by anybody here.")
    too_old = drivers.too_old(given.get("--quantization", spec.dtype), spec.min_capability, gpus)
    if too_old is not None:
        raise CannotRunError(
            f"{spec.name}: {too_old}", "Use newer cards, or a checkpoint in another format."
        )
    spread = _spreads_experts(spec, len(gpus), given)
    sizes = tensor_parallel_sizes(spec, len(gpus) // pipeline, given)
    if spread or any(gpu.mig for gpu in gpus):
        sizes = [1]
    found: Room | None = None
    if planned_weights_gib(spec, given) is None:
        tp = sizes[-1]
        why.append(f"size unknown: one copy gets {tp * pipeline} GPU(s).")
    else:
        usable = card_gib * utilization
        ranks = len(gpus) if spread else 1
        rooms = [room(spec, tp, usable, length, given, pipeline, ranks) for tp in sizes]
        most = max(found.tokens for found in rooms)
        if most < length and not asked_for and most >= SHORTEST_MAX_MODEL_LEN:
            length = most // 1024 * 1024
            why.append(f"max-model-len cut to {length}: the cache holds no more.")
        if most < length:
            raise refusal(spec, len(gpus), card_gib, rooms, length, asked_for, given)
        found = _choose(spec, rooms, len(gpus) // pipeline, length, concurrency, given, why)
        tp = found.tensor_parallel
    if spread:
        servers, data_parallel = 1, len(gpus)
        why.append(
            f"data parallel {data_parallel} with the experts spread over all cards: its attention "
            "cannot be split so far."
        )
    else:
        servers, data_parallel = _replicate(len(gpus) // (tp * pipeline), given, why)
    used = tuple(gpus[: servers * data_parallel * tp * pipeline])
    if len(used) < len(gpus):
        why.append(f"{len(gpus) - len(used)} of {len(gpus)} GPUs stay unused.")
    seqs = sequences_at_once(found, card_gib, concurrency, servers * data_parallel, given, why)
    flags = [*length_flag(spec, length, asked_for), "--max-num-seqs", str(seqs)]
    flags += ["--gpu-memory-utilization", f"{utilization:.2f}"]
    if tp > 1:
        flags += ["--tensor-parallel-size", str(tp)]
    if data_parallel > 1:
        flags += ["--data-parallel-size", str(data_parallel)]
    if spread:
        flags.append("--enable-expert-parallel")
    return Plan(
        spec=spec,
        gpus=used,
        tensor_parallel=tp,
        data_parallel=data_parallel,
        servers=servers,
        max_model_len=length,
        max_num_seqs=seqs,
        kv_tokens=found.tokens if found else None,
        flags=server_flags(spec, flags, user),
        env=dict(spec.env),
        why=tuple(why),
    )


@dataclass(frozen=True, slots=True)
class _OnCpu:
    """What is to be served without a GPU, and in how much memory; see `plan`."""

    spec: ModelSpec
    length: int
    asked_for: bool
    concurrency: int
    ram_gib: float | None
    free_ram_gib: float | None


def _plan_cpu(
    wanted: _OnCpu, given: Mapping[str, str], user: Sequence[str], why: list[str]
) -> Plan:
    """vLLM's CPU build: one copy, a cache in main memory of a size to be given beforehand."""
    why.append("no GPU: vLLM's CPU build, one copy.")
    spec, length, ram_gib, free_ram_gib = (
        wanted.spec, wanted.length, wanted.ram_gib, wanted.free_ram_gib,
    )  # fmt: skip
    weights = planned_weights_gib(spec, given) or 0.0
    if ram_gib is not None and weights + overhead_gib(weights) + 1 > ram_gib:
        raise CannotRunError(
            f"{spec.name} does not fit this machine's {ram_gib:.0f} GiB of memory: its weights are "
            f"{weights:.0f} GiB, and it has no GPU",
            "Use a GPU or a leaner model: `local-shutdown models` lists what fits.",
        )
    per_token, per_sequence = kv_bytes(spec, 1, given)
    limit_gib = float(CPU_CACHE_LIMIT_GIB)
    if ram_gib is not None:
        limit_gib = min(limit_gib, floor((ram_gib - weights) / 2))
    if free_ram_gib is not None:
        limit_gib = min(limit_gib, floor(free_ram_gib - weights - overhead_gib(weights)))
    limit_gib = max(1.0, limit_gib)
    most = floor((limit_gib * GIB - per_sequence) / per_token) if per_token else length
    if most < length and not wanted.asked_for:
        length = max(most // 1024 * 1024, 1024)
        why.append(f"max-model-len cut to {length}: a cache of {limit_gib:.0f} GiB holds no more.")
    # Small models are bound by the engine's own steps, large ones by the arithmetic.
    small = spec.params_total_b is not None and spec.params_total_b < 1
    seqs = number(given, "--max-num-seqs") or min(wanted.concurrency, 64 if small else 16)
    why.append(f"max-num-seqs {seqs}: more do not go faster on a CPU.")
    episode = min(EPISODE_TOKENS, length) * per_token + per_sequence
    one = (length * per_token + per_sequence) / GIB  # has to fit; the others may wait for room
    cache_gib = max(1, ceil(max(min(seqs * episode / GIB, limit_gib), one)))
    why.append(f"VLLM_CPU_KVCACHE_SPACE {cache_gib}: GiB of main memory for the cache.")
    flags = [*length_flag(spec, length, wanted.asked_for), "--max-num-seqs", str(seqs)]
    if spec.dtype in ("float32", "bfloat16", "float16"):
        # float16 is emulated on most CPUs; bfloat16 keeps its range.
        dtype = "float32" if spec.dtype == "float32" else "bfloat16"
        flags += [] if "--dtype" in given else ["--dtype", dtype]
    else:
        why.append(f"{spec.dtype} weights: not every format runs on vLLM's CPU build.")
    return Plan(
        spec=spec,
        gpus=(),
        tensor_parallel=1,
        data_parallel=1,
        servers=1,
        max_model_len=length,
        max_num_seqs=seqs,
        kv_tokens=floor(cache_gib * GIB / per_token) if per_token else None,
        flags=server_flags(spec, flags, user),
        env={**spec.env, "VLLM_CPU_KVCACHE_SPACE": str(cache_gib)},
        why=tuple(why),
    )


def conversation_length(
    spec: ModelSpec, wanted: int | None, given: Mapping[str, str], why: list[str]
) -> int:
    """The longest conversation to provide for, in tokens."""
    by_flag = None if given.get("--max-model-len") == "auto" else number(given, "--max-model-len")
    wanted = by_flag or wanted
    if wanted is not None:
        if spec.context is not None and wanted > spec.context:
            raise UsageError(
                f"max-model-len {wanted}: {spec.name} was made for {spec.context} tokens",
                f"Give at most {spec.context}, or leave it out.",
            )
        why.append(f"max-model-len {wanted}: as asked for.")
        return wanted
    length = min(spec.context or DEFAULT_MAX_MODEL_LEN, DEFAULT_MAX_MODEL_LEN)
    need = "up to 32k tokens, since it reasons" if spec.reasons else "about 8k tokens"
    native = "native context unknown" if spec.context is None else f"native: {spec.context}"
    why.append(f"max-model-len {length}: an episode needs {need} ({native}).")
    if length < episode_tokens(spec):
        why.append("that is short: episodes that outgrow it end as `limit` and are not counted.")
    return length


def length_flag(spec: ModelSpec, length: int, asked_for: bool) -> list[str]:
    """vLLM refuses more than the native context; where that is unknown it finds a length itself."""
    known = spec.context is not None or asked_for
    return ["--max-model-len", str(length) if known else "auto"]


def card_share(
    gpus: Sequence[Gpu], given: Mapping[str, str], why: list[str]
) -> tuple[float, float]:
    """Memory of the smallest card, GiB, and the share of it that vLLM may take."""
    smallest = min(gpu.memory_gib for gpu in gpus)
    if max(gpu.memory_gib for gpu in gpus) > smallest * 1.02:
        why.append(f"the cards differ: planned for the smallest, {smallest:.0f} GiB.")
    if "--gpu-memory-utilization" in given:
        try:
            return smallest, float(given["--gpu-memory-utilization"])
        except ValueError:
            raise UsageError(
                "--engine-arg --gpu-memory-utilization "
                f"{given['--gpu-memory-utilization']}: not a number",
                "Give a share of the card, for example 0.9.",
            ) from None
    # vLLM refuses to start when less is free than its share of the whole card.
    free = min((gpu.free_gib - 0.25) / gpu.memory_gib for gpu in gpus)
    if free < MEMORY_UTILIZATION:
        share = max(floor(free * 100) / 100, 0.01)
        taken = max(gpu.memory_gib - gpu.free_gib for gpu in gpus)
        why.append(f"other processes hold {taken:.1f} GiB of a card: vLLM gets {share:.2f} of it.")
        return smallest, share
    return smallest, MEMORY_UTILIZATION


def _choose(
    spec: ModelSpec,
    rooms: Sequence[Room],
    cards: int,
    length: int,
    concurrency: int,
    given: Mapping[str, str],
    why: list[str],
) -> Room:
    """The smallest size with a useful cache, else the one that plays the most episodes."""
    holding = [found for found in rooms if found.tokens >= length]
    for found in holding:
        copies = cards // found.tensor_parallel
        if found.episodes >= min(USEFUL_EPISODES, ceil(concurrency / copies)):
            chosen = found
            break
    else:
        chosen = max(holding, key=lambda r: r.episodes * (cards // r.tensor_parallel))
    tp = chosen.tensor_parallel
    weights = planned_weights_gib(spec, given) or 0.0
    cache = f"{weights:.0f} GiB of weights leave a copy a cache of {chosen.tokens} tokens"
    if "--tensor-parallel-size" in given:
        why.append(f"tensor parallel {tp}: as asked for; {cache}.")
    elif tp == 1:
        why.append(f"tensor parallel 1: one GPU is enough; {cache}.")
    else:
        why.append(f"tensor parallel {tp}: the smallest with a useful cache; {cache}.")
    if spec.kv is None:
        why.append("the shape of its cache is unknown: a cautious guess was used.")
    if chosen.episodes < min(USEFUL_EPISODES, concurrency):
        why.append(
            f"tight: a copy holds {max(chosen.episodes, 1)} episode(s) at once; more or larger "
            "GPUs, or a leaner checkpoint, would be faster."
        )
    return chosen


def _one_slice_a_copy(
    gpus: Sequence[Gpu], given: Mapping[str, str], why: list[str]
) -> Sequence[Gpu]:
    """MIG devices: a process can use one, and they cannot talk to one another."""
    for name in ("--tensor-parallel-size", "--pipeline-parallel-size"):
        if (number(given, name) or 1) > 1:
            raise UsageError(
                f"--engine-arg {name} {given[name]}: the GPUs are MIG devices, which cannot share "
                "a model",
                "Leave it out, or switch MIG off: nvidia-smi -mig 0.",
            )
    why.append("MIG devices: one holds a copy, none is shared.")
    return gpus


def _spreads_experts(spec: ModelSpec, cards: int, given: Mapping[str, str]) -> bool:
    """Whether it is served data-parallel with its experts spread over all cards, because the rest
    of it cannot be split: on several cards, unless the user has said how to split it."""
    said = {"--tensor-parallel-size", "--pipeline-parallel-size", "--data-parallel-size"}
    return spec.replicated_b is not None and cards > 1 and not said & set(given)


def _replicate(copies: int, given: Mapping[str, str], why: list[str]) -> tuple[int, int]:
    """(servers, data parallel size) for so many copies."""
    asked = number(given, "--data-parallel-size")
    if asked is not None:
        if asked > copies:
            raise UsageError(
                f"--engine-arg --data-parallel-size {asked}: the GPUs hold {copies} copies",
                "Use fewer, or raise --gpus.",
            )
        why.append(f"data parallel {asked}: as asked for.")
        return 1, asked
    if copies > 1:
        why.append(
            f"{copies} copies, each a server of its own: one that dies comes back alone, and no "
            "process has to feed them all."
        )
    return copies, 1


def sequences_at_once(
    found: Room | None,
    card_gib: float,
    concurrency: int,
    copies: int,
    given: Mapping[str, str],
    why: list[str],
) -> int:
    """How many sequences a copy may work on at once: as many as vLLM would by itself. How many
    there are is up to the run, which follows the engine's own figures (`in_flight`)."""
    asked = number(given, "--max-num-seqs")
    if asked is not None:
        why.append(f"max-num-seqs {asked}: as asked for.")
        return asked
    share = ceil(concurrency / copies)
    # Episodes stay with the copy that has their prefix cached, so the load is never quite even.
    wanted = share if copies == 1 else ceil(share * 1.25)
    wanted = wanted if wanted <= 8 else ceil(wanted / 8) * 8
    seqs = min(wanted, MAX_NUM_SEQS if card_gib >= LARGE_CARD_GIB else SMALL_CARD_NUM_SEQS)
    if found is not None and found.states is not None and found.states < seqs:
        seqs = max(found.states, 1)
        why.append(f"max-num-seqs {seqs}: each sequence keeps a state, and no more of them fit.")
        return seqs
    why.append(
        f"max-num-seqs {seqs}: how many are in flight follows what the engine says of itself."
    )
    return seqs
