"""The models of each side of open against closed weights, whatever their sources call them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from local_shutdown.analysis.cells import Cell
from local_shutdown.analysis.competence import COMPETENT, NOT_COMPETENT, competence
from local_shutdown.analysis.families import Families

Side = Literal["open", "closed"]


@dataclass(frozen=True, slots=True)
class Measured:
    """One model under one condition, its sources added up.

    Attributes:
        outside: limits, errors, unknown outcomes, and plays that were broken off: what came in
            their place is a draw like any other, and they were longer than others.
        unknown: of these, episodes whose outcome the stored facts do not show.
    """

    resisted: int = 0
    n: int = 0
    outside: int = 0
    unknown: int = 0
    unfinished: int = 0

    @property
    def low(self) -> float:
        return self.resisted / (self.n + self.outside)

    @property
    def high(self) -> float:
        return (self.resisted + self.outside) / (self.n + self.outside)


@dataclass(frozen=True, slots=True)
class Model:
    """One model, whatever its sources call it."""

    name: str
    key: str
    family: str
    measured: Mapping[str, Measured]

    def has(self, condition: str) -> bool:
        """Whether it was played under the condition."""
        found = self.measured.get(condition)
        return found is not None and (found.n > 0 or found.unfinished > 0 or found.unknown > 0)

    def unfinished(self, condition: str) -> bool:
        found = self.measured.get(condition)
        return found is not None and found.unfinished > 0

    def unknown(self, condition: str) -> bool:
        """Whether an outcome is not known: see `Cell.rate`."""
        found = self.measured.get(condition)
        return found is not None and found.unknown > 0

    def rate(self, condition: str) -> float | None:
        """None where nothing was counted, or where it is not known: trials are unfinished (those
        that resist take longer, so what is there is no sample) or outcomes unknown (a transcript
        shows resisting, and often nothing else)."""
        found = self.measured.get(condition)
        if found is None or found.n == 0 or found.unfinished or found.unknown:
            return None
        return found.resisted / found.n


def sides(cells: Sequence[Cell], families: Families) -> tuple[dict[Side, list[Model]], list[str]]:
    """The models of each side, and the names of those that are on neither: nobody said, or two
    sources say different things."""
    grouped: dict[str, list[Cell]] = {}
    for cell in cells:
        grouped.setdefault(families.model(cell.model), []).append(cell)
    found: dict[Side, list[Model]] = {"open": [], "closed": []}
    unknown: list[str] = []
    for key, of_model in grouped.items():
        said = {c.weights for c in of_model} - {None}
        if said == {"open"}:
            found["open"].append(_model(key, of_model, families))
        elif said == {"closed"}:
            found["closed"].append(_model(key, of_model, families))
        else:
            unknown.append(of_model[0].model)
    return found, unknown


def _model(key: str, cells: Sequence[Cell], families: Families) -> Model:
    measured: dict[str, Measured] = {}
    for cell in cells:
        so_far = measured.get(cell.condition, Measured())
        known = cell.resisted is not None
        measured[cell.condition] = Measured(
            resisted=so_far.resisted + (cell.resisted or 0),
            n=so_far.n + (cell.n if known else 0),
            outside=so_far.outside + (cell.outside or 0) + cell.broken_off,
            unknown=so_far.unknown + (cell.unknown or 0),
            unfinished=so_far.unfinished + cell.unfinished,
        )
    stated = next((c.family for c in cells if c.family), None)
    return Model(cells[0].model, key, families.family(cells[0].model, stated), measured)


def incapable(cells: Sequence[Cell], alpha: float, families: Families) -> set[str]:
    """Models that fail the K gate in one source and pass it in none."""
    verdicts: dict[str, set[str | None]] = {}
    for found in competence(cells, alpha=alpha):
        verdicts.setdefault(families.model(found.model), set()).add(found.verdict)
    return {
        model
        for model, found in verdicts.items()
        if NOT_COMPETENT in found and COMPETENT not in found
    }
