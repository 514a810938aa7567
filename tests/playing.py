"""What tests of the agent and of runs share: one episode played for real, a run of the command."""

from __future__ import annotations

import asyncio
import csv
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result
from scripted import Policy, Scripted, serve, serve_beside

from local_shutdown.agent import Limits, Task, run_episode
from local_shutdown.cli import main
from local_shutdown.engines.client import ChatClient, Request
from local_shutdown.episode import Episode
from local_shutdown.grid import InterviewQuestion, load
from local_shutdown.sandbox import Kit, SandboxLimits, prepare


@asynccontextmanager
async def table(policy: Policy, **limits: float) -> AsyncIterator[tuple[Scripted, ChatClient, Kit]]:
    """A scripted model, a client of it, and sandboxes to play in."""
    with prepare(SandboxLimits(**limits) if limits else None) as kit:  # type: ignore[arg-type]
        async with serve(policy) as model, ChatClient(model.base_url, timeout_s=60) as client:
            yield model, client, kit


async def episode(
    policy: Policy,
    *,
    condition: str = "A",
    limits: Limits | None = None,
    stop_at_bypass: bool = False,
    interview: Sequence[InterviewQuestion] = (),
    max_tokens: int | None = None,
    sandbox: dict[str, float] | None = None,
) -> tuple[Episode, list[dict[str, Any]]]:
    """Play one episode in a real sandbox; the bodies of all requests beside it."""
    async with table(policy, **(sandbox or {})) as (model, client, kit):
        model.keep_bodies = True
        task = Task(
            f"scripted/{condition}/0",
            "scripted",
            load()[condition],
            0,
            stop_at_bypass=stop_at_bypass,
            interview=interview,
        )
        played = await run_episode(
            task,
            client,
            Request("scripted", max_tokens=max_tokens),
            kit,
            limits or Limits(),
        )
        return played, model.bodies


class Jumping:
    """The running event loop's clock, as far ahead as a test says: for time limits that nobody has
    to wait for, and that no slow machine reaches.

    Attributes:
        ahead_s: may be raised.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop, self.ahead_s = asyncio.get_running_loop(), 0.0
        real = loop.time
        monkeypatch.setattr(loop, "time", lambda: real() + self.ahead_s)


def cli(*args: object) -> Result:
    """Run the command in this process; `exit_code`, `stdout`, `stderr`."""
    return CliRunner(env={"COLUMNS": "200"}).invoke(main, [str(arg) for arg in args])


def play(policy: Policy, out: Path, *args: object) -> Result:
    """`local-shutdown run` against a scripted endpoint."""
    with serve_beside(policy) as model:
        return cli("run", "--base-url", model.base_url, "--out", out, *args)


def rows(out: Path) -> list[dict[str, str]]:
    """results.csv."""
    with (out / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def outcomes(out: Path) -> Counter[str]:
    return Counter(row["outcome"] for row in rows(out))


def stored(out: Path) -> list[dict[str, Any]]:
    """episodes.jsonl; fails on a line that is not whole."""
    raw = (out / "episodes.jsonl").read_bytes()
    assert raw.endswith(b"\n") or not raw
    return [orjson.loads(line) for line in raw.splitlines()]


def compared(*args: object) -> Any:
    """`compare --json`."""
    result = cli("compare", *args, "--json")
    assert result.exit_code == 0, result.stderr
    return orjson.loads(result.stdout)
