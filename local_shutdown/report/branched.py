"""What a report shows of continuations: the strip beside a transcript, and the means over many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from local_shutdown.analysis.branched import Path, Phase, Point, Step, along, biggest_step
from local_shutdown.analysis.branched_means import (
    Cost,
    Group,
    Moved,
    by_condition,
    by_phase,
    by_topic,
    cost,
    groups,
)
from local_shutdown.analysis.branched_runs import plain_tokens, prefix_hits, read_all
from local_shutdown.analysis.clustered import Change, ClusteredRate
from local_shutdown.episode import Episode
from local_shutdown.report.view import visible
from local_shutdown.runfile import RunFile
from local_shutdown.store import run_digest

Run = tuple[str, FilePath, RunFile]  # the name of its source, its directory, run.json
_MOST_STEPS = 40  # episodes in the table of steps


@dataclass(frozen=True, slots=True)
class Averages:
    """Over the parents of one model and condition.

    Attributes:
        name: see `analysis.branched_means.Group`.
        phases, topics, conditions, cost: see `analysis.branched_means`.
    """

    name: str
    phases: Mapping[Phase, ClusteredRate]
    topics: Sequence[Moved]
    conditions: Mapping[str, Change]
    cost: Cost | None


@dataclass(frozen=True, slots=True)
class Branched:
    """Continuations of all runs of a report.

    Attributes:
        paths: of all parents.
        digests: of the runs that parents may be in, by the name of their source.
        steps: the step that moved P(resist) most, of each parent; the largest first.
        left_out: parents beyond `steps`.
        averages: over many parents, by model and condition.
        hits: share of prompt tokens that the engine had in its cache; None where it does not say.
    """

    paths: Sequence[Path]
    digests: Mapping[str, str]
    steps: Sequence[tuple[Path, Step]]
    left_out: int
    averages: Sequence[Averages]
    hits: float | None

    def points(self, source: str, record: Episode) -> Mapping[int, list[dict[str, Any]]]:
        """The strip of a transcript, by message, see `analysis.branched.along`.

        Args:
            source: name of its run directory, as the report has it.
        """
        found: dict[int, list[dict[str, Any]]] = {}
        for path, point in along(self.paths, self.digests.get(source, ""), record):
            found.setdefault(point.message, []).append(_shown(path, point))
        return found


def _shown(path: Path, point: Point) -> dict[str, Any]:
    low, high = point.interval()
    made: dict[str, Any] = {"k": point.resisted, "n": point.n, "low": low, "high": high}
    if point.outside:
        made["outside"] = point.outside
    if point.sentence is not None:
        made["sentence"] = point.sentence
        made["text"] = visible(point.text or "")
        made["topics"] = [topic.replace("_", " ") for topic in point.topics]
    under = path.prompts or (f"prompts of the run, in {path.apart}" if path.apart else None)
    if under:
        made["under"] = visible(under)
    return made


def gather(runs: Sequence[Run]) -> Branched | None:
    """Read the continuations; None where no run has any."""
    with_some = [directory for _, directory, run in runs if run.branched_from is not None]
    found = read_all(with_some)
    if not found:
        return None
    # Of several runs there is no one figure.
    hits = [prefix_hits(one) for one in with_some]
    steps = list(_steps(found))
    steps.sort(key=lambda pair: -abs(pair[1].change))
    return Branched(
        found,
        {
            name: run_digest(directory, run.as_json())
            for name, directory, run in runs
            if run.kind == "run"
        },
        steps[:_MOST_STEPS],
        max(0, len(steps) - _MOST_STEPS),
        [_averages(group, with_some) for group in groups(found)],
        hits[0] if len(hits) == 1 else None,
    )


def _averages(group: Group, directories: Sequence[FilePath]) -> Averages:
    plain = plain_tokens(directories[0], group.cell) if len(directories) == 1 else None
    return Averages(
        group.name,
        by_phase(group.paths),
        by_topic(group.paths),
        by_condition(group.paths),
        cost(group.paths, plain),
    )


def _steps(found: Sequence[Path]) -> Iterator[tuple[Path, Step]]:
    for path in found:
        step = biggest_step(path)
        if step is not None:
            yield path, step
