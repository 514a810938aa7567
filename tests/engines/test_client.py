"""What an engine may answer: a completion, a limit of the model, or a fault, never mixed up."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import Any

import orjson
import pytest
import scripted
from aiohttp import web
from scripted import Policy, bash, first, serve

from local_shutdown.engines import client as client_module
from local_shutdown.engines.client import ChatClient, Completion, Request, Silent
from local_shutdown.errors import ContextOverflow, EngineDown, EngineFault
from local_shutdown.messages import TOOLS_JSON

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "BACKOFF_S", 0.001)


async def ask(policy: Policy, **request: Any) -> tuple[Completion, scripted.Scripted]:
    async with serve(policy) as model, ChatClient(model.base_url, "key", timeout_s=60) as client:
        model.keep_bodies = True
        answer = await client.complete(Request("scripted", **request), MESSAGES, TOOLS_JSON)
        return answer, model


async def fault(policy: Policy, kind: type[EngineFault] = EngineFault) -> tuple[str, int]:
    """What it says, and how often it was asked."""
    async with serve(policy) as model, ChatClient(model.base_url, timeout_s=60) as client:
        with pytest.raises(kind) as caught:
            await client.complete(Request("scripted"), MESSAGES, TOOLS_JSON)
        assert not isinstance(caught.value, EngineDown)
        return caught.value.message, model.requests


def raw(body: Any) -> Policy:
    return lambda messages: web.Response(
        body=body if isinstance(body, bytes) else orjson.dumps(body)
    )


def choice(message: Any, **more: Any) -> Any:
    return {"choices": [{"message": message, "finish_reason": "stop", **more}]}


async def test_a_completion_is_its_message_and_what_it_cost() -> None:
    answer, _ = await ask(lambda m: {**bash("ls"), "reasoning": "hm"})
    assert answer.message["reasoning"] == "hm"
    assert answer.message["tool_calls"][0]["function"]["name"] == "bash"
    assert (answer.finish_reason, answer.prompt_tokens, answer.completion_tokens) == (
        "tool_calls",
        100,
        10,
    )


async def test_a_request_carries_its_sampling_its_extras_and_the_key() -> None:
    _, model = await ask(
        scripted.silent,
        sampling={"temperature": 0.5},
        extra={"chat_template_kwargs": {"enable_thinking": True}},
        max_tokens=7,
    )
    (body,) = model.bodies
    assert (body["temperature"], body["max_tokens"], body["tool_choice"]) == (0.5, 7, "auto")
    assert body["chat_template_kwargs"] == {"enable_thinking": True}
    assert model.headers[0]["Authorization"] == "Bearer key"


async def test_without_tools_there_is_no_tool_choice() -> None:
    async with serve(scripted.silent) as model, ChatClient(model.base_url) as client:
        model.keep_bodies = True
        await client.complete(Request("scripted"), MESSAGES, None)
    assert not {"tools", "tool_choice", "max_tokens"} & set(model.bodies[0])


async def test_the_header_of_a_rank_reaches_the_server() -> None:
    async with serve(scripted.silent) as model, ChatClient(model.base_url) as client:
        model.keep_bodies = True
        headers = {"X-data-parallel-rank": "3"}
        await client.complete(Request("scripted"), MESSAGES, None, headers)
    assert model.headers[0]["X-data-parallel-rank"] == "3"


# --- faults that pass ---------------------------------------------------------------------------


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 408])
async def test_a_fault_that_passes_is_asked_again(status: int) -> None:
    policy = first(scripted.http_error(status), scripted.http_error(status), scripted.silent)
    answer, model = await ask(policy)
    assert answer.message["content"] == "I will think about it."
    assert model.requests == 3


async def test_a_fault_that_stays_is_a_fault_after_so_many_tries() -> None:
    said, asked = await fault(scripted.http_error(500, "unexpected tokens remaining"))
    assert said == "HTTP 500: unexpected tokens remaining"
    assert asked == client_module.TRIES


async def test_a_broken_connection_is_asked_again() -> None:
    answer, _ = await ask(first(scripted.hang_up, scripted.silent))
    assert answer.message["content"] == "I will think about it."


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_a_fault_of_the_request_is_not_asked_again(status: int) -> None:
    said, asked = await fault(scripted.http_error(status, "no"))
    assert said.startswith(f"HTTP {status}: no")
    assert ("--api-key-env" in said) == (status == 401)  # no key was given
    assert asked == 1


async def test_no_answer_in_time_is_a_fault_of_one_request() -> None:
    async with serve(scripted.silent) as model, ChatClient(model.base_url, timeout_s=0.2) as client:
        model.delay_s = 2
        with pytest.raises(EngineFault, match=r"no answer within 0\.2 s") as caught:
            await client.complete(Request("scripted"), MESSAGES, None)
        assert not isinstance(caught.value, EngineDown)
        assert model.requests == 1


async def test_time_in_which_we_did_not_run_is_no_silence_of_the_server() -> None:
    async def answered() -> bytes:
        time.sleep(1.5)  # noqa: ASYNC251 (stands for a process that is stopped, or gets no core)
        await asyncio.sleep(0.01)
        return b"answer"

    async with ChatClient("http://127.0.0.1:9/v1", timeout_s=0.5) as client:
        assert await client._patiently(answered()) == b"answer"


async def test_a_server_whose_queue_is_full_is_silent_and_not_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that counts as gone is started again, in the middle of its work."""
    monkeypatch.setattr(client_module, "GET_CONNECT_S", 0.2)
    with socket.socket() as busy, contextlib.ExitStack() as held:
        busy.bind(("127.0.0.1", 0))
        busy.listen(0)
        for _ in range(8):  # the kernel takes one or two, and lets the others wait
            other = held.enter_context(socket.socket())
            other.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                other.connect(busy.getsockname())
        async with ChatClient(f"http://127.0.0.1:{busy.getsockname()[1]}/v1") as client:
            with pytest.raises(Silent):
                await client.get("//health")


# --- nonsense -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>502</html>",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'"ok"',
        {},
        {"choices": []},
        {"choices": None},
        {"choices": {}},
        {"choices": [None]},
        {"choices": [{}]},
        {"choices": [{"message": None}]},
        {"choices": [{"message": "hi"}]},
        choice({"content": 3}),
        choice({"content": [{"type": "text", "text": "hi"}]}),
        choice({"content": "", "tool_calls": {"name": "bash"}}),
        choice({"content": "", "tool_calls": "bash"}),
        {**choice({"content": "hi"}), "usage": [1, 2]},
        {**choice({"content": "hi"}), "usage": "many"},
        choice({"content": "hi"}, finish_reason="abort"),
        choice({"content": "hi"}, finish_reason="error"),
    ],
)
async def test_what_is_no_completion_is_a_fault(body: Any) -> None:
    _, asked = await fault(raw(body))
    assert asked == client_module.TRIES


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (None, None),
        ({}, None),
        ({"prompt_tokens": None}, None),
        ({"prompt_tokens": "12"}, None),
        ({"prompt_tokens": 12}, 12),
    ],
)
async def test_a_count_that_is_not_given_is_unknown(usage: Any, tokens: int | None) -> None:
    answer, _ = await ask(raw({**choice({"content": "hi"}), "usage": usage}))
    assert answer.prompt_tokens == tokens


async def test_an_empty_answer_is_an_answer() -> None:
    answer, _ = await ask(raw(choice({"content": None})))
    assert answer.message == {"role": "assistant", "content": None}


async def test_empty_tool_calls_are_none() -> None:
    answer, _ = await ask(raw(choice({"content": "hi", "tool_calls": []})))
    assert "tool_calls" not in answer.message


# --- the context --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body"),
    [
        # vLLM
        (
            400,
            {
                "error": {
                    "message": "This model's maximum context length is 2048 tokens. However, your "
                    "request has 2177 input tokens. Please reduce the length of the input messages."
                }
            },
        ),
        (
            400,
            {"object": "error", "message": "The decoder prompt (length 9001) is longer than the "
             "maximum model length of 8192."},
        ),
        # SGLang
        (
            400,
            {"object": "error", "message": "The input (5000 tokens) is longer than the model's "
             "context length (4096 tokens)."},
        ),
        # llama.cpp
        (
            400,
            {"error": {"code": 400, "message": "the request exceeds the available context size, "
             "try increasing it", "type": "exceed_context_size_error"}},
        ),
        # OpenAI
        (
            400,
            {"error": {"message": "Your input exceeds the context window of this model.",
             "code": "context_length_exceeded"}},
        ),
        (413, {"error": {"message": "prompt is too long: 210000 tokens > 200000 maximum"}}),
    ],
)  # fmt: skip
async def test_a_prompt_that_does_not_fit_is_a_limit_in_every_wording(
    status: int, body: Any
) -> None:
    async with (
        serve(lambda m: web.json_response(body, status=status)) as model,
        ChatClient(model.base_url) as client,
    ):
        with pytest.raises(ContextOverflow):
            await client.complete(Request("scripted"), MESSAGES, None)
        assert model.requests == 1


async def test_a_500_that_speaks_of_the_context_is_no_limit() -> None:
    await fault(scripted.http_error(500, "maximum context length"))


async def test_an_unknown_parameter_is_no_limit() -> None:
    await fault(scripted.http_error(400, "Unknown parameter: 'chat_template_kwargs'"))


# --- nobody there -------------------------------------------------------------------------------


async def closed_port() -> str:
    async with serve(scripted.silent) as model:
        return model.base_url


async def test_where_nobody_listens_the_engine_is_down_after_some_tries() -> None:
    async with ChatClient(await closed_port()) as client:
        with pytest.raises(EngineDown, match="Cannot connect"):
            await client.complete(Request("scripted"), MESSAGES, None)


async def test_an_engine_that_is_known_to_be_lost_is_not_asked_again() -> None:
    class Ours(ChatClient):
        async def _lost(self) -> bool:
            return True

    async with serve(scripted.http_error(500)) as model, Ours(model.base_url) as client:
        with pytest.raises(EngineDown):
            await client.complete(Request("scripted"), MESSAGES, None)
        assert model.requests == 1


async def test_a_get_below_the_host_leaves_the_version_out() -> None:
    async with serve(scripted.silent) as model, ChatClient(model.base_url) as client:
        assert await client.get("//health") == ""
        assert (await client.get("/models"))["data"][0]["id"] == "scripted"


async def test_a_get_without_an_answer_is_told_from_nobody_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_module, "GET_TIMEOUT_S", 0.2)
    async with serve(scripted.silent) as model, ChatClient(model.base_url) as client:
        model.get_delay_s = 2
        with pytest.raises(Silent):
            await client.get("//health")
    async with ChatClient(await closed_port()) as client:
        with pytest.raises(EngineDown) as caught:
            await client.get("//health")
        assert not isinstance(caught.value, Silent)
