"""Stopping a cell early, with an interval that stays honest under stopping.

`run --until-halfwidth 0.03` looks at the interval after every episode and stops once it is narrow
enough. A fixed-n interval promises its coverage for one look at an n chosen beforehand; looked at
after every episode, its chance to have missed the rate at some look grows without end. So the
interval here is a confidence sequence: with probability at least 1 - alpha it holds the true rate
at all n at once. Whenever somebody stops, because of the half-width, an interrupt, or a later run
with more trials, the interval at that moment is good.

Method: a beta-binomial mixture martingale. For each rate p the likelihood of the outcomes under p
is compared with their likelihood under a Beta(w*p, w*(1-p)) mixture of rates,

    M_n(p) = B(w*p + k, w*(1-p) + n-k) / B(w*p, w*(1-p)) / (p^k * (1-p)^(n-k)).

Under p this is a nonnegative martingale that starts at 1, so by Ville's inequality it ever reaches
1/alpha with probability at most alpha (Ville 1939; Robbins 1970; for Bernoulli data Howard, Ramdas,
McAuliffe and Sekhon 2021, Annals of Statistics 49(2), "two-sided beta-binomial mixture"). The
interval is every p with M_n(p) < 1/alpha. Written as

    log M_n(p) = sum_{i<k} log(w + i/p) + sum_{j<n-k} log(w + j/(1-p)) - sum_{m<n} log(w + m)

it is a sum of convex functions of p that is at most 0 at p = k/n: the set is an interval around
k/n, and bisection finds its ends exactly.

The weight w, in pseudo-trials, has to be fixed before the first look: Ville's inequality holds for
each w, not for the best of several w picked once the outcomes are there. It comes from what was
planned before the first episode (`weight_for`):

- a half-width H: w = 0.07 / H^2. The optimum at p = 1/2 would be about 0.28 / H^2; a quarter of it
  costs 7% more trials there and saves 40% at p = 0, where most published cells lie;
- an upper end U (rare events): w = 0.25 / U. At k = 0 it takes 73 trials to get below 5% (least
  possible: 60), at k = 1 143 (least possible: 139);
- a difference DELTA between two cells that would matter: w = 0.1 / DELTA^2 (`analysis.decided`);
- N trials and no rule: w = N / 16, for cells that were interrupted or extended. At n = N the
  interval is 1 to 2% wider than with the best w between rates of .05 and .5.

Considered and left: group-sequential boundaries and fixed-width designs calibrated to one stopping
rule (Frey 2010, The American Statistician 64(3)) need fewer trials, but hold only if that rule
alone ever ends the run; runs are interrupted and resumed.

Order: the stop is judged on the trials in their order, never on the episodes that happen to have
finished. Short episodes finish first, and length goes with the outcome (a model that complies has
fewer turns than one that resists), so counting whatever is done would bias the rate; see `advance`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from local_shutdown.analysis.cells import check_counts
from local_shutdown.episode import COUNTED, Outcome

DEFAULT_HALFWIDTH = 0.03
_WEIGHT_TIMES_HALFWIDTH_SQUARED = 0.07
_WEIGHT_TIMES_UPPER = 0.25
# Of .02, .05, .1, .2 and .4 the best or within 3% of it at DELTA .05, for rates of 0 to .5 that
# differ by 0 to .2 (150 simulated pairs of cells); at 0 against 0, .02 takes 130 trials, not 170.
_WEIGHT_TIMES_DELTA_SQUARED = 0.1
_TRIALS_OVER_WEIGHT = 16
_EDGE = 1e-12  # bisection stops this far from 0 and 1
_BISECTIONS = 50
_DIFFERENCE_BISECTIONS = 30  # to 1e-9
_GOLDEN = (math.sqrt(5) - 1) / 2
_GOLDEN_STEPS = 40  # to 1e-8 of the range; the profile is flat at its minimum


def anytime_interval(
    successes: int,
    n: int,
    alpha: float = 0.05,
    *,
    halfwidth: float = DEFAULT_HALFWIDTH,
    weight: float | None = None,
) -> tuple[float, float]:
    """Interval for a rate that covers it at every n at once with probability 1 - alpha.

    Args:
        successes: episodes that resisted, 0..n.
        n: episodes counted so far.
        alpha: 1 - confidence.
        halfwidth: the half-width that the run aims at; tunes the interval and has to be the same
            at every look of a cell.
        weight: tunes it instead of `halfwidth`, see `weight_for`.

    Returns:
        (low, high), fractions; (0, 1) when n is 0: nothing is excluded yet.

    Raises:
        ValueError: not 0 <= successes <= n, not 0 < alpha < 1, or not 0 < halfwidth < 0.5.
    """
    check_counts(successes, n, alpha)
    weight = _weight(halfwidth) if weight is None else weight
    if n == 0:
        return 0.0, 1.0
    bound = -math.log(alpha)
    estimate = min(max(successes / n, _EDGE), 1 - _EDGE)
    low = 0.0 if successes == 0 else _end(estimate, _EDGE, successes, n, weight, bound)
    high = 1.0 if successes == n else _end(estimate, 1 - _EDGE, successes, n, weight, bound)
    return low, high


def weight_for(
    halfwidth: float | None = None,
    upper: float | None = None,
    trials: int | None = None,
    *,
    delta: float | None = None,
) -> float:
    """Weight of the mixture in pseudo-trials, see the module's text: by the first that is given of
    halfwidth, upper, delta and trials.

    Args:
        halfwidth: of the interval at which the cell may stop.
        upper: end of the interval below which the cell may stop.
        trials: planned before the first episode.
        delta: the difference that would matter between two cells, see `analysis.decided`.

    Raises:
        ValueError: one is out of its range, or trials below 0.
    """
    if halfwidth is not None:
        return _weight(halfwidth)
    if upper is not None:
        if not 0 < upper < 1:
            raise ValueError(f"upper is {upper}: it must lie strictly between 0 and 1")
        return _WEIGHT_TIMES_UPPER / upper
    if delta is not None:
        if not 0 < delta < 1:
            raise ValueError(f"delta is {delta}: it must lie strictly between 0 and 1")
        return max(1.0, _WEIGHT_TIMES_DELTA_SQUARED / delta**2)
    if trials is not None:
        if trials < 0:
            raise ValueError(f"trials is {trials}: it cannot be negative")
        return max(1.0, trials / _TRIALS_OVER_WEIGHT)
    return _weight(DEFAULT_HALFWIDTH)


def should_stop(
    successes: int, n: int, halfwidth: float = DEFAULT_HALFWIDTH, alpha: float = 0.05
) -> bool:
    """Whether the interval is narrow enough: (high - low) / 2 <= halfwidth.

    Raises:
        ValueError: as `anytime_interval`.
    """
    low, high = anytime_interval(successes, n, alpha, halfwidth=halfwidth)
    return (high - low) / 2 <= halfwidth


def trials_to_stop(rate: float, halfwidth: float = DEFAULT_HALFWIDTH, alpha: float = 0.05) -> int:
    """Counted trials after which a cell stops whose outcomes follow `rate` exactly; for planning.

    Raises:
        ValueError: rate outside [0, 1], or as `anytime_interval`.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate is {rate}: a rate lies between 0 and 1")

    def stops(n: int) -> bool:
        return should_stop(round(rate * n), n, halfwidth, alpha)

    enough = 1
    while not stops(enough):
        enough *= 2
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if stops(middle) else (middle, enough)
    return enough


def anytime_difference(
    successes_a: int,
    n_a: int,
    successes_b: int,
    n_b: int,
    alpha: float = 0.05,
    *,
    halfwidth: float = DEFAULT_HALFWIDTH,
    weights: tuple[float, float] | None = None,
) -> tuple[float, float]:
    """Interval for rate a - rate b when either cell may have stopped early.

    The martingales of two independent cells multiply to a martingale, so the pairs of rates with
    M_a(p_a) * M_b(p_b) < 1/alpha hold the true pair with probability 1 - alpha; the interval is
    every difference p_a - p_b among them. It holds at whatever moment each cell stops, and all
    along the run; not for a pair (n_a, n_b) picked afterwards among all pairs. Wider than
    Newcombe's, whose coverage is promised for fixed n alone.

    Args:
        halfwidth: tunes both, see `anytime_interval`.
        weights: tune a and b each instead: the product is a martingale whatever they are.

    Returns:
        (low, high), fractions; (-1, 1) when nothing was counted.

    Raises:
        ValueError: as `anytime_interval`.
    """
    check_counts(successes_a, n_a, alpha)
    check_counts(successes_b, n_b, alpha)
    counts = (successes_a, n_a, successes_b, n_b)
    weights, bound = weights or (_weight(halfwidth),) * 2, -math.log(alpha)
    estimate = (successes_a / n_a if n_a else 0.5) - (successes_b / n_b if n_b else 0.5)
    ends: list[float] = []
    for edge in (-1.0, 1.0):
        inside, outside = estimate, edge
        if _log_profile(edge * (1 - 4 * _EDGE), counts, weights) >= bound:
            for _ in range(_DIFFERENCE_BISECTIONS):
                middle = (inside + outside) / 2
                if _log_profile(middle, counts, weights) < bound:
                    inside = middle
                else:
                    outside = middle
        ends.append(outside)
    return ends[0], ends[1]


def anytime_difference_p(
    successes_a: int,
    n_a: int,
    successes_b: int,
    n_b: int,
    *,
    halfwidth: float = DEFAULT_HALFWIDTH,
    weights: tuple[float, float] | None = None,
    difference: float = 0.0,
) -> float:
    """p-value of "rate a - rate b is `difference`" that stays valid when either cell may have
    stopped early.

    The reciprocal of the least M_a(p) * M_b(p) over all p, at most 1; never below 1e-300. It is
    below alpha exactly when `anytime_difference` leaves out the difference.

    Raises:
        ValueError: as `anytime_interval`.
    """
    check_counts(successes_a, n_a)
    check_counts(successes_b, n_b)
    counts = (successes_a, n_a, successes_b, n_b)
    evidence = _log_profile(difference, counts, weights or (_weight(halfwidth),) * 2)
    return max(math.exp(-max(evidence, 0.0)), 1e-300)


def _log_profile(
    difference: float, counts: tuple[int, int, int, int], weights: tuple[float, float]
) -> float:
    """The least log M_a(p + difference) + log M_b(p) over p: convex in p, so by golden section."""
    successes_a, n_a, successes_b, n_b = counts

    def log_product(p: float) -> float:
        return log_martingale(p + difference, successes_a, n_a, weights[0]) + log_martingale(
            p, successes_b, n_b, weights[1]
        )

    low, high = max(_EDGE, _EDGE - difference), min(1 - _EDGE, 1 - _EDGE - difference)
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = log_product(left), log_product(right)
    for _ in range(_GOLDEN_STEPS):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = log_product(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = log_product(right)
    return min(at_left, at_right)


@dataclass(frozen=True, slots=True)
class Prefix:
    """The trials 0, 1, 2, ... of a cell up to the first that has not ended.

    Attributes:
        length: trials in the prefix; the next one to wait for has this number.
        resisted: of them, how many resisted.
        n: of them, how many count: resisted, complied or ended early.
        outside: of them, how many met a limit, failed or have an unknown outcome.
        stop: whether the interval was narrow enough after the prefix's last trial.
    """

    length: int = 0
    resisted: int = 0
    n: int = 0
    outside: int = 0
    stop: bool = False


def advance(
    prefix: Prefix,
    outcomes: Mapping[int, Outcome | None],
    halfwidth: float = DEFAULT_HALFWIDTH,
    alpha: float = 0.05,
    *,
    stops: Callable[[int, int], bool] | None = None,
) -> Prefix:
    """Go on through the ended trials in their order, until one is missing or the cell may stop.

    Call it after each episode with the prefix of the call before. Where it stops depends on the
    outcomes alone, not on the order in which episodes ended or on how many were in flight. Trials
    that ended in `limit` or `error` (or None, unknown) are passed over: they are not in the rate.

    After the stop, let the episodes in flight end and count them too (a run does: `early_stop`), or
    drop every trial from `prefix.length` on. Both are honest; counting only those that had ended is
    not.

    Args:
        prefix: where the last call got to; `Prefix()` at the start.
        outcomes: trial number -> outcome, of the trials that have ended; more may come.
        halfwidth: wanted half-width, the same at every call.
        alpha: 1 - confidence.
        stops: asked with (resisted, n) instead, for another rule, see `analysis.stop_rule`.

    Returns:
        The longer prefix; with `stop`, it ends at the first trial at which the cell may stop.

    Raises:
        ValueError: as `anytime_interval`.
    """
    length, resisted = prefix.length, prefix.resisted
    n, outside, stop = prefix.n, prefix.outside, prefix.stop
    while not stop and length in outcomes:
        outcome = outcomes[length]
        length += 1
        if outcome not in COUNTED:
            outside += 1
            continue
        n += 1
        resisted += outcome == "resisted"
        if stops is not None:
            stop = stops(resisted, n)
        else:
            stop = should_stop(resisted, n, halfwidth, alpha)
    return Prefix(length, resisted, n, outside, stop)


def _weight(halfwidth: float) -> float:
    """Weight of the mixture in pseudo-trials; see the module's text."""
    if not 0 < halfwidth < 0.5:
        raise ValueError(f"halfwidth is {halfwidth}: it must lie strictly between 0 and 0.5")
    return _WEIGHT_TIMES_HALFWIDTH_SQUARED / halfwidth**2


def log_martingale(p: float, successes: int, n: int, weight: float) -> float:
    """log M_n(p), see the module's text; 0 < p < 1, weight > 0."""
    q, failures = 1 - p, n - successes
    mixture = math.lgamma(weight * p + successes) - math.lgamma(weight * p)
    mixture += math.lgamma(weight * q + failures) - math.lgamma(weight * q)
    mixture -= math.lgamma(weight + n) - math.lgamma(weight)
    return mixture - successes * math.log(p) - failures * math.log(q)


def _end(
    inside: float, outside: float, successes: int, n: int, weight: float, bound: float
) -> float:
    """The point between `inside` and `outside` where the martingale reaches the bound.

    Returns the outer side of the last bisection, so rounding never narrows the interval, and 0 or 1
    when the bound is not reached before the edge.
    """
    if log_martingale(outside, successes, n, weight) < bound:
        return float(round(outside))
    for _ in range(_BISECTIONS):
        middle = (inside + outside) / 2
        if log_martingale(middle, successes, n, weight) < bound:
            inside = middle
        else:
            outside = middle
    return outside
