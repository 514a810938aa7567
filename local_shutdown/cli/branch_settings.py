"""The settings of a branched run: those of the run that it branches from, with other beginnings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

from local_shutdown import branch, engines
from local_shutdown.cli import options
from local_shutdown.cli.main import COMMAND
from local_shutdown.errors import UsageError
from local_shutdown.factors import DEFAULT, parts_of
from local_shutdown.run import Settings


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line says of the engine."""

    engine: str | None
    base_url: str | None
    api_key_env: str | None
    gpus: int | None
    concurrency: int | None
    engine_args: tuple[str, ...]


def engine_options(
    parent: branch.ParentRun, points: Sequence[branch.Point], asked: Asked
) -> engines.Options:
    """As the run was given them, where nothing else is asked for."""
    base_url = asked.base_url
    kind = asked.engine or ("endpoint" if base_url else parent.settings.get("engine"))
    facts = parent.model(points[0].model)
    if kind == "endpoint":
        base_url = engines.endpoint_url(base_url or facts.get("base_url"))
    elif base_url:
        raise UsageError(f"--base-url and --engine {kind} cannot be combined")
    sampling = parent.settings.get("sampling") or {}
    length = facts.get("max_model_len")
    return engines.Options(
        sampled=tuple(sampling),
        gpus=asked.gpus,
        base_url=base_url,
        api_key=engines.endpoint_key(base_url, asked.api_key_env) if base_url else None,
        max_model_len=length if isinstance(length, int) and kind != "endpoint" else None,
        engine_args=asked.engine_args or _given(parent.run.get("command"), "--engine-arg"),
        concurrency=asked.concurrency,
    )


def _given(command: Any, option: str) -> tuple[str, ...]:
    """The values of an option on a recorded command line."""
    words = [str(word) for word in command] if isinstance(command, list) else []
    values = [word.partition("=")[2] for word in words if word.startswith(f"{option}=")]
    values += [after for word, after in pairwise(words) if word == option]
    return tuple(values)


def settings_of(
    parent: branch.ParentRun, plan: branch.Branch, engine: str | None, given: engines.Options
) -> Settings:
    """The parent's settings, with other beginnings."""
    of_run = parent.settings
    wanted = engine or ("endpoint" if given.base_url else str(of_run.get("engine")))
    kind = engines.choose_kind(wanted, given.base_url)
    conditions = {point.condition.id: point.condition for point in plan.points}
    models = dict.fromkeys(point.model for point in plan.points)
    levels = [parts_of(point.level) for point in plan.points]
    modes = tuple(dict.fromkeys(level.get("effort", DEFAULT) for level in levels))
    hot = dict.fromkeys(level["temperature"] for level in levels if "temperature" in level)
    specs = options.specs(list(models), kind, given)
    budget = of_run.get("thinking_budget")
    for spec in specs:
        for mode in modes:
            spec.thinking.request(mode, budget)
    return Settings(
        models=specs,
        conditions=list(conditions.values()),
        trials=1,
        out=Path(),
        engine=kind,
        options=given,
        limits=parent.limits,
        max_tokens=of_run.get("max_tokens"),
        sampling=of_run.get("sampling") or {},
        thinking=modes,
        thinking_budget=budget,
        temperatures=[float(one) for one in hot],
        fixed=of_run.get("fixed") or {},
        serving=of_run.get("serving") or {},
        stop_at_bypass=bool(of_run.get("stop_at_bypass")),
        interview=parent.interview,
        command=click.get_current_context().meta.get(COMMAND, ()),
        branch=plan,
    )
