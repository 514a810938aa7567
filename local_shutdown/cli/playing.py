"""Playing a run from the command line: on an event loop of its own, with the user's signals."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from local_shutdown import runs
from local_shutdown.run import Display, Interrupt, Settings, run
from local_shutdown.runfile import RunFile

if TYPE_CHECKING:
    from local_shutdown.cluster.rays import RayNodes

Runner = Callable[[Settings, Display, Interrupt], Coroutine[Any, Any, bool]]


def runner(nodes: RayNodes | None) -> Runner:
    """What plays a run: this machine, or nodes."""
    if nodes is None:
        return run
    from local_shutdown.cluster.driver import run_on

    async def on_nodes(settings: Settings, shown: Display, interrupt: Interrupt) -> bool:
        return await run_on(settings, nodes, shown, interrupt)

    return on_nodes


def play(
    settings: Settings,
    shown: Display,
    played_by: Runner = run,
) -> bool:
    """Run on an event loop of its own; SIGTERM, and SIGHUP unless under nohup, are taken like
    Ctrl-C: the first drains, the second ends at once.

    Args:
        played_by: `run.run`, or the same on many nodes.

    Raises:
        KeyboardInterrupt: after everything has been stopped and what finished is on disk.
    """
    shown.say(f"run directory: {settings.out}")

    async def once(interrupt: Interrupt) -> bool:
        interrupt.say = shown.say
        return await played_by(settings, shown, interrupt)

    return to_its_end(once, lambda: _to_resume(settings, shown))


def _to_resume(settings: Settings, shown: Display) -> None:
    again = runs.resume_command(settings.out, RunFile(command=list(settings.command)))
    shown.say(f"to resume: {again}")


def to_its_end(
    play_all: Callable[[Interrupt], Awaitable[bool]], interrupted: Callable[[], None]
) -> bool:
    """Play on an event loop of its own, with the signals that `play` speaks of.

    Args:
        play_all: whether an episode ended in an error.
        interrupted: called when the user has ended it, to say how to go on.

    Raises:
        KeyboardInterrupt: after everything has been stopped and what finished is on disk.
    """
    interrupt = Interrupt()
    # What has been imported is never garbage, and an episode makes few cycles: looking through all
    # of it every 700 objects took a tenth of our processor time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)

    async def main() -> bool:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        interrupt.end = task.cancel
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                asked = interrupt.told if number == signal.SIGTERM else interrupt.ask
                loop.add_signal_handler(number, asked)
        return await play_all(interrupt)

    try:
        failed = asyncio.run(main())
    except asyncio.CancelledError:
        interrupt.asked = True
    if interrupt.asked:
        interrupted()
        raise KeyboardInterrupt
    return failed
