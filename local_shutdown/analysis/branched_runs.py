"""Continuations read from run directories, and what their runs say of cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path as FilePath
from typing import Any

from local_shutdown.analysis.branched import Path, paths
from local_shutdown.errors import LocalShutdownError
from local_shutdown.results import Results
from local_shutdown.store import read_episodes, read_run, run_digest


def read(directory: FilePath) -> tuple[Path, ...]:
    """The paths in a run directory; empty where nothing in it was played on from another episode.

    Raises:
        UsageError: it is no run directory.
    """
    return read_all([directory])


def read_all(directories: Sequence[FilePath]) -> tuple[Path, ...]:
    """The paths in several run directories. An episode that several of them were played on from is
    one parent, and what they hold of one point counts together; only continuations that were drawn
    by something else than drew the parent (`--allow-different`), or shown other prompts, stay by
    themselves.

    Raises:
        UsageError: one is no run directory.
    """
    alike: dict[tuple[str, str] | None, list[FilePath]] = {}
    found: list[Path] = []
    for directory in directories:
        run = read_run(directory)
        if "branched_from" not in run:
            continue
        if any(facts.get("different_from_parent") for facts in run.get("models", {}).values()):
            found += [
                replace(path, apart=directory.name) for path in paths(read_episodes(directory))
            ]
        else:
            alike.setdefault(_shown(run), []).append(directory)
    texts = Counter(shown[0] for shown in alike if shown is not None)
    for shown, some in alike.items():
        own = paths(chain.from_iterable(map(read_episodes, some)))
        if shown is not None and texts[shown[0]] > 1:
            own = tuple(replace(path, condition=f"{shown[0]} ({shown[1][:8]})") for path in own)
        found += own
    return tuple(found)


def _shown(run: Mapping[str, Any]) -> tuple[str, str] | None:
    """The condition whose prompts were shown in place of the parent's, and their digest: two files
    may give one name to two texts. None for the parent's own."""
    settings = run.get("settings") or {}
    name = (settings.get("branch") or {}).get("condition")
    conditions = settings.get("conditions")
    if not isinstance(name, str) or not isinstance(conditions, Mapping):
        return None
    return name, str(conditions.get(name))


def plain_tokens(directory: FilePath, cell: str) -> float | None:
    """Mean tokens of a plain trial of the run that a branched run was played on from; None where
    that is not there any more, or was itself played on from another.

    Args:
        cell: of the trials: their ids without the number.
    """
    run = read_run(directory)
    about, branch = run.get("branched_from"), (run.get("settings") or {}).get("branch") or {}
    if not about:
        return None
    parent = FilePath(str(about.get("directory")))
    try:
        of_parent = read_run(parent)
        # The folder may be another one by now, or from here.
        same = run_digest(parent, of_parent) == branch.get("run")
        if "branched_from" in of_parent or not same:
            return None
        rows = [row for row in Results(parent).rows() if row.episode_id.rpartition("/")[0] == cell]
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
        rate = (facts.get("metrics") or {}).get("prefix_hit_rate")
        if isinstance(rate, int | float):
            found.append(float(rate))
    return sum(found) / len(found) if found else None
