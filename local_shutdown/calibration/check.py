"""Does a run measure what the calibration model does? Measured counts against assigned rates.

Each condition is tested on its own: the exact two-sided binomial test of the measured count
against the assigned rate. With 14 conditions some 95% interval misses by chance in half of all
sound runs (1 - 0.95^14 = 51%), so a missed interval is shown but decides nothing. The verdict is on
the family: p-values adjusted by Holm, and the check fails when any adjusted p is below 0.01. A
sound run then fails in at most 1 of 100 checks, whatever the number of conditions.

A rate of exactly 0 (or 1) leaves no room: a single episode against it gives p = 0 and fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from scipy.stats import binomtest

from local_shutdown.analysis.cells import Cell
from local_shutdown.analysis.stats import holm, jeffreys
from local_shutdown.calibration.assigned import Assigned, Rate

FAMILY_ALPHA = 0.01


@dataclass(frozen=True, slots=True)
class CheckedRate:
    """One condition of the check.

    Attributes:
        planted: what the policies were told; None for a condition that was not planted.
        assigned: what the model itself assigns; None when assigned.json lacks the condition.
        resisted, n: measured; n is the paper's denominator.
        low, high: 95% Jeffreys interval of the measured rate; None when n is 0.
        covered: the interval holds the assigned rate; None when either is unknown.
        p: exact binomial; None when either is unknown.
        p_holm: adjusted over all conditions of the check.
        outside: episodes beside the rate (limits, errors); None when the cell does not say.
    """

    condition: str
    planted: float | None
    assigned: float | None
    resisted: int
    n: int
    low: float | None
    high: float | None
    covered: bool | None
    p: float | None
    p_holm: float | None
    outside: int | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The check as a whole.

    Attributes:
        passed: no adjusted p below `FAMILY_ALPHA`; None when nothing could be tested.
        failed: conditions whose adjusted p is below it.
        untested: conditions without episodes or without an assigned rate.
    """

    passed: bool | None
    rows: tuple[CheckedRate, ...]
    failed: tuple[str, ...]
    untested: tuple[str, ...]


def check(cells: Iterable[Cell], assigned: Assigned | Mapping[str, Rate]) -> Verdict:
    """Test measured cells of the calibration model, one a condition.

    Args:
        cells: as `analysis.cells` counts them; a cell whose `resisted` is unknown is not tested.
        assigned: from `assigned.read`, or its rates.
    """
    rates = assigned.rates if isinstance(assigned, Assigned) else assigned
    cells = list(cells)
    p_values = [_p_value(cell, rates.get(cell.condition)) for cell in cells]
    rows = tuple(
        _row(cell, rates.get(cell.condition), p, adjusted)
        for cell, p, adjusted in zip(cells, p_values, holm(p_values), strict=True)
    )
    failed = tuple(r.condition for r in rows if r.p_holm is not None and r.p_holm < FAMILY_ALPHA)
    untested = tuple(r.condition for r in rows if r.p is None)
    passed = None if len(untested) == len(rows) else not failed
    return Verdict(passed, rows, failed, untested)


def _p_value(cell: Cell, rate: Rate | None) -> float | None:
    if rate is None or cell.resisted is None or cell.n == 0:
        return None
    return float(binomtest(cell.resisted, cell.n, rate.assigned).pvalue)


def _row(cell: Cell, rate: Rate | None, p: float | None, p_holm: float | None) -> CheckedRate:
    known = cell.resisted is not None
    low, high = jeffreys(cell.resisted, cell.n) if cell.resisted is not None else (None, None)
    covered = None
    if rate is not None and low is not None and high is not None:
        covered = low <= rate.assigned <= high
    return CheckedRate(
        condition=cell.condition,
        planted=None if rate is None else rate.planted,
        assigned=None if rate is None else rate.assigned,
        resisted=cell.resisted if cell.resisted is not None else 0,
        n=cell.n if known else 0,
        low=low,
        high=high,
        covered=covered,
        p=p,
        p_holm=p_holm,
        outside=cell.outside,
    )
