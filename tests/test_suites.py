"""scripts/test: what runs beside the checks ends with them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts/test"


def beside(place: Path) -> subprocess.Popen[bytes]:
    """`both` of a check and the real `read_once`, whose Python does nothing but stay."""
    lines = SCRIPT.read_text().split("case ${1:-} in")[0]
    python = place / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\necho $$ > {place}/pid\nexec sleep 60\n")
    python.chmod(0o755)
    (place / "scripts").mkdir()
    script = place / "scripts/test"
    script.write_text(f"{lines}\ncheck() {{ sleep 60; }}\nboth check read_once\n")
    return subprocess.Popen(["bash", script], start_new_session=True)


def wait_for(what: Callable[[], bool]) -> bool:
    until = time.monotonic() + 30
    while not what() and time.monotonic() < until:
        time.sleep(0.05)
    return what()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_group_leaves_nothing_running(tmp_path: Path, sent: signal.Signals) -> None:
    with beside(tmp_path) as started:
        noted = tmp_path / "pid"
        assert wait_for(lambda: noted.exists() and noted.read_text().endswith("\n"))
        pid = int(noted.read_text())
        time.sleep(0.5)
        os.killpg(started.pid, sent)
        assert started.wait(30) != 0

    def gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] in "ZX"
        except OSError:
            return True

    ended = wait_for(gone)
    if not ended:
        os.kill(pid, signal.SIGKILL)
    assert ended
