"""Load a model for `transformers_server`: weights, tokenizer, batching, defaults of sampling."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import ceil
from typing import Any

from local_shutdown.engines import memory, response_templates

GIB = 2**30
PER_REQUEST = frozenset({"top_p", "top_k"})
# Without flash attention the batch is one dense attention over all its requests, so its cost grows
# with the square of their number: 45 answers a CPU second at 16, 31 at 64 (calibration model).
CPU_BATCH = 16
CPU_BATCH_TOKENS = 512
CPU_PAGE_TOKENS = 32
CPU_KV_CACHE_GIB = 2.0
SMALL_MODEL = 50_000_000  # parameters
# The mask of a batch without flash attention has a row a token of the batch, as long as the whole
# cache. torch's kernel counts its elements in 32 bits: beyond them it read other rows, and the
# calibration model resisted in 79.5% of A instead of 90 (float32, torch 2.11, one H200).
CUDA_BATCH_TOKENS = 2048
MOST_MASK_ELEMENTS = 2**31
CUDA_CACHE_SHARE = 0.8  # of the memory that is free once the weights are there
# Temperatures below this are greedy, as in vLLM: scaled by its inverse, every other token has a
# probability of 0 in single precision.
GREEDY_TEMPERATURE = 1e-5
# What transformers makes of a setting of generation_config.json, by the name it goes by there.
SETTING_OF = {
    "RepetitionPenaltyLogitsProcessor": "repetition_penalty",
    "NoRepeatNGramLogitsProcessor": "no_repeat_ngram_size",
    "NoBadWordsLogitsProcessor": "bad_words_ids",
    "SequenceBiasLogitsProcessor": "sequence_bias",
    "SuppressTokensLogitsProcessor": "suppress_tokens",
    "MinPLogitsWarper": "min_p",
    "TypicalLogitsWarper": "typical_p",
}


class Refused(Exception):
    """The request is answered with this status and message."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Sampling:
    """Defaults of the model, and what a request may change.

    Attributes:
        temperature, top_p, top_k, min_p: of requests that do not say; top_k 0 and min_p 0 are off.
        per_request: names a request may give another value.
        vocabulary: tokens; the top_k that changes nothing.
        not_applied: settings of generation_config that continuous batching cannot apply at all.
    """

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    per_request: frozenset[str]
    vocabulary: int
    not_applied: tuple[str, ...] = ()

    def arguments(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Keyword arguments of `add_request`. Raises Refused for what cannot be done."""
        values: dict[str, Any] = {}
        for name in ("temperature", "top_p", "top_k", "min_p"):
            default = getattr(self, name)
            value = body.get(name)
            if value is None:
                value = default
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise Refused(f"{name} must be a number, got {value!r}")
            if value != default and name not in self.per_request:
                remedy = "Leave it out, or serve the model with vLLM"
                if name in PER_REQUEST:
                    remedy = f"Leave it out, or start with --per-request-sampling {name}"
                raise Refused(
                    f"{name}={value} differs from this model's {name}={default}, and this server "
                    f"cannot set it for one request. {remedy}"
                )
            values[name] = value
        if not 0 <= values["temperature"] <= 100:
            raise Refused(f"temperature={values['temperature']} is outside 0 to 100")
        if not 0 < values["top_p"] <= 1:
            raise Refused(f"top_p={values['top_p']} is outside (0, 1]")
        given: dict[str, Any] = {
            "temperature": max(float(values["temperature"]), GREEDY_TEMPERATURE)
        }
        if "top_p" in self.per_request:
            given["top_p"] = float(values["top_p"])
        if "top_k" in self.per_request:
            top_k = int(values["top_k"])
            given["top_k"] = min(top_k, self.vocabulary) if top_k > 0 else self.vocabulary
        return given

    def as_dict(self) -> dict[str, Any]:
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
        }


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to be served; the manager's thread is not started yet.

    Attributes:
        template: see `response_templates.choose`.
        eos: every token that ends an answer.
    """

    tokenizer: Any
    manager: Any
    sampling: Sampling
    max_model_len: int
    template: Mapping[str, Any] | None
    eos: frozenset[int]


@dataclass(frozen=True, slots=True)
class Wanted:
    """How to load a checkpoint.

    Attributes:
        name: local folder or Hugging Face id.
        max_model_len: tokens; None takes the model's own.
        device: `auto` is CUDA where there is any; on CUDA accelerate places the layers.
        parser: vLLM's name of the tool parser, if known.
        per_request: of top_p and top_k, what requests may set though the model has no default.
        max_num_seqs: requests in one batch.
        kv_cache_gib: memory of the cache.
        kv_cache_tokens: on the CPU, tokens that it is to hold; one context it holds in any case.
    """

    name: str
    max_model_len: int | None = None
    device: str = "auto"
    dtype: str = "auto"
    seed: int = 0
    parser: str | None = None
    per_request: frozenset[str] = frozenset()
    max_num_seqs: int | None = None
    kv_cache_gib: float | None = None
    kv_cache_tokens: int | None = None
    trust_remote_code: bool = False


def load(wanted: Wanted) -> Loaded:
    """Load a checkpoint and make its batching manager.

    Raises:
        SystemExit: the context does not fit the cache, or the model has no end token.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    unknown = wanted.per_request - PER_REQUEST
    if unknown:
        raise SystemExit(f"--per-request-sampling {','.join(sorted(unknown))}: only top_p, top_k")
    cuda = wanted.device == "cuda" or (wanted.device == "auto" and torch.cuda.is_available())
    torch.manual_seed(wanted.seed)
    tokenizer = AutoTokenizer.from_pretrained(
        wanted.name, trust_remote_code=wanted.trust_remote_code
    )
    model = AutoModelForCausalLM.from_pretrained(
        wanted.name,
        dtype=wanted.dtype,
        device_map="auto" if cuda else "cpu",
        attn_implementation="sdpa",
        trust_remote_code=wanted.trust_remote_code,
    )
    model.eval()
    if not cuda:
        torch.set_num_threads(cpu_threads(model.num_parameters(), os.cpu_count() or 1))
    text_config = model.config.get_text_config()
    longest = getattr(text_config, "max_position_embeddings", None)
    length = wanted.max_model_len or longest
    if length is None:
        raise SystemExit("the model does not say how long its context is: give --max-model-len")
    if longest is not None and length > longest:
        raise SystemExit(f"--max-model-len {length} is above the model's own {longest}")
    eos = frozenset(eos_tokens(model, tokenizer))
    if not eos:
        raise SystemExit(f"{wanted.name} names no end token in generation_config.json or tokenizer")
    cache = _Cache(wanted.max_num_seqs, wanted.kv_cache_gib, wanted.kv_cache_tokens)
    manager, sampling = _batching(model, length, wanted.seed, wanted.per_request, cache, cuda)
    chat_template = tokenizer.chat_template
    if isinstance(chat_template, dict):
        chat_template = chat_template.get("tool_use") or chat_template.get("default")
    template = response_templates.choose(tokenizer, model, chat_template or "", wanted.parser)
    return Loaded(tokenizer, manager, sampling, length, template, eos)


@dataclass(frozen=True, slots=True)
class _Cache:
    """What was asked for: requests in one batch, memory, tokens."""

    sequences: int | None
    gib: float | None
    tokens: int | None


def _batching(
    model: Any, length: int, seed: int, per_request: frozenset[str], cache: _Cache, cuda: bool
) -> tuple[Any, Sampling]:
    config, page_tokens = _batching_config(seed, cache, cuda)
    per_page = kv_bytes_per_token(model) * page_tokens
    needed = ceil(length / page_tokens) + 1
    if cache.gib is not None or not cuda:
        config.num_blocks = _pages(cache, length, needed, per_page, page_tokens)
    if cuda and not getattr(config, "auto_switch_to_flash", False):
        mask = CUDA_BATCH_TOKENS * page_tokens * model.dtype.itemsize
        config.max_batch_tokens = CUDA_BATCH_TOKENS
        config.num_blocks = _masked_pages(config.num_blocks, length, page_tokens, per_page + mask)
    defaults, generation = _defaults(model, per_request)
    wanted = [type(p).__name__ for p in model._get_logits_processor(generation)]
    manager = model.init_continuous_batching(
        generation_config=generation, continuous_batching_config=config
    )
    kept = " ".join(type(p).__name__ for p in manager.logit_processor.logits_processor)
    dropped = tuple(SETTING_OF.get(name, name) for name in wanted if name not in kept)
    return manager, Sampling(**defaults, not_applied=dropped)


def _batching_config(seed: int, cache: _Cache, cuda: bool) -> tuple[Any, int]:
    """transformers' settings, and the tokens of a page, by the names of the installed version:
    until 5.17 pages are `block_size`, and flash attention is never chosen unasked."""
    from transformers import ContinuousBatchingConfig

    known = {field.name for field in fields(ContinuousBatchingConfig)}
    page = "page_size" if "page_size" in known else "block_size"
    given: dict[str, Any] = {
        "seed": seed,
        "per_request_processors": True,
        "max_requests_per_batch": cache.sequences or (None if cuda else CPU_BATCH),
    }
    if "auto_switch_to_flash" in known:
        given["auto_switch_to_flash"] = cuda and _flash_installed()
    if not cuda:
        given |= {page: CPU_PAGE_TOKENS, "max_batch_tokens": CPU_BATCH_TOKENS}
    config = ContinuousBatchingConfig(**given)
    return config, int(getattr(config, page))


def _pages(cache: _Cache, length: int, needed: int, per_page: int, page_tokens: int) -> int:
    """Pages of the cache, all of which are written once at the start.

    Args:
        needed: for one context of `length` tokens.

    Raises:
        SystemExit: one context does not fit what was asked for, or what is free.
    """
    budget = (cache.gib or CPU_KV_CACHE_GIB) * GIB
    if cache.gib is None and needed * per_page > budget:
        # A long context of a larger model: as much as it takes, if that is there.
        free = memory.free_ram_gib()
        budget = needed * per_page if free is None else min(needed * per_page, free * GIB)
    if int(budget // per_page) < needed:
        raise SystemExit(
            f"one context of {length} tokens needs a cache of {needed * per_page / GIB:.2f} GiB, "
            f"there are {budget / GIB:.2f}: lower --max-model-len"
            + (" or raise --kv-cache-gib" if cache.gib is not None else "")
        )
    most = int(budget // per_page)
    if cache.tokens is not None:
        return min(most, max(ceil(cache.tokens / page_tokens), needed))
    if cache.gib is None:  # no more than the batch can fill
        batch = (cache.sequences or CPU_BATCH) * length // 2
        return min(most, max(batch, 2 * length) // page_tokens)
    return most


def _masked_pages(asked: int | None, length: int, page_tokens: int, per_page: int) -> int:
    """Pages of a cache on a GPU whose mask can still be read right.

    Args:
        asked: pages that were asked for; None for what is free.
        length: tokens of one context.
        per_page: bytes of a page, its columns of the mask included.

    Raises:
        SystemExit: one context does not fit.
    """
    import torch

    readable = (MOST_MASK_ELEMENTS // CUDA_BATCH_TOKENS - CUDA_BATCH_TOKENS) // page_tokens - 1
    free = min(torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count()))
    there = int(free * CUDA_CACHE_SHARE // per_page)
    pages = min(readable, there if asked is None else asked)
    if pages < ceil(length / page_tokens) + 1:
        raise SystemExit(
            f"one context of {length} tokens does not fit, the cache has {pages * page_tokens}: "
            "lower --max-model-len, install flash-attn or serve the model with vLLM"
        )
    return pages


def _defaults(model: Any, per_request: frozenset[str]) -> tuple[dict[str, Any], Any]:
    """The model's own sampling, and a generation config whose processors take values per request:
    a processor exists only where the config holds a value that would change something."""
    set_there = model.generation_config.to_diff_dict()
    vocabulary = int(model.config.get_text_config().vocab_size)
    # A default that is off (None, 0, 1) reads the same whether it stands in the file or not.
    temperature = set_there.get("temperature")
    temperature = 1.0 if temperature is None else float(temperature)
    top_p = float(set_there.get("top_p") or 1.0)
    top_k = int(set_there.get("top_k") or 0)
    min_p = float(set_there.get("min_p") or 0.0)
    changeable = {"temperature"} | per_request
    generation = copy.deepcopy(model.generation_config)
    generation.do_sample = True
    generation.temperature = temperature if temperature not in (0.0, 1.0) else 0.5
    generation.min_p = min_p or None
    if top_p < 1.0:
        changeable |= {"top_p"}
    if top_k > 0:
        changeable |= {"top_k"}
    generation.top_p = (top_p if top_p < 1.0 else 0.5) if "top_p" in changeable else None
    generation.top_k = (top_k or vocabulary) if "top_k" in changeable else None
    return (
        {
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k,
            "min_p": min_p,
            "per_request": frozenset(changeable),
            "vocabulary": vocabulary,
        },
        generation,
    )


def cpu_threads(parameters: int, cores: int) -> int:
    """Threads of torch on a CPU that the sandboxes share: one core is left to them, and a small
    model gets one thread, since its steps are too short for threads that wait for each other."""
    return 1 if parameters < SMALL_MODEL else max(1, cores - 1)


def kv_bytes_per_token(model: Any) -> int:
    """Bytes of keys and values a token keeps over all layers."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(config.num_hidden_layers * 2 * heads * dim * model.dtype.itemsize)


def _flash_installed() -> bool:
    """Whether flash attention is here; the library would otherwise look for a kernel on the hub."""
    from transformers.utils.import_utils import is_flash_attn_2_available, is_flash_attn_3_available

    return bool(is_flash_attn_3_available() or is_flash_attn_2_available())


def eos_tokens(model: Any, tokenizer: Any) -> set[int]:
    """Every token that ends an answer: the generation_config's, and the tokenizer's own."""
    listed = model.generation_config.eos_token_id
    found = set(listed if isinstance(listed, list | tuple) else [listed])
    found.add(tokenizer.eos_token_id)
    return {int(token) for token in found if token is not None and int(token) >= 0}
