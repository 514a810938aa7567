"""Requests to `transformers_server` and its answers: which fields are read, and which refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

from local_shutdown.engines.transformers_model import Refused

# Fields of a request that are read, and those taken only at the value that changes nothing.
_READ = frozenset(
    {
        "model",
        "messages",
        "tools",
        "tool_choice",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "chat_template_kwargs",
        "reasoning_effort",
    }
)
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "stream": (False,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "logprobs": (False,),
    "parallel_tool_calls": (True,),
}
_LABELS = frozenset({"user", "metadata"})


def check_fields(body: Any, served: str) -> None:
    """Raises Refused for a field that would have to be ignored."""
    if not isinstance(body, dict):
        raise Refused("the body must be a JSON object")
    if body.get("model") not in (None, served):
        raise Refused(f"this server serves {served!r}, not {body['model']!r}", 404)
    for name, value in body.items():
        if name in _READ or name in _LABELS or value is None:
            continue
        if name not in _NEUTRAL:
            raise Refused(f"{name} is not supported by this server")
        if value not in _NEUTRAL[name]:
            raise Refused(f"{name}={value!r} is not supported by this server")


def room(body: Mapping[str, Any], prompt_tokens: int, max_model_len: int) -> int:
    """Tokens the answer may have. Raises Refused when the prompt leaves none."""
    left = max_model_len - prompt_tokens
    if left < 1:
        raise Refused(
            f"This model's maximum context length is {max_model_len} tokens, but the prompt has "
            f"{prompt_tokens} tokens."
        )
    wanted = body.get("max_completion_tokens") or body.get("max_tokens") or left
    if not isinstance(wanted, int) or wanted < 1:
        raise Refused(f"max_tokens must be a whole number above 0, got {wanted!r}")
    return min(wanted, left)


def as_json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")


def as_error(status: int, message: str) -> web.Response:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return as_json({"error": {"message": message, "type": kind, "code": status}}, status)
