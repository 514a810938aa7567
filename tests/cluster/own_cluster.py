"""A Ray cluster of this machine, in a process of its own, and what is left when it is gone.

python tests/cluster/own_cluster.py NODES      says its address, then obeys: add, kill ID, quit
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MARK = "LOCAL_SHUTDOWN_TEST_CLUSTER"
SMALL = {"object_store_memory": 80_000_000}


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
            [sys.executable, __file__, str(nodes)],
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
        parents = {pid: parent for pid, parent, _, _ in _processes()}
        found = [
            (pid, start)
            for pid, parent, start, name in _processes()
            if name == "bwrap" and any(_ours(p, self.mark) for p in _above(pid, parents))
        ]
        self._sandboxes.update(found)
        return len(found)

    def left(self, *words: str) -> list[str]:
        """Processes of ours with one of these words in their command line, and sandboxes that were
        noted and live."""
        alive = [(pid, start) for pid, _, start, _ in _processes()]
        found = [f"sandbox {pid}" for pid, start in alive if (pid, start) in self._sandboxes]
        for pid, _ in alive:
            line = _command_line(pid)
            if any(word in line for word in words) and _ours(pid, self.mark):
                found.append(f"{pid} {line}")
        return found

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


def _processes() -> list[tuple[int, int, str, str]]:
    """(pid, parent, start time, name) of what lives."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                name, _, rest = (entry / "stat").read_text().partition(" (")[2].rpartition(") ")
            except OSError:
                continue
            fields = rest.split()
            if fields[0] not in "ZX":
                found.append((int(entry.name), int(fields[1]), fields[19], name))
    return found


def _above(pid: int, parents: dict[int, int]) -> Iterator[int]:
    while (pid := parents.get(pid, 0)) > 1:
        yield pid


def _ours(pid: int, mark: str) -> bool:
    try:
        return f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def patient(get: Callable[..., Any], within_s: float = 600) -> Callable[..., Any]:
    """Asks for a node until it is known: Ray itself, on a busy machine, gives up after 30 s."""

    def ask(*words: Any, **options: Any) -> Any:
        until = time.monotonic() + within_s
        while True:
            try:
                return get(*words, **options)
            except RuntimeError:
                if time.monotonic() >= until:
                    raise
            time.sleep(0.2)

    return ask


def main() -> None:
    import ray.cluster_utils
    from ray._private import services

    services.get_node = patient(services.get_node)
    made = ray.cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **SMALL}
    )
    nodes = [made.add_node(num_cpus=1, **SMALL) for _ in range(int(sys.argv[1]))]
    print(f"address {made.address}", flush=True)
    for line in sys.stdin:
        word, *rest = line.split()
        if word == "add":
            nodes.append(
                made.add_node(wait=False, num_cpus=1, **SMALL)
            )  # the killed one still counts
        elif word == "kill":
            gone = next(node for node in nodes if node.node_id.startswith(rest[0]))
            nodes.remove(gone)
            made.remove_node(gone, allow_graceful=False)
        print("done", flush=True)
    made.shutdown()


if __name__ == "__main__":
    main()
