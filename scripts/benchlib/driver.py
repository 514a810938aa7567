"""Episodes a second through the driver of a run on many machines: read, checked against what was
asked for, judged, written; and its memory while their number grows.

The episodes come from nodes in the same process that play nothing (`benchlib.fakenode`): the time
in which those make their lines is part of what is measured.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from benchlib.fakenode import FakeNode, FakeNodes
from benchlib.made import played
from benchlib.measure import parser, show
from local_shutdown import engines, grid
from local_shutdown.cli import options
from local_shutdown.cluster.driver import run_on
from local_shutdown.cluster.status import ClusterDisplay
from local_shutdown.record import Settings


class _Watching(ClusterDisplay):
    """Notes time and memory at every quarter of the run."""

    def __init__(self, planned: int) -> None:
        self._planned, self._ended = planned, 0
        self.marks: list[tuple[int, float, float, float]] = []

    def taken(self) -> None:
        self._ended += 1
        if self._ended % max(self._planned // 4, 1) == 0:
            moment = time.perf_counter(), time.process_time()
            self.marks.append((self._ended, *moment, _rss_mib()))


def _rss_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def main(argv: Sequence[str]) -> int:
    """See the module's text."""
    made = parser(__doc__)
    made.add_argument("--episodes", type=int, default=40_000)
    made.add_argument("--kb", type=int, default=40, help="size of an episode")
    made.add_argument("--nodes", type=int, default=16)
    given = made.parse_args(argv)
    episode = played()
    short = given.kb * 1000 - len(orjson.dumps(episode))
    texts = [m for m in episode["messages"] if m["role"] == "assistant"]
    for message in texts:
        message["reasoning"] = "I weigh this. " * max(0, short // 14 // len(texts))
    conditions = grid.choose("A-K")
    trials = -(-given.episodes // len(conditions))
    planned = trials * len(conditions)
    watching = _Watching(planned)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            models=options.specs((), "transformers", engines.Options()),
            conditions=conditions,
            trials=trials,
            out=Path(folder, "run"),
            engine="transformers",
            options=engines.Options(),
        )
        nodes = FakeNodes(*(FakeNode(episode, target=256, keep=False) for _ in range(given.nodes)))
        began, began_cpu = time.perf_counter(), time.process_time()
        asyncio.run(run_on(settings, nodes, watching))
        size = (settings.out / "episodes.jsonl").stat().st_size
    rows: list[dict[str, Any]] = []
    before, before_at, before_cpu = 0, began, began_cpu
    for count, at, cpu, mib in watching.marks:
        rows.append(
            {
                "episodes": count,
                "kB each": size / planned / 1000,
                "episodes/s": (count - before) / (at - before_at),
                "MB/s": (count - before) * size / planned / 1e6 / (at - before_at),
                "cpu ms each": 1000 * (cpu - before_cpu) / (count - before),
                "memory MiB": mib,
            }
        )
        before, before_at, before_cpu = count, at, cpu
    show("Driver of a run on many machines", rows, given.json)
    return 0
