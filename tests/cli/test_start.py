"""What a command loads before it does anything."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("matplotlib", "pandas", "scipy.stats", "statsmodels", "torch", "transformers", "vllm")


def test_a_run_loads_nothing_that_only_tables_and_engines_need() -> None:
    code = f"import sys, local_shutdown.cli.run; print([m for m in {HEAVY} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert loaded == "[]\n"


@pytest.mark.parametrize(
    ("command", "loaded"),
    [
        ("run", "click.core"),
        ("run", "local_shutdown.errors"),
        ("run", "local_shutdown.environment"),
        ("compare", "numpy"),
    ],
)
def test_ctrl_c_while_it_loads_is_no_traceback(tmp_path: Path, command: str, loaded: str) -> None:
    """-X importtime says each module once it is loaded; then Ctrl-C comes."""
    words = [command, "--dry-run" if command == "run" else "."]
    argv = [sys.executable, "-X", "importtime", "-m", "local_shutdown", *words]
    with subprocess.Popen(argv, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any(line.split()[-1:] == [loaded] for line in process.stderr)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert "Traceback" not in said
    assert process.returncode == 130
    assert "interrupted" in said
