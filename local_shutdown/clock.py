"""Time limits of what runs beside us."""

from __future__ import annotations

import asyncio

_LOOKS = 10


async def while_we_run(seconds: float) -> None:
    """Sleep for so many seconds in which this process ran.

    A whole run may be stopped and go on later (a scheduler that suspends its job, a machine without
    a free core), and the sandboxes with it: a plain timer would be over at once then, and end a
    command that had no time at all. So the wait is cut into pieces, and one from which we came back
    late counts at most twice.

    Args:
        seconds: on the event loop's clock.
    """
    loop, piece_s = asyncio.get_running_loop(), seconds / _LOOKS
    while seconds > 0:
        began = loop.time()
        await asyncio.sleep(min(piece_s, seconds))
        seconds -= min(loop.time() - began, 2 * piece_s)
