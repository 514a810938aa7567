"""One run: models one after another, each served, probed and played through the grid."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from local_shutdown import engines
from local_shutdown.agent import Task, run_episode
from local_shutdown.batch import Progress, plan, run_batch
from local_shutdown.detectors import outcome, score
from local_shutdown.early_stop import EarlyStop
from local_shutdown.engines import Engine, weights
from local_shutdown.engines.client import Request
from local_shutdown.engines.probe import insist, probe
from local_shutdown.engines.spec import ModelSpec
from local_shutdown.environment import Environment
from local_shutdown.episode import Episode
from local_shutdown.errors import (
    EngineDown,
    EngineUnavailable,
    LocalShutdownError,
    SandboxFault,
    SandboxUnavailable,
)
from local_shutdown.record import (
    Settings,
    close_record,
    most_in_flight,
    now,
    open_record,
)
from local_shutdown.sandbox import Kit, prepare
from local_shutdown.store import Store, read_episodes, write_run

__all__ = ["Display", "Settings", "check_sandbox", "run"]


class Display:
    """What a run tells the user; `cli.display` has one for terminals and one for logs."""

    def say(self, line: str) -> None:
        """A line of text."""

    def start(self, spec: ModelSpec, progress: Progress, engine: Engine) -> None:
        """A model is about to be played."""

    def ended(self, episode: Episode, result: str | None) -> None:
        """An episode is on disk."""

    def stop(self) -> None:
        """The model is done, or the run is ended."""


async def run(settings: Settings, display: Display) -> bool:
    """Play everything that is not on disk yet. Returns whether an episode ended in `error`.

    Raises:
        UsageError: the directory belongs to another run.
        CannotRunError: no sandbox, no engine, a full disk; finished episodes are kept.
    """
    record = open_record(settings)
    most = most_in_flight(settings.options.concurrency)
    with prepare() as kit:
        await check_sandbox(kit)
        for number, spec in enumerate(settings.models):
            await engines.check(
                settings.engine, spec, settings.options, display.say, fetch=number == 0
            )
        with Store(settings.out) as store:
            record["sandbox"] = kit.policy.describe()
            write_run(settings.out, record)
            done = store.finished(errors_too=not settings.retry_errors)
            try:
                for spec, following in zip_longest(settings.models, settings.models[1:]):
                    async with _fetching(following, settings, display):
                        await _play_model(spec, settings, kit, store, done, record, display, most)
            except BaseException:
                with contextlib.suppress(LocalShutdownError):  # what ended it is what counts
                    close_record(settings.out, record)
                raise
            return close_record(settings.out, record)


@contextlib.asynccontextmanager
async def _fetching(
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
        SandboxUnavailable: with bwrap's own message.
    """
    environment = Environment(kit)
    try:
        await environment.begin()
        seen = await environment.bash("echo up", 0)
        if seen.text != "up\n":
            raise SandboxUnavailable(f"the sandbox ran a command and said {seen.text!r}")
        await environment.bash("./shutdown.sh", 0)
        if not environment.look():
            raise SandboxUnavailable("the sandbox cannot be shut down from inside")
    except SandboxFault as fault:
        raise SandboxUnavailable(
            f"no sandbox can be started here: {fault.message}",
            "`local-shutdown doctor` says why and what to do; there is no unsandboxed mode",
        ) from None
    finally:
        await environment.stop()


async def _play_model(
    spec: ModelSpec,
    settings: Settings,
    kit: Kit,
    store: Store,
    done: set[str],
    record: dict[str, Any],
    display: Display,
    most: int,
) -> None:
    """Serve one model and play every level that has episodes missing."""
    levels = [_level(spec, settings, mode, done) for mode in settings.thinking]
    levels = [level for level in levels if level.missing]
    if not levels:
        display.say(f"{spec.display_name}: all episodes are on disk")
        return
    for warning in spec.warnings:
        display.say(f"warning: {warning}")
    facts = record["models"][spec.name]
    async with engines.open_engine(
        settings.engine, spec, settings.options, settings.out, display.say
    ) as engine:
        facts |= engine.facts
        facts["max_model_len"] = engine.max_model_len
        for level in levels:
            request = _request(spec, settings, level.mode, engine)
            facts["effective_sampling"] = _effective_sampling(engine, request)
            facts.setdefault("requests", {})[level.mode] = {
                "max_tokens": request.max_tokens,
                **request.extra,
            }
            if settings.probe:
                found = await probe(engine, request, spec)
                facts.setdefault("probe", {})[level.mode] = found.as_dict()
                for note in found.notes:
                    display.say(f"probe: {note}")
                insist(found, spec)
            write_run(settings.out, record)
            progress = Progress(planned=level.missing)
            display.start(spec, progress, engine)
            began = time.monotonic()
            try:
                await _batch(
                    spec,
                    settings,
                    kit,
                    store,
                    done,
                    engine,
                    request,
                    progress,
                    display,
                    level,
                    most,
                )
            finally:
                display.stop()
                session = _session(progress, time.monotonic() - began)
                if engine.series:
                    session["metrics"] = facts["metrics"] = engine.metrics()
                facts.setdefault("sessions", []).append({"factor": level.factor, **session})
    facts |= engine.facts


@dataclass(frozen=True, slots=True)
class _Level:
    """One level of the reasoning factor, and what is missing of it."""

    mode: str
    factor: str | None
    missing: int
    early: EarlyStop


def _level(spec: ModelSpec, settings: Settings, mode: str, done: set[str]) -> _Level:
    factor = None if mode == "default" else f"effort={mode}"
    stored = (score(e) for e in read_episodes(settings.out)) if settings.until_halfwidth else ()
    early = EarlyStop(spec.name, factor, settings.until_halfwidth, stored)
    tasks = plan(spec.name, settings.conditions, settings.trials, done, factor)
    missing = sum(1 for task in tasks if not early.enough(task.condition.id))
    return _Level(mode, factor, missing, early)


async def _batch(
    spec: ModelSpec,
    settings: Settings,
    kit: Kit,
    store: Store,
    done: set[str],
    engine: Engine,
    request: Request,
    progress: Progress,
    display: Display,
    level: _Level,
    most: int,
) -> None:
    limits = replace(settings.limits, context=engine.max_model_len)

    async def play(task: Task) -> Episode:
        seat = engine.take_seat()
        try:
            return await run_episode(
                task,
                seat.client,
                request,
                kit,
                limits,
                stop_at_bypass=settings.stop_at_bypass,
                interview=settings.interview,
                headers=seat.headers,
            )
        except EngineDown:
            if seat.server is not None:
                await seat.server.revive()
            raise
        finally:
            engine.leave(seat)

    def keep(episode: Episode) -> None:
        store.add(episode)
        result = outcome(episode)
        level.early.ended(episode, result)
        display.ended(episode, result)

    def wanted(task: Task) -> bool:
        enough = level.early.enough(task.condition.id)
        progress.planned -= enough
        return not enough

    asked = settings.options.concurrency
    at_once = min(asked or engine.capacity or engines.DEFAULT_IN_FLIGHT, most)
    try:
        await run_batch(
            plan(spec.name, settings.conditions, settings.trials, done, level.factor),
            play,
            keep,
            min(at_once, progress.planned),
            progress,
            rerun=settings.engine != "endpoint",
            wanted=wanted,
            most=0 if asked or not engine.series else min(2 * at_once, most, progress.planned),
            tokens_per_s=lambda: engine.tokens_per_s,
        )
    except EngineDown as gone:
        raise EngineUnavailable(
            f"{spec.name}: the engine is gone: {gone.message}",
            "finished episodes are kept: the same command goes on from there",
        ) from None


def _request(spec: ModelSpec, settings: Settings, mode: str, engine: Engine) -> Request:
    extra = spec.thinking.request(mode, settings.thinking_budget)
    max_tokens = settings.max_tokens or (16384 if spec.reasons else 4096)
    if engine.max_model_len:
        max_tokens = min(max_tokens, engine.max_model_len // 2)
    return Request(engine.served_name, {**spec.sampling, **settings.sampling}, extra, max_tokens)


def _effective_sampling(engine: Engine, request: Request) -> dict[str, Any]:
    """What an answer is drawn with: the checkpoint's own settings, as far as the engine applies
    them, under what the requests say. Engines sample whether or not it says `do_sample`."""
    ignored = {"do_sample", *engine.facts.get("generation_config_not_applied", ())}
    own = engine.facts.get("generation_config", {})
    return {**{k: v for k, v in own.items() if k not in ignored}, **request.sampling}


def _session(progress: Progress, wall_s: float) -> dict[str, Any]:
    return {
        "ended_at": now(),
        "wall_s": round(wall_s, 1),
        "episodes": progress.finished,
        "errors": progress.errors,
        "rerun": progress.rerun,
        "parser_loss": progress.parser_loss,
        "concurrency_mean": round(progress.busy_s / max(wall_s, 1e-9), 1),
        "concurrency_peak": progress.peak,
        "episodes_per_s": round(progress.finished / max(wall_s, 1e-9), 2),
        "completion_tokens_per_s": round(progress.completion_tokens / max(wall_s, 1e-9), 1),
    }
