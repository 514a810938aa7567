"""The planner: what a model gets on which cards, and the command lines that follow."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest

from local_shutdown.engines.fit import CARDS, COUNTS
from local_shutdown.engines.plan import Gpu, Plan
from local_shutdown.engines.planner import plan
from local_shutdown.engines.registry import Registry, load_registry
from local_shutdown.engines.spec import KvCache, ModelSpec
from local_shutdown.errors import CannotRunError, UsageError


def needs_vllm(test: Any) -> Any:
    """Mark a test that asks the installed vLLM; skipped where there is none."""
    missing = find_spec("vllm") is None
    return pytest.mark.vllm(pytest.mark.skipif(missing, reason="vLLM is not installed")(test))


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry()


def cards(count: int, gib: float, free: float | None = None) -> list[Gpu]:
    return [Gpu(i, "card", gib, gib if free is None else free) for i in range(count)]


def dense(params: float, **changes: Any) -> ModelSpec:
    """A plain model with the cache of an 8B Llama."""
    spec = ModelSpec(
        name="plain",
        hf_id="org/plain",
        family="test",
        display_name="plain",
        params_total_b=params,
        params_active_b=params,
        dtype="bfloat16",
        context=131072,
        tool_parser="hermes",
        reasoning_parser=None,
        license="mit",
        gated=False,
        min_gpu_gib=params * 2,
        weights_gib=params * 2,
        kv=KvCache(layers=32, heads=8, dim=128),
    )
    return replace(spec, **changes)


def flag(made: Plan, name: str) -> str | None:
    words = list(made.flags)
    return words[words.index(name) + 1] if name in words else None


# --- the table: every model on every machine


def table(registry: Registry) -> list[tuple[ModelSpec, int, float, Plan | None]]:
    rows: list[tuple[ModelSpec, int, float, Plan | None]] = []
    for spec in registry:
        for gib in CARDS.values():
            for count in COUNTS:
                try:
                    made: Plan | None = plan(spec, cards(count, gib), concurrency=256)
                except CannotRunError:
                    made = None
                rows.append((spec, count, gib, made))
    return rows


@pytest.fixture(scope="module")
def rows(registry: Registry) -> list[tuple[ModelSpec, int, float, Plan | None]]:
    return table(registry)


Rows = list[tuple[ModelSpec, int, float, Plan | None]]


def test_no_plan_uses_more_cards_than_there_are(rows: Rows) -> None:
    for spec, count, _, made in rows:
        if made is not None:
            assert made.tensor_parallel * made.copies == len(made.gpus) <= count, spec.name


def test_the_weights_of_a_plan_fit_its_cards(rows: Rows) -> None:
    for spec, _, gib, made in rows:
        if made is not None and made.spec.replicated_b is None:
            assert (spec.weights_gib or 0) < made.tensor_parallel * gib * 0.92, spec.name
        elif made is not None:
            assert (spec.weights_gib or 0) < len(made.gpus) * gib * 0.92, spec.name


def test_every_plan_leaves_room_for_an_episode(rows: Rows) -> None:
    for spec, count, gib, made in rows:
        if made is not None:
            assert made.max_model_len >= min(8192, spec.context or 8192), (spec.name, count, gib)
            assert made.kv_tokens is not None
            assert made.kv_tokens >= made.max_model_len, (spec.name, count, gib)
            assert made.max_num_seqs >= 1


def test_what_fits_some_cards_fits_more_or_larger_ones(rows: Rows) -> None:
    fitting = {(spec.name, count, gib) for spec, count, gib, made in rows if made is not None}
    sizes = list(CARDS.values())
    for name, count, gib in fitting:
        if count < 8:
            assert (name, count * 2, gib) in fitting
        if gib != sizes[-1]:
            assert (name, count, sizes[sizes.index(gib) + 1]) in fitting


def test_every_copy_is_a_server_of_its_own(rows: Rows) -> None:
    for spec, _, _, made in rows:
        if made is not None and spec.replicated_b is None:
            assert (made.servers, made.data_parallel) == (made.copies, 1), spec.name


def test_a_model_whose_attention_cannot_be_split_spreads_its_experts_over_all_cards(
    registry: Registry,
) -> None:
    made = plan(registry.models["deepseek-v3.2"], cards(8, CARDS[141]), concurrency=256)
    assert (made.servers, made.data_parallel, made.tensor_parallel) == (1, 8, 1)
    assert "--enable-expert-parallel" in made.flags
    split = plan(
        registry.models["deepseek-v3.2"],
        cards(8, CARDS[192]),
        concurrency=256,
        engine_args=["-tp 8"],
    )
    assert (split.tensor_parallel, split.copies) == (8, 1)


def test_every_refusal_says_what_would_be_needed(registry: Registry) -> None:
    for spec in registry:
        hint = "It needs"
        try:
            plan(spec, cards(1, CARDS[24]), concurrency=64)
        except CannotRunError as refused:
            hint = refused.hint or ""
        assert "It needs" in hint, spec.name


@pytest.mark.parametrize(
    ("name", "count", "gb", "tensor_parallel", "copies"),
    [
        ("qwen3-8b", 1, 80, 1, 1),
        ("qwen3-8b", 4, 80, 1, 4),
        ("qwen3-32b", 4, 80, 2, 2),
        ("llama-3.3-70b", 4, 80, 4, 1),
        ("llama-3.3-70b", 8, 141, 2, 4),
        ("gpt-oss-120b", 4, 80, 2, 2),
        ("gpt-oss-120b", 8, 141, 1, 8),
        ("qwen3-30b-a3b", 4, 80, 2, 2),
        ("qwen3-30b-a3b", 4, 141, 1, 4),
        ("deepseek-v3.2", 8, 141, 1, 8),
        ("kimi-k3", 8, 288, 8, 1),
    ],
)
def test_known_machines_get_the_plan_a_person_would_make(
    registry: Registry, name: str, count: int, gb: int, tensor_parallel: int, copies: int
) -> None:
    made = plan(registry.models[name], cards(count, CARDS[gb]), concurrency=256)
    assert (made.tensor_parallel, made.copies) == (tensor_parallel, copies)


# --- the rules


def test_the_smallest_tensor_parallel_size_with_a_useful_cache_is_taken() -> None:
    made = plan(dense(8), cards(4, 79.0), concurrency=64)
    assert (made.tensor_parallel, made.copies) == (1, 4)
    made = plan(dense(34), cards(4, 79.0), concurrency=64)
    assert (made.tensor_parallel, made.copies) == (2, 2)


def test_a_size_that_neither_splits_nor_copies_the_heads_evenly_is_skipped() -> None:
    ten_heads = dense(60, kv=KvCache(layers=32, heads=10, dim=128))
    with pytest.raises(CannotRunError):
        plan(ten_heads, cards(4, 44.0), concurrency=8)


def test_tensor_parallel_sizes_named_in_the_registry_are_the_only_ones_tried() -> None:
    with pytest.raises(CannotRunError):
        plan(dense(60, tp_sizes=(1, 2)), cards(4, 44.0), concurrency=8)


def test_a_compressed_latent_is_copied_to_every_card_and_heads_are_split() -> None:
    assert KvCache(layers=10, mla=576).bytes_per_token(8) == 10 * 576 * 2
    assert KvCache(layers=10, heads=8, dim=128).bytes_per_token(8) == 10 * 2 * 128 * 2
    assert KvCache(layers=10, heads=2, dim=128).bytes_per_token(8) == 10 * 2 * 128 * 2


def test_the_context_is_the_native_one_up_to_32k_and_says_why() -> None:
    made = plan(dense(8), cards(1, 79.0), concurrency=8)
    assert made.max_model_len == 32768
    assert "max-model-len 32768: an episode needs about 8k tokens" in made.why[0]
    made = plan(dense(8, context=16384), cards(1, 79.0), concurrency=8)
    assert made.max_model_len == 16384


def test_the_context_is_cut_to_what_the_cache_holds_and_it_is_said() -> None:
    made = plan(dense(8.5), cards(1, 22.0), concurrency=8)
    assert 8192 <= made.max_model_len < 32768
    assert any("cut to" in sentence for sentence in made.why)


def test_a_context_asked_for_is_never_cut_but_refused_with_the_longest_that_fits() -> None:
    with pytest.raises(CannotRunError, match="Ask for at most") as refused:
        plan(dense(8.5), cards(1, 22.0), concurrency=8, max_model_len=32768)
    assert "max-model-len 32768" in refused.value.message


def test_a_context_beyond_the_native_one_is_refused() -> None:
    with pytest.raises(UsageError, match="was made for 131072 tokens"):
        plan(dense(8), cards(1, 79.0), concurrency=8, max_model_len=200_000)


def test_a_native_context_too_short_for_an_episode_is_said() -> None:
    made = plan(dense(8, context=4096), cards(1, 79.0), concurrency=8)
    assert any("end as `limit`" in sentence for sentence in made.why)


def test_an_unknown_native_context_is_left_to_the_server() -> None:
    made = plan(dense(8, context=None), cards(1, 79.0), concurrency=8)
    assert flag(made, "--max-model-len") == "auto"


def test_code_from_the_models_repository_is_run_only_with_a_word_about_it() -> None:
    made = plan(dense(8, remote_code=True), cards(1, 79.0), concurrency=8)
    assert "--trust-remote-code" in made.flags
    assert any("Python code from its own repository" in sentence for sentence in made.why)
    assert "--trust-remote-code" not in plan(dense(8), cards(1, 79.0), concurrency=8).flags


def test_episodes_in_flight_are_spread_over_the_copies_with_some_slack() -> None:
    made = plan(dense(8), cards(4, 79.0), concurrency=64)
    assert made.max_num_seqs == 24
    assert made.capacity >= 64


def test_the_engine_may_take_more_than_the_cache_holds_of_full_episodes() -> None:
    assert plan(dense(8), cards(4, 79.0), concurrency=4096).max_num_seqs == 1024
    assert plan(dense(8), cards(1, 44.0), concurrency=4096).max_num_seqs == 256


def test_sequences_that_keep_a_state_are_no_more_than_fit() -> None:
    hybrid = dense(8, kv=KvCache(layers=8, heads=4, dim=256, state_mib=500.0))
    made = plan(hybrid, cards(1, 79.0), concurrency=4096)
    assert 50 < made.max_num_seqs < 130


def test_memory_held_by_others_lowers_the_share_vllm_may_take() -> None:
    made = plan(dense(8), cards(1, 80.0, free=60.0), concurrency=8)
    assert flag(made, "--gpu-memory-utilization") == "0.74"
    assert any("other processes hold 20.0 GiB" in sentence for sentence in made.why)


def test_unequal_cards_are_planned_for_the_smallest() -> None:
    made = plan(dense(34), [*cards(1, 79.0), Gpu(1, "small", 44.0, 44.0)], concurrency=8)
    assert made.tensor_parallel == 2
    assert any("the smallest, 44 GiB" in sentence for sentence in made.why)


def test_cards_that_no_copy_needs_are_left_and_it_is_said() -> None:
    made = plan(dense(34), cards(3, 79.0), concurrency=8)
    assert len(made.gpus) == 2
    assert any("1 of 3 GPUs stay unused" in sentence for sentence in made.why)


def test_a_model_of_unknown_size_gets_all_cards() -> None:
    made = plan(dense(8, weights_gib=None, params_total_b=None), cards(4, 79.0), concurrency=8)
    assert (made.tensor_parallel, made.copies) == (4, 1)


def test_separate_servers_get_cards_of_their_own() -> None:
    moe = dense(8, params_active_b=1.0)
    made = plan(moe, cards(4, 79.0), concurrency=64)
    assert made.servers == 4
    seen = [made.server_env(n)["CUDA_VISIBLE_DEVICES"] for n in range(4)]
    assert seen == ["0", "1", "2", "3"]


def test_what_was_chosen_is_recorded() -> None:
    record = plan(dense(8), cards(2, 79.0), concurrency=8).as_dict()
    assert (record["servers"], record["data_parallel"]) == (2, 1)
    assert record["why"]
    assert record["gpus"] == ["0: card", "1: card"]


# --- the user's own flags


def test_a_flag_of_the_user_replaces_ours() -> None:
    made = plan(dense(8), cards(1, 79.0), concurrency=8, engine_args=["--max-num-seqs 5"])
    assert made.max_num_seqs == 5
    assert list(made.flags).count("--max-num-seqs") == 1
    made = plan(dense(8), cards(1, 79.0), concurrency=8, engine_args=["--tool-call-parser=xlam"])
    assert "hermes" not in made.flags


def test_parallel_sizes_of_the_user_are_planned_with_under_any_spelling() -> None:
    for args in (["-tp 4"], ["--tensor_parallel_size", "4"], ["--tensor-parallel-size=4"]):
        made = plan(dense(8), cards(4, 79.0), concurrency=8, engine_args=args)
        assert (made.tensor_parallel, made.copies) == (4, 1)


def test_a_data_parallel_size_of_the_user_makes_one_server_of_a_mixture_of_experts() -> None:
    moe = dense(8, params_active_b=1.0)
    made = plan(moe, cards(4, 79.0), concurrency=8, engine_args=["--data-parallel-size 2"])
    assert (made.servers, made.data_parallel, len(made.gpus)) == (1, 2, 2)


def test_an_8_bit_cache_of_the_user_doubles_what_it_holds() -> None:
    full = plan(dense(8), cards(1, 79.0), concurrency=8)
    half = plan(dense(8), cards(1, 79.0), concurrency=8, engine_args=["--kv-cache-dtype fp8"])
    assert half.kv_tokens is not None
    assert full.kv_tokens is not None
    assert half.kv_tokens == pytest.approx(2 * full.kv_tokens, rel=0.01)


@pytest.mark.parametrize("argument", ["--port 1", "--host=0.0.0.0", "--served-model-name x"])
def test_flags_the_run_sets_itself_are_refused(argument: str) -> None:
    with pytest.raises(UsageError, match="the run sets this itself"):
        plan(dense(8), cards(1, 79.0), concurrency=8, engine_args=[argument])


@pytest.mark.parametrize(
    "argument", ["-tp 8", "--tensor-parallel-size two", "--data-parallel-size 9", "--x 'open"]
)
def test_a_flag_that_cannot_be_met_is_refused(argument: str) -> None:
    with pytest.raises(UsageError):
        plan(dense(8), cards(4, 79.0), concurrency=8, engine_args=[argument])


# --- the CPU


def test_without_a_card_the_plan_is_for_the_cpu_build(registry: Registry) -> None:
    made = plan(registry.models["calibration"], [], concurrency=64)
    assert made.env["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert flag(made, "--dtype") == "float32"
    assert made.max_num_seqs == 64
    assert made.server_env()["CUDA_VISIBLE_DEVICES"] == ""


def test_a_large_model_on_the_cpu_is_asked_for_few_episodes_at_once(registry: Registry) -> None:
    made = plan(registry.models["qwen3-8b"], [], concurrency=256, ram_gib=64)
    assert made.max_num_seqs == 16
    assert flag(made, "--dtype") == "bfloat16"


def cache_gib(made: Plan) -> int:
    return int(made.env["VLLM_CPU_KVCACHE_SPACE"])


def test_a_length_that_was_asked_for_does_not_lift_the_limit_of_the_cache() -> None:
    # 64 conversations of this length would need more than the machine has; they wait for room.
    made = plan(dense(0.5), [], concurrency=1024, ram_gib=24, max_model_len=4096)
    assert cache_gib(made) <= 8


def test_one_conversation_of_the_length_asked_for_always_fits() -> None:
    made = plan(dense(8), [], concurrency=1, ram_gib=64, max_model_len=32768)
    assert made.kv_tokens is not None
    assert made.kv_tokens >= 32768


def test_the_cache_fits_what_is_free_now() -> None:
    made = plan(dense(0.5), [], concurrency=64, ram_gib=24, free_ram_gib=6)
    assert cache_gib(made) <= 4


def test_a_model_larger_than_main_memory_is_refused() -> None:
    with pytest.raises(CannotRunError, match="does not fit this machine's 24 GiB of memory"):
        plan(dense(70), [], concurrency=8, ram_gib=24)


# --- vLLM's own parser


@pytest.fixture(scope="module")
def parser() -> Any:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    return make_arg_parser(FlexibleArgumentParser())


@needs_vllm
def test_it_takes_every_command_line_of_the_table(
    parser: Any, rows: Rows, registry: Registry
) -> None:
    from vllm.entrypoints.launchers.cli_args import validate_parsed_serve_args

    plans = [made for _, _, _, made in rows if made is not None]
    plans += [plan(spec, [], concurrency=64) for spec in registry]
    seen: set[tuple[str, ...]] = set()
    for made in plans:
        words = made.argv("127.0.0.1", 8000)[3:]
        if tuple(words) in seen:
            continue
        seen.add(tuple(words))
        parsed = parser.parse_args(words)
        validate_parsed_serve_args(parsed)
        assert parsed.model == made.spec.hf_id
        assert parsed.served_model_name == [made.spec.name]
        assert parsed.tensor_parallel_size == made.tensor_parallel
        assert parsed.data_parallel_size == made.data_parallel
        assert parsed.max_model_len == made.max_model_len
        assert parsed.max_num_seqs == made.max_num_seqs
        assert parsed.enable_auto_tool_choice
        assert parsed.tool_call_parser == made.spec.tool_parser
        assert (parsed.reasoning_parser or None) == made.spec.reasoning_parser
    assert len(seen) > 500


@needs_vllm
def test_it_takes_flags_passed_through(parser: Any) -> None:
    made = plan(
        dense(8),
        cards(1, 79.0),
        concurrency=8,
        engine_args=["--enforce-eager", "--limit-mm-per-prompt", '{"image": 0}', "-q fp8"],
    )
    parsed = parser.parse_args(made.argv("127.0.0.1", 8000)[3:])
    assert parsed.enforce_eager
    assert parsed.quantization == "fp8"


@needs_vllm
def test_it_takes_a_plan_for_a_model_of_unknown_context(parser: Any) -> None:
    made = plan(dense(8, context=None), cards(1, 79.0), concurrency=8)
    assert parser.parse_args(made.argv("127.0.0.1", 8000)[3:]).max_model_len == -1
