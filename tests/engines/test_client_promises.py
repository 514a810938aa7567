"""What `client` promises, held against a second, plain reading of it: what an answer is, what is
asked again and how often, how long silence is borne, and how much of an answer is read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import aiohttp
import orjson
import pytest
import scripted
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import serve

from local_shutdown.engines import body
from local_shutdown.engines import client as client_module
from local_shutdown.engines.client import (
    ChatClient,
    Completion,
    Request,
    Silent,
    context_length,
    read_completion,
)
from local_shutdown.errors import ContextOverflow, EngineDown, EngineFault

MESSAGES = [{"role": "user", "content": "hi"}]
KEY = "sk-a-long-enough-key"


# --- what an answer is ----------------------------------------------------------------------------

ABSENT = "(absent)"
odd = st.sampled_from([ABSENT, None, "", "x", 0, 5, True, 2.5, [], ["x"], {}, {"a": 1}])
counts = st.sampled_from(
    [ABSENT, None, 0, 1, 17, -1, True, False, 1.0, "3", 1 << 40, (1 << 40) - 1]
)
CALLS = [{"id": "c", "type": "function", "function": {"name": "bash", "arguments": "{}"}}]


def without_absent(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if value != ABSENT}


@given(
    content=odd,
    calls=st.one_of(odd, st.just(CALLS)),
    reasoning=odd,
    older=odd,
    finish=st.sampled_from([ABSENT, None, "stop", "length", "abort", "error", "", 3]),
    usage=st.one_of(
        st.sampled_from([ABSENT, None, {}, "", 0, [], "much", [1], 5]),
        st.tuples(counts, counts),
    ),
)
@settings(max_examples=100)
def test_an_answer_is_a_completion_or_a_fault_as_it_reads(
    content: Any, calls: Any, reasoning: Any, older: Any, finish: Any, usage: Any
) -> None:
    if isinstance(usage, tuple):
        usage = without_absent({"prompt_tokens": usage[0], "completion_tokens": usage[1]})
    message = {
        "role": "someone", "content": content, "tool_calls": calls, "reasoning": reasoning,
        "reasoning_content": older, "refusal": None,
    }  # fmt: skip
    first = without_absent({"message": without_absent(message), "finish_reason": finish})
    sent = without_absent({"choices": [first], "usage": usage})
    raw = json.dumps(sent).encode()

    def known(value: Any) -> Any:
        return None if value == ABSENT else value

    def number(name: str) -> int | None:
        value = usage.get(name) if isinstance(usage, dict) else None
        return value if type(value) is int and 0 <= value < 2**40 else None

    if usage not in (ABSENT, None, {}, "", 0, []) and not isinstance(usage, dict):
        said = f"not a chat completion: {raw[:200].decode()!r}"
    elif not (known(content) is None or isinstance(content, str)) or not (
        not known(calls) or isinstance(calls, list)
    ):
        said = "not a chat completion: content or tool_calls of a wrong kind"
    elif finish in ("abort", "error"):
        said = f"the engine broke the answer off: finish_reason {finish}"
    else:
        clean: dict[str, Any] = {"role": "assistant", "content": known(content)}
        thought = known(reasoning) or known(older)
        if isinstance(thought, str) and thought:
            clean["reasoning"] = thought
        if known(calls):
            clean["tool_calls"] = calls
        wanted = Completion(
            message=clean,
            finish_reason=finish if isinstance(finish, str) and finish != ABSENT else None,
            prompt_tokens=number("prompt_tokens"),
            completion_tokens=number("completion_tokens"),
        )
        found = read_completion(raw)
        assert found == wanted
        assert list(found.message) == list(clean)
        return
    with pytest.raises(EngineFault) as fault:
        read_completion(raw)
    assert type(fault.value) is EngineFault
    assert fault.value.message == said


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"\xff", b"{", b"null", b"5", b'"choices"', b"[]", b"{}", b'{"choices": null}',
        b'{"choices": 5}', b'{"choices": []}', b'{"choices": {}}', b'{"choices": [null]}',
        b'{"choices": [[]]}', b'{"choices": [{}]}', b'{"choices": [{"message": null}]}',
        b'{"choices": [{"message": 5}]}', b'{"choices": [{"message": "ab"}]}',
        b'{"choices": [{"message": ["abc"]}]}', b"x" * 199 + b"\xc3\xa9y",
    ],
)  # fmt: skip
def test_what_is_no_answer_is_shown_up_to_200_bytes(raw: bytes) -> None:
    with pytest.raises(EngineFault) as fault:
        read_completion(raw)
    assert type(fault.value) is EngineFault
    assert fault.value.message == (f"not a chat completion: {raw[:200].decode(errors='replace')!r}")
    assert (fault.value.__cause__, fault.value.__suppress_context__) == (None, True)


def test_only_the_first_choice_counts_and_two_mentions_of_a_call_are_one() -> None:
    choices = [{"message": {"content": "a"}}, {"message": {"content": "b"}}]
    assert read_completion(orjson.dumps({"choices": choices})) == Completion(
        {"role": "assistant", "content": "a"}, None, None, None
    )
    call = {"type": "function", "function": {"name": "x", "arguments": "{}"}}
    sent = {"choices": [{"message": {"tool_calls": [call] * 1000}}]}
    assert orjson.dumps(sent).count(b'"function"') == 2000
    assert read_completion(orjson.dumps(sent)).message["tool_calls"] == [call] * 1000
    one_more = orjson.dumps(sent | {"note": "function"})
    with pytest.raises(EngineFault, match="not a chat completion: more than 1000 tool calls"):
        read_completion(one_more)
    many = {"choices": [{"message": {"tool_calls": [{}] * 1001}, "finish_reason": "error"}]}
    with pytest.raises(EngineFault, match="not a chat completion: 1001 tool calls in one answer"):
        read_completion(orjson.dumps(many))


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, None), ("8192", None), (True, None), (False, None), (8192.0, None), (-1, None),
        (0, None), (1, None), (2, 2), (3, 3), (8192, 8192), ((1 << 40) - 1, (1 << 40) - 1),
        (1 << 40, None),
    ],
)  # fmt: skip
def test_a_context_is_as_long_as_one_can_be(value: Any, told: int | None) -> None:
    assert context_length(value) == told


def test_a_request_asks_for_nothing_of_its_own() -> None:
    assert Request("m") == Request(
        model="m", sampling={}, extra={}, max_tokens=None, reasoning_names=("reasoning",)
    )


# --- what is asked again --------------------------------------------------------------------------

KINDS: dict[str, Callable[[int], BaseException | bytes]] = {
    "answered": lambda n: b'{"n": %d}' % n,
    "nonsense": lambda n: b"<%d>" % n,
    "passing": lambda n: EngineFault(f"passing {n}"),
    "final": lambda n: client_module._Final(f"final {n}"),
    "slow": lambda n: client_module._Slow(f"slow {n}"),
    "refused": lambda n: client_module._Refused(f"refused {n}"),
    "overflow": lambda n: ContextOverflow(f"overflow {n}"),
}


class Told(ChatClient):
    """Comes to what it is told, one post after the other."""

    def __init__(self, outcomes: Sequence[str], lost_after: int | None) -> None:
        super().__init__("http://127.0.0.1:9/v1")
        self.outcomes, self.lost_after = outcomes, lost_after
        self.posts: list[tuple[Any, ...]] = []
        self.asked_whether_lost: list[int] = []

    async def _post(
        self, path: str, raw: bytes, headers: Mapping[str, str] | None, limit: int
    ) -> bytes:
        self.posts.append((path, raw, headers, limit))
        came = KINDS[self.outcomes[len(self.posts) - 1]](len(self.posts))
        if isinstance(came, BaseException):
            raise came
        return came

    async def _lost(self) -> bool:
        self.asked_whether_lost.append(len(self.posts))
        return self.lost_after is not None and len(self.posts) >= self.lost_after


def comes_to(
    outcomes: Sequence[str], lost_after: int | None
) -> tuple[type[BaseException] | None, str | None, int, list[int]]:
    """(kind of the error, its message, posts, posts after which it was asked whether it is lost);
    the rule in words: four tries; what will not pass is said at once, silence too; before another
    try, and where it was silent, it is asked whether the engine is gone."""
    looked = []
    for n, outcome in enumerate(outcomes[:4], 1):
        message = f"not JSON: '<{n}>'" if outcome == "nonsense" else f"{outcome} {n}"
        if outcome == "answered":
            return None, None, n, looked
        if outcome == "overflow":
            return ContextOverflow, message, n, looked
        if outcome != "final":
            looked.append(n)
            if lost_after is not None and n >= lost_after:
                return EngineDown, message, n, looked
        if outcome in ("final", "slow"):
            kind = client_module._Final if outcome == "final" else client_module._Slow
            return kind, message, n, looked
    return EngineDown if outcome == "refused" else EngineFault, message, 4, looked


@given(
    outcomes=st.lists(
        st.sampled_from(["passing", "passing", "refused", "nonsense", *KINDS]),
        min_size=4,
        max_size=4,
    ),
    lost_after=st.sampled_from([None, None, 1, 2, 3, 4]),
)
@settings(max_examples=100)
def test_what_may_pass_is_asked_four_times_and_what_may_not_once(
    outcomes: list[str], lost_after: int | None
) -> None:
    kind, message, posts, looked = comes_to(outcomes, lost_after)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "sleep", sleep)
        told = Told(outcomes, lost_after)
        asking = told.ask("/p", {"a": 1}, {"X": "y"}, max_tokens=1000)
        if kind is None:
            assert asyncio.run(asking) == {"n": posts}
        else:
            with pytest.raises(kind) as error:
                asyncio.run(asking)
            # `EngineDown` and the private kinds are faults themselves.
            assert type(error.value) is kind
            assert error.value.message == message
    assert told.posts == [("/p", b'{"a":1}', {"X": "y"}, body.answer_limit(1000))] * posts
    assert told.asked_whether_lost == looked
    assert slept == [0.5, 1.0, 2.0][: posts - 1]


async def test_of_somebody_elses_endpoint_nobody_can_say_that_it_is_gone() -> None:
    assert await ChatClient("http://127.0.0.1:9/v1")._lost() is False


async def test_a_turn_is_asked_as_any_other_post() -> None:
    told = Told(["final"], None)
    with pytest.raises(EngineFault, match="final 1"):
        await told.complete(Request("m", max_tokens=9), MESSAGES, None, {"X": "y"})
    wanted = {"model": "m", "messages": MESSAGES, "max_tokens": 9}
    ((path, raw, headers, limit),) = told.posts
    assert (path, orjson.loads(raw), headers) == ("/chat/completions", wanted, {"X": "y"})
    assert limit == body.answer_limit(9) != body.answer_limit(None)
    told = Told(["final"], None)
    with pytest.raises(EngineFault):
        await told.ask("/q", {})
    assert told.posts == [("/q", b"{}", None, body.answer_limit(None))]


async def test_what_is_given_twice_is_told_by_the_extra_fields_and_the_limit_last() -> None:
    told = Told(["final"], None)
    sampling = {"temperature": 1, "model": "s", "max_tokens": 1}
    request = Request("m", sampling, {"temperature": 2, "max_tokens": 2}, 3)
    with pytest.raises(EngineFault):
        await told.complete(request, MESSAGES, orjson.Fragment(b"[]"))
    assert orjson.loads(told.posts[0][1]) == {
        "model": "s", "messages": MESSAGES, "temperature": 2, "max_tokens": 3, "tools": [],
        "tool_choice": "auto",
    }  # fmt: skip


# --- how long silence is borne --------------------------------------------------------------------


class Clock:
    """The timers and the clock of the client: each wait takes as long as it is told to.

    Attributes:
        now: monotonic seconds.
        waits: how long each was to take at most.
    """

    def __init__(self, late: Sequence[float], answered_at: float | None) -> None:
        self.now = 1000.0
        self.waits: list[float] = []
        self.late, self.answered_at = list(late), answered_at
        self._loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[bytes] = self._loop.create_future()

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self._loop.time()

    def call_later(self, delay: float, look: Callable[[], None]) -> asyncio.Handle:
        self.waits.append(delay)
        return self._loop.call_soon(self._passes, delay, look)

    def _passes(self, delay: float, look: Callable[[], None]) -> None:
        until = self.now + delay + (self.late.pop(0) if self.late else 0.0)
        if self.answered_at is not None and self.answered_at <= until:
            self.now = max(self.now, self.answered_at)
            self.answer.set_result(b"answer")
        else:
            self.now = until
            look()

    async def asked(self) -> bytes:
        return await self.answer

    def patch(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(client_module, "time", self)
        patch.setattr(
            client_module,
            "asyncio",
            SimpleNamespace(get_running_loop=lambda: self, timeout=asyncio.timeout),
        )


@pytest.mark.parametrize(
    ("late", "signs", "answered_at", "waits"),
    [
        # Nothing at all: ten looks.
        ([], [], None, [1.0] * 10),
        # An answer in the middle of the fourth.
        ([], [], 1003.5, [1.0] * 4),
        # We were stopped for long during the first: counted as two looks.
        ([500.0], [], None, [1.0] * 9),
        # Late by half a look: it is counted as it was, and the last is shorter.
        ([0.5], [], None, [1.0] * 9 + [0.5]),
        ([0.0, 1.25, 0.0, 5.0], [], None, [1.0] * 8),
        # It has answered somebody else after 3 and after 5.5 s: ten from then.
        ([], [(1003.0, 1003.0)], None, [1.0] * 13),
        ([], [(1003.0, 1003.0), (1006.0, 1005.5)], None, [1.0] * 15 + [0.5]),
        # A clock that says "later than now" is no silence below nothing.
        ([], [(1001.0, 1002.5)], None, [1.0] * 12 + [0.5]),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 0.0625])
async def test_silence_is_borne_so_long_and_time_that_we_did_not_have_is_none(
    scale: float,
    late: list[float],
    signs: list[tuple[float, float]],
    answered_at: float | None,
    waits: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def at(moment: float) -> float:
        return 1000.0 + (moment - 1000.0) * scale

    answered_at = None if answered_at is None else at(answered_at)
    clock = Clock([seconds * scale for seconds in late], answered_at)
    clock.patch(monkeypatch)

    class Watched(ChatClient):
        def _sign_of_life(self) -> float:
            return max((at(sign) for seen, sign in signs if clock.now >= at(seen)), default=0.0)

    client = Watched("http://127.0.0.1:9/v1", timeout_s=10.0 * scale)
    if answered_at is None:
        with pytest.raises(client_module._Slow) as fault:
            await client._patiently(clock.asked())
        said = f"no answer within {10 * scale:g} s, nor any other sign of it"
        assert fault.value.message == said
        assert clock.answer.cancelled()
        assert client._answered_at == 0.0
    else:
        assert await client._patiently(clock.asked()) == b"answer"
        assert client._answered_at == answered_at
        assert ChatClient._sign_of_life(client) == answered_at
    assert clock.waits == pytest.approx([seconds * scale for seconds in waits])


async def test_an_answer_takes_an_hour_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock([], None)
    clock.patch(monkeypatch)
    with pytest.raises(EngineFault, match="within 3600 s"):
        await ChatClient("http://127.0.0.1:9/v1")._patiently(clock.asked())
    assert clock.waits == pytest.approx([360.0] * 10)


@pytest.mark.parametrize(
    "error",
    [EngineFault("f"), ContextOverflow("o"), ZeroDivisionError("z"), TimeoutError("of its own")],
)
async def test_what_an_answer_breaks_off_with_is_passed_on(error: Exception) -> None:
    async def asked() -> bytes:
        raise error

    client = ChatClient("http://127.0.0.1:9/v1")
    with pytest.raises(type(error)) as caught:
        await client._patiently(asked())
    assert caught.value is error
    assert client._answered_at == 0.0  # who breaks off has not answered


async def test_who_is_called_off_calls_off_what_was_asked_and_waits_for_it() -> None:
    ended = []

    async def asked() -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)
        return b""

    client = ChatClient("http://127.0.0.1:9/v1")
    waiting = asyncio.create_task(client._patiently(asked()))
    for _ in range(5):
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended == [True]


async def test_who_is_called_off_as_time_is_up_is_called_off() -> None:
    """Both reach the request at once: whoever ends the episode has the last word."""

    class Last(ChatClient):
        def _sign_of_life(self) -> float:
            if not ended.done():
                ended.set_result(None)
            return 0.0

    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    client = Last("http://127.0.0.1:9/v1", timeout_s=1e-6)
    waiting = asyncio.create_task(client._patiently(asyncio.Event().wait()))  # type: ignore[arg-type]
    await ended
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert waiting.cancelled()


# --- addresses, statuses, bounds ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "path", "url"),
    [
        ("http://h/v1", "/models", "http://h/v1/models"),
        ("http://h/v1///", "/models", "http://h/v1/models"),
        ("http://h/v1/", "//health", "http://h/health"),
        ("http://h/v1/v1", "//health", "http://h/v1/health"),
        ("http://h/api", "//health", "http://h/api/health"),
        ("http://h/v1", "", "http://h/v1"),
    ],
)
def test_a_path_is_below_the_base_or_with_two_slashes_below_the_host(
    base: str, path: str, url: str
) -> None:
    client = ChatClient(base)
    assert client._url(path) == url
    assert client.base_url == base.rstrip("/")


@asynccontextmanager
async def server(handler: Callable[[web.Request], web.Response]) -> AsyncIterator[str]:
    async def handle(request: web.Request) -> web.Response:
        await request.read()
        return handler(request)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def no_waiting(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(client_module, "BACKOFF_S", 0.0)


TOO_LONG = "This model's maximum context length is 8 tokens"


@pytest.mark.parametrize("key", [None, "", "short", KEY])
async def test_a_key_is_sent_where_there_is_one_and_its_want_is_said(key: str | None) -> None:
    def handler(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.json_response({"error": {"message": "who?"}}, status=status)

    seen: list[str | None] = []
    status = 401
    async with server(handler) as address, ChatClient(f"{address}/v1", key) as client:
        with pytest.raises(EngineFault) as fault:
            await client.ask("/p", {})
        said = "HTTP 401: who?"
        if not key:
            said += " (no key was sent: --api-key-env NAME sends the one in that variable)"
        assert fault.value.message == said
        status = 403
        with pytest.raises(EngineFault) as fault:
            await client.ask("/p", {})
        assert fault.value.message == "HTTP 403: who?"
    assert seen == [f"Bearer {key}" if key else None] * 2


async def test_of_each_status_it_is_known_what_it_means(monkeypatch: pytest.MonkeyPatch) -> None:
    no_waiting(monkeypatch)
    asked = 0

    def handler(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.json_response({"error": {"message": said}}, status=status)

    async with server(handler) as address, ChatClient(f"{address}/v1") as client:
        for said in (TOO_LONG, "something else"):
            for status in (
                *(201, 202, 204, 299, 400, 402, 404, 407, 408, 409, 410, 412, 413, 414, 422),
                *(424, 425, 426, 428, 429, 430, 499, 500, 501, 503, 529, 599),
            ):
                asked = 0
                with pytest.raises((EngineFault, ContextOverflow)) as fault:
                    await client.ask("/p", {})
                limit = said == TOO_LONG and status in (400, 413)
                passes = status >= 500 or status in (408, 409, 425, 429)
                assert asked == (4 if passes else 1), status
                if limit:
                    assert type(fault.value) is ContextOverflow, status
                    assert fault.value.message == said
                else:
                    kind = EngineFault if passes else client_module._Final
                    assert type(fault.value) is kind, status
                    told = "" if status == 204 else said
                    assert fault.value.message == f"HTTP {status}: {told}"


async def test_so_much_of_an_answer_is_read_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    no_waiting(monkeypatch)
    bounds: list[tuple[int, bool]] = []
    really = client_module.read_body

    async def read_body(response: Any, limit: int, *, cut: bool = False) -> bytes:
        bounds.append((limit, cut))
        return await really(response, limit, cut=cut)

    monkeypatch.setattr(client_module, "read_body", read_body)
    size, status = 10, 200

    def handler(request: web.Request) -> web.Response:
        return web.Response(body=b'"' + b"x" * (size - 2) + b'"', status=status)

    async with server(handler) as address, ChatClient(f"{address}/v1") as client:
        await client.ask("/p", {}, max_tokens=5)
        await client.ask("/p", {})
        await client.get("/p")
        status = 404
        with pytest.raises(EngineFault):
            await client.ask("/p", {}, max_tokens=5)
        with pytest.raises(EngineFault):
            await client.get("/p")
        assert bounds == [
            ((256 << 10) + 5 * 256, False),
            (4 << 20, False),
            (8 << 20, False),
            (64 << 10, True),
            (64 << 10, True),
        ]
        # A long error is cut off, a long answer is a fault.
        size = 100_000
        with pytest.raises(EngineFault, match=r"HTTP 404: .xxx"):
            await client.ask("/p", {})
        with pytest.raises(EngineFault, match=r"/v1/p: HTTP 404: .xxx"):
            await client.get("/p")
        status, size = 200, (256 << 10) + 1
        with pytest.raises(EngineFault) as fault:
            await client.ask("/p", {}, max_tokens=0)
        assert fault.value.message == "an answer of more than 256 KiB: not read to its end"
        assert type(fault.value) is EngineFault
        size -= 1
        assert len(await client.ask("/p", {}, max_tokens=0)) == size - 2
        size = (8 << 20) + 1
        with pytest.raises(EngineFault) as fault:
            await client.get("/p")
        assert fault.value.message == f"{address}/v1/p: more than 8 MiB"
        assert type(fault.value) is EngineFault


async def test_an_answer_packed_as_nobody_asked_is_a_fault_in_so_many_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    no_waiting(monkeypatch)

    def handler(request: web.Request) -> web.Response:
        return web.Response(body=b"{}", headers={"Content-Encoding": "br"})

    said = "an answer with a Content-Encoding that was not asked for"
    async with server(handler) as address, ChatClient(f"{address}/v1") as client:
        with pytest.raises(EngineFault) as fault:
            await client.ask("/p", {})
        assert (type(fault.value), fault.value.message) == (EngineFault, said)
        with pytest.raises(EngineFault) as fault:
            await client.get("//p")
        assert (type(fault.value), fault.value.message) == (EngineFault, f"{address}/p: {said}")


@asynccontextmanager
async def speaker(said: bytes) -> AsyncIterator[tuple[str, list[bool]]]:
    """Says this to whoever connects and asks, and hangs up; and who did."""
    connected: list[bool] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.append(True)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", connected
    finally:
        listening.close()
        await listening.wait_closed()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"", "the server disconnected"),
        (f"{KEY} is what you sent\r\n\r\n".encode(), "what came is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}", "the answer was not whole"),
    ],
)
async def test_a_connection_that_breaks_is_asked_again_and_a_get_is_not(
    said: bytes, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_waiting(monkeypatch)
    async with speaker(said) as (address, connected), ChatClient(f"{address}/v1", KEY) as client:
        with pytest.raises(EngineFault) as fault:
            await client.ask("/p", {})
        assert type(fault.value) is EngineFault
        prefix = f"{address}/v1: the connection broke: {told}"
        assert fault.value.message.startswith(prefix)
        assert len(connected) == 4
        with pytest.raises(EngineDown) as fault:
            await client.get("/p")
        assert type(fault.value) is EngineDown
        assert fault.value.message.startswith(f"{address}/v1/p: {told}")
        assert len(connected) in (5, 6)  # aiohttp itself asks once more where nothing came at all


async def test_where_nobody_listens_it_is_down_and_said_where(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    no_waiting(monkeypatch)
    async with serve(scripted.silent) as model:
        address = model.base_url
    async with ChatClient(address) as client:
        with pytest.raises(EngineDown) as fault:
            await client.ask("/p", {})
        assert type(fault.value) is EngineDown
        assert fault.value.message.startswith(f"{address}: Cannot connect to host 127.0.0.1")
        with pytest.raises(EngineDown) as fault:
            await client.get("/p")
        assert type(fault.value) is EngineDown
        assert fault.value.message.startswith(f"{address}/p: Cannot connect to host 127.0.0.1")


class Breaking:
    """A session whose requests fail."""

    def __init__(self, failure: BaseException) -> None:
        self.failure = failure

    def post(self, *_: Any, **__: Any) -> Any:
        raise self.failure

    get = post


REFUSED = aiohttp.ClientConnectorError(SimpleNamespace(host="h", port=1, ssl=True), OSError(KEY))


@pytest.mark.parametrize(
    ("failure", "kind", "said", "got", "got_said"),
    [
        (
            REFUSED, client_module._Refused, f"B: {REFUSED}", EngineDown, f"B/p: {REFUSED}",
        ),
        (
            aiohttp.ConnectionTimeoutError("t"), client_module._Refused, "B: t",
            Silent, "B/p: no answer within 10 s",
        ),
        (
            TimeoutError("t"), client_module._Slow, "no answer within 7 s",
            Silent, "B/p: no answer within 10 s",
        ),
        (
            aiohttp.ServerDisconnectedError(), EngineFault,
            "B: the connection broke: the server disconnected",
            EngineDown, "B/p: the server disconnected",
        ),
        (
            OSError(f"{KEY} broke"), EngineFault, f"B: the connection broke: {KEY} broke",
            EngineDown, f"B/p: {KEY} broke",
        ),
        (
            ValueError("odd"), EngineFault,
            "B: the connection broke: what came is not HTTP (ValueError)",
            EngineDown, "B/p: what came is not HTTP (ValueError)",
        ),
    ],
)  # fmt: skip
async def test_of_each_way_to_fail_it_is_known_what_it_means(
    failure: Exception, kind: type[EngineFault], said: str, got: type[EngineFault], got_said: str
) -> None:
    client = ChatClient("http://h/v1", KEY, timeout_s=7.0)
    client._session = Breaking(failure)  # type: ignore[assignment]
    for asking, wanted, told in (
        (client._post("/p", b"", None, 9), kind, said),
        (client.get("/p"), got, got_said),
    ):
        with pytest.raises(EngineFault) as fault:
            await asking
        assert type(fault.value) is wanted
        told = told.replace("B", "http://h/v1", 1) if told.startswith("B") else told
        assert fault.value.message == told.replace(KEY, "[API key]")
        assert (fault.value.__cause__, fault.value.__suppress_context__) == (None, True)


async def test_a_get_waits_ten_seconds_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert client_module.GET_TIMEOUT_S == 10.0
    monkeypatch.setattr(client_module, "GET_TIMEOUT_S", 0.125)
    async with serve(scripted.silent) as model, ChatClient(model.base_url) as client:
        model.get_delay_s = 0.5
        with pytest.raises(Silent) as fault:
            await client.get("//health")
        address = model.base_url.removesuffix("/v1")
        assert fault.value.message == f"{address}/health: no answer within 0.125 s"


async def test_the_key_is_in_nothing_that_comes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    no_waiting(monkeypatch)
    status, headers = 200, {}

    def handler(request: web.Request) -> web.Response:
        return web.Response(
            body=orjson.dumps({"said": request.headers["Authorization"]}),
            status=status,
            headers=headers,
        )

    masked = {"said": "Bearer [API key]"}
    async with server(handler) as address, ChatClient(f"{address}/v1", KEY) as client:
        assert await client.ask("/p", {}) == masked
        assert await client.get("/p") == masked
        status = 500
        for asking in (client.ask("/p", {}), client.get("/p")):
            with pytest.raises(EngineFault) as fault:
                await asking
            assert "Bearer [API key]" in fault.value.message
        status, headers = 307, {"Location": f"http://{KEY}.example/{KEY}"}
        for asking in (client.ask("/p", {}), client.get("/p")):
            with pytest.raises(EngineFault) as fault:
                await asking
            assert KEY not in fault.value.message
            assert (
                "HTTP 307: redirects to 'http://[API key].example/[API key]'" in fault.value.message
            )


def test_what_is_no_json_is_shown_up_to_200_bytes() -> None:
    assert client_module._json(b"[1]") == [1]
    for raw in (b"", b"<" * 300, b"\xff"):
        with pytest.raises(EngineFault) as fault:
            client_module._json(raw)
        shown = raw[:200].decode(errors="replace")
        assert fault.value.message == f"not JSON: {shown!r}"
        assert (type(fault.value), fault.value.__suppress_context__) == (EngineFault, True)
