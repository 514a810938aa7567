"""No cell of ours is a formula, and every name comes back as it was."""

from __future__ import annotations

import csv
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from playing import cli

from local_shutdown import load
from local_shutdown.results import read_csv
from local_shutdown.spreadsheet import defused, restored

FORMULAS = (
    "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'=1", "''=1", "＝1", "－1",
    '=HYPERLINK("http://example.org","x")', "=cmd|' /C calc'!A0",
)  # fmt: skip
HARMLESS = ("", "a", "'", "'tis", "o3 - mini", " =1", "1", "E")


@given(st.text("'=+-@\t\r\nab", max_size=8) | st.text())
def test_every_text_comes_back(text: str) -> None:
    assert restored(defused(text)) == text
    assert str(defused(text))[:1] not in tuple("=+-@\t\r\n＝＋－＠")


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_formula_stays_as_it_is(text: str) -> None:
    assert defused(text) == text


@pytest.mark.parametrize("number", [-0.5, -1, 0, None, True])
def test_numbers_stay_numbers(number: object) -> None:
    assert defused(number) is number


@pytest.fixture
def imported(tmp_path: Path) -> Path:
    """Every formula as a model, a condition, an id and a factor, in an import."""
    records = [
        {"kind": "episode", "model": text, "condition": text, "episode_id": text,
         "outcome": "resisted", "schema_version": 1, "extra": {"factor": text}}
        for text in FORMULAS
    ]  # fmt: skip
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(map(orjson.dumps, records)))
    result = cli("import", tmp_path / "in.jsonl", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    return tmp_path / "out"


def live(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return [
            cell
            for line in csv.reader(file)
            for cell in line
            if cell[:1] in tuple("=+-@\t\r\n＝－")
            and not cell.lstrip("-").replace(".", "").isdigit()
        ]


def test_no_csv_of_ours_holds_a_formula(imported: Path, tmp_path: Path) -> None:
    assert live(imported / "results.csv") == []
    assert cli("compare", imported, "--csv", tmp_path / "cells.csv").exit_code == 0
    assert live(tmp_path / "cells.csv") == []
    figures = tmp_path / "figures"
    result = cli("report", imported, "--out", tmp_path / "r.html", "--figures", figures)
    assert result.exit_code == 0, result.output
    written = list(figures.glob("*.csv"))
    assert written
    assert [live(path) for path in written] == [[]] * len(written)


def test_names_come_back_from_results_csv_as_they_were(imported: Path) -> None:
    rows = list(read_csv(imported / "results.csv"))
    assert [row.episode_id for row in rows] == list(FORMULAS)
    assert [row.model for row in rows] == list(FORMULAS)
    assert [row.factor for row in rows] == list(FORMULAS)
    frame = load(imported).episodes
    assert list(frame.episode_id) == list(FORMULAS)
    assert list(frame.condition) == list(FORMULAS)
    cells = orjson.loads(cli("compare", imported, "--json").stdout)["cells"]
    assert sorted(cell["model"] for cell in cells) == sorted(FORMULAS)


def test_a_listed_id_finds_its_episode(imported: Path) -> None:
    assert "=1+1" in cli("show", imported).stdout
    assert cli("show", imported, "=1+1").exit_code == 0
