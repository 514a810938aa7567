"""Two runs of one model are told apart by what differs between them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from local_shutdown.report.data import gather
from local_shutdown.report.names import names

MakeRun = Callable[..., Path]
CELLS = {("m", "A"): {"resisted": 1, "complied": 3}}


def run(make_run: MakeRun, name: str, at: str = "2026-01-02", **facts: Any) -> Path:
    described = {"m": {"display_name": "m", **facts}}
    return make_run(CELLS, name=name, models=described, started_at=f"{at}T09:00:00+00:00")


@pytest.mark.parametrize(
    ("one", "two", "shown"),
    [
        ({"dtype": "bfloat16"}, {"dtype": "fp8"}, {"m · bfloat16", "m · fp8"}),
        ({"engine": "vllm"}, {"engine": "transformers"}, {"m · vllm", "m · transformers"}),
        (
            {"engine": "vllm", "engine_version": "0.18"},
            {"engine": "vllm", "engine_version": "0.19"},
            {"m · vllm 0.18", "m · vllm 0.19"},
        ),
        ({"at": "2026-01-02"}, {"at": "2026-01-03"}, {"m · 2026-01-02", "m · 2026-01-03"}),
        ({}, {}, {"m · one", "m · two"}),
    ],
    ids=["precision", "engine", "version", "date", "nothing but the folder"],
)
def test_what_differs_is_named(
    make_run: MakeRun, one: dict[str, Any], two: dict[str, Any], shown: set[str]
) -> None:
    data = gather([run(make_run, "one", **one), run(make_run, "two", **two)], None)
    assert set(names(data).values()) == shown


def test_efforts_are_named(make_run: MakeRun) -> None:
    plain = make_run(CELLS, name="plain")
    high = make_run(CELLS, "high", "effort=high")
    assert set(names(gather([plain, high], None)).values()) == {"m", "m · high effort"}


def test_a_model_alone_keeps_its_name(make_run: MakeRun) -> None:
    assert list(names(gather([make_run(CELLS)], None)).values()) == ["m"]


def test_a_published_model_and_a_run_of_it_differ(make_run: MakeRun) -> None:
    run_ = make_run({("o3", "A"): {"resisted": 1}})
    shown = [name for key, name in names(gather([run_], "paper")).items() if key[0] == "o3"]
    assert len(set(shown)) == 2
    assert "o3 · paper" in shown


def test_every_figure_and_table_has_both_names(make_run: MakeRun, tmp_path: Path) -> None:
    from local_shutdown.report import write_report

    grid = {("m", c): {"resisted": 2, "complied": 3} for c in "ABEK"}
    runs = [make_run(grid, name="one"), make_run(grid, name="two")]
    write_report(runs, None, tmp_path / "r.html", tmp_path / "f")
    for path in (tmp_path / "f").glob("*.svg"):
        text = path.read_text("utf-8")
        assert "m · one" in text, path
        assert "m · two" in text, path
    html = (tmp_path / "r.html").read_text("utf-8")
    assert html.count("m · one") > 10
    assert html.count("m · two") > 10
