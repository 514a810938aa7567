"""Plans worked out by hand for a model whose figures are round: 8 KiB of tokens fill a GiB."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from test_planner import cards, dense, flag

from local_shutdown.engines.fit import Room
from local_shutdown.engines.plan import Gpu
from local_shutdown.engines.planner import (
    card_share,
    conversation_length,
    length_flag,
    plan,
    sequences_at_once,
)
from local_shutdown.engines.spec import KvCache, Thinking
from local_shutdown.errors import CannotRunError, UsageError

NONE: Mapping[str, str] = {}
STATES = KvCache(layers=32, heads=8, dim=128, state_mib=256.0)


def words(sentences: tuple[str, ...] | list[str]) -> str:
    return "\n".join(sentences)


@pytest.mark.parametrize(
    ("concurrency", "copies", "card_gib", "seqs"),
    [
        (1, 1, 80, 1), (7, 1, 80, 7), (8, 1, 80, 8), (9, 1, 80, 16), (64, 1, 80, 64),
        (65, 1, 80, 72), (6, 2, 80, 4), (13, 2, 80, 16), (12, 2, 80, 8), (64, 4, 80, 24),
        (4096, 1, 70, 1024), (4096, 1, 69.9, 256), (4096, 8, 80, 640), (257, 1, 48, 256),
    ],
)  # fmt: skip
def test_sequences_of_a_copy(concurrency: int, copies: int, card_gib: float, seqs: int) -> None:
    """A copy's share and, with several, a quarter more; to the next 8; to vLLM's own limit."""
    why: list[str] = []
    assert sequences_at_once(None, card_gib, concurrency, copies, NONE, why) == seqs
    assert [sentence.partition(":")[0] for sentence in why] == [f"max-num-seqs {seqs}"]
    for states, most in ((seqs, seqs), (seqs + 1, seqs), (seqs - 1, max(seqs - 1, 1)), (0, 1)):
        found = Room(1, 9, 9, states)
        why = []
        assert sequences_at_once(found, card_gib, concurrency, copies, NONE, why) == most
        assert ("keeps a state" in words(why)) is (states < seqs)
        assert words(why).startswith(f"max-num-seqs {most}: ")
        assert len(why) == 1
    why = []
    given = {"--max-num-seqs": "5"}
    assert sequences_at_once(Room(1, 9, 9, 2), card_gib, concurrency, copies, given, why) == 5
    assert words(why).startswith("max-num-seqs 5: as asked for")


def test_length_of_a_conversation() -> None:
    def length(
        context: int | None, wanted: int | None = None, given: Mapping[str, str] = NONE, **more: Any
    ) -> tuple[int, list[str]]:
        why: list[str] = []
        return conversation_length(dense(8, context=context, **more), wanted, given, why), why

    assert length(131072)[0] == length(None)[0] == length(32768)[0] == 32768
    assert length(32767)[0] == 32767
    assert "native context unknown" in words(length(None)[1])
    assert "(native: 32767)" in words(length(32767)[1])
    assert "about 8k" in words(length(8192)[1])
    thinks = {"thinking": Thinking("on")}
    assert "up to 32k" in words(length(8192, **thinks)[1])
    for context, more, short in (
        (8192, {}, False), (8191, {}, True), (16384, thinks, False), (16383, thinks, True),
    ):  # fmt: skip
        found, why = length(context, **more)
        assert (found, "end as `limit`" in words(why), len(why)) == (context, short, 1 + short)
        assert words(why).startswith(f"max-model-len {context}: ")
    assert length(4096, 4096) == (4096, ["max-model-len 4096: as asked for."])
    assert length(None, 999_999)[0] == 999_999
    assert length(4096, 1024, {"--max-model-len": "2048"})[0] == 2048
    assert length(4096, 1024, {"--max-model-len": "auto"})[0] == 1024
    assert length(4096, None, {"--max-model-len": "auto"})[0] == 4096
    with pytest.raises(UsageError, match=r"max-model-len 4097: .* for 4096 tokens") as refused:
        length(4096, 4097)
    assert "at most 4096" in str(refused.value.hint)
    for context, asked, said in ((4096, False, "77"), (None, True, "77"), (None, False, "auto")):
        assert length_flag(dense(8, context=context), 77, asked) == ["--max-model-len", said]


def test_share_of_a_card() -> None:
    def share(*held: tuple[float, float], **given: str) -> tuple[tuple[float, float], list[str]]:
        why: list[str] = []
        gpus = [Gpu(n, "card", whole, free) for n, (whole, free) in enumerate(held)]
        flags = {f"--{name.replace('_', '-')}": value for name, value in given.items()}
        return card_share(gpus, flags, why), why

    assert share((80, 80)) == ((80, 0.92), [])
    assert share((80, 80), (81.5, 81.5)) == ((80, 0.92), [])
    assert len(share((80, 80), (81.7, 81.7))[1]) == 1
    found, why = share((80, 80), (40, 40), (82, 82))
    assert (found, len(why)) == ((40, 0.92), 1)
    assert "40 GiB" in why[0]
    assert share((100, 92.25)) == ((100, 0.92), [])  # a quarter of a GiB is for the driver
    found, why = share((100, 92.24), (100, 100))
    assert (found, len(why)) == ((100, 0.91), 1)
    assert "hold 7.8 GiB" in why[0]
    assert "0.91" in why[0]
    assert share((100, 30.25), (100, 50.25))[0] == (100, 0.3)
    assert share((80, 0.1))[0] == (80, 0.01)
    assert share((80, 40), gpu_memory_utilization="0.5") == ((80, 0.5), [])
    with pytest.raises(UsageError, match="--gpu-memory-utilization x: not a number") as refused:
        share((80, 80), gpu_memory_utilization="x")
    assert "0.9" in str(refused.value.hint)


@pytest.mark.parametrize(
    ("params", "count", "gib", "concurrency", "args", "copies", "tp", "length", "seqs", "tokens"),
    [
        # 80 * 0.92 - 16 - 2.14 = 55.46 GiB of cache
        (8, 1, 80, 64, (), 1, 1, 32768, 64, 454_328),
        (8, 4, 80, 64, (), 4, 1, 32768, 24, 454_328),
        # 73.6 - 68 leave less than the workspace; half of them: 73.6 - 34 - 2.86
        (34, 4, 80, 64, (), 2, 2, 32768, 40, 601_948),
        # 22 * 0.92 - 16 - 2.14 = 2.1 GiB: 17,203 tokens, cut to whole 1024
        (8, 1, 22, 64, (), 1, 1, 16384, 64, 17_203),
        (8, 4, 80, 64, ("-tp 2",), 2, 2, 32768, 40, 0),
        (8, 4, 80, 64, ("-tp 2", "-pp 2"), 1, 2, 32768, 64, 0),
        (8, 4, 80, 64, ("-dp 3",), 3, 1, 32768, 32, 454_328),
    ],
)  # fmt: skip
def test_plan_by_hand(
    params: float, count: int, gib: float, concurrency: int, args: tuple[str, ...], copies: int,
    tp: int, length: int, seqs: int, tokens: int,
) -> None:  # fmt: skip
    made = plan(dense(params), cards(count, gib), concurrency=concurrency, engine_args=args)
    asked = args and args[0].startswith("-dp")
    assert (made.servers, made.data_parallel) == ((1, copies) if asked else (copies, 1))
    assert (made.tensor_parallel, made.max_model_len, made.max_num_seqs) == (tp, length, seqs)
    if tokens:
        assert made.kv_tokens == pytest.approx(tokens, abs=2)
    pipeline = 2 if "-pp 2" in args else 1
    assert [gpu.index for gpu in made.gpus] == list(range(copies * tp * pipeline))
    assert flag(made, "--max-model-len") == str(length)
    assert flag(made, "--max-num-seqs") == str(seqs)
    assert flag(made, "--gpu-memory-utilization") == "0.92"
    assert ("--tensor-parallel-size" in made.flags) is (tp > 1 and not args)
    assert "--enable-expert-parallel" not in made.flags
    said = words(made.why)
    unused = count - len(made.gpus)
    assert (f"{unused} of {count} GPUs stay unused" in said) is (unused > 0)
    assert (f"cut to {length}" in said) is (length < 32768)
    assert (f"{copies} copies" in said) is (copies > 1 and not asked)
    assert f"tensor parallel {tp}: " in said
    assert f"a cache of {made.kv_tokens} tokens" in said
    assert ("tight" in said) is (gib == 22)


def test_a_tight_plan_says_how_tight_and_an_unknown_cache_that_it_was_guessed() -> None:
    said = words(plan(dense(8), cards(1, 22), concurrency=64).why)
    assert "holds 2 episode(s)" in said  # 17,203 tokens of 8,192 each
    assert "tight" not in words(plan(dense(8), cards(1, 22), concurrency=2).why)
    assert "holds 2 episode(s)" in words(plan(dense(8), cards(1, 22), concurrency=3).why)
    assert "guess" in words(plan(dense(8, kv=None), cards(1, 80), concurrency=2).why)
    assert "guess" not in words(plan(dense(8), cards(1, 80), concurrency=2).why)


def test_of_sizes_without_a_useful_cache_that_which_plays_most_is_taken() -> None:
    # 45 * 0.92 = 41.4. On one card 34 + 2.86 leave 4.5 GiB, 4 episodes of 8k; on two 17 + 2.18
    # leave 22.2 GiB a card, at half the bytes a token: 44 episodes.
    four = plan(dense(17), cards(4, 45), concurrency=256)
    assert (four.tensor_parallel, four.copies) == (2, 2)
    one = plan(dense(17), cards(1, 45), concurrency=256)
    assert (one.tensor_parallel, one.copies) == (1, 1)
    few = plan(dense(17), cards(4, 45), concurrency=16)  # four copies of 4 are enough
    assert (few.tensor_parallel, few.copies) == (1, 4)
    more = plan(dense(17), cards(4, 45), concurrency=17)
    assert (more.tensor_parallel, more.copies) == (2, 2)


def test_where_no_size_has_a_useful_cache_the_one_that_plays_most_is_taken() -> None:
    # One head, which each card holds: 24 * 0.92 - 16 - 2.14 leave 3 episodes on one card, and
    # 22.08 - 8 - 1.82 leave 12 on two.
    one_head = dense(8, kv=KvCache(layers=256, heads=1, dim=128))
    made = plan(one_head, cards(2, 24), concurrency=256, max_model_len=8192)
    assert (made.tensor_parallel, made.copies) == (2, 1)
    assert "holds 12 episode(s)" in words(made.why)
    few = plan(one_head, cards(2, 24), concurrency=6, max_model_len=8192)
    assert (few.tensor_parallel, few.copies) == (1, 2)


def test_what_is_not_known_is_planned_with_all_there_is() -> None:
    unknown = dense(8, weights_gib=None, params_total_b=None)
    made = plan(unknown, cards(4, 80), concurrency=64)
    assert (made.tensor_parallel, made.servers, made.kv_tokens) == (4, 1, None)
    assert "4 GPU(s)" in words(made.why)
    assert made.max_num_seqs == 64
    staged = plan(unknown, cards(4, 80), concurrency=64, engine_args=["-pp 2"])
    assert (staged.tensor_parallel, len(staged.gpus)) == (2, 4)
    assert "4 GPU(s)" in words(staged.why)


def test_experts_are_spread_where_nobody_said_otherwise() -> None:
    moe = dense(120, params_active_b=5.0, replicated_b=10.0)
    made = plan(moe, cards(4, 139.8), concurrency=256)
    assert (made.servers, made.data_parallel, made.tensor_parallel) == (1, 4, 1)
    assert flag(made, "--data-parallel-size") == "4"
    assert "--enable-expert-parallel" in made.flags
    assert "data parallel 4" in words(made.why)
    assert len(made.gpus) == 4
    assert made.max_num_seqs == 80  # a quarter more than 64
    split = plan(moe, cards(4, 139.8), concurrency=256, engine_args=["-tp 4"])
    assert (split.servers, split.data_parallel, split.tensor_parallel) == (1, 1, 4)
    alone = plan(dense(20, replicated_b=10.0), cards(1, 139.8), concurrency=8)
    assert "--enable-expert-parallel" not in alone.flags
    with pytest.raises(CannotRunError):  # 240 GiB of weights: no card holds a copy
        plan(dense(120), cards(1, 139.8), concurrency=8)


def test_slices_hold_a_copy_each() -> None:
    slices = [Gpu(n, "slice", 40.0, 40.0, mig=True) for n in range(3)]
    made = plan(dense(8), slices, concurrency=8)
    assert (made.tensor_parallel, made.servers, len(made.gpus)) == (1, 3, 3)
    assert "MIG" in words(made.why)
    for name, args in (("--tensor-parallel-size", "-tp 2"), ("--pipeline-parallel-size", "-pp 2")):
        with pytest.raises(UsageError, match=f"{name} 2: .*MIG") as refused:
            plan(dense(8), slices, concurrency=8, engine_args=[args])
        assert "nvidia-smi -mig 0" in str(refused.value.hint)
    assert plan(dense(8), slices, concurrency=8, engine_args=["-tp 1"]).servers == 3
    whole = plan(dense(8), cards(1, 80), concurrency=8)
    assert "MIG" not in words(whole.why)
    assert "AMD" not in words(whole.why)
    amd = [Gpu(0, "card", 80, 80, vendor="amd")]
    assert "AMD" in words(plan(dense(8), amd, concurrency=8).why)


def test_what_cannot_be_met_is_refused_with_what_would_do() -> None:
    with pytest.raises(UsageError, match="--data-parallel-size 5: the GPUs hold 4 copies") as many:
        plan(dense(8), cards(4, 80), concurrency=8, engine_args=["-dp 5"])
    assert "--gpus" in str(many.value.hint)
    assert plan(dense(8), cards(4, 80), concurrency=8, engine_args=["-dp 4"]).data_parallel == 4
    old = [Gpu(0, "old", 80, 80, capability=(7, 0))]
    with pytest.raises(CannotRunError, match=r"plain: GPU 0 .*7\.0") as refused:
        plan(dense(8, dtype="fp8", min_capability=(9, 0)), old, concurrency=8)
    assert refused.value.hint
    # 40 * 0.92 - 34 - 2.86 < 0; it would fit two.
    with pytest.raises(CannotRunError, match="34 GiB") as refused:
        plan(dense(17), cards(1, 39), concurrency=8)
    assert "2 such GPUs" in str(refused.value.hint)
    code = dense(8, remote_code=True)
    assert "--trust-remote-code" in words(plan(code, cards(1, 80), concurrency=8).why)
    args = ["--no-trust-remote-code"]
    made = plan(code, cards(1, 80), concurrency=8, engine_args=args)
    assert "Python code" not in words(made.why)


@pytest.mark.parametrize(
    ("params", "concurrency", "more", "length", "seqs", "gib"),
    [
        # a GiB of cache for each 8192 tokens; 8 GiB at most, half of what the weights leave,
        # what is free now, and at least one conversation
        (8, 1, {"ram_gib": 64}, 32768, 1, 4),
        (8, 64, {"ram_gib": 64}, 32768, 16, 8),
        (8, 3, {"ram_gib": 64, "max_model_len": 8192}, 8192, 3, 3),
        (8, 64, {"ram_gib": 22}, 24576, 16, 3),
        (8, 64, {"ram_gib": 64, "free_ram_gib": 21}, 16384, 16, 2),
        (8, 64, {"ram_gib": 64, "free_ram_gib": 22.2}, 32768, 16, 4),
        (8, 64, {"ram_gib": 64, "free_ram_gib": 1}, 8192, 16, 1),
        (8, 64, {"ram_gib": 22, "max_model_len": 32768}, 32768, 16, 4),
        (0.5, 64, {}, 32768, 64, 8),
        (0.5, 100, {"ram_gib": 64}, 32768, 64, 8),
        (1.0, 100, {"ram_gib": 64}, 32768, 16, 8),
        (0.5, 2, {"engine_args": ["--max-num-seqs 5"]}, 32768, 5, 5),
    ],
)
def test_cpu_by_hand(
    params: float, concurrency: int, more: dict[str, Any], length: int, seqs: int, gib: int
) -> None:
    made = plan(dense(params, env={"A": "b"}), [], concurrency=concurrency, **more)
    assert (made.max_model_len, made.max_num_seqs) == (length, seqs)
    assert dict(made.env) == {"A": "b", "VLLM_CPU_KVCACHE_SPACE": str(gib)}
    assert made.kv_tokens == gib * 8192
    assert (made.gpus, made.tensor_parallel, made.data_parallel, made.servers) == ((), 1, 1, 1)
    assert flag(made, "--max-model-len") == str(length)
    assert flag(made, "--max-num-seqs") == str(seqs)
    assert flag(made, "--dtype") == "bfloat16"
    said = words(made.why)
    asked = "max_model_len" in more
    assert (f"cut to {length}" in said) is (length < 32768 and not asked)
    assert f"max-num-seqs {seqs}" in said
    assert f"VLLM_CPU_KVCACHE_SPACE {gib}" in said
    assert "no GPU" in said


def test_cpu_number_formats_and_memory_that_is_too_small() -> None:
    for dtype, used in (("float32", "float32"), ("float16", "bfloat16"), ("bfloat16", "bfloat16")):
        made = plan(dense(0.5, dtype=dtype), [], concurrency=1)
        assert flag(made, "--dtype") == used
        assert "not every format" not in words(made.why)
    made = plan(dense(0.5, dtype="fp8"), [], concurrency=1)
    assert flag(made, "--dtype") is None
    assert "fp8 weights: not every format" in words(made.why)
    made = plan(dense(0.5), [], concurrency=1, engine_args=["--dtype float32"])
    assert made.flags.count("--dtype") == 1
    listed = plan(dense(0.5, server_args=("--dtype", "float32")), [], concurrency=1)
    assert listed.flags.count("--dtype") == 1
    # 16 + 2.14 + 1 GiB are the least
    assert plan(dense(8), [], concurrency=1, ram_gib=19.15).max_num_seqs == 1
    with pytest.raises(CannotRunError, match=r"plain .* 19 GiB of memory: .* 16 GiB") as refused:
        plan(dense(8), [], concurrency=1, ram_gib=19.1)
    assert "models" in str(refused.value.hint)
    unsized = plan(dense(8, weights_gib=None, params_total_b=None), [], concurrency=64, ram_gib=3)
    assert (unsized.max_num_seqs, unsized.env["VLLM_CPU_KVCACHE_SPACE"]) == (16, "1")
    state = plan(dense(0.5, kv=STATES), [], concurrency=1, max_model_len=8192)
    assert state.env["VLLM_CPU_KVCACHE_SPACE"] == "2"  # 1 GiB of tokens, and the state
