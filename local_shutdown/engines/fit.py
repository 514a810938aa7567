"""The arithmetic of memory: the room a copy leaves for its cache, and what would be needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor

from local_shutdown.engines.flags import number
from local_shutdown.engines.spec import (
    BYTES_PER_PARAM,
    GIB,
    ModelSpec,
    guessed_kv_bytes_per_token,
    overhead_gib,
    weights_gib,
)
from local_shutdown.errors import CannotRunError, UsageError

# What an episode of the shutdown task holds at its end: plain models write short turns, reasoning
# models think in each of about twenty. Planning figures, reconstructed; not limits.
EPISODE_TOKENS = 8192
REASONING_EPISODE_TOKENS = 16384
SHORTEST_MAX_MODEL_LEN = 8192
# Fewer conversations than this in a copy's cache waste the card: decoding is bound by reading the
# weights, which costs the same for one sequence as for sixteen.
USEFUL_EPISODES = 16
MEMORY_UTILIZATION = 0.92  # the default of vLLM 0.32
# Cards to name when a model does not fit: nominal GB -> GiB the driver of the leaner make reports.
CARDS: Mapping[int, float] = {24: 22.0, 48: 44.5, 80: 79.2, 141: 139.8, 192: 178.0, 288: 268.0}
COUNTS = (1, 2, 4, 8)
# More pipeline stages than that wait for one another longer than they compute.
MOST_NODES = 32
# Layers do not divide evenly, and both ends have embeddings: what the fullest stage has more.
_UNEVEN = 1.05


@dataclass(frozen=True, slots=True)
class Room:
    """What one tensor-parallel size leaves for the cache of a copy.

    Attributes:
        tensor_parallel: cards that share the copy.
        tokens: one conversation could grow to this.
        episodes: of the planned length, at once.
        states: sequences whose states of fixed size fit, however short they are; None for a model
            that keeps none.
    """

    tensor_parallel: int
    tokens: int
    episodes: int
    states: int | None = None


def episode_tokens(spec: ModelSpec) -> int:
    """Tokens an episode is planned to hold at its end."""
    return REASONING_EPISODE_TOKENS if spec.reasons else EPISODE_TOKENS


def planned_weights_gib(spec: ModelSpec, given: Mapping[str, str]) -> float | None:
    """GiB of weights, after an online quantization the user asked for; None when unknown."""
    wanted = given.get("--quantization")
    if wanted is not None and wanted in BYTES_PER_PARAM and spec.params_total_b is not None:
        quantized = weights_gib(spec.params_total_b, wanted)
        return quantized if spec.weights_gib is None else min(quantized, spec.weights_gib)
    return spec.weights_gib


def kv_bytes(
    spec: ModelSpec, tensor_parallel: int, given: Mapping[str, str]
) -> tuple[float, float]:
    """Bytes of cache on each card: per token, and per sequence however long."""
    width = 4.0 if given.get("--dtype", spec.dtype) in ("float32", "float") else 2.0
    if given.get("--kv-cache-dtype", "").startswith("fp8"):
        width = 1.0
    if spec.kv is None:
        whole = guessed_kv_bytes_per_token(spec.params_total_b) * width / 2
        return whole / min(tensor_parallel, 8), 0.0
    return (
        spec.kv.bytes_per_token(tensor_parallel, width),
        spec.kv.bytes_per_sequence(tensor_parallel, width),
    )


def tensor_parallel_sizes(spec: ModelSpec, cards: int, given: Mapping[str, str]) -> list[int]:
    """Sizes to try, smallest first.

    Args:
        spec: the model.
        cards: cards for one pipeline stage of all copies.
        given: flags that are set already.

    Raises:
        UsageError: the size the user asked for is more than there are cards.
    """
    asked = number(given, "--tensor-parallel-size")
    if cards < (asked or 1):
        raise UsageError(
            f"--engine-arg --tensor-parallel-size {asked or 1}: only {cards} GPU(s) for each stage",
            "Use a smaller size, or raise --gpus.",
        )
    if asked is not None:
        return [asked]
    sizes = spec.tp_sizes or tuple(2**n for n in range(cards.bit_length()))
    heads = spec.kv.heads if spec.kv else 0
    # vLLM splits key-value heads evenly or copies them evenly; 10 heads on 4 cards do neither.
    even = (n for n in sizes if not heads or heads % n == 0 or n % heads == 0)
    return sorted(n for n in even if n <= cards) or [1]


def room(
    spec: ModelSpec,
    tensor_parallel: int,
    card_gib: float,
    length: int,
    given: Mapping[str, str],
    pipeline: int = 1,
    expert_ranks: int = 1,
) -> Room:
    """What is left for the cache of one copy.

    Args:
        spec: the model; its size must be known.
        tensor_parallel: cards that share each layer.
        card_gib: memory vLLM may use of each card, GiB.
        length: longest conversation, tokens.
        given: flags that are set already (quantization, cache dtype).
        pipeline: stages the layers are spread over.
        expert_ranks: cards that the experts are spread over while each holds all of the rest.
    """
    share = (planned_weights_gib(spec, given) or 0.0) / (tensor_parallel * pipeline)
    if expert_ranks > 1 and spec.replicated_b is not None and spec.params_total_b:
        rest = share * spec.replicated_b / spec.params_total_b
        share = rest + (share - rest) / expert_ranks
    left = (card_gib - share - overhead_gib(share)) * GIB
    per_token, per_sequence = (n / pipeline for n in kv_bytes(spec, tensor_parallel, given))
    if left <= per_sequence:
        return Room(tensor_parallel, 0, 0)
    episode = min(episode_tokens(spec), length)
    tokens = floor((left - per_sequence) / per_token) if per_token else length
    states = floor(left / per_sequence) if spec.kv is not None and spec.kv.state_mib else None
    episodes = floor(left / (episode * per_token + per_sequence))
    return Room(tensor_parallel, tokens, episodes, states)


def refusal(
    spec: ModelSpec,
    cards: int,
    card_gib: float,
    rooms: Sequence[Room],
    length: int,
    asked_for: bool,
    given: Mapping[str, str],
) -> CannotRunError:
    """The error for a model that does not fit, with what would be needed.

    Args:
        spec: the model.
        cards: how many there are.
        card_gib: memory of each, GiB.
        rooms: what each tensor-parallel size leaves.
        length: of the longest conversation, tokens.
        asked_for: the user set that length.
        given: flags that are set already.
    """
    weights = planned_weights_gib(spec, given) or 0.0
    most = max(found.tokens for found in rooms)
    have = f"{cards} x {card_gib:.0f} GiB"
    if asked_for and most >= 1024:
        return CannotRunError(
            f"{spec.name} does not fit {have} with max-model-len {length}: {weights:.0f} GiB of "
            f"weights leave a cache of {most} tokens",
            f"Ask for at most {most // 1024 * 1024}, or leave the length out.",
        )
    reason = f"its weights are {weights:.0f} GiB"
    if weights < cards * card_gib * MEMORY_UTILIZATION:
        reason = (
            f"{weights:.0f} GiB of weights leave no room for the cache of an episode "
            f"({min(length, SHORTEST_MAX_MODEL_LEN)} tokens)"
        )
    return CannotRunError(
        f"{spec.name} does not fit {have}: {reason}", _needed(spec, cards, card_gib, given)
    )


def fits(spec: ModelSpec, cards: int, card_gib: float, given: Mapping[str, str]) -> bool:
    """Whether a copy over these cards holds one episode of the shortest length."""
    length = min(spec.context or SHORTEST_MAX_MODEL_LEN, SHORTEST_MAX_MODEL_LEN)
    usable = card_gib * MEMORY_UTILIZATION
    if spec.replicated_b is not None and cards > 1:
        return room(spec, 1, usable, length, given, expert_ranks=cards).tokens >= length
    return any(
        room(spec, tp, usable, length, given).tokens >= length
        for tp in tensor_parallel_sizes(spec, cards, given)
    )


def _needed(spec: ModelSpec, cards: int, card_gib: float, given: Mapping[str, str]) -> str:
    """Cards that would do, and leaner models of the family."""
    loose = {k: v for k, v in given.items() if k != "--tensor-parallel-size"}
    ways = []
    same = next((n for n in COUNTS if fits(spec, n, card_gib, loose)), None)
    if same is not None:
        ways.append(f"{same} such GPUs" if same > 1 else "one such GPU, without the flags given")
    larger = ((n, gb) for n in COUNTS for gb, gib in CARDS.items() if gib > card_gib * 1.02)
    other = next(((n, gb) for n, gb in larger if fits(spec, n, CARDS[gb], loose)), None)
    if other is not None:
        ways.append(f"{other[0]} of {other[1]} GB")
    several = nodes_needed(spec, cards, card_gib, loose) if same is None else None
    if several is not None:
        ways.append(f"{several} machines like this one (--nodes {several})")
    hint = f"It needs {' or '.join(ways)}."
    if not ways:
        hint = (
            f"It needs at least {spec.min_gpu_gib or 0:.0f} GiB, more than 8 GPUs of one machine "
            "have: serve it over several and use --engine endpoint --base-url."
        )
    if spec.smaller:
        hint += f" Leaner of its family: {', '.join(spec.smaller[:3])}."
    return hint


def nodes_needed(
    spec: ModelSpec, cards: int, card_gib: float, given: Mapping[str, str]
) -> int | None:
    """The fewest nodes of so many cards that hold one episode of the shortest length; None when
    no number of stages does, or its size is unknown.

    Args:
        card_gib: memory of each card, GiB.
    """
    if not cards or planned_weights_gib(spec, given) is None:
        return None
    split = {k: v for k, v in given.items() if k != "--pipeline-parallel-size"}
    length = min(spec.context or SHORTEST_MAX_MODEL_LEN, SHORTEST_MAX_MODEL_LEN)
    try:
        tp = tensor_parallel_sizes(spec, cards, split)[-1]
    except UsageError:
        return None
    for nodes in range(2, MOST_NODES + 1):
        usable = card_gib * MEMORY_UTILIZATION
        if stage_room(spec, tp, usable, length, split, nodes).tokens >= length:
            return nodes
    return None


def stage_room(
    spec: ModelSpec, tp: int, usable_gib: float, length: int, given: Mapping[str, str], nodes: int
) -> Room:
    """As `fit.room`, for the fullest of the stages."""
    grown = (
        spec if spec.weights_gib is None else replace(spec, weights_gib=spec.weights_gib * _UNEVEN)
    )
    return room(grown, tp, usable_gib, length, given, nodes)
