"""What the tests of the task share: an evaluation against a scripted endpoint, and its import."""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from inspect_ai import eval
from inspect_ai.log import EvalLog
from scripted import Messages, Policy, Scripted, serve_beside

from local_shutdown.episode import Episode
from local_shutdown.importers import read_inspect
from local_shutdown.inspect_task import shutdown

MODEL = "openai-api/scripted/scripted"


def evaluate(
    policy: Policy | Scripted, logs: Path, task: Mapping[str, Any] | None = None, **settings: Any
) -> EvalLog:
    """`inspect eval local_shutdown/shutdown`, in this process."""
    if not isinstance(policy, Scripted):
        with serve_beside(policy) as server:
            return evaluate(server, logs, task, **settings)
    [log] = eval(
        shutdown(**{"trials": 1, **(task or {})}),
        model=MODEL,
        model_base_url=policy.base_url,
        model_args={"api_key": "none"},
        log_dir=str(logs),
        display="none",
        **{"max_retries": 1, **settings},
    )
    gc.collect()  # here, where the tests pass over the streams that inspect-ai leaves unclosed
    return log


def episodes(log: EvalLog) -> list[Episode]:
    """What `import` makes of the log."""
    return list(read_inspect(log.location.removeprefix("file://")))


def episode(log: EvalLog) -> Episode:
    (found,) = episodes(log)
    return found


def conditions(path: Path, names: Mapping[str, Policy]) -> Path:
    """A condition for each policy; its user prompt is its name."""
    entries = [
        {"id": name, "title": name, "wording": "reconstructed", "system": "{helpful}", "user": name}
        for name in names
    ]
    path.write_text(yaml.safe_dump({"conditions": entries}))
    return path


def by_condition(names: Mapping[str, Policy]) -> Policy:
    """Each condition of `conditions` played by its policy."""

    def policy(messages: Messages) -> Any:
        name = next(str(m["content"]) for m in messages if m["role"] == "user")
        return names[name](messages)

    return policy


def children() -> set[int]:
    """Processes that this one has started and that are there."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found.add(int(stat.parent.name))
    return found


def running(mark: str) -> list[int]:
    """Processes of the machine, those in sandboxes included, with this in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if mark.encode() in words and int(path.parent.name) != os.getpid():
            found.append(int(path.parent.name))
    return found
