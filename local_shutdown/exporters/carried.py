"""What an export says of a run beside its episodes: how their number came about.

Without it, an early-stopped, extended or drained run would come back from its export as one whose
number of trials was fixed beforehand, and have the plain interval of one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from local_shutdown.store import Started, read_started

_SETTINGS = ("trials", "until_halfwidth", "until_upper", "until_decided", "shard")


def carried(
    directory: Path, run: Mapping[str, Any], model: str, stored: Collection[str]
) -> dict[str, Any]:
    """What `importers.carried` takes back: `runs`, plans as run.json has them, and `started`.

    Args:
        directory: a run, or an import of one.
        run: its run.json.
        model: what the log is of.
        stored: ids of the model's episodes on disk.
    """
    if run.get("kind") == "run":
        plans = [_plan(run, model)]
    else:
        plans = list(run.get("runs", {}).get(model, ()))
    return {"runs": plans, "started": [asdict(s) for s in _telling(directory, model, stored)]}


def _plan(run: Mapping[str, Any], model: str) -> dict[str, Any]:
    settings = run.get("settings", {})
    sampling = run.get("models", {}).get(model, {}).get("effective_sampling")
    looks = [
        {key: value for key, value in look.items() if key != "models"}
        for look in run.get("looks", ())
        if model in look.get("models", [model])  # of an older version: all were looked at
    ]
    return {
        "settings": {name: settings.get(name) for name in _SETTINGS},
        "conditions": list(run.get("conditions", {})),
        "looks": looks,
        "effective_sampling": sampling,
        **({"merged": {"shards": run["merged"]["shards"]}} if "merged" in run else {}),
    }


def _telling(directory: Path, model: str, stored: Collection[str]) -> list[Started]:
    """The plays of cells in which one was broken off, retried, or is not on disk; what was begun of
    the others can be seen from their episodes."""
    found = [started for started in read_started(directory) if started.model == model]
    cells = {
        (s.condition, s.factor) for s in found if s.again or s.retry or s.episode_id not in stored
    }
    return [s for s in found if (s.condition, s.factor) in cells]
