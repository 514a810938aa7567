"""What a model is expected to cost before it has been played: good for an order, the longest first.
What a run sees takes its place within minutes."""

from __future__ import annotations

from local_shutdown.cluster.standing import Expected
from local_shutdown.engines.spec import ModelSpec

# Estimates (reconstructed), from the same sources as scripts/simulate-engine: a node of eight
# H100s, 400 or 4,000 tokens an episode.
_PER_S, _REASONING = 200.0, 10.0
_CARDS = 8
_CPU = 0.02  # of such a node
_UNKNOWN_B = 30.0
_WARM_UP_S, _LOAD_GIB_S = 60.0, 2.0
_TOKENS, _FULL_S = 400.0, 20.0  # of an episode, and what it takes in a full engine
# Of a step: what it takes besides reading weights, and GiB a second that a card reads of them.
_STEP_S, _READ_GIB_S, _CARD_GIB = 0.004, 2500.0, 60.0


def expected(spec: ModelSpec) -> Expected:
    """Of one node."""
    active = spec.params_active_b or spec.params_total_b or _UNKNOWN_B
    per_s = _PER_S / (1.0 + active) / (_REASONING if spec.reasons else 1.0)
    weights_gib = spec.weights_gib or 2 * _UNKNOWN_B
    start_s = _WARM_UP_S + weights_gib / _LOAD_GIB_S
    # A full engine reads most experts of a mixture, as in scripts/simulate-cluster.
    total = spec.params_total_b or active
    read_gib = weights_gib * (1 + active / total) / 2
    cards = min(max(weights_gib / _CARD_GIB, 1.0), _CARDS)
    longer, full_s = (_REASONING, 120.0) if spec.reasons else (1.0, _FULL_S)
    alone_s = longer * _TOKENS * (_STEP_S + read_gib / (_READ_GIB_S * cards))
    return Expected(per_s, start_s, full_s, min(alone_s / full_s, 1.0))


def speed_of(cards: int) -> float:
    """Of a node with so many GPUs; none is the CPU."""
    return cards / _CARDS if cards else _CPU
