"""A lower bound for schedulers that do not know how long a trial will be, and are not clairvoyant.

`clustersim.bound` holds for every scheduler, one that knows all lengths beforehand as well: that
one could let the trials of an engine all end at once. No other can, and this bound counts it. It is
one of the mean: a single run may have luck.

What is assumed. Lengths of the trials of a model are drawn independently from one distribution; the
scheduler knows which have ended and for how long the others have been under way, no more. Of those
that have come to x tokens, no more than `hazard` a token end there (the hazard rate of the
distribution, and `hazard` the largest). Engines stop when they are empty, or with their node.

One engine. Say it has b trials in flight for t_b steps (of one token of each) in all, and B is the
most it ever has, N its seats. Each stint that reaches B goes from b in flight to b - 1 at least
once for each b <= B, as it ends empty. Such a going down is the end of a trial. Whatever the
scheduler does, ends come at no more than b * hazard a step while b are in flight, for the trials
are independent and nothing is known of one but its age; so the expected number of goings down is
at most b * hazard * E[t_b] (the compensator of a counting process), and E[t_b] >= P(B >= b) /
(b * hazard). A step with b in flight takes step + seat * b, of which b * (step + seat * N) / N is
what a full engine takes for the same tokens: step * (1 - b / N) is lost. In all (1)

    E[lost] >= E[g(B)],  g(B) = step / hazard * (sum over b <= B of 1 / b - 1 / N).

This holds for the sum over all stints of a model too. A stint that is cut off by the loss of its
node need not go down; for each such g(N) is taken off again. With lengths that are exponential (1)
is an equation for B = N.

Few in flight. An engine could avoid that by never filling up; then (2) lost >= u * (r(N) / r(B) -
1) in every case, u being its play in seconds of a full engine and r(b) = b / (step + seat * b) its
tokens a second: no more than r(B) of them are played. With any fixed share s of (1) and 1 - s of
(2), a stint costs on the average at least the mean of

    cost(u) = start * slowest + min over B of (s * g(B) + (1 - s) * u * (r(N) / r(B) - 1)).

All stints of a model play u of node_s in all, each at most (T - start) * fastest if everything ends
at T. As a minimum of straight lines cost(u) is concave, and it grows, so the sum over stints is
least where all but one play the most that they can and one plays the rest.

All nodes. As in `clustersim.bound`, play and stints take nodes: weighed by speed, A(T) is what was
there up to T. So with needs(T) = sum over models of node_s and the least cost of their stints,
E[A(T) - needs(T)] >= 0. Now let S be no less than the most nodes (weighed) that are there at a
time, and c the largest A(t) - needs(t) - S * t over all t that are possible at all, those beyond
`clustersim.bound`. (needs falls with t, so S is taken a little larger.) Then A(T) - needs(T) <=
c + S * T, so E[T] >= E[-c] / S. Returned is -c / S for the tokens of one draw: what is proved is
that it is not above T in the mean over draws. The nodes' times are those of the run that is
compared, as if no node were lost or came after it.

For one draw it may be below `clustersim.bound`, and is not to be raised to that: a draw counted at
too little makes up for one counted at too much, so the mean of the larger of the two is no bound.
The larger of their means is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, erfc, exp, pi, sqrt

import numpy as np

from benchlib.clustersim import Model, bound

# Share of (1): all but what keeps large stints from being counted as if they had one seat.
SHARE = 0.97
# S, in the most nodes that are there.
STEEP = 1.15
_CELLS = 200

Alive = Sequence[tuple[float, float, float]]


def lognormal_hazard(mean: float, sigma: float) -> float:
    """The largest hazard rate of a lognormal distribution."""
    largest = 0.0
    for number in range(-400, 801):
        z = number / 100
        above = erfc(z / sqrt(2)) / 2
        density = exp(-z * z / 2) / sqrt(2 * pi)
        largest = max(largest, density / (sigma * exp(sigma * z - sigma * sigma / 2) * above))
    return largest / mean


class Stints:
    """What stints of a model cost, beyond what full engines would take for the same trials."""

    def __init__(self, model: Model, slowest: float) -> None:
        self._model = model
        self._start = model.start_s * slowest
        most = np.arange(1, model.most + 1)  # B
        rate = most / (model.step_s + model.seat_s * most)
        lost = np.cumsum(model.step_s / model.hazard * (1 / most - 1 / model.most))
        self._fixed = SHARE * lost
        self._each = (1 - SHARE) * (rate[-1] / rate - 1)
        self.emptying_s = float(lost[-1])

    def cost(self, play_s: float) -> float:
        """At least, of one that plays so many seconds of a full engine."""
        return self._start + float(np.min(self._fixed + self._each * play_s))

    def costs(self, most_s: float) -> float:
        """At least, of all of them if none plays for more than so long."""
        count = max(1, ceil(self._model.node_s / most_s))
        rest = self._model.node_s - (count - 1) * most_s
        return (count - 1) * self.cost(most_s) + self.cost(rest)


def bound_unknown(models: Sequence[Model], alive: Alive) -> float:
    """No scheduler that does not know lengths of trials ends sooner on the average.

    Args:
        alive: (joined, gone, speed) of each node of a run.
    """
    fastest = max(speed for _, _, speed in alive)
    slowest = min(speed for _, _, speed in alive)
    stints = [(model, Stints(model, slowest)) for model in models]
    play_s = sum(model.node_s for model in models)
    lost_nodes = [gone for _, gone, _ in alive if gone < float("inf")]
    cut_s = max(each.emptying_s for _, each in stints)
    steep = STEEP * max(sum(s for j, g, s in alive if j <= t < g) for t, _, _ in alive)

    def offered(t: float) -> float:
        return sum(s * max(0.0, min(t, gone) - joined) for joined, gone, s in alive)

    def needs(t: float) -> float:
        costs = sum(each.costs((t - m.start_s) * fastest) for m, each in stints)
        return play_s + costs - cut_s * len(lost_nodes)

    begin = bound(models, alive)
    # From here on every model needs one stint, and nothing changes.
    end = max(begin, *(m.start_s + m.node_s / fastest for m in models)) * 1.001
    times = [begin * (end / begin) ** (cell / _CELLS) for cell in range(_CELLS + 1)]
    # Within a cell A(t) - S t falls and needs(t) falls: the largest of each.
    above = [offered(t) - steep * t for t in times]
    below = [needs(t) for t in times]
    largest = max(a - b for a, b in zip(above, [*below[1:], below[-1]], strict=True))
    return -largest / steep
