"""Which node plays which model, and how many trials at a time. Pure: events in, assignments out, no
clock, no Ray; the driver of a run and `scripts/simulate-cluster` drive the same object.

The rules (reconstructed; what they come to stands in docs/cluster.md):

1. The shortest plan for everything that is left is worked out (`horizon`), each start of an engine
   and its emptying counted. A free node takes the longest stint of it; of a model whose speed is
   not known yet, fewer than planned while there is something else. The last trials of a stint keep
   an engine up: stints that end slowly go first, short ones that end quickly fill what is left.
2. A node leaves a model that ends in time without it, where another model wants it: so a model
   keeps its other nodes to the end, and all end together.
3. A node is given what its engine has in flight and a few seconds more, never a share of the whole:
   a lost node costs the episodes it had in flight, and a slow one asks for less by itself. What is
   left at the end of a model is shared by speed; a short run, which is all end, among the nodes
   whose engines come up within seconds of each other. No trial is ever given out twice at a time.
4. An engine stays up, idle, until its node is wanted elsewhere: a lost block may come back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from math import ceil, floor

from local_shutdown.cluster.horizon import Crew, Place, Plan, Work, horizon
from local_shutdown.cluster.standing import (
    PRIOR_S,
    Expected,
    ModelState,
    NodeState,
    Phase,
    done_of,
    emptying_s,
    learn_emptying,
    learn_rate,
    rate_of,
    tail_s,
)

# Seconds of work that a node is given beyond what is in flight: twice the time between two reports.
AHEAD_S = 4.0
# So long after its engine has come up a node leaves their share to others that are about to.
SOON_S = 4.0
# Weight of what is expected of the emptying of engines, in engines that were seen to.
EMPTYING_WEIGHT = 3.0
# Of the nodes that a model is to get, those that it gets before its speed is known.
CAUTION = 0.7
# Stints shorter than so much of what is left, whose engines empty within so much of a stint, fill
# what is left of nodes at the end.
LATER, QUICK = 0.3, 0.25
# What the time in which an engine empties counts beside a stint, in the order of stints.
VARIES = 2.0
# Between two looks at which weights will be wanted next, and at which nodes a model can spare.
LOOK_S = 15.0


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


class Scheduler:
    """Follows the nodes and models of one run.

    Args:
        models: trials that are missing and what is expected, by name.
    """

    def __init__(self, models: Iterable[tuple[str, int, Expected]]) -> None:
        self._models = {
            name: ModelState(name, trials, expected, expected.start_s)
            for name, trials, expected in models
        }
        self._nodes: dict[str, NodeState] = {}
        self._looked = -LOOK_S

    # --- events -------------------------------------------------------------------------------

    def join(self, node: str, able: Collection[str], now: float, speed: float = 1.0) -> None:
        """A node is there.

        Args:
            able: models that it can serve.
            speed: as far as its hardware tells; 1 is the node that `Expected` speaks of.
        """
        self._nodes[node] = NodeState(node, set(able) & set(self._models), speed, since=now)

    def lose(self, node: str) -> None:
        """A node is gone; what it had is to be played by others."""
        self._leave_model(self._nodes.pop(node))

    def up(self, node: str, now: float, target: int) -> None:
        """Its engine answers, and plays so many trials at once."""
        it = self._nodes[node]
        assert it.model is not None
        model = self._models[it.model]
        it.took_s = now - it.since
        model.start_s += 0.5 * (it.took_s - model.start_s)
        it.phase, it.since, it.last, it.emptying, it.leaving = "playing", now, now, None, False
        it.filled, it.ended, it.full = now, 0, 0
        it.full_s = it.seen_s = it.seen = 0.0
        it.target = model.target = max(1, target)

    def report(self, node: str, finished: int, target: int, now: float) -> Play | None:
        """So many more of its trials are on disk, and so many it would have in flight; what it is
        to get."""
        it = self._nodes[node]
        if it.phase != "playing" or it.model is None:
            return None
        model = self._models[it.model]
        if it.out >= it.target and it.emptying is None:
            it.full_s += now - it.last
            it.full += finished
            learn_rate(it, model)
        it.last = now
        it.target = model.target = max(1, target)
        it.ended += finished
        it.out -= finished
        model.out -= finished
        more = self._top_up(it, now)
        if more is None and it.out < it.target and it.ended and it.emptying is None:
            it.emptying = now
        if finished and not it.out and it.emptying is not None:
            learn_emptying(it, model, now)
        return more

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
            if it.phase == "playing" and (more := self._top_up(it, now)) is not None:
                found.append(more)
        idle = [it for it in self._nodes.values() if self._idle(it)]
        look = now >= self._looked + LOOK_S  # ahead: costs as much as placing, and is in no hurry
        if not (idle or look) or not any(model.waiting for model in self._models.values()):
            return found
        plan = self._plan(now)
        stints = sorted(plan.stints, key=self._first, reverse=True)
        found += self._take_again(stints, now)
        lacking = [one for one in self._cautious(stints) if not self._later(one, plan)]
        for it in idle:
            if not self._idle(it):
                continue  # taken again
            name = self._choose(it, lacking) or self._choose(it, stints)
            if name is None:
                continue
            for those in (lacking, stints):
                this = next((stint for stint in those if stint[1] == name), None)
                if this is not None:
                    those.remove(this)
            self._leave_model(it)
            it.phase, it.model, it.since, it.fetched = "starting", name, now, None
            self._models[name].nodes[it.name] = None
            found.append(Start(it.name, name))
        if look:
            self._looked = now
            found += self._foreseen(stints)
            self._spare(plan)
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

    # --- what is learned ----------------------------------------------------------------------

    def _emptying(self) -> float:
        """By how often what was expected engines lose while they empty: of any model."""
        seen = [share for model in self._models.values() for share in model.emptied]
        return (EMPTYING_WEIGHT + sum(seen)) / (EMPTYING_WEIGHT + len(seen))

    # --- rules --------------------------------------------------------------------------------

    def _idle(self, it: NodeState) -> bool:
        if it.phase == "free":
            return True
        if it.phase != "playing" or it.out or it.model is None:
            return False
        return it.leaving or not self._models[it.model].waiting

    def _leave_model(self, it: NodeState) -> None:
        if it.model is not None:
            model = self._models[it.model]
            model.nodes.pop(it.name, None)
            model.out -= it.out
            model.waiting += it.out
        it.model, it.out, it.phase, it.leaving = None, 0, "free", False

    def _top_up(self, it: NodeState, now: float) -> Play | None:
        assert it.model is not None
        model = self._models[it.model]
        if it.leaving:
            return None
        rate = rate_of(it, model)
        most = it.target + ceil(rate * AHEAD_S)
        if model.waiting < most:  # the end is near: what is left goes by speed
            others = [self._nodes[name] for name in model.nodes]
            shares = [one for one in others if one.phase == "playing" or _soon(one, it, now)]
            total = sum(rate_of(one, model) for one in shares)
            left = model.waiting + sum(one.out for one in others)
            most = min(most, ceil(left * rate / max(total, 1e-9)))
        count = min(most - it.out, model.waiting)
        # Not in crumbs: a block is a message, and its trials a record each.
        if count <= 0 or (count < most / 16 and it.out >= it.target):
            return None
        if not it.out and it.emptying is not None:  # it stood idle: that is no emptying
            it.filled, it.ended = now, 0
        it.out += count
        model.waiting -= count
        model.out += count
        it.emptying = None
        return Play(it.name, model.name, count)

    def _plan(self, now: float) -> Plan:
        works, places = [], []
        able = {it.name: it.able for it in self._nodes.values()}
        usual = self._emptying()
        for model in self._models.values():
            if not model.left:
                continue
            crew = []
            out = 0.0
            for name in model.nodes:
                it = self._nodes[name]
                wait_s = max(0.0, it.since + model.start_s - now) if it.phase == "starting" else 0.0
                certain = it.phase == "playing" and model.seen_s >= PRIOR_S
                crew.append(Crew(name, it.speed, wait_s, certain and it.emptying is None))
                out += it.out - done_of(it, model, now)
            if not model.waiting:
                continue
            works.append(
                Work(
                    model.name,
                    (model.waiting + out) / model.rate,
                    model.waiting / model.rate,
                    model.start_s,
                    emptying_s(model, usual),
                    crew,
                )
            )
        for it in self._nodes.values():
            after_s = 0.0
            if it.model is not None:
                model = self._models[it.model]
                if not it.leaving and model.waiting:
                    continue
                begun = now if it.emptying is None else it.emptying
                if it.out or it.phase == "starting":
                    after_s = max(5.0, begun + tail_s(model, usual) - now)
            places.append(Place(it.name, it.speed, after_s, it.able))
        return horizon(works, places, able)

    def _take_again(self, stints: list[tuple[float, str]], now: float) -> list[Assignment]:
        """Nodes that were to leave a model which lacks some now: its engine is still up there."""
        found: list[Assignment] = []
        for it in self._nodes.values():
            this = next((stint for stint in stints if it.leaving and stint[1] == it.model), None)
            if this is not None:
                stints.remove(this)
                it.leaving = False
                self._models[this[1]].nodes[it.name] = None
                if (more := self._top_up(it, now)) is not None:
                    found.append(more)
        return found

    def _cautious(self, stints: list[tuple[float, str]]) -> list[tuple[float, str]]:
        """Fewer nodes than planned for models whose speed is not known yet: one that comes later
        costs a start, and one that is spared has cost it for nothing."""
        allowed = Counter(name for _, name in stints)
        for name, count in allowed.items():
            model = self._models[name]
            if not model.seen_s:
                nodes = len(model.nodes)
                least = 0 if nodes else 1
                allowed[name] = max(floor(CAUTION * (count + nodes)) - nodes, least)
        found = []
        for stint in stints:
            if allowed[stint[1]]:
                allowed[stint[1]] -= 1
                found.append(stint)
        return found

    def _first(self, stint: tuple[float, str]) -> tuple[float, str]:
        """The longest stints first, and rather those whose ends vary most."""
        seconds, name = stint
        return seconds + VARIES * tail_s(self._models[name], self._emptying()), name

    def _later(self, stint: tuple[float, str], plan: Plan) -> bool:
        """Whether something fills a gap well, and so is kept for one."""
        seconds, name = stint
        ends_s = tail_s(self._models[name], self._emptying())
        return seconds < LATER * plan.seconds and ends_s < QUICK * seconds

    def _choose(self, it: NodeState, lacking: list[tuple[float, str]]) -> str | None:
        able = [n for _, n in lacking if n in it.able and self._models[n].waiting]
        able = [n for n in able if n != it.model]
        return next((n for n in able if n == it.fetched), able[0] if able else None)

    def _spare(self, plan: Plan) -> None:
        """A model lets nodes go that it can do without, one at a time."""
        seen = set()
        for name, model in plan.spared:
            it = self._nodes[name]
            if model not in seen and it.model == model and len(self._models[model].nodes) > 1:
                seen.add(model)
                it.leaving = True
                self._models[model].nodes.pop(name, None)

    def _foreseen(self, lacking: list[tuple[float, str]]) -> list[Assignment]:
        """Weights that nodes will want next: the models that lack nodes, longest first, to the
        nodes that fall free first."""
        fetching = {it.fetched for it in self._nodes.values()}
        names = [n for n in dict.fromkeys(n for _, n in lacking) if n not in fetching]
        busy = [it for it in self._nodes.values() if it.phase == "playing" and it.fetched is None]
        busy.sort(key=lambda it: (not it.leaving, self._models[it.model].left if it.model else 0))
        found: list[Assignment] = []
        for name in names:
            for it in busy:
                if name in it.able and it.model != name:
                    it.fetched = name
                    busy.remove(it)
                    found.append(Fetch(it.name, name))
                    break
        return found


def _soon(one: NodeState, it: NodeState, now: float) -> bool:
    """Whether a node is about to play what another has just begun to: its engine was started no
    later, and would be up as soon if it took as long."""
    if one.phase != "starting" or now >= it.since + SOON_S:
        return False
    return one.since + it.took_s < it.since + SOON_S
