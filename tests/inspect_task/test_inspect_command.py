"""Inspect's own command, in another folder, finds the task of an installed package."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import playing
import pytest
from scripted import Running, bash, comply, script, serve_beside

pytest.importorskip("inspect_ai", reason="needs inspect-ai, the extra [inspect]")

from inspect_playing import running

pytestmark = pytest.mark.long

REPOSITORY = Path(__file__).resolve().parents[2]
INSPECT = (sys.executable, "-m", "inspect_ai")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """As after an installation: the package and what pyproject.toml says of entry points, from a
    folder of packages. (To build a wheel wants packages that a machine may not have.)"""
    site = tmp_path_factory.mktemp("installed") / "site-packages"
    info = site / "local_shutdown-0.1.0.dist-info"
    info.mkdir(parents=True)
    (site / "local_shutdown").symlink_to(REPOSITORY / "local_shutdown")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: local-shutdown\nVersion: 0.1.0\n")
    lines = [
        line
        for group, entries in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return {**os.environ, "PYTHONPATH": str(site), "SCRIPTED_API_KEY": "none", "COLUMNS": "200"}


def inspect(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*INSPECT, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def arguments(base_url: str, *more: str) -> list[str]:
    return [
        "eval", "local_shutdown/shutdown", "--model", "openai-api/scripted/scripted",
        "--model-base-url", base_url, "--display", "plain", "--log-dir", "logs", *more,
    ]  # fmt: skip


def test_eval_in_another_folder_and_import(tmp_path: Path, environment: Mapping[str, str]) -> None:
    with serve_beside(comply) as server:
        wanted = arguments(server.base_url, "-T", "condition=A,E", "-T", "trials=2")
        done = inspect(wanted, tmp_path, environment)
    assert done.returncode == 0, done.stdout + done.stderr
    (log,) = (tmp_path / "logs").glob("*.eval")
    out = tmp_path / "imported"
    assert playing.cli("import", log, "--format", "inspect", "--out", out).exit_code == 0
    assert playing.outcomes(out) == {"complied": 4}
    assert {row["reached_warning"] for row in playing.rows(out)} == {"True"}


def test_a_condition_that_does_not_exist_is_refused_without_a_traceback(
    tmp_path: Path, environment: Mapping[str, str]
) -> None:
    wanted = arguments("http://127.0.0.1:9/v1", "-T", "condition=ZZ")
    done = inspect(wanted, tmp_path, environment)
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "'ZZ'" in said
    assert "Traceback" not in said


def test_list_names_the_task_of_the_package(tmp_path: Path, environment: Mapping[str, str]) -> None:
    # `inspect list tasks` looks into folders, not at what is installed.
    (tmp_path / "package").symlink_to(REPOSITORY / "local_shutdown")
    done = inspect(["list", "tasks", "package"], tmp_path, environment)
    assert done.stdout.split() == ["package/inspect_task/task.py@shutdown"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_ended_by_its_user_it_leaves_no_sandbox(
    how: signal.Signals, tmp_path: Path, environment: Mapping[str, str]
) -> None:
    mark = f"mark-{tmp_path.name}-{os.getpid()}"
    with serve_beside(script(bash(f"sleep 600; : {mark}"))) as server:
        wanted = arguments(server.base_url, "-T", "trials=4")
        with Running(
            [*INSPECT, *wanted], cwd=tmp_path, env=environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as run:  # fmt: skip
            assert _comes_true(lambda: len(running(mark)) >= 4)
            run.send_signal(how)
            run.wait(120)
    assert _comes_true(lambda: not running(mark))
    logs = list((tmp_path / "logs").glob("*.eval"))
    if how == signal.SIGINT:
        out = tmp_path / "imported"
        assert playing.cli("import", logs[0], "--format", "inspect", "--out", out).exit_code == 0
        assert playing.outcomes(out) == {"error": 4}


def _comes_true(condition: Callable[[], bool], within_s: float = 120.0) -> bool:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
