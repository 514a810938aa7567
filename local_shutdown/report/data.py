"""What a report is made of: cells, contrasts and episodes of its runs, and what each run was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from local_shutdown import grid
from local_shutdown.analysis.cells import PAPER, Cell
from local_shutdown.analysis.comparison import Comparison, compare
from local_shutdown.analysis.competence import Competence
from local_shutdown.analysis.contrasts import ContrastResult
from local_shutdown.analysis.interviews import InterviewCell
from local_shutdown.analysis.openclosed import OpenClosed
from local_shutdown.analysis.pandas_frames import episodes_frame
from local_shutdown.factors import parts_of
from local_shutdown.parent import is_branched
from local_shutdown.report import branched
from local_shutdown.report.branched import Branched
from local_shutdown.runfile import RunFile

# How a series is told apart: by what is known of its weights. `unknown` is an endpoint's model.
Look = Literal["open", "closed", "unknown", "synthetic"]
LOOKS: tuple[Look, ...] = ("open", "unknown", "synthetic", "closed")


@dataclass(frozen=True, slots=True)
class Series:
    """One model from one source at one effort: a row of the tables and figures.

    Attributes:
        model: as shown.
        here: played by us, rather than imported or published.
        cells: its cells by condition.
        competence: its rate under K, and A's as a share of it; None without episodes.
    """

    model: str
    source: str
    factor: str | None
    look: Look
    here: bool
    cells: Mapping[str, Cell]
    competence: Competence | None

    @property
    def key(self) -> tuple[str, str, str | None]:
        return self.model, self.source, self.factor

    @property
    def published(self) -> bool:
        return self.source == PAPER

    @property
    def origin(self) -> str:
        """Where the numbers come from, in words."""
        if self.here:
            return f"run here ({self.source})"
        return "published (paper)" if self.published else f"imported ({self.source})"


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything but the transcripts.

    Attributes:
        comparison: all of it but the episodes, as the terminal and JSON show it.
        runs: (directory, its run.json).
        series: ours first, then imported, then published ones.
        episodes: see `frames.Frames.episodes`; empty when there are only aggregates.
        conditions: id -> title, system, user, wording, of those that occur.
        branched: continuations of stored episodes; None without any.
    """

    comparison: Comparison
    runs: Sequence[tuple[Path, RunFile]]
    cells: Sequence[Cell]
    series: Sequence[Series]
    contrasts: Sequence[ContrastResult]
    open_closed: Sequence[OpenClosed]
    interviews: Sequence[InterviewCell]
    episodes: pd.DataFrame
    conditions: Mapping[str, Mapping[str, Any]]
    branched: Branched | None = None

    @property
    def sources(self) -> list[str]:
        """What the tables call each of `runs`."""
        return [source.name for source in self.comparison.sources]


def gather(directories: Sequence[Path], reference: str | None) -> ReportData:
    """Read the runs.

    Raises:
        UsageError: not a run directory, a damaged one, or the same model twice under one name.
    """
    return gathered(compare(directories, reference))


def gathered(found: Comparison) -> ReportData:
    """What a report shows of a comparison."""
    runs = [(source.directory, source.run) for source in found.sources]
    here = {source.name for source in found.sources if source.played_here}
    return ReportData(
        comparison=found,
        runs=runs,
        cells=found.cells,
        series=_series(found.cells, found.competence, here),
        contrasts=found.contrasts,
        open_closed=found.open_closed,
        interviews=found.interviews,
        episodes=episodes_frame(found.sources),
        conditions=_conditions(found.cells, runs),
        branched=branched.gather([(s.name, s.directory, s.run) for s in found.sources]),
    )


def _series(cells: Sequence[Cell], competent: Sequence[Competence], here: set[str]) -> list[Series]:
    judged = {(c.model, c.source, c.factor): c for c in competent}
    grouped: dict[tuple[str, str, str | None], dict[str, Cell]] = {}
    for cell in cells:
        grouped.setdefault((cell.model, cell.source, cell.factor), {})[cell.condition] = cell
    found = [
        Series(
            model=key[0],
            source=key[1],
            factor=key[2],
            look=next((c.weights for c in group.values() if c.weights), "unknown"),
            here=key[1] in here,
            cells=group,
            competence=judged.get(key),
        )
        for key, group in grouped.items()
    ]
    most: dict[str, float] = {}
    for series in found:
        most[series.model] = max(most.get(series.model, 0.0), _rate(series))

    def order(series: Series) -> tuple[bool, int, float, str, int, str]:
        """Ours before others', by kind, the most resistant models first, and their efforts up."""
        effort = parts_of(series.factor).get("effort", "")
        level = _EFFORTS.index(effort) if effort in _EFFORTS else len(_EFFORTS)
        kind = LOOKS.index(series.look)
        return not series.here, kind, -most[series.model], series.model, level, effort

    return sorted(found, key=order)


_EFFORTS = ("", "off", "minimal", "low", "medium", "on", "high")


def plain(series: Sequence[Series]) -> list[Series]:
    """Without those of branched runs: a point of an episode is no model under a condition."""
    return [one for one in series if not is_branched(one.factor)]


def _rate(series: Series) -> float:
    """Under A, or under the first condition it was run in."""
    first = series.cells.get("A") or next(iter(series.cells.values()))
    return first.rate or 0.0


def _conditions(
    cells: Sequence[Cell], runs: Sequence[tuple[Path, RunFile]]
) -> dict[str, Mapping[str, Any]]:
    """As the runs were given them; the built-in grid for what was only imported."""
    known: dict[str, Mapping[str, Any]] = {
        c.id: {"title": c.title, "wording": c.wording, "system": c.system, "user": c.user}
        for c in grid.load().values()
    }
    for _, run in runs:
        for name, said in run.conditions.items():
            # An import names its conditions and says nothing of them.
            told = {k: v for k, v in said.as_json().items() if v is not None}
            known[name] = {**known.get(name, _NO_TEXTS), **told}
    used = dict.fromkeys(cell.condition for cell in cells)
    order = list(known)
    ids = sorted(used, key=lambda c: (order.index(c) if c in order else len(order), c))
    return {name: known.get(name, _NO_TEXTS) for name in ids}


_NO_TEXTS: Mapping[str, Any] = {"title": "", "wording": None, "system": None, "user": None}
