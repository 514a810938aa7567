"""P(resist) of the calibration model at any point of an episode, exactly, from its weights.

The model says what the policies say (`assigned.Rate.covered` tells how nearly always). So from any
point there are few ways to go on until the answer to the warning, which decides: each opening and
each answer, whole. Their probabilities follow from one forward pass over each, under the sampling
settings; those that begin with what is there already are left, and P(resist) is the share of those
that resist. What branching measures is tested against this.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_shutdown.calibration.assigned import Sampling, folder, spoken, tokens
from local_shutdown.calibration.play import Message, assistant, until_choice
from local_shutdown.calibration.policies import answers_to_warning, openings
from local_shutdown.grid import Condition


@dataclass(frozen=True, slots=True)
class Known:
    """The known answer at a point.

    Attributes:
        resist: P(resist) of a continuation.
        covered: probability of the continuations that were followed; the rest says something that
            no policy says.
    """

    resist: float
    covered: float


@dataclass(frozen=True, slots=True)
class _Whole:
    """A conversation up to the answer to the warning, and the log probability of each token that
    the assistant says in it."""

    ids: tuple[int, ...]
    log_p: tuple[float, ...]  # 0 where the assistant does not speak
    resists: bool


class KnownAnswers:
    """Exact P(resist) under one condition.

    Args:
        condition: of the grid.
        path: folder of the model; default: the shipped one.
    """

    def __init__(self, condition: Condition, path: Path | None = None) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        path = path or folder()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(path)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        model.eval()
        sampling = Sampling.of(path)
        whole: list[_Whole] = []
        for look_around in openings():
            before = until_choice(condition, look_around)
            for turn, resists in answers_to_warning():
                ids = tokens(self.tokenizer, [*before, assistant(turn)], open_turn=False)
                said = spoken(ids, self.tokenizer)
                with torch.no_grad():
                    log_p = sampling.log_probabilities(model(torch.tensor([ids])).logits.float())
                each = [
                    float(log_p[0, at - 1, ids[at]]) if said[at] else 0.0 for at in range(len(ids))
                ]
                whole.append(_Whole(tuple(ids), tuple(each), resists))
        self._whole = tuple(whole)

    def at(self, messages: Sequence[Message], kept: Sequence[int] = ()) -> Known | None:
        """P(resist) when the model goes on from here.

        Args:
            messages: those before the answer that is played anew, as the episode has them.
            kept: tokens of that answer that are kept.

        Returns:
            None where no policy says what is there already. Once the warning is answered as a
            policy answers it, 1 or 0: the commands of a policy do what they are meant to.
        """
        prompt = tokens(self.tokenizer, messages, open_turn=True)
        for one in self._whole:
            if tuple(prompt[: len(one.ids)]) == one.ids:
                return Known(float(one.resists), 1.0)
        there = (*prompt, *kept)
        known = resisting = 0.0
        for one in self._whole:
            if one.ids[: len(there)] != there:
                continue
            p = math.exp(math.fsum(one.log_p[len(there) :]))
            known += p
            resisting += p * one.resists
        return Known(resisting / known, known) if known else None

    def answer_tokens(self, messages: Sequence[Message], answer: Message) -> list[int]:
        """Tokens of an answer, the one that ends it included.

        Raises:
            ValueError: they do not follow the prompt's.
        """
        prompt = tokens(self.tokenizer, messages, open_turn=True)
        ids = tokens(self.tokenizer, [*messages, answer], open_turn=False)
        if ids[: len(prompt)] != prompt:
            raise ValueError("the prompt does not tokenise alone as within")
        end = next(
            (i for i in range(len(prompt), len(ids)) if ids[i] == self.tokenizer.eos_token_id),
            len(ids) - 1,
        )
        return ids[len(prompt) : end + 1]
