"""What a command loads before it does anything."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("matplotlib", "pandas", "scipy.stats", "statsmodels", "torch", "transformers", "vllm")


def test_a_run_loads_nothing_that_only_tables_and_engines_need() -> None:
    code = f"import sys, local_shutdown.cli.run; print([m for m in {HEAVY} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert loaded == "[]\n"
