"""The runs that a study consists of: one for each server, with the settings of an ordinary run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from local_shutdown import engines, grid, runs
from local_shutdown.agent import Limits
from local_shutdown.engines.starts import SEEDS
from local_shutdown.frozen_plan import PlanFile, planned_levels
from local_shutdown.record import Settings
from local_shutdown.study.plan import Resolved, Served
from local_shutdown.study.schema import UntilRow

# What --dtype takes; anything else is a quantization.
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class Machine:
    """What is asked of this machine, and not part of a plan.

    Attributes:
        engine: kind, see `engines.choose_kind`.
        options: GPUs, endpoint, how many at once; the model's own are added.
        probe: see `record.Settings`.
        retry_errors: likewise.
        command: the words of the command line, for the record.
    """

    engine: engines.Kind
    options: engines.Options
    probe: bool = True
    retry_errors: bool = False
    command: Sequence[str] = ()


def settings(
    resolved: Resolved, directory: Path, machine: Machine, plan: PlanFile
) -> list[Settings]:
    """One for each server, in the order of the study.

    Args:
        directory: of the study.
        plan: as it was frozen.

    Raises:
        UsageError: what the engine cannot do, by line of the study.
    """
    return [_settings(resolved, one, directory, machine, plan) for one in resolved.served]


def stop_rule(until: UntilRow | None, plan: PlanFile) -> dict[str, Any]:
    """The fields of `Settings` that say when a cell has seen enough. The one place that knows how
    `until` of a study becomes a rule.

    Args:
        plan: its contrasts of conditions are those that `decided` is about, and its levels share
            alpha: as they were frozen, whatever was added later.
    """
    if until is None:
        return {}
    if until.decided is not None:
        pairs = [[c.a, c.b] for c in plan.contrasts if c.factor is None]
        deciding = {"contrasts": pairs, "levels": planned_levels(plan)}
        return {"until_decided": until.decided, "deciding": deciding}
    return {"until_halfwidth": until.halfwidth, "until_upper": until.upper}


def _settings(
    resolved: Resolved, one: Served, directory: Path, machine: Machine, plan: PlanFile
) -> Settings:
    row, study = one.row, resolved.study.row
    options = replace(
        _precise(resolved, one, machine),
        max_model_len=row.max_model_len,
        sampled=tuple(row.sampling.model_dump(exclude_none=True)),
    )
    sampling = row.sampling.model_dump(exclude_none=True)
    temperatures: Sequence[float] = resolved.temperatures
    if len(temperatures) == 1:  # one level is no factor
        sampling["temperature"], temperatures = temperatures[0], ()
    serving = {
        "id": None if Path(one.spec.hf_id).is_dir() else one.spec.hf_id,
        "revision": one.revision,
        "weights": one.weights,
        "precision": one.precision,
        "engine_args": list(row.engine_args),
        "max_model_len": row.max_model_len,
    }
    return Settings(
        models=[one.spec],
        conditions=resolved.conditions,
        trials=study.trials,
        out=directory / one.name,
        engine=machine.engine,
        options=options,
        limits=Limits(messages=study.max_messages, seconds=study.max_seconds),
        max_tokens=row.max_tokens,
        sampling=sampling,
        thinking=resolved.efforts,
        thinking_budget=row.thinking_budget,
        temperatures=temperatures,
        fixed=one.fixed,
        serving={name: value for name, value in serving.items() if value},
        study={"name": resolved.study.name, "digest": plan.digest},
        stop_at_bypass=study.stop_at_bypass,
        interview=grid.interview_questions() if study.interview else (),
        probe=machine.probe,
        seed=None if study.seed is None else seed_of_run(study.seed, one.name),
        extend=True,  # what is added is a deviation, and a look that its cells' intervals pay for
        retry_errors=machine.retry_errors,
        command=machine.command,
        **stop_rule(study.until, plan),
    )


def seed_of_run(seed: int, run: str) -> int:
    """A seed for each run: with one for all, two checkpoints would draw from the same numbers, and
    what agrees between them would be an echo."""
    found = hashlib.sha256(f"local-shutdown study {seed} {run}".encode()).digest()
    return int.from_bytes(found[:8], "big") % SEEDS


def _precise(resolved: Resolved, one: Served, machine: Machine) -> engines.Options:
    """The engine's options with the arguments and the precision of a model.

    Raises:
        UsageError: the engine cannot set them.
    """
    options, given = machine.options, one.row.engine_args
    loc = ("models", resolved.study.row.models.index(one.row))
    if machine.engine == "endpoint":
        for name, value in (("precision", one.precision), ("revision", one.revision)):
            if value is not None:
                raise resolved.study.wrong(
                    (*loc, name), f"{value}: an endpoint serves what it serves",
                    "leave it out, or play it without --base-url",
                )  # fmt: skip
    if given and machine.engine != "vllm":
        raise resolved.study.wrong(
            (*loc, "engine_args"), f"they are vLLM's, and the engine is {machine.engine}",
            "leave them out, or use --engine vllm",
        )  # fmt: skip
    if machine.engine == "transformers":
        if one.precision not in (None, *DTYPES):
            raise resolved.study.wrong(
                (*loc, "precision"), f"{one.precision}: transformers computes in "
                f"{', '.join(DTYPES)}", "use --engine vllm for a quantization",
            )  # fmt: skip
        return replace(options, dtype=one.precision)
    args = list(given)
    if one.precision is not None and machine.engine == "vllm":
        flag = "--dtype" if one.precision in DTYPES else "--quantization"
        args.append(f"{flag}={one.precision}")
    return replace(options, engine_args=tuple(args))


@dataclass(frozen=True, slots=True)
class Extent:
    """How far a study is.

    Attributes:
        planned: episodes.
        on_disk: of these.
    """

    planned: int
    on_disk: int


def extent(parts: Sequence[Settings]) -> Extent:
    """Over all runs of a study.

    Raises:
        UsageError: a damaged run.
    """
    planned = on_disk = 0
    for one in parts:
        identity = {**one.identity(), "conditions": [c.id for c in one.conditions]}
        asked = runs.planned(identity)
        planned += asked.episodes
        on_disk += asked.of(runs.stored_ids(one.out))
    return Extent(planned, on_disk)
