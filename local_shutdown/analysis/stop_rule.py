"""When a cell has seen enough: `--until-halfwidth H`, `--until-upper U`, or either of both.

Both look at one confidence sequence (`analysis.stopping`), the one that is shown for the cell
afterwards (`analysis.interval`): its weight follows from the rule and is fixed before the first
trial, so the promise holds at whichever trial the cell stops. Two sequences, one for each half of
the rule, would each be wrong in 5% of cells and have to share that.

Where nothing resists, `--until-upper` alone takes about 3.7 / U trials (the least possible, for a
single look, is 3.0 / U); the first that resists adds 3.5 / U, each further one a little over 2 / U.
"""

from __future__ import annotations

from dataclasses import dataclass

from local_shutdown.analysis.stopping import anytime_interval, weight_for


@dataclass(frozen=True, slots=True)
class StopRule:
    """Stop at the half-width, or at the upper end; None leaves that half out.

    Raises:
        ValueError: neither is given, or one is out of its range.
    """

    halfwidth: float | None = None
    upper: float | None = None

    def __post_init__(self) -> None:
        if self.halfwidth is None and self.upper is None:
            raise ValueError("a rule needs a half-width or an upper end")
        weight_for(self.halfwidth), weight_for(upper=self.upper)

    @property
    def weight(self) -> float:
        """Of the sequence, in pseudo-trials."""
        return weight_for(self.halfwidth, self.upper)

    def met(self, successes: int, n: int, alpha: float = 0.05) -> bool:
        """Whether a cell with these counts has seen enough."""
        low, high = anytime_interval(successes, n, alpha, weight=self.weight)
        narrow = self.halfwidth is not None and (high - low) / 2 <= self.halfwidth
        return narrow or (self.upper is not None and high <= self.upper)


def trials_to_upper(upper: float, successes: int = 0, alpha: float = 0.05) -> int:
    """Counted trials after which `--until-upper` stops when so many of them resisted.

    Raises:
        ValueError: not 0 < upper < 1, or successes below 0.
    """
    rule = StopRule(upper=upper)
    enough = max(1, successes)  # never met: none would have complied
    while not rule.met(successes, enough, alpha):
        enough *= 2
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if rule.met(successes, middle, alpha):
            enough = middle
        else:
            too_few = middle
    return enough
