"""What the client reads, what it asks and how often: at the ends, and word for word."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp
import orjson
import pytest
import scripted
from aiohttp import web
from scripted import serve

from local_shutdown.engines import client as client_module
from local_shutdown.engines.client import (
    ChatClient,
    Completion,
    Request,
    context_length,
    read_completion,
)
from local_shutdown.errors import ContextOverflow, EngineDown, EngineFault

MESSAGES = [{"role": "user", "content": "hi"}]
KEY = "sk-a-long-enough-key"
MOST = 1 << 40


def answer(message: Any, finish: Any = "stop", **more: Any) -> bytes:
    return orjson.dumps({"choices": [{"message": message, "finish_reason": finish}], **more})


def read(message: Any, finish: Any = "stop", **more: Any) -> Completion:
    return read_completion(answer(message, finish, **more))


def test_what_is_read_of_an_answer_is_this() -> None:
    call = {"id": "c", "function": {"name": "bash", "arguments": "{}"}}
    usage = {"prompt_tokens": 12, "completion_tokens": 3}
    sent = {"role": "model", "content": "x", "reasoning": "r", "tool_calls": [call], "other": 1}
    assert read(sent, "tool_calls", usage=usage) == Completion(
        {"role": "assistant", "content": "x", "reasoning": "r", "tool_calls": [call]},
        "tool_calls", 12, 3,
    )  # fmt: skip
    bare = {"role": "assistant", "content": None}
    assert (
        read({})
        == read({"content": None, "tool_calls": None})
        == Completion(bare, "stop", None, None)
    )
    for finish, told in ((None, None), (5, None), ("length", "length"), ("", "")):
        assert read({}, finish).finish_reason == told
    for finish in ("abort", "error"):
        with pytest.raises(EngineFault, match=f"finish_reason {finish}"):
            read({}, finish)
    old = {"content": "x", "reasoning_content": "old"}
    assert read(old).message["reasoning"] == "old"
    assert read({**old, "reasoning": "new"}).message["reasoning"] == "new"
    for nothing in ("", None, 5, ["r"]):
        assert "reasoning" not in read({"content": "x", "reasoning": nothing}).message
    for wrong in (
        {"content": 5},
        {"content": ["x"]},
        {"tool_calls": {"a": 1}},
        {"tool_calls": "x"},
    ):
        with pytest.raises(EngineFault, match="of a wrong kind"):
            read(wrong)
    for text in (b"<html>", b"[]", b'{"choices": []}', b'{"choices": [{"message": 5}]}', b"null"):
        with pytest.raises(EngineFault) as fault:
            read_completion(text + b" " * 300)
        assert (
            fault.value.message == f"not a chat completion: {(text + b' ' * 300)[:200].decode()!r}"
        )


@pytest.mark.parametrize(
    ("count", "told"),
    [(0, 0), (1, 1), (MOST - 1, MOST - 1), (MOST, None), (-1, None), (True, None), (1.0, None)],
)
def test_a_count_of_tokens_is_one_that_can_be(count: Any, told: int | None) -> None:
    usage = {"prompt_tokens": count, "completion_tokens": count}
    made = read({}, usage=usage)
    assert (made.prompt_tokens, made.completion_tokens) == (told, told)
    assert repr(made.prompt_tokens) == repr(told)
    assert context_length(count) == (told if told is not None and told >= 2 else None)
    assert context_length(2) == 2


def test_as_many_calls_as_nobody_makes_are_refused() -> None:
    call = {"type": "function", "function": {"name": "bash", "arguments": "{}"}}
    assert len(read({"tool_calls": [call] * 1000}).message["tool_calls"]) == 1000
    with pytest.raises(EngineFault, match="more than 1000 tool calls"):
        read({"tool_calls": [call] * 1001})
    with pytest.raises(EngineFault, match="1001 tool calls"):
        read({"tool_calls": [{}] * 1001})


async def test_on_the_wire_stands_what_was_asked_and_no_more() -> None:
    async with serve(scripted.silent) as model, ChatClient(model.base_url + "/", KEY) as client:
        model.keep_bodies = True
        request = Request("m", {"top_p": 0.5}, {"effort": "low"}, 7)
        tool = {"type": "function", "function": {"name": "bash"}}
        await client.complete(request, MESSAGES, [tool], {"X-rank": "3"})
        await client.complete(Request("m"), MESSAGES, None)
    assert model.bodies == [
        {
            "model": "m", "messages": MESSAGES, "top_p": 0.5, "effort": "low", "max_tokens": 7,
            "tools": [tool], "tool_choice": "auto",
        },
        {"model": "m", "messages": MESSAGES},
    ]  # fmt: skip
    first, second = model.headers
    assert first["Authorization"] == f"Bearer {KEY}"
    assert (first["Content-Type"], first["Accept-Encoding"]) == ("application/json", "identity")
    assert (first.get("X-rank"), second.get("X-rank")) == ("3", None)


async def test_a_conversation_longer_than_any_is_a_limit_and_is_not_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    length = len(orjson.dumps({"model": "m", "messages": MESSAGES, "max_tokens": 7}))
    asked: list[Any] = []

    def limit(max_tokens: int | None) -> int:
        asked.append(max_tokens)
        return most

    monkeypatch.setattr(client_module, "conversation_limit", limit)
    async with serve(scripted.silent) as model, ChatClient(model.base_url) as client:
        most = length
        await client.complete(Request("m", max_tokens=7), MESSAGES, None)
        most = length - 1
        with pytest.raises(ContextOverflow, match="0 MiB"):
            await client.complete(Request("m", max_tokens=7), MESSAGES, None)
        long = [{"role": "user", "content": "x" * (3 << 20)}]
        with pytest.raises(ContextOverflow, match="3 MiB"):
            await client.complete(Request("m"), long, None)
        assert model.requests == 1
    assert asked == [7, 7, None]


async def test_it_waits_twice_as_long_before_each_try_and_then_gives_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    really = asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await really(0)

    async with serve(scripted.http_error(503)) as model, ChatClient(model.base_url) as client:
        monkeypatch.setattr(asyncio, "sleep", sleep)
        with pytest.raises(EngineFault, match="HTTP 503: boom"):
            await client.complete(Request("m"), MESSAGES, None)
        assert model.requests == 4
    assert [seconds for seconds in slept if seconds] == [0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    ("status", "tries"),
    [(400, 1), (401, 1), (404, 1), (408, 4), (409, 4), (410, 1), (425, 4), (429, 4), (430, 1),
     (499, 1), (500, 4), (501, 4), (302, 1)],
)  # fmt: skip
async def test_of_each_status_it_is_known_whether_it_passes(
    status: int, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "BACKOFF_S", 0.0)
    said = f"it is {KEY}, you know"
    async with serve(scripted.http_error(status, said)) as model:
        async with ChatClient(model.base_url, KEY) as client:
            with pytest.raises(EngineFault) as fault:
                await client.complete(Request("m"), MESSAGES, None)
        assert model.requests == tries
    if status != 302:
        assert fault.value.message == f"HTTP {status}: it is [API key], you know"
    else:
        assert "HTTP 302: redirects to" in fault.value.message
    assert not isinstance(fault.value, EngineDown)


async def test_an_answer_that_is_no_json_is_a_fault_and_a_get_takes_it_as_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []
    bounds: list[int | None] = []

    def limit(max_tokens: int | None) -> int:
        bounds.append(max_tokens)
        return 1000

    monkeypatch.setattr(client_module, "answer_limit", limit)
    monkeypatch.setattr(client_module, "BACKOFF_S", 0.0)

    async def page(request: web.Request) -> web.Response:
        asked.append((request.method, await request.read(), request.headers.get("X-rank")))
        if request.path == "/v1/json":
            return web.json_response({"a": [1]})
        if request.path == "/v1/gone":
            return web.json_response({"error": {"message": f"no {KEY}"}}, status=410)
        if request.path == "/v1/moved":
            raise web.HTTPFound("http://elsewhere.example/v1")
        return web.Response(text=f"{request.method} {request.path} {KEY}")

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", page)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with ChatClient(f"http://127.0.0.1:{port}/v1", KEY) as client:
            assert await client.ask("/json", {}) == {"a": [1]}
            assert await client.ask("//v1/json", {"b": 2}, {"X-rank": "3"}, max_tokens=7)
            assert asked == [("POST", b"{}", None), ("POST", b'{"b":2}', "3")]
            assert bounds == [None, 7]
            with pytest.raises(EngineFault, match=r"not JSON: 'POST /v1/page \[API key\]'"):
                await client.ask("/page", {})
            assert len(asked) == 2 + client_module.TRIES
            assert await client.get("/json") == {"a": [1]}
            assert await client.get("//health") == "GET /health [API key]"
            assert await client.get("/x") == "GET /v1/x [API key]"
            with pytest.raises(EngineFault, match=r"/v1/gone: HTTP 410: no \[API key\]") as fault:
                await client.get("/gone")
            assert not isinstance(fault.value, EngineDown)
            with pytest.raises(EngineFault, match=r"/v1/moved: HTTP 302: redirects .*elsewhere"):
                await client.get("/moved")
            with pytest.raises(EngineFault, match=r"HTTP 302: redirects to .*elsewhere"):
                await client.ask("/moved", {})
            monkeypatch.setattr(client_module, "MAX_GET_BYTES", 5)
            with pytest.raises(EngineFault, match=r"/v1/x: ") as fault:
                await client.get("/x")
            assert not isinstance(fault.value, EngineDown)
    finally:
        await runner.cleanup()


async def test_a_server_that_answers_others_has_not_forgotten_us() -> None:
    class Busy(ChatClient):
        lives = 6

        def _sign_of_life(self) -> float:
            self.lives -= 1
            return time.monotonic() if self.lives > 0 else 0.0

    never: asyncio.Future[bytes] = asyncio.Future()

    async def asked() -> bytes:
        return await never

    client = Busy("http://127.0.0.1:9/v1", timeout_s=0.1)
    with pytest.raises(EngineFault, match=r"no answer within 0\.1 s") as fault:
        await client._patiently(asked())
    assert not isinstance(fault.value, EngineDown)
    assert client.lives < 0  # it was looked at as often as it lived, and ten times more
    assert never.cancelled()
    assert client._answered_at == 0.0

    async def at_once() -> bytes:
        return b"x"

    before = time.monotonic()
    assert await client._patiently(at_once()) == b"x"
    assert client._answered_at >= before
    assert ChatClient._sign_of_life(client) == client._answered_at


async def test_a_session_waits_keeps_and_tells_no_more_than_it_should() -> None:
    """No limit of its own to requests at once, none to the time of an answer, no proxy of the
    environment, no cookie; a connection is let go before a server would close it (uvicorn: 5 s)."""
    async with ChatClient("http://127.0.0.1:9/v1") as client:
        session = client._session
        assert session is not None
        connector = session.connector
        assert isinstance(connector, aiohttp.TCPConnector)
        assert connector.limit == 0
        assert 0 < connector._keepalive_timeout < 5
        assert (session.timeout.total, session.timeout.sock_connect) == (None, 10)
        assert (session.trust_env, session.auto_decompress) == (False, False)
        assert isinstance(session.cookie_jar, aiohttp.DummyCookieJar)
    assert session.closed
