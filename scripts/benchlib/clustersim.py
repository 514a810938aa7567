"""Simulated nodes for the cluster's scheduler, and a lower bound of what any scheduler could do.

A node plays one model at a time. Its engine takes `start_s` to come up; with `b` trials in flight
every trial moves on by one token each `step_s + seat_s * b` seconds (weights are read once a step,
each sequence's cache once more), so a full engine does the most and the last trials of a model run
faster and leave it emptier. Prefill, tools and sandboxes are left out: they stretch bound and run
alike. A trial is a number of tokens, drawn once: played again after a loss it is as long as before.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil

from local_shutdown.cluster.schedule import Fetch, Play, Scheduler, Start
from local_shutdown.cluster.standing import Expected

REPORT_S = 2.0
PLACE_S = 5.0
STOP_S = 5.0  # until an engine has let go of its GPUs


@dataclass(frozen=True)
class Model:
    """A model on one node.

    Attributes:
        tokens: of each trial.
        start_s: of its engine, weights at hand.
        fetch_s: of its weights, where they are not at hand.
        step_s, seat_s: of a step, and for each trial in flight.
        most: trials in flight.
        hazard: of those that have come to some token, the most that end with the next one. Only
            the bound for schedulers that do not know lengths asks for it.
    """

    name: str
    tokens: Sequence[float]
    start_s: float
    fetch_s: float
    step_s: float
    seat_s: float
    most: int
    hazard: float = float("inf")

    @cached_property
    def node_s(self) -> float:
        """Seconds that a full engine takes for all trials: no node does it in less."""
        return sum(self.tokens) * (self.step_s + self.seat_s * self.most) / self.most

    @cached_property
    def longest_s(self) -> float:
        """The longest trial, alone in an engine."""
        return max(self.tokens) * (self.step_s + self.seat_s)

    def expected(self, error: float = 1.0, alone_error: float = 1.0) -> Expected:
        """What a scheduler is told beforehand; by how much the speed is wrong, and what a trial
        takes alone in an engine beside what it takes in a full one."""
        rate = len(self.tokens) / self.node_s * error
        alone = (self.step_s + self.seat_s) / (self.step_s + self.seat_s * self.most)
        return Expected(rate, self.start_s, self.most / rate, min(alone * alone_error, 1.0))


@dataclass(frozen=True)
class Cluster:
    """Nodes that join and are lost.

    Attributes:
        speeds: of each node; 1 plays as the models say.
        joins_s: when each comes.
        losses_s: when a node is lost; which one is drawn at random.
        back_s: after a loss until another joins in its place; None for never.
        shared: weights are read from a shared cache; else each node fetches them once.
    """

    speeds: Sequence[float]
    joins_s: Sequence[float]
    losses_s: Sequence[float] = ()
    back_s: float | None = None
    shared: bool = True


@dataclass
class Result:
    """What a simulated run came to."""

    makespan_s: float
    starts: int
    lost_nodes: int
    played_again: int
    alive: list[tuple[float, float, float]]  # (joined, gone, speed) of each node
    spent: dict[str, float]  # see `Account`

    @property
    def offered_s(self) -> float:
        """What the nodes that were there offered, weighed by speed: the sum of what was spent."""
        return sum(s * (min(gone, self.makespan_s) - joined) for joined, gone, s in self.alive)


def bound(models: Sequence[Model], alive: Sequence[tuple[float, float, float]]) -> float:
    """No schedule on these nodes ends before this.

    Say one ends at t. (1) Some engine of model m plays its longest trial: after a start, and no
    faster than alone in the engine of the fastest node, so t >= start_m + longest_m / fastest.
    (2) Each start of an engine of m leaves less than t - start_m for play on that node, in which
    it does at most (t - start_m) * fastest of the node_s_m seconds that m takes in full engines
    (a full engine does the most a second: b / (step + seat * b) grows with b). So m is started at
    least k_m(t) = ceil(node_s_m / ((t - start_m) * fastest)) times, once at least. (3) Starting
    and playing take nodes: weighed by speed, the nodes there up to t offer A(t) = sum of speed *
    (time there before t). Playing takes node_s_m of it in all, and each start takes start_m *
    slowest at least. So sum over m of node_s_m + k_m(t) * start_m * slowest <= A(t). The left
    side falls with t and the right one grows, so the smallest t for which (1) and (3) hold is a
    bound. What is left out (lost work, engines that are not full, weights that are fetched,
    stops) only makes t larger. The nodes' times are those of the run that is compared; a node
    that is lost at x offers nothing after x to anybody.
    """
    fastest = max(speed for _, _, speed in alive)
    slowest = min(speed for _, _, speed in alive)

    def possible(t: float) -> bool:
        needs = 0.0
        for model in models:
            if t < model.start_s + model.longest_s / fastest:
                return False
            starts = max(1, ceil(model.node_s / ((t - model.start_s) * fastest)))
            needs += model.node_s + starts * model.start_s * slowest
        offered = sum(s * max(0.0, min(t, gone) - joined) for joined, gone, s in alive)
        return needs <= offered

    low, high = 0.0, 1.0
    while not possible(high):
        low, high = high, 2 * high
        if high > 1e9:
            return float("inf")
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if possible(middle) else (middle, high)
    return low


@dataclass
class _Node:
    name: str
    speed: float
    joined: float
    gone: float = float("inf")
    model: Model | None = None
    up: bool = False
    generation: int = 0
    at: float = 0.0  # when `done` was brought up to date
    done: float = 0.0  # tokens that every trial in flight has moved on since the engine came up
    flight: list[tuple[float, int]] = field(default_factory=list)  # heap: (done at its end, trial)
    queue: deque[int] = field(default_factory=deque)
    ended: list[int] = field(default_factory=list)
    fetched: set[str] = field(default_factory=set)
    # Seconds since they were last put down, see `Account`.
    play_s: float = 0.0
    short_s: float = 0.0
    idle_s: float = 0.0
    start_s: float = 0.0

    def step(self) -> float:
        assert self.model is not None
        return (self.model.step_s + self.model.seat_s * len(self.flight)) / self.speed

    def fill(self) -> None:
        assert self.model is not None
        while self.queue and len(self.flight) < self.model.most:
            trial = self.queue.popleft()
            heapq.heappush(self.flight, (self.done + self.model.tokens[trial], trial))

    def _pass(self, until: float) -> None:
        """Time goes by with as many in flight as there are: what a full engine takes for the same
        tokens is play, and the rest is lost."""
        seconds = until - self.at
        if self.model is not None and not self.up:
            self.start_s += seconds
        elif self.model is None or not self.flight:
            self.idle_s += seconds
        else:
            model, many = self.model, len(self.flight)
            each = (model.step_s + model.seat_s * model.most) / model.most
            share = many * each / (model.step_s + model.seat_s * many)
            self.play_s += share * seconds
            self.short_s += (1 - share) * seconds
        self.at = until

    def advance(self, now: float) -> None:
        """Play up to a time."""
        if self.model is None or not self.up:
            self._pass(now)
            return
        self.fill()
        while self.flight:
            ends = self.at + (self.flight[0][0] - self.done) * self.step()
            if ends > now:
                break
            self._pass(ends)
            self.done, trial = heapq.heappop(self.flight)
            self.ended.append(trial)
            self.fill()
        if self.flight:
            self.done += (now - self.at) / self.step()
        self._pass(now)

    def undone_s(self) -> float:
        """Of its play, what is lost with it: trials in flight, and those not reported yet."""
        if self.model is None or not self.up:
            return 0.0
        tokens = sum(self.model.tokens[t] - (ends - self.done) for ends, t in self.flight)
        tokens += sum(self.model.tokens[trial] for trial in self.ended)
        return tokens * (self.model.step_s + self.model.seat_s * self.model.most) / self.model.most


class Account:
    """Where the time of nodes went, weighed by their speed. Its parts sum to what they offered.

    play: what full engines take for all trials, each counted once.
    starts: of engines, from the order to the answer.
    filling: lost by an engine that was not full, before it got more trials.
    emptying: lost by one that was not full and got no more of that model.
    idle: nothing in flight while some trial was waiting; at the end: while none was.
    lost: what a lost node had begun to start, and had played of trials that others play again.
    """

    PARTS = ("play", "starts", "filling", "emptying", "idle", "idle at the end", "lost")

    def __init__(self) -> None:
        self.spent = dict.fromkeys(self.PARTS, 0.0)
        self._short: dict[str, float] = {}  # by node: filling or emptying, as it will turn out

    def note(self, node: _Node, waiting: bool) -> None:
        """A node has been brought up to date; to be called before anything changes for it."""
        self.spent["idle" if waiting else "idle at the end"] += node.idle_s * node.speed
        self.spent["play"] += node.play_s * node.speed
        self._short[node.name] = self._short.get(node.name, 0.0) + node.short_s * node.speed
        node.idle_s = node.play_s = node.short_s = 0.0

    def more(self, node: _Node) -> None:
        """It gets trials."""
        self.spent["filling"] += self._short.pop(node.name, 0.0)

    def up(self, node: _Node) -> None:
        self.spent["starts"] += node.start_s * node.speed
        node.start_s = 0.0

    def leave(self, node: _Node) -> None:
        """It gets no more of its model."""
        self.spent["emptying"] += self._short.pop(node.name, 0.0)

    def lose(self, node: _Node) -> None:
        undone = node.undone_s()  # at any speed: it is in seconds of a node of speed 1
        self.spent["play"] -= undone
        self.spent["lost"] += undone + node.start_s * node.speed
        node.start_s = 0.0


def simulate(
    models: Sequence[Model], cluster: Cluster, seed: int = 0, error: float = 1.0
) -> Result:
    """Play everything; every trial ends exactly once.

    Args:
        seed: of which node is lost.
        error: what the scheduler is told of each model's speed, and of what a trial takes alone in
            an engine beside a full one, is wrong by up to this factor.
    """
    rng, other = random.Random(seed), random.Random(f"alone {seed}")
    by_name = {model.name: model for model in models}
    scheduler = Scheduler(
        (
            m.name,
            len(m.tokens),
            m.expected(error ** rng.uniform(-1, 1), error ** other.uniform(-1, 1)),
        )
        for m in models
    )
    waiting = {m.name: deque(range(len(m.tokens))) for m in models}
    played: dict[str, set[int]] = {m.name: set() for m in models}
    nodes: dict[str, _Node] = {}
    alive: list[_Node] = []
    starts = lost = again = 0
    events: list[tuple[float, int, str, str, int]] = []
    tie = 0
    account = Account()

    def advance(node: _Node, now: float) -> None:
        node.advance(now)
        account.note(node, node.idle_s > 0 and any(waiting.values()))

    def at(when: float, what: str, name: str = "", generation: int = 0) -> None:
        nonlocal tie
        tie += 1
        heapq.heappush(events, (when, tie, what, name, generation))

    for number, when in enumerate(cluster.joins_s):
        at(when, "join", f"n{number}")
    for when in cluster.losses_s:
        at(when, "lose")
    at(PLACE_S, "place")

    def apply(assignments: Sequence[Start | Play | Fetch | None], now: float) -> None:
        nonlocal starts
        for one in assignments:
            if isinstance(one, Start):
                starts += 1
                node, model = nodes[one.node], by_name[one.model]
                assert not [*node.flight, *node.queue]
                advance(node, now)
                account.leave(node)
                wait = model.start_s + (STOP_S if node.model is not None else 0.0)
                if not cluster.shared and model.name not in node.fetched:
                    wait += model.fetch_s
                    node.fetched.add(model.name)
                node.model, node.up = model, False
                node.generation += 1
                at(now + wait, "up", node.name, node.generation)
            elif isinstance(one, Play):
                node = nodes[one.node]
                advance(node, now)
                account.more(node)
                node.queue.extend(waiting[one.model].popleft() for _ in range(one.trials))
            elif isinstance(one, Fetch):
                # It is had by the time the node is free; a start before that is not modelled.
                nodes[one.node].fetched.add(one.model)

    now = 0.0
    while scheduler.left:
        now, _, what, name, generation = heapq.heappop(events)
        if what == "join":
            speed = cluster.speeds[int(name[1:]) % len(cluster.speeds)]
            nodes[name] = _Node(name, speed, now, at=now)
            alive.append(nodes[name])
            scheduler.join(name, by_name, now)
            if not (events and events[0][0] == now and events[0][2] == "join"):
                apply(scheduler.place(now), now)
        elif what == "lose" and nodes:
            gone = nodes.pop(rng.choice(sorted(nodes)))
            advance(gone, now)
            account.leave(gone)
            account.lose(gone)
            gone.gone = now
            lost += 1
            if gone.model is not None:
                # What has ended since the last report is lost with it.
                back = [*(trial for _, trial in gone.flight), *gone.queue, *gone.ended]
                again += len(gone.flight) + len(gone.ended)
                waiting[gone.model.name].extendleft(back)
            scheduler.lose(gone.name)
            if cluster.back_s is not None:
                at(now + cluster.back_s, "join", f"n{len(cluster.speeds) + lost}")
            apply(scheduler.place(now), now)
        elif what == "place":
            at(now + PLACE_S, "place")
            apply(scheduler.place(now), now)
        elif what == "up" and name in nodes and nodes[name].generation == generation:
            node = nodes[name]
            assert node.model is not None
            advance(node, now)
            account.up(node)
            node.up, node.done = True, 0.0
            scheduler.up(name, now, node.model.most)
            at(now, "report", name, generation)
        elif what == "report" and name in nodes and nodes[name].generation == generation:
            node = nodes[name]
            assert node.model is not None
            advance(node, now)
            ended, node.ended = node.ended, []
            seen = played[node.model.name]
            assert seen.isdisjoint(ended), "a trial was played to its end twice"
            seen.update(ended)
            more = scheduler.report(name, len(ended), node.model.most, now)
            apply([more], now)
            if ended and not node.flight and not node.queue:
                apply(scheduler.place(now), now)
            if node.generation == generation:
                at(now + REPORT_S, "report", name, generation)
    assert all(len(played[m.name]) == len(m.tokens) for m in models)
    for node in nodes.values():
        advance(node, now)
        account.up(node)
        account.leave(node)
    times = [(n.joined, n.gone, n.speed) for n in alive]
    return Result(now, starts, lost, again, times, account.spent)
