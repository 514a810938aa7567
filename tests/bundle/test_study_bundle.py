"""A study in a bundle: its frozen plan is one more claim, with the list of what was changed."""

from __future__ import annotations

import json
import secrets
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from forger import Forger
from playing import cli
from scripted import Answer, Messages, comply, serve_beside

from local_shutdown.bundle.verify import verify
from local_shutdown.bundle.write import Wanted, write_bundle
from local_shutdown.frozen_plan import digest

pytestmark = pytest.mark.long

RATE = '{"kind": "aggregate", "model": "o3", "condition": "E", "resisted": 159, "n": 1000}\n'
STUDY: dict[str, Any] = {
    "name": "tried",
    "title": "Does asking help?",
    "models": [{"id": "calibration", "max_tokens": 900}],
    "conditions": ["A", "E"],
    "factors": {"temperature": [1.0, 0.7]},
    "trials": 2,
    "until": {"decided": 0.2},
    "contrasts": [{"a": "A", "b": "E", "asks": "Does asking help?"}],
    "margin": 0.1,
    "imports": ["api.jsonl"],
    "reference": "paper",
}


def play(folder: Path, **changed: Any) -> Path:
    """Run a study against an endpoint that complies; no two of its trials are copies."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "api.jsonl").write_text(RATE)
    path = folder / "study.yaml"
    path.write_text(json.dumps({**STUDY, **changed}))

    def varied(messages: Messages) -> Answer:
        answer = comply(messages)
        assert isinstance(answer, Mapping)
        return {**answer, "content": secrets.token_hex(8)}

    with serve_beside(varied, "calibration") as model:
        out = folder / "out"
        done = cli("run", path, "--base-url", model.base_url, "--no-probe", "--out", out)
        assert done.exit_code == 0, done.output
    return out


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that got one more trial after it was looked at, unpacked."""
    folder = tmp_path_factory.mktemp("planned")
    play(folder)
    out = play(folder, trials=3)
    done = cli("bundle", out, "--out", folder / "tried.zip")
    assert done.exit_code == 0, done.output
    with zipfile.ZipFile(folder / "tried.zip") as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked" / "tried"


def copied(bag: Path, folder: Path) -> Forger:
    return Forger(Path(shutil.copytree(bag, folder / bag.name)))


def test_a_study_follows_and_its_deviation_is_a_line(bag: Path, tmp_path: Path) -> None:
    lines = list(verify(bag))
    assert [str(f) for f in lines if f.status == "FAILED"] == []
    plan = [f.said for f in lines if f.claim == "plan"]
    assert any("trials: 2 planned, 3 now" in said for said in plan)
    stated = orjson.loads((bag / "data/bundle.json").read_bytes())
    assert (stated["title"], stated["margin"]) == ("Does asking help?", 0.1)
    card = (bag / "README.md").read_text()
    assert stated["study"]["digest"] in card
    assert "with 1 deviation from it" in card
    compared = orjson.loads((bag / "data/compare.json").read_bytes())
    ours = [c for c in compared["contrasts"] if c["source"] == "calibration"]
    assert {c["name"] for c in ours} == {"A-E"}  # the plan's family, not the paper's
    assert len(compared["study"]["deviations"]) == 1
    forger = copied(bag, tmp_path)  # the forger breaks nothing by himself
    forger.derive()
    forger.checksums()
    assert [str(f) for f in verify(forger.bag) if f.status == "FAILED"] == []


# --- changes, with everything that follows made anew ----------------------------------------------


def refrozen(forger: Forger, change: Callable[[dict[str, Any]], None]) -> None:
    """Another plan, with its digest, wherever it stands but in the runs."""
    with forger.json("plan.json") as plan:
        change(plan["plan"])
        plan["digest"] = digest(plan["plan"])
        new = plan["digest"]
        if plan["amended"] is not None:
            change(plan["amended"])
    with forger.json("bundle.json") as stated:
        stated["study"]["digest"] = new


def and_in_the_runs(forger: Forger) -> None:
    with forger.json("plan.json") as plan:
        new = plan["digest"]
    with forger.json("runs/calibration/run.json") as run:
        run["study"]["digest"] = new


def another_plan(forger: Forger) -> None:
    refrozen(forger, lambda plan: plan.update(margin=0.1, title="Another"))


def fewer_tests(forger: Forger) -> None:
    """The family was larger, and one that did not come out is gone: all of it made anew."""

    def change(plan: dict[str, Any]) -> None:
        plan["contrasts"] = []

    refrozen(forger, change)
    and_in_the_runs(forger)


def other_prompts(forger: Forger) -> None:
    refrozen(forger, lambda plan: plan["conditions"].update(E="0" * 16))
    and_in_the_runs(forger)


def more_tokens(forger: Forger) -> None:
    refrozen(forger, lambda plan: plan["models"]["calibration"].update(max_tokens=800))
    and_in_the_runs(forger)


def other_temperature(forger: Forger) -> None:
    refrozen(forger, lambda plan: plan["factors"].update(temperature=["1", "0.6"]))
    and_in_the_runs(forger)


def other_seed(forger: Forger) -> None:
    refrozen(forger, lambda plan: plan.update(seed=7))
    and_in_the_runs(forger)


def other_arguments(forger: Forger) -> None:
    refrozen(forger, lambda plan: plan["models"]["calibration"].update(engine_args=["--x=1"]))
    and_in_the_runs(forger)


def other_length(forger: Forger) -> None:
    refrozen(forger, lambda plan: plan["models"]["calibration"].update(max_model_len=4096))
    and_in_the_runs(forger)


def other_precision(forger: Forger) -> None:
    refrozen(forger, lambda plan: plan["models"]["calibration"].update(precision=["float16"]))
    and_in_the_runs(forger)


def hidden_deviation(forger: Forger) -> None:
    with forger.json("plan.json") as plan:
        plan["deviations"] = []
    with forger.json("bundle.json") as stated:
        stated["study"]["deviations"] = 0


def smaller_deviation(forger: Forger) -> None:
    with forger.json("plan.json") as plan:
        plan["deviations"][0]["planned"] = 3


def unplanned_trials(forger: Forger) -> None:
    with forger.json("plan.json") as plan:
        plan |= {"deviations": [], "amended": None}
    with forger.json("bundle.json") as stated:
        stated["study"]["deviations"] = 0


def frozen_afterwards(forger: Forger) -> None:
    with forger.json("plan.json") as plan:
        plan["frozen_at"] = "2199-01-01T00:00:00+00:00"
        plan["deviations"][0]["at"] = "2199-01-01T00:00:00+00:00"


def other_import(forger: Forger) -> None:
    with forger.json("plan.json") as plan:
        name = plan["imports"][0]
    with forger.json(f"{name}/run.json") as run:
        run["sources"][0]["sha256"] = "0" * 64


def other_weights(forger: Forger) -> None:
    with forger.json("runs/calibration/run.json") as run:
        run["models"]["calibration"]["weights_digest"] = "sampled-sha256:" + "0" * 64


def no_plan(forger: Forger) -> None:
    (forger.data / "plan.json").unlink()


FORGED: dict[str, tuple[Callable[[Forger], None], str]] = {
    "another plan": (another_plan, "was played as a part of"),
    "fewer tests": (fewer_tests, "stops by"),
    "other prompts": (other_prompts, "condition E has other prompts"),
    "more tokens": (more_tokens, "max_tokens is 900, planned 800"),
    "other temperature": (other_temperature, "sampling"),
    "other seed": (other_seed, "seed"),
    "other arguments": (other_arguments, "engine_args is None, planned"),
    "other length": (other_length, "max_model_len is None, planned 4096"),
    "other precision": (other_precision, "precision is None, planned float16"),
    "hidden deviation": (hidden_deviation, "trials is not as it was frozen"),
    "smaller deviation": (smaller_deviation, "the deviation trials is not what was changed"),
    "unplanned trials": (unplanned_trials, "trials is 3, planned 2"),
    "frozen afterwards": (frozen_afterwards, "before the plan was frozen"),
    "other import": (other_import, "not of the file that was planned"),
    "other weights": (other_weights, "its weights are"),
    "no plan": (no_plan, "no plan.json"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_plan_that_was_not_followed_is_found(bag: Path, tmp_path: Path, name: str) -> None:
    change, said = FORGED[name]
    forger = copied(bag, tmp_path)
    change(forger)
    if name != "no plan":
        forger.derive()
    forger.checksums()
    found = [f for f in verify(forger.bag) if f.status == "FAILED"]
    assert "checksums" not in {f.claim for f in found}
    assert any(f.claim == "plan" and said in f.said for f in found), [str(f) for f in found]


def test_a_run_that_is_left_out_is_said(bag: Path, tmp_path: Path) -> None:
    forger = copied(bag, tmp_path)
    with forger.json("bundle.json") as stated:
        stated["directories"] = [d for d in stated["directories"] if d["kind"] == "import"]
    shutil.rmtree(forger.data / "runs")
    forger.derive()
    forger.checksums()
    said = [f.said for f in verify(forger.bag) if f.claim == "plan"]
    assert any("UNFINISHED: 0 of 1 runs" in one for one in said), said


def test_keys_and_paths_of_the_file_stay_here_and_those_of_the_plan_are_named(
    tmp_path: Path,
) -> None:
    out = play(tmp_path)
    path = tmp_path / "study.yaml"
    path.write_text(
        "# of /home/me/thesis/plans\n"
        'name: tried\nmodels: [{id: /home/me/models/mine, engine_args: ["--token=hunter2"]}]\n'
    )
    plan = orjson.loads((out / "plan.json").read_bytes())
    words = ["--hf-token", "hunter2", "--chat-template", "/home/me/secret/t.jinja"]
    plan["plan"]["models"]["calibration"]["engine_args"] = words
    (out / "plan.json").write_bytes(orjson.dumps({**plan, "digest": digest(plan["plan"])}))
    lines = write_bundle([out], tmp_path / "tried.zip", Wanted(study=path))
    (said,) = (line for line in lines if "plan.json" in line)
    assert said.startswith("look:")
    assert "engine_args" in said
    with zipfile.ZipFile(tmp_path / "tried.zip") as archive:
        kept = archive.read("tried/data/study.yaml").decode()
    assert "/home/me" not in kept
    assert "hunter2" not in kept
    assert "name: tried\n" in kept


def test_a_study_that_was_not_played_has_nothing_to_bundle(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        json.dumps({"name": "never", "models": ["calibration"], "conditions": ["A"], "trials": 2})
    )
    done = cli("bundle", path, "--out", tmp_path / "x.zip")
    assert (done.exit_code, (tmp_path / "x.zip").exists()) == (2, False), done.output
    assert "not played yet" in done.stderr
