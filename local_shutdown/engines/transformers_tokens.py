"""Routes of `transformers_server` by tokens: a prompt rendered, tokens continued, an answer read.

They are named and shaped as vLLM's (`--enable-scale-out`), as far as `continuation` uses them, so
that one client serves both.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import orjson
from aiohttp import web

from local_shutdown.engines.transformers_model import Refused, Sampling
from local_shutdown.engines.transformers_requests import as_error, as_json, check_fields, room

_SAMPLING = ("temperature", "top_p", "top_k", "min_p")


class _Answer(Protocol):
    @property
    def ids(self) -> Sequence[int]: ...
    @property
    def end(self) -> tuple[int, ...]: ...
    @property
    def ended(self) -> bool: ...


class Tokens(Protocol):
    """What the routes need of the engine, see `transformers_server.Engine`."""

    name: str
    tokenizer: Any
    sampling: Sampling
    max_model_len: int

    def prompt(self, body: Mapping[str, Any]) -> list[int]: ...
    def read(
        self, ids: Sequence[int], prompt: Sequence[int], body: Mapping[str, Any]
    ) -> dict[str, Any]: ...
    async def generate(
        self, ids: list[int], max_tokens: int, sampling: Mapping[str, Any]
    ) -> _Answer: ...


def add_routes(app: web.Application, engine: Tokens) -> None:
    """Add the routes to the application of an engine."""

    def route(path: str, answer: Callable[[Tokens, Any], Awaitable[Any]]) -> None:
        async def handle(request: web.Request) -> web.Response:
            try:
                body = orjson.loads(await request.read())
                if not isinstance(body, dict):
                    raise Refused("the body must be a JSON object")
                return as_json(await answer(engine, body))
            except orjson.JSONDecodeError as wrong:
                return as_error(400, f"the body is not JSON: {wrong}")
            except Refused as refused:
                return as_error(refused.status, str(refused))

        app.router.add_post(path, handle)

    route("/v1/chat/completions/render", _render)
    route("/inference/v1/generate", _generate)
    route("/v1/chat/completions/derender", _derender)
    route("/detokenize", _detokenize)


async def _render(engine: Tokens, body: dict[str, Any]) -> Any:
    opening = body.pop("add_generation_prompt", True)
    check_fields(body, engine.name)
    engine.sampling.arguments(body)  # refuses what a chat would be refused for
    ids = engine.prompt({**body, "add_generation_prompt": bool(opening)})
    defaults = engine.sampling.as_dict()
    sampling = {
        name: defaults[name] if body.get(name) is None else body[name] for name in _SAMPLING
    }
    sampling["max_tokens"] = room(body, len(ids), engine.max_model_len)
    return {"token_ids": ids, "sampling_params": sampling, "model": engine.name}


async def _generate(engine: Tokens, body: dict[str, Any]) -> Any:
    ids = _ids(engine, body.get("token_ids"), "token_ids")
    sampling = body.get("sampling_params")
    if not isinstance(sampling, dict) or not set(sampling) <= {*_SAMPLING, "max_tokens"}:
        raise Refused(f"sampling_params must be an object of {', '.join(_SAMPLING)}, max_tokens")
    most = room({"max_tokens": sampling.get("max_tokens")}, len(ids), engine.max_model_len)
    answer = await engine.generate(ids, most, engine.sampling.arguments(sampling))
    choice = {
        "index": 0,
        "token_ids": [*answer.ids, *answer.end],
        "finish_reason": "stop" if answer.ended else "length",
    }
    return {"request_id": "generate-local", "model": engine.name, "choices": [choice]}


async def _derender(engine: Tokens, body: dict[str, Any]) -> Any:
    chat = body.get("chat_request")
    generated = body.get("generate_response")
    if not isinstance(chat, dict) or not isinstance(generated, dict):
        raise Refused("chat_request and generate_response must be objects")
    choices = generated.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise Refused("generate_response must have one choice")
    ids = _ids(engine, choices[0].get("token_ids"), "token_ids")
    prompt = _ids(engine, body.get("prompt_token_ids"), "prompt_token_ids")
    message = engine.read(ids, prompt, chat)
    choice = {"index": 0, "message": message, "finish_reason": choices[0].get("finish_reason")}
    usage = {"prompt_tokens": len(prompt), "completion_tokens": len(ids)}
    return {
        "id": "derender-local",
        "object": "chat.completion",
        "model": engine.name,
        "choices": [choice],
        "usage": {**usage, "total_tokens": sum(usage.values())},
    }


async def _detokenize(engine: Tokens, body: dict[str, Any]) -> Any:
    ids = _ids(engine, body.get("tokens"), "tokens")
    return {"prompt": engine.tokenizer.decode(ids, skip_special_tokens=False)}


def _ids(engine: Tokens, value: Any, name: str) -> list[int]:
    """Raises Refused for what is no list of token ids."""
    known = len(engine.tokenizer)
    if not isinstance(value, list) or not value:
        raise Refused(f"{name} must be a list that is not empty")
    if any(type(one) is not int or not 0 <= one < known for one in value):
        raise Refused(f"{name} must hold whole numbers from 0 to {known - 1}")
    return value
