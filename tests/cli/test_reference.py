"""docs/cli.md is what the program says of itself; every command's help has an example."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from local_shutdown.cli import main

ROOT = Path(__file__).resolve().parents[2]


def test_the_reference_is_what_click_says() -> None:
    made = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "cli-reference")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert made == (ROOT / "docs" / "cli.md").read_text(encoding="utf-8"), (
        "run scripts/cli-reference > docs/cli.md"
    )


@pytest.mark.parametrize("name", main.list_commands(None))  # type: ignore[arg-type]
def test_the_help_of_every_command_has_an_example(name: str) -> None:
    said = CliRunner().invoke(main, [name, "--help"])
    assert said.exit_code == 0
    described = said.output.split("\n", 1)[1]  # without the usage line
    assert f"local-shutdown {name}" in described
