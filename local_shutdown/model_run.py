"""A run of one model: served, probed, and played through what is missing of the grid."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

from local_shutdown import engines
from local_shutdown.agent import Task
from local_shutdown.batch import Progress, run_batch
from local_shutdown.branch.same import differences, remarks
from local_shutdown.detectors import outcome
from local_shutdown.engines import Engine, hardware
from local_shutdown.engines.client import Request
from local_shutdown.engines.spec import ModelSpec
from local_shutdown.engines.starts import Starts
from local_shutdown.episode import Episode, Outcome
from local_shutdown.errors import EngineDown, EngineUnavailable, UsageError
from local_shutdown.interrupt import Interrupt
from local_shutdown.level import LevelState, Player, missing, state_of
from local_shutdown.record import Settings, now
from local_shutdown.runfile import ModelFacts, RunFile, Session
from local_shutdown.sandbox import Kit
from local_shutdown.started import Started
from local_shutdown.store import Store, write_run


class Display:
    """What a run tells the user; `cli.display` has one for terminals and one for logs."""

    def say(self, line: str) -> None:
        """A line of text."""

    def prepare(self) -> None:
        """Something is going to be played, once an engine is up. May come again."""

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
    done: Set[str]
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
        states = [state_of(spec, settings, level, setup.done) for level in settings.levels]
        levels = [(level, sum(1 for _ in self._tasks(level))) for level in states]
        levels = [(level, lacking) for level, lacking in levels if lacking]
        if not levels:
            display.say(f"{spec.display_name}: all episodes are on disk")
            return
        display.prepare()
        for warning in spec.warnings:
            display.say(f"warning: {warning}")
        facts = setup.record.models[spec.name]
        seed = setup.record.run_seed
        assert seed is not None  # `record.open_record` sees to it
        starts = Starts(seed, setup.session, setup.record.server_starts, setup.save)
        async with engines.open_engine(
            settings.engine, spec, settings.options, settings.out, display.say, starts
        ) as engine:
            facts.add(engine.facts)
            facts.max_model_len = engine.max_model_len
            for level, lacking in levels:
                if setup.interrupt.asked:
                    break
                await self._play_level(engine, level, lacking, facts)
        facts.add(engine.facts)

    def _tasks(
        self, level: LevelState, left_out: Callable[[], None] = lambda: None
    ) -> Iterator[Task]:
        setup = self._setup
        return missing(self._spec, setup.settings, setup.store, setup.done, level, left_out)

    def _require_recorded(self, facts: ModelFacts, level: str) -> None:
        """Continuations are drawn from what drew the parent, unless the user asked for another.

        Raises:
            UsageError: model, engine or sampling are not those on record, by field.
        """
        branch = self._setup.settings.branch
        if branch is None:
            return
        recorded, here = branch.recorded[self._spec.name], facts.as_json()
        for remark in remarks(recorded, here):
            self._setup.display.say(f"note: {remark}")
        differ = differences(recorded, here, level)
        if differ and not branch.allow_different:
            raise UsageError(
                f"{self._spec.name} is not served as it was for {branch.source}: "
                f"{'; '.join(differ)}",
                "serve it as it was, or give --allow-different",
            )
        if differ:
            facts.different_from_parent = differ
            self._setup.display.say(f"warning: not as recorded: {'; '.join(differ)}")

    async def _play_level(
        self, engine: Engine, level: LevelState, lacking: int, facts: ModelFacts
    ) -> None:
        setup = self._setup
        player = Player(self._spec, setup.settings, engine, setup.kit, setup.session, setup.most)

        def noted(found: Mapping[str, Any]) -> None:
            facts.effective_sampling = found["effective_sampling"]
            facts.requests = {**facts.requests, **found["requests"]}
            self._require_recorded(facts, level.of.name)

        request, found = await player.prepare(level.of, setup.display.say, noted)
        if "probe" in found:
            facts.probe = {**facts.probe, **found["probe"]}
        setup.save()
        if setup.settings.options.continues:
            tasks = self._tasks(level)
            prefixes = {
                task.prefix.parent: task.prefix for task in tasks if task.prefix is not None
            }
            await player.require_clean_prefixes(prefixes.values(), request)
        progress = Progress(planned=lacking)
        setup.display.start(self._spec, progress, engine)
        began = time.monotonic()
        try:
            await self._play_tasks(player, level, request, progress)
        finally:
            setup.display.stop()
            session = self._session(level, progress, time.monotonic() - began)
            if engine.series:
                session.metrics = facts.metrics = engine.metrics()
            facts.sessions = [*facts.sessions, session]

    async def _play_tasks(
        self, player: Player, level: LevelState, request: Request, progress: Progress
    ) -> None:
        setup, pace = self._setup, player.pace(progress)

        async def play(task: Task) -> Episode:
            started = Started(
                task.episode_id, task.model, task.condition.id, task.trial, task.factor,
                setup.session,
            )  # fmt: skip
            begun = setup.store.begin(started)
            if not begun.retry:
                level.early.begun(begun.condition, begun.trial, again=begun.again)
            return await player.play(task, request, pace)

        def keep(episode: Episode) -> None:
            setup.store.add(episode)
            result = outcome(episode)
            level.early.ended(episode, result)
            setup.display.ended(episode, result)

        def left_out() -> None:
            progress.planned -= 1

        try:
            await run_batch(
                self._tasks(level, left_out),
                play,
                keep,
                pace.target,
                progress,
                rerun=setup.settings.engine != "endpoint",
                interrupt=setup.interrupt,
            )
        except EngineDown as gone:
            raise EngineUnavailable(
                f"{self._spec.name}: the engine is gone: {gone.message}",
                "finished episodes are kept; run the same command to resume",
            ) from None

    def _session(self, level: LevelState, progress: Progress, wall_s: float) -> Session:
        shard, host = self._setup.settings.shard, hardware.slurm_host()
        session = Session(
            factor=level.of.factor,
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
