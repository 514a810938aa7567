"""Watching a server of ours while it is in use: its metrics, and whether it still works."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from local_shutdown.engines.client import ChatClient, Silent
from local_shutdown.engines.metrics import Series, cache_tokens, parse
from local_shutdown.engines.server import Server
from local_shutdown.errors import EngineDown, EngineFault


@dataclass(frozen=True, slots=True)
class Patience:
    """When a server counts as hung.

    Attributes:
        every_s: between two looks.
        misses: looks in a row without an answer, each after 10 s of waiting.
        stall_s: requests are running, and no token is computed for so long.
    """

    every_s: float = 2.0
    misses: int = 20
    stall_s: float = 600.0


async def watch(server: Server, series: Series, patience: Patience) -> None:
    """Look at a server again and again, until cancelled; end it when it hangs. Never disturbs the
    run: a look that fails is no more than that. A server that has died by itself is left to the
    next request, which finds out at once.

    Args:
        series: takes in the metrics of an engine that has any.
    """
    misses, tokens, moved_at = 0, -1.0, time.monotonic()
    while True:
        await asyncio.sleep(patience.every_s)
        if not server.settled:
            misses, tokens = 0, -1.0
            continue
        seen = server.generation
        lost = server.lost_worker
        if lost is not None:  # the server itself would wait for it for ever
            await server.end_hung(seen, lost)
            continue
        async with ChatClient(server.base_url, server.api_key) as client:
            try:
                await client.get("//health")
                misses = 0
                text = await client.get("//metrics")
            except Silent:
                misses += 1
                if misses >= patience.misses:
                    await server.end_hung(seen, f"has not answered {misses} times in a row")
                continue
            except (EngineDown, EngineFault):
                continue  # it is gone, or has no metrics
        if not isinstance(text, str):
            continue
        now = time.monotonic()
        series.add(parse(text), now)
        series.cache_tokens = cache_tokens(text) or series.cache_tokens
        running = series.last.running if series.last else None
        if series.tokens != tokens or not running:
            tokens, moved_at = series.tokens, now
        elif now - moved_at > patience.stall_s:
            moved_at = now
            await server.end_hung(
                seen, f"has computed nothing for {patience.stall_s:g} s with {running:.0f} requests"
            )
