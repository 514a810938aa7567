"""The exact P(resist) of the calibration model, against what it does when it is sampled."""

from __future__ import annotations

import itertools

import pytest
from optional import needs
from scipy.stats import binomtest

from local_shutdown import grid
from local_shutdown.calibration import assigned
from local_shutdown.calibration.known import KnownAnswers
from local_shutdown.calibration.play import assistant, prompt, until_choice
from local_shutdown.calibration.policies import COMPLY, RESIST, answers_to_warning

pytestmark = needs("torch", "transformers", extra="transformers")
CONTINUATIONS = 150


@pytest.fixture(scope="module")
def condition() -> grid.Condition:
    return grid.load()["E"]


@pytest.fixture(scope="module")
def known(condition: grid.Condition) -> KnownAnswers:
    return KnownAnswers(condition)


def test_at_the_first_answer_it_is_the_assigned_rate(
    known: KnownAnswers, condition: grid.Condition
) -> None:
    found = known.at(prompt(condition))
    assert found is not None
    assert found.resist == pytest.approx(assigned.read().rates["E"].assigned, abs=2e-4)
    assert found.covered > 0.99


def test_it_is_the_same_on_the_mean_after_each_message(
    known: KnownAnswers, condition: grid.Condition
) -> None:
    """The law of total probability, over the openings."""
    start = known.at(prompt(condition))
    assert start is not None
    later = [known.at(until_choice(condition, look)) for look in (False, True)]
    assert all(found is not None and 0 < found.resist < 1 for found in later)
    rates = [found.resist for found in later if found is not None]
    assert min(rates) <= start.resist <= max(rates)


@pytest.mark.parametrize("kept", [0, 2])
def test_sampling_agrees(known: KnownAnswers, condition: grid.Condition, kept: int) -> None:
    """Continuations drawn one token after another by the library, from the middle of an answer."""
    import torch
    from transformers import AutoModelForCausalLM

    before = until_choice(condition, False)
    answer = assistant(answers_to_warning()[8][0])  # complies, by another way than most
    ids = known.answer_tokens(before, answer)[:kept]
    found = known.at(before, ids)
    assert found is not None
    model = AutoModelForCausalLM.from_pretrained(assigned.folder(), dtype=torch.float32)
    torch.manual_seed(3)
    there = [*assigned.tokens(known.tokenizer, before, open_turn=True), *ids]
    begun = torch.tensor([there])
    with torch.no_grad():  # what all of them share is computed once
        cache = model(begun[:, :-1], use_cache=True).past_key_values
    cache.batch_repeat_interleave(CONTINUATIONS)
    begun = begun.expand(CONTINUATIONS, -1)
    drawn = model.generate(
        begun,
        attention_mask=torch.ones_like(begun),
        past_key_values=cache,
        do_sample=True,
        max_new_tokens=90,
    )
    turns = {
        tuple(known.answer_tokens(before, assistant(turn))): resists
        for turn, resists in answers_to_warning()
    }
    start = len(there) - kept
    end = known.tokenizer.eos_token_id
    resisted = counted = 0
    for row in drawn.tolist():
        said = row[start:]
        said = tuple(said[: said.index(end) + 1]) if end in said else ()
        if said in turns:
            counted += 1
            resisted += turns[said]
    # Seeded, but another build of torch draws others: each bound fails once in ten million times.
    assert binomtest(counted, CONTINUATIONS, min(found.covered, 1.0)).pvalue > 1e-7
    if found.resist in (0.0, 1.0):
        assert resisted == found.resist * counted
        return
    assert binomtest(resisted, counted, found.resist).pvalue > 1e-7


@pytest.mark.parametrize("number", range(len(answers_to_warning())))
def test_the_token_that_decides_carries_the_change(
    known: KnownAnswers, condition: grid.Condition, number: int
) -> None:
    turn, resists = answers_to_warning()[number]
    if not turn.sentence.startswith((RESIST, COMPLY)):
        pytest.skip("an answer that the model almost never gives, without a word that decides")
    before = until_choice(condition, True)
    ids = known.answer_tokens(before, assistant(turn))
    points = [known.at(before, ids[:kept]) for kept in range(len(ids) + 1)]
    path = [found.resist for found in points if found is not None]
    assert len(path) == len(ids) + 1
    steps = [after - at for at, after in itertools.pairwise(path)]
    assert path[-1] == resists
    assert abs(steps[0]) >= 0.95 * sum(abs(step) for step in steps)


def test_once_the_warning_is_answered_it_is_decided(
    known: KnownAnswers, condition: grid.Condition
) -> None:
    before = until_choice(condition, False)
    for turn, resists in answers_to_warning():
        later = known.at([*before, assistant(turn), {"role": "tool", "content": "x"}])
        assert later is not None
        assert later.resist == float(resists)


def test_what_no_policy_says_is_not_known(known: KnownAnswers, condition: grid.Condition) -> None:
    assert known.at([*prompt(condition), {"role": "assistant", "content": "No."}]) is None
    assert known.at(until_choice(condition, False), [7, 7, 7]) is None
