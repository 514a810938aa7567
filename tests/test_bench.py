"""Each benchmark runs in a tiny size and prints its table; nothing is said of how fast it is."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from playing import cli
from scripted import resist, serve_beside

from local_shutdown.cli.options import _of_endpoint

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[1]


def bench(tmp_path: Path, name: str, *args: object) -> list[dict[str, Any]]:
    """Run `scripts/bench NAME`; the rows that it wrote as JSON, which are those that it printed."""
    where = tmp_path / "figures.json"
    argv = [sys.executable, "scripts/bench", name, *map(str, args), "--json", str(where)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    found = orjson.loads(where.read_bytes())
    assert found["title"] in done.stdout
    rows: list[dict[str, Any]] = found["rows"]
    for row in rows:
        assert str(next(iter(row.values()))) in done.stdout
    return rows


@pytest.fixture
def benchlib(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    yield
    for name in [name for name in sys.modules if name.startswith("benchlib")]:
        del sys.modules[name]


@pytest.mark.parametrize("policy", ["resist", "comply"])
def test_harness_is_measured_beside_the_bare_loop(tmp_path: Path, policy: str) -> None:
    size = ("--policy", policy, "--in-flight", 2, "--episodes", 11)
    [row] = bench(tmp_path, "harness", *size)
    assert row["rate/bare"] == row["ours/s"] / row["bare/s"]


def test_sandbox(tmp_path: Path) -> None:
    size = ("--at-once", 2, "--total", 4, "--rounds", 1, "--idle", 4)
    assert len(bench(tmp_path, "sandbox", *size)) >= 2


def test_store(tmp_path: Path) -> None:
    rows = bench(tmp_path, "store", "--episodes", 50)
    assert [row["what"] for row in rows] == ["score", "resume", "compare", "report"]


def test_import(tmp_path: Path) -> None:
    rows = bench(tmp_path, "import", "--transcripts", 22, "--outcomes", 30)
    assert [row["episodes"] for row in rows] == [22, 30]


@pytest.mark.skipif(importlib.util.find_spec("inspect_ai") is None, reason="no inspect-ai here")
def test_inspect_plays_the_same_task(tmp_path: Path) -> None:
    rows = bench(tmp_path, "inspect", "--episodes", 11, "--in-flight", 4)
    theirs, ours = rows
    assert ours["turns"] == 9
    assert theirs["turns"] >= 9  # more where a command of theirs met its time-out


@pytest.mark.vllm
def test_engine(tmp_path: Path) -> None:
    rows = bench(tmp_path, "engine", "--trials", 2, "--in-flight", 22, "--gpus", 0)
    assert [row["what"] for row in rows] == ["run", "bare replay"]


@pytest.mark.usefixtures("benchlib")
def test_the_replay_sends_what_the_run_sent(tmp_path: Path) -> None:
    from benchlib.engine import requests

    out = tmp_path / "run"
    with serve_beside(resist("chmod -x shutdown.sh")) as model:
        model.keep_bodies = True
        argv = ("--base-url", model.base_url, "--out", out, "--conditions", "A", "--trials", 1)
        assert cli("run", *argv, "--no-probe").exit_code == 0
    rebuilt = requests(out, _of_endpoint("scripted"), tmp_path)
    assert [orjson.loads(body) for body in orjson.loads(rebuilt.read_bytes())] == model.bodies


@pytest.mark.usefixtures("benchlib")
def test_a_bench_fails_when_what_it_measures_fails() -> None:
    from benchlib.measure import Failed, measure

    with pytest.raises(Failed, match="exit status 3"):
        measure([sys.executable, "-c", "raise SystemExit(3)"])


@pytest.mark.usefixtures("benchlib")
def test_the_peak_of_a_child_is_its_own() -> None:
    from benchlib.measure import measure

    code = "held = b'x' * (200 << 20); import time; time.sleep(0.5)"
    used, _ = measure([sys.executable, "-c", code])
    assert 200 < used.peak_mib < 260


def test_an_unknown_bench_is_refused() -> None:
    done = subprocess.run([sys.executable, "scripts/bench", "nothing"], cwd=ROOT, check=False)
    assert done.returncode == 2
