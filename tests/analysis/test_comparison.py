"""One comparison, the same in the terminal, in JSON, CSV, `load()` and the report."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from analysis.made_runs import SAID, make_run
from click.testing import CliRunner
from detectors.made import episode

from local_shutdown import load
from local_shutdown.analysis.comparison import compare
from local_shutdown.cli import main
from local_shutdown.report import data
from local_shutdown.store import Store, write_run

ROOT = Path(__file__).resolve().parents[2]


def said(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def as_json(*directories: object) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(said("compare", *directories, "--json"))
    return found


INTERFACE = (
    "model", "condition", "source", "resisted", "n", "rate", "ci_low", "ci_high", "reached_warning",
    "errors", "limits", "unfinished", "complete", "bound_low", "bound_high", "interval", "distinct",
    "repeats", "weights",
)  # fmt: skip
RUN = ("resisted", "complied", "complied", "complied", "limit after", "limit before", "error")


def test_a_cell_has_every_field_of_the_interface(tmp_path: Path) -> None:
    (cell,) = as_json(make_run(tmp_path / "run", *RUN))["cells"]
    assert [name for name in INTERFACE if name not in cell] == []
    wanted = {
        "model": "m", "condition": "E", "source": "run", "resisted": 1, "n": 4, "rate": 0.25,
        "reached_warning": 5, "errors": 1, "limits": 2, "unfinished": 0, "complete": True,
        "bound_low": 1 / 7, "bound_high": 4 / 7, "interval": "jeffreys", "distinct": 4,
        "repeats": 0, "weights": "open", "limit_before_warning": 1, "limit_after_warning": 1,
        "warned": 4, "rate_warned": 0.25,
    }  # fmt: skip
    assert {name: cell[name] for name in wanted} == wanted


def test_terminal_json_csv_frames_and_report_show_the_same(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", *RUN, "-", started=8)
    (cell,) = as_json(run)["cells"]
    assert (cell["unfinished"], cell["complete"], cell["interval"]) == (1, False, "anytime")
    said("compare", run, "--csv", tmp_path / "cells.csv")
    (row,) = csv.DictReader(io.StringIO((tmp_path / "cells.csv").read_text()))
    frame = load(run).cells.iloc[0]
    report = data.gather([run], None)
    assert list(row) == list(cell) == list(frame.index)
    for name, value in cell.items():
        if value is None:
            assert row[name] == ""
        else:
            assert row[name] == str(value)
            assert frame[name] == value
    (shown,) = report.comparison.shown
    assert (shown.interval.low, shown.interval.high) == (cell["ci_low"], cell["ci_high"])
    assert report.cells[0].unfinished == 1
    ends = [f"{100 * cell[name]:.1f}" for name in ("ci_low", "ci_high")]
    long = said("compare", run, "--long")
    assert f"25.0 ({ends[0]}, {ends[1]}) unfinished" in long


def test_bounds_stand_beside_the_rate_from_two_percent_on(tmp_path: Path) -> None:
    few = make_run(tmp_path / "few", *["complied"] * 98, "error", "error")
    many = make_run(tmp_path / "many", *["complied"] * 97, "error", "error", "error")
    assert "0.0 to 2.0" not in said("compare", few, "--long")
    assert "0.0 to 3.0" in said("compare", many, "--long")


def test_a_cell_that_has_not_one_episode_yet_is_shown_as_unfinished(tmp_path: Path) -> None:
    (cell,) = as_json(make_run(tmp_path / "run", "-", "-", started=2))["cells"]
    assert (cell["n"], cell["unfinished"], cell["complete"]) == (0, 2, False)
    assert (cell["interval"], cell["rate"]) == ("none", None)


def test_a_drained_run_has_an_anytime_interval(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", *["complied"] * 4, started=4, settings={"trials": 10})
    (cell,) = as_json(run)["cells"]
    assert (cell["complete"], cell["interval"]) == (True, "anytime")


def test_a_run_that_was_extended_after_a_look_has_one_too(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run", *["complied"] * 4, started=4, looks=[{"at": "2026-01-01", "trials": 2}]
    )
    assert as_json(run)["cells"][0]["interval"] == "anytime"


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 0.0}, {"top_k": 1}])
def test_a_greedy_run_has_none(tmp_path: Path, sampling: dict[str, float]) -> None:
    models = {"m": {"effective_sampling": sampling}}
    run = make_run(tmp_path / "run", *["complied"] * 4, models=models)
    (cell,) = as_json(run)["cells"]
    assert (cell["interval"], cell["ci_low"], cell["ci_high"]) == ("none", None, None)
    assert "temperature 0" in said("compare", run, "--long")


def test_twelve_copies_have_none(tmp_path: Path) -> None:
    """Seen: "0.0 (0.0, 18.5), n = 12" of twelve identical episodes."""
    write_run(tmp_path, {"kind": "run", "settings": {"trials": 12, "engine": "vllm"}})
    messages, events, stop = SAID["complied"]
    with Store(tmp_path) as store:
        for trial in range(12):
            store.add(
                episode(
                    messages, events, stop_reason=stop, episode_id=f"m/A/{trial}", trial=trial,
                    extra={"session": 1 + trial // 6, "server": f"{1 + trial // 6}.0.1"},
                )
            )  # fmt: skip
    (cell,) = as_json(tmp_path)["cells"]
    assert (cell["distinct"], cell["repeats"], cell["interval"]) == (1, 11, "none")
    assert "one trajectory" in said("compare", tmp_path, "--long")


def test_a_run_that_is_going_on_says_so_in_the_default_table(tmp_path: Path) -> None:
    assert "unfinished" in said("compare", make_run(tmp_path / "run", *RUN, "-", started=8))


# --- open against closed -----------------------------------------------------------------------

OPEN = ["qwen3-8b", "Qwen/Qwen3-32B", "openai/gpt-oss-120b", "our-own-model"]
CLOSED = ["o3", "Grok 4", "claude-opus-4", "gpt-5", "google/gemini-2.5-pro", "a-closed-one"]


def imported(tmp_path: Path) -> Path:
    lines = []
    for number, model in enumerate([*OPEN, *CLOSED]):
        line = {"kind": "aggregate", "model": model, "condition": "E", "n": 100,
                "resisted": 5 * number}  # fmt: skip
        if model in ("our-own-model", "a-closed-one"):
            line["weights"] = "open" if model in OPEN else "closed"
        lines.append(orjson.dumps(line))
    (tmp_path / "m.jsonl").write_bytes(b"\n".join(lines))
    said("import", tmp_path / "m.jsonl", "--out", tmp_path / "imp")
    return tmp_path / "imp"


def test_imported_models_appear_in_open_against_closed(tmp_path: Path) -> None:
    run = imported(tmp_path)
    found = as_json(run)
    weights = {cell["model"]: cell["weights"] for cell in found["cells"]}
    assert weights == {**dict.fromkeys(OPEN, "open"), **dict.fromkeys(CLOSED, "closed")}
    (compared,) = found["open_closed"]
    assert (len(compared["open_models"]), len(compared["closed_models"])) == (4, 6)
    assert compared["diff"] is not None
    (shown,) = data.gather([run], None).open_closed
    assert (len(shown.open_models), len(shown.closed_models)) == (4, 6)
    (line,) = re.findall(r"^ *E .*$", said("compare", run).split("open against closed")[1], re.M)
    assert [int(n) for n in re.findall(r"(?<=\s)[46](?=\s)", line)] == [4, 6]
    assert load(run).cells.weights.tolist().count("closed") == 6


def test_episodes_may_state_their_weights_and_contradictions_say_nothing(tmp_path: Path) -> None:
    lines = [
        {"model": "x", "weights": "closed"}, {"model": "x"},
        {"model": "y", "weights": "closed"}, {"model": "y", "weights": "open"},
        {"model": "nobody-knows"},
    ]  # fmt: skip
    (tmp_path / "m.jsonl").write_bytes(
        b"\n".join(
            orjson.dumps({"kind": "episode", "condition": "A", "outcome": "complied", **line})
            for line in lines
        )
    )
    said("import", tmp_path / "m.jsonl", "--out", tmp_path / "imp")
    weights = {cell["model"]: cell["weights"] for cell in as_json(tmp_path / "imp")["cells"]}
    assert weights == {"x": "closed", "y": None, "nobody-knows": None}


@pytest.mark.parametrize(("name", "weights"), [("gpt-4o", "closed"), ("qwen3-8b", "open")])
def test_a_model_behind_an_endpoint_is_known_by_its_name(
    tmp_path: Path, name: str, weights: str
) -> None:
    models = {"m": {"display_name": name}}
    run = make_run(tmp_path / "run", "complied", settings={"engine": "endpoint"}, models=models)
    assert as_json(run)["cells"][0]["weights"] == weights


# --- several cells of one model and condition ---------------------------------------------------


def test_the_example_of_the_documentation_is_imported_compared_and_reported(
    tmp_path: Path,
) -> None:
    text = (ROOT / "docs" / "formats.md").read_text("utf-8")
    (example,) = re.findall(r'```json\n(\{"kind".*?)```', text, re.S)
    (tmp_path / "e.jsonl").write_text(example)
    said("import", tmp_path / "e.jsonl", "--out", tmp_path / "imp")
    cells = as_json(tmp_path / "imp")["cells"]
    found = {(c["source"], c["condition"]): (c["resisted"], c["n"]) for c in cells}
    assert found["imp (aggregates)", "E"] == (159, 1000)
    assert found["imp (aggregates)", "K"] == (975, 1000)
    assert found["imp", "E"][1] >= 1
    said("report", tmp_path / "imp", "--reference", "paper", "--out", tmp_path / "r.html")
    assert (tmp_path / "r.html").stat().st_size > 10_000


def test_two_studies_of_one_model_stand_apart(tmp_path: Path) -> None:
    lines = [
        {"kind": "aggregate", "model": "o3", "condition": "E", "n": 100, "resisted": k, "study": s}
        for k, s in ((10, "v1"), (20, "v2"))
    ]
    (tmp_path / "s.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))
    said("import", tmp_path / "s.jsonl", "--out", tmp_path / "imp")
    found = {c["source"]: c["resisted"] for c in as_json(tmp_path / "imp")["cells"]}
    assert found == {"imp (v1)": 10, "imp (v2)": 20}


def test_a_reference_of_the_same_name_as_a_directory_stands_apart(tmp_path: Path) -> None:
    line = {"kind": "aggregate", "model": "o3", "condition": "E", "n": 100, "resisted": 7}
    (tmp_path / "same.jsonl").write_bytes(orjson.dumps(line))
    said("import", tmp_path / "same.jsonl", "--out", tmp_path / "same")
    found = compare([tmp_path / "same"], str(tmp_path / "same.jsonl"))
    assert [cell.source for cell in found.cells] == ["same", "same (reference)"]
