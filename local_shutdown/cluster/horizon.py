"""When everything that is left could be done, and which models lack nodes for that. Pure.

A plan like McNaughton's wrap-around rule: all nodes end together, so a model keeps its nodes up to
the end, and only what does not fill a whole node is cut. Each stint of a node on a model costs a
start of the engine and its emptying at the end, so the fewer stints, the better: a model's own
nodes are counted first, then whole nodes that are free, then the rest is put where it fits best,
and it is split only where it fits nowhere.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

# A stint plays for no less than so much of what it costs.
WORTH = 0.25
_NEAR = 0.005
_MOST_S = 1e12


@dataclass(frozen=True, slots=True)
class Crew:
    """A node that serves a model.

    Attributes:
        wait_s: until its engine is up.
        free: it may be taken away.
    """

    name: str
    speed: float
    wait_s: float
    free: bool


@dataclass(frozen=True, slots=True)
class Work:
    """What is left of a model.

    Attributes:
        work_s: of a node of speed 1, its engine full.
        waiting_s: of that, what no node has.
        start_s: of an engine.
        empty_s: lost while an engine empties, in each stint.
    """

    name: str
    work_s: float
    waiting_s: float
    start_s: float
    empty_s: float
    crew: Sequence[Crew] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """A node that is free, now or soon.

    Attributes:
        after_s: until it is.
        able: models that it can serve.
    """

    name: str
    speed: float
    after_s: float
    able: Collection[str]


@dataclass(slots=True)
class Plan:
    """Who plays what.

    Attributes:
        seconds: from now to the end of everything.
        stints: (seconds, model) of nodes that a model lacks.
        spared: (node, model) that a model can do without and another model wants.
    """

    seconds: float
    stints: list[tuple[float, str]] = field(default_factory=list)
    spared: list[tuple[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class _Bin:
    room_s: float
    place: Place
    of: str | None  # the model that can do without it
    now: bool


def horizon(
    works: Sequence[Work], places: Sequence[Place], able: Mapping[str, Collection[str]]
) -> Plan:
    """The shortest plan that is found.

    Args:
        able: of each node of a crew.
    """
    reach = {name for place in places for name in place.able}
    reach |= {name for work in works for node in work.crew for name in able[node.name]}
    works = [work for work in works if work.name in reach]
    low, high = 0.0, 1.0
    while (best := _pack(works, places, able, high)) is None:
        low, high = high, 2 * high
        if high > _MOST_S:
            return Plan(high)
    while high - low > _NEAR * high:
        middle = (low + high) / 2
        found = _pack(works, places, able, middle)
        if found is None:
            low = middle
        else:
            high, best = middle, found
    return best


class _Packing:
    """Nodes that are free at some time before the end, and who gets them."""

    def __init__(self, end_s: float) -> None:
        self.plan = Plan(end_s)
        self._bins: list[tuple[float, int, _Bin]] = []  # by what they offer
        self._number = 0

    def put(self, one: _Bin) -> None:
        self._number += 1
        insort(self._bins, (one.room_s * one.place.speed, self._number, one))

    def whole(self, work: Work, rest: float) -> float | None:
        """Give it whole nodes, the largest first; returns what is left then."""
        while rest > 0:
            at = self._biggest(work)
            if at is None or (offer := self._offer(at, work)) <= 0:
                return None
            if rest < offer:
                break
            one = self._bins.pop(at)[2]
            self._use(one, work, one.room_s)
            rest -= offer
        return max(rest, 0.0)

    def part(self, work: Work, rest: float) -> bool:
        """Give it a part of the node that it fills best, or of several."""
        cost_s = work.start_s + work.empty_s
        while rest > 0:
            at = self._fitting(work, rest)
            if at is None:
                at = self._biggest(work)  # as much as that takes
            if at is None:
                return False
            offer = self._offer(at, work)
            one = self._bins.pop(at)[2]
            if offer < min(rest, WORTH * cost_s * one.place.speed):
                return False
            did = min(rest, offer)
            took_s = cost_s + did / one.place.speed
            self._use(one, work, took_s)
            rest -= did
            if one.room_s > took_s:
                self.put(_Bin(one.room_s - took_s, one.place, None, False))
        return True

    def _offer(self, at: int, work: Work) -> float:
        one = self._bins[at][2]
        return (one.room_s - work.start_s - work.empty_s) * one.place.speed

    def _use(self, one: _Bin, work: Work, seconds: float) -> None:
        self.plan.stints.append((seconds, work.name))
        if one.of is not None and one.now:
            self.plan.spared.append((one.place.name, one.of))

    def _biggest(self, work: Work) -> int | None:
        last = range(len(self._bins) - 1, -1, -1)
        return next((at for at in last if self._may(at, work)), None)

    def _fitting(self, work: Work, rest: float) -> int | None:
        enough = range(bisect_left(self._bins, (rest, 0)), len(self._bins))
        fits = (at for at in enough if self._may(at, work) and self._offer(at, work) >= rest)
        return next(fits, None)

    def _may(self, at: int, work: Work) -> bool:
        one = self._bins[at][2]
        return work.name in one.place.able and one.of != work.name


def _pack(
    works: Sequence[Work],
    places: Sequence[Place],
    able: Mapping[str, Collection[str]],
    end_s: float,
) -> Plan | None:
    """Everything done by then; None where that is not found."""
    packing = _Packing(end_s)
    for place in places:
        if end_s > place.after_s:
            packing.put(_Bin(end_s - place.after_s, place, None, False))
    rests: list[tuple[float, Work]] = []
    for work in works:
        rest = _by_crew(work, able, packing)
        if rest <= 0:
            continue
        if rest > work.waiting_s + _NEAR * work.work_s:
            return None  # its nodes have more than they can play by then
        rests.append((rest, work))
    parts: list[tuple[float, Work]] = []
    for rest, work in sorted(rests, key=lambda r: -r[0]):
        left = packing.whole(work, rest)
        if left is None:
            return None
        parts.append((left, work))
    parts.sort(key=lambda r: -(r[0] + r[1].start_s + r[1].empty_s))
    if not all(packing.part(work, rest) for rest, work in parts):
        return None
    return packing.plan


def _by_crew(work: Work, able: Mapping[str, Collection[str]], packing: _Packing) -> float:
    """What the nodes of a model leave; what they can do without it is free for others."""
    rest = work.work_s
    end_s = packing.plan.seconds
    for node in sorted(work.crew, key=lambda c: (c.free, -c.speed)):
        does = max(0.0, end_s - work.empty_s - node.wait_s) * node.speed
        room_s = end_s - node.wait_s - rest / node.speed - work.empty_s
        if rest < does and room_s > 0:
            place = Place(node.name, node.speed, 0.0, able[node.name])
            packing.put(_Bin(room_s, place, work.name, rest <= 0 and node.free))
        rest = max(0.0, rest - does)
    return rest
