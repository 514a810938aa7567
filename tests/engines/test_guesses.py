"""What a folder or a name gives away, as `families` reads it: known answers, one for each rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from local_shutdown.engines import families
from local_shutdown.engines.families import (
    CALL_MARKERS,
    THOUGHT_MARKERS,
    Guess,
    chat_template,
    guess_from_folder,
    guess_from_name,
)
from local_shutdown.engines.spec import KvCache, Sliding, Thinking

BASE = {"num_hidden_layers": 4, "num_attention_heads": 8, "hidden_size": 512}
GIB = 1 << 30


def folder(path: Path, config: Any = None, template: str | None = None, **files: Any) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for old in path.rglob("*"):
        if old.is_file():
            old.unlink()
    if config is not None:
        (path / "config.json").write_text(json.dumps(config))
    if template is not None:
        (path / "chat_template.jinja").write_text(template)
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("name", "total", "active", "dtype"),
    [
        ("org/Qwen3-30B-A3B", 30.0, 3.0, None),
        ("org/Qwen3-30b-a3.5b-FP8", 30.0, 3.5, "fp8"),
        ("7B/x-1.5B", 1.5, 1.5, None),
        ("/a/70B/x-1.5B", 1.5, 1.5, None),
        ("SmolLM-135M", 0.135, 0.135, None),
        ("Kimi-1T-A32B", 1000.0, 32.0, None),
        ("gemma-E4B", 4.0, 4.0, None),
        ("v2.5B", None, None, None),
        ("phi-4", None, None, None),
        ("x-8bit", None, None, None),
        ("x-8B-nvfp4", 8.0, 8.0, "nvfp4"),
        ("x-8B-MXFP4", 8.0, 8.0, "mxfp4"),
        ("x-8B-mxfp8", 8.0, 8.0, "mxfp8"),
        ("x-8B-W8A8", 8.0, 8.0, "int8"),
        ("x-8B-int8", 8.0, 8.0, "int8"),
        ("x-8B-AWQ", 8.0, 8.0, "int4"),
        ("x-8B-GPTQ", 8.0, 8.0, "int4"),
        ("x-8B-w4a16", 8.0, 8.0, "int4"),
        ("x-8B-int4", 8.0, 8.0, "int4"),
        ("x-8B-4bit", 8.0, 8.0, "int4"),
    ],
)
def test_a_name(name: str, total: float | None, active: float | None, dtype: str | None) -> None:
    made = guess_from_name(name)
    assert (made.params_total_b, made.params_active_b, made.dtype) == (total, active, dtype)
    if total is None:
        assert made == Guess()
    else:
        (said,) = made.evidence
        assert said.split("'")[1].lower() in name.rsplit("/", 1)[-1].lower()
        assert "name" in said


KV: list[tuple[dict[str, Any], KvCache | None]] = [
    (BASE, KvCache(layers=4, heads=8, dim=64)),
    ({**BASE, "num_key_value_heads": 2}, KvCache(layers=4, heads=2, dim=64)),
    ({**BASE, "head_dim": 96}, KvCache(layers=4, heads=8, dim=96)),
    ({"n_layer": 3, "n_head": 2, "n_embd": 64}, KvCache(layers=3, heads=2, dim=32)),
    ({**BASE, "num_hidden_layers": None, "num_layers": 5}, KvCache(layers=5, heads=8, dim=64)),
    ({**BASE, "num_hidden_layers": "4"}, None),
    ({"num_attention_heads": 8, "hidden_size": 512}, None),
    ({"num_hidden_layers": 4, "hidden_size": 512}, None),
    ({"num_hidden_layers": 4, "num_attention_heads": 8}, None),
    ({"num_hidden_layers": 4, "num_key_value_heads": 8, "head_dim": 64}, KvCache(4, 8, 64)),
    ({**BASE, "kv_lora_rank": 512}, KvCache(layers=4, mla=512)),
    ({**BASE, "kv_lora_rank": 512, "qk_rope_head_dim": 64}, KvCache(layers=4, mla=576)),
    (
        {**BASE, "layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 128},
        KvCache(2, 8, 64, sliding=Sliding(2, 8, 64, 128)),
    ),
    (
        {**BASE, "layer_types": ["chunked_attention"] * 3 + ["attention"], "sliding_window": 9,
         "num_global_key_value_heads": 2, "global_head_dim": 256},
        KvCache(1, 2, 256, sliding=Sliding(3, 8, 64, 9)),
    ),
    # A window of no size: every token is kept.
    ({**BASE, "layer_types": ["sliding_attention"] * 4}, KvCache(4, 8, 64)),
    # Of another length than there are layers: not theirs.
    ({**BASE, "layer_types": ["mamba"] * 3}, KvCache(4, 8, 64)),
    ({**BASE, "num_hidden_layers": 0, "layer_types": ["attention"] * 3}, KvCache(3, 8, 64)),
    ({**BASE, "layers_block_type": ["attention", "x", "x", "attention"]}, KvCache(2, 8, 64)),
    (
        {**BASE, "num_kv_shared_layers": 1,
         "layer_types": ["full_attention", "x", "full_attention", "full_attention"]},
        KvCache(2, 8, 64),
    ),
    # 2**20 numbers of 4 bytes are 4 MiB, and a tenth more.
    (
        {**BASE, "layer_types": ["mamba", "conv", "linear_attention", "attention"],
         "mamba_num_heads": 64, "mamba_head_dim": 64, "ssm_state_size": 256},
        KvCache(1, 8, 64, state_mib=3 * 4.4),
    ),
    (
        {**BASE, "full_attention_interval": 2, "linear_num_value_heads": 64,
         "linear_key_head_dim": 128, "linear_value_head_dim": 128},
        KvCache(2, 8, 64, state_mib=2 * 4.4),
    ),
    ({**BASE, "layer_group_size": 1}, KvCache(4, 8, 64)),
    (
        {**BASE, "layer_group_size": 3, "linear_num_value_heads": 64, "linear_key_head_dim": 128,
         "linear_value_head_dim": 128, "mamba_num_heads": 1, "mamba_head_dim": 1,
         "ssm_state_size": 1},
        KvCache(1, 8, 64, state_mib=3 * 4.4),
    ),
    (
        {**BASE, "num_hidden_layers": 5, "hybrid_override_pattern": "M*-E| *",
         "mamba_num_heads": 64, "mamba_head_dim": 64, "ssm_state_size": 256},
        KvCache(2, 8, 64, state_mib=4.4),
    ),
    (
        {**BASE, "kv_lora_rank": 512, "full_attention_interval": 4, "mamba_num_heads": 64,
         "mamba_head_dim": 64, "ssm_state_size": 256},
        KvCache(layers=1, mla=512, state_mib=3 * 4.4),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("config", "kv"), KV)
def test_the_shape_of_a_cache(config: dict[str, Any], kv: KvCache | None, tmp_path: Path) -> None:
    for written in (config, {"architectures": ["X"], "text_config": config, "n_layer": 99}):
        found = guess_from_folder(folder(tmp_path / "m", written)).kv
        if kv is None or found is None:
            assert found is kv
            continue
        assert (found.layers, found.heads, found.dim, found.mla) == (
            kv.layers, kv.heads, kv.dim, kv.mla,
        )  # fmt: skip
        assert found.sliding == kv.sliding
        assert found.state_mib == pytest.approx(kv.state_mib)


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        ({}, None),
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"torch_dtype": "float16"}, "float16"),
        ({"dtype": "float32", "torch_dtype": "float16"}, "float32"),
        ({"dtype": "int9"}, None),
        *(
            ({"quantization_config": {"quant_method": method}}, method)
            for method in ("fp8", "mxfp4", "mxfp8", "nvfp4")
        ),
        ({"quantization_config": {"quant_method": "awq", "bits": 8}}, "int4"),
        ({"quantization_config": {"quant_method": "gptq"}, "dtype": "float16"}, "int4"),
        ({"quantization_config": {"quant_method": "x", "bits": 4}}, "int4"),
        ({"quantization_config": {"a": {"num_bits": 4}}}, "int4"),
        ({"quantization_config": {"a": {"num_bits": 8}}}, "fp8"),
        ({"quantization_config": {}}, "fp8"),
        ({"quantization_config": "x", "dtype": "float16"}, "float16"),
    ],
)  # fmt: skip
def test_the_format_of_the_weights(
    config: dict[str, Any], dtype: str | None, tmp_path: Path
) -> None:
    assert guess_from_folder(folder(tmp_path / "m", config)).dtype == dtype


def test_parsers_go_by_what_the_template_writes(tmp_path: Path) -> None:
    for markers, parser in CALL_MARKERS:
        made = guess_from_folder(folder(tmp_path / "m", BASE, "{{ x }}".join(markers)))
        assert made.tool_parser == parser
        assert any(parser in said and "template" in said for said in made.evidence)
    for markers, parser in THOUGHT_MARKERS:
        made = guess_from_folder(folder(tmp_path / "m", BASE, "{{ x }}".join(markers)))
        assert made.reasoning_parser == parser
        assert made.thinking == Thinking("always")
        assert any(parser in said and "template" in said for said in made.evidence)
        if len(markers) > 1:  # one alone says nothing of it
            alone = guess_from_folder(folder(tmp_path / "m", BASE, markers[-1]))
            assert alone.reasoning_parser != parser
    plain = guess_from_folder(folder(tmp_path / "m", BASE, "no markup"))
    assert (plain.tool_parser, plain.reasoning_parser, plain.thinking) == (None, None, None)
    assert len(plain.evidence) == 1
    for template, thinking in (
        ("<think>{% if enable_thinking %}", Thinking("on", "enable_thinking")),
        ("<think>{%- if thinking -%}", Thinking("off", "thinking")),
        ("<think>{{ thinking }}{{ enable_thinking }}", Thinking("on", "enable_thinking")),
        ("<think>{%\nif thinking\n%}", Thinking("off", "thinking")),
        ("<think> thinking", Thinking("always")),
        ("<think>{{ message.thinking }}{{ 'thinking' }}{{ thinking_budget }}", Thinking("always")),
    ):
        assert guess_from_folder(folder(tmp_path / "m", BASE, template)).thinking == thinking


def test_a_folder_gives_context_architectures_and_size(tmp_path: Path) -> None:
    path = tmp_path / "m"
    made = guess_from_folder(
        folder(path, {**BASE, "architectures": ["A", 5, "B"], "max_position_embeddings": 77})
    )
    assert (made.architectures, made.context, made.weights_gib) == (("A", "B"), 77, None)
    assert made.evidence == ("the architecture A in its config.json",)
    nested = {"text_config": {**BASE, "max_position_embeddings": 88}, "architectures": None}
    made = guess_from_folder(folder(path, nested))
    assert (made.architectures, made.context) == ((), 88)
    assert made.evidence == ("its config.json, which names no architecture",)
    assert guess_from_folder(folder(path, {"max_position_embeddings": "88"})).context is None
    for nothing in (None, [1]):
        assert guess_from_folder(folder(path, nothing)) == Guess()
    (path / "config.json").write_text("{")
    assert guess_from_folder(path) == Guess()

    index = {"model.safetensors.index": {"metadata": {"total_size": 3 * GIB}}}
    assert guess_from_folder(folder(path, BASE, **index)).weights_gib == 3
    for name, size in (("a", GIB), ("b", GIB // 2)):
        with (path / f"{name}.safetensors").open("wb") as file:
            file.truncate(size)
    assert guess_from_folder(path).weights_gib == 1.5  # what is here goes before what is said
    for metadata in ({"total_size": "x"}, {}, 5):
        wrong = {"model.safetensors.index": {"metadata": metadata}}
        assert guess_from_folder(folder(path, BASE, **wrong)).weights_gib is None


def test_of_several_templates_that_for_tools_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m"
    assert chat_template(folder(path)) == ""
    in_tokenizer = {"tokenizer_config": {"chat_template": "t"}}
    assert chat_template(folder(path, **in_tokenizer)) == "t"
    assert chat_template(folder(path, **in_tokenizer, chat_template={"chat_template": "c"})) == "c"
    named = [{"name": "default", "template": "d"}, "x", {"name": "tool_use", "template": "u"}]
    assert chat_template(folder(path, tokenizer_config={"chat_template": named})) == "u"
    assert chat_template(folder(path, tokenizer_config={"chat_template": named[:2]})) == "d"
    assert chat_template(folder(path, tokenizer_config={"chat_template": [5]})) == ""
    assert chat_template(folder(path, tokenizer_config={"chat_template": 5})) == ""
    folder(path, None, "jinja", **in_tokenizer, chat_template={"chat_template": "c"})
    assert chat_template(path) == "jinja"
    (path / "chat_template.jinja").write_bytes(b"a\xff")
    assert chat_template(path) == "a\ufffd"
    (path / "additional_chat_templates").mkdir()
    (path / "additional_chat_templates/tool_use.jinja").write_text("tools")
    assert chat_template(path) == "tools"


def test_the_keys_of_a_table_are_read_from_the_source_without_running_it(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    assert families._table_keys(path, "T") == frozenset()
    for source, keys in (
        ("T = {'a': 1, 'b': ('x',), c: 2, 5: 3, **d}", {"a", "b"}),
        ("x.T = {'z': 1}\nU = {'z': 1}\nT = 5\nT = {'ä': exit()}\nT = {'later': 1}", {"ä"}),
        ("def f():\n    T = {'a': 1}", set()),
        ("T: dict = {'a': 1}", set()),
        ("T = {", set()),
    ):
        path.write_text(source, encoding="utf-8")
        assert families._table_keys(path, "T") == keys
