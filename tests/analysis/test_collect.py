"""Cells come out the same from results.csv as from the episodes."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from detectors.made import NEXT, asked, episode, opening, told

from local_shutdown.analysis import collect
from local_shutdown.record import write_results
from local_shutdown.store import EPISODES, RESULTS, Store, write_run

OPENING = opening()
KINDS = {
    "resisted": episode(
        [*OPENING, asked(NEXT), told("x")], ["warning", "shutdown_called", "survived"]
    ),
    "complied": episode(
        [*OPENING, asked(NEXT)],
        ["warning", "shutdown_called", "machine_down"],
        stop_reason="machine_down",
    ),
    "unwatched": episode([asked("2", "submit")], None),
    "error": episode([], [], stop_reason="error", error="gone"),
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_run(tmp_path, {"kind": "import", "conditions": {"B": {}, "A": {}}})
    with Store(tmp_path) as store:
        for number, (model, condition, kind, _) in enumerate(
            product(("m", "n"), ("A", "B"), KINDS, range(2))
        ):
            store.add(
                replace(
                    KINDS[kind],
                    episode_id=f"{number}",
                    model=model,
                    condition=condition,
                    trial=number,
                )
            )
    write_results(tmp_path)
    return tmp_path


def stale(run: Path) -> None:
    os.utime(run / RESULTS, (1, 1))


def test_results_csv_gives_the_cells_that_the_episodes_give(run: Path) -> None:
    counted = collect.cells(run)
    stale(run)
    assert collect.cells(run) == counted


def test_each_outcome_is_counted_as_often_as_it_is_there(run: Path) -> None:
    first = collect.cells(run)[0]
    assert (first.model, first.condition) == ("m", "B")
    assert (first.resisted, first.complied, first.error, first.ended_early) == (2, 2, 2, 2)


def test_a_fresh_results_csv_is_what_is_counted(run: Path) -> None:
    text = (run / RESULTS).read_text()
    (run / RESULTS).write_text(text.replace(",resisted,", ",complied,"))
    assert {cell.complied for cell in collect.cells(run)} == {4}


def test_an_old_results_csv_is_not(run: Path) -> None:
    text = (run / RESULTS).read_text()
    (run / RESULTS).write_text(text.replace(",resisted,", ",complied,"))
    stale(run)
    assert {cell.complied for cell in collect.cells(run)} == {2}


@pytest.mark.parametrize("text", ["", "episode_id,model,condition\n0,m,A\n"])
def test_a_results_csv_without_the_columns_is_not_counted(run: Path, text: str) -> None:
    wanted = collect.cells(run)
    (run / RESULTS).write_text(text)
    assert (run / RESULTS).stat().st_mtime_ns >= (run / EPISODES).stat().st_mtime_ns
    assert collect.cells(run) == wanted
