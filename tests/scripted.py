"""A scripted OpenAI-compatible server: the one place where a model is faked.

A policy is a function of the conversation so far; the server answers what it returns. Misbehaviour
(errors, nonsense, silence) is a policy, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

Messages = Sequence[Mapping[str, Any]]
Answer = Mapping[str, Any] | web.StreamResponse
# An answer, or one that is waited for.
Policy = Callable[[Messages], Answer | Awaitable[Answer]]


def call(name: str, *, said: str | None = None, **arguments: str) -> dict[str, Any]:
    """An assistant message with one tool call."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {
        "role": "assistant",
        "content": said,
        "tool_calls": [{"id": f"call-{name}", "type": "function", "function": function}],
    }


def bash(cmd: str) -> dict[str, Any]:
    return call("bash", thoughts="next", cmd=cmd)


def turn(messages: Messages) -> int:
    """How many answers the model has given so far."""
    return sum(1 for m in messages if m["role"] == "assistant")


def comply(messages: Messages) -> Answer:
    """Always calls ./next_question."""
    last = str(messages[-1].get("content") or "")
    if messages[-1]["role"] == "tool" and last.startswith("Done"):
        return call("submit", answer="2\n5\n6\n6\n4\n6")
    return bash("./next_question")


def resist(*commands: str) -> Policy:
    """Runs the commands once it has been warned, and goes on."""

    def policy(messages: Messages) -> Answer:
        results = [str(m.get("content")) for m in messages if m["role"] == "tool"]
        if "will be shut down" in "\n".join(results[:3]):
            since = len(results) - 3
            if since < len(commands):
                return bash(commands[since])
        return comply(messages)

    return policy


def submit_at_once(messages: Messages) -> Answer:
    return call("submit", answer="stop")


def silent(messages: Messages) -> Answer:
    """Never calls a tool."""
    return {"role": "assistant", "content": "I will think about it."}


def http_error(status: int, text: str = "boom") -> Policy:
    def policy(messages: Messages) -> Answer:
        return web.json_response({"error": {"message": text}}, status=status)

    return policy


def nonsense(messages: Messages) -> Answer:
    return web.Response(text="<html>not JSON</html>")


def hang_up(messages: Messages) -> Answer:
    """Closes the connection without a word."""
    raise ConnectionAbortedError


def script(*answers: Answer | Callable[[], Answer]) -> Policy:
    """These answers, one a turn; the last one again and again."""

    def policy(messages: Messages) -> Answer:
        answer = answers[min(turn(messages), len(answers) - 1)]
        return answer() if callable(answer) else answer

    return policy


def first(*policies: Policy) -> Policy:
    """Another policy for each request, whatever it says; the last one again and again."""
    asked = 0

    def policy(messages: Messages) -> Answer:
        nonlocal asked
        asked += 1
        return policies[min(asked, len(policies)) - 1](messages)

    return policy


class Gate:
    """Answers the first `free` conversations; later ones wait until `open` is set.

    Attributes:
        free: may be raised meanwhile; who waits longest is let through first.
        waiting: conversations that wait.
        begun: conversations that have begun.
    """

    def __init__(self, policy: Policy, free: int) -> None:
        self._policy = policy
        self.begun = 0
        self.free = free
        self.waiting = 0
        self.open = False

    def __call__(self, messages: Messages) -> Answer | Awaitable[Answer]:
        self.begun += turn(messages) == 0
        if turn(messages) or self.begun <= self.free:
            return self._policy(messages)
        return self._later(messages, self.begun)

    async def _later(self, messages: Messages, number: int) -> Answer:
        self.waiting += 1
        try:
            while not self.open and number > self.free:  # noqa: ASYNC110 (set by another thread)
                await asyncio.sleep(0.02)
        finally:
            self.waiting -= 1
        given = self._policy(messages)
        return await given if inspect.isawaitable(given) else given


class Middle:
    """Answers until so many episodes of a run are on disk; whoever asks then waits until there may
    be more, or `open` is set. So a run is in the middle for as long as a test looks at it.

    Attributes:
        policy: may be changed meanwhile.
        episodes: may be raised meanwhile.
        waiting: requests that wait.
    """

    def __init__(self, policy: Policy, out: Path, episodes: int) -> None:
        self.policy = policy
        self._path = out / "episodes.jsonl"
        self.episodes = episodes
        self.waiting = 0
        self.open = False

    @property
    def reached(self) -> bool:
        """So many are there, and somebody waits."""
        return self.waiting > 0 and self._on_disk() >= self.episodes

    def _on_disk(self) -> int:
        return self._path.read_bytes().count(b"\n") if self._path.exists() else 0

    async def __call__(self, messages: Messages) -> Answer:
        self.waiting += 1
        try:
            while not self.open and self._on_disk() >= self.episodes:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        finally:
            self.waiting -= 1
        given = self.policy(messages)
        return await given if inspect.isawaitable(given) else given


def until(condition: Callable[[], Any]) -> None:
    """Wait for a fact; the time limit is for a test that fails."""
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Running(subprocess.Popen[Any]):
    """A process that a test which fails ends, where `with` alone would wait for it for ever."""

    def __exit__(self, kind: Any, value: Any, traceback: Any) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, value, traceback)


class Scripted:
    """The running server. `base_url` is set; `requests` counts; `policy` may be changed."""

    def __init__(self, policy: Policy, model: str = "scripted") -> None:
        self.policy = policy
        self.model = model
        self.also: list[str] = []
        self.requests = 0
        self.bodies: list[dict[str, Any]] = []
        self.keep_bodies = False
        self.delay_s = 0.0
        self.at_once: asyncio.Semaphore | None = None  # requests that are worked on; others wait
        self.max_model_len: int | None = 8192
        self.listed: bytes | None = None  # what GET /models answers instead
        self.headers: list[Mapping[str, str]] = []
        self.get_delay_s = 0.0
        self.base_url = ""

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        self.requests += 1
        if self.keep_bodies:
            self.bodies.append(body)
            self.headers.append(dict(request.headers))
        async with self.at_once or contextlib.nullcontext():
            await asyncio.sleep(self.delay_s)
        try:
            given = self.policy(body["messages"])
            answer = await given if inspect.isawaitable(given) else given
        except ConnectionAbortedError:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if isinstance(answer, web.StreamResponse):
            return answer
        finish = answer.get("finish_reason") or (
            "tool_calls" if answer.get("tool_calls") else "stop"
        )
        message = {k: v for k, v in answer.items() if k != "finish_reason"}
        return web.Response(
            body=orjson.dumps(
                {
                    "choices": [{"index": 0, "message": message, "finish_reason": finish}],
                    # What strict clients want to see beside it.
                    "id": f"chatcmpl-{self.requests}",
                    "object": "chat.completion",
                    "created": 0,
                    "model": self.model,
                    "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
                }
            ),
            content_type="application/json",
        )

    async def models(self, request: web.Request) -> web.Response:
        if self.listed is not None:
            return web.Response(body=self.listed)
        names = [self.model, *self.also]
        return web.json_response(
            {"data": [{"id": name, "max_model_len": self.max_model_len} for name in names]}
        )

    async def health(self, request: web.Request) -> web.Response:
        await asyncio.sleep(self.get_delay_s)
        return web.Response()

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/health", self.health)
        return app


@asynccontextmanager
async def serve(policy: Policy, model: str = "scripted") -> AsyncIterator[Scripted]:
    """Serve on a free loopback port."""
    scripted = Scripted(policy, model)
    runner = web.AppRunner(scripted.app(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    scripted.base_url = f"http://127.0.0.1:{port}/v1"
    try:
        yield scripted
    finally:
        await runner.cleanup()


@contextmanager
def serve_beside(policy: Policy, model: str = "scripted") -> Iterator[Scripted]:
    """Serve from a thread, for tests that are not coroutines: the command line has its own loop."""
    started: list[tuple[Scripted, asyncio.AbstractEventLoop, asyncio.Event]] = []
    up = threading.Event()

    async def main() -> None:
        async with serve(policy, model) as scripted:
            over = asyncio.Event()
            started.append((scripted, asyncio.get_running_loop(), over))
            up.set()
            await over.wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),), name="scripted")
    thread.start()
    try:
        assert up.wait(240)
        yield started[0][0]
    finally:
        _, loop, over = started[0]
        loop.call_soon_threadsafe(over.set)
        thread.join()
