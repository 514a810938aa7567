"""A Ray cluster of this machine, in a process of its own, and what is left when it is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from process_table import above, command_line, processes

MARK = "LOCAL_SHUTDOWN_TEST_CLUSTER"


class OwnCluster:
    """The cluster; `run` starts the command on it."""

    def __init__(self, nodes: int) -> None:
        self.mark = uuid.uuid4().hex
        root = Path(__file__).resolve().parents[2]
        self.env = {
            **os.environ,
            MARK: self.mark,
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": f"{root}",
        }
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("cluster_process.py")), str(nodes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,  # Ray's warnings stand between the answers
            env=self.env,
            text=True,
        )
        self.address = self._answer("address ")
        self._sandboxes: set[tuple[int, str]] = set()

    def tell(self, *words: str) -> None:
        """`add`, or `kill` and the beginning of a node's id; waits until it is done."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(words) + "\n")
        self._process.stdin.flush()
        self._answer("done")

    def _answer(self, beginning: str) -> str:
        assert self._process.stdout is not None
        said = []
        for line in self._process.stdout:
            if line.startswith(beginning):
                return line[len(beginning) :].strip()
            said.append(line)
        raise AssertionError("the cluster has ended: " + "".join(said[-30:]))

    def run(self, out: Path, *arguments: str) -> subprocess.Popen[bytes]:
        """The command; what it says on standard error goes to `<out>.log`."""
        with out.with_suffix(".log").open("ab") as log:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", "local_shutdown", "run", "--ray", self.address),
                    *("--gpus", "0", "--out", str(out), *arguments),
                ],
                stdout=log,
                stderr=log,
                env=self.env,
            )

    def note_sandboxes(self) -> int:
        """Remember the sandboxes that our workers have; returns how many there were."""
        alive = processes()
        parents = {one.pid: one.parent for one in alive}
        found = [
            (one.pid, one.start)
            for one in alive
            if one.name == "bwrap" and any(_ours(p, self.mark) for p in above(one.pid, parents))
        ]
        self._sandboxes.update(found)
        return len(found)

    def left(self, *words: str) -> list[str]:
        """Processes of ours with one of these words in their command line, and sandboxes that were
        noted and live."""
        alive = [(one.pid, one.start) for one in processes()]
        found = [f"sandbox {pid}" for pid, start in alive if (pid, start) in self._sandboxes]
        return found + [f"{pid} {command_line(pid)}" for pid in self._with(*words)]

    @contextmanager
    def held(self, word: str) -> Iterator[None]:
        """Those of ours with this word in their command line stand still: nothing is played while
        the cluster changes, however fast this machine is."""
        found = self._with(word)
        for pid in found:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in set(found) & set(self._with(word)):
                os.kill(pid, signal.SIGCONT)

    def _with(self, *words: str) -> list[int]:
        return [
            one.pid
            for one in processes()
            if any(word in command_line(one.pid) for word in words) and _ours(one.pid, self.mark)
        ]

    def wait_until_none(self, *words: str, within_s: float = 90) -> None:
        until = time.monotonic() + within_s
        while left := self.left(*words):
            assert time.monotonic() < until, left
            time.sleep(0.5)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(120)
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextmanager
def cluster(nodes: int) -> Iterator[OwnCluster]:
    made = OwnCluster(nodes)
    try:
        yield made
    finally:
        made.close()


def _ours(pid: int, mark: str) -> bool:
    try:
        return f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
