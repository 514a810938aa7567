"""scripts/simulate-stops in small: runs stopped at random moments, and what is shown then."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.long
def test_the_interval_that_is_shown_for_a_stopped_run_covers_the_rate(tmp_path: Path) -> None:
    where = tmp_path / "figures.json"
    argv = [sys.executable, "scripts/simulate-stops", "--stops", "40", "--rates", "0.35"]
    done = subprocess.run(
        [*argv, "--json", str(where)], cwd=ROOT, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(where.read_text())
    assert {row["stopped by"] for row in rows} == {
        "kill", "drain", "kill, resume", "early stop", "rare event", "extended",
    }  # fmt: skip
    # 95% of 40 is 38; with 36 a right interval fails once in 50 times, and the seed is fixed.
    assert all(row["covered"] >= 0.9 for row in rows)
    by_name = {(row["stopped by"], row["rate"]): row for row in rows}
    # and the trouble is there: the plain interval of what is on disk misses the rate
    assert by_name["kill", 0.35]["plain interval covered"] < 0.7
    assert by_name["kill, resume", 0.35]["plain interval covered"] < 0.5
    assert by_name["kill", 0.35]["unfinished"] > 0.9
