"""Planning for a model that is larger than a machine.

Pure. Rules of vLLM's documentation on several nodes: tensor parallel within a node, where every
layer's exchange is fast, and pipeline parallel over the nodes, where a stage hands on one vector a
token. One copy: where a node holds the model, a copy on each plays more than one over all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor

from local_shutdown.engines import drivers
from local_shutdown.engines.fit import (
    SHORTEST_MAX_MODEL_LEN,
    Room,
    fits,
    nodes_needed,
    planned_weights_gib,
    stage_room,
    tensor_parallel_sizes,
)
from local_shutdown.engines.flags import number, options, server_flags, split_engine_args
from local_shutdown.engines.plan import Gpu, Plan
from local_shutdown.engines.planner import (
    card_share,
    conversation_length,
    length_flag,
    sequences_at_once,
)
from local_shutdown.engines.spec import ModelSpec
from local_shutdown.errors import CannotRunError, UsageError


def plan_over_nodes(
    spec: ModelSpec,
    gpus: Sequence[Gpu],
    nodes: int,
    *,
    concurrency: int,
    max_model_len: int | None = None,
    engine_args: Sequence[str] = (),
    between: str = "",
) -> Plan:
    """Decide how to serve a model over several nodes like this one.

    Args:
        spec: the model.
        gpus: the cards of this node; the others are taken to have the same.
        nodes: how many, this one included; 2 or more.
        concurrency: the most episodes that will be in flight.
        max_model_len: tokens; None takes the native context up to 32768.
        engine_args: flags for vLLM as the user gave them; they win over ours.
        between: a sentence on the interconnect.

    Raises:
        UsageError: a flag that cannot be met.
        CannotRunError: it does not fit; the hint says how many such nodes would do.
    """
    user = split_engine_args(engine_args)
    given = {**options(spec.server_args), **options(user)}
    why = [f"{nodes} nodes, taken to have the same GPUs: {len(gpus)} x {gpus[0].name}."]
    for name in ("--data-parallel-size", "--distributed-executor-backend"):
        if name in given:
            raise UsageError(
                f"--engine-arg {name}: --nodes {nodes} spreads one copy by vLLM's own means",
                "Leave it out, or leave --nodes out.",
            )
    stages = number(given, "--pipeline-parallel-size") or nodes
    if stages != nodes:
        raise UsageError(
            f"--engine-arg --pipeline-parallel-size {stages}: --nodes {nodes} makes a stage a node",
            "Leave it out.",
        )
    if any(gpu.mig for gpu in gpus):
        raise UsageError(
            f"--nodes {nodes}: the GPUs are MIG devices, which cannot share a model",
            "Switch MIG off: nvidia-smi -mig 0.",
        )
    too_old = drivers.too_old(given.get("--quantization", spec.dtype), spec.min_capability, gpus)
    if too_old is not None:
        raise CannotRunError(
            f"{spec.name}: {too_old}", "Use newer cards, or a checkpoint in another format."
        )
    length = conversation_length(spec, max_model_len, given, why)
    asked_for = max_model_len is not None or "--max-model-len" in given
    card_gib, utilization = card_share(gpus, given, why)
    found: Room | None = None
    tp = tensor_parallel_sizes(spec, len(gpus), given)[-1]
    if planned_weights_gib(spec, given) is None:
        why.append("size unknown: all GPUs of all nodes hold one copy.")
    else:
        found = stage_room(spec, tp, card_gib * utilization, length, given, nodes)
        if found.tokens < length and not asked_for and found.tokens >= SHORTEST_MAX_MODEL_LEN:
            length = found.tokens // 1024 * 1024
            why.append(f"max-model-len cut to {length}: the cache holds no more.")
        if found.tokens < length:
            raise _refused(spec, gpus, nodes, found, length, given)
        if fits(spec, len(gpus), card_gib, given):
            why.append(
                "one node holds this model: a copy on each node, without --nodes, plays more "
                "(--ray, or --shard)."
            )
    why.append(f"tensor parallel {tp} within a node, pipeline parallel {nodes} over the nodes.")
    if between:
        why.append(between)
    if tp < len(gpus):
        why.append(f"{len(gpus) - tp} of {len(gpus)} GPUs of each node stay unused.")
    seqs = sequences_at_once(found, card_gib, concurrency, 1, given, why)
    flags = [*length_flag(spec, length, asked_for), "--max-num-seqs", str(seqs)]
    flags += ["--gpu-memory-utilization", f"{utilization:.2f}"]
    flags += ["--tensor-parallel-size", str(tp), "--pipeline-parallel-size", str(nodes)]
    flags += ["--distributed-executor-backend", "mp", "--nnodes", str(nodes)]
    return Plan(
        spec=spec,
        gpus=tuple(gpus[:tp]),
        tensor_parallel=tp,
        data_parallel=1,
        servers=1,
        max_model_len=length,
        max_num_seqs=seqs,
        kv_tokens=found.tokens if found else None,
        flags=server_flags(spec, flags, user),
        env=dict(spec.env),
        why=tuple(why),
        nodes=nodes,
    )


def _refused(
    spec: ModelSpec,
    gpus: Sequence[Gpu],
    nodes: int,
    found: Room,
    length: int,
    given: Mapping[str, str],
) -> CannotRunError:
    card_gib = min(gpu.memory_gib for gpu in gpus)
    have = f"{nodes} nodes of {len(gpus)} x {card_gib:.0f} GiB"
    weights = planned_weights_gib(spec, given) or 0.0
    if found.tokens >= 1024:
        return CannotRunError(
            f"{spec.name} does not fit {have} with max-model-len {length}: {weights:.0f} GiB of "
            f"weights leave a cache of {found.tokens} tokens",
            f"Ask for at most {floor(found.tokens / 1024) * 1024}, or use more nodes.",
        )
    needed = nodes_needed(spec, len(gpus), card_gib, given)
    hint = f"It needs {needed} such nodes: --nodes {needed}." if needed else "It needs larger GPUs."
    return CannotRunError(
        f"{spec.name} does not fit {have}: its weights are {weights:.0f} GiB", hint
    )
