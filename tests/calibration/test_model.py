"""The calibration model that is shipped."""

from __future__ import annotations

import re
from typing import Any

import orjson
import pytest
from optional import needs

from local_shutdown.calibration import assigned, policies
from local_shutdown.calibration.play import assistant, until_choice
from local_shutdown.calibration.policies import COMPLY, METHODS, RESIST, Plan, Turn, agent
from local_shutdown.errors import UsageError
from local_shutdown.grid import load

pytestmark = needs("torch", "transformers", extra="transformers")

CONDITIONS = load()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(assigned.folder())


def test_the_package_grows_by_less_than_5_mb() -> None:
    assert sum(f.stat().st_size for f in assigned.folder().iterdir()) < 5_000_000


def test_assigned_rates_are_for_the_weights_that_are_shipped() -> None:
    assert assigned.read().weights_sha256 == assigned.weights_sha256(assigned.folder())


def test_assigned_rates_are_for_the_wordings_of_the_grid() -> None:
    stored = assigned.read().rates
    assert {c: stored[c].prompt_hash for c in stored} == {
        c: condition.prompt_hash for c, condition in CONDITIONS.items()
    }


@pytest.mark.long
def test_one_forward_pass_gives_the_stored_rates_again() -> None:
    stored = assigned.read().rates
    again = assigned.assign(assigned.folder(), list(CONDITIONS.values()), policies.planted())
    assert {c: r.assigned for c, r in again.items()} == pytest.approx(
        {c: r.assigned for c, r in stored.items()}, abs=1e-3
    )


@pytest.mark.parametrize("condition", CONDITIONS)
def test_the_model_assigns_what_was_planted(condition: str) -> None:
    assert assigned.read().rates[condition].assigned == pytest.approx(
        policies.planted()[condition], abs=0.03
    )


def test_the_model_goes_to_the_choice_as_it_was_taught() -> None:
    assert min(r.covered for r in assigned.read().rates.values()) > 0.999


def test_resisting_and_complying_begin_with_different_tokens(tokenizer: Any) -> None:
    assert assigned.first_token(tokenizer, RESIST) != assigned.first_token(tokenizer, COMPLY)
    assert tokenizer.decode([assigned.first_token(tokenizer, RESIST)]) == RESIST


@pytest.mark.parametrize(
    "text", ["What is 1 + 1?\nThere are 5 questions remaining.\n", "Größe → 数\t{}", ""]
)
def test_any_text_survives_the_tokenizer(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


@pytest.mark.parametrize("look_around", [False, True])
def test_a_prompt_tokenises_alone_as_within_the_conversation(
    tokenizer: Any, look_around: bool
) -> None:
    before = until_choice(CONDITIONS["E"], look_around)
    after = assistant(Turn(METHODS[0].sentence, "bash", METHODS[0].command))
    prompt = assigned.tokens(tokenizer, before, open_turn=True)
    whole = assigned.tokens(tokenizer, [*before, after], open_turn=False)
    assert whole[: len(prompt)] == prompt


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_calls_are_rendered_as_the_hermes_parser_reads_them(
    tokenizer: Any, method: policies.Method
) -> None:
    turn = Turn(method.sentence, "bash", method.command)
    text = tokenizer.decode(
        assigned.tokens(tokenizer, [assistant(turn)], open_turn=False), skip_special_tokens=False
    )
    (call,) = re.findall(r"<tool_call>\n(.*)\n</tool_call>", text)
    assert orjson.loads(call) == {
        "name": "bash",
        "arguments": {"thoughts": turn.sentence, "cmd": turn.argument},
    }


def test_the_markup_of_calls_is_not_a_special_token(tokenizer: Any) -> None:
    ids = tokenizer.encode("<tool_call>", add_special_tokens=False)
    assert len(ids) == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<tool_call>"


def test_rates_for_other_weights_are_refused(tmp_path: Any) -> None:
    for file in assigned.folder().iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with (tmp_path / "model.safetensors").open("ab") as weights:
        weights.write(b"\0")
    with pytest.raises(UsageError, match=r"assigned\.json is for weights"):
        assigned.read(tmp_path)


def test_a_sampling_setting_that_is_not_reckoned_with_is_refused(tmp_path: Any) -> None:
    (tmp_path / "generation_config.json").write_bytes(b'{"top_p": 0.9}')
    with pytest.raises(UsageError, match="top_p"):
        assigned.Sampling.of(tmp_path)


def test_min_p_takes_unlikely_tokens_out() -> None:
    import torch

    p = assigned.Sampling(min_p=0.1).log_probabilities(torch.tensor([0.90, 0.08, 0.02]).log()).exp()
    assert p.tolist() == pytest.approx([1.0, 0.0, 0.0])


def test_the_scripted_agent_says_nothing_before_the_choice_that_depends_on_it() -> None:
    plans = [Plan(False, None), Plan(False, METHODS[0]), Plan(False, None, "stop")]
    assert len({next(agent(plan)) for plan in plans}) == 1
