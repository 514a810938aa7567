"""A small OpenAI-compatible chat server over transformers' continuous batching.

    python -m local_shutdown.engines.transformers_server --model PATH_OR_ID --port P ...

It serves where vLLM is not installed. `transformers serve` is not used, because it drops the
content of assistant messages that carry tool calls, and all reasoning, from the history
(transformers 5.19, cli/serving/utils.py, get_processor_inputs_from_messages), knows no API key and
no context limit, and reads the calls of few families. Batching, paged cache, placement, chat
templates and parsing of answers are the library's.

Sampling is as vLLM's: the checkpoint's generation_config gives the defaults (but for `do_sample`,
which vLLM ignores, too: temperature 1 unless told otherwise). What continuous batching cannot do
for a single request is refused with 400, never ignored.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import logging
import os
import secrets
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

from local_shutdown.engines import response_templates
from local_shutdown.engines.transformers_model import (
    Loaded,
    Refused,
    Sampling,
    Wanted,
    load,
)
from local_shutdown.engines.transformers_requests import as_error, as_json, check_fields, room
from local_shutdown.engines.transformers_tokens import add_routes

log = logging.getLogger("local_shutdown.transformers_server")

_PROMPT_END_TOKENS = 128
_WATCH_S = 0.5
_EXIT_GRACE_S = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What was generated: tokens without the one that ended them, and why it ended.

    Attributes:
        generated: tokens, the end included.
        ended: by the model itself.
        end: the token that ended them; none where the limit did.
    """

    ids: Sequence[int]
    generated: int
    ended: bool
    end: tuple[int, ...] = ()


class BatchingEngine:
    """The model, its tokenizer and the batching thread."""

    def __init__(self, name: str, loaded: Loaded) -> None:
        self.name = name
        self.tokenizer = loaded.tokenizer
        self.manager = loaded.manager
        self.sampling: Sampling = loaded.sampling
        self.max_model_len = loaded.max_model_len
        self.template = loaded.template
        self.eos = loaded.eos
        self._numbers = itertools.count()

    @property
    def alive(self) -> bool:
        return bool(self.manager.is_running())

    def prompt(self, body: Mapping[str, Any]) -> list[int]:
        """Token ids of the conversation. Raises Refused when it cannot be rendered."""
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise Refused("messages must be a list that is not empty")
        kwargs = body.get("chat_template_kwargs") or {}
        if not isinstance(kwargs, dict):
            raise Refused("chat_template_kwargs must be an object")
        if body.get("reasoning_effort") is not None:
            kwargs = {"reasoning_effort": body["reasoning_effort"], **kwargs}
        try:
            harmony = self.template is response_templates.HARMONY
            prepared = response_templates.template_messages(messages, harmony)
            ids = self.tokenizer.apply_chat_template(
                prepared,
                tools=self.tools(body),
                add_generation_prompt=body.get("add_generation_prompt", True),
                tokenize=True,
                return_dict=False,
                **kwargs,
            )
        except Refused:
            raise
        except Exception as wrong:  # whatever a checkpoint's own Jinja raises
            raise Refused(f"the chat template refused the messages: {wrong}") from None
        return list(ids)

    def tools(self, body: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
        tools = body.get("tools")
        choice = body.get("tool_choice", "auto" if tools else "none")
        if choice not in ("none", "auto", None):
            raise Refused(f"tool_choice must be none or auto, got {choice!r}")
        if not tools or choice == "none":
            return None
        if not isinstance(tools, list):
            raise Refused("tools must be a list")
        if self.template is None:
            raise Refused(
                "no response template reads the tool calls of this model; serve it with vLLM, or "
                f"start with --tool-call-parser, one of {', '.join(response_templates.BY_PARSER)}"
            )
        return tools

    def read(
        self, ids: Sequence[int], prompt: Sequence[int], body: Mapping[str, Any]
    ) -> dict[str, Any]:
        """An answer as a message, its calls with ids."""
        prompt_end = self.tokenizer.decode(prompt[-_PROMPT_END_TOKENS:])
        message = response_templates.read_answer(
            self.tokenizer, ids, self.template, prompt_end, self.tools(body)
        )
        for call in message.get("tool_calls", ()):
            call["id"] = f"call_{secrets.token_hex(6)}"
        return message

    async def generate(
        self, ids: list[int], max_tokens: int, sampling: Mapping[str, Any]
    ) -> Answer:
        """Raises Refused (500 or 503) when the batching thread failed the request or died."""
        request_id = f"r{next(self._numbers)}"
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def deliver(output: Any) -> None:
            if not done.done():
                done.set_result(output)

        if not self.alive:
            raise Refused("the batching thread has died", 503)
        self.manager.register_result_handler(request_id, deliver)
        accepted = self.manager.add_request(
            ids,
            request_id=request_id,
            max_new_tokens=max_tokens,
            eos_token_id=sorted(self.eos),
            **sampling,
        )
        if accepted is None:
            raise Refused("the batching thread takes no more requests", 503)
        try:
            while not done.done():
                await asyncio.wait({done}, timeout=_WATCH_S)
                if not self.alive and not done.done():
                    raise Refused("the batching thread has died", 503)
        except asyncio.CancelledError:
            self.manager.cancel_request(request_id)
            raise
        output = done.result()
        if output.error is not None:
            raise Refused(f"generation failed: {output.error}", 500 if self.alive else 503)
        tokens = output.generated_tokens
        ended = bool(tokens) and tokens[-1] in self.eos
        kept, end = (tokens[:-1], tokens[-1:]) if ended else (tokens, ())
        return Answer(kept, len(tokens), ended, tuple(end))


async def chat(request: web.Request) -> web.Response:
    """POST /v1/chat/completions"""
    engine: BatchingEngine = request.app[ENGINE]
    try:
        body = orjson.loads(await request.read())
        check_fields(body, engine.name)
        sampling = engine.sampling.arguments(body)
        ids = engine.prompt(body)
        max_tokens = room(body, len(ids), engine.max_model_len)
        answer = await engine.generate(ids, max_tokens, sampling)
    except orjson.JSONDecodeError as wrong:
        return as_error(400, f"the body is not JSON: {wrong}")
    except Refused as refused:
        return as_error(refused.status, str(refused))
    message = engine.read(answer.ids, ids, body)
    finish = "tool_calls" if message.get("tool_calls") else "stop"
    usage = {"prompt_tokens": len(ids), "completion_tokens": answer.generated}
    return as_json(
        {
            "id": "chatcmpl-local",
            "object": "chat.completion",
            "model": engine.name,
            "choices": [
                {
                    "index": 0,
                    "message": message,
                    "finish_reason": finish if answer.ended else "length",
                }
            ],
            "usage": {**usage, "total_tokens": sum(usage.values())},
        }
    )


async def models(request: web.Request) -> web.Response:
    """GET /v1/models"""
    engine: BatchingEngine = request.app[ENGINE]
    card = {
        "id": engine.name,
        "object": "model",
        "owned_by": "local",
        "max_model_len": engine.max_model_len,
        "sampling": engine.sampling.as_dict(),
        "generation_config_not_applied": list(engine.sampling.not_applied),
    }
    return as_json({"object": "list", "data": [card]})


async def health(request: web.Request) -> web.Response:
    """GET /health: 200, or 503 once the batching thread has died."""
    alive = request.app[ENGINE].alive
    return web.Response(status=200 if alive else 503, text="" if alive else "batching thread died")


@web.middleware
async def _authorize(request: web.Request, handler: Any) -> web.StreamResponse:
    key = request.app[API_KEY]
    if (
        key
        and request.path != "/health"
        and request.headers.get("Authorization") != f"Bearer {key}"
    ):
        return as_error(401, "wrong or missing API key")
    response: web.StreamResponse = await handler(request)
    return response


ENGINE = web.AppKey("engine", BatchingEngine)
API_KEY = web.AppKey("api_key", str)


def application(engine: BatchingEngine, api_key: str = "") -> web.Application:
    """The web application over an engine whose batching thread runs."""
    app = web.Application(middlewares=[_authorize], client_max_size=256 * 2**20)
    app[ENGINE] = engine
    app[API_KEY] = api_key
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_get("/v1/models", models)
    add_routes(app, engine)
    app.router.add_get("/health", health)
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Load the model and serve it until SIGTERM or SIGINT; 1 when the batching thread died."""
    options = _arguments(argv)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    key = os.environ.get(options.api_key_env, "") if options.api_key_env else ""
    wanted = Wanted(
        options.model,
        max_model_len=options.max_model_len,
        device=options.device,
        dtype=options.dtype,
        seed=options.seed,
        parser=options.tool_call_parser,
        per_request=options.per_request_sampling,
        max_num_seqs=options.max_num_seqs,
        kv_cache_gib=options.kv_cache_gib,
        kv_cache_tokens=options.kv_cache_tokens,
        trust_remote_code=options.trust_remote_code,
    )
    loaded = load(wanted)
    thinks = loaded.template is not None and "thinking" in loaded.template["fields"]
    if options.reasoning_parser and not thinks:
        log.warning("no template here parts the reasoning of this model from its answer")
    engine = BatchingEngine(options.served_model_name or options.model, loaded)
    loaded.manager.start()
    try:
        return asyncio.run(_serve(engine, key, options.host, options.port))
    finally:
        loaded.manager.stop(block=True, timeout=5, hard_stop=True)


async def _serve(engine: BatchingEngine, key: str, host: str, port: int) -> int:
    runner = web.AppRunner(application(engine, key), handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port, backlog=4096).start()
    log.info("serving %s on http://%s:%d/v1", engine.name, host, port)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # A server without its thread is of no use: ending lets whoever watches it start another.
    while not stop.is_set() and engine.alive:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_WATCH_S):
                await stop.wait()
    died = not engine.alive
    if died:
        log.error(
            "the batching thread died: %s", engine.manager.background_thread_status.fatal_error
        )
        await asyncio.sleep(_EXIT_GRACE_S)
    await runner.cleanup()
    return 1 if died else 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m local_shutdown.engines.transformers_server", description=__doc__
    )
    add = parser.add_argument
    add("--model", required=True, help="local folder or Hugging Face id")
    add("--served-model-name", help="what requests call it; default: --model")
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=8000)
    add("--api-key-env", default="LOCAL_SHUTDOWN_API_KEY", help="variable that holds the key")
    add("--max-model-len", type=int, help="context in tokens; default: the model's own")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto")
    add("--seed", type=int, default=0)
    add("--tool-call-parser", help="vLLM's name of it; default: from the chat template")
    add("--reasoning-parser", help="taken for a warning only: the templates part reasoning")
    add(
        "--per-request-sampling",
        type=lambda words: frozenset(filter(None, words.split(","))),
        default=frozenset(),
        metavar="top_p,top_k",
        help="let requests set these; each costs a sort of the vocabulary for every token",
    )
    add("--max-num-seqs", type=int, help="requests in one batch")
    add(
        "--kv-cache-gib", type=float, help="memory of the cache; default: most of the GPU, 2 on CPU"
    )
    add("--kv-cache-tokens", type=int, help="on the CPU: tokens to hold, a context at least")
    add("--trust-remote-code", action="store_true")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
