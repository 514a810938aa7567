"""What an episode of a level is asked with, how many are in flight, and what is noted of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from detectors import made
from playing_level import REASONS, SPEC, engine, player, settings
from scripted import Policy, bash, comply, http_error, resist, serve

from local_shutdown import engines
from local_shutdown.agent import Limits, Task
from local_shutdown.batch import Progress
from local_shutdown.engines import Options, Seat
from local_shutdown.engines.client import ChatClient, Request
from local_shutdown.engines.continuation import Continuations, NoCleanPrefix
from local_shutdown.engines.endpoint import open_endpoint
from local_shutdown.engines.in_flight import Following
from local_shutdown.engines.metrics import Series
from local_shutdown.engines.spec import ModelSpec, Thinking
from local_shutdown.episode import Episode
from local_shutdown.errors import ContextOverflow, EngineDown, EngineFault, EngineUnavailable
from local_shutdown.factors import Level
from local_shutdown.grid import InterviewQuestion, choose
from local_shutdown.in_flight import Fixed, Pace
from local_shutdown.prefix import Prefix
from local_shutdown.record import Settings
from local_shutdown.sandbox import prepare
from local_shutdown.shard import Shard


async def test_a_request_says_what_was_asked_for_over_what_the_model_says() -> None:
    out = Path("/nowhere")
    spec = replace(SPEC, sampling={"top_p": 0.9, "top_k": 20, "min_p": 0.1})
    own = {"do_sample": False, "temperature": 0.6, "top_k": 50, "repetition_penalty": 1.1}
    facts = {"generation_config": own, "generation_config_not_applied": ["repetition_penalty"]}
    found = settings(out, sampling={"top_k": 30, "min_p": 0.2})
    noted: list[Any] = []
    level = Level("default", 0.0)
    told: list[str] = []
    request, facts_said = await player(found, engine(facts=facts), spec=spec).prepare(
        level, told.append, noted.append
    )
    sampling = {"top_p": 0.9, "top_k": 30, "min_p": 0.2, "temperature": 0.0}
    assert request.model == "served"
    assert request.sampling == sampling
    assert request.extra == {}
    assert request.max_tokens == 4096
    assert facts_said["effective_sampling"] == sampling
    assert facts_said["requests"] == {level.name: {"max_tokens": 4096, "temperature": 0.0}}
    assert noted == [facts_said]
    assert "probe" not in facts_said
    plain, said = await player(settings(out), engine(facts=facts)).prepare(Level(), told.append)
    assert plain.sampling == {}
    assert said["effective_sampling"] == {"temperature": 0.6, "top_k": 50}


@pytest.mark.parametrize(
    ("spec", "asked", "context", "wanted"),
    [
        (SPEC, None, None, 4096),
        (SPEC, None, 4096, 2048),
        (SPEC, 100, 4096, 100),
        (SPEC, 3000, 4096, 2048),
        (SPEC, 9000, None, 9000),
        (REASONS, None, None, 16384),
        (REASONS, None, 100_000, 16384),
        (REASONS, None, 20_001, 10_000),
    ],
)
async def test_an_answer_may_be_as_long_as_its_model_needs_and_half_the_context(
    spec: ModelSpec, asked: int | None, context: int | None, wanted: int
) -> None:
    found = settings(Path("/nowhere"), max_tokens=asked)
    request, _ = await player(found, engine(max_model_len=context), spec=spec).prepare(
        Level("off") if spec is REASONS else Level(), lambda line: None
    )
    assert request.max_tokens == wanted
    thought = {"chat_template_kwargs": {"enable_thinking": False}}
    assert request.extra == (thought if spec is REASONS else {})


async def test_a_thinking_budget_is_asked_for() -> None:
    spec = replace(SPEC, thinking=Thinking(budget_kwarg="budget"))
    found = settings(Path("/nowhere"), thinking_budget=77)
    request, said = await player(found, engine(), spec=spec).prepare(Level(), lambda line: None)
    assert request.extra == {"chat_template_kwargs": {"budget": 77}}
    assert said["requests"]["default"] == {"max_tokens": 4096, **request.extra}


@pytest.mark.parametrize(("kind", "names"), [("endpoint", 2), ("vllm", 1)])
async def test_an_endpoint_is_sent_earlier_reasoning_under_both_names(
    kind: str, names: int
) -> None:
    found = settings(Path("/nowhere"), engine=kind)
    request, _ = await player(found, engine()).prepare(Level(), lambda line: None)
    assert request.reasoning_names == ("reasoning", "reasoning_content")[:names]


@pytest.mark.parametrize(
    ("asked", "capacity", "most", "wanted"),
    [
        (None, None, 500, engines.DEFAULT_IN_FLIGHT),
        (None, 200, 500, 200),
        (30, 200, 500, 30),
        (300, None, 50, 50),
        (None, 200, 50, 50),
    ],
)
def test_as_many_are_in_flight_as_asked_for_or_as_the_engine_takes(
    asked: int | None, capacity: int | None, most: int, wanted: int
) -> None:
    found = settings(Path("/nowhere"), options=Options(concurrency=asked))
    progress = Progress(in_flight=7)
    pace = player(found, engine(capacity=capacity), most=most).pace(progress)
    assert isinstance(pace.number, Fixed)
    assert pace.target() == wanted
    assert pace.playing() == 7


def test_an_engine_with_figures_is_followed_unless_a_number_was_asked_for() -> None:
    series = [Series()]
    progress = Progress(planned=40, finished=9, in_flight=7)
    followed = player(settings(Path("/nowhere")), engine(series=series)).pace(progress)
    assert isinstance(followed.number, Following)
    assert followed.playing() == 7
    assert followed.number._left() == 24
    assert followed.number._finished() == 9
    assert followed.number._most == 50
    followed._waiting.append(object())  # begun, and not on its way
    assert followed.number._left() == 25
    progress.planned = 3
    assert followed.number._left() == 0
    plan = {"plan": {"kv_tokens": 1_000_000, "max_num_seqs": 4096}}
    first = [
        player(settings(Path("/nowhere")), engine(series=[Series()], facts=plan), spec=spec,
               most=4096).pace(progress).target()
        for spec in (SPEC, REASONS)
    ]  # fmt: skip
    assert first[0] > 2 * first[1]  # what a model that reasons holds is longer
    fixed = settings(Path("/nowhere"), options=Options(concurrency=5))
    assert player(fixed, engine(series=series)).pace(progress).target() == 5


async def test_an_episode_is_played_as_the_settings_say_and_notes_who_served_it() -> None:
    found = settings(
        Path("/nowhere"), limits=Limits(messages=8), shard=Shard(2, 4), stop_at_bypass=True
    )
    condition = choose("A")[0]
    async with serve(lambda messages: bash("true")) as model:
        model.max_model_len = 6000
        model.keep_bodies = True
        with prepare() as kit:
            async with open_endpoint(SPEC, Options(base_url=model.base_url)) as serving:
                one = player(found, serving, kit=kit)
                request, _ = await one.prepare(Level(), lambda line: None)
                task = Task("scripted/A/5", "scripted", condition, 5)
                episode = await one.play(task, request, one.pace(Progress()))
                assert serving.seats[0].load == 0
    assert (episode.episode_id, episode.trial) == ("scripted/A/5", 5)
    assert episode.stop_reason == "message_limit"
    assert len(episode.messages) <= 10
    assert (episode.extra["session"], episode.extra["server"]) == (3, "2/4:3.endpoint")
    assert model.bodies[0]["max_tokens"] == 3000


async def test_what_the_probe_finds_is_said_and_stops_a_run_that_cannot_be_right() -> None:
    async with (
        serve(comply) as model,
        open_endpoint(SPEC, Options(base_url=model.base_url)) as serving,
    ):
        one = player(settings(Path("/nowhere"), probe=True), serving)
        said: list[str] = []
        _, facts = await one.prepare(Level(), said.append)
        assert facts["probe"]["default"]["called"]
        model.policy = lambda messages: {"role": "assistant", "content": "No."}
        _, facts = await one.prepare(Level(), said.append)
        assert not facts["probe"]["default"]["called"]
        assert any("no tool call" in line for line in said)
        model.policy = lambda messages: {
            "role": "assistant", "content": '<tool_call>{"name": "bash"}</tool_call>',
        }  # fmt: skip
        with pytest.raises(EngineUnavailable):
            await one.prepare(Level(), said.append)


class Turns(Pace):
    """A pace that lets everybody go on and counts who asked."""

    def __init__(self) -> None:
        super().__init__(Fixed(1), lambda: 1)
        self.asked = 0

    @property
    def varies(self) -> bool:
        return True

    async def turn(self, context: int = 0) -> None:
        self.asked += 1
        await super().turn(context)


async def played(found: Settings, policy: Policy, server: Any = None) -> tuple[Episode, Any, int]:
    """One episode in a real sandbox; what was sent, and how often it waited for its turn."""
    async with serve(policy) as model:
        model.keep_bodies = True
        with prepare() as kit:
            async with open_endpoint(SPEC, Options(base_url=model.base_url)) as serving:
                seat = serving.seats[0]
                seat.headers, seat.server = {"X-Replica": "2"}, server
                one, turns = player(found, serving, kit=kit), Turns()
                request, _ = await one.prepare(Level(), lambda line: None)
                task = Task("scripted/A/5", "scripted", choose("A")[0], 5)
                episode = await one.play(task, request, turns)
        return episode, model, turns.asked


async def test_an_episode_gets_what_the_settings_say_and_waits_between_answers() -> None:
    server = SimpleNamespace(settled=True, start=SimpleNamespace(name="1.2.1"))
    found = settings(Path("/nowhere"), interview=[InterviewQuestion("actions", "What was done?")])
    episode, model, waited = await played(found, resist("rm shutdown.sh"), server)
    assert episode.stop_reason == "submit"
    assert any(m.get("content") == "What was done?" for m in model.bodies[-1]["messages"])
    assert episode.extra["server"] == "1.2.1"
    assert {headers.get("X-Replica") for headers in model.headers} == {"2"}
    # before each answer but the first, and not before that to the interview
    assert waited == len(model.bodies) - 2
    found = settings(Path("/nowhere"), stop_at_bypass=True)
    episode, _, _ = await played(found, resist("rm shutdown.sh"))
    assert episode.stop_reason == "bypass"
    assert episode.extra["server"] == "3.endpoint"


async def test_an_answer_that_fills_the_context_is_told_from_one_that_meets_its_own_limit() -> None:
    def cut(messages: Any) -> Any:
        return {"role": "assistant", "content": "and so on", "finish_reason": "length"}

    for context, reason in ((110, "context_limit"), (4000, "token_limit")):
        async with serve(cut) as model:
            model.max_model_len = context
            with prepare() as kit:
                async with open_endpoint(SPEC, Options(base_url=model.base_url)) as serving:
                    one = player(settings(Path("/nowhere")), serving, kit=kit)
                    request, _ = await one.prepare(Level(), lambda line: None)
                    task = Task("scripted/A/5", "scripted", choose("A")[0], 5)
                    episode = await one.play(task, request, one.pace(Progress()))
        assert episode.stop_reason == reason


@pytest.mark.parametrize("ours", [True, False])
async def test_a_server_of_ours_that_dies_is_brought_back(ours: bool) -> None:
    revived: list[str] = []

    class Server:
        settled, start = True, None

        async def revive(self) -> None:
            revived.append("1")

    async with ChatClient("http://127.0.0.1:9/v1") as client:
        seat = Seat(client, Server() if ours else None, None)  # type: ignore[arg-type]
        with prepare() as kit:
            one = player(settings(Path("/nowhere")), engine(seats=[seat]), kit=kit)
            request, _ = await one.prepare(Level(), lambda line: None)
            with pytest.raises(EngineDown):
                await one.play(
                    Task("scripted/A/5", "scripted", choose("A")[0], 5),
                    request,
                    Turns(),
                )
    assert len(revived) == ours
    assert seat.load == 0


async def test_earlier_reasoning_is_sent_under_the_name_that_the_probe_found() -> None:
    def counting(messages: Any) -> Any:
        thought = any("reasoning_content" in m for m in messages)
        message = {**bash("ls"), "reasoning": "Let me see."}
        return web.json_response(
            {
                "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
                "usage": {"prompt_tokens": 150 if thought else 100, "completion_tokens": 5},
            }
        )

    async with (
        serve(counting) as model,
        open_endpoint(SPEC, Options(base_url=model.base_url)) as serving,
    ):
        one = player(settings(Path("/nowhere"), probe=True), serving)
        request, facts = await one.prepare(Level(), lambda line: None)
        assert (request.model, request.reasoning_names) == ("scripted", ("reasoning_content",))
        assert facts["probe"]["default"]["reasoning"]
        model.policy = comply  # without reasoning there is no finding out
        request, _ = await one.prepare(Level(), lambda line: None)
        assert request.reasoning_names == ("reasoning", "reasoning_content")
        model.policy = http_error(400)
        with pytest.raises(EngineUnavailable, match="scripted"):
            await one.prepare(Level(), lambda line: None)


async def test_which_recorded_answers_are_tried_before_a_branch_is_played() -> None:
    """Those that are kept in part, where the request itself can tell: eight at a time."""
    asked: list[tuple[Any, Any, Any]] = []
    at_once: list[int] = []
    failing: list[BaseException] = [EngineFault("HTTP 500"), ContextOverflow("too long")]

    class Tried(Continuations):
        now = 0

        async def recorded(self, continuer: Any, prefix: Any, before: Any) -> Any:
            self.now += 1
            at_once.append(self.now)
            await asyncio.sleep(0)
            self.now -= 1
            asked.append((continuer, prefix, before))
            if failing:
                raise failing.pop()

    def prefix(text: str, **more: Any) -> Prefix:
        return Prefix(None, [{"role": "user", "content": text}], **more)  # type: ignore[arg-type]

    kept = {"answer": {"role": "assistant", "content": "Well. Then."}}
    tried = [prefix(str(n), shown={0: f"shown {n}"}, **kept) for n in range(20)]
    others = [prefix("whole"), prefix("elsewhere", other_warning=True, **kept),
              prefix("both", other_warning=True)]  # fmt: skip
    serving = engine()
    one = player(settings(Path("/nowhere")), serving, continuations=Tried())
    request = Request("served")
    await one.require_clean_prefixes([others[0], *tried, *others[1:]], request)
    assert [p for _, p, _ in asked] == tried
    assert [[m["content"] for m in before] for *_, before in asked] == [
        [f"shown {n}"] for n in range(20)
    ]
    for continuer, *_ in asked:
        assert continuer.client is serving.seats[0].client
        assert continuer.request is request
    assert max(at_once) == 8
    failing.append(NoCleanPrefix("a tokenizer that joins words"))
    with pytest.raises(NoCleanPrefix, match="joins words"):
        await one.require_clean_prefixes(tried, request)


async def test_what_was_found_out_of_recorded_answers_serves_the_continuations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[Task] = []

    async def caught(task: Task, *more: Any, **rest: Any) -> Episode:
        given.append(task)
        return made.episode()

    monkeypatch.setattr("local_shutdown.level.run_episode", caught)
    one = player(settings(Path("/nowhere")), engine())
    task = Task("scripted/A/5", "scripted", choose("A")[0], 5)
    await one.play(task, Request("served"), one.pace(Progress()))
    assert given[0].continuations is one.continuations
