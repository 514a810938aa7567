"""What the scheduler knows of models and nodes, and how it learns it."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log
from typing import Literal

# Weight of what was expected of a model, in seconds of what was seen.
PRIOR_S = 60.0
# An engine that has just been filled ends nothing for a while: in the long run it is behind by so
# much of a trial, ((1 - cv^2) / 2 of renewal theory, cv being that of a trial's length).
BEHIND = 0.35
# The last trials of a stint keep an engine up while its other seats are empty: for so many lengths
# of a trial, times the logarithm of the seats (the longest of so many that are under way lasts
# about so much longer than their mean, from trials of a lognormal length, cv 0.4; what is seen of
# a run's own trials corrects it).
LONGEST = 0.35
# Of a trial, what is left on the average of those that are under way.
UNDER_WAY = 0.6

Phase = Literal["free", "starting", "playing"]


@dataclass(frozen=True, slots=True)
class Expected:
    """What is expected of a model on one node before it is known.

    Attributes:
        trials_per_s: with its engine full.
        start_s: until its engine answers.
        trial_s: one trial takes in a full engine.
        alone: of this, what it takes alone in an engine; 1 where steps take the same time however
            many are in flight.
    """

    trials_per_s: float
    start_s: float
    trial_s: float
    alone: float = 0.6


@dataclass(slots=True)
class ModelState:
    """One model."""

    name: str
    waiting: int  # trials that no node has
    expected: Expected
    start_s: float
    out: int = 0  # trials that nodes have
    seen_s: float = 0.0  # seconds of play of a node of speed 1, its engine full
    seen: float = 0.0  # trials in them
    target: int = 0
    emptied: list[float] = field(default_factory=list)  # by how often what was expected, each end
    # That do not leave it; no set, so that a simulation with the same seed goes the same way.
    nodes: dict[str, None] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Trials a second of a node of speed 1."""
        return (self.expected.trials_per_s * PRIOR_S + self.seen) / (PRIOR_S + self.seen_s)

    @property
    def trial_s(self) -> float:
        """A trial takes in a full engine: Little's law, once its size is known."""
        return self.target / self.rate if self.target else self.expected.trial_s

    @property
    def alone_s(self) -> float:
        """A trial takes alone in an engine."""
        return min(self.expected.alone, 1.0) * self.trial_s

    @property
    def empty_s(self) -> float:
        """What an engine of a node of speed 1 is expected to lose while it empties."""
        # Little's law tells the seats that are expected.
        seats = self.target or self.expected.trials_per_s * self.expected.trial_s
        return max(1.0, LONGEST * log(max(seats, 1.0))) * self.alone_s

    @property
    def left(self) -> int:
        return self.waiting + self.out


@dataclass(slots=True)
class NodeState:
    """One node."""

    name: str
    able: set[str]
    speed: float = 1.0
    phase: Phase = "free"
    model: str | None = None
    since: float = 0.0  # when this phase began
    took_s: float = 0.0  # its last start
    leaving: bool = False  # gets no more of this model
    emptying: float | None = None  # since when
    filled: float = 0.0  # when its engine, empty before, got trials
    ended: int = 0  # trials, of this engine, since then
    full_s: float = 0.0  # that the engine has been full, from its start
    full: int = 0  # trials that ended in them
    seen_s: float = 0.0  # of these, what is counted
    seen: float = 0.0
    last: float = 0.0  # its last report
    out: int = 0
    target: int = 1
    fetched: str | None = None


def rate_of(it: NodeState, model: ModelState) -> float:
    """Trials a second of this node."""
    return (model.rate * it.speed * PRIOR_S + it.seen) / (PRIOR_S + it.seen_s)


def done_of(it: NodeState, model: ModelState, now: float) -> float:
    """Of the trials that a node has in flight, what is done, in trials."""
    if it.phase != "playing":
        return 0.0
    aged = min(1.0, (now - it.filled) / max(model.trial_s, 1e-9))
    return (1 - UNDER_WAY) * aged * min(it.out, it.target)


def emptying_s(model: ModelState, usual: float) -> float:
    """What an engine of a model loses while it empties.

    Args:
        usual: of all models, by how often what was expected.
    """
    return model.empty_s * (usual + sum(model.emptied)) / (1 + len(model.emptied))


def tail_s(model: ModelState, usual: float) -> float:
    """From the last trial that an engine of a model gets to the end of all that it has."""
    return emptying_s(model, usual) + UNDER_WAY * model.trial_s


def learn_rate(it: NodeState, model: ModelState) -> None:
    """How fast a node with a full engine plays."""
    early = it.full_s < 0.6 * model.trial_s and it.full < 0.25 * it.target
    if early and not it.seen_s:
        return
    ended = it.full + BEHIND * it.target
    model.seen_s += (it.full_s - it.seen_s) * it.speed
    model.seen += ended - it.seen
    it.seen_s, it.seen = it.full_s, ended


def learn_emptying(it: NodeState, model: ModelState, now: float) -> None:
    """What its engine lost that has just ended the last of its trials."""
    lost_s = now - it.filled - it.ended / (model.rate * it.speed)
    if it.seen_s:
        model.emptied.append(min(max(lost_s * it.speed / max(model.empty_s, 1e-9), 0.2), 3.0))
    it.ended = 0
