"""What an export says of a run beside its episodes: how their number came about.

Without it, an early-stopped, extended or drained run would come back from its export as one whose
number of trials was fixed beforehand, and have the plain interval of one.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from local_shutdown.runfile import RunFile
from local_shutdown.started import Started
from local_shutdown.store import read_started

_SETTINGS = ("trials", "until_halfwidth", "until_upper", "until_decided", "shard")


def carried(directory: Path, run: RunFile, model: str, stored: Collection[str]) -> dict[str, Any]:
    """What `importers.carried` takes back: `runs`, plans as run.json has them, and `started`.

    Args:
        directory: a run, or an import of one.
        run: its run.json.
        model: what the log is of.
        stored: ids of the model's episodes on disk.
    """
    if run.played:
        plans = [_plan(run, model)]
    else:
        plans = [plan.as_json() for plan in run.runs.get(model, ())]
    return {"runs": plans, "started": [s._asdict() for s in _telling(directory, model, stored)]}


def _plan(run: RunFile, model: str) -> dict[str, Any]:
    facts = run.models.get(model)
    looks = [look for look in run.looks if look.models is None or model in look.models]
    return {
        "settings": {name: getattr(run.settings, name) for name in _SETTINGS},
        "conditions": list(run.conditions),
        "looks": [
            {key: value for key, value in look.as_json().items() if key != "models"}
            for look in looks
        ],
        "effective_sampling": facts.as_json().get("effective_sampling") if facts else None,
        **({"merged": {"shards": run.merged.shards}} if run.merged else {}),
    }


def _telling(directory: Path, model: str, stored: Collection[str]) -> list[Started]:
    """The plays of cells in which one was broken off, retried, or is not on disk; what was begun of
    the others can be seen from their episodes."""
    found = [started for started in read_started(directory) if started.model == model]
    cells = {
        (s.condition, s.factor) for s in found if s.again or s.retry or s.episode_id not in stored
    }
    return [s for s in found if (s.condition, s.factor) in cells]
