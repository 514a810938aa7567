"""Evidence about the difference of two rates, from pairs of trials; it holds at all looks at once.

Trial k of a and trial k of b are a pair; Z is 1 where only that of a resisted, -1 where only that
of b did, else 0. Its mean is rate a - rate b, whatever the two rates are. Somebody who bets against
"rate a - rate b is `bound` or more", a share f of the most that one may stake, has after a pair

    1 + f * (bound - Z) / (1 - bound)    times what he had, 0 <= f < 1:

never below 0, and if the claim is true, 1 at most on the average. So his wealth, 1 at first, is a
nonnegative supermartingale, and so is that of many who each keep to a share f of their own and
begin with a part of the 1: a mixture. By Ville's inequality it ever reaches 1 / alpha with
probability alpha at most: its reciprocal is a p-value that holds at all times (Ville 1939; testing
by betting: Shafer 2021; means of bounded variables: Waudby-Smith and Ramdas 2024, Journal of the
Royal Statistical Society B 86(1); mixtures over all bets: Cover 1991). Nothing is asked of the
rates, of which there are two and only one question: `stopping.anytime_difference` holds for cells
of any two lengths, pays for both rates, and needs a tenth to a third more trials here.

The mixture is the uniform one over f, as `SHARES` in steps of a constant factor: small bets find
small differences, after many trials. For bound 0 it is a test of the discordant pairs (McNemar).

A pair with a trial that does not count (limit, error) is left out: among the others the two
outcomes are still independent of each other. A pair with an outcome that nobody knows is taken as
the loss that it may be; where it can be none it is left out, since it may not have counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_STEPS = 32
_LEAST, _MOST = 0.01, 0.99
# (share of the most that may be staked, log of the part of the 1 that is bet like this)
SHARES: tuple[tuple[float, float], ...] = tuple(
    (share, math.log(share / total))
    for shares in [[_LEAST * (_MOST / _LEAST) ** (i / (_STEPS - 1)) for i in range(_STEPS)]]
    for total in [sum(shares)]
    for share in shares
)

# What a play may have come to, 1 for resisted: one value; none where it does not count; both where
# nobody knows.
Play = tuple[int, ...]
RESISTED: Play = (1,)
OTHER: Play = (0,)
NOT_COUNTED: Play = ()
UNKNOWN: Play = (0, 1)


@dataclass(frozen=True, slots=True)
class Pairs:
    """How many pairs there are of each kind; fractions where they are expected ones.

    Attributes:
        up, down: only that of a resisted; only that of b did.
        same: both did, or neither.
        maybe_up, maybe_down: of those with an unknown outcome, how many may be so; a pair can be
            among both.
    """

    up: float = 0
    down: float = 0
    same: float = 0
    maybe_up: float = 0
    maybe_down: float = 0

    def with_pair(self, a: Play, b: Play) -> Pairs:
        """With a further one."""
        up, down, same = self.up, self.down, self.same
        maybe_up, maybe_down = self.maybe_up, self.maybe_down
        if len(a) == len(b) == 1:
            up, down, same = up + (a > b), down + (a < b), same + (a == b)
        else:
            maybe_up += 1 in a and 0 in b
            maybe_down += 0 in a and 1 in b
        return Pairs(up, down, same, maybe_up, maybe_down)


def log_below(pairs: Pairs, bound: float) -> float:
    """Log of the evidence that rate a - rate b is below `bound`, 0 <= bound < 1."""
    return _log_wealth(pairs.up + pairs.maybe_up, pairs.down, pairs.same, bound)


def log_above(pairs: Pairs, bound: float) -> float:
    """Log of the evidence that rate a - rate b is above -`bound`, 0 <= bound < 1."""
    return _log_wealth(pairs.down + pairs.maybe_down, pairs.up, pairs.same, bound)


def differs_p(pairs: Pairs) -> float:
    """p-value of "there is no difference": half of the 1 is bet on either side."""
    either = _log_sum([log_below(pairs, 0.0), log_above(pairs, 0.0)]) - math.log(2)
    return _p(either)


def within_p(pairs: Pairs, delta: float) -> float:
    """p-value of "the difference is DELTA or more, to either side": the larger one of the two."""
    return _p(min(log_below(pairs, delta), log_above(pairs, delta)))


def _log_wealth(lost: float, won: float, same: float, bound: float) -> float:
    """Of the mixture, after so many pairs of each kind."""
    rest = 1 - bound
    return _log_sum(
        [
            part
            + lost * math.log1p(-share)
            + same * math.log1p(share * bound / rest)
            + won * math.log1p(share * (1 + bound) / rest)
            for share, part in SHARES
        ]
    )


def _log_sum(logs: list[float]) -> float:
    most = max(logs)
    return most + math.log(sum(math.exp(one - most) for one in logs))


def _p(evidence: float) -> float:
    return max(math.exp(-max(evidence, 0.0)), 1e-300)
