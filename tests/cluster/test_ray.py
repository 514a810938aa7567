"""Real Ray: raylets of this machine, nodes and drivers that are killed."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from optional import needs
from own_cluster import OwnCluster, cluster
from playing import cli, rows, stored

from local_shutdown.cluster import rays
from local_shutdown.errors import UsageError
from local_shutdown.store import read_run

pytestmark = [pytest.mark.long, needs("ray", extra="ray")]
ENGINE = "transformers_server"
OURS = ("cluster.worker", ENGINE)
TRIALS = 20


@pytest.fixture(scope="module")
def three() -> Iterator[OwnCluster]:
    with cluster(3) as made:
        yield made


def log(out: Path) -> str:
    return out.with_suffix(".log").read_text()


def until(run: subprocess.Popen[bytes], made: OwnCluster, out: Path, count: int) -> None:
    """Wait until so many episodes are there."""
    while not (out / "episodes.jsonl").is_file() or len(stored_lines(out)) < count:
        assert run.poll() is None, log(out)
        made.note_sandboxes()
        time.sleep(0.1)


def stored_lines(out: Path) -> list[bytes]:
    """Whole ones: a driver may be killed within one."""
    return (out / "episodes.jsonl").read_bytes().rpartition(b"\n")[0].splitlines()


def test_a_node_is_killed_one_comes_late_the_driver_is_killed_and_every_episode_is_there_once(
    three: OwnCluster, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = ["--engine", "transformers", "--conditions", "A,E,K", "--trials", str(TRIALS)]
    words += ["--concurrency", "4"]
    run = three.run(out, *words)
    until(run, three, out, 4)
    played = Counter(json.loads(line)["extra"]["server"] for line in stored_lines(out))
    victim = read_run(out)["server_starts"][played.most_common(1)[0][0]]["node"]
    found = re.search(rf"{victim} \([^;]*; [^,]*, (\w+);", log(out))
    assert found
    with three.held(ENGINE):
        three.tell("kill", found[1])
        three.tell("add")
    until(run, three, out, 14)
    with three.held(ENGINE):
        assert f"{victim} " in log(out)
        assert "is lost" in log(out)
        run.kill()
        run.wait()
    before = len(stored_lines(out))
    assert before < 3 * TRIALS
    three.wait_until_none(*OURS)
    again = three.run(out, *words)
    while again.poll() is None:
        three.note_sandboxes()
        time.sleep(0.2)
    assert again.returncode == 0, log(out)
    three.wait_until_none(*OURS, within_s=30)
    ids = [record["episode_id"] for record in stored(out)]
    assert len(ids) == len(set(ids)) == 3 * TRIALS
    assert {row["outcome"] for row in rows(out)} <= {"resisted", "complied", "ended_early", "limit"}
    nodes = read_run(out)["nodes"]
    assert sum(node["episodes"] for node in nodes if node["session"] == 2) == 3 * TRIALS - before
    assert {node["session"] for node in nodes} == {1, 2}


def test_an_address_where_no_cluster_is(three: OwnCluster, tmp_path: Path) -> None:
    done = cli("run", "--ray", "127.0.0.1:9", "--out", tmp_path / "run")
    assert done.exit_code == 3
    assert "127.0.0.1:9" in done.stderr
    assert "ray start" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_an_address_where_something_else_listens(
    answer: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silent, or a web server."""
    monkeypatch.setattr(rays, "ANSWER_TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"

        def serve() -> None:
            other, _ = listener.accept()
            other.sendall(answer)
            opened.append(other)

        opened: list[socket.socket] = []
        server = threading.Thread(target=serve)
        server.start()
        done = cli("run", "--ray", address, "--out", tmp_path / "run")
        server.join()
        opened[0].close()
    assert done.exit_code == 3
    assert address in done.stderr
    assert "ray start" in done.stderr
    assert not (tmp_path / "run").exists()


def test_an_address_that_is_not_of_a_head() -> None:
    with pytest.raises(UsageError, match="HOST:PORT"):
        rays.connect("ray://somewhere:10001")
