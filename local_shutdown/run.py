"""One run: models one after another, each served, probed and played through the grid."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

from local_shutdown import __version__, engines
from local_shutdown.agent import Limits, Task, run_episode
from local_shutdown.batch import Progress, plan, run_batch
from local_shutdown.detectors import Row, outcome, score, write_csv
from local_shutdown.early_stop import EarlyStop
from local_shutdown.engines import Engine, hardware, weights
from local_shutdown.engines.client import Request
from local_shutdown.engines.probe import insist, probe
from local_shutdown.engines.spec import ModelSpec
from local_shutdown.environment import Environment
from local_shutdown.episode import Episode
from local_shutdown.errors import (
    CannotRunError,
    EngineDown,
    EngineUnavailable,
    SandboxFault,
    SandboxUnavailable,
    UsageError,
)
from local_shutdown.grid import Condition
from local_shutdown.sandbox import Kit, prepare
from local_shutdown.store import RESULTS, RUN, Store, read_episodes, read_run, write_run


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user asked for.

    Attributes:
        trials: per model and condition.
        sampling: request fields that override the engine's defaults.
        thinking: reasoning modes or efforts, see `engines.spec.Thinking`; each is played, and told
            apart as a factor unless it is the default.
        until_halfwidth: a cell stops once its interval is this narrow, see `analysis.stopping`.
        extend: more trials, models or conditions may be added to an existing directory.
        retry_errors: episodes that ended in `error` are played again.
    """

    models: Sequence[ModelSpec]
    conditions: Sequence[Condition]
    trials: int
    out: Path
    engine: engines.Kind
    options: engines.Options
    limits: Limits
    max_tokens: int | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    thinking: Sequence[str] = ("default",)
    thinking_budget: int | None = None
    stop_at_bypass: bool = False
    interview: Sequence[str] = ()
    probe: bool = True
    until_halfwidth: float | None = None
    extend: bool = False
    retry_errors: bool = False

    def identity(self) -> dict[str, Any]:
        """What must be the same for two calls to be one run. How fast it is played is not in it."""
        return {
            "models": [spec.name for spec in self.models],
            "conditions": {c.id: c.prompt_hash for c in self.conditions},
            "trials": self.trials,
            "engine": self.engine,
            "max_tokens": self.max_tokens,
            "sampling": dict(self.sampling),
            "thinking": list(self.thinking),
            "thinking_budget": self.thinking_budget,
            "max_messages": self.limits.messages,
            "stop_at_bypass": self.stop_at_bypass,
            "interview": list(self.interview),
            "until_halfwidth": self.until_halfwidth,
        }


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
    record = _open_record(settings)
    _raise_descriptor_limit(settings.options.concurrency)
    with prepare() as kit:
        await check_sandbox(kit)
        with Store(settings.out) as store:
            record["sandbox"] = kit.policy.describe()
            write_run(settings.out, record)
            done = store.finished(errors_too=not settings.retry_errors)
            try:
                for spec, following in zip_longest(settings.models, settings.models[1:]):
                    fetching = _fetch_ahead(following, settings, display)
                    await _play_model(spec, settings, kit, store, done, record, display)
                    if fetching is not None:
                        await fetching
            finally:
                record["ended_at"] = _now()
                write_run(settings.out, record)
    return write_results(settings.out)


def _fetch_ahead(
    spec: ModelSpec | None, settings: Settings, display: Display
) -> asyncio.Task[None] | None:
    """Fetch the next model's weights while this one is played. What goes wrong is said when that
    model's turn comes: it is then looked for again."""
    if spec is None or settings.engine == "endpoint" or weights.locate(spec) is not None:
        return None

    async def fetch() -> None:
        with contextlib.suppress(EngineUnavailable):
            await asyncio.to_thread(weights.ensure, spec, display.say)

    return asyncio.create_task(fetch())


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
            facts["effective_sampling"] = {
                **engine.facts.get("generation_config", {}),
                **request.sampling,
            }
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
                    spec, settings, kit, store, done, engine, request, progress, display, level
                )
            finally:
                display.stop()
                session = _session(progress, time.monotonic() - began)
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
) -> None:
    limits = replace(settings.limits, context=engine.max_model_len)

    async def play(task: Task) -> Episode:
        seat = engine.take_seat()
        seen = seat.server.generation if seat.server else 0
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
                await seat.server.revive(seen)
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

    try:
        await run_batch(
            plan(spec.name, settings.conditions, settings.trials, done, level.factor),
            play,
            keep,
            min(settings.options.concurrency, progress.planned),
            progress,
            rerun=settings.engine != "endpoint",
            wanted=wanted,
        )
    except* EngineDown as gone:
        raise EngineUnavailable(
            f"{spec.name}: the engine is gone: {gone.exceptions[0]}",
            "finished episodes are kept: the same command goes on from there",
        ) from None
    except* CannotRunError as failed:
        raise _first(failed) from None


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _request(spec: ModelSpec, settings: Settings, mode: str, engine: Engine) -> Request:
    extra = spec.thinking.request(mode, settings.thinking_budget)
    max_tokens = settings.max_tokens or (16384 if spec.reasons else 4096)
    if engine.max_model_len:
        max_tokens = min(max_tokens, engine.max_model_len // 2)
    return Request(engine.served_name, {**spec.sampling, **settings.sampling}, extra, max_tokens)


def _session(progress: Progress, wall_s: float) -> dict[str, Any]:
    return {
        "ended_at": _now(),
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


# --- the record -------------------------------------------------------------------------------


def _open_record(settings: Settings) -> dict[str, Any]:
    """run.json of the directory, or a new one.

    Raises:
        UsageError: it belongs to another run, naming what differs.
    """
    wanted = settings.identity()
    record = _new_record(settings, wanted)
    if not (settings.out / RUN).exists():
        strangers = settings.out.is_dir() and any(
            not name.name.startswith(".") for name in settings.out.iterdir()
        )
        if strangers:
            raise UsageError(
                f"--out {settings.out}: the folder holds something else than a run",
                "give a new folder",
            )
        return record
    old = read_run(settings.out)
    if old.get("kind") != "run":
        raise UsageError(f"--out {settings.out}: holds {old.get('kind')!r}, not a run")
    differs = [name for name in wanted if old["settings"].get(name) != wanted[name]]
    if settings.extend:
        differs = [name for name in differs if not _extends(name, old["settings"], wanted)]
    if differs:
        said = "; ".join(
            f"{n}: {old['settings'].get(n)!r} there, {wanted[n]!r} now" for n in differs
        )
        raise UsageError(
            f"--out {settings.out} belongs to a run with other settings: {said}",
            "give another --out, or the old settings"
            + ("" if settings.extend else "; --extend adds trials, models or conditions"),
        )
    models = {**record["models"], **old["models"]}
    return {**old, "settings": wanted, "models": models, "conditions": record["conditions"]}


def _extends(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    if name == "trials":
        return bool(new["trials"] >= old["trials"])
    if name in ("models", "thinking"):
        return set(old[name]) <= set(new[name])
    return name == "conditions" and set(old["conditions"].items()) <= set(new["conditions"].items())


def _new_record(settings: Settings, identity: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kind": "run",
        "package_version": __version__,
        "settings": dict(identity),
        "models": {
            spec.name: {
                "display_name": spec.display_name,
                "model": spec.hf_id,
                "family": spec.family,
                "source": spec.source,
                "tool_parser": spec.tool_parser,
                "reasoning_parser": spec.reasoning_parser,
                "warnings": list(spec.warnings),
            }
            for spec in settings.models
        },
        "conditions": {
            c.id: {
                "title": c.title,
                "wording": c.wording,
                "prompt_hash": c.prompt_hash,
                "system": c.system,
                "user": c.user,
                "warning_on_call": c.warning_on_call,
            }
            for c in settings.conditions
        },
        "limits": asdict(settings.limits),
        "hardware": hardware.describe(),
        "started_at": _now(),
    }


def write_results(directory: Path) -> bool:
    """(Re)make results.csv from the stored episodes; returns whether one ended in `error`."""
    failed = False

    def rows() -> Iterator[Row]:
        nonlocal failed
        for episode in read_episodes(directory):
            row = score(episode)
            failed |= row.outcome == "error"
            yield row

    beside = directory / f".{RESULTS}"
    write_csv(rows(), beside)
    beside.replace(directory / RESULTS)
    return failed


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _raise_descriptor_limit(concurrency: int) -> None:
    """Each episode holds about 8 descriptors here and its request one more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 512 + 16 * concurrency
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise CannotRunError(
            f"--concurrency {concurrency} needs {needed} open files, the limit here is {hard}",
            f"give --concurrency {max(1, (hard - 512) // 16)}, or raise `ulimit -n`",
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
