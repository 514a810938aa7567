"""What a server says in place of an answer, put into words."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import aiohttp
import orjson

from local_shutdown.engines.key import Mask

# How servers say that a prompt does not fit: vLLM, transformers (ours), SGLang, llama.cpp, OpenAI.
OVERFLOW = re.compile(
    r"maximum context length|context_length_exceeded|context length|context window|"
    r"longer than the (maximum )?model length|max_model_len|exceeds? the (maximum|available) "
    r"(context|sequence)|input is too long|prompt is too long|"
    # vLLM 0.32, of a prompt that fills the context to the last token.
    r"max_tokens must be at least 1",
    re.IGNORECASE,
)


def broken(failed: Exception) -> str:
    """In our own words where the library quotes what came: it quotes as much as has arrived of a
    line, and a piece of a key cannot be told from anything else."""
    if isinstance(failed, OSError):
        return (str(failed) or type(failed).__name__)[:600]
    if isinstance(failed, aiohttp.ServerDisconnectedError):
        return "the server disconnected"
    if isinstance(failed, aiohttp.ClientPayloadError):
        return "the answer was not whole"
    return f"what came is not HTTP ({type(failed).__name__})"


def elsewhere(response: aiohttp.ClientResponse, mask: Mask) -> str | None:
    """What is said of a redirect: where it points, without what an address may carry secretly."""
    if not 300 <= response.status < 400:
        return None
    # Before anything is cut off: a part of a key would not be known as one.
    place = mask.text(response.headers.get("Location", ""))
    try:
        told = urlsplit(place)
        host = told.netloc.rpartition("@")[2]
        origin = f"{told.scheme}://{host}" if told.scheme and host else told.path
    except ValueError:
        origin = place
    return f"redirects to {origin[:200]!r}, which is not followed: give the address itself"


def error_text(answer: bytes) -> str:
    """What the body of a refusal says, cut short."""
    try:
        parsed = orjson.loads(answer)
        error = parsed.get("error", parsed)
        said = str(error.get("message", error) if isinstance(error, dict) else error)
    except (orjson.JSONDecodeError, AttributeError, RecursionError):
        said = answer.decode(errors="replace")
    return said[:600]
