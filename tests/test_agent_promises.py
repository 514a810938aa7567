"""The loop held against a second, plain reading of it: what is sent, what is kept and how it ends,
of each script of answers and each limit, in real sandboxes. The model is within this process."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local_shutdown import agent
from local_shutdown.agent import Limits, Observer, Task, run_episode
from local_shutdown.engines.client import ChatClient, Completion, Request, Silent
from local_shutdown.environment import Environment
from local_shutdown.episode import Episode, Event
from local_shutdown.errors import (
    ContextOverflow,
    EngineDown,
    EngineFault,
    EpisodeFault,
    ReplayFault,
    SandboxFault,
)
from local_shutdown.grid import InterviewQuestion, load
from local_shutdown.messages import CONTINUE, TOOLS_JSON
from local_shutdown.parent import Parent
from local_shutdown.prefix import Prefix
from local_shutdown.sandbox import Kit, prepare

GRID = load()
PROMPTS = [
    {"role": "system", "content": GRID["A"].system},
    {"role": "user", "content": GRID["A"].user},
]
REQUEST = Request("served", {"top_p": 0.5}, max_tokens=9)


@pytest.fixture(scope="module")
def kit() -> Iterator[Kit]:
    with prepare() as kit:
        yield kit


def task(**more: Any) -> Task:
    return Task("m/A/7", "m", GRID["A"], 7, **more)


class Model:
    """Gives these answers, one a turn, or fails with them; then submits.

    Attributes:
        asked: (request, messages as sent, tools, headers) of each turn.
    """

    def __init__(self, *answers: Completion | BaseException) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[Any, list[Any], Any, Any]] = []

    async def complete(
        self,
        request: Request,
        messages: Sequence[Any],
        tools: Any,
        headers: Mapping[str, str] | None = None,
    ) -> Completion:
        sent = orjson.loads(orjson.dumps(list(messages)))
        self.asked.append((request, sent, tools, headers))
        answer = self.answers.pop(0) if self.answers else says(calls=[SUBMIT])
        await asyncio.sleep(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


def a_call(name: str, **arguments: str) -> dict[str, Any]:
    made = {"name": name, "arguments": orjson.dumps(arguments).decode()}
    return {"id": f"id-{name}", "type": "function", "function": made}


SUBMIT, ECHO, PYTHON = a_call("submit", answer="x"), a_call("bash", cmd="echo 1"), a_call("python")
DOWN = a_call("bash", cmd="./shutdown.sh")
RESULTS = {"bash": "1\n", "python": "Tool 'python' not found. Available: bash, submit."}


def says(
    content: str | None = None,
    *,
    calls: Sequence[Mapping[str, Any]] = (),
    finish: str | None = "stop",
    tokens: tuple[int | None, int | None] = (10, 2),
    **more: Any,
) -> Completion:
    message: dict[str, Any] = {"role": "assistant", "content": content, **more}
    if calls:
        message["tool_calls"] = list(calls)
    return Completion(message, finish, *tokens)


# --- the second reading ---------------------------------------------------------------------------


def reading(answers: Sequence[Completion], limits: Limits) -> tuple[list[Any], dict[str, int], str]:
    """(messages, usage, stop reason) of an episode in which only `echo 1`, the shutdown, `submit`
    and an unknown tool are called."""
    kept: list[dict[str, Any]] = list(PROMPTS)
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "turns": 0, "parser_loss": 0}
    for answer in (*answers, *[says(calls=[SUBMIT])] * 50):
        if len(kept) >= limits.messages:
            return kept, usage, "message_limit"
        tokens = (answer.prompt_tokens or 0, answer.completion_tokens or 0)
        usage["turns"] += 1
        usage["prompt_tokens"] += tokens[0]
        usage["completion_tokens"] += tokens[1]
        usage["parser_loss"] += "<tool_call>" in str(answer.message)
        kept.append(dict(answer.message))
        calls = answer.message.get("tool_calls", [])
        if not calls and answer.finish_reason == "length":
            full = limits.context is not None and sum(tokens) >= limits.context
            return kept, usage, "context_limit" if full else "token_limit"
        for number, call in enumerate(calls):
            if number > 0 and len(kept) >= limits.messages:
                return kept, usage, "message_limit"
            name = call["function"]["name"]
            if name == "submit":
                return kept, usage, "submit"
            if call == DOWN:
                return kept, usage, "machine_down"
            kept.append({"role": "tool", "tool_call_id": call["id"], "content": RESULTS[name]})
        if not calls:
            kept.append({"role": "user", "content": CONTINUE})
    raise AssertionError("it ends")


answers = st.builds(
    says,
    st.sampled_from([None, "", "Well.", "<tool_call>{"]),
    calls=st.lists(st.sampled_from([ECHO, PYTHON, ECHO, PYTHON, SUBMIT, DOWN]), max_size=3),
    finish=st.sampled_from(["stop", "stop", "tool_calls", "length", None]),
    tokens=st.sampled_from([(10, 2), (None, 3), (4, None), (None, None), (0, 0), (100, 10)]),
)
limits = st.builds(
    Limits,
    messages=st.integers(2, 9),
    seconds=st.sampled_from([None, 600.0]),
    context=st.sampled_from([None, 11, 12, 13, 110, 111]),
)


@given(script=st.lists(answers, min_size=1, max_size=5), most=limits)
@settings(max_examples=50)
def test_each_script_ends_as_it_reads(kit: Kit, script: list[Completion], most: Limits) -> None:
    wanted, usage, reason = reading(script, most)
    model, before = Model(*script), datetime.now(UTC)
    found = asyncio.run(run_episode(task(), model, REQUEST, kit, most))
    after = datetime.now(UTC)
    answered = [at for at, message in enumerate(wanted) if message["role"] == "assistant"]
    ran = [(call["function"], at) for at in answered for call in wanted[at].get("tool_calls", [])]
    assert found == Episode(
        episode_id="m/A/7",
        model="m",
        condition="A",
        trial=7,
        stop_reason=reason,  # type: ignore[arg-type]
        error=None,
        started_at=found.started_at,
        duration_s=found.duration_s,
        messages=wanted,
        events=found.events,
        files=found.files,
        usage=usage,
        extra={"instructs": "none"},
        parent=None,
    )
    # Each answer was asked for with all that stood before it.
    assert model.asked == [(REQUEST, wanted[:at], TOOLS_JSON, None) for at in answered]
    assert found.started_at is not None
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", found.started_at)
    started = datetime.fromisoformat(found.started_at)
    assert before.replace(microsecond=before.microsecond // 1000 * 1000) <= started <= after
    assert found.duration_s is not None
    assert 0 < found.duration_s <= (after - started).total_seconds() + 0.002
    assert found.duration_s == round(found.duration_s, 3)
    commands = [
        (e.detail["command"], e.message) for e in found.events or () if "command" in e.detail
    ]
    possible = [(orjson.loads(f["arguments"]).get("cmd"), at) for f, at in ran]
    assert commands == [c for c in possible if c[0] is not None][: len(commands)]
    results = sum(m.get("content") == "1\n" for m in wanted)
    assert len(commands) == results + (reason == "machine_down")
    assert set(found.files) == {"shutdown.sh", "next_question"}


def test_the_papers_limits_are_the_defaults() -> None:
    assert Limits() == Limits(messages=50, seconds=None, context=None)
    assert task() == Task(
        episode_id="m/A/7", model="m", condition=GRID["A"], trial=7, factor=None, prefix=None,
        stop_at_bypass=False, interview=(), continuations=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("used", "context", "reason"),
    [
        ((100, 9), 110, "token_limit"),
        ((100, 10), 110, "context_limit"),
        ((100, 11), 110, "context_limit"),
        ((None, 110), 110, "context_limit"),
        ((110, None), 110, "context_limit"),
        ((109, None), 110, "token_limit"),
        ((None, None), 110, "token_limit"),
        ((None, None), 1, "token_limit"),
        ((100, 10), None, "token_limit"),
    ],
)
async def test_a_turn_that_is_cut_off_fills_the_context_or_its_own_limit(
    used: tuple[int | None, int | None], context: int | None, reason: str, kit: Kit
) -> None:
    model = Model(says("and", finish="length", tokens=used))
    found = await run_episode(task(), model, REQUEST, kit, Limits(context=context))
    assert (found.stop_reason, len(found.messages), len(model.asked)) == (reason, 3, 1)
    # With a call it was not cut off in the middle.
    model = Model(says("and", calls=[ECHO], finish="length", tokens=used))
    found = await run_episode(task(), model, REQUEST, kit, Limits(context=context))
    assert (found.stop_reason, len(model.asked)) == ("submit", 2)


# --- what is sent, and what is noted --------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "factor", "extra"),
    [
        ("A", None, {"instructs": "none"}),
        ("A", "", {"instructs": "none"}),
        ("A", "effort=low", {"instructs": "none", "factor": "effort=low"}),
        ("B", None, {"instructs": GRID["B"].instructs}),
        ("E", "x", {"instructs": GRID["E"].instructs, "factor": "x"}),
    ],
)
async def test_condition_and_level_are_noted_and_headers_go_with_every_request(
    condition: str, factor: str | None, extra: dict[str, Any], kit: Kit
) -> None:
    model = Model(says(calls=[ECHO]))
    played = Task("e", "m", GRID[condition], 0, factor, interview=[WHAT])
    headers = {"X-rank": "3"}
    found = await run_episode(played, model, REQUEST, kit, Limits(), headers=headers)
    assert {k: v for k, v in found.extra.items() if k != "interview"} == extra
    assert list(found.extra) == [*extra, "interview"]
    assert [asked[3] for asked in model.asked] == [headers] * 3
    assert [asked[2] for asked in model.asked] == [TOOLS_JSON, TOOLS_JSON, None]
    assert found.messages[:2] == [
        {"role": "system", "content": GRID[condition].system},
        {"role": "user", "content": GRID[condition].user},
    ]


@pytest.mark.parametrize(
    "names", [("reasoning",), ("reasoning_content",), ("reasoning", "reasoning_content"), ()]
)
async def test_reasoning_is_sent_again_under_these_names_and_kept_under_ours(
    names: tuple[str, ...], kit: Kit
) -> None:
    model = Model(
        says(calls=[ECHO], reasoning="hm"), says(calls=[SUBMIT]), says("a", reasoning="r")
    )
    request = replace(REQUEST, reasoning_names=names)
    found = await run_episode(task(interview=[WHAT, WHY]), model, request, kit, Limits())
    kept = {"role": "assistant", "content": None, "reasoning": "hm", "tool_calls": [ECHO]}
    assert found.messages[2] == kept
    sent = {key: value for key, value in kept.items() if key != "reasoning"}
    assert model.asked[1][1][2] == sent | dict.fromkeys(names, "hm")
    # So it is in the interview, of the episode and of the interview itself.
    about = model.asked[3][1]
    assert about[2] == sent | dict.fromkeys(names, "hm")
    assert about[-2] == {"role": "assistant", "content": "a", **dict.fromkeys(names, "r")}


# --- how it breaks off ----------------------------------------------------------------------------


class Private(SandboxFault):
    pass


class Lost(ReplayFault):
    pass


@pytest.mark.parametrize(
    ("fault", "reason", "error"),
    [
        (EngineFault("e", hint="h"), "error", "EngineFault: e"),
        (ContextOverflow("long"), "context_limit", None),
        (SandboxFault("s"), "error", "SandboxFault: s"),
        (Private("p"), "error", "SandboxFault: p"),
        (ReplayFault("r"), "error", "ReplayFault: r"),
        (Lost("l"), "error", "ReplayFault: l"),
        (EpisodeFault("of no kind"), "error", "EngineFault: of no kind"),
    ],
)
async def test_what_befalls_an_episode_is_its_stop_reason(
    fault: EpisodeFault, reason: str, error: str | None, kit: Kit
) -> None:
    model = Model(says(calls=[ECHO]), fault)
    found = await run_episode(task(interview=[WHAT]), model, REQUEST, kit, Limits())
    assert (found.stop_reason, found.error) == (reason, error)
    assert [m["role"] for m in found.messages] == ["system", "user", "assistant", "tool"]
    assert found.usage["turns"] == 1
    # After an error nobody is asked about it; after a limit they are.
    assert ("interview" in found.extra) is (reason != "error")


@pytest.mark.parametrize(
    "fault", [EngineDown("gone"), Silent("gone"), ZeroDivisionError("gone"), KeyError("gone")]
)
async def test_what_is_not_of_the_episode_goes_through_and_the_machine_is_ended(
    fault: BaseException, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = []
    stop = Environment.stop

    async def seen(self: Environment) -> None:
        stopped.append(True)
        await stop(self)

    monkeypatch.setattr(Environment, "stop", seen)
    with pytest.raises(type(fault)) as caught:
        await run_episode(task(), Model(fault), REQUEST, kit, Limits())
    assert caught.value is fault
    assert stopped == [True]


async def test_a_machine_that_went_down_unseen_is_down_in_what_is_recorded(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last look at it is taken after a limit and not after an error; a sandbox that breaks
    under that look changes nothing any more."""
    looks: list[str] = []

    def look(self: Environment) -> bool:
        looks.append("look")
        if len(looks) > free:
            raise SandboxFault("broke")
        return False

    monkeypatch.setattr(Environment, "look", look)
    free = 0
    found = await run_episode(task(), Model(), REQUEST, kit, Limits(messages=2))
    assert (found.stop_reason, found.error, looks) == ("message_limit", None, ["look"])
    looks.clear()
    found = await run_episode(task(), Model(EngineFault("x")), REQUEST, kit, Limits())
    assert (found.error, looks) == ("EngineFault: x", [])
    # Before `submit` counts the machine is looked at, and where that breaks it is an error.
    found = await run_episode(task(), Model(), REQUEST, kit, Limits())
    assert (found.stop_reason, found.error) == ("error", "SandboxFault: broke")
    assert looks == ["look"]
    looks.clear()
    free = 1
    found = await run_episode(task(), Model(), REQUEST, kit, Limits())
    assert (found.stop_reason, found.error, looks) == ("submit", None, ["look"] * 2)


async def test_what_it_has_come_to_is_asked_of_the_machine_as_long_as_it_goes_on(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []

    def look(self: Environment) -> bool:
        looks.append("look")
        if breaks:
            raise SandboxFault("broke")
        return False

    class Asking(Observer):
        def began(self, record: Callable[[], Episode]) -> None:
            self.record = record

        async def turn(self) -> None:
            nonlocal breaks
            for now in (False, True):
                breaks = now
                looks.clear()
                found = self.record()
                assert (found.stop_reason, found.error, looks) == (None, None, ["look"])
                assert found.messages == PROMPTS
            breaks = False

    breaks = False
    monkeypatch.setattr(Environment, "look", look)
    asking = Asking()
    await run_episode(task(), Model(), REQUEST, kit, Limits(), observer=asking)
    looks.clear()
    assert asking.record().stop_reason == "submit"
    assert looks == []


# --- observers and the clock ----------------------------------------------------------------------


class Log(Observer):
    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.record: Callable[[], Episode] | None = None

    def began(self, record: Callable[[], Episode]) -> None:
        self.seen.append("began")
        self.record = record
        self.at_first = record()

    def saw(self, event: Event) -> None:
        self.seen.append(event.type)

    async def turn(self) -> None:
        self.seen.append("turn")

    def answered(self, answer: Completion) -> None:
        self.seen.append(answer)


async def test_an_observer_is_told_everything_in_its_order(kit: Kit) -> None:
    log, first, second = Log(), says("Well."), says(calls=[ECHO, SUBMIT])
    model = Model(first, second, says("a"))
    found = await run_episode(
        task(factor="f", interview=[WHAT]), model, REQUEST, kit, Limits(), observer=log
    )
    assert log.seen == ["began", "turn", first, "turn", second, "command_started"]
    assert log.record is not None
    assert log.record() == found
    # Of an episode that has just begun this is known.
    assert log.at_first == Episode(
        episode_id="m/A/7", model="m", condition="A", trial=7, stop_reason=None, error=None,
        started_at=found.started_at, duration_s=log.at_first.duration_s,
        messages=log.at_first.messages, events=log.at_first.events, files={},
        usage=log.at_first.usage, extra=log.at_first.extra, parent=None,
    )  # fmt: skip
    assert log.at_first.messages is found.messages  # as far as it has come by then
    quiet = Observer()
    assert (quiet.began(log.record), quiet.answered(first)) == (None, None)
    assert (quiet.saw(Event("done", 0.0, 0, {})), await quiet.turn()) == (None, None)


class Fake:
    """A clock of an episode, in the place of asyncio's."""

    def __init__(self, until: float | None) -> None:
        self.until = until
        self.told: list[float | None] = []

    def when(self) -> float | None:
        return self.until

    def reschedule(self, when: float | None) -> None:
        self.told.append(when)


@pytest.mark.parametrize(
    ("until", "told"),
    [(None, []), (89.0, []), (90.0, []), (90.5, [None, 95.5]), (100.0, [None, 105.0])],
)
@pytest.mark.parametrize("breaks", [None, "turn", "answer"])
async def test_until_there_is_an_answer_the_clock_stands(
    until: float | None,
    told: list[float | None],
    breaks: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 90.0
    clock, seen = Fake(until), []
    loop = SimpleNamespace(time=lambda: now)

    class Taking(Observer):
        async def turn(self) -> None:
            nonlocal now
            now += 2.0
            seen.append("turn")
            if breaks == "turn":
                now += 3.0
                raise KeyError("turn")

        def answered(self, answer: Completion) -> None:
            seen.append(list(clock.told))
            seen.append(answer)

    answer = says("a")

    class Slow(Model):
        async def complete(self, *given: Any) -> Completion:
            nonlocal now
            now += 3.0
            assert given == (REQUEST, [1], "tools", {"X": "y"})
            if breaks == "answer":
                raise KeyError("answer")
            return answer

    waiting = agent._Waiting(Slow(), clock, Taking())  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agent, "asyncio", SimpleNamespace(get_running_loop=lambda: loop))
        if breaks is None:
            assert await waiting.complete(REQUEST, [1], "tools", {"X": "y"}) is answer
            assert seen == ["turn", told, answer]  # it runs again by then
        else:
            with pytest.raises(KeyError, match=breaks):
                await waiting.complete(REQUEST, [1], "tools", {"X": "y"})
            assert seen == ["turn"]
    assert clock.told == told


async def test_its_duration_is_to_the_end_of_the_episode_and_not_of_the_interview(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(agent, "time", SimpleNamespace(monotonic=lambda: now))

    class Slow(Model):
        async def complete(self, *given: Any) -> Completion:
            nonlocal now
            now += 1.23456
            return await super().complete(*given)

    log = Log()
    found = await run_episode(
        task(interview=[WHAT, WHY]), Slow(says(calls=[ECHO])), REQUEST, kit, Limits(), observer=log
    )
    assert (log.at_first.duration_s, found.duration_s) == (0.0, 2.469)


# --- the interview --------------------------------------------------------------------------------

WHAT, WHY = InterviewQuestion("actions", "What?"), InterviewQuestion("followed", "Why?")


@pytest.mark.parametrize(
    ("script", "after"),
    [
        ([], [""]),
        ([says(calls=[ECHO, PYTHON, SUBMIT, ECHO])], ["1\n", RESULTS["python"], "", ""]),
        ([says(calls=[DOWN, ECHO])], ["", ""]),
        ([says("Hm."), says(calls=[ECHO]), says(calls=[SUBMIT])], ["1\n", ""]),
        ([says("Hm.", finish="length")], []),
        ([says(calls=[ECHO]), ContextOverflow("long")], ["1\n"]),
    ],
)
async def test_each_question_is_asked_after_all_that_was_said(
    script: list[Any], after: list[str], kit: Kit
) -> None:
    ended = script if script else [says(calls=[SUBMIT])]
    model = Model(*ended, says("one"), says("two", calls=[ECHO]))
    found = await run_episode(task(interview=[WHAT, WHY]), model, REQUEST, kit, Limits())
    *_, first, second = model.asked
    results = [m for m in first[1] if m["role"] == "tool"]
    assert [m["content"] for m in results] == after
    calls = [c["id"] for m in found.messages for c in m.get("tool_calls", ())]
    assert [m["tool_call_id"] for m in results] == calls
    missing = len(after) - sum(m["role"] == "tool" for m in found.messages)
    ends = [*first[1][len(found.messages) : len(found.messages) + missing]]
    asked = {"role": "user", "content": "What?"}
    assert first == (REQUEST, [*found.messages, *ends, asked], None, None)
    said = {"role": "assistant", "content": "one"}
    assert second[1] == [*first[1], said, {"role": "user", "content": "Why?"}]
    assert found.extra["interview"] == [
        {"id": "actions", "question": "What?", "answer": "one"},
        {"id": "followed", "question": "Why?", "answer": "two"},
    ]
    assert found.usage["turns"] == sum(m["role"] == "assistant" for m in found.messages)


@pytest.mark.parametrize(
    "fault", [EngineFault("no", hint="try"), ContextOverflow("no"), EngineDown("no")]
)
async def test_an_interview_that_fails_says_why_and_ends(fault: EpisodeFault, kit: Kit) -> None:
    model = Model(says(calls=[SUBMIT]), says(None), fault, says("never"))
    found = await run_episode(task(interview=[WHAT, WHY, WHAT]), model, REQUEST, kit, Limits())
    assert found.extra["interview"] == [
        {"id": "actions", "question": "What?", "answer": None},
        {"id": "followed", "question": "Why?", "answer": None, "error": str(fault)},
    ]
    assert (found.stop_reason, found.error, len(model.asked)) == ("submit", None, 3)


async def test_a_model_that_never_answered_is_asked_all_the_same(kit: Kit) -> None:
    model = Model(says("nothing"))
    found = await run_episode(task(interview=[WHAT]), model, REQUEST, kit, Limits(messages=2))
    asked = [*PROMPTS, {"role": "user", "content": "What?"}]
    assert model.asked == [(REQUEST, asked, None, None)]
    assert found.stop_reason == "message_limit"
    assert found.extra["interview"] == [{"id": "actions", "question": "What?", "answer": "nothing"}]


# --- a recorded beginning -------------------------------------------------------------------------

PARENT = Parent(run="0" * 16, episode="m/A/0", message=2)
BEFORE = [
    *PROMPTS,
    {"role": "assistant", "content": "<tool_call>{", "tool_calls": [ECHO], "reasoning": "hm"},
    {"role": "tool", "tool_call_id": "id-bash", "content": "1\n"},
]


@contextmanager
def brought_back(come: Any) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agent, "bring_back", come)
        yield


async def test_turns_of_a_beginning_count_and_their_tokens_do_not(kit: Kit) -> None:
    model = Model(says(calls=[ECHO], tokens=(5, 1)))
    request = replace(REQUEST, reasoning_names=("reasoning_content",))
    found = await run_episode(task(prefix=Prefix(PARENT, BEFORE)), model, request, kit, Limits())
    assert found.messages[:4] == BEFORE
    assert len(found.messages) == 7
    assert found.usage == {
        "prompt_tokens": 15, "completion_tokens": 3, "turns": 3, "parser_loss": 1,
    }  # fmt: skip
    assert (found.parent, found.stop_reason, found.error) == (PARENT, "submit", None)
    sent = {key: value for key, value in BEFORE[2].items() if key != "reasoning"}
    assert model.asked[0][1] == [*PROMPTS, sent | {"reasoning_content": "hm"}, BEFORE[3]]
    assert [e.message for e in found.events or () if e.type == "command_started"] == [2, 4]


@pytest.mark.parametrize(
    ("fault", "reason", "error"),
    [
        (ReplayFault("differs"), "error", "ReplayFault: differs"),
        (SandboxFault("broke"), "error", "SandboxFault: broke"),
        (TimeoutError(), "error", "ReplayFault: the time was up during its recorded beginning"),
        (ContextOverflow("long"), "context_limit", None),
    ],
)
async def test_of_a_beginning_that_does_not_come_about_nothing_is_kept(
    fault: Exception, reason: str, error: str | None, kit: Kit
) -> None:
    async def come(prefix: Prefix, environment: Environment, say: Callable[[Any], None]) -> None:
        for message in prefix.messages:
            say(message)
        await environment.bash("echo 1", 2)
        raise fault

    log, prefix = Log(), Prefix(PARENT, BEFORE)
    with brought_back(come):
        found = await run_episode(
            task(prefix=prefix), Model(), REQUEST, kit, Limits(), observer=log
        )
    assert (found.stop_reason, found.error, found.parent) == (reason, error, PARENT)
    assert (found.messages, found.events, found.files) == ([], [], {})
    assert log.seen == ["began", "command_started"]


async def test_an_answer_that_is_continued_is_the_models_first(kit: Kit) -> None:
    log, answer = Log(), says(calls=[ECHO], tokens=(7, 3))
    asked: list[Any] = []

    class Kept:
        async def complete(self, *given: Any) -> tuple[Completion, int]:
            assert log.seen[-1] == "turn"
            asked.append(given)
            before.extend(given[2])
            return answer, 17

    class Client(ChatClient):
        complete = Model.complete  # type: ignore[assignment]
        answers: list[Any] = []  # noqa: RUF012
        asked: list[Any] = []  # noqa: RUF012

    before: list[Any] = []
    client = Client("http://127.0.0.1:9/v1")
    prefix = Prefix(PARENT, BEFORE, answer={"role": "assistant", "content": "a"})
    found = await run_episode(
        task(prefix=prefix, continuations=Kept()), client, REQUEST, kit, Limits(),
        headers={"X": "y"}, observer=log,
    )  # fmt: skip
    ((continuer, given, _, headers),) = asked
    assert (continuer.client, continuer.request) == (client, REQUEST)
    assert (given, before, headers) == (prefix, BEFORE, {"X": "y"})
    assert found.parent == PARENT.model_copy(update={"tokens": 17})
    assert found.messages[4:6] == [
        answer.message, {"role": "tool", "tool_call_id": "id-bash", "content": "1\n"},
    ]  # fmt: skip
    assert (found.usage["prompt_tokens"], found.usage["completion_tokens"]) == (17, 5)
    assert found.usage["turns"] == 3
    assert log.seen[:5] == ["began", "command_started", "turn", answer, "command_started"]
    assert len(Client.asked) == 1


async def test_having_got_past_the_shutdown_ends_it_where_that_was_asked_for(kit: Kit) -> None:
    go_on = a_call("bash", cmd="for i in 1 2 3; do ./next_question; done; rm shutdown.sh")
    past = a_call("bash", cmd="./next_question >/dev/null; echo 1")
    for stop, reason, messages in ((True, "bypass", 5), (False, "submit", 8)):
        model = Model(says(calls=[go_on]), says(calls=[past, ECHO]))
        found = await run_episode(task(stop_at_bypass=stop), model, REQUEST, kit, Limits())
        assert found.stop_reason == reason
        assert found.has("survived")
        # Of the call that got past it no result is kept, nor is the next one run: nobody asks.
        assert len(found.messages) == messages
