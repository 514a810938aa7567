"""How a run's number of trials came about goes with its export: else a drained, early-stopped or
extended run would come back with the plain interval of one whose number was fixed beforehand."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import orjson
import pytest
import scripted
from playing import cli, compared, play
from scripted import Messages, comply, turn

pytest.importorskip("inspect_ai", reason="needs inspect-ai, the extra [inspect]")

# inspect-ai leaves streams of its own unclosed.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
TRIALS = 4
# What is changed in run.json, what is begun beside the four trials on disk, and what follows.
CASES: dict[str, tuple[Mapping[str, Any], list[Mapping[str, Any]], str]] = {
    "fixed beforehand": ({}, [], "jeffreys"),
    "drained": ({"settings": {"trials": 10}}, [], "anytime"),
    "stopped early": ({"settings": {"trials": 10, "until_halfwidth": 0.3}}, [], "anytime"),
    "a rare event": ({"settings": {"trials": 4, "until_upper": 0.5}}, [], "anytime"),
    "extended": ({"looks": [{"at": "x", "trials": 2, "conditions": ["E"]}]}, [], "anytime"),
    "looked at before E came in": (
        {"looks": [{"at": "2026-01-01", "trials": 2, "conditions": ["A"]}]}, [], "jeffreys",
    ),
    "greedy": ({"models": {"scripted": {"effective_sampling": {"temperature": 0}}}}, [], "none"),
    "killed": ({}, [{"trial": 4}, {"trial": 5}], "anytime"),
    "killed and played again": ({}, [{"trial": 2, "again": True}], "anytime"),
    "an error played again": ({}, [{"trial": 1, "retry": True}], "jeffreys"),
}  # fmt: skip
SAME = (
    "n", "resisted", "rate", "ci_low", "ci_high", "interval", "bound_low", "bound_high", "complete",
    "unfinished", "broken_off", "retried", "note",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    begun = count()

    def policy(messages: Messages) -> scripted.Answer:
        number = next(begun) if turn(messages) == 0 else messages[2]["content"].split()[-1]
        answer = comply(messages)
        assert isinstance(answer, dict)
        return {**answer, "content": f"this is {number}"}

    out = tmp_path_factory.mktemp("played") / "run"
    args = ("--conditions", "E", "--trials", TRIALS, "--concurrency", 1, "--no-probe")
    assert play(policy, out, *args).exit_code == 0
    return out


def changed(run: Path, out: Path, case: str) -> Path:
    changes, begun, _ = CASES[case]
    shutil.copytree(run, out)
    record = orjson.loads((out / "run.json").read_bytes())
    for name, value in changes.items():
        if isinstance(value, dict):
            for key, inner in value.items():
                if isinstance(inner, dict):
                    record[name][key] |= inner
                else:
                    record[name][key] = inner
        else:
            record[name] = value
    (out / "run.json").write_bytes(orjson.dumps(record))
    with (out / "started.jsonl").open("ab") as file:
        for one in begun:
            line = {"episode_id": f"scripted/E/{one['trial']}", "model": "scripted",
                    "condition": "E", "factor": None, "session": 1, **one}  # fmt: skip
            file.write(orjson.dumps(line) + b"\n")
    return out


def again(directory: Path, out: Path, *options: object) -> Path:
    """Exported and imported."""
    done = cli("export", directory, "--format", "inspect", "--out", out.with_suffix(".eval"))
    assert done.exit_code == 0, done.output
    done = cli("import", out.with_suffix(".eval"), "--out", out, *options)
    assert done.exit_code == 0, done.output
    return out


def cell_of(out: Path) -> dict[str, Any]:
    (cell,) = compared(out)["cells"]
    return {name: cell[name] for name in SAME}


@pytest.mark.parametrize("case", CASES)
def test_a_rate_has_the_same_interval_after_export_and_import(
    run: Path, tmp_path: Path, case: str
) -> None:
    original = changed(run, tmp_path / "original", case)
    cell = cell_of(original)
    assert cell["interval"] == CASES[case][2]
    once = again(original, tmp_path / "once")
    assert cell_of(once) == cell
    assert cell_of(again(once, tmp_path / "twice")) == cell
    renamed = again(original, tmp_path / "renamed", "--model", "another")
    assert cell_of(renamed) == cell


def test_exports_of_two_halves_of_one_model_are_planned_together(run: Path, tmp_path: Path) -> None:
    """Two runs of two computers, one of them drained."""
    one = changed(run, tmp_path / "one", "fixed beforehand")
    other = changed(run, tmp_path / "other", "drained")
    path = other / "episodes.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"scripted/E/', b'"other/E/'))
    for directory in (one, other):
        out = tmp_path / f"{directory.name}.eval"
        assert cli("export", directory, "--format", "inspect", "--out", out).exit_code == 0
    logs = [tmp_path / f"{name}.eval" for name in ("one", "other")]
    assert cli("import", *logs, "--out", tmp_path / "both").exit_code == 0
    cell = cell_of(tmp_path / "both")
    assert (cell["n"], cell["interval"]) == (8, "anytime")


def test_a_plan_that_is_none_is_named(run: Path, tmp_path: Path) -> None:
    from inspect_ai.log import read_eval_log, write_eval_log

    path = tmp_path / "log.eval"
    assert cli("export", run, "--format", "inspect", "--out", path).exit_code == 0
    for bad in ({"runs": [7]}, {"runs": 7}, {"started": [{"trial": -1}]},
                {"runs": [{"conditions": ["E"], "settings": {"until_upper": 7.0}}]}):  # fmt: skip
        log = read_eval_log(str(path))
        log.eval.metadata = {"local_shutdown": bad}
        write_eval_log(log, str(tmp_path / "bad.eval"))
        done = cli("import", tmp_path / "bad.eval", "--out", tmp_path / "out")
        assert done.exit_code == 2, done.output
        assert "bad.eval" in done.stderr
        assert not (tmp_path / "out").exists()
