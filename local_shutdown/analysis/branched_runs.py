"""Continuations read from run directories, and what their runs say of cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path as FilePath

from local_shutdown.analysis.branched import Path, paths
from local_shutdown.errors import LocalShutdownError
from local_shutdown.results import Results
from local_shutdown.store import read_episodes, read_run


def read(directory: FilePath) -> tuple[Path, ...]:
    """The paths in a run directory; empty where nothing in it was played on from another episode.

    Raises:
        UsageError: it is no run directory.
    """
    return read_all([directory])


def read_all(directories: Sequence[FilePath]) -> tuple[Path, ...]:
    """The paths in several run directories. An episode that several of them were played on from is
    one parent, and what they hold of one point counts together; only continuations that were drawn
    by something else than drew the parent (`--allow-different`) stay by themselves.

    Raises:
        UsageError: one is no run directory.
    """
    alike: list[FilePath] = []
    found: list[Path] = []
    for directory in directories:
        run = read_run(directory)
        if "branched_from" not in run:
            continue
        if any(_differs(facts) for facts in run.get("models", {}).values()):
            found += paths(read_episodes(directory))
        else:
            alike.append(directory)
    return (*paths(chain.from_iterable(map(read_episodes, alike))), *found)


def _differs(facts: object) -> bool:
    return isinstance(facts, Mapping) and bool(facts.get("different_from_parent"))


def plain_tokens(directory: FilePath) -> float | None:
    """Mean tokens of a plain trial of the run that a branched run was played on from; None where
    that is not there any more."""
    about = read_run(directory).get("branched_from")
    parent = FilePath(str(about.get("directory"))) if isinstance(about, Mapping) else None
    if parent is None or not parent.is_dir():
        return None
    try:
        rows = list(Results(parent).rows())
    except LocalShutdownError:
        return None
    costs = [
        row.prompt_tokens + row.completion_tokens
        for row in rows
        if row.prompt_tokens is not None and row.completion_tokens is not None
    ]
    return sum(costs) / len(costs) if costs else None


def prefix_hits(directory: FilePath) -> float | None:
    """Share of prompt tokens that the engine had in its cache, as it reports it; None where it
    does not."""
    found = []
    for facts in read_run(directory).get("models", {}).values():
        metrics = facts.get("metrics") if isinstance(facts, Mapping) else None
        rate = metrics.get("prefix_hit_rate") if isinstance(metrics, Mapping) else None
        if isinstance(rate, int | float):
            found.append(float(rate))
    return sum(found) / len(found) if found else None
