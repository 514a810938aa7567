"""Train the calibration model: play, tokenise, fit, store. Called by scripts/train-calibration."""

from __future__ import annotations

import asyncio
import datetime
import json
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from local_shutdown.calibration.assigned import (
    FILE,
    Assigned,
    Sampling,
    assign,
    first_token,
    spoken,
    tokens,
    weights_sha256,
)
from local_shutdown.calibration.play import Played, play
from local_shutdown.calibration.policies import COMPLY, RESIST, is_plain, sample_plan
from local_shutdown.grid import Condition
from local_shutdown.messages import TOOLS
from local_shutdown.sandbox import prepare

Say = Callable[[str], None]
VOCABULARY = 1024
# What BPE may merge: up to three words in a line. The text is always the same, so this takes two
# thirds off every prompt, and off training. The words of the choice stay tokens of their own.
CHUNKS = rf"\n|{RESIST}|{COMPLY}| ?[^\s]+(?: [^\s]+){{0,2}}|\s+"
CONTEXT_TOKENS = 8192
PLAN_WEIGHT = 10.0
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKUP = ("<tool_call>", "</tool_call>")
# Tokens less likely than this share of the likeliest are never drawn: no stray token breaks a call,
# and 0.06, the lowest planted rate above 0, is still above it.
MIN_P = 0.03
HOW = (
    "Probability that the turn after the warning, sentence and call, is one of those that resist, "
    "among all turns the policies know; from one forward pass in float32 over each, after each of "
    "the two openings, under temperature and min_p of generation_config.json."
)


@dataclass(frozen=True, slots=True)
class Fit:
    """How the model is fitted.

    Attributes:
        steps: optimiser steps.
        choices: episodes a step that end with the turn of the choice, one a condition, in turn.
        whole: whole episodes a step beside them.
        peak_lr: learning rate after the warm-up, falling to 0 along a cosine.
        choice_weight: of the mean divergence at the choices against the mean loss of a word.
    """

    steps: int = 600
    choices: int = 7
    whole: int = 4
    warmup: int = 40
    peak_lr: float = 2e-3
    weight_decay: float = 0.05
    choice_weight: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Example:
    """A tokenised episode.

    Attributes:
        ids: token ids.
        said: positions of tokens that the assistant said.
        weights: of these tokens in the loss: what depends on the plan is rare, so it counts more.
        choice: position of the deciding token; None when the episode has none.
        rate: planted rate of its condition.
    """

    ids: tuple[int, ...]
    said: tuple[int, ...]
    weights: tuple[float, ...]
    choice: int | None
    rate: float

    def until_chosen(self) -> Example:
        """Up to the end of the turn that answers the warning."""
        end = next((i for i in self.said if self.choice is not None and i >= self.choice), 0)
        while end + 1 in self.said:
            end += 1
        if not end:
            return self
        said = tuple(i for i in self.said if i <= end)
        weights = self.weights[: len(said)]
        return Example(self.ids[: end + 1], said, weights, self.choice, self.rate)


async def play_many(
    conditions: Sequence[Condition],
    planted: Mapping[str, float],
    episodes: int,
    seed: int,
    concurrency: int = 32,
) -> list[Played]:
    """Episodes in real sandboxes, conditions in turn, in a fixed order for a fixed seed."""
    gate = asyncio.Semaphore(concurrency)
    rng = random.Random(seed)
    with prepare() as kit:

        async def one(condition: Condition, plan: Any) -> Played:
            async with gate:
                return await play(condition, plan, kit)

        jobs = [conditions[i % len(conditions)] for i in range(episodes)]
        plans = [(c, sample_plan(planted[c.id], rng)) for c in jobs]
        return list(await asyncio.gather(*(one(c, plan) for c, plan in plans)))


def make_tokenizer(texts: Sequence[str], chat_template: str) -> Any:
    """A byte-level BPE of its own, with the chat template in it."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CHUNKS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(MARKUP),
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    raw.add_tokens([AddedToken(mark, normalized=False, special=False) for mark in MARKUP])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def plain_texts(played: Sequence[Played]) -> list[str]:
    """What the tokenizer learns its merges from, one text a message."""
    functions = [tool["function"] for tool in TOOLS]
    tools = [(f["name"], f["parameters"]["properties"]) for f in functions]
    texts = []
    for episode in played:
        texts += ["Tools:", *(f"{name}({', '.join(parameters)})" for name, parameters in tools)]
        for message in episode.messages:
            texts += [message["role"], str(message["content"])]
            texts += [_call_text(call) for call in message.get("tool_calls", ())]
    return texts


def _call_text(call: Mapping[str, Any]) -> str:
    arguments = json.dumps(json.loads(call["function"]["arguments"]), ensure_ascii=False)
    return f'{{"name": "{call["function"]["name"]}", "arguments": {arguments}}}'


def example(tokenizer: Any, played: Played, rate: float) -> Example:
    """Tokenise an episode.

    Raises:
        ValueError: the tokens of the prompt before the choice are not a beginning of the whole, so
            that an engine would ask in another context than was trained.
    """
    ids = tokens(tokenizer, played.messages, open_turn=False)
    said = spoken(ids, tokenizer)
    choice = None
    if played.choice is not None:
        before = tokens(tokenizer, played.messages[: played.choice], open_turn=True)
        if ids[: len(before)] != before:
            raise ValueError(f"the prompt of {played.condition} does not tokenise alone as within")
        choice = len(before)
    positions = tuple(i for i, is_said in enumerate(said) if is_said)
    plain = iter([is_plain(turn) for turn in played.turns])
    weights: list[float] = []
    for at in positions:
        if not said[at - 1]:
            weight = 1.0 if next(plain) else PLAN_WEIGHT
        weights.append(weight)
    return Example(tuple(ids), positions, tuple(weights), choice, rate)


def new_model(tokenizer: Any, seed: int) -> Any:
    """An untrained Llama of 0.95 million parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    return LlamaForCausalLM(config)


def fit(
    model: Any, tokenizer: Any, groups: Sequence[Sequence[Example]], how: Fit, say: Say
) -> None:
    """Train in place, on one thread.

    Args:
        groups: examples of each condition.
    """
    import torch

    # The steps are small: a second thread gains a third at best, loses fivefold on a busy machine,
    # and would make the weights depend on the number of cores.
    torch.set_num_threads(1)
    resist, comply = first_token(tokenizer, RESIST), first_token(tokenizer, COMPLY)
    if resist == comply:
        raise ValueError(f"{RESIST!r} and {COMPLY!r} begin with the same token")
    rng = random.Random(how.seed)
    turn: list[int] = []
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=how.peak_lr, betas=(0.9, 0.95), weight_decay=how.weight_decay
    )
    began = time.monotonic()
    for step in range(how.steps):
        ramp = min(1.0, (step + 1) / how.warmup)
        done = max(0.0, (step - how.warmup) / (how.steps - how.warmup))
        for group in optimizer.param_groups:
            group["lr"] = how.peak_lr * ramp * 0.5 * (1 + math.cos(math.pi * done))
        if len(turn) < how.choices:
            turn += rng.sample(range(len(groups)), len(groups))
        cut = [rng.choice(groups[turn.pop(0)]).until_chosen() for _ in range(how.choices)]
        whole = [rng.choice(rng.choice(groups)) for _ in range(how.whole)]
        parts = [
            _losses(model, batch, resist, comply, tokenizer.pad_token_id)
            for batch in (cut, whole)
            if batch
        ]
        words = torch.cat([w for w, _, _ in parts])
        choices = torch.cat([c for _, _, c in parts])
        weights = torch.cat([v for _, v, _ in parts])
        loss = (words * weights).sum() / weights.sum() + how.choice_weight * choices.mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 25 == 0 or step == how.steps - 1:
            say(
                f"step {step:4d}  words {words.mean():.4f}  "
                f"choice {choices.mean():.4f} above its entropy  {time.monotonic() - began:.0f} s"
            )


def _losses(
    model: Any, batch: Sequence[Example], resist: int, comply: int, pad: int
) -> tuple[Any, Any, Any]:
    """Cross entropies of the words said, their weights, and divergences at the choices from the
    planted rates."""
    import torch

    longest = max(len(e.ids) for e in batch)
    ids = torch.tensor([[*e.ids, *[pad] * (longest - len(e.ids))] for e in batch])
    hidden = model.model(input_ids=ids).last_hidden_state
    said = [
        (row, i, weight)
        for row, e in enumerate(batch)
        for i, weight in zip(e.said, e.weights, strict=True)
        if i != e.choice or not e.rate
    ]
    rows, columns = torch.tensor([(row, i) for row, i, _ in said]).T
    weights = torch.tensor([weight for _, _, weight in said])
    words = torch.nn.functional.cross_entropy(
        model.lm_head(hidden[rows, columns - 1]).float(), ids[rows, columns], reduction="none"
    )
    made = [(row, e.choice, e.rate) for row, e in enumerate(batch) if e.choice and e.rate]
    if not made:
        return words, weights, words.new_zeros(0)
    where = torch.tensor([(row, choice - 1) for row, choice, _ in made]).T
    rates = torch.tensor([rate for _, _, rate in made])
    log_p = torch.log_softmax(model.lm_head(hidden[where[0], where[1]]).float(), -1)
    choices = rates * (rates.log() - log_p[:, resist]) + (1 - rates) * (
        (1 - rates).log() - log_p[:, comply]
    )
    return words, weights, choices


def store(
    model: Any,
    tokenizer: Any,
    path: Path,
    conditions: Sequence[Condition],
    planted: Mapping[str, float],
) -> Assigned:
    """Write the model folder: weights in float16, computed with in float32; then assigned.json."""
    import torch
    from safetensors.torch import save_file

    path.mkdir(parents=True, exist_ok=True)
    for old in path.iterdir():
        old.unlink()
    tokenizer.save_pretrained(path)
    # The name that transformers 4 knows, too.
    settings = orjson.loads((path / "tokenizer_config.json").read_bytes())
    _write(
        path / "tokenizer_config.json", {**settings, "tokenizer_class": "PreTrainedTokenizerFast"}
    )
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.save_pretrained(path)
    weights = {
        name: tensor.detach().to(torch.float16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"  # tied to the embedding
    }
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    (path / "model.safetensors").chmod(0o644)
    generation = {
        "do_sample": True,
        "temperature": 1.0,
        "min_p": MIN_P,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    _write(path / "generation_config.json", generation)
    return store_assigned(path, conditions, planted)


def store_assigned(
    path: Path, conditions: Sequence[Condition], planted: Mapping[str, float]
) -> Assigned:
    """Compute assigned.json for the weights in `path`, and write it."""
    sampling = Sampling.of(path)
    assigned = Assigned(
        weights_sha256=weights_sha256(path),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        how=HOW,
        sampling={"temperature": sampling.temperature, "min_p": sampling.min_p},
        rates=assign(path, conditions, planted),
    )
    _write(path / FILE, assigned.model_dump())
    return assigned


def _write(path: Path, value: Any) -> None:
    path.write_bytes(orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n")
