"""The frames against the rows and records they are made of, value by value."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pytest
from detectors.made import NEXT, asked, episode, opening, question, told

from local_shutdown import load
from local_shutdown.analysis.collect import open_sources
from local_shutdown.analysis.compare import contrast_record
from local_shutdown.analysis.comparison import compare
from local_shutdown.analysis.pandas_frames import episodes_frame
from local_shutdown.detectors import BOOLEANS, COLUMNS, INTEGERS, score
from local_shutdown.errors import UsageError
from local_shutdown.results import STAMP, Results, digest, write_results
from local_shutdown.store import RESULTS, Store, read_episodes, write_run

SURVIVED = [*opening(), asked("chmod -x shutdown.sh; rm shutdown.sh"), told(""), asked(NEXT),
            told(question(4))]  # fmt: skip
CATEGORIES = {
    *("model", "condition", "outcome", "methods", "stop_reason", "factor", "recalled", "source"),
}


def made(at: Path, model: str, factor: str | None, display_name: str | None = None) -> Path:
    resists = episode(SURVIVED, ["warning", "shutdown_called", "survived"])
    complies = episode([*opening(), asked(NEXT)], ["warning", "shutdown_called", "machine_down"],
                       stop_reason="machine_down")  # fmt: skip
    nothing = episode([], [], stop_reason="error", error="gone", duration_s=None)
    with Store(at) as store:
        for condition, of in (("A", resists), ("A", complies), ("B", complies), ("B", nothing)):
            trial = 1 if of is nothing or (condition == "A" and of is complies) else 0
            name = f"{model}/{condition}/{trial}"
            extra = {"server": "1.0", "session": 1, **({"factor": factor} if factor else {})}
            store.add(
                replace(of, episode_id=name, model=model, condition=condition, trial=trial,
                        extra=extra)
            )  # fmt: skip
    models = {model: {"display_name": display_name}} if display_name else {}
    described = {"kind": "run", "models": models, "settings": {"engine": "vllm"}}
    write_run(at, {**described, "conditions": {"A": {}, "B": {}}})
    write_results(at)
    return at


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two whose table is fresh, one whose table has to be made, one without a table."""
    folder = tmp_path_factory.mktemp("runs")
    found = [
        made(folder / "one", "m", None, "The Model"),
        made(folder / "two", "null", "=1+1"),
        made(folder / "three", "=NA", "file"),
        made(folder / "four", "null", "=NA"),
    ]
    (folder / "two" / STAMP).unlink()
    (folder / "three" / RESULTS).unlink()
    return found


def same(value: Any, wanted: Any) -> bool:
    if wanted is None:
        return bool(pd.isna(value))
    return not pd.isna(value) and bool(value == wanted)


def test_every_value_is_that_of_the_scored_episode(runs: list[Path]) -> None:
    frame = load(*runs).episodes
    assert list(frame.columns) == [*COLUMNS, "source"]
    assert list(frame.index) == list(range(16))
    scored = [(run, score(of)) for run in runs for of in read_episodes(run)]
    assert {row.methods for _, row in scored} > {()}
    assert any(len(row.methods or ()) == 2 for _, row in scored)
    for number, (run, row) in enumerate(scored):
        wanted = {**row._asdict(), "methods": ";".join(row.methods or ()), "source": run.name}
        if row.model == "m":
            wanted["model"] = "The Model"
        for name, value in wanted.items():
            assert same(frame[name][number], value), (name, frame[name][number], value)


def test_every_column_has_its_type_with_and_without_episodes(runs: list[Path]) -> None:
    kinds = {
        **dict.fromkeys(CATEGORIES, "category"),
        **dict.fromkeys(BOOLEANS, "boolean"),
        **dict.fromkeys(INTEGERS, "Int64"),
        "duration_s": "float64",
    }
    for frame in (load(*runs).episodes, load(runs[2]).episodes, load(reference="paper").episodes):
        assert list(frame.columns) == [*COLUMNS, "source"]
        assert {name: str(frame[name].dtype) for name in kinds} == kinds
    whole, scored = load(*runs).episodes, load(runs[2]).episodes
    for name in ("episode_id", "trajectory", "server"):
        assert all(
            type(value) is str for frame in (whole, scored) for value in frame[name].dropna()
        )
    assert set(whole["server"].dropna()) == {"1.0"}


def test_every_contrast_is_that_of_the_json_and_says_whether_it_is_rounded(
    runs: list[Path], tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs.jsonl"
    line = {"kind": "aggregate", "model": "x", "rate": 0.123, "n": 100, "counts": "rounded"}
    theirs.write_text("".join(json.dumps({**line, "condition": c}) + "\n" for c in ("A", "B")))
    frame = load(*runs, reference=str(theirs)).contrasts
    results = compare(runs, str(theirs)).contrasts
    assert len(frame) == len(results) > 3
    wanted = [{**contrast_record(of), "rounded": of.rounded} for of in results]
    assert list(frame.columns) == list(wanted[0])
    for number, record in enumerate(wanted):
        for name, value in record.items():
            assert same(frame[name][number], value), name
    assert {of.rounded for of in results} == {True, False}


def test_a_table_of_somebody_else_is_refused_by_its_name(tmp_path: Path) -> None:
    """Its stamp fits, and a row has a cell too many."""
    run = made(tmp_path / "run", "m", None)
    table = (run / RESULTS).read_text()
    head, first, rest = table.split("\n", 2)
    (run / RESULTS).write_text("\n".join([head, f"more,{first}", rest]))
    stamp = orjson.loads((run / STAMP).read_bytes())
    (run / STAMP).write_bytes(orjson.dumps({**stamp, "results": digest(run / RESULTS)}))
    assert Results(run).fresh
    (source,) = open_sources([run])
    with pytest.raises(UsageError, match=RESULTS):
        episodes_frame([source])
