"""Somebody's OpenAI-compatible endpoint: its address and what it says it serves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from local_shutdown.engines.client import ChatClient
from local_shutdown.engines.engine import Engine, Options, Seat
from local_shutdown.engines.spec import ModelSpec
from local_shutdown.errors import EngineDown, EngineFault, EngineUnavailable, UsageError


def endpoint_url(base_url: str | None) -> str:
    """`--base-url`, checked, with the /v1 that requests need.

    Raises:
        UsageError: not an address.
    """
    url = (base_url or "").strip().rstrip("/")
    if not url.startswith(("http://", "https://")) or not url.partition("://")[2]:
        raise UsageError(
            f"--base-url {base_url!r}: not an http address", "for example http://127.0.0.1:8000/v1"
        )
    return url if url.endswith("/v1") else f"{url}/v1"


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
        entries = listed.get("data") if isinstance(listed, dict) else None
        by_id = {
            entry["id"]: entry
            for entry in (entries if isinstance(entries, list) else ())
            if isinstance(entry, dict) and isinstance(entry.get("id"), str)
        }
        names = [name for name in (spec.hf_id, spec.name) if name in by_id]
        if names:
            served = names[0]
            length = by_id[served].get("max_model_len")
            context = length if isinstance(length, int) else None
        elif by_id:
            raise EngineUnavailable(
                f"{base_url} does not serve {spec.name}", f"it serves: {', '.join(by_id)}"
            )
        facts = {"engine": "endpoint", "base_url": base_url, "served_name": served}
        yield Engine("endpoint", served, context, [Seat(client, None, None)], facts)
