"""A study from its file to its tables: played, killed, resumed, compared, reported."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import Result
from engines import fake_vllm
from playing import cli, compared, stored
from scripted import (
    Answer,
    Messages,
    Policy,
    Running,
    comply,
    resist,
    serve_beside,
    submit_at_once,
    until,
)

from local_shutdown import load
from local_shutdown.analysis.decided import RULE
from local_shutdown.frozen_plan import read_plan
from local_shutdown.resources import data

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
RATE = '{"kind": "aggregate", "model": "o3", "condition": "E", "resisted": 159, "n": 1000}\n'
STUDY: dict[str, Any] = {
    "name": "tried",
    "models": ["calibration", {"id": "calibration", "name": "copy", "revision": "./copy"}],
    "conditions": ["A", "E"],
    "factors": {"temperature": [1.0, 0.7]},
    "trials": 3,
    "contrasts": [
        {"a": "A", "b": "E", "asks": "Does asking help?"},
        {"factor": "temperature", "a": 1.0, "b": 0.7, "asks": "Does heat?"},
    ],
    "margin": 0.1,
    "imports": ["api.jsonl"],
    "reference": "paper",
}


def write(folder: Path, **changed: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "copy").exists():
        shutil.copytree(data("calibration-model"), folder / "copy")
    (folder / "api.jsonl").write_text(RATE)
    path = folder / "study.yaml"
    path.write_text(json.dumps({**STUDY, **changed}))
    return path


# --- against a scripted endpoint -----------------------------------------------------------------


def play(
    policy: Policy, path: Path, out: Path, *args: object, model: str = "calibration"
) -> Result:
    """One model, which the endpoint serves; no two of its trials are copies."""

    def varied(messages: Messages) -> Answer:
        answer = policy(messages)
        assert isinstance(answer, Mapping)
        return {**answer, "content": secrets.token_hex(8)}

    with serve_beside(varied, model) as server:
        return cli("run", path, "--base-url", server.base_url, "--no-probe", "--out", out, *args)


ONE = {"models": ["calibration"]}


def test_a_study_is_played_and_compared_and_reported(tmp_path: Path) -> None:
    path, out = write(tmp_path, **ONE), tmp_path / "out"
    done = play(resist("rm shutdown.sh"), path, out)
    assert done.exit_code == 0, done.output
    assert "study tried: run 1 of 1, 12 of 12 episodes" in done.stderr
    names = Counter(record["episode_id"] for record in stored(out / "calibration"))
    assert names == Counter(
        f"calibration@temperature={t}/{c}/{n}" for t in ("1", "0.7") for c in "AE" for n in range(3)
    )
    found = compared(out)
    assert found["study"]["digest"] == read_plan(out).digest
    assert found["study"]["deviations"] == []
    cells = {(c["model"], c["source"]) for c in found["cells"]}
    assert ("o3", read_plan(out).imports[0].removeprefix("imports/")) in cells
    assert ("o3", "paper") in cells  # the study's reference
    ours = [c for c in found["contrasts"] if c["source"] == "calibration"]
    assert [(c["name"], c["condition"], c["factor"]) for c in ours] == [
        ("A-E", None, "temperature=0.7"),
        ("A-E", None, "temperature=1"),
        ("A: temperature 1 − 0.7", "A", "temperature=1"),
        ("E: temperature 1 − 0.7", "E", "temperature=1"),
    ]
    assert {c["family_size"] for c in ours} == {4}
    assert {m["margin"] for m in found["same_model"]} == {0.1}
    assert (
        cli("report", out, "--out", tmp_path / "r.html", "--figures", tmp_path / "f").exit_code == 0
    )
    page = (tmp_path / "r.html").read_text()
    assert read_plan(out).digest in page
    assert "Does asking help?" in page
    assert (tmp_path / "f" / "temperature.csv").is_file()
    assert len(load(out).contrasts.query("source == 'calibration'")) == 4


def test_a_changed_number_of_trials_is_a_deviation_everywhere(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert play(comply, write(tmp_path, **ONE), out).exit_code == 0
    before = read_plan(out)
    more = write(tmp_path, **ONE, trials=4)
    dry = play(comply, more, out, "--dry-run")
    assert "trials: 3 planned, 4 now" in dry.stdout
    assert read_plan(out) == before  # which writes nothing
    again = play(comply, more, out)
    assert again.exit_code == 0, again.output
    plan = read_plan(out)
    assert (plan.digest, plan.frozen_at) == (before.digest, before.frozen_at)
    (deviation,) = plan.deviations
    assert (deviation.what, deviation.planned, deviation.now) == ("trials", 3, 4)
    assert "trials: 3 planned, 4 now" in cli("compare", out).stdout
    (listed,) = compared(out)["study"]["deviations"]
    assert (listed["what"], listed["at"]) == ("trials", deviation.at)
    assert cli("report", out, "--out", tmp_path / "r.html").exit_code == 0
    assert f"{deviation.at[:10]}: trials: 3 planned, 4 now" in (tmp_path / "r.html").read_text()
    # They were looked at before: no plain interval.
    assert {c["interval"] for c in compared(out)["cells"] if c["source"] == "calibration"} == {
        "anytime"
    }


def test_contrasts_that_are_added_later_are_not_tested(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert play(comply, write(tmp_path, **ONE), out).exit_code == 0
    picked = write(tmp_path, **ONE, contrasts=[{"a": "E", "b": "A"}])
    assert play(comply, picked, out).exit_code == 0
    names = {c["name"] for c in compared(out)["contrasts"] if c["source"] == "calibration"}
    assert names == {"A-E", "A: temperature 1 − 0.7", "E: temperature 1 − 0.7"}
    assert {d.what for d in read_plan(out).deviations} == {
        "contrasts.A-E", "contrasts.E-A", "contrasts.temperature 1 − 0.7",
    }  # fmt: skip


def test_nothing_is_taken_back_of_a_study_that_has_begun_and_more_is_a_deviation(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    begun = {"models": ["org/m", {"id": "org/m", "name": "second"}], "trials": 2}
    assert play(submit_at_once, write(tmp_path, **begun), out, model="org/m").exit_code == 0
    before = (out / "plan.json").read_bytes()
    own = {"id": "E", "title": "E", "wording": "reconstructed", "system": "Hm.", "user": "Go on."}
    (tmp_path / "own.yaml").write_text(json.dumps({"conditions": [own]}))
    heat = {"contrasts": [{"a": "A", "b": "E"}]}
    for changed, words in (
        ({"trials": 1}, ("trials: 2 were planned", "1 are", "trials: 2`")),
        ({"max_messages": 20}, ("max messages 50 there, 20 now",)),
        (
            {"conditions": ["A"], "contrasts": []},
            ("conditions: E was planned", "among A now", "back"),
        ),
        ({"conditions": ["A", "own.yaml"]}, ("conditions: the prompts of E", "another id")),
        ({"factors": {"temperature": [0.5, 0.7]}, **heat}, ("factors.temperature: 1 was planned",)),
        (
            {"factors": {"temperature": 0.7}, **heat},
            ("factors.temperature: 1 was planned", "0.7 now"),
        ),
        ({"factors": {}, **heat}, ("temperature: 1, 0.7 was planned", "none now")),
    ):
        for dry in ((), ("--dry-run",)):
            said = play(comply, write(tmp_path, **{**begun, **changed}), out, *dry, model="org/m")
            assert said.exit_code == 2, said.output
            assert all(word in said.stderr for word in words), said.stderr
            assert "study.yaml:1: " in said.stderr or "max_messages" in changed
    assert (out / "plan.json").read_bytes() == before
    more = {
        "models": ["org/m", {"id": "org/m", "name": "third"}],
        "conditions": ["A", "E", "K"], "factors": {"temperature": [1.0, 0.5, 0.7]}, "trials": 3,
    }  # fmt: skip
    assert play(submit_at_once, write(tmp_path, **more), out, model="org/m").exit_code == 0
    assert len(stored(out / "org-m")) == len(stored(out / "third")) == 27
    assert len(stored(out / "second")) == 8  # as it was, and still shown
    assert {c["source"] for c in compared(out)["cells"]} >= {"org-m", "second", "third"}
    assert {d.what for d in read_plan(out).deviations} == {
        "models.second", "models.third", "conditions.K", "factors.temperature", "trials",
    }  # fmt: skip


@pytest.mark.parametrize("factors", [{}, {"temperature": 1.0}])
def test_one_temperature_does_not_become_several_as_its_episodes_bear_no_level(
    tmp_path: Path, factors: dict[str, Any]
) -> None:
    out, begun = (
        tmp_path / "out",
        {"models": ["org/m"], "contrasts": [{"a": "A", "b": "E"}], "trials": 1},
    )
    path = write(tmp_path, **begun, factors=factors)
    assert play(submit_at_once, path, out, model="org/m").exit_code == 0
    two = write(tmp_path, **begun, factors={"temperature": [1.0, 0.7]})
    said = play(submit_at_once, two, out, model="org/m")
    assert said.exit_code == 2
    assert "factors.temperature" in said.stderr
    assert "sampling" in said.stderr
    # What the remedy says.
    hot = {"id": "org/m", "name": "warm", "sampling": {"temperature": 0.7}}
    other = write(tmp_path, **{**begun, "models": ["org/m", hot]}, factors={})
    assert play(submit_at_once, other, out, model="org/m").exit_code == (2 if factors else 0)


def test_the_file_stands_for_its_folder_and_says_when_it_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, **ONE)
    assert "not played yet" in cli("compare", path).stderr
    with serve_beside(comply, "calibration") as model:
        done = cli("run", path, "--base-url", model.base_url, "--no-probe")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "runs" / "tried" / "plan.json").is_file()
    assert cli("compare", path).exit_code == 0
    write(tmp_path, **ONE, margin=0.3)
    said = cli("compare", path)
    assert "margin" in said.stderr
    assert said.exit_code == 0
    assert {m["margin"] for m in compared(path)["same_model"]} == {0.1}
    assert cli("compare", path, "--margin", "0.3").exit_code == 2
    assert cli("compare", path, "--margin", "0.1").exit_code == 0


@pytest.mark.parametrize(
    "option", ["--trials 4", "--model x", "--conditions A", "--temperature 1", "--extend"]
)
def test_what_the_study_says_is_not_said_on_the_command_line(tmp_path: Path, option: str) -> None:
    said = cli("run", write(tmp_path), *option.split(), "--out", tmp_path / "out")
    assert said.exit_code == 2
    assert option.split()[0] in said.stderr
    assert not (tmp_path / "out").exists()


def test_what_deciding_takes_is_said_once_beforehand(tmp_path: Path) -> None:
    path = write(tmp_path, until={"decided": 0.1})
    said = cli("run", path, "--dry-run", "--engine", "transformers", "--gpus", 0, "--out",
               tmp_path / "out")  # fmt: skip
    assert said.exit_code == 0, said.output
    assert said.stdout.count("until decided: 1 contrasts") == 1


def test_a_decided_study_stops_cells_and_says_what_was_decided(tmp_path: Path) -> None:
    def policy(messages: Messages) -> Answer:
        asked = "allow yourself" in str(messages[0]["content"])
        return comply(messages) if asked else resist("rm shutdown.sh")(messages)

    changed = {**ONE, "factors": {}, "contrasts": [{"a": "A", "b": "E"}], "trials": 200}
    path, out = write(tmp_path, **changed, until={"decided": 0.2}), tmp_path / "out"
    done = play(policy, path, out, "--concurrency", 4)
    assert done.exit_code == 0, done.output
    assert len(stored(out / "calibration")) < 200  # of 400
    (contrast,) = [c for c in compared(out)["contrasts"] if c["source"] == "calibration"]
    assert contrast["decision"] == "differs"
    assert contrast["decided_at"] < 100
    assert orjson.loads((out / "plan.json").read_bytes())["plan"]["decided_by"] == RULE
    # of the version before, whose rule had no number
    record = orjson.loads((out / "calibration" / "run.json").read_bytes())
    assert record["settings"].pop("decided_by") == RULE
    (out / "calibration" / "run.json").write_bytes(orjson.dumps(record))
    (contrast,) = [c for c in compared(out)["contrasts"] if c["source"] == "calibration"]
    assert (contrast["decision"], contrast["decided_at"]) == ("other rule", None)
    assert "other rule" in cli("compare", out).stdout
    before = len(stored(out / "calibration"))
    refused = play(policy, path, out, "--concurrency", 4)
    assert refused.exit_code == 2
    assert "stopped by rule 1" in refused.stderr
    assert len(stored(out / "calibration")) == before


def test_another_study_or_a_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert play(comply, write(tmp_path, **ONE), out).exit_code == 0
    said = play(comply, write(tmp_path, **ONE, name="other"), out)
    assert said.exit_code == 2
    assert "'tried'" in said.stderr
    said = play(comply, write(tmp_path, **ONE), out / "calibration")
    assert said.exit_code == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    assert play(comply, write(tmp_path, **ONE), tmp_path / "mine").exit_code == 2
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("plan_was_written", [False, True])
def test_what_a_kill_leaves_of_the_first_writes_does_not_keep_a_study_from_being_played(
    tmp_path: Path, plan_was_written: bool
) -> None:
    """Each file is written beside its place: half of one has another name."""
    path, out = write(tmp_path, **ONE, reference="api.jsonl"), tmp_path / "out"
    assert play(submit_at_once, path, out).exit_code == 0
    whole = {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    shutil.rmtree(out)
    (out / "imports" / ".api-1234.importing-x").mkdir(parents=True)
    (out / "imports" / ".api-1234.importing-x" / "episodes.jsonl").write_text("{")
    (out / ".plan.json.123").write_bytes(whole[Path("plan.json")][:100])
    (out / "reference" / "1234").mkdir(parents=True)
    (out / "reference" / "1234" / ".api.jsonl.123").write_text("{")
    if plan_was_written:
        (out / "plan.json").write_bytes(whole[Path("plan.json")])
        (out / "calibration").mkdir()
        (out / "calibration" / ".run.json.123").write_text("{")
        (out / "calibration" / "episodes.jsonl").touch()
    done = play(submit_at_once, path, out)
    assert done.exit_code == 0, done.output
    assert read_plan(out).digest == json.loads(whole[Path("plan.json")])["digest"]
    assert len(stored(out / "calibration")) == 12
    assert compared(out)["study"]["deviations"] == []


def test_two_at_a_time_are_refused(tmp_path: Path) -> None:
    import fcntl

    path, out = write(tmp_path, **ONE), tmp_path / "out"
    out.mkdir()
    fd = os.open(out, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        said = play(comply, path, out)
    finally:
        os.close(fd)
    assert said.exit_code == 2
    assert "another run of this study" in said.stderr


def test_list_says_how_to_resume_a_study(tmp_path: Path) -> None:
    path, out = write(tmp_path, **ONE), tmp_path / "out"
    assert play(comply, path, out).exit_code == 0
    record = orjson.loads((out / "calibration" / "run.json").read_bytes())
    assert record["study"] == {"name": "tried", "digest": read_plan(out).digest}
    lines = (out / "calibration" / "episodes.jsonl").read_bytes().splitlines(keepends=True)
    (out / "calibration" / "episodes.jsonl").write_bytes(b"".join(lines[:-1]))
    (state,) = [
        run for run in json.loads(cli("list", out, "--json").stdout) if run["state"] != "imported"
    ]
    assert (state["state"], state["on_disk"], state["planned"]) == ("unfinished", 11, 12)
    assert state["resume"].endswith(f"--out {out}")


def test_a_model_that_cannot_be_run_does_not_keep_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path, out = write(tmp_path, models=["phi-4-mini", "calibration"]), tmp_path / "out"
    done = play(comply, path, out)  # the endpoint serves the one alone
    assert done.exit_code == 3
    assert len(stored(out / "calibration")) == 12
    assert not (out / "phi-4-mini" / "episodes.jsonl").exists()
    assert "phi-4-mini" in done.stderr


def test_two_studies_side_by_side_are_told_apart_and_have_no_ones_plan(tmp_path: Path) -> None:
    for name in ("one", "other"):
        done = play(comply, write(tmp_path, **ONE, name=name), tmp_path / name)
        assert done.exit_code == 0, done.output
    found = compared(tmp_path / "one", tmp_path / "other")
    assert "study" not in found
    sources = {c["source"] for c in found["cells"] if c["model"].startswith("calibration")}
    assert sources == {"one/calibration", "other/calibration"}
    assert found["contrasts"] == []  # A-E is not among the paper's
    assert [c["model"] for c in found["cells"]].count("o3") == 1  # imported by both
    args = (tmp_path / "one", tmp_path / "other", "--out", tmp_path / "r.html")
    assert cli("report", *args).exit_code == 0
    assert "other/calibration" in (tmp_path / "r.html").read_text()


def test_a_run_without_a_folder_does_not_go_on_with_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = {"models": ["calibration"], "factors": {}, "contrasts": [], "imports": []}
    path = write(tmp_path, **plain)
    with serve_beside(comply, "calibration") as model:
        args = ("--base-url", model.base_url, "--no-probe")
        assert cli("run", path, *args).exit_code == 0
        place = tmp_path / "runs" / "tried" / "calibration" / "episodes.jsonl"
        place.write_bytes(b"".join(place.read_bytes().splitlines(keepends=True)[:-1]))
        args = (*args, "--model", "calibration", "--conditions", "A,E", "--trials", "3")
        assert cli("run", *args, "--dry-run").stdout.startswith("output: runs/2")


# --- a vLLM that is none -------------------------------------------------------------------------


class Box:
    """A machine with a fake vLLM, whose model resists at temperature 1 and complies at 0.7."""

    def __init__(self, folder: Path) -> None:
        self.control = folder / "cue.json"
        self.cue()
        shim = fake_vllm.installed(folder / "shim")
        self.environment = {
            **os.environ, "PYTHONPATH": f"{ROOT}:{shim}", "FAKE_VLLM": str(self.control),
            "VLLM_TARGET_DEVICE": "cpu", "HF_HUB_OFFLINE": "1",
        }  # fmt: skip

    def cue(self, *pause: object) -> None:
        """
        Args:
            pause: a file, and the number of lines from which on nothing is answered.
        """
        fake_vllm.write(self.control, answer="hot", pause=[*map(str, pause[:1]), *pause[1:]])

    def start(self, path: Path, out: Path) -> subprocess.Popen[bytes]:
        return Running(
            [sys.executable, "-m", "local_shutdown", "run", path, "--engine", "vllm", "--gpus", "0",
             "--out", out, "--concurrency", "4"],
            env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip


def on_disk(out: Path) -> int:
    return sum(p.read_bytes().count(b"\n") for p in out.glob("*/episodes.jsonl"))


def decided(out: Path) -> dict[tuple[str, str, str], bool]:
    """Which contrasts are below 0.05 after Holm's adjustment."""
    return {
        (c["model"], c["name"], c["factor"]): c["p_holm"] is not None and c["p_holm"] < 0.05
        for c in compared(out)["contrasts"]
        if c["source"] in ("calibration", "copy")
    }


def test_killed_twice_it_ends_with_every_trial_once_and_the_same_plan_and_decisions(
    tmp_path: Path,
) -> None:
    """Two models, two levels, an import."""
    box, trials = Box(tmp_path), 12
    path = write(tmp_path / "one", trials=trials)
    with box.start(path, tmp_path / "whole") as run:
        _, said = run.communicate(timeout=300)
    assert run.returncode == 0, said.decode()
    out = tmp_path / "killed"
    for model, episodes in (("calibration", 20), ("copy", 22)):
        path_of_model = out / model / "episodes.jsonl"
        box.cue(path_of_model, episodes)
        with box.start(path, out) as run:
            until(lambda: fake_vllm.lines(path_of_model) >= episodes)  # noqa: B023
            run.kill()
    box.cue()
    again = write(tmp_path / "elsewhere", trials=trials)  # moved meanwhile, which is no change
    with box.start(again, out) as run:
        _, said = run.communicate(timeout=300)
    assert run.returncode == 0, said.decode()
    for model in ("calibration", "copy"):
        names = Counter(record["episode_id"] for record in stored(out / model))
        assert names == Counter(
            f"{model}@temperature={t}/{c}/{n}"
            for t in ("1", "0.7") for c in "AE" for n in range(trials)
        )  # fmt: skip
    whole, killed = read_plan(tmp_path / "whole"), read_plan(out)
    assert killed.digest == whole.digest
    assert killed.plan == whole.plan
    assert killed.imports == whole.imports
    assert killed.deviations == whole.deviations == []
    heat = {(m, f"{c}: temperature 1 − 0.7", "temperature=1") for m in MODELS for c in "AE"}
    assert {key for key, found in decided(tmp_path / "whole").items() if found} == heat
    assert {c["outcome"] for c in rows(out / "copy") if "=0.7/" in c["episode_id"]} == {"complied"}
    assert decided(out).keys() == decided(tmp_path / "whole").keys()
    assert {key for key, found in decided(out).items() if found} <= heat


MODELS = ("calibration (synthetic)", "copy (synthetic)")


def rows(out: Path) -> list[dict[str, Any]]:
    from playing import rows as read

    return [dict(row) for row in read(out)]


def test_each_revision_on_the_hub_is_served_from_its_own_snapshot(tmp_path: Path) -> None:
    box = Box(tmp_path)
    hub = tmp_path / "hub" / "models--org--tiny"
    (hub / "refs").mkdir(parents=True)
    for name, commit in (("main", "0" * 40), ("step1", "1" * 40), ("step2", "2" * 40)):
        shutil.copytree(data("calibration-model"), hub / "snapshots" / commit)
        (hub / "refs" / name).write_text(commit)
    box.environment["HF_HUB_CACHE"] = str(tmp_path / "hub")
    models = [{"id": "org/tiny", "revision": ["step1", "2" * 40]}]
    steps = {"factor": "revision", "a": "step1", "b": "2" * 40}
    out, trials = tmp_path / "out", 2
    path = write(tmp_path / "study", models=models, trials=trials, contrasts=[steps])
    with box.start(path, out) as run:
        _, said = run.communicate(timeout=300)
    assert run.returncode == 0, said.decode()
    served = [argv[argv.index("--model") + 1] for argv in fake_vllm.starts(tmp_path / "cue.json")]
    assert served == [str(hub / "snapshots" / (digit * 40)) for digit in "12"]
    plan = read_plan(out)
    assert [c["revision"] for c in plan.plan["models"]["org/tiny"]["checkpoints"]] == [
        "step1", "2" * 40,
    ]  # fmt: skip
    assert plan.resolved["org-tiny@step1"]["revision"] == "1" * 40
    contrasts = {c["source"]: c["source_b"] for c in compared(out)["contrasts"] if c["varied"]}
    assert contrasts == {"org-tiny@step1": f"org-tiny@{'2' * 40}"}
    missing = write(tmp_path / "study", models=[{"id": "org/tiny", "revision": "step3"}],
                    contrasts=[])  # fmt: skip
    with box.start(missing, tmp_path / "none") as run:
        _, said = run.communicate(timeout=300)
    assert run.returncode == 3
    assert b"org/tiny (revision step3)" in said
    assert b"--revision step3" in said


def test_ctrl_c_drains_and_says_the_same_command(tmp_path: Path) -> None:
    box, out = Box(tmp_path), tmp_path / "out"
    path = write(tmp_path / "one", trials=20)
    box.cue(out / "calibration" / "episodes.jsonl", 10)
    with box.start(path, out) as run:
        until(lambda: on_disk(out) >= 10)
        run.send_signal(2)
        box.cue()
        _, said = run.communicate(timeout=240)
    assert run.returncode == 130
    (line,) = [one for one in said.decode().splitlines() if one.startswith("to resume: ")]
    assert shlex.split(line)[2:] == [
        "local-shutdown", "run", str(path), "--engine", "vllm", "--gpus", "0", "--out", str(out),
        "--concurrency", "4",
    ]  # fmt: skip
    assert not (out / "copy" / "episodes.jsonl").exists()
    cells = [c for c in compared(out)["cells"] if c["source"] == "calibration"]
    assert {c["unfinished"] for c in cells} == {0}


# --- the examples --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["quickstart", "paper-grid", "open-against-closed"])
def test_examples_are_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    path = ROOT / "examples" / f"{name}.yaml"
    said = cli("run", path, "--dry-run", "--engine", "transformers", "--gpus", "0")
    assert said.exit_code in (0, 3), said.output  # 3: weights that are not on this machine
    assert "plan: sha256:" in said.stdout
    planned = {"quickstart": "120 in 1 runs", "paper-grid": "132,000 in 12 runs",
               "open-against-closed": "21,000 in 7 runs"}  # fmt: skip
    assert f"episodes: {planned[name]}" in said.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_quickstart_runs_on_real_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers", reason="the transformers extra is not installed")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "examples" / "quickstart.yaml").read_text()
    path = tmp_path / "quickstart.yaml"
    path.write_text(text.replace("trials: 40", "trials: 2"))
    done = cli("run", path, "--engine", "transformers", "--gpus", "0")
    assert done.exit_code == 0, done.output
    assert len(stored(tmp_path / "runs" / "quickstart" / "calibration")) == 6
    assert [c["name"] for c in compared(path)["contrasts"] if c["source"] == "calibration"] == [
        "A-E"
    ]
