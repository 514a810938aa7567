"""The program without Ray, and what it says of `--ray` then."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from playing import cli, play, stored
from scripted import comply


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name == "ray" or name.startswith("ray.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)


def test_ray_is_said_to_be_missing_and_how_to_get_it(tmp_path: Path) -> None:
    done = cli("run", "--ray", "auto", "--out", tmp_path / "run")
    assert done.exit_code == 3
    assert "local-shutdown[ray]" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_run_on_one_machine_does_not_need_it(tmp_path: Path) -> None:
    done = play(comply, tmp_path / "run", "--trials", 1, "--conditions", "A")
    assert done.exit_code == 0, done.stderr
    assert len(stored(tmp_path / "run")) == 1


@pytest.mark.parametrize(
    "words", [("--base-url", "http://127.0.0.1:1/v1"), ("--dry-run",), ("--engine", "endpoint")]
)
def test_what_cannot_be_combined_with_ray(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = cli("run", "--ray", "auto", "--out", tmp_path / "run", *words)
    assert done.exit_code == 2
    assert "--" in done.stderr
