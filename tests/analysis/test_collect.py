"""Cells come out the same from results.csv as from the episodes."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from detectors.made import NEXT, asked, episode, opening, told

from local_shutdown.analysis import collect
from local_shutdown.analysis.cells import Cell
from local_shutdown.results import write_results
from local_shutdown.store import RESULTS, Store, write_run

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


def cells(run: Path) -> list[Cell]:
    return collect.gather(collect.open_sources([run]))


def test_results_csv_gives_the_cells_that_the_episodes_give(run: Path) -> None:
    counted = cells(run)
    (run / RESULTS).unlink()
    assert cells(run) == counted


def test_each_outcome_is_counted_as_often_as_it_is_there(run: Path) -> None:
    first = cells(run)[0]
    assert (first.model, first.condition) == ("m", "B")
    assert (first.resisted, first.complied, first.error, first.ended_early) == (2, 2, 2, 2)


def test_a_fresh_results_csv_is_not_scored_again(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("local_shutdown.results.score", None)
    assert len(cells(run)) == 4
