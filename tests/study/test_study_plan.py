"""The frozen plan: its digest is the same on every machine, and what is changed is listed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from playing import cli

from local_shutdown import frozen_plan
from local_shutdown.analysis.cells import Cell
from local_shutdown.analysis.contrasts import Contrast, declared_contrasts
from local_shutdown.cli import options
from local_shutdown.errors import UsageError
from local_shutdown.resources import data
from local_shutdown.runfile import parse_run
from local_shutdown.study import freeze
from local_shutdown.study.parts import Machine, settings
from local_shutdown.study.plan import Resolved, resolve
from local_shutdown.study.schema import read_study

ROOT = Path(__file__).resolve().parents[2]
STUDY: dict[str, Any] = {
    "name": "tried",
    "models": ["calibration", {"id": "calibration", "name": "copy", "revision": "./copy"}],
    "conditions": ["A", "E", "own.yaml"],
    "factors": {"temperature": [1.0, 0.7]},
    "trials": 3,
    "contrasts": [
        {"a": "A", "b": "E", "asks": "?"},
        {"factor": "temperature", "a": 1.0, "b": 0.7},
    ],
    "margin": 0.1,
    "imports": ["api.jsonl"],
    "reference": "reference.jsonl",
}
RATE = '{"kind": "aggregate", "model": "o3", "condition": "E", "resisted": 159, "n": 1000}\n'


def place(folder: Path, **changed: Any) -> Path:
    """A study with all that it names, in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "copy").exists():
        shutil.copytree(data("calibration-model"), folder / "copy")
    conditions = json.loads(cli("conditions", "A", "--json").stdout)[0]
    own = {"id": "OWN", "title": "mine", "wording": "reconstructed", "instructs": "none",
           "system": conditions["system"], "user": "Go on."}  # fmt: skip
    (folder / "own.yaml").write_text(json.dumps({"conditions": [own]}))
    (folder / "api.jsonl").write_text(RATE)
    (folder / "reference.jsonl").write_text(RATE)
    path = folder / "study.yaml"
    path.write_text(json.dumps({**STUDY, **changed}))
    return path


def resolved(path: Path) -> Resolved:
    return resolve(read_study(path), options.finder("transformers", offline=True))


def digest_elsewhere(path: Path, home: Path, cwd: Path, **environment: str) -> str:
    """As another process in another place says it."""
    home.mkdir(parents=True, exist_ok=True)
    said = subprocess.run(
        [sys.executable, "-m", "local_shutdown", "run", path, "--engine", "transformers",
         "--gpus", "0", "--dry-run"],
        cwd=cwd, env={"HOME": str(home), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT),
                      "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True, text=True, umask=0o077 if environment else -1,
    )  # fmt: skip
    (line,) = [line for line in said.stdout.splitlines() if line.startswith("plan: ")]
    return line.split()[1]


def test_the_digest_is_the_same_in_another_folder_with_another_home(tmp_path: Path) -> None:
    here = place(tmp_path / "here")
    there = place(tmp_path / "far" / "away" / "there")
    mine = resolved(here).digest
    assert mine.startswith("sha256:")
    assert resolved(there).digest == mine
    assert digest_elsewhere(there, tmp_path / "home", there.parent) == mine
    assert digest_elsewhere(
        Path("here/study.yaml"), tmp_path / "other", tmp_path, TZ="Pacific/Auckland",
        LANG="de_DE.UTF-8", LC_ALL="C", PYTHONHASHSEED="7", COLUMNS="40",
    ) == mine  # fmt: skip


def test_nothing_of_the_machine_is_in_it(tmp_path: Path) -> None:
    found = resolved(place(tmp_path / "secret-place"))
    assert b"secret-place" not in orjson.dumps(found.plan)
    assert str(Path.home()).encode() not in orjson.dumps(found.plan)
    assert str(ROOT).encode() not in orjson.dumps(found.plan)


@pytest.mark.parametrize(
    "changed",
    [
        {"trials": 4}, {"margin": 0.2}, {"conditions": ["A", "E"]}, {"imports": []},
        {"contrasts": []}, {"models": ["calibration"]},
        {"factors": {"temperature": [1.0, 0.7, 0.5]}},
        {"seed": 1}, {"until": {"halfwidth": 0.1}}, {"reference": "paper"}, {"interview": True},
    ],
)  # fmt: skip
def test_what_decides_the_numbers_decides_the_digest(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    before = resolved(place(tmp_path)).digest
    assert resolved(place(tmp_path, **changed)).digest != before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("api.jsonl", "159", "160"),
        ("reference.jsonl", "159", "160"),
        ("own.yaml", "Go on.", "Go off."),
        ("copy/config.json", "{", "{ "),
    ],
)
def test_contents_of_files_decide_it(tmp_path: Path, name: str, old: str, new: str) -> None:
    path = place(tmp_path)
    before = resolved(path).digest
    file = tmp_path / name
    kept = file.read_text()
    file.write_text(kept.replace(old, new, 1))
    assert resolved(path).digest != before
    file.write_text(kept)
    assert resolved(path).digest == before


def test_the_papers_contrasts_are_the_family_where_none_is_declared(tmp_path: Path) -> None:
    changed = {key: value for key, value in STUDY.items() if key != "contrasts"}
    path = place(tmp_path)
    path.write_text(json.dumps({**changed, "conditions": ["A", "B", "E", "H"]}))
    assert [c.name for c in resolved(path).contrasts] == ["A-B", "E-H"]


def test_each_server_has_a_run_and_a_seed_of_its_own(tmp_path: Path) -> None:
    shutil.copytree(data("calibration-model"), tmp_path / "copy-2")
    row = {
        "id": "calibration",
        "revision": ["./copy", "./copy-2"],
        "precision": ["float32", "bfloat16"],
    }
    found = resolved(place(tmp_path, seed=7, models=[row]))
    machine = Machine("transformers", options.engines.Options(gpus=0))
    parts = settings(found, tmp_path / "out", machine, freeze.planned(tmp_path / "out", found))
    assert [one.out.name for one in parts] == [
        "calibration@copy@float32", "calibration@copy@bfloat16",
        "calibration@copy-2@float32", "calibration@copy-2@bfloat16",
    ]  # fmt: skip
    assert len({one.seed for one in parts}) == 4
    assert [one.options.dtype for one in parts] == ["float32", "bfloat16"] * 2
    assert [level.factor for level in parts[1].levels] == [
        "revision=copy;precision=bfloat16;temperature=1",
        "revision=copy;precision=bfloat16;temperature=0.7",
    ]
    assert {one.models[0].name for one in parts} == {"calibration"}


def test_precision_and_arguments_of_vllm(tmp_path: Path) -> None:
    found = resolved(
        place(
            tmp_path,
            models=[{"id": "calibration", "precision": ["fp8", "float16"],
                     "engine_args": ["--max-num-seqs=8"]}],
        )
    )  # fmt: skip
    parts = settings(
        found,
        tmp_path / "out",
        Machine("vllm", options.engines.Options()),
        freeze.planned(tmp_path / "out", found),
    )
    assert [one.options.engine_args for one in parts] == [
        ("--max-num-seqs=8", "--quantization=fp8"),
        ("--max-num-seqs=8", "--dtype=float16"),
    ]
    assert parts[0].identity()["serving"]["precision"] == "fp8"


def test_decided_is_about_the_contrasts_of_conditions_at_all_levels_of_the_plan(
    tmp_path: Path,
) -> None:
    found = resolved(place(tmp_path, until={"decided": 0.1}))
    plan = freeze.planned(tmp_path / "out", found)
    machine = Machine("transformers", options.engines.Options(gpus=0))
    parts = settings(found, tmp_path / "out", machine, plan)
    for one in parts:
        rule = one.decided_rule
        assert rule is not None
        assert (rule.delta, rule.levels) == (0.1, 4)  # two models at two temperatures
        assert [(c.name, c.a, c.b) for c in rule.contrasts] == [("A-E", "A", "E")]
        parse_run({"kind": "run", "settings": one.identity()})
    damaged = {**parts[0].identity(), "deciding": {"levels": 0, "contrasts": []}}
    with pytest.raises(ValueError, match="levels"):
        parse_run({"kind": "run", "settings": damaged})


def frozen(folder: Path, path: Path, at: str) -> frozen_plan.PlanFile:
    plan = freeze.planned(folder, resolved(path), at)
    folder.mkdir(exist_ok=True)
    freeze.write(folder, plan)
    return frozen_plan.read_plan(folder)


def with_an_episode(folder: Path) -> None:
    (folder / "calibration").mkdir(parents=True)
    (folder / "calibration" / "episodes.jsonl").write_text('{"episode_id":"x"}\n')


def test_what_is_changed_later_is_added_as_a_deviation_with_its_date(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = frozen(out, place(tmp_path), "2026-01-01T00:00:00+00:00")
    with_an_episode(out)
    again = frozen(out, place(tmp_path), "2026-01-02T00:00:00+00:00")
    assert (again.digest, again.frozen_at, again.deviations) == (first.digest, first.frozen_at, [])
    frozen(out, place(tmp_path, trials=9), "2026-01-03T00:00:00+00:00")
    plan = frozen(
        out, place(tmp_path, trials=9, contrasts=[{"a": "E", "b": "A"}]),
        "2026-01-04T00:00:00+00:00",
    )  # fmt: skip
    assert plan.digest == first.digest == frozen_plan.digest(plan.plan)
    assert [(d.at[:10], d.what) for d in plan.deviations] == [
        ("2026-01-03", "trials"),
        ("2026-01-04", "contrasts.A-E"),
        ("2026-01-04", "contrasts.temperature 1 − 0.7"),
        ("2026-01-04", "contrasts.E-A"),
    ]
    assert (plan.deviations[0].planned, plan.deviations[0].now) == (3, 9)
    # The family stays that of the plan.
    assert [c.name for c in plan.contrasts] == ["A-E", "temperature 1 − 0.7"]
    back = frozen(out, place(tmp_path), "2026-01-05T00:00:00+00:00")
    assert back.deviations[:4] == plan.deviations
    assert [d.what for d in back.deviations[4:]] == [
        "trials", "contrasts.E-A", "contrasts.A-E", "contrasts.temperature 1 − 0.7",
    ]  # fmt: skip


def test_of_two_imports_with_one_file_name_a_change_of_either_is_told() -> None:
    one, two, other = ({"name": "x.jsonl", "sha256": sha} for sha in ("1", "2", "3"))
    for later in ([other, two], [one, other]):
        found = freeze.changes({"imports": [one, two]}, {"imports": later})
        assert len(found) == 1, found


# --- imports --------------------------------------------------------------------------------------


def test_one_file_is_imported_once(tmp_path: Path) -> None:
    path = place(tmp_path)
    (tmp_path / "again.jsonl").write_text(RATE)
    folder = tmp_path / "folder"
    assert cli("import", tmp_path / "api.jsonl", "--out", folder).exit_code == 0
    for other in ({"path": "api.jsonl", "model": "x"}, "again.jsonl", "./api.jsonl", "folder"):
        place(tmp_path, imports=["api.jsonl", other])
        with pytest.raises(UsageError, match=r"imports\.1: .*same data as api\.jsonl.*twice"):
            resolved(path)
    place(tmp_path, imports=[{"path": "folder", "model": "x"}])
    with pytest.raises(UsageError, match=r"imports\.0\.model"):
        resolved(path)


def test_an_import_that_is_read_another_way_has_another_folder(tmp_path: Path) -> None:
    asked: list[Any] = [
        "api.jsonl", *({"path": "api.jsonl", **more} for more in (
            {"model": "x"}, {"model": "y"}, {"condition": "A"}, {"format": "jsonl"})),
    ]  # fmt: skip
    folders = [resolved(place(tmp_path, imports=[one])).imports[0].folder for one in asked]
    assert len(set(folders)) == len(asked)
    plain = place(tmp_path, imports=[{"path": "api.jsonl", "format": "auto"}])
    assert resolved(plain).imports[0].folder == folders[0]


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_what_an_import_holds_is_checked_before_anything_is_played(
    tmp_path: Path, dry: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    words = ("--engine", "transformers", "--gpus", "0", "--out", out, *dry)
    cases = {
        "not json\n": ("api.jsonl:1", "not JSON"),
        RATE + '{"kind": "episode"}\n': ("api.jsonl:2",),
        RATE.replace('"E"', '"Q9"'): ("nothing in it is of a condition of the study", "Q9"),
        "": ("empty",),
    }
    for text, said in cases.items():
        path = place(tmp_path)
        (tmp_path / "api.jsonl").write_text(text)
        done = cli("run", path, *words)
        assert done.exit_code == 2, done.output
        assert "study.yaml:1: imports.0: " in done.stderr
        assert all(one in done.stderr for one in said), done.stderr
        assert not (out / "plan.json").exists()
        assert not (out / "calibration").exists()


def test_a_dry_run_says_what_an_import_holds(tmp_path: Path) -> None:
    words = ("--engine", "transformers", "--gpus", "0", "--out", tmp_path / "out", "--dry-run")
    said = cli("run", place(tmp_path), *words).stdout
    (line,) = [line for line in said.splitlines() if line.startswith("import: ")]
    assert "1 record of o3; none of condition A, OWN" in line
    assert not (tmp_path / "out").exists()


def test_before_the_first_episode_a_plan_is_frozen_anew(tmp_path: Path) -> None:
    out = tmp_path / "out"
    frozen(out, place(tmp_path), "2026-01-01T00:00:00+00:00")
    plan = frozen(out, place(tmp_path, trials=9), "2026-01-02T00:00:00+00:00")
    assert (plan.frozen_at[:10], plan.plan["trials"], plan.deviations) == ("2026-01-02", 9, [])


def test_other_weights_under_the_same_name_are_a_deviation(tmp_path: Path) -> None:
    out = tmp_path / "out"
    plan = frozen(out, place(tmp_path), "2026-01-01T00:00:00+00:00")
    with_an_episode(out)
    moved = {**plan.resolved["calibration"], "weights_digest": "sampled-sha256:00"}
    known = {**plan.resolved, "calibration": moved}
    freeze.write(out, plan.model_copy(update={"resolved": known}))
    for day in (2, 3):
        again = frozen(out, place(tmp_path), f"2026-01-0{day}T00:00:00+00:00")
        assert [(d.what, d.at[:10]) for d in again.deviations] == [
            ("weights.calibration", "2026-01-02")
        ]


def test_a_plan_that_was_edited_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    frozen(out, place(tmp_path), "2026-01-01T00:00:00+00:00")
    raw = (out / "plan.json").read_text()
    for old, new, word in (
        ('"trials": 3', '"trials": 2', "digest"),
        ('"kind": "plan"', '"kind": "plot"', "kind"),
        ('"runs": [', '"runs": ["../../etc", ', "inside"),
        ('"deviations": []', '"deviations": [{}]', "deviations"),
        ("{", "", "JSON"),
    ):
        (out / "plan.json").write_text(raw.replace(old, new, 1))
        with pytest.raises(UsageError, match=word):
            frozen_plan.read_plan(out)
    with pytest.raises(UsageError, match=r"no plan\.json"):
        frozen_plan.read_plan(tmp_path)


# --- contrasts of levels --------------------------------------------------------------------------


def cell(factor: str | None, resisted: int, source: str = "run", condition: str = "E") -> Cell:
    return Cell("m", condition, source, resisted, 100, factor=factor, weights="open")


HEAT = Contrast("temperature 1 − 0.7", "1", "0.7", "?", "temperature", ("E",))


def test_levels_are_compared_with_all_else_the_same() -> None:
    cells = [
        cell("temperature=1", 50), cell("temperature=0.7", 20),
        cell("effort=high;temperature=1", 90), cell("effort=high;temperature=0.7", 90),
        cell("temperature=1", 5, condition="A"), cell("temperature=0.7", 6, condition="A"),
    ]  # fmt: skip
    found = declared_contrasts(cells, family=[HEAT])
    assert [(r.name, r.factor, r.factor_b, r.diff) for r in found] == [
        ("E: temperature 1 − 0.7", "temperature=1", "temperature=0.7", pytest.approx(0.3)),
        ("E: temperature 1 − 0.7", "effort=high;temperature=1", "effort=high;temperature=0.7", 0.0),
    ]
    assert {r.family_size for r in found} == {2}


def test_checkpoints_are_compared_over_their_runs_and_default_is_a_level() -> None:
    steps = Contrast("revision a − b", "a", "b", "?", "revision")
    cells = [cell("revision=a", 50, "m@a"), cell("revision=b", 20, "m@b")]
    (found,) = declared_contrasts(cells, family=[steps])
    assert (found.source, found.source_b, found.diff) == ("m@a", "m@b", pytest.approx(0.3))
    effort = Contrast("effort default − high", "default", "high", "?", "effort")
    (found,) = declared_contrasts([cell(None, 50), cell("effort=high", 40)], family=[effort])
    assert (found.factor, found.factor_b, found.diff) == (None, "effort=high", pytest.approx(0.1))


def test_of_several_runs_that_could_be_meant_none_is_taken() -> None:
    steps = Contrast("revision a − b", "a", "b", "?", "revision")
    cells = [
        cell("revision=a", 50, "m@a"), cell("revision=b", 20, "m@b"), cell("revision=b", 90, "x"),
    ]  # fmt: skip
    assert declared_contrasts(cells, family=[steps]) == []


@pytest.mark.parametrize("words", [["--api-key", "k"], ["--api-key=k"]])
def test_a_key_does_not_belong_into_a_plan(tmp_path: Path, words: list[str]) -> None:
    path = place(tmp_path, models=[{"id": "calibration", "engine_args": words}])
    with pytest.raises(UsageError, match="--api-key"):
        resolved(path)
