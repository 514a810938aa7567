"""What a command loads before it does anything."""

from __future__ import annotations

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
    """It comes while this module is looked for, however fast or slow the machine is."""
    words = ["local-shutdown", command, "--dry-run" if command == "run" else "."]
    done = subprocess.run(
        [sys.executable, "-c", _CTRL_C.format(loaded=loaded, words=words)],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert done.returncode == 130
    assert "interrupted" in done.stderr


_CTRL_C = """
import runpy, signal, sys

class CtrlC:
    def find_spec(self, name, path=None, target=None):
        if name == {loaded!r}:
            sys.meta_path.remove(self)
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, CtrlC())
sys.argv = {words!r}
runpy.run_module("local_shutdown", run_name="__main__")
"""
