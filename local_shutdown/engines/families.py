"""Guessing for a model that models.yaml does not list: its parsers, size and cache.

A guess is made from, in this order: the calls its own chat template writes, the architecture in
its config.json, the name. Every guess carries its evidence, so that the warning can say from what.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from local_shutdown.engines.spec import GIB, KvCache, Sliding, Thinking

# The parsers of vLLM 0.32.0; a test holds them against the installed build.
_TOOL = """
    apertus cohere_command3 cohere_command4 deepseek_v3 deepseek_v31 deepseek_v32 deepseek_v4
    deepseek_v41 dots ernie45 functiongemma gemma4 gigachat3 glm45 glm47 granite granite-20b-fc
    granite4 hermes hf hunyuan_a13b hy_v3 hy_v4 inkling internlm jamba k2_horizon kimi_k2 kimi_k3
    lfm2 ling3 llama3_json llama4_json llama4_pythonic longcat mimo minicpm5 minimax_m2 minimax_m3
    mistral muse_glimmer olmo3 openai phi4_mini_json plamo3 poolside_v1 pythonic qwen3_coder
    qwen3_json qwen3_xml seed_oss step3 step3p5 xlam
"""
_REASONING = """
    cohere_command3 cohere_command4 deepseek_r1 deepseek_v3 deepseek_v4 deepseek_v41 ernie45
    gemma4 glm45 glm47 granite granite_thinking_parser hf holo2 hunyuan_a13b hy_v3 hy_v4 inkling
    k2_horizon kimi_k2 kimi_k3 ling3 mimo minicpmv minimax_m2 minimax_m2_append_think minimax_m3
    mistral muse_glimmer nemotron_v3 olmo3 openai_gptoss plamo3 poolside_v1 qwen3 seed_oss step3
    step3p5
"""
TOOL_PARSERS = frozenset(_TOOL.split())
REASONING_PARSERS = frozenset(_REASONING.split())
# Parsers that the tested build lacks: name -> the version of vLLM that brought them.
NEWER_PARSERS: Mapping[str, str] = {
    "step5": "0.33",
    "beam": "0.33",
    "muse": "0.33",
    "musespark1x": "0.33",
}

# What a chat template writes for a tool call -> the parser that reads it. The first row whose
# markers all occur wins, so rarer markers stand first and the widespread `<tool_call>` last.
CALL_MARKERS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("<|channel|>", "to=functions"), "openai"),
    (("<｜DSML｜",), "deepseek_v32"),
    (("<｜tool▁calls▁begin｜>", "```json"), "deepseek_v3"),
    (("<｜tool▁calls▁begin｜>",), "deepseek_v31"),
    (("<|tool_calls_section_begin|>",), "kimi_k2"),
    (("<minimax:tool_call>",), "minimax_m2"),
    (("<seed:tool_call>",), "seed_oss"),
    (("<|tool_call>",), "gemma4"),
    (("<start_function_call>",), "functiongemma"),
    (("<arg_key>",), "glm47"),
    (("<function=", "<parameter="), "qwen3_xml"),
    (("<function_calls>",), "olmo3"),
    (("<|tool_call_start|>",), "lfm2"),
    (("[TOOL_CALLS]",), "mistral"),
    (("<|START_ACTION|>",), "cohere_command3"),
    (("<|python_tag|>",), "llama3_json"),
    (("<|tool_call|>", "<|tool|>"), "phi4_mini_json"),
    (("<|tool_call|>",), "granite"),
    (("<tool_call>",), "hermes"),
)
THOUGHT_MARKERS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("<|channel|>", "analysis"), "openai_gptoss"),
    (("<seed:think>",), "seed_oss"),
    (("<|channel>",), "gemma4"),
    (("[THINK]",), "mistral"),
    (("<|START_THINKING|>",), "cohere_command3"),
    (("<think>", "enable_thinking"), "qwen3"),
    (("<think>",), "deepseek_r1"),
)
# Switches a template reads. The default is what the template does when the name is not passed.
SWITCHES: tuple[tuple[str, str], ...] = (("enable_thinking", "on"), ("thinking", "off"))


@dataclass(frozen=True, slots=True)
class Guess:
    """What a folder or a name gives away; None where it says nothing.

    Attributes:
        evidence: one phrase per finding, for the warning.
        architectures: from config.json.
    """

    tool_parser: str | None = None
    reasoning_parser: str | None = None
    thinking: Thinking | None = None
    architectures: tuple[str, ...] = ()
    context: int | None = None
    dtype: str | None = None
    params_total_b: float | None = None
    params_active_b: float | None = None
    weights_gib: float | None = None
    kv: KvCache | None = None
    evidence: tuple[str, ...] = ()


@cache
def installed_parsers() -> tuple[frozenset[str], frozenset[str]] | None:
    """Tool and reasoning parsers of the installed vLLM, read from its source: importing it takes
    seconds. None when vLLM is not installed or keeps its tables elsewhere."""
    spec = find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return None
    root = Path(spec.submodule_search_locations[0])
    tools = _table_keys(root / "tool_parsers" / "__init__.py", "_TOOL_PARSERS_TO_REGISTER")
    thoughts = _table_keys(root / "reasoning" / "__init__.py", "_REASONING_PARSERS_TO_REGISTER")
    return (tools, thoughts) if tools and thoughts else None


def guess_from_name(name: str) -> Guess:
    """Sizes written in a model's name: `Qwen3-30B-A3B` has 30 and 3 billion parameters.

    Args:
        name: a Hugging Face id or a folder's name.
    """
    base = name.rsplit("/", 1)[-1]
    active = re.search(r"(?i)-a(\d+(?:\.\d+)?)b\b", base)
    total = re.search(r"(?i)(?<![a-z0-9.])e?(\d+(?:\.\d+)?)([bmt])\b", base)
    if total is None:
        return Guess()
    scale = {"m": 1e-3, "b": 1.0, "t": 1e3}[total.group(2).lower()]
    params = float(total.group(1)) * scale
    return Guess(
        params_total_b=params,
        params_active_b=float(active.group(1)) if active else params,
        dtype=_dtype_in_name(base),
        evidence=(f"the size {total.group(0)!r} in its name",),
    )


def guess_from_folder(folder: Path) -> Guess:
    """Read config.json, the chat template and the sizes of the weight files.

    Args:
        folder: a local model folder, or a snapshot in the Hugging Face cache.

    Returns:
        What was found. A file that is missing or not JSON adds nothing.
    """
    config = _json(folder / "config.json")
    text = config.get("text_config")
    text = text if isinstance(text, dict) else config
    evidence: list[str] = []
    architectures = tuple(a for a in config.get("architectures") or () if isinstance(a, str))
    if architectures:
        evidence.append(f"the architecture {architectures[0]} in its config.json")
    elif config:
        evidence.append("its config.json, which names no architecture")
    template = chat_template(folder)
    tool_parser = _first_match(template, CALL_MARKERS)
    if tool_parser is not None:
        evidence.append(f"the call markup of {tool_parser} in its chat template")
    reasoning_parser = _first_match(template, THOUGHT_MARKERS)
    thinking = None
    if reasoning_parser is not None:
        evidence.append(f"the reasoning markup of {reasoning_parser} in its chat template")
        thinking = next(
            (Thinking(default, kwarg) for kwarg, default in SWITCHES if _reads(template, kwarg)),
            Thinking("always"),
        )
    weights = sum(p.stat().st_size for p in folder.glob("*.safetensors")) / GIB
    if not weights:
        total = _json(folder / "model.safetensors.index.json").get("metadata")
        size = total.get("total_size") if isinstance(total, dict) else None
        weights = size / GIB if isinstance(size, int | float) else 0.0
    dtype = _dtype_in_config(config)
    context = text.get("max_position_embeddings")
    return Guess(
        tool_parser=tool_parser,
        reasoning_parser=reasoning_parser,
        thinking=thinking,
        architectures=architectures,
        context=context if isinstance(context, int) else None,
        dtype=dtype,
        weights_gib=weights or None,
        kv=_kv(text),
        evidence=tuple(evidence),
    )


def _kv(config: Mapping[str, Any]) -> KvCache | None:
    """Shape of the cache from config.json; windowed, linear and state-space layers, and layers that
    share another's cache, where it names them."""

    def number(*names: str) -> int:
        for name in names:
            if isinstance(config.get(name), int):
                return int(config[name])
        return 0

    layers = number("num_hidden_layers", "n_layer", "num_layers")
    kinds = _layer_kinds(config, layers, number)
    layers = layers or len(kinds)
    if not layers:
        return None
    # Gemma 4: the last so many layers read the cache of an earlier one.
    kinds = kinds[: layers - number("num_kv_shared_layers")]
    full = sum(kind == "full" for kind in kinds)
    state = sum(kind == "state" for kind in kinds) * _state_mib(number)
    rank = number("kv_lora_rank")
    if rank:
        return KvCache(layers=full, mla=rank + number("qk_rope_head_dim"), state_mib=state)
    query_heads = number("num_attention_heads", "n_head")
    heads = number("num_key_value_heads") or query_heads
    dim = number("head_dim")
    if not dim and query_heads:
        dim = number("hidden_size", "n_embd") // query_heads
    if not heads or not dim:
        return None
    windowed, window = sum(kind == "window" for kind in kinds), number("sliding_window")
    sliding = None
    if windowed and window:
        sliding = Sliding(windowed, heads, dim, window)
        # Gemma 4: layers that keep every token have heads of their own shape.
        heads = number("num_global_key_value_heads") or heads
        dim = number("global_head_dim") or dim
    else:
        full += windowed
    return KvCache(layers=full, heads=heads, dim=dim, sliding=sliding, state_mib=state)


def _layer_kinds(
    config: Mapping[str, Any], layers: int, number: Callable[..., int]
) -> list[Literal["full", "window", "state", "none"]]:
    """What each layer keeps: every token, a window, a state of fixed size, or nothing."""
    pattern = config.get("hybrid_override_pattern")
    if isinstance(pattern, str):  # Nemotron-H: M is Mamba, * attention, - and E keep nothing
        letters: dict[str, Literal["full", "state"]] = {"*": "full", "M": "state"}
        return [letters.get(letter, "none") for letter in pattern if letter not in " |"]
    named = config.get("layer_types") or config.get("layers_block_type")
    if isinstance(named, list) and (not layers or len(named) == layers):
        return [_LAYER_KINDS.get(str(kind), "none") for kind in named]
    every = number("full_attention_interval", "layer_group_size")
    if every > 1:  # Qwen3-Next and 3.5, Bailing: the others are linear
        return ["full" if (n + 1) % every == 0 else "state" for n in range(layers)]
    return ["full"] * layers


_LAYER_KINDS: Mapping[str, Literal["full", "window", "state"]] = {
    "full_attention": "full",
    "attention": "full",
    "sliding_attention": "window",
    "chunked_attention": "window",
    "linear_attention": "state",
    "mamba": "state",
    "conv": "state",
}


def _state_mib(number: Callable[..., int]) -> float:
    """MiB of state of a linear or state-space layer, at 32 bits, a tenth more for convolutions."""
    linear = number("linear_num_value_heads") * number("linear_key_head_dim")
    linear *= number("linear_value_head_dim")
    mamba = number("mamba_num_heads") * number("mamba_head_dim") * number("ssm_state_size")
    return max(linear, mamba) * 4 * 1.1 / 2**20


def _first_match(template: str, table: tuple[tuple[tuple[str, ...], str], ...]) -> str | None:
    for markers, parser in table:
        if all(marker in template for marker in markers):
            return parser
    return None


def _reads(template: str, name: str) -> bool:
    """Whether a Jinja block tests the variable, not merely a text that mentions it."""
    return any(
        re.search(rf"(?<![\w.'\"]){name}(?![\w'\"])", block)
        for block in re.findall(r"\{[%{].*?[%}]\}", template, flags=re.DOTALL)
    )


def chat_template(folder: Path) -> str:
    """The checkpoint's own template; the tool template where it ships several. Empty if none."""
    for name in ("additional_chat_templates/tool_use.jinja", "chat_template.jinja"):
        file = folder / name
        if file.is_file():
            return file.read_text(encoding="utf-8", errors="replace")
    template = _json(folder / "chat_template.json").get("chat_template")
    template = template or _json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("tool_use") or named.get("default")
    return template if isinstance(template, str) else ""


def _dtype_in_config(config: Mapping[str, Any]) -> str | None:
    quantization = config.get("quantization_config")
    if isinstance(quantization, dict):
        method = str(quantization.get("quant_method", ""))
        bits = re.search(r"num_bits'?: (\d+)|bits'?: (\d+)", str(quantization))
        width = int(bits.group(1) or bits.group(2)) if bits else None
        if method in ("fp8", "mxfp4", "mxfp8", "nvfp4"):
            return method
        return "int4" if method in ("awq", "gptq") or width == 4 else "fp8"
    named = config.get("dtype") or config.get("torch_dtype")
    return named if named in ("float32", "bfloat16", "float16") else None


def _dtype_in_name(base: str) -> str | None:
    for word, dtype in (
        ("nvfp4", "nvfp4"),
        ("mxfp4", "mxfp4"),
        ("mxfp8", "mxfp8"),
        ("fp8", "fp8"),
        ("w8a8", "int8"),
        ("int8", "int8"),
        ("awq", "int4"),
        ("gptq", "int4"),
        ("w4a16", "int4"),
        ("int4", "int4"),
        ("4bit", "int4"),
    ):
        if word in base.lower():
            return dtype
    return None


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _table_keys(path: Path, name: str) -> frozenset[str]:
    """Keys of a dict literal assigned to `name` at the top of a Python file."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
        return frozenset()
    for statement in tree.body:
        if (
            isinstance(statement, ast.Assign)
            and isinstance(statement.targets[0], ast.Name)
            and statement.targets[0].id == name
            and isinstance(statement.value, ast.Dict)
        ):
            keys = (k.value for k in statement.value.keys if isinstance(k, ast.Constant))
            return frozenset(k for k in keys if isinstance(k, str))
    return frozenset()
