"""`run --dry-run`: what the command would do, without doing it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_shutdown import engines, runs
from local_shutdown.analysis.decided import expected_looks
from local_shutdown.engines import weights
from local_shutdown.engines.spec import ModelSpec
from local_shutdown.errors import LocalShutdownError
from local_shutdown.grid import as_ranges
from local_shutdown.record import Settings, open_record
from local_shutdown.runfile import Session
from local_shutdown.store import load_run
from local_shutdown.terminal import echo, note

_MOST_LOOKED_AHEAD = 50_000  # trials of a cell; each tenth is computed


@dataclass(frozen=True, slots=True)
class Estimate:
    """How fast a model was played before.

    Attributes:
        episodes_per_s: of the newest session of an earlier run.
        source: that run.
        engine: that played it.
    """

    episodes_per_s: float
    source: Path
    engine: str


def dry_run(settings: Settings) -> bool:
    """Print models, plan, episodes, folder and estimate; whether everything could be started.

    Raises:
        UsageError: the folder belongs to another run.
    """
    return dry_run_one(settings).ready


@dataclass(frozen=True, slots=True)
class Outlook:
    """What there is to a run.

    Attributes:
        ready: it could be started.
        seconds: estimate for what is missing; None where nothing of the kind was played before.
        missing: episodes.
    """

    ready: bool
    seconds: float | None
    missing: int


def dry_run_one(settings: Settings) -> Outlook:
    """See `dry_run`."""
    open_record(settings)  # refuses what the run would refuse; writes nothing
    done = runs.state(settings.out).on_disk if settings.out.is_dir() else 0
    wanted = runs.planned({**settings.identity(), "conditions": _ids(settings)})
    stored = runs.stored_ids(settings.out)
    missing = wanted.episodes - wanted.of(stored)
    echo(f"output: {settings.out} ({f'resumes a run with {done} episodes' if done else 'new'})")
    levels = len(settings.levels)
    echo(
        f"episodes: {wanted.episodes} = {_count(settings.models, 'model')} x "
        f"{_count(settings.conditions, 'condition')} ({as_ranges(_ids(settings))}) x "
        f"{settings.trials} trials"
        + (f" x {levels} levels" if levels > 1 else "")
        + (f", of which shard {settings.shard}" if settings.shard else "")
        + (f"; {missing} still to play" if missing < wanted.episodes else "")
        + ("; cells may stop earlier" if settings.stop_rule or settings.decided_rule else "")
    )
    if settings.study is None:  # of a study it is said once
        for line in what_deciding_takes(settings):
            echo(line)
    outlooks = [_model(spec, settings, stored) for spec in settings.models]
    seconds = [one.seconds for one in outlooks if one.missing]
    return Outlook(
        all(one.ready for one in outlooks),
        None if None in seconds else sum(filter(None, seconds)),
        sum(one.missing for one in outlooks),
    )


def what_deciding_takes(settings: Settings) -> list[str]:
    """What `--until-decided` saves, at rates that are not known yet: in trials of each cell."""
    rule = settings.decided_rule
    if rule is None:
        return []
    contrasts = rule.among(_ids(settings))
    if not contrasts:
        return [
            "until decided: no declared contrast is between these conditions: nothing to decide"
        ]
    level = rule.alpha / rule.levels / len(contrasts)

    def takes(low: float, high: float) -> str:
        rates = {contrasts[0].a: high, contrasts[0].b: low}
        most = min(settings.trials, _MOST_LOOKED_AHEAD)
        k = expected_looks(rates, contrasts[0], rule.delta, level, most)
        if k is None and most < settings.trials:
            return f"not decided in {most}"
        if k is None:
            return f"not decided in {most}, so nothing is saved there"
        return f"about {k} of {settings.trials} trials"

    points = f"{100 * rule.delta:g}"
    found = [f"until decided: {len(contrasts)} contrasts a model, each to within {points} points"]
    for said, low, high in (
        ("5% against 25%", 0.05, 0.25),
        ("15% against 25%", 0.15, 0.25),
        ("0% and 0%", 0.0, 0.0),
        ("2% and 2%", 0.02, 0.02),
        ("20% and 20%", 0.2, 0.2),
        ("50% and 50%", 0.5, 0.5),
    ):
        found.append(f"  {said}: {takes(low, high)}")
    return found


def _count(of: Sized, noun: str) -> str:
    return f"{len(of)} {noun}" if len(of) == 1 else f"{len(of)} {noun}s"


def _ids(settings: Settings) -> list[str]:
    return [condition.id for condition in settings.conditions]


def _only(spec: ModelSpec, settings: Settings) -> dict[str, Any]:
    """The settings that ask for one model's episodes; names may have slashes, as ids do."""
    return {**settings.identity(), "models": [spec.name], "conditions": _ids(settings)}


def _model(spec: ModelSpec, settings: Settings, stored: set[str]) -> Outlook:
    echo(f"{spec.display_name}")
    for warning in spec.warnings:
        note(f"warning: {warning}", indent=2)
    echo(f"  engine: {settings.engine}")
    if settings.engine != "endpoint":
        folder = weights.locate(spec)
        echo(f"  weights: {'on this machine' if folder else 'to be fetched'}")
    lines: list[str] = []
    try:
        asyncio.run(
            engines.check(
                settings.engine,
                spec,
                settings.options,
                lambda line: lines.append(line),
                fetch=False,
                planned=lambda line: lines.append(line),
            )
        )
    except LocalShutdownError as refused:
        lines.append(f"CANNOT RUN: {refused}")
    for line in "\n".join(lines).splitlines():
        note(line, indent=2)
    wanted = runs.planned(_only(spec, settings))
    own = wanted.episodes - wanted.of(stored)
    place = settings.out.parent if settings.study is None else settings.out.parent.parent
    found = estimate(spec.name, place)
    seconds: float | None = None
    if not own:
        note("time: nothing left to play, all its episodes are on disk", indent=2)
    elif found is None:
        note(f"time: no estimate, no earlier run of this model under {place}", indent=2)
    else:
        seconds = own / found.episodes_per_s
        note(
            f"time: about {spoken(seconds / 60)} for {own} episodes, at "
            f"{found.episodes_per_s:g} per second as in {found.source} ({found.engine})",
            indent=2,
        )
    return Outlook(not any(line.startswith("CANNOT RUN") for line in lines), seconds, own)


def spoken(minutes: float) -> str:
    if minutes < 1:
        return f"{max(1, round(60 * minutes))} s"
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def estimate(model: str, place: Path) -> Estimate | None:
    """The speed of the newest session in which a model was played, of the runs under a folder."""
    found = [
        (session.ended_at or "", session.episodes_per_s, directory)
        for directory in runs.find([place])
        for session in _sessions(directory, model)
        if session.episodes_per_s is not None and session.episodes_per_s > 0
    ]
    if not found:
        return None
    _, rate, source = max(found, key=lambda entry: entry[0])
    return Estimate(rate, source, load_run(source).settings.engine or "engine not recorded")


def _sessions(directory: Path, model: str) -> Sequence[Session]:
    try:
        return load_run(directory).model(model).sessions
    except LocalShutdownError:
        return ()
