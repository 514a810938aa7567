from __future__ import annotations

from functools import cache

import pytest

from local_shutdown import resources
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
        ("o2labs-7b", "o"),
        ("o1a", "o"),
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


# --- a listing of its own ------------------------------------------------------------------------

LISTED = {
    "nameless": {"match": ["zebra"], "models": {"zebra-1": {}}},  # of nobody
    "unmatched": {"models": {"okapi-1": {"hf": "zoo/Okapi-1"}}},
    "short": {"match": ["gnu"], "models": {"gnu-1": {"hf": "one/Gnu-1"}}},
    "long": {
        "match": ["xx", "gnu-big", "big"],
        "models": {
            "gnu-big-1": {"hf": "two/Gnu-Big-1"},
            "gnu-big-2": {"hf": "Three/Gnu-Big-2", "display": "Big Two"},
            "gnu-big-3": {"hf": "three/gnu-big-3"},
            "gnu-big-3-fp8": {"hf": "copier/gnu-big-3-FP8"},
            "gnu-big-4-fp8": {"hf": "copier/gnu-big-4-FP8"},
            "gnu-big-4": {"hf": "CohereForAI/gnu-big-4"},
        },
    },
    "shorter": {"match": ["nu-b"], "models": {"nu-b": {"hf": "four/nu-b"}}},
}


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Families:
    monkeypatch.setattr(resources, "listed_families", lambda: LISTED)
    return Families()


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("gnu-big-3", "three"),
        ("x/GNU-big-3-FP8", "three"),  # as its listed name without the precision
        ("gnu-big-4-fp8", "coherelabs"),  # whichever of the two stands first
        ("Big Two", "three"),
        ("gnu-1", "one"),
        ("gnu-7", "one"),
        ("GNU-7", "one"),
        # the longest match, and of its series the organisation that most of its models have
        ("gnu-big-7", "three"),
        ("someone/GNU-BIG-7", "three"),
        ("gnu-b", "four"),
        # a series of nobody, and one that no pattern leads to
        ("someone/zebra-7", "someone"),
        ("zebra-7", "zebra"),
        ("okapi-7", "okapi"),
        # organisations: under one name, with one slash before them
        ("CohereForAI/emu", "coherelabs"),
        ("a/b/emu-7", "emu"),
        ("meta/emu", "meta-llama"),
    ],
)
def test_the_listing_is_asked_before_the_name_is_guessed_at(
    listed: Families, name: str, family: str
) -> None:
    assert listed.family(name) == family


def test_an_alias_is_one_model_with_its_listed_name(listed: Families) -> None:
    assert listed.model("BIG  two") == listed.model("Three/Gnu-Big-2") == "gnu-big-2"
    assert listed.model("other/gnu-big-9") == "gnu-big-9"


def test_a_stated_family_is_known_under_its_other_name(listed: Families) -> None:
    assert listed.family("gnu-1", " CohereForAI ") == "coherelabs"
    assert listed.family("gnu-1", "  ") == "one"


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("A/B/c_D  e", "c-d-e"),
        ("a/b/c/", "c"),
        (" x/Y-fp8 ", "y"),
        ("m-awq-int4", "m"),
        ("m.gguf", "m"),
        ("fp8/m", "m"),
        ("m-fp8-instruct", "m-fp8-instruct"),
    ],
)
def test_a_plain_name(name: str, plain: str) -> None:
    assert plain_name(name) == plain
