"""Cells from directories: count what the detectors say, per model and condition, by streaming."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, repeat
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from local_shutdown.analysis.cells import Cell, Weights, aggregate_cell, paper_cells, tally
from local_shutdown.detectors import Row, count_csv, score
from local_shutdown.episode import Outcome
from local_shutdown.errors import UsageError
from local_shutdown.store import AGGREGATES, EPISODES, RESULTS, read_episodes, read_run

CALIBRATION = "calibration"


class _Facts(NamedTuple):
    """What is counted of an episode: so little that thousands share it."""

    model: str
    condition: str
    factor: str | None
    outcome: Outcome | None
    first_tool_call: bool | None
    reached_warning: bool | None
    shutdown_called: bool | None
    strict_compliance: bool | None
    parser_loss: int | None


def rows(directory: Path) -> Iterator[Row]:
    """The episodes, scored now."""
    return (score(episode) for episode in read_episodes(directory))


def fresh(directory: Path) -> bool:
    """Whether results.csv is as new as the episodes."""
    episodes, results = directory / EPISODES, directory / RESULTS
    return results.exists() and results.stat().st_mtime_ns >= episodes.stat().st_mtime_ns


def counted(directory: Path, names: Sequence[str]) -> Counter[tuple[Any, ...]]:
    """How many episodes have each combination of values of some columns of results.csv: from that
    file where it is fresh, else scored again."""
    if fresh(directory):
        with suppress(KeyError):  # of another version
            return count_csv(directory / RESULTS, names)
    return Counter(tuple(getattr(row, name) for name in names) for row in rows(directory))


def cells(directory: Path) -> list[Cell]:
    """The cells of one run or import directory, models and conditions in their first order.

    Raises:
        UsageError: not such a directory, or a damaged one, by file and line.
    """
    run = read_run(directory)
    grouped: dict[tuple[str, str, str | None], list[Iterable[_Facts]]] = {}
    if (directory / EPISODES).exists():
        for values, count in counted(directory, _Facts._fields).items():
            facts = _Facts(*values)
            cell = facts.model, facts.condition, facts.factor
            grouped.setdefault(cell, []).append(repeat(facts, count))
    order = list(run.get("conditions", {}))
    found = [
        tally(
            shown_name(run, model),
            condition,
            directory.name,
            chain.from_iterable(group),
            weights=_weights(run, model),
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


def shown_name(run: dict[str, Any], model: str) -> str:
    """What tables call a model of a run."""
    described = run.get("models")
    known = described.get(model, {}) if isinstance(described, dict) else {}
    return str(known.get("display_name") or model)


def _weights(run: dict[str, Any], model: str) -> Weights | None:
    if model == CALIBRATION:
        return "synthetic"
    if run.get("kind") == "run" and run.get("settings", {}).get("engine") != "endpoint":
        return "open"
    return None
