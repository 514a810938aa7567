"""Nodes that are real: the bundled model behind its engine, real sandboxes, workers and pipes."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from local_nodes import LocalNodes
from playing import stored

from local_shutdown import engines, grid
from local_shutdown.cli import options
from local_shutdown.cluster.driver import run_on
from local_shutdown.engines.processes import start_time
from local_shutdown.episode import Episode, Outcome
from local_shutdown.interrupt import Interrupt
from local_shutdown.model_run import Display
from local_shutdown.record import Settings
from local_shutdown.store import read_run, read_started

pytestmark = pytest.mark.long


def settings(out: Path, trials: int) -> Settings:
    made = engines.Options(gpus=0, concurrency=4)
    return Settings(
        models=options.specs((), "transformers", made),
        conditions=grid.choose("A,E"),
        trials=trials,
        out=out,
        engine="transformers",
        options=made,
    )


def below(pid: int) -> set[tuple[int, str | None]]:
    """Descendants of a process, each with its start time."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    found: set[int] = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {(one, start_time(one)) for one in found}


class Killing(Display):
    """Kills a worker once so many episodes are there, and brings another.

    Args:
        after: episodes.
    """

    def __init__(self, nodes: LocalNodes, after: int) -> None:
        self._nodes, self._after = nodes, after
        self.killed: set[tuple[int, str | None]] = set()

    def ended(self, episode: Episode, result: Outcome | None) -> None:
        self._after -= 1
        if self._after == 0:
            pid = self._nodes.pids[0]
            self.killed = below(pid)
            os.kill(pid, signal.SIGKILL)
            self._nodes.add()


async def test_a_killed_node_leaves_nothing_and_its_episodes_are_played_once(
    tmp_path: Path,
) -> None:
    nodes = LocalNodes(1)
    display = Killing(nodes, after=3)
    failed = await run_on(settings(tmp_path / "run", 8), nodes, display)
    assert not failed
    ids = [e["episode_id"] for e in stored(tmp_path / "run")]
    assert len(ids) == len(set(ids)) == 16
    first, second = read_run(tmp_path / "run")["nodes"]
    assert first["episodes"] + second["episodes"] == 16
    assert first["lost"] > 0
    assert sum(s.again for s in read_started(tmp_path / "run")) == first["lost"]
    # worker, engine and sandboxes
    assert len(display.killed) >= 3
    for _ in range(100):
        left = [pid for pid, began in display.killed if began and start_time(pid) == began]
        if not left:
            break
        await asyncio.sleep(0.2)
    assert not left
    assert not [pid for pid in nodes.pids if start_time(pid)]


class Asking(Display):
    """Interrupts once an episode is there."""

    def __init__(self, interrupt: Interrupt) -> None:
        self._interrupt = interrupt

    def ended(self, episode: Episode, result: Outcome | None) -> None:
        if not self._interrupt.asked:
            self._interrupt.ask()


@pytest.mark.parametrize("trials", [40])
async def test_an_interrupted_run_plays_what_was_begun_and_no_more(
    tmp_path: Path, trials: int
) -> None:
    nodes, interrupt = LocalNodes(1), Interrupt()
    await run_on(settings(tmp_path / "run", trials), nodes, Asking(interrupt), interrupt)
    ids = {e["episode_id"] for e in stored(tmp_path / "run")}
    assert 1 <= len(ids) < 2 * trials
    assert ids == {s.episode_id for s in read_started(tmp_path / "run")}
    assert read_run(tmp_path / "run")["interrupted"] is True
