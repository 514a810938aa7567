"""One run: models one after another, each served, probed and played through the grid."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from itertools import zip_longest

from local_shutdown import engines
from local_shutdown.detectors import outcome
from local_shutdown.engines import weights
from local_shutdown.engines.spec import ModelSpec
from local_shutdown.episode import Episode
from local_shutdown.errors import (
    EngineUnavailable,
    LocalShutdownError,
    SandboxUnavailable,
)
from local_shutdown.interrupt import Interrupt
from local_shutdown.model_run import Display, ModelRun, Setup
from local_shutdown.record import (
    Settings,
    close_record,
    most_in_flight,
    open_record,
)
from local_shutdown.runfile import SandboxFacts
from local_shutdown.sandbox import Kit, prepare
from local_shutdown.sandbox.diagnose import examine
from local_shutdown.store import Store

__all__ = ["Display", "Interrupt", "Settings", "check_sandbox", "fetching", "run"]


async def run(settings: Settings, display: Display, interrupt: Interrupt | None = None) -> bool:
    """Play everything that is not on disk yet. Returns whether an episode ended in `error`.

    Args:
        interrupt: once it is asked, what is in flight is played to its end, and then this returns.

    Raises:
        UsageError: the directory belongs to another run.
        CannotRunError: no sandbox, no engine, a full disk; finished episodes are kept.
    """
    interrupt = interrupt or Interrupt()
    record = open_record(settings)
    most = most_in_flight(settings.options.concurrency)
    with prepare(None if settings.branch is None else settings.branch.sandbox) as kit:
        await check_sandbox(kit)
        for number, spec in enumerate(settings.models):
            await engines.check(
                settings.engine, spec, settings.options, display.say, fetch=number == 0
            )
        with Store(settings.out) as store:
            if record.session == 1:
                store.forget_begun()
            record.sandbox = SandboxFacts(**kit.policy.describe())
            done = store.finished(again=failed if settings.retry_errors else None)
            setup = Setup(settings, kit, store, record, done, most, display, interrupt)
            setup.save()
            try:
                await _play_models(setup)
            except BaseException:
                record.interrupted = True
                with contextlib.suppress(LocalShutdownError):  # what ended it is what counts
                    close_record(settings.out, record)
                raise
            finally:
                if interrupt.asked:
                    record.interrupted = True
                    display.say(unfinished(settings, store))
            return close_record(settings.out, record)


def failed(episode: Episode) -> bool:
    """An episode that resisted, or whose machine went down, before the engine failed it has its
    outcome, and keeps it."""
    return outcome(episode) == "error"


async def _play_models(setup: Setup) -> None:
    models = setup.settings.models
    for spec, following in zip_longest(models, models[1:]):
        if setup.interrupt.asked:
            return
        async with fetching(following, setup.settings, setup.display):
            await ModelRun(spec, setup).play()


def unfinished(settings: Settings, store: Store) -> str:
    """What is there and what is missing, in a line."""
    planned = settings.cells * len(settings.part.trials(settings.trials))
    done = store.finished()
    missing = len(store.begun() - done)
    said = f"{len(done)} of {planned} planned episodes are on disk"
    if not missing:
        return f"{said}; every one that was started is there"
    return f"{said}; {missing} that were started are not, and are counted as unfinished"


@contextlib.asynccontextmanager
async def fetching(
    spec: ModelSpec | None, settings: Settings, display: Display
) -> AsyncIterator[None]:
    """Fetch the next model's weights while this one is played. What goes wrong is said when that
    model's turn comes: it is then looked for again."""
    if spec is None or settings.engine == "endpoint" or weights.locate(spec) is not None:
        yield
        return
    task = asyncio.create_task(weights.fetched(spec, display.say))
    try:
        yield
        await asyncio.wait([task])
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, EngineUnavailable):
            await task


async def check_sandbox(kit: Kit) -> None:
    """Start a sandbox, run a command, shut it down: fail closed, before anything else.

    Raises:
        SandboxUnavailable: with bwrap's own message, and what to do about it.
    """
    found = await examine(kit)
    if not found.ok:
        raise SandboxUnavailable(
            f"no sandbox can be started here: {found.message}",
            f"{found.remedy}. `local-shutdown doctor` shows the command that was tried; there is "
            "no unsandboxed mode",
        )
