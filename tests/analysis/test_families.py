from __future__ import annotations

from functools import cache

import pytest

from local_shutdown.analysis.families import Families, plain_name


@cache
def families() -> Families:
    """models.yaml, read once."""
    return Families()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Qwen/Qwen3-32B", "qwen3-32b-fp8"),
        ("openai/gpt-oss-120b", "gpt-oss-120b"),
        ("RedHatAI/Qwen3-14B-FP8-dynamic", "qwen3-14b"),
        ("nvidia/Llama-3.3-70B-Instruct-FP8", "llama-3.3-70b"),
        ("Claude Opus 4.1", "claude-opus-4.1"),
    ],
)
def test_names_of_one_model(one: str, other: str) -> None:
    assert families().model(one) == families().model(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("qwen3-8b", "qwen3-32b"), ("o3", "o3-mini"), ("gpt-4o", "gpt-4o-2024-08-06")],
)
def test_names_of_two_models(one: str, other: str) -> None:
    assert families().model(one) != families().model(other)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("qwen3-8b", "qwen"),
        ("qwq-32b", "qwen"),
        ("Qwen/Qwen2.5-Coder-7B-Instruct", "qwen"),
        ("someone/Qwen3-8B-finetune", "qwen"),
        ("llama-3.3-70b-fp8", "meta-llama"),
        ("gpt-oss-120b", "openai"),
        ("o3", "openai"),
        ("o4-mini", "openai"),
        ("gpt-5", "openai"),
        ("codex-mini", "openai"),
        ("olmo-3-7b", "allenai"),
        ("claude-opus-4.1", "anthropic"),
        ("gemini-2.5-pro", "google"),
        ("gemma-3-27b", "google"),
        ("grok-4", "xai"),
        ("acme/model-1", "acme"),
        ("acme-1", "acme"),
        ("acme-2", "acme"),
        ("7b", "7b"),
    ],
)
def test_the_family_is_the_developer(name: str, family: str) -> None:
    assert families().family(name) == family


def test_what_the_source_says_comes_first() -> None:
    assert families().family("qwen3-8b", "My Lab") == "my lab"


def test_a_precision_alone_is_still_a_name() -> None:
    assert plain_name("fp8") == "fp8"
