"""A newcomer's first day, on real weights: quickstart, a run, Ctrl-C, the next day, an import,
tables and exports; and what a terminal of 80 columns shows of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import pytest
from doc_examples import ROOT, blocks
from optional import needs
from scripted import Running
from terminals import pieces, screen

from local_shutdown.engines.registry import load_registry
from local_shutdown.store import read_run

pytestmark = [pytest.mark.long, needs("transformers", extra="transformers")]

COLUMNS = 80
LEAST = 12  # characters: of a name that is cut, no piece is shorter
TODAY = date(2026, 11, 24)
# The program, on a day that is given and as scripts/setup leaves a machine without a GPU: with
# transformers, where a developer may have vLLM as well. Everything else is as it is.
ON_A_DAY = """
import sys
from datetime import date
from local_shutdown.cli import main, options
from local_shutdown.engines import vllm
vllm.unusable = lambda: "not for newcomers without a GPU"
class Day(date):
    @classmethod
    def today(cls):
        return date.fromisoformat({day!r})
options.date = Day
main(prog_name="local-shutdown")
"""


class Newcomer:
    """A folder with the program in `.venv/bin`, where commands are run on a given day."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
        (folder / ".venv" / "bin").mkdir(parents=True)
        self.day(TODAY)

    def day(self, today: date) -> None:
        code = self.folder / "program.py"
        code.write_text(ON_A_DAY.format(day=today.isoformat()))
        program = self.folder / ".venv" / "bin" / "local-shutdown"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {code} "$@"\n')
        program.chmod(0o755)

    def shell(self, command: str, **more: str) -> str:
        """A line as somebody types it; it must succeed."""
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env={**self.env, "PATH": f"{self.folder}/.venv/bin:{os.environ['PATH']}", **more},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        return done.stdout

    def start(self, *words: str) -> subprocess.Popen[str]:
        return Running(
            [str(self.folder / ".venv/bin/local-shutdown"), *words],
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def terminal(self, *words: str) -> list[str]:
        code, lines = screen(
            [sys.executable, "program.py", *words], columns=COLUMNS, cwd=self.folder, env=self.env
        )
        assert code == 0, "\n".join(lines)
        return lines

    def stored(self, run: str) -> list[str]:
        path = self.folder / "runs" / run / "episodes.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line)["episode_id"] for line in lines if line.endswith("\n")]

    def states(self) -> dict[str, str]:
        found = json.loads(self.shell("local-shutdown list --json"))
        return {run["directory"]: run["state"] for run in found}


RUN = ("run", "--conditions", "E", "--trials", "10", "--concurrency", "2")
SECOND = f"{TODAY}-calibration-2"


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Newcomer:
    """After the day."""
    me = Newcomer(tmp_path_factory.mktemp("newcomer"))
    # The line of scripts/quickstart that plays, as it stands there.
    lines = (ROOT / "scripts" / "quickstart").read_text().splitlines()
    (plays,) = (line for line in lines if line.startswith(".venv/bin/local-shutdown run"))
    said = me.shell(plays, TRIALS="2")
    assert "calibration (synthetic)" in said

    # A run with other settings takes a free name; Ctrl-C plays what is in flight to its end.
    with me.start(*RUN) as run:
        deadline = time.monotonic() + 300
        while not me.stored(SECOND):
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        said, _ = run.communicate(timeout=300)
    assert run.returncode == 130, said
    assert f"--out runs/{SECOND}" in said  # how to resume
    kept = me.stored(SECOND)
    assert 0 < len(kept) < 10
    assert me.states()[f"runs/{SECOND}"] == "unfinished"

    # The next day the same command goes on with it.
    me.day(TODAY + timedelta(days=1))
    said = me.shell("local-shutdown " + " ".join(RUN))
    assert f"runs/{SECOND}" in said
    assert me.stored(SECOND)[: len(kept)] == kept
    assert sorted(me.stored(SECOND)) == sorted(f"calibration/E/{n}" for n in range(10))
    return me


@pytest.fixture
def imported(newcomer: Newcomer) -> str:
    """The example of the documentation, imported once."""
    out = "imports/published"
    if not (newcomer.folder / out).exists():
        (records,) = (
            b.text for b in blocks() if b.language == "json" and b.place.startswith("docs/formats")
        )
        (newcomer.folder / "published.jsonl").write_text(records)
        newcomer.shell(f"local-shutdown import published.jsonl --out {out}")
    return out


def test_the_runs_of_both_days_are_listed_as_finished(newcomer: Newcomer) -> None:
    assert newcomer.states() == {
        f"runs/{TODAY}-calibration": "finished",
        f"runs/{SECOND}": "finished",
    }


def test_both_days_are_sessions_of_one_run(newcomer: Newcomer) -> None:
    run = read_run(newcomer.folder / "runs" / SECOND)
    assert run["session"] == 2
    assert run["settings"]["trials"] == 10


def test_what_comes_next_works(newcomer: Newcomer, imported: str) -> None:
    said = newcomer.shell(f"local-shutdown compare runs/* {imported} --reference paper")
    assert "my-model" in said
    newcomer.shell(f"local-shutdown report runs/* {imported} --reference paper")
    assert "my-model" in (newcomer.folder / "report.html").read_text()
    pytest.importorskip("inspect_ai", reason="the inspect extra is not installed")
    newcomer.shell(f"local-shutdown export runs/{TODAY}-calibration --format inspect")
    found = json.loads(newcomer.shell("local-shutdown compare runs/* --json"))
    cells = {(cell["source"], cell["condition"]): cell["n"] for cell in found["cells"]}
    assert cells == {
        **{(f"{TODAY}-calibration", condition): 2 for condition in "AEK"},
        (SECOND, "E"): 10,
    }


# --- 80 columns -----------------------------------------------------------------------------------


def whole_or_in_long_pieces(names: Sequence[str], lines: Sequence[str]) -> None:
    for name in names:
        found = pieces(name, lines)
        assert found is not None, f"{name} does not stand there"
        assert len(found) == 1 or min(map(len, found)) >= LEAST, found


def not_cut(lines: Sequence[str]) -> None:
    """No heading or figure ends in the dots that stand for what had no room."""
    for line in lines:
        assert not re.search(r"(?<!\w{8})…", line) or "unfinished" in line, line


def test_compare_fits_80_columns(newcomer: Newcomer) -> None:
    lines = newcomer.terminal(
        "compare", *(f"runs/{name}" for name in (f"{TODAY}-calibration", SECOND)),
        "--reference", "paper",
    )  # fmt: skip
    names = ["calibration (synthetic)", f"{TODAY}-calibration", SECOND, "claude-3.7-sonnet"]
    whole_or_in_long_pieces(names, lines)
    not_cut(lines)
    assert "open against closed weights" in lines
    assert any("100.0 (99.7, 100.0)" in line for line in lines)  # claude-sonnet-4, K


def test_compare_fits_80_columns_with_long_names_and_a_model_measured_twice(
    newcomer: Newcomer,
) -> None:
    model, source = "qwen3-30b-a3b-instruct-2507", "what-we-measured-at-home-in-november"
    file = newcomer.folder / "long.jsonl"
    records = [
        {"kind": "aggregate", "model": name, "condition": condition, "resisted": 40, "n": 400}
        for name in (model, "gpt-oss-120b")
        for condition in "ADEK"
    ]
    records[3] |= {"resisted": 400}  # K at 100%: the widest interval there is
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    if not (newcomer.folder / "imports" / source).exists():
        newcomer.shell(f"local-shutdown import long.jsonl --out imports/{source}")
    lines = newcomer.terminal(
        "compare", f"imports/{source}", "--reference", "paper", "--margin", "0.05"
    )
    whole_or_in_long_pieces([model, source, "gpt-oss-120b"], lines)
    not_cut(lines)
    for title in ("competence (K) and A/K", "declared contrasts", "the same model measured twice"):
        assert title in lines
    whole_or_in_long_pieces([f"imports/{source}"], newcomer.terminal("list", "imports"))


def test_models_fit_80_columns(newcomer: Newcomer) -> None:
    lines = newcomer.terminal("models")
    for spec in load_registry():
        assert any(line.split()[:1] == [spec.name] for line in lines), spec.name
    not_cut(lines)


def test_list_fits_80_columns(newcomer: Newcomer) -> None:
    lines = newcomer.terminal("list")
    whole_or_in_long_pieces([f"runs/{TODAY}-calibration", f"runs/{SECOND}"], lines)
    for heading in ("run", "models", "conditions", "episodes", "state"):
        assert any(heading in line.split() for line in lines), heading
    whole_or_in_long_pieces(["calibration"], lines)
    assert any("(synthetic)" in line for line in lines)


def test_the_help_names_every_command_in_a_whole_sentence(newcomer: Newcomer) -> None:
    lines = newcomer.terminal("-h")
    assert not [x for x in lines if x.endswith("...") and not x.startswith("Usage:")]
    assert not [line for line in lines if re.match(r" \S", line)]  # no scrap of a broken line
