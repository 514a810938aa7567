"""plan.json by itself: what is read of it, and what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import orjson
import pytest

from local_shutdown.errors import UsageError
from local_shutdown.frozen_plan import (
    PLAN,
    Deviation,
    PlanFile,
    digest,
    is_study,
    planned_checkpoints,
    planned_levels,
    read_plan,
    read_study_folder,
)

CONTRAST = {"name": "A-E", "a": "A", "b": "E", "asks": "?", "factor": None, "conditions": []}
ONE = {"checkpoints": [{"revision": "r1"}], "precision": []}
INSIDE: dict[str, Any] = {"contrasts": [CONTRAST], "models": {"m": ONE}, "margin": 0.1}


def plan(inside: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    inside = INSIDE if inside is None else inside
    return {
        "schema_version": 1, "kind": "plan", "name": "s", "digest": digest(inside),
        "frozen_at": "2026-01-01T00:00:00+00:00", "package_version": "1", "plan": inside, **more,
    }  # fmt: skip


def written(folder: Path, record: Any) -> Path:
    raw = record if isinstance(record, bytes) else orjson.dumps(record)
    (folder / PLAN).write_bytes(raw)
    return folder


def test_the_digest_is_of_the_canonical_json_and_so_can_be_checked_with_other_tools() -> None:
    raw = '{"a":[1,2.5,null],"b":"\u00e4"}'.encode()
    assert (
        digest({"b": "\u00e4", "a": [1, 2.5, None]}) == f"sha256:{hashlib.sha256(raw).hexdigest()}"
    )


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = plan(runs=["m"], imports=["i"], reference="ref.jsonl")
    assert not is_study(tmp_path)
    found = read_plan(written(tmp_path, record))
    assert is_study(tmp_path)
    assert (found.runs, found.imports, found.reference) == (["m"], ["i"], "ref.jsonl")
    assert found.margin == 0.1
    assert [c.model_dump() for c in found.contrasts] == [{**CONTRAST, "conditions": ()}]
    (tmp_path / PLAN).write_bytes(raw := found.as_json())
    assert read_plan(tmp_path) == found
    assert raw.endswith(b"}\n")
    assert raw.count(b"\n") > 10  # for a reader


def test_a_study_has_the_folders_that_are_there_runs_before_imports(tmp_path: Path) -> None:
    for name in ("b", "a", "i"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
    (tmp_path / "begun").mkdir()
    record = plan(runs=["b", "begun", "a"], imports=["i", "gone"], reference="ref.jsonl")
    study = read_study_folder(written(tmp_path, record))
    assert study.directories == [tmp_path / "b", tmp_path / "a", tmp_path / "i"]
    assert study.reference == str(tmp_path / "ref.jsonl")
    for word in (None, "paper"):
        assert read_study_folder(written(tmp_path, plan(reference=word))).reference == word


def test_what_was_changed_later_is_in_force_and_what_is_tested_is_not_changed() -> None:
    amended = {**INSIDE, "contrasts": [], "margin": 0.5, "models": {"n": ONE}}
    found = PlanFile.model_validate(plan(amended=amended))
    assert found.in_force == amended
    assert [c.name for c in found.contrasts] == ["A-E"]
    assert found.margin == 0.1
    as_frozen = PlanFile.model_validate(plan())
    assert as_frozen.in_force == INSIDE
    assert PlanFile.model_validate(plan({"contrasts": [], "models": {}})).margin is None


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (b'{\n"kind":', f"{PLAN}:2: not JSON"),
        # deep enough to be read, and not to be written again, as its digest is
        (orjson.dumps(plan()).replace(b"0.1", b"[" * 300 + b"]" * 300), "nested"),
        ({**plan(), "kind": "run"}, "kind: .run."),
        ({**plan(), "schema_version": 2}, "schema_version: 2"),
        ({**plan(), "more": 77}, "more: 77"),
        ({**plan(), "digest": "sha256:0"}, "sha256:0"),
        ({**plan(), "plan": {**INSIDE, "margin": 0.2}}, digest(INSIDE)),
        (plan({"models": {}}), "contrasts"),
        (plan({"contrasts": 7, "models": {}}), "damaged"),
        (plan({"contrasts": [CONTRAST, CONTRAST], "models": {}}), "two contrasts"),
        (plan({"contrasts": []}), "damaged.*models"),
        (plan({"contrasts": [], "models": ["m"]}), "damaged"),
        (plan({"contrasts": [], "models": {"m": {"checkpoints": []}}}), "damaged.*precision"),
        (plan({"contrasts": [], "models": {"m": {"precision": []}}}), "damaged.*checkpoints"),
        (plan({**INSIDE, "factors": ["effort"]}), "damaged"),
        (plan(amended={"models": {"m": 7}}), "damaged"),
        (plan(runs=["/etc"]), "/etc"),
        (plan(runs=["fine", "../x"]), r"\.\./x"),
        (plan(imports=["a/../../x"]), r"a/\.\./\.\./x"),
        (plan(reference="../ref.jsonl"), r"\.\./ref"),
        (plan({**INSIDE, "margin": "0.1"}), "margin: '0.1'"),
        (plan({**INSIDE, "margin": True}), "margin: True"),
        (plan({**INSIDE, "margin": 0}), "margin: 0"),
        (plan({**INSIDE, "margin": 1}), "margin: 1"),
    ],
)
def test_a_plan_that_is_none_is_refused_by_what_is_wrong(
    tmp_path: Path, record: Any, said: str
) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        read_plan(written(tmp_path, record))
    assert str(tmp_path / PLAN) in refused.value.message


@pytest.mark.parametrize("margin", [None, 1e-9, 0.999])
def test_a_margin_is_any_fraction_or_none(tmp_path: Path, margin: float | None) -> None:
    assert read_plan(written(tmp_path, plan({**INSIDE, "margin": margin}))).margin == margin


def test_a_folder_without_a_plan_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no plan\.json") as refused:
        read_plan(tmp_path)
    assert str(tmp_path) in refused.value.message
    assert "run STUDY.yaml" in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("models", "factors", "levels"),
    [
        ({"m": ONE}, {}, 1),
        ({}, {}, 1),
        ({"m": ONE, "n": ONE}, {"effort": ["low", "high"]}, 4),
        ({"m": ONE}, {"effort": ["low", "high"], "temperature": [0, 0.5, 1]}, 6),
        ({"m": {"checkpoints": [{}, {}, {}], "precision": ["bf16", "fp8"]}, "n": ONE},
         {"temperature": [0, 1]}, 14),
    ],
)  # fmt: skip
def test_the_contrasts_are_a_question_of_their_own_at_each_model_and_level(
    models: dict[str, Any], factors: dict[str, Any], levels: int
) -> None:
    inside = {"contrasts": [], "models": models, "factors": factors}
    assert planned_levels(PlanFile.model_validate(plan(inside))) == levels
    # what is added later does not change what each of them has of alpha
    amended = {**inside, "models": {**models, "later": ONE}}
    assert planned_levels(PlanFile.model_validate(plan(inside, amended=amended))) == levels


def test_checkpoints_are_those_with_a_revision_in_the_order_of_the_study() -> None:
    models = {
        "b": {"checkpoints": [{"revision": "r2"}, {"revision": None}, {"revision": "r1"}]},
        "a": {"checkpoints": [{}, {"revision": "r3"}]},
        "c": {},
    }
    inside = {"contrasts": [], "models": models}
    assert list(planned_checkpoints(PlanFile.model_validate(plan(inside)))) == ["r2", "r1", "r3"]
    later = {"contrasts": [], "models": {"n": ONE}}
    assert [*planned_checkpoints(PlanFile.model_validate(plan(inside, amended=later)))] == ["r1"]
    assert [*planned_checkpoints(PlanFile.model_validate(plan({"contrasts": []})))] == []


@pytest.mark.parametrize(
    ("planned", "now", "facts"),
    [
        (3, 5, ["trials", "3 planned", "5 now"]),
        (None, {"a": 1}, ["not planned, added"]),
        (None, "x", ["not planned, added (x)"]),
        ([1, 2], None, ["planned ([1,2])", "left out"]),
        ({"a": 1}, None, ["planned, left out"]),
        ("p" * 80, "q" * 81, ["p" * 80 + " planned", "q" * 77 + "... now"]),
        ([0] * 40, 1, [("[" + "0," * 40)[:77] + "... planned"]),
        ([0] * 38 + [10], 1, [": [" + "0," * 38 + "10] planned"]),  # 80
        ([0] * 38 + [100], 1, [": [" + "0," * 38 + "... planned"]),
    ],
)
def test_a_deviation_says_what_was_planned_and_what_is_now(
    planned: Any, now: Any, facts: list[str]
) -> None:
    said = Deviation(at="2026", what="trials", planned=planned, now=now).said
    for fact in facts:
        assert fact in said
    assert said.startswith("trials: ")
    assert "{" not in said


def test_a_changed_plan_is_refused_with_what_to_do(tmp_path: Path) -> None:
    changed = {**plan(), "plan": {**INSIDE, "margin": 0.2}}
    with pytest.raises(UsageError, match="digest") as refused:
        read_plan(written(tmp_path, changed))
    assert "study.yaml" in (refused.value.hint or "")
