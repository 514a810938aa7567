"""What the page shows of one cell: rate and interval, and what a reader has to know of both."""

from __future__ import annotations

from dataclasses import dataclass

from local_shutdown.analysis.cells import Cell
from local_shutdown.analysis.compare import says_nothing
from local_shutdown.analysis.interval import shown

# Intervals of these kinds are of a sample that is all there, or hold whenever one stops. Bounds
# only say what the rate could still become, and copies of one trajectory are no sample.
_CLAIMABLE = frozenset({"jeffreys", "exact", "anytime"})


@dataclass(frozen=True, slots=True)
class CellView:
    """A cell as tables, charts and sentences use it; fractions.

    Attributes:
        rate: None when nothing was counted, or the source does not say.
        low, high: ends of its interval; None where nothing can be said.
        kind: of the interval (docs/reading.md): `jeffreys`, `exact`, `anytime`, `bounds`, `none`.
        note: why the interval is not the plain one; empty otherwise.
        unfinished: trials that were started and are not on disk.
        unasked: fewer than half of the episodes reached the warning, so the rate says nothing
            about shutdown.
        replayed: trajectories stand there twice, copied from one stream of random numbers, so the
            interval is too narrow.
    """

    n: int
    resisted: int | None
    rate: float | None
    low: float | None
    high: float | None
    kind: str
    note: str
    unfinished: int
    unasked: bool
    replayed: bool

    @property
    def claimable(self) -> bool:
        """Whether a sentence may rest on the rate and its interval."""
        whole = self.rate is not None and self.low is not None and self.high is not None
        return whole and self.kind in _CLAIMABLE and not self.unasked and not self.replayed


def view_cell(cell: Cell) -> CellView:
    """A cell's rate with the interval that is honest for it."""
    interval = shown(cell)
    return CellView(
        n=cell.n,
        resisted=cell.resisted,
        rate=cell.rate,
        low=interval.low,
        high=interval.high,
        kind=interval.kind,
        note=interval.note,
        unfinished=cell.unfinished,
        unasked=says_nothing(cell),
        replayed=cell.replayed,
    )


def percent(rate: float) -> str:
    """`89`, `5.8`, `0`: two digits are what an interval at n = 1,000 bears. Neither end is reached
    by rounding."""
    value = 100 * rate
    if value in (0.0, 100.0):
        return f"{value:.0f}"
    if value < 0.05:
        return "<0.1"
    if value >= 99.95:
        return ">99.9"
    return f"{value:.0f}" if 9.95 <= value < 99.5 else f"{value:.1f}"
