"""The comparison: made once, shown by the terminal, the page, `--json`, `--csv` and `load()`."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from local_shutdown.analysis import collect
from local_shutdown.analysis.cells import Cell
from local_shutdown.analysis.collect import Source, open_sources
from local_shutdown.analysis.columns import COLUMNS, ShownCell, cell_record, show
from local_shutdown.analysis.compare import (
    competence_record,
    contrast_record,
    in_order,
    open_closed_record,
)
from local_shutdown.analysis.competence import Competence, competence
from local_shutdown.analysis.contrasts import (
    DECLARED,
    Contrast,
    ContrastResult,
    declared_contrasts,
    index,
)
from local_shutdown.analysis.equivalence import SameModel, same_model
from local_shutdown.analysis.families import Families
from local_shutdown.analysis.interviews import InterviewCell, interviews
from local_shutdown.analysis.openclosed import OpenClosed, open_against_closed
from local_shutdown.analysis.stats import Method
from local_shutdown.errors import UsageError
from local_shutdown.frozen_plan import PlanFile, Study, is_study, read_study_folder
from local_shutdown.parent import is_branched
from local_shutdown.spreadsheet import defused


@dataclass(frozen=True)
class Comparison:
    """Runs, imports and published rates side by side. Parts are computed when they are asked for,
    once.

    Attributes:
        sources: the directories.
        ours: cells of the directories, as tables order them.
        theirs: cells of the reference.
        method: of the plain interval, see `interval.shown`.
        margin: the difference that would matter between two measurements of one model; None to
            test only whether they differ.
        family: the declared contrasts.
        plan: of the study that the directories belong to; None where they are of none.
    """

    sources: Sequence[Source]
    ours: Sequence[Cell]
    theirs: Sequence[Cell]
    method: Method = "jeffreys"
    margin: float | None = None
    family: Sequence[Contrast] = DECLARED
    plan: PlanFile | None = None

    @property
    def cells(self) -> list[Cell]:
        return [*self.ours, *self.theirs]

    @cached_property
    def shown(self) -> list[ShownCell]:
        """The cells with their intervals and bounds."""
        return [show(cell, self.method) for cell in self.cells]

    @staticmethod
    def _plain(cells: Sequence[Cell]) -> list[Cell]:
        """Without the cells of branched runs: continuations of one point are no trials of their
        condition, and are no side of a comparison of conditions or models."""
        return [cell for cell in cells if not is_branched(cell.factor)]

    @cached_property
    def own_contrasts(self) -> list[ContrastResult]:
        """Declared contrasts of the directories: one family of tests; and what `--until-decided`
        has decided of them."""
        decided = {
            (source.name, model, factor, decision.contrast.name): (source, decision)
            for source in self.sources
            for (model, factor), decisions in collect.decided(source).items()
            for decision in decisions
        }
        by_another_rule = {
            source.name for source in self.sources if collect.stopped_by_another_rule(source)
        }
        found = []
        for result in declared_contrasts(self._plain(self.ours), family=self.family):
            key = (result.source, result.model, result.factor, result.name)
            if result.source in by_another_rule:
                result = replace(result, decision="other rule")
            elif key in decided and result.p is not None:  # copies of one episode decide nothing
                source, decision = decided[key]
                result = replace(
                    result,
                    decision=decision.verdict or "open",
                    decided_at=decision.at,
                    delta=source.settings.until_decided,
                )
            found.append(result)
        return found

    @cached_property
    def contrasts(self) -> list[ContrastResult]:
        """Those, and the reference's: it was tested by whoever published it, and is a family of its
        own, the paper's contrasts whatever a study declares."""
        return self.own_contrasts + declared_contrasts(self.theirs)

    @cached_property
    def competence(self) -> list[Competence]:
        return competence(self._plain(self.cells))

    @cached_property
    def open_closed(self) -> list[OpenClosed]:
        return open_against_closed(self._plain(self.cells), families=self._families)

    @cached_property
    def same_model(self) -> list[SameModel]:
        """Models that were measured twice under one condition."""
        return same_model(self._plain(self.cells), self.margin, families=self._families)

    @cached_property
    def _families(self) -> Families:
        return Families()

    @cached_property
    def interviews(self) -> list[InterviewCell]:
        return interviews(self.sources)

    def compute(self) -> None:
        """Compute all parts now: exact tests of many cells take seconds."""
        _ = self.shown, self.contrasts, self.competence, self.open_closed
        _ = self.same_model, self.interviews

    def as_json(self) -> dict[str, Any]:
        """What `compare --json` prints (docs/formats.md, "compare --json")."""
        study = {} if self.plan is None else {"study": study_record(self.plan)}
        return {
            **study,
            "cells": [cell_record(cell, self.method) for cell in self.cells],
            "contrasts": [contrast_record(result) for result in self.contrasts],
            "competence": [competence_record(found) for found in self.competence],
            "open_closed": [open_closed_record(found) for found in self.open_closed],
            "same_model": [asdict(found) for found in self.same_model],
            "interviews": [asdict(cell) for cell in self.interviews],
        }

    def cells_as_csv(self) -> str:
        """The cells, one row each; unknown is empty."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow([column.name for column in COLUMNS])
        for of in self.shown:
            values = (column.value(of) for column in COLUMNS)
            writer.writerow(["" if value is None else defused(value) for value in values])
        return text.getvalue()


def compare(
    directories: Sequence[Path],
    reference: str | None = None,
    method: Method = "jeffreys",
    margin: float | None = None,
) -> Comparison:
    """Read directories and a reference.

    Args:
        directories: of `run` or `import`; that of a study stands for all in it, and where it is the
            only one, with the contrasts, the margin and the reference of its plan.
        reference: `paper`, or a JSONL file of aggregates; None takes the study's.
        method: of the plain interval.
        margin: see `Comparison`; None takes the study's.

    Raises:
        UsageError: not a run directory, a damaged one, or two with the same name and model; another
            margin than the plan's.
    """
    plan: PlanFile | None = None
    family: Sequence[Contrast] = DECLARED
    studies = [read_study_folder(d) for d in directories if is_study(d)]
    alone = len(studies) == len(directories) == 1
    imported: set[str] = set()
    for study in studies:
        directories = _instead(directories, study, imported)
    if alone:  # beside others, what is compared is more than any plan spoke of
        plan = studies[0].plan
        family = [Contrast(**contrast.model_dump()) for contrast in plan.contrasts]
        reference = studies[0].reference if reference is None else reference
        if margin is not None and margin != plan.margin:
            said = "no margin" if plan.margin is None else f"the margin {plan.margin:g}"
            raise UsageError(
                f"--margin {margin:g}: the plan of this study has {said}, chosen before looking",
                "leave --margin out, or give the run directories instead of the study",
            )
        margin = plan.margin
    sources = open_sources(directories)
    ours = in_order(collect.gather(sources))
    theirs = in_order(collect.reference(reference)) if reference else []
    names = {source.name for source in sources}
    theirs = [
        replace(cell, source=f"{cell.source} (reference)") if cell.source in names else cell
        for cell in theirs
    ]
    try:
        index([*ours, *theirs])
    except ValueError as twice:
        raise UsageError(f"{twice}", "leave one of the directories out, or rename it") from None
    return Comparison(sources, ours, theirs, method, margin, family, plan)


def _instead(directories: Sequence[Path], study: Study, imported: set[str]) -> list[Path]:
    """The directories, with what is in the study in its place.

    Args:
        imported: imports of the studies before, by name, which has the digest of the contents: what
            two of them imported was measured once. Added to.
    """
    inside = [
        directory
        for directory in study.directories
        if directory.parent == study.directory or directory.name not in imported
    ]
    imported.update(d.name for d in inside if d.parent != study.directory)
    if not study.directories:
        raise UsageError(
            f"{study.directory}: nothing of this study has been played or imported yet",
            "`local-shutdown run` with its file plays it",
        )
    found: list[Path] = []
    for directory in directories:
        found += inside if directory == study.directory else [directory]
    return found


def study_record(plan: PlanFile) -> dict[str, Any]:
    """Which plan the numbers follow, and what was changed, as `compare --json` gives it."""
    return {
        "name": plan.name,
        "digest": plan.digest,
        "frozen_at": plan.frozen_at,
        "deviations": [deviation.model_dump() for deviation in plan.deviations],
    }
