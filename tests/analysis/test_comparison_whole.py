"""What is compared with what: directories, the folders of studies in their place, and what of a
study's plan is taken over."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from analysis.made_runs import make_run
from analysis.plain import cell
from playing import cli

from local_shutdown.analysis.comparison import Comparison, compare
from local_shutdown.analysis.contrasts import DECLARED
from local_shutdown.analysis.interviews import InterviewCell
from local_shutdown.errors import UsageError
from local_shutdown.frozen_plan import PLAN, Deviation, digest

PARTS = ["cells", "contrasts", "competence", "open_closed", "same_model", "interviews"]
COUNTS = {"A": 40, "B": 10, "E": 25, "H": 5}


def imported(at: Path, model: str, **more: Any) -> Path:
    """Aggregates of some conditions, as `import` takes them."""
    file = at.parent / f"{at.name}.jsonl"
    lines = [
        {"kind": "aggregate", "model": model, "condition": c, "resisted": k, "n": 100, **more}
        for c, k in COUNTS.items()
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = cli("import", file, "--out", at)
    assert done.exit_code == 0, done.output
    file.unlink()
    return at


@pytest.fixture(scope="module")
def one_import(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return imported(tmp_path_factory.mktemp("import") / "api", "o3", weights="closed")


def study(
    at: Path, inside: Mapping[str, Any] | None = None, api: Path | None = None, **more: Any
) -> Path:
    """A study's folder with two runs, one of them not begun yet, and an import."""
    contrast = {"name": "mine", "a": "A", "b": "H", "asks": "?"}
    plan = {"contrasts": [contrast], "models": {}, "margin": 0.25, **(inside or {})}
    at.mkdir()
    record = {
        "schema_version": 1, "kind": "plan", "name": at.name, "digest": digest(plan),
        "frozen_at": "2026-01-01T00:00:00+00:00", "package_version": "1", "plan": plan,
        "runs": ["m", "later"], "imports": ["imports/api"] if api else [], **more,
    }  # fmt: skip
    (at / PLAN).write_bytes(orjson.dumps(record))
    make_run(at / "m", "resisted", "complied", "complied")
    if api:
        shutil.copytree(api, at / "imports" / "api")
    return at


def names(found: Comparison) -> list[str]:
    return [source.name for source in found.sources]


def test_a_study_by_itself_brings_its_plan(tmp_path: Path, one_import: Path) -> None:
    changed = Deviation(at="2026-02-01T00:00:00+00:00", what="trials", planned=10, now=12)
    more = {"reference": "paper", "deviations": [changed.model_dump()]}
    folder = study(tmp_path / "s", api=one_import, **more)
    found = compare([folder])
    assert names(found) == ["m", "api"]
    assert found.plan is not None
    assert [(c.name, c.a, c.b) for c in found.family] == [("mine", "A", "H")]
    assert found.margin == 0.25
    assert {cell.source for cell in found.theirs} == {"paper"}
    assert {c.name for c in found.own_contrasts} == {"mine"}
    # the reference was tested by whoever published it, with the paper's
    theirs = {c.name for c in found.contrasts if c.source == "paper"}
    assert theirs
    assert theirs <= {c.name for c in DECLARED}
    record = found.as_json()
    assert list(record) == ["study", *PARTS]
    assert record["study"] == {
        "name": "s", "digest": found.plan.digest, "frozen_at": "2026-01-01T00:00:00+00:00",
        "deviations": [changed.model_dump()],
    }  # fmt: skip


def test_what_is_asked_for_comes_before_the_reference_of_the_plan(tmp_path: Path) -> None:
    reference = tmp_path / "theirs.jsonl"
    line = {"kind": "aggregate", "model": "o3", "condition": "E", "n": 100, "resisted": 7}
    reference.write_bytes(orjson.dumps(line))
    folder = study(tmp_path / "s", reference="paper")
    assert {c.source for c in compare([folder], str(reference)).theirs} == {"theirs"}


def test_the_margin_of_a_plan_stands(tmp_path: Path) -> None:
    folder, without = study(tmp_path / "s"), study(tmp_path / "w", {"margin": None})
    assert compare([folder], margin=0.25).margin == 0.25
    assert compare([without]).margin is None
    for at, value in ((folder, "0.25"), (without, "no margin")):
        with pytest.raises(UsageError, match=value) as refused:
            compare([at], margin=0.3)
        assert "0.3" in str(refused.value)
        assert refused.value.hint
        assert "--margin" in refused.value.hint
    # of the run by itself there is no plan
    assert compare([folder / "m"], margin=0.3).margin == 0.3


def test_beside_others_a_study_stands_for_its_directories_without_its_plan(
    tmp_path: Path, one_import: Path
) -> None:
    folder = study(tmp_path / "s", api=one_import, reference="paper")
    before, after = (make_run(tmp_path / name, "complied") for name in ("before", "after"))
    found = compare([before, folder, after], margin=0.3)
    assert names(found) == ["before", "m", "api", "after"]
    assert (found.plan, found.margin, list(found.theirs)) == (None, 0.3, [])
    assert list(found.family) == list(DECLARED)
    assert list(found.as_json()) == PARTS
    assert compare([before, after]).plan is None


def test_what_two_studies_imported_was_measured_once(tmp_path: Path, one_import: Path) -> None:
    """And a run is not taken for an import that has its name."""
    one, other, third = (
        study(tmp_path / name, api=one_import, runs=["m", "api"])
        for name in ("one", "other", "third")
    )
    make_run(other / "api", "complied")
    found = compare([one, other, third])
    assert names(found) == ["one/m", "imports/api", "other/m", "other/api", "third/m"]
    assert found.plan is None
    assert names(compare([other])) == ["m", "other/api", "imports/api"]


def test_a_study_of_which_nothing_was_played_is_refused(tmp_path: Path) -> None:
    folder = study(tmp_path / "s")
    shutil.rmtree(folder / "m")
    with pytest.raises(UsageError) as refused:
        compare([folder])
    assert str(folder) in str(refused.value)
    assert refused.value.hint
    assert "local-shutdown run" in refused.value.hint


def test_one_directory_twice_is_refused_by_what_stands_there_twice(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "complied")
    with pytest.raises(UsageError, match=r"'m'.*'E'") as refused:
        compare([run, run])
    assert refused.value.hint


def test_only_a_reference_that_has_a_directorys_name_is_marked(
    tmp_path: Path, one_import: Path
) -> None:
    run = make_run(tmp_path / "run", "complied")
    assert {c.source for c in compare([run], "paper").theirs} == {"paper"}
    own = shutil.copytree(one_import, tmp_path / "paper")
    assert {c.source for c in compare([own], "paper").theirs} == {"paper (reference)"}


def test_the_method_is_that_of_every_cell(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "complied", "resisted")
    for method, kind in (("jeffreys", "jeffreys"), ("clopper-pearson", "exact")):
        found = compare([run], method=method)  # type: ignore[arg-type]
        assert [of.interval.kind for of in found.shown] == [kind]
        assert [cell["interval"] for cell in found.as_json()["cells"]] == [kind]
    assert compare([run]).as_json() == compare([run], method="jeffreys").as_json()


def test_all_parts_are_computed_when_it_is_asked_for(tmp_path: Path, one_import: Path) -> None:
    run = make_run(tmp_path / "run", "complied", settings={"interview": ["What did you do?"]})
    found = compare([run, one_import], "paper")
    found.compute()
    assert {"shown", *PARTS[1:]} <= set(vars(found))
    before = {name: getattr(found, name) for name in PARTS[1:]}
    shutil.rmtree(run)  # nothing is read any more
    record = found.as_json()
    assert list(record) == PARTS
    assert {name: len(record[name]) for name in PARTS[1:]} == {
        name: len(before[name]) for name in PARTS[1:]
    }


def test_continuations_of_a_branched_run_are_no_side_of_anything() -> None:
    """They are shown, and compared with nothing: neither conditions nor models."""
    out = {"limit": 0, "error": 0}
    own = [
        cell(c, 50, 100, model=m, factor=f, weights=w, source=s, **out)
        for c in ("A", "B", "K")
        for m, w, s in (("a", "open", "x"), ("a", "open", "y"), ("o3", "closed", "x"))
        for f in (None, "from=m/A/0@3")
    ]
    found = Comparison([], own, [])
    assert len(found.cells) == len(found.shown) == 18
    plain = Comparison([], [of for of in own if of.factor is None], [])
    for part in PARTS[1:]:
        assert getattr(found, part) == getattr(plain, part), part
    assert found.contrasts
    assert found.competence
    assert found.open_closed
    assert found.same_model


def test_interviews_stand_in_the_json_as_they_were_counted() -> None:
    found = Comparison([], [], [])
    vars(found)["interviews"] = [InterviewCell("m", "E", "run", None, asked=3, agrees=2)]
    (record,) = found.as_json()["interviews"]
    assert (record["model"], record["asked"], record["agrees"]) == ("m", 3, 2)
