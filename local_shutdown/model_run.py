"""A run of one model: served, probed, and played through what is missing of the grid."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from local_shutdown import engines
from local_shutdown.agent import Task, run_episode
from local_shutdown.batch import Progress, plan, run_batch
from local_shutdown.detectors import outcome
from local_shutdown.early_stop import EarlyStop
from local_shutdown.engines import Engine, Seat, hardware
from local_shutdown.engines.client import Request
from local_shutdown.engines.in_flight import Following
from local_shutdown.engines.probe import probe, require_calls
from local_shutdown.engines.replay import NAMES, OURS
from local_shutdown.engines.spec import ModelSpec
from local_shutdown.engines.starts import Starts
from local_shutdown.episode import Episode, Outcome
from local_shutdown.errors import EngineDown, EngineUnavailable
from local_shutdown.factors import Level
from local_shutdown.in_flight import Fixed, InFlight
from local_shutdown.interrupt import Interrupt
from local_shutdown.record import Settings, now
from local_shutdown.runfile import ModelFacts, RunFile, Session
from local_shutdown.sandbox import Kit
from local_shutdown.store import Started, Store, read_episodes, read_started, write_run


class Display:
    """What a run tells the user; `cli.display` has one for terminals and one for logs."""

    def say(self, line: str) -> None:
        """A line of text."""

    def start(self, spec: ModelSpec, progress: Progress, engine: Engine) -> None:
        """A model is about to be played."""

    def ended(self, episode: Episode, result: Outcome | None) -> None:
        """An episode is on disk."""

    def stop(self) -> None:
        """The model is done, or the run is ended."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What the models of one run share.

    Attributes:
        settings: what was asked for.
        kit: what sandboxes are made of.
        store: the run directory.
        record: run.json, changed in place and written out at every step.
        done: ids of the episodes that will not be played again.
        most: episodes that this machine can have in flight.
        display: what the user sees.
        interrupt: how the user ends it.
    """

    settings: Settings
    kit: Kit
    store: Store
    record: RunFile
    done: set[str]
    most: int
    display: Display
    interrupt: Interrupt

    @property
    def session(self) -> int:
        """Which call of `run` on the directory this is, counted from 1."""
        return self.record.session

    def save(self) -> None:
        """Write run.json.

        Raises:
            CannotRunError: it cannot be written.
        """
        write_run(self.settings.out, self.record)


@dataclass(frozen=True, slots=True)
class _Level:
    """One level of the factors, and what is missing of it."""

    of: Level
    missing: int
    early: EarlyStop

    @property
    def factor(self) -> str | None:
        return self.of.factor


class ModelRun:
    """One model of a run."""

    def __init__(self, spec: ModelSpec, setup: Setup) -> None:
        self._spec = spec
        self._setup = setup

    async def play(self) -> None:
        """Serve the model and play every level that has episodes missing; nothing where all are
        on disk.

        Raises:
            EngineUnavailable: the engine does not start, fails the probe, or is gone for good.
            CannotRunError: a full disk.
        """
        setup, spec = self._setup, self._spec
        settings, display = setup.settings, setup.display
        levels = [self._level(level) for level in settings.levels]
        levels = [level for level in levels if level.missing]
        if not levels:
            display.say(f"{spec.display_name}: all episodes are on disk")
            return
        for warning in spec.warnings:
            display.say(f"warning: {warning}")
        facts = setup.record.models[spec.name]
        seed = setup.record.run_seed
        assert seed is not None  # `record.open_record` sees to it
        starts = Starts(seed, setup.session, setup.record.server_starts, setup.save,
                        settings.place)  # fmt: skip
        async with engines.open_engine(
            settings.engine, spec, settings.options, settings.out, display.say, starts
        ) as engine:
            facts.add(engine.facts)
            facts.max_model_len = engine.max_model_len
            for level in levels:
                if setup.interrupt.asked:
                    break
                await self._play_level(engine, level, facts)
        facts.add(engine.facts)

    def _level(self, wanted: Level) -> _Level:
        settings, done = self._setup.settings, self._setup.done
        early = EarlyStop(
            settings.stop_rule, settings.decided_rule, [c.id for c in settings.conditions]
        )
        if early.stops:
            this = self._spec.name, wanted.factor
            for begun in read_started(settings.out):
                if (begun.model, begun.factor) == this and not begun.retry:
                    early.begun(begun.condition, begun.trial, again=begun.again)
            for episode in read_episodes(settings.out):
                ours = (episode.model, episode.extra.get("factor")) == this
                if ours and episode.episode_id in done:
                    early.ended(episode, outcome(episode))
        level = _Level(wanted, 0, early)
        return replace(level, missing=sum(1 for _ in self._tasks(level, Progress())))

    def _tasks(self, level: _Level, progress: Progress) -> Iterator[Task]:
        """What is missing, as far as its cell has not seen enough when its turn comes."""
        settings = self._setup.settings

        def full(condition: str) -> bool:
            enough = level.early.enough(condition)
            progress.planned -= enough
            return enough

        return plan(
            self._spec.name,
            settings.conditions,
            settings.trials,
            self._setup.done,
            level.factor,
            shard=settings.part,
            begun=frozenset(self._setup.store.begun()),
            full=full,
        )

    async def _play_level(self, engine: Engine, level: _Level, facts: ModelFacts) -> None:
        setup = self._setup
        request = _request(self._spec, setup.settings, level.of, engine)
        request = replace(request, reasoning_names=self._names())
        facts.effective_sampling = _effective_sampling(engine, request)
        asked = {"max_tokens": request.max_tokens, **level.of.sampling, **request.extra}
        facts.requests = {**facts.requests, level.of.name: asked}
        if setup.settings.probe:
            found = await probe(engine, request, self._spec)
            facts.probe = {**facts.probe, level.of.name: found.as_dict()}
            for note in found.notes:
                setup.display.say(f"probe: {note}")
            require_calls(found, self._spec)
            request = replace(request, reasoning_names=found.reasoning_names or self._names())
        setup.save()
        progress = Progress(planned=level.missing)
        setup.display.start(self._spec, progress, engine)
        began = time.monotonic()
        try:
            await self._play_tasks(engine, level, request, progress)
        finally:
            setup.display.stop()
            session = self._session(level, progress, time.monotonic() - began)
            if engine.series:
                session.metrics = facts.metrics = engine.metrics()
            facts.sessions = [*facts.sessions, session]

    async def _play_tasks(
        self, engine: Engine, level: _Level, request: Request, progress: Progress
    ) -> None:
        setup = self._setup

        async def play(task: Task) -> Episode:
            started = Started(
                task.episode_id, task.model, task.condition.id, task.trial, task.factor,
                setup.session,
            )  # fmt: skip
            begun = setup.store.begin(started)
            if not begun.retry:
                level.early.begun(begun.condition, begun.trial, again=begun.again)
            seat = engine.take_seat()
            try:
                return await self._play_episode(task, seat, request, engine)
            except EngineDown:
                if seat.server is not None:
                    await seat.server.revive()
                raise
            finally:
                engine.leave(seat)

        def keep(episode: Episode) -> None:
            setup.store.add(episode)
            result = outcome(episode)
            level.early.ended(episode, result)
            setup.display.ended(episode, result)

        try:
            await run_batch(
                self._tasks(level, progress),
                play,
                keep,
                self._in_flight(engine, progress).target,
                progress,
                rerun=setup.settings.engine != "endpoint",
                interrupt=setup.interrupt,
            )
        except EngineDown as gone:
            raise EngineUnavailable(
                f"{self._spec.name}: the engine is gone: {gone.message}",
                "finished episodes are kept; run the same command to resume",
            ) from None

    async def _play_episode(
        self, task: Task, seat: Seat, request: Request, engine: Engine
    ) -> Episode:
        """One episode, with a note of who served it: the start that it began on, should that die
        on the way and its successor give the rest."""
        settings, session = self._setup.settings, self._setup.session
        start = seat.server.start if seat.server is not None else None
        server = start.name if start is not None else f"{settings.place}{session}.endpoint"
        episode = await run_episode(
            replace(task, stop_at_bypass=settings.stop_at_bypass, interview=settings.interview),
            seat.client,
            request,
            self._setup.kit,
            replace(settings.limits, context=engine.max_model_len),
            headers=seat.headers,
        )
        return replace(episode, extra={**episode.extra, "session": session, "server": server})

    def _in_flight(self, engine: Engine, progress: Progress) -> InFlight:
        asked, most = self._setup.settings.options.concurrency, self._setup.most
        at_once = min(asked or engine.capacity or engines.DEFAULT_IN_FLIGHT, most)
        if asked or not engine.series:
            return Fixed(at_once)
        return Following(
            engine,
            most,
            self._spec.reasons,
            lambda: progress.finished,
            lambda: max(0, progress.planned - progress.finished - progress.in_flight),
        )

    def _names(self) -> tuple[str, ...]:
        """What earlier reasoning is called where that was not found out: vLLM and our own server
        read the one, and to somebody's endpoint both are sent."""
        return NAMES if self._setup.settings.engine == "endpoint" else (OURS,)

    def _session(self, level: _Level, progress: Progress, wall_s: float) -> Session:
        shard, host = self._setup.settings.shard, hardware.slurm_host()
        session = Session(
            factor=level.factor,
            session=self._setup.session,
            ended_at=now(),
            interrupted=self._setup.interrupt.asked,
            wall_s=round(wall_s, 1),
            episodes=progress.finished,
            errors=progress.errors,
            rerun=progress.rerun,
            parser_loss=progress.parser_loss,
            concurrency_mean=round(progress.busy_s / max(wall_s, 1e-9), 1),
            concurrency_peak=progress.peak,
            episodes_per_s=round(progress.finished / max(wall_s, 1e-9), 2),
            completion_tokens_per_s=round(progress.completion_tokens / max(wall_s, 1e-9), 1),
        )
        if shard is not None:
            session.shard = str(shard)
        if host is not None:
            session.host = host
        return session


def _request(spec: ModelSpec, settings: Settings, level: Level, engine: Engine) -> Request:
    extra = spec.thinking.request(level.effort, settings.thinking_budget)
    max_tokens = settings.max_tokens or (16384 if spec.reasons else 4096)
    if engine.max_model_len:
        max_tokens = min(max_tokens, engine.max_model_len // 2)
    sampling = {**spec.sampling, **settings.sampling, **level.sampling}
    return Request(engine.served_name, sampling, extra, max_tokens)


def _effective_sampling(engine: Engine, request: Request) -> dict[str, Any]:
    """What an answer is drawn with: the checkpoint's own settings, as far as the engine applies
    them, under what the requests say. Engines sample whether or not it says `do_sample`."""
    ignored = {"do_sample", *engine.facts.get("generation_config_not_applied", ())}
    own = engine.facts.get("generation_config", {})
    return {**{k: v for k, v in own.items() if k not in ignored}, **request.sampling}
