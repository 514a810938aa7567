"""What a model is played at and through: a level of the reasoning factor, what is missing of it,
the request it is played with, and one episode of it. Shared by a run on one machine and the nodes
and the driver of a run on many."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Any

from local_shutdown import engines
from local_shutdown.agent import Observer, Task, run_episode
from local_shutdown.batch import Progress, plan
from local_shutdown.batch import missing as missing_of
from local_shutdown.detectors import outcome
from local_shutdown.early_stop import EarlyStop
from local_shutdown.engines import Engine, Seat
from local_shutdown.engines.client import Completion, Request
from local_shutdown.engines.continuation import Continuations, Continuer
from local_shutdown.engines.in_flight import Following
from local_shutdown.engines.probe import probe, require_calls
from local_shutdown.engines.replay import NAMES, OURS
from local_shutdown.engines.spec import ModelSpec
from local_shutdown.episode import Episode
from local_shutdown.errors import (
    ContextOverflow,
    EngineDown,
    EngineFault,
    first_cause,
)
from local_shutdown.factors import Level
from local_shutdown.in_flight import Fixed, Pace
from local_shutdown.prefix import Prefix, shown_messages
from local_shutdown.record import Settings
from local_shutdown.sandbox import Kit
from local_shutdown.store import Store, read_episodes, read_started

_AT_ONCE = 8  # answers whose tokens are asked for


@dataclass(frozen=True, slots=True)
class LevelState:
    """A level of the factors, and which of its cells have seen enough."""

    of: Level
    early: EarlyStop


def state_of(spec: ModelSpec, settings: Settings, wanted: Level, done: Set[str]) -> LevelState:
    """A level, with what is on disk of it."""
    early = EarlyStop(
        settings.stop_rule, settings.decided_rule, [c.id for c in settings.conditions]
    )
    if early.stops:
        this = spec.name, wanted.factor
        for begun in read_started(settings.out):
            if (begun.model, begun.factor) == this and not begun.retry:
                early.begun(begun.condition, begun.trial, again=begun.again)
        for episode in read_episodes(settings.out):
            ours = (episode.model, episode.extra.get("factor")) == this
            if ours and episode.episode_id in done:
                early.ended(episode, outcome(episode))
    return LevelState(wanted, early)


def missing(
    spec: ModelSpec,
    settings: Settings,
    store: Store,
    done: Set[str],
    level: LevelState,
    left_out: Callable[[], None] = lambda: None,
) -> Iterator[Task]:
    """What is missing of a level, as far as its cell has not seen enough when its turn comes.

    Args:
        left_out: called for each trial that need not be played any more.
    """

    def full(condition: str) -> bool:
        enough = level.early.enough(condition)
        if enough:
            left_out()
        return enough

    begun, branch = store.begun().copy(), settings.branch
    if branch is not None:
        return missing_of(
            lambda: branch.tasks(spec.name, level.of.factor, settings.trials), done, begun
        )
    return plan(
        spec.name,
        settings.conditions,
        settings.part.trials(settings.trials),
        done,
        level.of.factor,
        begun=begun,
        full=full,
    )


@dataclass(frozen=True, slots=True)
class Player:
    """Plays episodes of one model on one engine.

    Attributes:
        session: which call of `run` on the directory this is, counted from 1.
        most: episodes that this machine can have in flight.
        continuations: of answers that are played on from within, as this engine can.
    """

    spec: ModelSpec
    settings: Settings
    engine: Engine
    kit: Kit
    session: int
    most: int
    continuations: Continuations = field(default_factory=Continuations)

    async def prepare(
        self,
        level: Level,
        say: Callable[[str], None],
        noted: Callable[[Mapping[str, Any]], None] = lambda facts: None,
    ) -> tuple[Request, dict[str, Any]]:
        """The request of a level, tried in one exchange; and what run.json says of it.

        Args:
            noted: told what is asked for before anything is.

        Raises:
            EngineUnavailable: it fails the probe.
        """
        request = _request(self.spec, self.settings, level, self.engine)
        request = replace(request, reasoning_names=self._names())
        asked = {"max_tokens": request.max_tokens, **level.sampling, **request.extra}
        facts: dict[str, Any] = {
            "effective_sampling": _effective_sampling(self.engine, request),
            "requests": {level.name: asked},
        }
        noted(facts)
        if self.settings.probe:
            found = await probe(self.engine, request, self.spec)
            facts["probe"] = {level.name: found.as_dict()}
            for note in found.notes:
                say(f"probe: {note}")
            require_calls(found, self.spec)
            request = replace(request, reasoning_names=found.reasoning_names or self._names())
        return request, facts

    async def require_clean_prefixes(self, prefixes: Iterable[Prefix], request: Request) -> None:
        """Find out, before anything is played, whether recorded answers can be continued from
        within; what is found out serves the continuations.

        Args:
            prefixes: of all points; those that keep nothing of an answer are passed over, and those
                whose results only the replay can tell.

        Raises:
            NoCleanPrefix: one cannot, with the reason.
        """
        continuer = Continuer(self.engine.seats[0].client, request)
        gate = asyncio.Semaphore(_AT_ONCE)

        async def ask(prefix: Prefix) -> None:
            # An engine that fails here fails the continuations, too, or is brought back for them.
            async with gate:
                with contextlib.suppress(EngineFault, ContextOverflow):
                    await self.continuations.recorded(continuer, prefix, shown_messages(prefix))

        asked = [one for one in prefixes if one.answer is not None and not one.other_warning]
        try:
            async with asyncio.TaskGroup() as group:
                for prefix in asked:
                    group.create_task(ask(prefix))
        except BaseExceptionGroup as failed:
            raise first_cause(failed) from None

    async def play(self, task: Task, request: Request, pace: Pace) -> Episode:
        """One episode.

        Args:
            pace: of the batch that it is played in, see `pace`.

        Raises:
            EngineDown: its server died, and has been brought back.
            EngineUnavailable: it died, and cannot be brought back.
        """
        seat = self.engine.take_seat()
        try:
            return await self._play(task, seat, request, pace)
        except EngineDown:
            if seat.server is not None:
                await seat.server.revive()
            raise
        finally:
            self.engine.leave(seat)

    async def _play(self, task: Task, seat: Seat, request: Request, pace: Pace) -> Episode:
        """With a note of who served it: the start that it began on, should that die on the way and
        its successor give the rest."""
        start = seat.server.start if seat.server is not None else None
        server = start.name if start is not None else self._endpoint
        return await run_episode(
            replace(
                task,
                stop_at_bypass=self.settings.stop_at_bypass,
                interview=self.settings.interview,
                continuations=self.continuations,
                extra={"session": self.session, "server": server},
            ),
            seat.client,
            request,
            self.kit,
            replace(self.settings.limits, context=self.engine.max_model_len),
            headers=seat.headers,
            observer=_Paced(pace) if pace.varies else None,
        )

    @property
    def _endpoint(self) -> str:
        return f"{self.settings.place}{self.session}.endpoint"

    def pace(self, progress: Progress) -> Pace:
        """How many episodes are to be in flight, and when one of them may go on."""
        asked = self.settings.options.concurrency
        at_once = min(asked or self.engine.capacity or engines.DEFAULT_IN_FLIGHT, self.most)
        if asked or not self.engine.series:
            return Pace(Fixed(at_once), lambda: progress.in_flight)

        def left() -> int:
            begun = progress.finished + progress.in_flight - pace.waiting
            return max(0, progress.planned - begun)

        pace = Pace(
            Following(self.engine, self.most, self.spec.reasons, lambda: progress.finished, left),
            lambda: progress.in_flight,
        )
        return pace

    def _names(self) -> tuple[str, ...]:
        """What earlier reasoning is called where that was not found out: vLLM and our own server
        read the one, and to somebody's endpoint both are sent."""
        return NAMES if self.settings.engine == "endpoint" else (OURS,)


class _Paced(Observer):
    """Lets an episode go on when it is its turn; what has just begun has its place already."""

    def __init__(self, pace: Pace) -> None:
        self._pace, self._begun = pace, False
        self._context, self._asked_at = 0, 0

    async def turn(self) -> None:
        if self._begun:
            await self._pace.turn(self._context)
        self._begun, self._asked_at = True, self._pace.reading

    def answered(self, answer: Completion) -> None:
        asked = self._context
        self._context = (answer.prompt_tokens or 0) + (answer.completion_tokens or 0)
        seen = self._pace.reading != self._asked_at  # what it grew to is in a reading
        self._pace.answered(self._context if seen else asked)


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
