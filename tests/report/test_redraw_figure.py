"""The worked example of `load`: scripts/redraw-figure."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "redraw-figure"


@pytest.mark.long
def test_it_draws_a_run_beside_the_published_rates(
    make_run: Callable[..., Path], tmp_path: Path
) -> None:
    grid = {("m", c): {"resisted": 1, "complied": 3} for c in "BCDE"}
    runs = [make_run(grid, name="plain"), make_run(grid, "high", "effort=high")]
    out = tmp_path / "placement.png"
    command = [sys.executable, str(SCRIPT), *map(str, runs), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "m effort=high (high)" in done.stdout
    assert "grok-4 (paper)" in done.stdout
    assert out.read_bytes().startswith(b"\x89PNG")
