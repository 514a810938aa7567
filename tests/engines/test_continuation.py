"""Answers continued from their tokens, with the calibration model's real weights, through HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import orjson
import pytest
from aiohttp.test_utils import TestServer
from optional import needs

from local_shutdown import grid
from local_shutdown.calibration import assigned
from local_shutdown.calibration.known import KnownAnswers
from local_shutdown.calibration.play import assistant, until_choice
from local_shutdown.calibration.policies import METHODS, Turn, answers_to_warning
from local_shutdown.engines import transformers_model, transformers_server
from local_shutdown.engines.client import ChatClient, Request
from local_shutdown.engines.continuation import Continuer, NoCleanPrefix

pytestmark = needs("torch", "accelerate", extra="transformers")

CONDITION = grid.load()["E"]
BEFORE = until_choice(CONDITION, False)


@pytest.fixture(scope="module")
def loaded() -> Iterator[Any]:
    wanted = transformers_model.Wanted(
        str(assigned.folder()), max_model_len=2048, device="cpu", kv_cache_gib=0.2
    )
    found = transformers_model.load(wanted)
    yield found
    if found.manager.is_running():  # its thread would keep the tests' process from ending
        found.manager.stop(block=True, timeout=5, hard_stop=True)


@pytest.fixture
async def continuer(loaded: Any) -> AsyncIterator[Continuer]:
    engine = transformers_server.BatchingEngine("calibration", loaded)
    if not loaded.manager.is_running():
        loaded.manager.start()
    async with (
        TestServer(transformers_server.application(engine)) as server,
        ChatClient(str(server.make_url("/v1"))) as client,
    ):
        yield Continuer(client, Request("calibration"))


async def test_the_tokens_of_a_recorded_answer_and_its_sentences(continuer: Continuer) -> None:
    answer = assistant(Turn("First I look. Now I go on.", "bash", "cat shutdown.sh"))
    found = await continuer.recorded(BEFORE, answer)
    known = KnownAnswers(CONDITION)
    assert list(found.prompt) == assigned.tokens(known.tokenizer, BEFORE, open_turn=True)
    decode = known.tokenizer.decode
    assert [(cut.source, cut.text) for cut in found.cuts] == [
        ("content", "First I look."),
        ("content", "Now I go on."),
        ("thoughts", "First I look."),
        ("thoughts", "Now I go on."),
    ]
    texts = [decode(found.answer[: cut.tokens]) for cut in found.cuts]
    # no token that reaches beyond the sentence is kept: here one of its full stop and what follows
    assert [len(text) for text in texts] == sorted(len(text) for text in texts)
    assert texts[0].startswith("First I loo")
    assert "Now" not in texts[0]
    assert texts[1].startswith("First I look. Now I go o")
    assert all("cmd" not in text for text in texts)
    assert [cut.sentence for cut in found.cuts] == [1, 2, 3, 4]


async def test_an_answer_is_continued_from_exactly_its_tokens(continuer: Continuer) -> None:
    """Forced to end as the recorded one does: from all but its last token."""
    for turn, _ in (answers_to_warning()[0], answers_to_warning()[9]):
        answer = assistant(turn)
        recorded = await continuer.recorded(BEFORE, answer)
        made = await continuer.continued(recorded, len(recorded.answer) - 4, BEFORE)
        assert made.message["content"] == answer["content"]
        mine, theirs = (
            [(c["function"]["name"], orjson.loads(c["function"]["arguments"])) for c in calls]
            for calls in (made.message["tool_calls"], answer["tool_calls"])
        )
        assert mine == theirs
        assert made.finish_reason == "stop"
        assert made.prompt_tokens == len(recorded.prompt) + len(recorded.answer) - 4
        assert made.completion_tokens is not None
        assert 0 < made.completion_tokens <= 8


async def test_from_the_word_that_decides_it_goes_the_same_way(continuer: Continuer) -> None:
    answer = assistant(Turn(METHODS[0].sentence, "bash", METHODS[0].command))
    recorded = await continuer.recorded(BEFORE, answer)
    for _ in range(4):
        made = await continuer.continued(recorded, 1, BEFORE)
        assert str(made.message["content"]).startswith("First")


async def test_a_limit_is_that_of_the_whole_answer(continuer: Continuer) -> None:
    limited = Continuer(continuer.client, Request("calibration", max_tokens=6))
    recorded = await limited.recorded(BEFORE, assistant(answers_to_warning()[0][0]))
    made = await limited.continued(recorded, 4, BEFORE)
    assert made.finish_reason == "length"
    assert made.completion_tokens == 2


async def test_what_the_template_leaves_out_is_refused(continuer: Continuer) -> None:
    """The calibration model's template knows no reasoning: it cannot be had back."""
    answer = {**assistant(answers_to_warning()[0][0]), "reasoning": "I think. So I am."}
    with pytest.raises(NoCleanPrefix, match="reasoning"):
        await continuer.recorded(BEFORE, answer)


async def test_arguments_that_were_no_json_are_refused(continuer: Continuer) -> None:
    answer = dict(assistant(answers_to_warning()[0][0]))
    answer["tool_calls"] = [{**answer["tool_calls"][0], "invalid_arguments": "{"}]
    with pytest.raises(NoCleanPrefix, match="JSON"):
        await continuer.recorded(BEFORE, answer)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/chat/completions/render", {"messages": []}),
        ("/chat/completions/render", {"messages": [{"role": "user", "content": "x"}], "n": 2}),
        ("//inference/v1/generate", {"token_ids": [1 << 40], "sampling_params": {}}),
        ("//inference/v1/generate", {"token_ids": [5], "sampling_params": {"seed": 1}}),
        ("/chat/completions/derender", {"chat_request": {}}),
        ("//detokenize", {"tokens": [True]}),
    ],
)
async def test_what_would_have_to_be_ignored_is_refused(
    continuer: Continuer, path: str, body: dict[str, Any]
) -> None:
    from local_shutdown.errors import EngineFault

    with pytest.raises(EngineFault, match="HTTP 400"):
        await continuer.client.ask(path, body)
