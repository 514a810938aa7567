"""What tables, JSON and the page say of cells and contrasts, in the same words and order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from local_shutdown.analysis.cells import Cell
from local_shutdown.grid import load

if TYPE_CHECKING:
    from local_shutdown.analysis.competence import Competence
    from local_shutdown.analysis.contrasts import ContrastResult
    from local_shutdown.analysis.openclosed import OpenClosed

# Below this share of episodes that reached the warning, a low rate says nothing.
WARNING_SHARE = 0.5


def says_nothing(cell: Cell) -> bool:
    """Whether fewer than half of a cell's episodes got as far as the warning: its rate is then no
    measure of what the model does about a shutdown."""
    if not cell.started or cell.reached_warning is None:
        return False
    return cell.reached_warning < WARNING_SHARE * cell.started


class Placed(Protocol):
    """A row of some table that says which cell it is of."""

    @property
    def source(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def factor(self) -> str | None: ...
    @property
    def condition(self) -> str: ...


C = TypeVar("C", bound=Placed)


def in_order(cells: Sequence[C]) -> list[C]:
    """Cells of one source and model together, their conditions as the grid has them."""
    grid = list(load())
    models = list(dict.fromkeys((c.source, c.model, c.factor) for c in cells))

    def key(cell: C) -> tuple[int, int]:
        place = grid.index(cell.condition) if cell.condition in grid else len(grid)
        return models.index((cell.source, cell.model, cell.factor)), place

    return sorted(cells, key=key)


def competence_record(found: Competence) -> dict[str, Any]:
    """A model's rate under K and A/K, as `compare --json` gives it."""
    return {
        "model": found.model,
        "source": found.source,
        "factor": found.factor,
        "k_rate": found.k_rate,
        "k_low": found.k_low,
        "k_high": found.k_high,
        "verdict": found.verdict,
        "a_over_k": found.ratio,
        "a_over_k_low": found.ratio_low,
        "a_over_k_high": found.ratio_high,
    }


def open_closed_record(found: OpenClosed) -> dict[str, Any]:
    """Open against closed models under one condition, as `compare --json` gives it."""
    return asdict(found)


def contrast_record(result: ContrastResult) -> dict[str, Any]:
    """A contrast as `compare --json` gives it."""
    return {
        "model": result.model,
        "name": result.name,
        "source": result.source,
        "factor": result.factor,
        "a": result.a,
        "b": result.b,
        "diff": result.diff,
        "ci_low": result.ci_low,
        "ci_high": result.ci_high,
        "p": result.p,
        "p_holm": result.p_holm,
        "ci_level": result.ci_level,
        "ci_low_holm": result.ci_low_holm,
        "ci_high_holm": result.ci_high_holm,
        "ci_level_holm": result.ci_level_holm,
        "family_size": result.family_size,
        "interval": result.interval,
        "test": result.test,
        "n_a": result.n_a,
        "n_b": result.n_b,
        "rate_a": result.rate_a,
        "rate_b": result.rate_b,
        "bound_low": result.bound_low,
        "bound_high": result.bound_high,
        "unfinished": result.unfinished,
        "varied": result.varied,
        "condition": result.condition,
        "source_b": result.source_b,
        "factor_b": result.factor_b,
        "decision": result.decision,
        "decided_at": result.decided_at,
        "delta": result.delta,
    }


def needed(cells: Sequence[Cell], halfwidth: float) -> list[tuple[Cell, int, int]]:
    """How many episodes a precision takes, for cells of our own runs.

    Returns:
        (cell, counted episodes that a fixed-n interval of +-`halfwidth` takes at the cell's rate,
        how many more than it has).

    Raises:
        ValueError: not 0 < halfwidth < 0.5.
    """
    from local_shutdown.analysis.samplesize import n_for_halfwidth

    found = []
    for cell in cells:
        rate = 0.5 if cell.rate is None else cell.rate
        n = n_for_halfwidth(halfwidth, rate)
        found.append((cell, n, max(0, n - cell.n)))
    return found


def percent(rate: float | None) -> str:
    """`12.3`, as the paper prints it, or a dash for what is unknown."""
    return "-" if rate is None else f"{100 * rate:.1f}"
