"""Somebody's OpenAI-compatible endpoint: its address and what it says it serves."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yarl

from local_shutdown.engines.backend import Backend
from local_shutdown.engines.client import ChatClient, context_length
from local_shutdown.engines.engine import Engine, Options, Seat
from local_shutdown.engines.spec import ModelSpec
from local_shutdown.engines.starts import Starts
from local_shutdown.engines.token_routes import require_token_routes
from local_shutdown.errors import EngineDown, EngineFault, EngineUnavailable, UsageError

MOST_NAMED = 20
MOST_NAME = 200  # characters


def endpoint_url(base_url: str | None) -> str:
    """`--base-url`, checked, with the /v1 that requests need.

    Raises:
        UsageError: not an address, or one that carries a secret: it would be stored and shown.
    """
    url = (base_url or "").strip().rstrip("/")
    try:
        parts = urlsplit(url)
        address, _ = parts, parts.port  # a port that is none raises, too
        yarl.URL(url)
    except ValueError:
        raise _no_address(_without_secrets(url)) from None
    if "@" in address.netloc:
        raise UsageError(
            f"--base-url {_without_secrets(url)!r}: an address with a user or password in it would "
            "be stored with the run",
            "put the key into an environment variable and give --api-key-env NAME",
        )
    if address.query or address.fragment or "?" in url or "#" in url:
        raise UsageError(
            f"--base-url {_without_secrets(url)!r}: an address with a query (?...) or fragment",
            "give the address up to /v1; a key belongs into --api-key-env NAME",
        )
    if address.scheme not in ("http", "https") or not address.hostname or not url.isprintable():
        raise _no_address(url)
    return url if url.endswith("/v1") else f"{url}/v1"


def _no_address(url: str) -> UsageError:
    return UsageError(
        f"--base-url {url[:200]!r}: not an http address", "for example http://127.0.0.1:8000/v1"
    )


def _without_secrets(url: str) -> str:
    """For a message: what stands before an @, and a query, may be a key."""
    head = re.split(r"[?#]", url)[0]
    scheme, mark, rest = head.rpartition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"[:200]


@asynccontextmanager
async def open_endpoint(spec: ModelSpec, options: Options) -> AsyncIterator[Engine]:
    """Talk to it; it is neither started nor stopped.

    Raises:
        UsageError: not an address.
        EngineUnavailable: it does not answer, or serves another model.
    """
    base_url = endpoint_url(options.base_url)
    async with ChatClient(base_url, options.api_key, timeout_s=options.request_timeout_s) as client:
        served, context = spec.hf_id, None
        try:
            listed = await client.get("/models")
        except EngineDown as gone:
            raise EngineUnavailable(
                f"{base_url} does not answer: {gone.message}",
                "is the server up? is the port right?",
            ) from None
        except EngineFault:
            listed = None  # not every endpoint lists its models
        by_id = served_models(listed)
        names = [name for name in (spec.hf_id, spec.name) if name in by_id]
        if names:
            served = names[0]
            context = context_length(by_id[served].get("max_model_len"))
        elif by_id:
            raise EngineUnavailable(
                f"{base_url} does not serve {spec.name}", f"it serves: {some(by_id)}"
            )
        facts = {"engine": "endpoint", "base_url": base_url, "served_name": served}
        yield Engine("endpoint", served, context, [Seat(client, None, None)], facts)


def served_models(listed: Any) -> dict[str, dict[str, Any]]:
    """The models of an answer to GET /models, by id; empty where it is none. What no model is
    called is passed over: it would become the name of a folder."""
    entries = listed.get("data") if isinstance(listed, dict) else None
    return {
        entry["id"]: entry
        for entry in (entries if isinstance(entries, list) else ())
        if isinstance(entry, dict) and _is_name(entry.get("id"))
    }


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and 0 < len(value) <= MOST_NAME


def some(names: Iterable[str]) -> str:
    """The first few of what may be thousands, each at a length that fits a message."""
    names = list(names)
    more = f", and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(name[:100] for name in names[:MOST_NAMED]) + more


class Endpoint(Backend):
    """Somebody's server."""

    name = "endpoint"
    remedy = "e.g. --base-url http://127.0.0.1:8000/v1"

    def unusable(self, base_url: str | None) -> str | None:
        return None if base_url else "it needs --base-url"

    async def check(
        self,
        spec: ModelSpec,
        options: Options,
        say: Callable[[str], None],
        *,
        fetch: bool,
        planned: Callable[[str], None] = lambda line: None,
    ) -> None:
        async with open_endpoint(spec, options) as engine:
            if options.continues:
                await require_token_routes(engine.seats[0].client, engine.served_name)

    def open(
        self,
        spec: ModelSpec,
        options: Options,
        directory: Path,
        say: Callable[[str], None],
        starts: Starts | None,
    ) -> AbstractAsyncContextManager[Engine]:
        return open_endpoint(spec, options)
