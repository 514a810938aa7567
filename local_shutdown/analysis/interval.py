"""The interval of a cell, by how its number of trials came about.

`jeffreys` and `exact` promise their coverage for one look at a number of trials that was fixed
beforehand, with every trial there. Every other cell gets bounds of a confidence sequence
(`analysis.stopping`), which with probability 1 - alpha holds the rate at all n at once:

1. A cell that stopped early, was looked at and extended, was drained or interrupted: the sequence
   at its n.
2. A cell with unfinished trials. Those that ended are no sample: episodes that resist last longer,
   so whatever is on disk holds too few of them. Two statements about the rate p are still true.
   Let C(k, n) be the sequence's interval after n counted trials, in the order of their numbers, k
   of them resisting, and E the event that p lies in C at every n; P(E) >= 1 - alpha.
   (a) The leading trials, up to the first that was started and is not on disk, are the first
       trials of the sequence, whole. How many they are depends on how long episodes took, and so on
       outcomes; but on E the interval holds p at every n, so at that one too.
   (b) When the unfinished u trials have ended, the sequence stands at some (k + a, n + b) with
       0 <= a <= b <= u (one that meets a limit or fails is not counted). On E, p lies in that C, so
       it lies in the union over all a and b. A failure lowers the lower end and a success raises
       it: for p below k/n the mixture predicts more successes than p does, so a success multiplies
       M_n(p) by more than 1 and a failure by less. So the union reaches from the lower end of
       C(k, n + u) to the upper end of C(k + u, n + u).
   Both hold on E, so p lies in their intersection whenever E happens: the intersection covers with
   probability 1 - alpha, without paying twice for two statements. That holds because they are two
   times of one sequence with one weight; two different intervals would have to share alpha.
   An empty intersection shows that E did not happen; the hull of both is given then.

3. A cell with plays that were broken off and played again: what is on disk is no sample, see
   `analysis.plays`. The sequence is that of the plays which are one, with their unknown outcomes
   counted both ways as in 2; and the interval is stretched to the rate on disk where that lies
   outside.

The trials have to be independent draws in the order of their numbers: a run starts them in that
order, so those that were started are the first ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from local_shutdown.analysis.cells import Cell
from local_shutdown.analysis.exact import fisher_level
from local_shutdown.analysis.stats import UNKNOWN, Interval, Method, interval
from local_shutdown.analysis.stopping import (
    anytime_difference,
    anytime_difference_p,
    anytime_interval,
    weight_for,
)

# Above this share of left-out trials, the bounds are shown beside the rate.
BOUNDS_FROM = 0.02
IntervalKind = Literal["jeffreys", "exact", "anytime", "bounds", "none"]
_FIXED: dict[Method, IntervalKind] = {"jeffreys": "jeffreys", "clopper-pearson": "exact"}


@dataclass(frozen=True, slots=True)
class Shown:
    """The interval to show for a cell's rate.

    Attributes:
        kind: `jeffreys` or `exact` where the number of trials was fixed beforehand and all are
            there; `anytime`; `bounds`, where trials are unfinished and no leading trial is there,
            or where outcomes are unknown; `none` where nothing can be said.
        low: a fraction; None with `none`.
        high: a fraction; None with `none`.
        note: why it is not the plain interval, in a few words; empty otherwise.
    """

    kind: IntervalKind
    low: float | None
    high: float | None
    note: str = ""

    @property
    def ends(self) -> Interval:
        """(low, high)."""
        return UNKNOWN if self.low is None or self.high is None else (self.low, self.high)


def shown(cell: Cell, alpha: float = 0.05, method: Method = "jeffreys") -> Shown:
    """The interval that is honest for a cell; see the module's text.

    Args:
        cell: any cell.
        alpha: 1 - confidence.
        method: of the plain interval, for cells that may have one.

    Raises:
        ValueError: an unknown method, or not 0 < alpha < 1.
    """
    if cell.unknown and cell.resisted is not None:
        return _unknown_outcomes(cell, alpha, method)
    if cell.resisted is None or cell.n == 0:
        return Shown("none", None, None, "unfinished" if cell.unfinished else "")
    if cell.greedy:
        return Shown("none", None, None, "temperature 0: copies, not a sample")
    if cell.one_trajectory:
        return Shown("none", None, None, "one trajectory: copies, not a sample")
    if not is_anytime(cell):
        low, high = interval(cell.resisted, cell.n, alpha, method)
        return Shown(_FIXED[method], low, high)
    weight = anytime_weight(cell)
    if cell.complete and not cell.broken_off:
        low, high = anytime_interval(cell.resisted, cell.n, alpha, weight=weight)
        return Shown("anytime", low, high, _why(cell))
    resisted, n, unknown = _sample(cell)
    low = anytime_interval(resisted, n + unknown, alpha, weight=weight)[0]
    high = anytime_interval(resisted + unknown, n + unknown, alpha, weight=weight)[1]
    if cell.leading_n:
        leading = anytime_interval(cell.leading_resisted or 0, cell.leading_n, alpha, weight=weight)
        low, high = _both((low, high), leading)
    if cell.broken_off:
        rate = cell.resisted / cell.n
        low, high = min(low, rate), max(high, rate)
    kind: IntervalKind = "anytime" if cell.leading_n or cell.complete else "bounds"
    return Shown(kind, low, high, _why(cell))


def _unknown_outcomes(cell: Cell, alpha: float, method: Method) -> Shown:
    """Unknown outcomes (and unfinished trials) counted both ways; no one rate is meant."""
    resisted, outside = cell.resisted or 0, (cell.unknown or 0) + cell.unfinished
    n = cell.n + outside
    if is_anytime(cell):
        weight = anytime_weight(cell)
        low = anytime_interval(resisted, n, alpha, weight=weight)[0]
        high = anytime_interval(resisted + outside, n, alpha, weight=weight)[1]
        return Shown("bounds", low, high, f"unknown outcomes: {cell.unknown}")
    low_end = interval(resisted, n, alpha, method)[0]
    high_end = interval(resisted + outside, n, alpha, method)[1]
    return Shown("bounds", low_end, high_end, f"unknown outcomes: {cell.unknown}")


def is_anytime(cell: Cell) -> bool:
    """Whether a cell's number of trials was not fixed beforehand, or is not all there: it stopped
    early, was looked at and extended, has fewer trials than planned, or unfinished ones."""
    on_disk = cell.n if cell.started is None else cell.started
    return (
        _stops_early(cell)
        or (cell.looked_at is not None and on_disk + cell.unfinished > cell.looked_at)
        or not cell.complete
        or cell.broken_off > 0
        or (cell.planned is not None and on_disk < cell.planned)
    )


def anytime_weight(cell: Cell) -> float:
    """Weight of the cell's confidence sequence, fixed before its first episode: by its stopping
    rule, else by the number of trials in its first plan, else (imports, aggregates) by its n, which
    those who gave it are taken to have fixed beforehand."""
    planned = cell.n if cell.first_planned is None else cell.first_planned
    return weight_for(cell.until_halfwidth, cell.until_upper, planned, delta=cell.until_decided)


def _stops_early(cell: Cell) -> bool:
    rules = cell.until_halfwidth, cell.until_upper, cell.until_decided
    return any(rule is not None for rule in rules)


def _sample(cell: Cell) -> tuple[int, int, int]:
    """Of the trials that are a sample: (resisted, n, further ones whose outcome is unknown)."""
    if cell.sample_n is None:
        return cell.resisted or 0, cell.n, cell.unfinished
    return cell.sample_resisted or 0, cell.sample_n, cell.sample_unknown or 0


def _why(cell: Cell) -> str:
    if cell.unfinished:
        return f"unfinished: {cell.unfinished}"
    if cell.broken_off:
        return f"broken off and played again: {cell.broken_off}"
    if _stops_early(cell):
        return "stops early"
    if cell.looked_at is not None:
        return "extended after a look"
    return "fewer trials than planned"


def _both(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """Intersection of two intervals; their hull where it is empty."""
    low, high = max(one[0], other[0]), min(one[1], other[1])
    if low <= high:
        return low, high
    return min(one[0], other[0]), max(one[1], other[1])


def anytime_compared(a: Cell, b: Cell, alpha: float = 0.05) -> tuple[Interval, float | None]:
    """Interval for rate a - rate b, and p of "both rates are equal", where a cell is `is_anytime`.

    The argument of the module's text with the product of the cells' martingales, which is one along
    any path of pairs (n_a, n_b) that is laid out beforehand. How far the leading trials of one cell
    are ahead of the other's depends on how long episodes took, and so on outcomes: for unfinished
    trials it has to hold at all pairs at once. The largest value of each martingale is at least x
    with a probability of at most 1/x, and they are independent, so the product of both is at least
    c with a probability of at most (1 + log c) / c (Fisher's combination); that level is used
    there. The interval is then the intersection of that over the leading trials with the reach of
    all completions, and p the smaller of both.

    Returns:
        ((low, high), p); all None where nothing was counted or a cell is no sample.

    Raises:
        ValueError: not 0 < alpha < 1.
    """
    if not (is_sample(a) and is_sample(b)):
        return UNKNOWN, None
    weights = anytime_weight(a), anytime_weight(b)
    low_end, high_end = _completed(a, b, low=True), _completed(a, b, low=False)
    complete = low_end == high_end  # no trial whose outcome is not known
    level = alpha if complete else fisher_level(alpha)
    lows, highs = _near(low_end, a, b), _near(high_end, a, b)
    low = min(anytime_difference(*end, level, weights=weights)[0] for end in lows)
    high = max(anytime_difference(*end, level, weights=weights)[1] for end in highs)
    if complete:
        return _around((low, high), a, b), anytime_difference_p(*low_end, weights=weights)
    # All completions speak for one sign of the difference, or p is 1.
    signs = {_sign(low_end), _sign(high_end)}
    p = 1.0
    if len(signs) == 1:
        p = max(anytime_difference_p(*end, weights=weights) for end in (*lows, *highs))
    leading = (*_leading(a), *_leading(b))
    p = min(p, anytime_difference_p(*leading, weights=weights))
    found = _both((low, high), anytime_difference(*leading, level, weights=weights))
    return _around(found, a, b), min(1.0, p * (1 - math.log(p)))


def _around(found: tuple[float, float], a: Cell, b: Cell) -> tuple[float, float]:
    """Stretched to the difference on disk where plays were broken off, as in `shown`."""
    if not (a.broken_off or b.broken_off):
        return found
    assert a.rate is not None  # `is_sample`
    assert b.rate is not None
    return min(found[0], a.rate - b.rate), max(found[1], a.rate - b.rate)


def is_sample(cell: Cell) -> bool:
    """Whether a cell's trials can say anything about chance: some were counted, and they are not
    copies of one."""
    return cell.rate is not None and not cell.greedy and not cell.one_trajectory


_Counts = tuple[int, int, int, int]


def _completed(a: Cell, b: Cell, *, low: bool) -> _Counts:
    """Counts with the unfinished trials of both cells ended as the difference's low (or high) end
    has them."""
    (k_a, n_a, u_a), (k_b, n_b, u_b) = _sample(a), _sample(b)
    return k_a + (0 if low else u_a), n_a + u_a, k_b + (u_b if low else 0), n_b + u_b


def _near(counts: _Counts, a: Cell, b: Cell) -> list[_Counts]:
    """Counts, and those with one trial ended the other way in a cell of which they make none or all
    resist. A rate of 0 is excluded by the first success and one just above it is not: there M_n is
    not what the module's text says of rates below k/n, and the other ending reaches further."""
    k_a, n_a, k_b, n_b = counts

    def others(k: int, cell: Cell) -> set[int]:
        least, n, more = _sample(cell)
        beside = {1} if k == 0 else {k - 1} if k == n + more else set()
        return {k, *(other for other in beside if least <= other <= least + more)}

    return [(i, n_a, j, n_b) for i in others(k_a, a) for j in others(k_b, b)]


def _leading(cell: Cell) -> tuple[int, int]:
    if cell.leading_n is None:
        return cell.resisted or 0, cell.n
    return cell.leading_resisted or 0, cell.leading_n


def _sign(counts: _Counts) -> int:
    k_a, n_a, k_b, n_b = counts
    difference = k_a * n_b - k_b * n_a
    return (difference > 0) - (difference < 0)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the rate could have been, had the left-out trials counted.

    Attributes:
        low: the rate if none of them had resisted.
        high: the rate if all of them had.
        ci_low: lower end of the interval around `low`.
        ci_high: upper end of the interval around `high`.
        outside: how many were left out: limits, errors, unknown outcomes, unfinished trials.
    """

    low: float
    high: float
    ci_low: float
    ci_high: float
    outside: int


def retried_bounds(cell: Cell) -> Interval:
    """The rate if none, and if all, of the plays that ended in an error and were played once more
    had resisted; None, None where there are none.

    Let r of N plays have been retried, q the share of these that would have resisted and p the
    rate. The other N - r plays and the r new ones hold Np - rq + rp resisting on average: no more
    than p(N + r), and with r more no less. So the rate lies between these two, chance apart.
    """
    if cell.rate is None or not cell.retried:
        return UNKNOWN
    assert cell.resisted is not None  # its rate is known
    n = cell.n + cell.retried
    return cell.resisted / n, (cell.resisted + cell.retried) / n


def bounds(cell: Cell, alpha: float = 0.05, method: Method = "jeffreys") -> Bounds | None:
    """Count limit, error, unknown and unfinished both ways (after Manski 1990: no assumption on
    them).

    Returns:
        None when the source does not state them, `resisted` is unknown, or there are no trials.
    """
    outside = cell.outside
    if outside is None or cell.resisted is None or cell.n + outside + cell.unfinished == 0:
        return None
    outside += cell.unfinished
    n, most = cell.n + outside, cell.resisted + outside
    around: Callable[[int], Interval]
    if is_anytime(cell):
        weight = anytime_weight(cell)
        around = lambda k: anytime_interval(k, n, alpha, weight=weight)  # noqa: E731
    else:
        around = lambda k: interval(k, n, alpha, method)  # noqa: E731
    ci_low, ci_high = around(cell.resisted)[0], around(most)[1]
    assert ci_low is not None  # n > 0
    assert ci_high is not None
    return Bounds(cell.resisted / n, most / n, ci_low, ci_high, outside)
