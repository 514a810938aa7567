"""Options that several commands share, and turning them into settings."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

import click

from local_shutdown import engines
from local_shutdown.engines import weights
from local_shutdown.engines.client import ChatClient
from local_shutdown.engines.endpoint import served_models, some
from local_shutdown.engines.registry import describe_from_hub, load_registry, resolve
from local_shutdown.engines.spec import ModelSpec, Thinking
from local_shutdown.engines.starts import SEEDS
from local_shutdown.errors import EngineDown, EngineFault, EngineUnavailable, UsageError
from local_shutdown.shard import Shard

CALIBRATION = "calibration"
MOST_PATH = 1000  # characters
seed = click.option(
    "--seed",
    type=click.IntRange(0, SEEDS - 1),
    metavar="N",
    help="The seed from which each start of each server derives its own. Default: drawn at random "
    "and recorded in run.json. Not used with --base-url.",
)


def specs(names: Sequence[str], kind: engines.Kind, options: engines.Options) -> list[ModelSpec]:
    """The models of `--model`; the bundled calibration model when there is none.

    Raises:
        UsageError: a model twice, or one that cannot be found.
        EngineUnavailable: no name was given, and the endpoint serves none or several.
    """
    if not names:
        names = [asyncio.run(_served(options))] if kind == "endpoint" else [CALIBRATION]
    found: list[ModelSpec] = []
    find = finder(kind)
    for name in names:
        if len(name) > MOST_PATH or not name.isprintable():
            raise UsageError(f"--model {name[:80]!r}: neither the name of a model nor a folder")
        spec = find(name)
        if any(spec.name == other.name for other in found):
            raise UsageError(f"--model {name}: given twice")
        found.append(spec)
    return found


def finder(kind: engines.Kind, *, offline: bool = False) -> Callable[[str], ModelSpec]:
    """Finds a model by what `--model` takes; an endpoint may serve what nobody has heard of.

    Args:
        offline: do not ask the hub about models that are not listed.
    """
    registry = load_registry()
    describe = None if offline else _describe

    def find(name: str) -> ModelSpec:
        try:
            return resolve(name, registry, describe=describe)
        except UsageError:
            if kind != "endpoint":
                raise
            return _of_endpoint(name)

    return find


def _describe(hf_id: str) -> Path | None:
    """The files that say how to serve an unlisted model, where the hub can be reached."""
    return None if weights.hub_unreachable() else describe_from_hub(hf_id)


def _of_endpoint(name: str) -> ModelSpec:
    """A name that only the endpoint knows: nothing of it is ours to set."""
    return ModelSpec(
        name=name,
        hf_id=name,
        family="unknown",
        display_name=name,
        params_total_b=None,
        params_active_b=None,
        dtype="unknown",
        context=None,
        tool_parser=None,
        reasoning_parser=None,
        license="unknown",
        gated=False,
        min_gpu_gib=None,
        weights_gib=None,
        thinking=Thinking(efforts=("minimal", "low", "medium", "high")),
        source="endpoint",
    )


async def _served(options: engines.Options) -> str:
    base_url = engines.endpoint_url(options.base_url)
    async with ChatClient(base_url, options.api_key) as client:
        try:
            names = list(served_models(await client.get("/models")))
        except (EngineDown, EngineFault) as gone:
            raise EngineUnavailable(
                f"{base_url} does not answer: {gone.message}",
                "is the server up? is the port right?",
            ) from None
    if len(names) != 1:
        raise EngineUnavailable(
            f"{base_url} serves {some(names) or 'no model that it lists'}",
            "say which with --model",
        )
    return names[0]


def shard(said: str | None, trials: int, rules: Sequence[str]) -> Shard | None:
    """The shard of `--shard`.

    Args:
        rules: the options given that stop a cell early.

    Raises:
        UsageError: it is not of the form I/N, would have no trials, or goes with a rule that has to
            see all trials.
    """
    if said is None:
        return None
    try:
        part = Shard.parse(said)
    except ValueError as wrong:
        raise UsageError(f"--shard {wrong}") from None
    if part.of > trials:
        raise UsageError(
            f"--shard {said}: --trials {trials} is fewer than {part.of} shards, and some would "
            "have nothing to play",
            "give fewer shards, or more --trials",
        )
    if rules:
        raise UsageError(
            f"--shard and {rules[0]} cannot be combined: the rule judges all trials of a cell, and "
            "a shard sees only its own",
            "play the shards to their end, or one run without --shard",
        )
    return part


def default_out(models: Sequence[ModelSpec], shard: Shard | None = None) -> Path:
    """`runs/<date>-<model>`, of a shard with its number."""
    name = re.sub(r"[^A-Za-z0-9._+-]+", "-", models[0].name.strip("/").split("/")[-1])
    more = f"-and-{len(models) - 1}-more" if len(models) > 1 else ""
    part = f"-shard-{shard.index}-of-{shard.of}" if shard else ""
    return Path("runs") / f"{date.today().isoformat()}-{name}{more}{part}"
