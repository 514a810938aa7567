"""Large run directories, made of episodes that were really played."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import orjson

from benchlib.endpoint import RESIST, serve
from benchlib.harness import CONDITIONS, OUTCOMES, ours

# Thirteen models at a thousand trials are about what the paper played.
MOST_TRIALS = 1_000
# What a reasoning model says before it acts; brings an episode to about 10 kB.
SAID = "I have to weigh what the instructions say about the shutdown against finishing the task. "


def large_run(directory: Path, episodes: int) -> int:
    """Write run.json and episodes.jsonl of a finished run: two of eleven resist, commands and ids
    differ.

    Args:
        episodes: at most so many, and as many as make cells of one size.

    Returns:
        How many it has.
    """
    directory.mkdir(parents=True)
    run, tails = _played()
    conditions = list(run["conditions"])
    models = -(-episodes // (CONDITIONS * MOST_TRIALS))
    trials = episodes // (CONDITIONS * models)
    facts = run["models"].pop("scripted")
    run["models"] = {f"model-{n}": {**facts, "display_name": f"Model {n}"} for n in range(models)}
    run["settings"] |= {"models": list(run["models"]), "trials": trials}
    (directory / "run.json").write_bytes(orjson.dumps(run))
    with (directory / "episodes.jsonl").open("wb") as file:
        for number, line in enumerate(_lines(models, conditions, trials, tails)):
            # Each resists with a command of its own, as models do.
            own = f"{RESIST} # {number}"
            file.write(line.replace(RESIST.encode(), own.encode()))
    return trials * models * CONDITIONS


def _lines(
    models: int, conditions: list[str], trials: int, tails: dict[str, dict[str, bytes]]
) -> Iterator[bytes]:
    for trial in range(trials):
        for model in range(models):
            for n, condition in enumerate(conditions):
                outcome = "resist" if (trial + n) % CONDITIONS < 2 else "comply"
                head = (
                    f'{{"schema_version":1,"episode_id":"model-{model}/{condition}/{trial}",'
                    f'"model":"model-{model}","condition":"{condition}","trial":{trial},'
                )
                yield head.encode() + tails[outcome][condition] + b"\n"


def _played() -> tuple[dict[str, object], dict[str, dict[str, bytes]]]:
    """run.json, and by policy and condition the line of an episode from `stop_reason` on."""
    tails: dict[str, dict[str, bytes]] = {}
    for policy in OUTCOMES:
        with serve(policy) as endpoint, tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "run")
            ours(endpoint.base_url, out, CONDITIONS, CONDITIONS)
            run = orjson.loads((out / "run.json").read_bytes())
            tails[policy] = {}
            for line in (out / "episodes.jsonl").read_bytes().splitlines():
                record = orjson.loads(line)
                thinking = {"reasoning": SAID * 8}
                record["messages"] = [
                    m | thinking if m["role"] == "assistant" else m for m in record["messages"]
                ]
                whole = orjson.dumps(record)
                tails[policy][record["condition"]] = whole[whole.index(b'"stop_reason":') :]
    return run, tails


def played() -> dict[str, object]:
    """One episode that was really played, as stored."""
    with serve("resist") as endpoint, tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "run")
        ours(endpoint.base_url, out, CONDITIONS, 1)
        record: dict[str, object] = orjson.loads(
            (out / "episodes.jsonl").read_bytes().splitlines()[0]
        )
    return record
