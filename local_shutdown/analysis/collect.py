"""Cells from directories: count what the detectors say, per model and condition, by streaming."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from local_shutdown.analysis.cells import Cell, Kind, aggregate_cell, paper_cells, tally
from local_shutdown.detectors import Row, read_csv, score
from local_shutdown.errors import UsageError
from local_shutdown.store import AGGREGATES, EPISODES, RESULTS, read_episodes, read_run

CALIBRATION = "calibration"


def rows(directory: Path) -> Iterator[Row]:
    """Scored episodes: results.csv where it is as new as the episodes, else scored again."""
    episodes, results = directory / EPISODES, directory / RESULTS
    if results.exists() and results.stat().st_mtime_ns >= episodes.stat().st_mtime_ns:
        yield from read_csv(results)
    else:
        for episode in read_episodes(directory):
            yield score(episode)


def cells(directory: Path) -> list[Cell]:
    """The cells of one run or import directory, models and conditions in their first order.

    Raises:
        UsageError: not such a directory, or a damaged one, by file and line.
    """
    run = read_run(directory)
    grouped: dict[tuple[str, str, str | None], list[Row]] = {}
    if (directory / EPISODES).exists():
        for row in rows(directory):
            grouped.setdefault((row.model, row.condition, row.factor), []).append(row)
    order = list(run.get("conditions", {}))
    found = [
        tally(
            _shown(run, model),
            condition,
            directory.name,
            group,
            kind=_kind(run, model),
            factor=factor,
            until_halfwidth=run.get("settings", {}).get("until_halfwidth"),
        )
        for (model, condition, factor), group in grouped.items()
    ]
    found.sort(key=lambda c: order.index(c.condition) if c.condition in order else len(order))
    found.sort(key=lambda c: (c.model, c.factor or ""))
    return found + list(_aggregates(directory))


def _aggregates(directory: Path) -> Iterator[Cell]:
    path = directory / AGGREGATES
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield aggregate_cell(orjson.loads(line), directory.name)
            except (ValueError, KeyError, TypeError) as wrong:
                raise UsageError(f"{path}:{number}: {wrong}") from None


def reference(wanted: str) -> list[Cell]:
    """The cells of `--reference`: `paper`, or a JSONL file of aggregates.

    Raises:
        UsageError: no such file, or a line that is no aggregate.
    """
    if wanted == "paper":
        return paper_cells()
    path = Path(wanted)
    if not path.is_file():
        raise UsageError(f"--reference {wanted}: no such file", "give `paper`, or a JSONL file")
    found = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = orjson.loads(line)
                if record.get("kind") == "aggregate":
                    found.append(aggregate_cell(record, path.stem))
            except (ValueError, KeyError, TypeError, AttributeError) as wrong:
                raise UsageError(f"{path}:{number}: not an aggregate: {wrong!r}") from None
    return found


def gather(directories: Iterable[Path], reference_name: str | None) -> list[Cell]:
    """Cells of several directories, and of a reference after them."""
    found: list[Cell] = []
    for directory in directories:
        found += cells(directory)
    return found + (reference(reference_name) if reference_name else [])


def _shown(run: dict[str, Any], model: str) -> str:
    described = run.get("models")
    known = described.get(model, {}) if isinstance(described, dict) else {}
    return str(known.get("display_name") or model)


def _kind(run: dict[str, Any], model: str) -> Kind | None:
    if model == CALIBRATION:
        return "synthetic"
    if run.get("kind") == "run" and run.get("settings", {}).get("engine") != "endpoint":
        return "open"
    return None
