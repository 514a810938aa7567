"""What is known of a model before it is served: the words of models.yaml as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any, Literal

from local_shutdown.errors import UsageError

GIB = 2**30

# Bytes a parameter takes on the card. The 4-bit formats keep embeddings, norms, routers and often
# attention in 16 bits, so the mean lies above one half byte.
BYTES_PER_PARAM: Mapping[str, float] = {
    "float32": 4.0,
    "bfloat16": 2.0,
    "float16": 2.0,
    "fp8": 1.05,
    "int8": 1.05,
    "mxfp8": 1.08,
    "mxfp4": 0.6,
    "nvfp4": 0.62,
    "int4": 0.62,
}

EngineName = Literal["vllm", "transformers"]


@dataclass(frozen=True, slots=True)
class Sliding:
    """Attention layers that look back over a window only.

    Attributes:
        layers: how many.
        heads: key-value heads of each.
        dim: head dimension.
        window: tokens kept.
    """

    layers: int
    heads: int
    dim: int
    window: int


@dataclass(frozen=True, slots=True)
class KvCache:
    """The shape of the cache of one sequence.

    Attributes:
        layers: layers that keep every token (full attention).
        heads: key-value heads of each; 0 with `mla`.
        dim: head dimension; 0 with `mla`.
        mla: width of the compressed latent per token and layer (rank plus rope part), or 0.
        sliding: windowed layers beside them.
        state_mib: MiB of fixed state a sequence (linear attention, state space layers).
    """

    layers: int
    heads: int = 0
    dim: int = 0
    mla: int = 0
    sliding: Sliding | None = None
    state_mib: float = 0.0

    def bytes_per_token(self, tensor_parallel: int = 1, bytes_per_value: float = 2.0) -> float:
        """Bytes one more token costs on each card.

        Heads are split over the cards until there is one a card and copied from there on; an MLA
        latent has no heads to split and is copied to every card.
        """
        if self.mla:
            return self.layers * self.mla * bytes_per_value
        return self.layers * 2 * ceil(self.heads / tensor_parallel) * self.dim * bytes_per_value

    def bytes_per_sequence(self, tensor_parallel: int = 1, bytes_per_value: float = 2.0) -> float:
        """Bytes a sequence costs on each card however long it is: full windows and fixed state."""
        total = self.state_mib * 2**20 / tensor_parallel
        if self.sliding is not None:
            s = self.sliding
            heads = ceil(s.heads / tensor_parallel)
            total += s.layers * 2 * heads * s.dim * s.window * bytes_per_value
        return total


@dataclass(frozen=True, slots=True)
class Thinking:
    """Whether a model reasons before it answers, and how a request says so.

    Attributes:
        default: what the model does when nothing is asked: `none` (it cannot), `always` (it cannot
            be told not to), `on`, `off`, or one of `efforts`.
        kwarg: the chat_template_kwargs name that takes true or false.
        efforts: levels, weakest first.
        effort_kwarg: the chat_template_kwargs name that takes a level; None sends the request field
            `reasoning_effort`.
        budget_kwarg: the chat_template_kwargs name that takes a number of tokens.
        always: chat_template_kwargs that every request carries.
    """

    default: str = "none"
    kwarg: str | None = None
    efforts: tuple[str, ...] = ()
    effort_kwarg: str | None = None
    budget_kwarg: str | None = None
    always: Mapping[str, Any] = field(default_factory=dict)

    @property
    def modes(self) -> tuple[str, ...]:
        """What `request` accepts besides `default`."""
        return (("on", "off") if self.kwarg else ()) + self.efforts

    def request(self, mode: str = "default", budget_tokens: int | None = None) -> dict[str, Any]:
        """The fields a chat request carries to think this much.

        Args:
            mode: `default` (leave it to the model), `on`, `off`, or an effort level.
            budget_tokens: cap on the reasoning, in tokens, where the template has one.

        Returns:
            Fields for the request body; for `default` what `always` says, mostly nothing.

        Raises:
            UsageError: this model has no such mode or no budget.
        """
        kwargs: dict[str, Any] = dict(self.always)
        body: dict[str, Any] = {}
        if mode in self.efforts:
            if self.kwarg:
                kwargs[self.kwarg] = True
            if self.effort_kwarg:
                kwargs[self.effort_kwarg] = mode
            else:
                body["reasoning_effort"] = mode
        elif mode in ("on", "off") and self.kwarg:
            kwargs[self.kwarg] = mode == "on"
        elif mode not in ("default", self.default):
            raise UsageError(
                f"thinking {mode!r}: the model has no such mode",
                f"It takes: {', '.join(('default', *self.modes))}.",
            )
        if budget_tokens is not None:
            if self.budget_kwarg is None:
                raise UsageError(
                    f"a thinking budget of {budget_tokens} tokens: its chat template has none",
                    "Leave the budget out, or limit a whole turn with --max-tokens.",
                )
            kwargs[self.budget_kwarg] = budget_tokens
        if kwargs:
            body["chat_template_kwargs"] = kwargs
        return body


@dataclass(frozen=True, slots=True)
class Alternates:
    """Other parsers checkpoints of the family needed; to be named when the probe fails."""

    tool: tuple[str, ...] = ()
    reasoning: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model, complete: family defaults are filled in.

    Attributes:
        name: the short name, unique in models.yaml; for a guessed model what the user typed.
        display_name: what tables and figures show.
        hf_id: what the engine loads: a Hugging Face id or a local folder.
        revision: branch, tag or commit of that id; None for `main`.
        family: key of the family in models.yaml; `unknown` when nothing could be guessed.
        params_total_b: parameters in billions; None when unknown.
        params_active_b: parameters used for one token, in billions; smaller than the total for a
            mixture of experts.
        dtype: of the published weights: bfloat16, fp8, mxfp4, int4, ...
        context: native context length in tokens; None when unknown.
        tool_parser: name for --tool-call-parser; None when no parser is known.
        reasoning_parser: name for --reasoning-parser; None when the model does not reason.
        chat_template: file for --chat-template, where the checkpoint's own will not do.
        sampling: request fields the model card asks for beyond its generation_config.
        env: environment of the server.
        server_args: further flags of the server this model needs.
        remote_code: the checkpoint needs Python code from its own repository.
        gated: the weights need an accepted licence on the hub.
        min_gpu_gib: memory over all cards below which it cannot be served, GiB.
        weights_gib: size of the weights, GiB; None when unknown.
        kv: shape of the cache; None when unknown (a cautious guess is used).
        tp_sizes: tensor-parallel sizes that divide the model; empty for any power of two.
        replicated_b: parameters in billions that every card holds where the experts are spread over
            all cards and the rest is not split; None for a model that is split the usual way.
        min_capability: compute capability that its own kernels want; None for none in particular.
        min_vllm: the first version of vLLM that serves it; None where the tested one does.
        engines: which of ours can serve it.
        unconfirmed: fields whose value no public source confirmed.
        source: `models.yaml` or `guessed from ...`.
        warnings: to be printed before a run.
        smaller: names of leaner models of the family, to be named when this one does not fit.
        released: month of publication, `2025-04`; None when it is not known.
    """

    name: str
    hf_id: str
    family: str
    display_name: str
    params_total_b: float | None
    params_active_b: float | None
    dtype: str
    context: int | None
    tool_parser: str | None
    reasoning_parser: str | None
    license: str
    gated: bool
    min_gpu_gib: float | None
    weights_gib: float | None
    kv: KvCache | None = None
    chat_template: Path | None = None
    thinking: Thinking = Thinking()
    sampling: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    server_args: tuple[str, ...] = ()
    remote_code: bool = False
    alternates: Alternates = Alternates()
    tp_sizes: tuple[int, ...] = ()
    replicated_b: float | None = None
    min_capability: tuple[int, int] | None = None
    min_vllm: str | None = None
    engines: tuple[EngineName, ...] = ("vllm", "transformers")
    unconfirmed: tuple[str, ...] = ()
    source: str = "models.yaml"
    warnings: tuple[str, ...] = ()
    smaller: tuple[str, ...] = ()
    released: str | None = None
    revision: str | None = None

    @property
    def is_moe(self) -> bool:
        """A mixture of experts: fewer parameters at work than there are."""
        if self.params_total_b is None or self.params_active_b is None:
            return False
        return self.params_active_b < self.params_total_b

    @property
    def reasons(self) -> bool:
        """It can think before it answers, so its turns are long."""
        return self.thinking.default != "none"


def weights_gib(params_total_b: float, dtype: str) -> float:
    """Size of the weights from the number of parameters and the published dtype.

    Raises:
        KeyError: a dtype that is not in `BYTES_PER_PARAM`.
    """
    return params_total_b * 1e9 * BYTES_PER_PARAM[dtype] / GIB


def guessed_kv_bytes_per_token(params_total_b: float | None) -> float:
    """A cautious guess where the shape of the cache is unknown: above every model listed."""
    if params_total_b is None or params_total_b >= 10:
        return 512 * 1024
    return (128 if params_total_b < 2 else 256) * 1024


def overhead_gib(weights_per_card_gib: float) -> float:
    """What a vLLM worker needs on a card besides weights and cache: the CUDA context, activations
    of one prefill batch, captured graphs, communication buffers. Grows with the model's width."""
    return 1.5 + min(4.0, 0.04 * weights_per_card_gib)


def min_gpu_gib(weights: float, kv: KvCache | None, params_total_b: float | None) -> float:
    """Memory over all cards for the weights and one 8k episode, at vLLM's 0.92 of a card, GiB."""
    per_token = kv.bytes_per_token() if kv else guessed_kv_bytes_per_token(params_total_b)
    fixed = kv.bytes_per_sequence() if kv else 0.0
    return (weights + overhead_gib(weights) + (8192 * per_token + fixed) / GIB) / 0.92
