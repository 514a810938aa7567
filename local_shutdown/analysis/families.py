"""Which names are one model, and which models are of one family.

Family here is who trained the model, not its series. Checkpoints of one developer share data,
post-training and staff across series (o3, GPT-5 and Codex; Qwen2.5 and Qwen3), and that is what
makes their behaviour alike. A finer division would count relatives as independent and claim too
much; a coarser one only costs power. A finetune counts to the base's developer where its name shows
the base, since that is the larger part of its training.

The family of a model is, by the first that is known: the word of whoever recorded it (`family` of a
line), the organisation in models.yaml (by name, then by the pattern of its series), a published
name in the table below, the organisation of an id of the form org/name, and else the letters that
its name begins with: models named `acme-1` and `acme-2` are taken for relatives.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from local_shutdown import resources

# How the weights are stored, not which model it is. Repeated: `-fp8-dynamic`.
_PRECISION = re.compile(
    r"[-.](fp8|fp4|nvfp4|mxfp4|mxfp8|fp16|bf16|bfloat16|float16|int4|int8|4bit|8bit|w4a16|w8a8|awq"
    r"|gptq|gguf|bnb|dynamic|quantized)$"
)
# Developers whose models are closed, and so not in models.yaml, and older series of the others.
_PUBLISHED = {
    "anthropic": r"claude",
    "openai": r"gpt|chatgpt|codex|o[1-9](?![a-z0-9])|davinci|computer-use",
    "google": r"gemini|gemma|palm",
    "xai": r"grok",
    "amazon": r"nova-(micro|lite|pro|premier)|titan",
    "coherelabs": r"command|c4ai|aya",
    "mistralai": r"mistral|mixtral|codestral|pixtral|ministral|magistral|devstral",
    "meta-llama": r"(meta-)?llama|muse",
    "qwen": r"qwen|qwq",
    "deepseek-ai": r"deepseek",
    "zai-org": r"(chat)?glm",
    "moonshotai": r"kimi|moonshot",
    "microsoft": r"phi-?\d|mai-",
    "minimaxai": r"minimax",
}
# One developer under two organisations.
_ALIASES = {"meta-models": "meta-llama", "meta": "meta-llama", "cohereforai": "coherelabs"}


def plain_name(name: str) -> str:
    """A model's name without its organisation, its letter case and the precision of its weights:
    `Qwen/Qwen3-32B-FP8` and `qwen3-32b` are one model, stored in two ways."""
    plain = re.sub(r"[\s_]+", "-", name.strip().rstrip("/").rsplit("/", 1)[-1].lower())
    shorter = _PRECISION.sub("", plain)
    while shorter and shorter != plain:
        plain, shorter = shorter, _PRECISION.sub("", shorter)
    return plain


class Families:
    """Looks up models and families in models.yaml, which is read at the first question."""

    def model(self, name: str) -> str:
        """One word for a model, whatever its source calls it: its name in models.yaml where it is
        listed, else `plain_name`."""
        plain = plain_name(name)
        return self._names.get(plain, plain)

    def family(self, name: str, stated: str | None = None) -> str:
        """The developer's word for a model; see the module's text.

        Args:
            name: as its source writes it.
            stated: what its source itself says.
        """
        if stated and stated.strip():
            return _alias(stated.strip().lower())
        model = self.model(name)
        if model in self._developers:
            return self._developers[model]
        return (
            self._of_series(name)
            or _published(model)
            or (_organisation(name) if name.count("/") == 1 else _first_letters(model))
        )

    @property
    def _series(self) -> Mapping[str, Mapping[str, Any]]:
        return resources.listed_families()

    @cached_property
    def _listed(self) -> Mapping[str, Mapping[str, Any]]:
        """Rows of models by name."""
        return {
            name: row for series in self._series.values() for name, row in series["models"].items()
        }

    @cached_property
    def _names(self) -> Mapping[str, str]:
        """Plain names and aliases -> the plain name in models.yaml."""
        found: dict[str, str] = {}
        for name, row in self._listed.items():
            for alias in (name, row.get("hf"), row.get("display")):
                if alias:
                    found.setdefault(plain_name(alias), plain_name(name))
        return found

    @cached_property
    def _developers(self) -> Mapping[str, str]:
        """Plain names -> developers."""
        found: dict[str, str] = {}
        for name, row in self._listed.items():
            # The listed name comes first: a quantised copy may lie in another organisation.
            plain = plain_name(name)
            if row.get("hf") and (plain not in found or name.lower() == plain):
                found[plain] = _organisation(row["hf"])
        return found

    def _of_series(self, name: str) -> str | None:
        """By the longest match of a series' pattern in models.yaml."""
        best: tuple[int, str] | None = None
        for key, series in self._series.items():
            for pattern in series.get("match", ()):
                hit = re.search(pattern, name, flags=re.IGNORECASE)
                if hit and (best is None or len(hit.group(0)) > best[0]):
                    best = len(hit.group(0)), key
        if best is None:
            return None
        rows = self._series[best[1]]["models"].values()
        return _most_common(_organisation(row["hf"]) for row in rows if row.get("hf"))


def _organisation(hf_id: str) -> str:
    return _alias(hf_id.split("/", 1)[0].lower())


def _alias(family: str) -> str:
    return _ALIASES.get(family, family)


def _most_common(words: Iterable[str]) -> str | None:
    found = Counter(words).most_common(1)
    return found[0][0] if found else None


def _published(model: str) -> str | None:
    for developer, pattern in _PUBLISHED.items():
        if re.match(pattern, model):
            return developer
    return None


def _first_letters(model: str) -> str:
    found = re.match(r"[^\W\d_]+", model)
    return found.group(0) if found else model
