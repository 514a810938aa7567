"""The planner held against a second, plain writing of its rules: the whole plan, and of its reasons
in which order they stand and with what figures. The arithmetic of memory, `fit`, is not written
twice here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import ceil, floor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_planner import dense

from local_shutdown.engines import fit
from local_shutdown.engines.flags import options, server_flags, split_engine_args
from local_shutdown.engines.plan import Gpu, Plan
from local_shutdown.engines.planner import plan
from local_shutdown.engines.spec import GIB, KvCache, ModelSpec, Thinking
from local_shutdown.errors import CannotRunError, LocalShutdownError, UsageError

PLAIN = KvCache(layers=32, heads=8, dim=128)
CACHES = {
    "plain": PLAIN,
    "states": KvCache(layers=32, heads=8, dim=128, state_mib=256.0),
    "only states": KvCache(layers=0, state_mib=256.0),
    "one head": KvCache(layers=256, heads=1, dim=128),
    "unknown": None,
}


class Refused(Exception):
    """(kind, what its message holds)"""


def second(
    spec: ModelSpec,
    cards: Sequence[Gpu],
    concurrency: int,
    max_model_len: int | None,
    args: Sequence[str],
    ram: float | None,
    free: float | None,
) -> tuple[dict[str, Any], list[str]]:
    """(the plan's fields, the reasons as patterns)."""
    user = split_engine_args(args)
    said = {**options(spec.server_args), **options(user)}
    why: list[str] = []

    def whole(name: str) -> int | None:
        return int(said[name]) if name in said else None

    # How long a conversation may get.
    flag = said.get("--max-model-len")
    asked = max_model_len is not None or flag is not None
    wanted = max_model_len if flag in (None, "auto") else int(flag)
    if wanted is not None:
        if spec.context is not None and spec.context < wanted:
            raise Refused(UsageError, f"{wanted}.*{spec.context}")
        length = wanted
        why.append(rf"max-model-len {length}: as asked")
    else:
        length = 32768 if spec.context is None else min(spec.context, 32768)
        need = "32k" if spec.reasons else "8k"
        native = "unknown" if spec.context is None else f"native: {spec.context}"
        why.append(rf"max-model-len {length}: .*{need}.*{native}")
        if length < (16384 if spec.reasons else 8192):
            why.append("limit")
    if spec.remote_code and "--no-trust-remote-code" not in said:
        why.append("--trust-remote-code")

    def length_words() -> list[str]:
        return ["--max-model-len", str(length) if asked or spec.context is not None else "auto"]

    weights = fit.planned_weights_gib(spec, said)
    if not cards:
        why.append("CPU build")
        gib = weights or 0.0
        spare = 1.5 + min(4.0, 0.04 * gib)
        if ram is not None and gib + spare + 1 > ram:
            raise Refused(CannotRunError, f"{ram:.0f} GiB of memory.* {gib:.0f} GiB")
        token, sequence = fit.kv_bytes(spec, 1, said)
        bounds = [8.0]
        bounds += [] if ram is None else [float(floor((ram - gib) / 2))]
        bounds += [] if free is None else [float(floor(free - gib - spare))]
        cache = max(1.0, min(bounds))
        if token and floor((cache * GIB - sequence) / token) < length and not asked:
            holds = floor((cache * GIB - sequence) / token)
            length = max(1024, holds - holds % 1024)
            why.append(rf"cut to {length}: .*{cache:.0f} GiB")
        tiny = spec.params_total_b is not None and spec.params_total_b < 1
        seqs = whole("--max-num-seqs") or min(concurrency, 64 if tiny else 16)
        why.append(rf"max-num-seqs {seqs}:")
        all_of_them = seqs * (min(8192, length) * token + sequence) / GIB
        one = (length * token + sequence) / GIB
        given_gib = max(1, ceil(max(one, min(cache, all_of_them))))
        why.append(rf"VLLM_CPU_KVCACHE_SPACE {given_gib}:")
        words = [*length_words(), "--max-num-seqs", str(seqs)]
        if spec.dtype not in ("float32", "bfloat16", "float16"):
            why.append(f"{spec.dtype} weights")
        elif "--dtype" not in said:
            words += ["--dtype", "float32" if spec.dtype == "float32" else "bfloat16"]
        return {
            "spec": spec, "gpus": (), "tensor_parallel": 1, "data_parallel": 1, "servers": 1,
            "max_model_len": length, "max_num_seqs": seqs,
            "kv_tokens": floor(given_gib * GIB / token) if token else None,
            "flags": server_flags(spec, words, user),
            "env": {**spec.env, "VLLM_CPU_KVCACHE_SPACE": str(given_gib)}, "nodes": 1,
        }, why  # fmt: skip

    # The share of a card.
    smallest = min(card.memory_gib for card in cards)
    if any(card.memory_gib > 1.02 * smallest for card in cards):
        why.append(rf"differ: .*{smallest:.0f} GiB")
    share = 0.92
    if "--gpu-memory-utilization" in said:
        share = float(said["--gpu-memory-utilization"])
    else:
        least = min((card.free_gib - 0.25) / card.memory_gib for card in cards)
        if least < 0.92:
            share = max(0.01, floor(100 * least) / 100)
            held = max(card.memory_gib - card.free_gib for card in cards)
            why.append(rf"hold {held:.1f} GiB .* {share:.2f} of it")
    stages = whole("--pipeline-parallel-size") or 1
    mig = any(card.mig for card in cards)
    if mig:
        for name in ("--tensor-parallel-size", "--pipeline-parallel-size"):
            if (whole(name) or 1) > 1:
                raise Refused(UsageError, f"{name} {said[name]}.*MIG")
        why.append("MIG")
    if any(card.vendor == "amd" for card in cards):
        why.append("AMD")
    split = ("--tensor-parallel-size", "--pipeline-parallel-size", "--data-parallel-size")
    spread = spec.replicated_b is not None and len(cards) > 1 and not any(s in said for s in split)
    try:
        sizes = fit.tensor_parallel_sizes(spec, len(cards) // stages, said)
    except UsageError as more:
        raise Refused(UsageError, re.escape(more.message)) from None
    if spread or mig:
        sizes = [1]

    tokens = states = None
    if weights is None:
        tp = sizes[-1]
        why.append(rf"size unknown: .* {tp * stages} GPU")
    else:
        ranks = len(cards) if spread else 1
        rooms = [fit.room(spec, n, smallest * share, length, said, stages, ranks) for n in sizes]
        largest = max(room.tokens for room in rooms)
        if largest < length and not asked and largest >= 8192:
            length = largest - largest % 1024
            why.append(rf"cut to {length}:")
        if largest < length:
            error = fit.refusal(spec, len(cards), smallest, rooms, length, asked, said)
            raise Refused(type(error), re.escape(error.message))
        fitting = [room for room in rooms if room.tokens >= length]
        groups = len(cards) // stages

        def copies_of(room: fit.Room) -> int:
            return groups // room.tensor_parallel

        useful = [r for r in fitting if r.episodes >= min(16, ceil(concurrency / copies_of(r)))]
        best = max(r.episodes * copies_of(r) for r in fitting)
        most = [r for r in fitting if r.episodes * copies_of(r) == best]
        room = (useful or most)[0]
        tp, tokens, states = room.tensor_parallel, room.tokens, room.states
        how = (
            "as asked for" if "--tensor-parallel-size" in said else "one" if tp == 1 else "smallest"
        )
        why.append(rf"tensor parallel {tp}: .*{how}.* {weights:.0f} GiB of .* {tokens} tokens")
        if spec.kv is None:
            why.append("guess")
        if room.episodes < min(16, concurrency):
            why.append(rf"tight: .* {max(1, room.episodes)} episode")
    copies = len(cards) // (tp * stages)
    if spread:
        servers, data = 1, len(cards)
        why.append(rf"data parallel {data} with the experts")
    elif "--data-parallel-size" in said:
        servers, data = 1, int(said["--data-parallel-size"])
        if data > copies:
            raise Refused(UsageError, rf"--data-parallel-size {data}: .* {copies} copies")
        why.append(rf"data parallel {data}: as asked")
    else:
        servers, data = copies, 1
        if copies > 1:
            why.append(rf"{copies} copies")
    used = servers * data * tp * stages
    if used < len(cards):
        why.append(rf"{len(cards) - used} of {len(cards)} GPUs stay unused")

    # Sequences of a copy.
    seqs = whole("--max-num-seqs")
    if seqs is not None:
        why.append(rf"max-num-seqs {seqs}: as asked")
    else:
        each = ceil(concurrency / (servers * data))
        if servers * data > 1:
            each = ceil(5 * each / 4)
        if each > 8:
            each += -each % 8
        seqs = min(each, 1024 if smallest >= 70 else 256)
        limited = states is not None and states < seqs
        seqs = max(1, states) if limited else seqs
        why.append(rf"max-num-seqs {seqs}: .*{'state' if limited else 'in flight'}")
    words = [*length_words(), "--max-num-seqs", str(seqs)]
    words += ["--gpu-memory-utilization", f"{share:.2f}"]
    words += ["--tensor-parallel-size", str(tp)] if tp > 1 else []
    words += ["--data-parallel-size", str(data)] if data > 1 else []
    words += ["--enable-expert-parallel"] if spread else []
    return {
        "spec": spec, "gpus": tuple(cards[:used]), "tensor_parallel": tp, "data_parallel": data,
        "servers": servers, "max_model_len": length, "max_num_seqs": seqs, "kv_tokens": tokens,
        "flags": server_flags(spec, words, user), "env": dict(spec.env), "nodes": 1,
    }, why  # fmt: skip


def held_against(
    spec: ModelSpec, cards: Sequence[Gpu], concurrency: int, **more: Any
) -> Plan | None:
    """The plan, where there is one; both readings came to the same."""
    given_args = (
        more.get("max_model_len"), more.get("engine_args", ()), more.get("ram_gib"),
        more.get("free_ram_gib"),
    )  # fmt: skip
    try:
        wanted, why = second(spec, cards, concurrency, *given_args)
    except Refused as refused:
        kind, said = refused.args
        with pytest.raises(LocalShutdownError) as caught:
            plan(spec, cards, concurrency=concurrency, **more)
        assert type(caught.value) is kind
        assert re.search(said, caught.value.message), (said, caught.value.message)
        assert caught.value.hint
        return None
    made = plan(spec, cards, concurrency=concurrency, **more)
    assert made == Plan(**wanted, why=made.why)
    assert len(made.why) == len(why), (made.why, why)
    for sentence, pattern in zip(made.why, why, strict=True):
        assert re.search(pattern, sentence), (pattern, sentence)
    return made


specs = st.builds(
    lambda params, cache, context, known, **more: dense(
        params,
        kv=CACHES[cache],
        context=context,
        weights_gib=params * 2 if known else None,
        **more,
    ),
    st.sampled_from([0.5, 1.0, 8.0, 8.0, 17.0, 34.0, 70.0]),
    st.sampled_from(["plain", "plain", *CACHES]),
    st.sampled_from([None, 4096, 8192, 16384, 32768, 131072]),
    st.sampled_from([True, True, True, False]),
    thinking=st.sampled_from([Thinking(), Thinking("on")]),
    remote_code=st.booleans(),
    env=st.sampled_from([{}, {"A": "b"}]),
    server_args=st.sampled_from([(), ("--max-num-seqs", "5"), ("--dtype", "float16")]),
    dtype=st.sampled_from(["bfloat16", "float16", "float32", "fp8"]),
)
LENGTHS = st.sampled_from([None, None, None, 2048, 8192, 32768, 131072])
CONCURRENCY = st.sampled_from([1, 2, 3, 7, 8, 9, 15, 16, 17, 64, 65, 256, 5000])
ARGS = [
    "-tp 1", "-tp 2", "-tp 4", "-pp 2", "-dp 1", "-dp 2", "-dp 3", "--max-num-seqs 5",
    "--max-model-len auto", "--max-model-len 4096", "--gpu-memory-utilization 0.5", "-q fp8",
    "--no-trust-remote-code", "--kv-cache-dtype fp8", "--enforce-eager",
]  # fmt: skip


@given(
    spec=specs,
    replicated=st.sampled_from([None, None, None, 4.0]),
    sizes=st.lists(st.sampled_from([22.0, 45.0, 69.0, 70.0, 80.0, 81.0]), min_size=1, max_size=2),
    count=st.integers(1, 8),
    held=st.sampled_from([0.0, 0.0, 0.0, 3.0, 6.4, 30.0]),
    kind=st.sampled_from(["nvidia", "nvidia", "nvidia", "amd", "mig"]),
    concurrency=CONCURRENCY,
    length=LENGTHS,
    args=st.lists(st.sampled_from(ARGS), max_size=2, unique_by=lambda a: a.split()[0]),
)
@settings(max_examples=100)
def test_on_cards_both_readings_come_to_the_same(
    spec: ModelSpec,
    replicated: float | None,
    sizes: list[float],
    count: int,
    held: float,
    kind: str,
    concurrency: int,
    length: int | None,
    args: list[str],
) -> None:
    if replicated is not None:
        spec = dense(
            spec.params_total_b or 8.0, context=spec.context, kv=spec.kv, replicated_b=replicated
        )
    cards = [
        Gpu(
            n, "card", gib := sizes[n % len(sizes)], gib - (held if n == 0 else 0.0),
            mig=kind == "mig", vendor="amd" if kind == "amd" else "nvidia",
        )
        for n in range(count)
    ]  # fmt: skip
    held_against(spec, cards, concurrency, max_model_len=length, engine_args=args)


@given(
    spec=specs,
    concurrency=CONCURRENCY,
    length=LENGTHS,
    args=st.lists(st.sampled_from([*ARGS[7:], "--dtype float32"]), max_size=1),
    ram=st.sampled_from([None, None, 3.0, 19.1, 19.15, 24.0, 40.0, 64.0, 200.0]),
    free=st.sampled_from([None, None, 1.0, 18.0, 21.0, 25.0, 60.0]),
)
@settings(max_examples=100)
def test_without_cards_both_readings_come_to_the_same(
    spec: ModelSpec,
    concurrency: int,
    length: int | None,
    args: list[str],
    ram: float | None,
    free: float | None,
) -> None:
    held_against(
        spec, [], concurrency, max_model_len=length, engine_args=args, ram_gib=ram,
        free_ram_gib=free,
    )  # fmt: skip


def cards(count: int, gib: float, held: float = 0.0, **more: Any) -> list[Gpu]:
    return [Gpu(n, "card", gib, gib - held, **more) for n in range(count)]


@pytest.mark.parametrize("concurrency", [1, 2, 3, 16, 17, 24, 64, 256, 5000])
def test_at_the_edges_of_each_rule_they_do_too(concurrency: int) -> None:
    """What random draws seldom meet: sizes just above and below what a rule asks for."""
    found: list[Plan | None] = []
    for params in (8.0, 17.0, 34.0):
        for gib in (20.9, 21.1, 22.0, 24.0, 45.0, 69.9, 70.0, 80.0):
            for count in (1, 2, 3, 4, 6):
                found.append(held_against(dense(params), cards(count, gib), concurrency))
    one_head = dense(8, kv=CACHES["one head"])
    for gib in (22.0, 24.0, 26.0, 30.0):
        for count in (1, 2, 4):
            found.append(held_against(one_head, cards(count, gib), concurrency, max_model_len=8192))
    states = dense(8, kv=CACHES["states"])
    for gib in (20.0, 20.4, 20.8, 24.0, 32.0):
        found.append(held_against(states, cards(2, gib), concurrency, max_model_len=1024))
    for replicated in (4.0, 10.0):
        moe = dense(60, replicated_b=replicated)
        for args in ([], ["-tp 4"], ["-dp 2"], ["-pp 2"], ["-tp 2", "-pp 2"], ["-tp 2", "-dp 2"]):
            for gib in (45.0, 80.0, 140.0):
                found.append(held_against(moe, cards(4, gib), concurrency, engine_args=args))
    assert 20 < sum(made is not None for made in found) < len(found)


@pytest.mark.parametrize("held", [0.0, 6.14, 6.16, 6.95, 7.0, 50.0, 79.0])
def test_what_others_hold_is_not_planned_with(held: float) -> None:
    for more in ({}, {"engine_args": ["--gpu-memory-utilization 0.9"]}):
        held_against(dense(8), cards(2, 80.0, held), 64, **more)
        held_against(dense(8), [*cards(1, 80.0), *cards(1, 81.6, held)], 64, **more)
        held_against(dense(8), [*cards(1, 80.0), *cards(1, 81.7, held)], 64, **more)


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("--tensor-parallel-size", "x", UsageError),
        ("--pipeline-parallel-size", "0", UsageError),
        ("--data-parallel-size", "-1", UsageError),
        ("--max-num-seqs", "1.5", UsageError),
        ("--max-model-len", "long", UsageError),
        ("--gpu-memory-utilization", "most", UsageError),
        ("--seed", "1", UsageError),
        ("--port", "1", UsageError),
    ],
)
def test_a_flag_of_a_wrong_value_is_refused_by_its_name(
    name: str, value: str, kind: type[LocalShutdownError]
) -> None:
    with pytest.raises(kind, match=f"--engine-arg {name}") as refused:
        plan(dense(8), cards(4, 80.0), concurrency=8, engine_args=[f"{name}={value}"])
    assert refused.value.hint


def test_a_format_that_a_card_is_too_old_for_is_refused_whoever_asks_for_it() -> None:
    old = cards(1, 80.0, capability=(7, 0))
    new = cards(1, 80.0, capability=(9, 0))
    plain = dense(8, dtype="float16")
    assert plan(plain, old, concurrency=1).servers == 1
    for spec, args in (
        (dense(8), []),
        (plain, ["-q fp8"]),
        (dense(8, dtype="float16", server_args=("--quantization", "fp8")), []),
        (dense(8, dtype="float16", min_capability=(8, 9)), []),
    ):
        with pytest.raises(CannotRunError, match=r"plain: .*7\.0") as refused:
            plan(spec, old, concurrency=1, engine_args=args)
        assert refused.value.hint
        assert plan(spec, new, concurrency=1, engine_args=args).servers == 1


def test_what_is_not_said_is_this() -> None:
    bare: Mapping[str, Any] = {
        "max_model_len": None, "engine_args": (), "ram_gib": None, "free_ram_gib": None,
    }  # fmt: skip
    for some in (cards(2, 80.0), []):
        assert plan(dense(8), some, concurrency=64) == plan(dense(8), some, concurrency=64, **bare)
    assert dense(8).kv == PLAIN
