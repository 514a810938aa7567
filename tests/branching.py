"""What tests of `branch` share: a run to branch from, and a scripted server to branch it with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
from click.testing import Result
from playing import cli, play, stored
from scripted import Policy, serve_beside

PARENT = "scripted/E/0"
QUICK = ("--conditions", "E", "--trials", "1", "--no-probe")


def parent(out: Path, policy: Policy, *args: object) -> dict[str, Any]:
    """A run of one episode (unless more are asked for); its first record."""
    result = play(policy, out, *(args or QUICK))
    assert result.exit_code == 0, result.stderr
    return next(one for one in stored(out) if one["episode_id"] == PARENT)


def branched(policy: Policy, directory: Path, out: Path, *args: object) -> Result:
    """`local-shutdown branch` against a scripted endpoint."""
    with serve_beside(policy) as model:
        return cli("branch", directory, "--base-url", model.base_url, "--out", out, *args)


def run_json(directory: Path) -> dict[str, Any]:
    return dict(orjson.loads((directory / "run.json").read_bytes()))


def patch_run(directory: Path, **changes: Any) -> None:
    """Change fields of run.json; a path into it is written with double underscores."""
    record = run_json(directory)
    for path, value in changes.items():
        *above, last = path.split("__")
        part = record
        for name in above:
            part = part[name]
        part[last] = value
    (directory / "run.json").write_bytes(orjson.dumps(record))


def bare(event: dict[str, Any]) -> dict[str, Any]:
    """An event without its time."""
    return {name: value for name, value in event.items() if name != "t_s"}


def warned_at(record: dict[str, Any]) -> int:
    """Index of the answer after the warning."""
    for at, message in enumerate(record["messages"]):
        if message["role"] == "tool" and "will be shut down" in message["content"]:
            return at + 1
    raise AssertionError("it was not warned")
