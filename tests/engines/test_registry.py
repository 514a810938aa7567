"""models.yaml, its loader, and the guesses for models that are not listed."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from local_shutdown import resources
from local_shutdown.engines.families import (
    NEWER_PARSERS,
    REASONING_PARSERS,
    TOOL_PARSERS,
    guess_from_name,
    installed_parsers,
)
from local_shutdown.engines.plan import Gpu
from local_shutdown.engines.planner import plan
from local_shutdown.engines.registry import (
    Registry,
    cached_folder,
    described,
    load_registry,
    resolve,
    weights_cached,
)
from local_shutdown.engines.spec import KvCache, Sliding, Thinking
from local_shutdown.errors import UsageError


def needs_vllm(test: Any) -> Any:
    """Mark a test that asks the installed vLLM; skipped where there is none."""
    missing = find_spec("vllm") is None
    return pytest.mark.vllm(pytest.mark.skipif(missing, reason="vLLM is not installed")(test))


GOOD = """
families:
  one:
    title: One
    match: ['tiny-one']
    tool_parser: hermes
    thinking: {default: true, kwarg: enable_thinking}
    context: 4096
    env: {A: "1"}
    models:
      one-small:
        hf: org/one-small
        params: 1
        kv: {layers: 2, heads: 2, dim: 64}
      one-large:
        hf: org/one-large
        params: 70
        tool_parser: qwen3_xml
        context: 8192
"""


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry()


def write(folder: Path, text: str) -> Path:
    path = folder / "models.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(folder: Path, old: str, new: str) -> str:
    """What the loader says about GOOD with one piece replaced."""
    assert old in GOOD
    with pytest.raises(UsageError) as caught:
        load_registry(write(folder, GOOD.replace(old, new, 1)))
    return str(caught.value)


# --- the shipped file


def test_the_shipped_file_is_valid_and_large_enough(registry: Registry) -> None:
    assert len(registry.models) >= 45
    assert len({spec.family for spec in registry}) >= 15


def test_the_calibration_model_is_listed_and_called_synthetic_everywhere(
    registry: Registry,
) -> None:
    spec = registry.models["calibration"]
    assert spec.display_name == "calibration (synthetic)"
    assert spec.tool_parser == "hermes"
    assert spec.hf_id == str(resources.data("calibration-model"))


def test_every_listed_model_names_a_tool_parser(registry: Registry) -> None:
    assert [spec.name for spec in registry if spec.tool_parser is None] == []


def test_a_model_that_reasons_names_a_reasoning_parser_and_no_other_does(
    registry: Registry,
) -> None:
    odd = [s.name for s in registry if s.reasons != (s.reasoning_parser is not None)]
    assert odd == []


def test_a_model_of_which_a_value_is_unconfirmed_says_which(registry: Registry) -> None:
    assert "context" in registry.models["qwq-32b"].unconfirmed


def test_gpt_oss_pins_its_date_and_keeps_system_text_in_the_system_message(
    registry: Registry,
) -> None:
    env = registry.models["gpt-oss-20b"].env
    assert env["VLLM_GPT_OSS_HARMONY_SYSTEM_INSTRUCTIONS"] == "1"
    assert env["VLLM_SYSTEM_START_DATE"]


def test_values_that_a_recipe_or_a_card_gives_are_those(registry: Registry) -> None:
    models = registry.models
    for name in ("minimax-m2", "minimax-m2.1", "minimax-m2.5", "minimax-m2.7"):
        assert models[name].reasoning_parser == "minimax_m2", name
    sampling = {
        "mimo-v2-flash": {"temperature": 0.3, "top_p": 0.95},
        "mimo-v2.5": {"temperature": 0.3, "top_p": 0.95},
        "kimi-k2-instruct-0905": {"temperature": 0.6},
        "lfm2.5-1.2b": {"temperature": 0.1, "top_k": 50, "repetition_penalty": 1.05},
        "muse-glimmer-30b": {"temperature": 1.0, "top_p": 0.95, "top_k": 64},
        "nemotron-3-nano-30b-a3b": {"temperature": 0.6, "top_p": 0.95},
        "minicpm5-1b": {"temperature": 0.7, "top_p": 0.95},
    }
    assert {name: dict(models[name].sampling) for name in sampling} == sampling
    assert (models["kimi-k3"].params_active_b, models["kimi-k3"].weights_gib) == (104, 1453)
    m3 = models["minimax-m3-mxfp8"]
    assert (m3.params_total_b, m3.params_active_b) == (427, 26)


def test_hy3_may_think_between_calls_in_every_request(registry: Registry) -> None:
    thinking = registry.models["hy3-fp8"].thinking
    always = {"interleaved_thinking": True}
    assert thinking.request() == {"chat_template_kwargs": always}
    assert thinking.request("high") == {
        "chat_template_kwargs": {**always, "reasoning_effort": "high"}
    }


def test_every_model_is_found_by_the_name_pattern_of_its_own_family(registry: Registry) -> None:
    strays = []
    for spec in registry:
        if spec.family == "calibration":
            continue
        guessed = resolve(f"someone/{spec.hf_id.split('/')[1]}-finetune", registry)
        if guessed.family != spec.family:
            strays.append((spec.hf_id, guessed.family))
    assert strays == []


# --- vLLM's own registry


@needs_vllm
def test_the_parser_names_we_know_are_those_of_the_installed_build() -> None:
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    tools = set(ToolParserManager.list_registered())
    thoughts = set(ReasoningParserManager.list_registered())
    assert installed_parsers() == (tools, thoughts)
    assert (set(TOOL_PARSERS), set(REASONING_PARSERS)) == (tools, thoughts)
    assert not set(NEWER_PARSERS) & (tools | thoughts)


@needs_vllm
def test_every_parser_in_models_yaml_is_registered(registry: Registry) -> None:
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    tools = set(ToolParserManager.list_registered())
    thoughts = set(ReasoningParserManager.list_registered())
    for spec in registry:
        newer = {p for p in (spec.tool_parser, spec.reasoning_parser) if p in NEWER_PARSERS}
        if newer:  # it says so itself, and is told from a mistyped one by that
            assert spec.min_vllm is not None, spec.name
            continue
        assert spec.tool_parser in tools, spec.name
        assert spec.reasoning_parser is None or spec.reasoning_parser in thoughts, spec.name
        assert set(spec.alternates.tool) <= tools, spec.name
        assert set(spec.alternates.reasoning) <= thoughts, spec.name


@needs_vllm
def test_every_architecture_in_models_yaml_can_be_served(registry: Registry) -> None:
    from vllm.model_executor.models.registry import ModelRegistry

    supported = set(ModelRegistry.get_supported_archs())
    for key, family in registry.families.items():
        assert set(family.architectures) <= supported, key


@needs_vllm
def test_every_sampling_field_is_one_the_server_takes(registry: Registry) -> None:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    fields = set(ChatCompletionRequest.model_fields)
    for spec in registry:
        assert set(spec.sampling) <= fields, spec.name


@needs_vllm
def test_every_environment_variable_is_one_vllm_reads(registry: Registry) -> None:
    from vllm import envs

    for spec in registry:
        assert set(spec.env) <= set(envs.environment_variables), spec.name


# --- the loader


def test_a_family_sets_defaults_and_a_model_replaces_them(tmp_path: Path) -> None:
    loaded = load_registry(write(tmp_path, GOOD)).models
    assert (loaded["one-small"].tool_parser, loaded["one-small"].context) == ("hermes", 4096)
    assert (loaded["one-large"].tool_parser, loaded["one-large"].context) == ("qwen3_xml", 8192)
    assert loaded["one-large"].env == {"A": "1"}


def test_a_model_knows_the_leaner_ones_of_its_family(tmp_path: Path) -> None:
    loaded = load_registry(write(tmp_path, GOOD)).models
    assert loaded["one-large"].smaller == ("one-small",)
    assert loaded["one-small"].smaller == ()


def test_an_unknown_field_is_named_with_file_line_and_the_nearest_field(tmp_path: Path) -> None:
    said = refusal(tmp_path, "        params: 70", "        parms: 70")
    assert f"{tmp_path / 'models.yaml'}:17: " in said
    assert "families.one.models.one-large.parms: no such field; did you mean 'params'?" in said


def test_a_mistyped_parser_is_named_with_its_value_and_the_nearest_parser(tmp_path: Path) -> None:
    said = refusal(tmp_path, "tool_parser: qwen3_xml", "tool_parser: qwen_xml")
    assert ":18: " in said
    assert "'qwen_xml': no such tool parser; did you mean 'qwen3_xml'?" in said


def test_a_mistyped_dtype_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    said = refusal(tmp_path, "        params: 70", "        dtype: bfloat\n        params: 70")
    assert "did you mean 'bfloat16'?" in said


def test_a_mistyped_field_inside_kv_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    said = refusal(tmp_path, "{layers: 2, heads", "{layer: 2, heads")
    assert "kv.layer: no such field; did you mean 'layers'?" in said


def test_a_field_set_twice_is_refused_where_yaml_would_keep_the_last(tmp_path: Path) -> None:
    said = refusal(tmp_path, "        params: 1\n", "        params: 1\n        params: 2\n")
    assert "'params' is set twice, first on line 13" in said


def test_a_model_listed_twice_is_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path, "hf: org/one-large", "hf: org/One-Small")
    assert "'org/One-Small' is listed twice" in said


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    assert "families.one.title: missing" in refusal(tmp_path, "    title: One\n", "")
    assert "no `params`" in refusal(tmp_path, "        params: 70\n", "")


def test_more_active_parameters_than_there_are_is_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path, "        params: 70", "        params: 70\n        active: 71")
    assert ":18: one-large.active: 71.0 is more than `params: 70.0`" in said


def test_broken_yaml_is_refused_with_its_line(tmp_path: Path) -> None:
    assert ":5: not YAML" in refusal(tmp_path, "    title: One", "    title: [One")


def test_a_chat_template_that_is_not_there_is_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path, "    title: One", "    title: One\n    chat_template: none.jinja")
    assert "'none.jinja': no such file" in said


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing\.yaml: cannot be read"):
        load_registry(tmp_path / "nothing.yaml")


# --- finding a model


def test_a_model_is_found_by_name_or_id_in_any_case(registry: Registry) -> None:
    assert resolve("QWEN3-8B", registry) is registry.models["qwen3-8b"]
    assert resolve("qwen/qwen3-8b", registry) is registry.models["qwen3-8b"]


def test_what_is_no_name_id_or_folder_is_refused_with_the_nearest_name(
    registry: Registry,
) -> None:
    with pytest.raises(UsageError, match=r"Did you mean qwen3-8b\?"):
        resolve("qwen3_8b", registry)


def test_an_unlisted_id_runs_with_a_warning_that_says_from_what_it_was_guessed(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    spec = resolve("someone/Qwen3-14B-Abliterated-FP8", registry)
    assert (spec.tool_parser, spec.reasoning_parser) == ("hermes", "qwen3")
    assert spec.source == "guessed from its name, which looks like Qwen3"
    assert "not in models.yaml" in spec.warnings[0]
    assert "its name, which looks like Qwen3" in spec.warnings[0]
    assert spec.params_total_b == 14.0
    assert spec.dtype == "fp8"


def test_an_id_that_gives_nothing_away_says_so(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    spec = resolve("someone/mystery", registry)
    assert spec.tool_parser == "hermes"  # the most common one; without any no call can be made
    assert spec.weights_gib is None
    assert "guessed from nothing" in spec.warnings[0]


def test_a_gated_model_that_is_not_here_says_how_to_get_it(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    warning = resolve("llama-3.1-8b", registry).warnings[-1]
    assert "accept its licence on https://huggingface.co/meta-llama/Llama-3.1-8B" in warning


def test_a_listed_parser_that_is_unconfirmed_is_warned_of(registry: Registry) -> None:
    assert (
        "no public source confirms its tool_parser (hermes)"
        in registry.models["gemma-3-27b"].warnings[0]
    )


def test_weights_count_as_cached_only_with_every_shard(tmp_path: Path) -> None:
    environ = {"HF_HUB_CACHE": str(tmp_path)}
    snapshot = tmp_path / "models--org--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    folder_with(snapshot, LLAMA)
    assert not weights_cached("org/name", environ)
    (snapshot / "model-1.safetensors").touch()
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert not weights_cached("org/name", environ)
    (snapshot / "model-2.safetensors").touch()
    assert weights_cached("org/name", environ)


def folder_with(folder: Path, config: dict[str, Any], template: str = "") -> Path:
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
}


def test_a_folder_is_guessed_from_the_calls_its_own_template_writes(
    registry: Registry, tmp_path: Path
) -> None:
    folder = folder_with(tmp_path, LLAMA, "<tool_call>\n{{ call }}\n</tool_call>")
    spec = resolve(str(folder), registry)
    assert spec.tool_parser == "hermes"
    assert "the call markup of hermes in its chat template" in spec.source
    assert spec.hf_id == str(folder)


def test_a_finetune_with_calls_of_another_kind_does_not_get_its_familys_template(
    registry: Registry, tmp_path: Path
) -> None:
    folder = tmp_path / "Llama-3.1-8B-Tuned"
    folder.mkdir()
    tuned = resolve(str(folder_with(folder, LLAMA, "<tool_call>")), registry)
    assert (tuned.family, tuned.tool_parser, tuned.chat_template) == ("llama3", "hermes", None)
    plain = resolve(str(folder_with(folder, LLAMA, "<|python_tag|>")), registry)
    assert plain.chat_template is not None
    assert plain.chat_template.name == "llama3_json.jinja"


def test_a_folder_gives_its_context_and_the_shape_of_its_cache(
    registry: Registry, tmp_path: Path
) -> None:
    spec = resolve(str(folder_with(tmp_path, LLAMA)), registry)
    assert spec.context == 131072
    assert spec.kv == KvCache(layers=32, heads=8, dim=128)


def test_a_folder_of_a_known_architecture_gets_the_parsers_of_its_family(
    registry: Registry, tmp_path: Path
) -> None:
    folder = folder_with(tmp_path, {**LLAMA, "architectures": ["SeedOssForCausalLM"]})
    spec = resolve(str(folder), registry)
    assert (spec.tool_parser, spec.reasoning_parser) == ("seed_oss", "seed_oss")
    assert "the architecture SeedOssForCausalLM in its config.json" in spec.source


def test_a_template_with_a_thinking_switch_gives_the_switch(
    registry: Registry, tmp_path: Path
) -> None:
    template = "{% if enable_thinking is false %}<think></think>{% endif %}<tool_call>"
    spec = resolve(str(folder_with(tmp_path, LLAMA, template)), registry)
    assert spec.reasoning_parser == "qwen3"
    assert spec.thinking.request("off") == {"chat_template_kwargs": {"enable_thinking": False}}


def test_windowed_layers_are_told_from_those_that_keep_every_token(
    registry: Registry, tmp_path: Path
) -> None:
    kinds = ["sliding_attention", "full_attention"] * 16
    folder = folder_with(tmp_path, {**LLAMA, "layer_types": kinds, "sliding_window": 128})
    kv = resolve(str(folder), registry).kv
    assert kv is not None
    assert kv.layers == 16
    assert kv.sliding is not None
    assert (kv.sliding.layers, kv.sliding.window) == (16, 128)


def test_gemma_4_with_layers_that_share_their_cache_is_read(
    registry: Registry, tmp_path: Path
) -> None:
    text = {
        "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4,
        "head_dim": 256, "global_head_dim": 512, "num_global_key_value_heads": 2,
        "sliding_window": 512, "num_kv_shared_layers": 2,
        "layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 2,
    }  # fmt: skip
    config = {"architectures": ["Gemma4ForConditionalGeneration"], "text_config": text}
    kv = resolve(str(folder_with(tmp_path, config)), registry).kv
    assert kv == KvCache(1, 2, 512, sliding=Sliding(5, 4, 256, 512))


def test_mamba_and_linear_layers_keep_a_state_and_no_tokens(
    registry: Registry, tmp_path: Path
) -> None:
    nemotron = {
        **LLAMA, "hybrid_override_pattern": "M-M*-E", "num_hidden_layers": 6, "head_dim": 128,
        "mamba_num_heads": 64, "mamba_head_dim": 64, "ssm_state_size": 128,
    }  # fmt: skip
    kv = resolve(str(folder_with(tmp_path, nemotron)), registry).kv
    assert kv is not None
    assert (kv.layers, kv.heads) == (1, 8)
    assert kv.state_mib == pytest.approx(2 * 2 * 1.1)
    qwen = {
        **LLAMA, "full_attention_interval": 4, "linear_num_value_heads": 32,
        "linear_key_head_dim": 128, "linear_value_head_dim": 128,
    }  # fmt: skip
    kv = resolve(str(folder_with(tmp_path, qwen)), registry).kv
    assert kv is not None
    assert (kv.layers, round(kv.state_mib)) == (8, 53)


def test_a_listed_model_without_a_cache_shape_gets_it_from_config_json(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    spec = registry.models["gemma-4-12b"]
    assert spec.kv is None
    assert described(spec).kv is None  # nothing here, and nobody to ask
    asked = []

    def describe(hf_id: str) -> Path:
        asked.append(hf_id)
        return folder_with(tmp_path, LLAMA)

    found = described(spec, describe)
    assert asked == ["google/gemma-4-12B-it"]
    assert found.kv == KvCache(layers=32, heads=8, dim=128)
    cards = [Gpu(n, "card", 79.2, 79.2) for n in range(4)]
    assert plan(found, cards, concurrency=64).tensor_parallel == 1


def test_the_size_of_weights_that_are_not_here_is_read_from_their_index(
    registry: Registry, tmp_path: Path
) -> None:
    index = {"metadata": {"total_size": 16 * 2**30}, "weight_map": {"a": "model-1.safetensors"}}
    folder_with(tmp_path, LLAMA)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert resolve(str(tmp_path), registry).weights_gib == 16


def test_a_folder_whose_config_names_no_architecture_is_not_said_to_have_none(
    registry: Registry, tmp_path: Path
) -> None:
    config = {k: v for k, v in LLAMA.items() if k != "architectures"}
    spec = resolve(str(folder_with(tmp_path, config)), registry)
    assert "config.json" in spec.source
    assert "no config.json" not in spec.warnings[0]


def test_a_folder_without_config_is_refused(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no config\.json"):
        resolve(str(tmp_path), registry)


def test_files_in_the_cache_are_read_for_an_unlisted_id(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "models--someone--mystery" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    folder_with(snapshot, LLAMA, "[TOOL_CALLS]")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert cached_folder("someone/mystery") == snapshot
    assert resolve("someone/mystery", registry).tool_parser == "mistral"


def test_describing_files_are_fetched_only_when_a_way_is_given(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    folder_with(tmp_path, LLAMA, "<|tool_call_start|>")
    spec = resolve("someone/mystery", registry, describe=lambda _: tmp_path)
    assert spec.tool_parser == "lfm2"


@pytest.mark.parametrize(
    ("name", "total", "active"),
    [
        ("org/Qwen3-30B-A3B", 30.0, 3.0),
        ("org/SmolLM2-135M-Instruct", 0.135, 0.135),
        ("org/Kimi-1T", 1000.0, 1000.0),
        ("org/phi-4", None, None),
    ],
)
def test_sizes_are_read_from_names(name: str, total: float | None, active: float | None) -> None:
    guess = guess_from_name(name)
    assert (guess.params_total_b, guess.params_active_b) == (total, active)


# --- thinking


def test_a_switch_becomes_a_chat_template_argument() -> None:
    thinking = Thinking("on", "enable_thinking")
    assert thinking.request("off") == {"chat_template_kwargs": {"enable_thinking": False}}
    assert thinking.request("default") == {}


def test_an_effort_becomes_the_request_field_or_a_template_argument() -> None:
    assert Thinking("medium", efforts=("low", "high")).request("high") == {
        "reasoning_effort": "high"
    }
    through = Thinking("off", "thinking", ("high", "max"), "reasoning_effort")
    assert through.request("max") == {
        "chat_template_kwargs": {"thinking": True, "reasoning_effort": "max"}
    }


def test_a_budget_goes_where_the_template_reads_it() -> None:
    thinking = Thinking("on", budget_kwarg="thinking_budget")
    assert thinking.request(budget_tokens=512) == {"chat_template_kwargs": {"thinking_budget": 512}}


def test_a_mode_the_model_does_not_have_is_refused_with_those_it_has() -> None:
    with pytest.raises(UsageError, match="It takes: default, on, off"):
        Thinking("on", "enable_thinking").request("high")
    with pytest.raises(UsageError, match="has none"):
        Thinking("always").request(budget_tokens=10)
