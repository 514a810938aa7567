"""Which node plays which model, and how many trials at a time. Pure: events in, assignments out, no
clock, no Ray; the driver of a run and `scripts/simulate-cluster` drive the same object.

The rules (reconstructed; what they come to stands in docs/cluster.md):

1. A finishing time for everything that is left is worked out (`_horizon`): the earliest by which
   all nodes together could play it, each start of an engine counted. It says how many nodes each
   model needs to be done by then. A free node goes to a model that lacks nodes, the longest first.
2. Where none lacks any, a free node joins the model that would end last, if what it would play
   there takes longer than a part of the engine's start.
3. A node is given what its engine has in flight and a few seconds more, never a share of the whole:
   a lost node costs the episodes it had in flight, and a slow one asks for less by itself. What is
   left at the end of a model is shared by speed. No trial is ever given out twice at a time.
4. An engine stays up, idle, until its node is wanted elsewhere: a lost block may come back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from math import ceil
from typing import Literal

# Seconds of work that a node is given beyond what is in flight: twice the time between two reports.
AHEAD_S = 4.0
# Weight of what was expected of a model, in seconds of what was seen.
PRIOR_S = 60.0
# A node joins for no less than so much of a start.
WORTH = 0.5
# Of a trial, that an engine spends emptying at the end of a model.
TAIL = 0.5
# Of a trial, that each node of a model loses while its engine empties.
DRAIN = 0.7
# Between two looks at which weights will be wanted next.
LOOK_S = 15.0

Phase = Literal["free", "starting", "playing"]


@dataclass(frozen=True, slots=True)
class Expected:
    """What is expected of a model on one node before it is known.

    Attributes:
        trials_per_s: with its engine full.
        start_s: until its engine answers.
        trial_s: one trial takes in a full engine.
    """

    trials_per_s: float
    start_s: float
    trial_s: float


@dataclass(frozen=True, slots=True)
class Start:
    """Serve this model on this node; what it served before ends."""

    node: str
    model: str


@dataclass(frozen=True, slots=True)
class Play:
    """So many more trials for this node, of the model that it serves."""

    node: str
    model: str
    trials: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """This node will probably serve this model next: its weights may be fetched meanwhile."""

    node: str
    model: str


Assignment = Start | Play | Fetch


@dataclass(slots=True)
class _Model:
    name: str
    waiting: int  # trials that no node has
    expected: Expected
    start_s: float
    out: int = 0  # trials that nodes have
    seen_s: float = 0.0  # node-seconds of play
    seen: int = 0  # trials in them
    speed: float = 1.0  # of a node, on the average
    nodes: set[str] = field(default_factory=set)

    @property
    def unit_rate(self) -> float:
        """Trials a second of a node of speed 1."""
        return (self.expected.trials_per_s * PRIOR_S + self.seen) / (PRIOR_S + self.seen_s)

    @property
    def rate(self) -> float:
        """Trials a second of a node."""
        return self.unit_rate * self.speed

    @property
    def left(self) -> int:
        return self.waiting + self.out


@dataclass(slots=True)
class _Node:
    name: str
    able: set[str]
    speed: float = 1.0
    phase: Phase = "free"
    model: str | None = None
    since: float = 0.0  # when this phase began
    last: float = 0.0  # its last report
    seen_s: float = 0.0  # as of the model, of this engine
    finished: int = 0
    out: int = 0
    target: int = 1
    fetched: str | None = None


class Scheduler:
    """Follows the nodes and models of one run.

    Args:
        models: trials that are missing and what is expected, by name.
    """

    def __init__(self, models: Iterable[tuple[str, int, Expected]]) -> None:
        self._models = {
            name: _Model(name, trials, expected, expected.start_s)
            for name, trials, expected in models
        }
        self._nodes: dict[str, _Node] = {}
        self._looked = -LOOK_S

    # --- events -------------------------------------------------------------------------------

    def join(self, node: str, able: Collection[str], now: float, speed: float = 1.0) -> None:
        """A node is there.

        Args:
            able: models that it can serve.
            speed: as far as its hardware tells; 1 is the node that `Expected` speaks of.
        """
        self._nodes[node] = _Node(node, set(able) & set(self._models), speed, since=now)
        self._weigh()

    def lose(self, node: str) -> None:
        """A node is gone; what it had is to be played by others."""
        self._leave_model(self._nodes.pop(node))
        self._weigh()

    def up(self, node: str, now: float, target: int) -> None:
        """Its engine answers, and plays so many trials at once."""
        it = self._nodes[node]
        assert it.model is not None
        model = self._models[it.model]
        model.start_s += 0.5 * (now - it.since - model.start_s)
        it.phase, it.since, it.last, it.finished = "playing", now, now, 0
        it.seen_s = 0.0
        it.target = max(1, target)

    def report(self, node: str, finished: int, target: int, now: float) -> Play | None:
        """So many more of its trials are on disk, and so many it would have in flight; what it is
        to get."""
        it = self._nodes[node]
        if it.phase != "playing" or it.model is None:
            return None
        model = self._models[it.model]
        # An engine that has just been filled ends nothing yet, and one without trials waits.
        if it.out and it.last - it.since > model.expected.trial_s:
            model.seen_s += (now - it.last) * it.speed
            model.seen += finished
            it.seen_s += now - it.last
            it.finished += finished
        it.last = now
        it.target = max(1, target)
        it.out -= finished
        model.out -= finished
        return self._top_up(it)

    def give_back(self, node: str, trials: int) -> None:
        """It could not play so many of those that it had."""
        it = self._nodes[node]
        assert it.model is not None
        model = self._models[it.model]
        it.out -= trials
        model.out -= trials
        model.waiting += trials

    def cannot(self, node: str, model: str) -> None:
        """A model cannot be served there (any more)."""
        it = self._nodes[node]
        if it.model == model:
            self._leave_model(it)
        it.able.discard(model)

    def waiting(self, model: str, trials: int) -> None:
        """So many trials of a model are left to give out: fewer where a rule has stopped cells."""
        self._models[model].waiting = trials

    # --- what follows -------------------------------------------------------------------------

    def place(self, now: float) -> list[Assignment]:
        """What free nodes are to do, and idle ones. To be asked after a node has come, gone or
        fallen idle, and now and then."""
        found: list[Assignment] = []
        for it in self._nodes.values():
            if it.phase == "playing" and (more := self._top_up(it)) is not None:
                found.append(more)
        idle = [it for it in self._nodes.values() if self._idle(it)]
        look = now >= self._looked + LOOK_S  # ahead: costs as much as placing, and is in no hurry
        if not (idle or look) or not any(model.waiting for model in self._models.values()):
            return found
        wanted = self._wanted()
        if idle:
            for it in idle:
                name = self._choose(it, wanted)
                if name is None:
                    continue
                self._leave_model(it)
                it.phase, it.model, it.since, it.fetched = "starting", name, now, None
                self._models[name].nodes.add(it.name)
                wanted[name] = wanted.get(name, 0) - 1
                found.append(Start(it.name, name))
        if look:
            self._looked = now
            found += self._foreseen(wanted)
        return found

    def unplayable(self) -> list[str]:
        """Models with trials left that no node there can serve."""
        return [
            model.name
            for model in self._models.values()
            if model.left and not any(model.name in it.able for it in self._nodes.values())
        ]

    @property
    def left(self) -> int:
        """Trials that are not on disk."""
        return sum(model.left for model in self._models.values())

    def phase(self, node: str) -> tuple[Phase, str | None]:
        """What a node does, and of which model."""
        it = self._nodes[node]
        return it.phase, it.model

    # --- rules --------------------------------------------------------------------------------

    def _weigh(self) -> None:
        speeds = [it.speed for it in self._nodes.values()]
        for model in self._models.values():
            model.speed = sum(speeds) / len(speeds) if speeds else 1.0

    def _idle(self, it: _Node) -> bool:
        if it.phase == "free":
            return True
        if it.phase != "playing" or it.out or it.model is None:
            return False
        return not self._models[it.model].waiting

    def _leave_model(self, it: _Node) -> None:
        if it.model is not None:
            model = self._models[it.model]
            model.nodes.discard(it.name)
            model.out -= it.out
            model.waiting += it.out
        it.model, it.out, it.phase = None, 0, "free"

    def _top_up(self, it: _Node) -> Play | None:
        assert it.model is not None
        model = self._models[it.model]
        rate = self._rate(it, model)
        most = it.target + ceil(rate * AHEAD_S)
        if model.waiting < most:  # the end is near: what is left goes by speed
            others = [self._nodes[name] for name in model.nodes]
            total = sum(self._rate(one, model) for one in others if one.phase == "playing")
            most = min(most, ceil(model.left * rate / max(total, 1e-9)))
        count = min(most - it.out, model.waiting)
        # Not in crumbs: a block is a message, and its trials a record each.
        if count <= 0 or (count < most / 16 and it.out >= it.target):
            return None
        it.out += count
        model.waiting -= count
        model.out += count
        return Play(it.name, model.name, count)

    def _rate(self, it: _Node, model: _Model) -> float:
        return (model.unit_rate * it.speed * PRIOR_S + it.finished) / (PRIOR_S + it.seen_s)

    def _wanted(self) -> dict[str, int]:
        """How many more nodes each model needs to be done with all others."""
        horizon = self._horizon()
        return {
            model.name: _needed(model, horizon) - len(model.nodes)
            for model in self._models.values()
            if model.waiting
        }

    def _horizon(self) -> float:
        """Seconds until all is played, were it spread over all nodes without a gap."""
        models = [model for model in self._models.values() if model.left]
        nodes = max(len(self._nodes), 1)

        play_s = sum(model.left / model.rate for model in models)

        def enough(horizon: float) -> bool:
            more = sum(
                max(0, _needed(model, horizon) - len(model.nodes))
                * (model.start_s + DRAIN * model.expected.trial_s)
                for model in models
            )
            return play_s + more <= nodes * horizon

        low = max((m.start_s + m.expected.trial_s for m in models if not m.nodes), default=1.0)
        high = low
        while not enough(high):
            high *= 2
        while high - low > 0.01 * high:
            middle = (low + high) / 2
            low, high = (low, middle) if enough(middle) else (middle, high)
        return high

    def _choose(self, it: _Node, wanted: dict[str, int]) -> str | None:
        able = [self._models[n] for n in it.able if self._models[n].waiting and n != it.model]
        lacking = [model for model in able if wanted.get(model.name, 0) > 0]
        if lacking:
            ready = [model for model in lacking if model.name == it.fetched]
            return max(ready or lacking, key=lambda m: (_ends_with_one_more(m), m.name)).name
        worth = [m for m in able if self._gain_s(m) > WORTH * m.start_s]
        return max(worth, key=lambda m: (self._gain_s(m), m.name)).name if worth else None

    def _gain_s(self, model: _Model) -> float:
        """Seconds that one more node would play of what nobody has by the time it is up."""
        nodes = len(model.nodes)
        coming = model.waiting - model.rate * nodes * model.start_s
        return coming / model.rate / (nodes + 1)

    def _foreseen(self, wanted: dict[str, int]) -> list[Assignment]:
        """Weights that nodes will want next: the models that lack nodes, longest first, to the
        nodes that fall free first."""
        lacking = [n for n, count in wanted.items() if count > 0]
        if not lacking:
            return []
        fetching = {it.fetched for it in self._nodes.values()}
        lacking = [name for name in lacking if name not in fetching]
        lacking.sort(key=lambda name: -_ends_with_one_more(self._models[name]))
        busy = [it for it in self._nodes.values() if it.phase == "playing" and it.fetched is None]
        busy.sort(key=lambda it: self._models[it.model].left if it.model else 0)
        found: list[Assignment] = []
        for name in lacking:
            for it in busy:
                if name in it.able and it.model != name:
                    it.fetched = name
                    busy.remove(it)
                    found.append(Fetch(it.name, name))
                    break
        return found


def _needed(model: _Model, horizon: float) -> int:
    """Nodes that play all that is left of a model by then; those it has need no start."""
    play_s = max(horizon - TAIL * model.expected.trial_s, 1e-9)
    rest = model.left - len(model.nodes) * play_s * model.rate
    if rest <= 0:
        return min(len(model.nodes), model.left)
    each = max(play_s - model.start_s, 1e-9) * model.rate
    return min(len(model.nodes) + ceil(rest / each), model.left)


def _ends_with_one_more(model: _Model) -> float:
    return model.start_s + model.left / model.rate / (len(model.nodes) + 1)
