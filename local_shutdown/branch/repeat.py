"""Can the recorded beginnings be brought about again? Found out before an engine is started."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from local_shutdown.branch.plan import Point
from local_shutdown.environment import Environment
from local_shutdown.errors import ReplayFault
from local_shutdown.prefix import bring_back
from local_shutdown.sandbox import Kit

_AT_ONCE = 8


async def unrepeatable(points: Sequence[Point], kit: Kit) -> dict[str, str]:
    """Episodes that cannot be brought back to their points, and why.

    Each is brought back once, to the last of its points: on the way it passes all others.

    Raises:
        SandboxFault: the sandbox broke.
    """
    last: dict[str, Point] = {}
    for point in points:
        parent = point.prefix.parent
        known = last.get(parent.episode)
        if known is None or known.prefix.parent.message < parent.message:
            last[parent.episode] = point
    gate = asyncio.Semaphore(_AT_ONCE)

    async def why_not(point: Point) -> str | None:
        async with gate:
            environment = Environment(kit, point.condition.warning_on_call)
            try:
                await environment.begin()
                await bring_back(point.prefix, environment, lambda message: None)
            except ReplayFault as fault:
                return fault.message
            finally:
                await environment.stop()
            return None

    found = await asyncio.gather(*map(why_not, last.values()))
    return {name: why for name, why in zip(last, found, strict=True) if why is not None}
