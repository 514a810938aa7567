"""docs/branch-families.md is what its script finds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("jinja2", reason="Jinja2 comes with transformers and vLLM")
pytest.importorskip("mistral_common", reason="mistral-common comes with vLLM")

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.vllm
def test_the_table_of_families_is_what_its_script_finds() -> None:
    argv = [sys.executable, "scripts/branch-families"]
    made = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    kept = (ROOT / "docs" / "branch-families.md").read_text(encoding="utf-8")
    assert kept == made
    rows = {
        cells[0]: cells[1:]
        for cells in ([c.strip() for c in line.split("|")[1:-1]] for line in made.splitlines())
        if len(cells) == 6
    }
    assert rows["calibration"][1:4] == ["yes", "yes", "yes"]
    assert rows["gemma4"][4] == "yes"  # its template keeps the reasoning
    assert rows["deepseek_r1"][4].startswith("no")  # drops it
    named = " ".join([*rows, made.partition("Not judged here")[2]])
    assert all(
        family in named for family in ("qwen3", "gpt-oss", "llama3", "deepseek", "glm", "mistral")
    )
