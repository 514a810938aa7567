"""A discrete-event model of an engine like vLLM 0.32, and of the harness in front of it.

What it has: steps whose time follows from weights, batch and context; chunked prefill within a
token budget; a cache of so many tokens, in which what is not in use stays until it is needed for
something else; admission first come, first served; preemption of the youngest by recomputation.

Steps in which nothing happens are taken together, so that a run of 4,000 episodes takes seconds.
"""

from __future__ import annotations

import heapq
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from local_shutdown.engines.controller import PAUSE, RESUME, Figures

TOKEN_BUDGET = 8192  # vLLM's max_num_batched_tokens for a server on an H100
PROMPT = 750  # tokens: system prompt, task, two tools; the same in all episodes, so always cached
RESULT = 60  # tokens of a tool's result
SANDBOX_S = 0.15  # from an answer to the next request
POLL_S = 2.0  # how often the engine is read, and the number changes


@dataclass(frozen=True)
class Machine:
    """A model on cards.

    Attributes:
        weights: bytes.
        experts: share of the weights that are experts, their number, and how many a token takes.
        active: parameters at work for a token.
        kv: bytes a token of context takes.
        bandwidth: bytes a second that are reached of the cards' memory.
        flops: operations a second that are reached.
        overhead_s: of each step, whatever is in it.
        cache_tokens, max_num_seqs: of the engine.
        context: the longest.
    """

    name: str
    weights: float
    experts: tuple[float, int, int]
    active: float
    kv: float
    bandwidth: float
    flops: float
    overhead_s: float
    cache_tokens: int
    max_num_seqs: int
    context: int = 32768

    def step_s(self, tokens: int, context: float) -> float:
        """Seconds of one step that computes so many tokens over so much context."""
        share, count, taken = self.experts
        unread = share * (1 - taken / count) ** tokens if count else 0.0
        read = self.weights * (1 - unread) / self.bandwidth
        computed = 2 * self.active * tokens / self.flops
        return self.overhead_s + max(read, computed) + self.kv * context / self.bandwidth


@dataclass(slots=True, eq=False)
class Request:
    """A turn of an episode in the engine. Each is only itself: none is compared field by field."""

    episode: int
    context: int  # tokens it holds now, or will once its prompt is computed
    left: int  # tokens to generate
    fresh: int  # tokens of the prompt that nobody has computed before
    todo: int = 0  # tokens of the prompt still to be computed
    since: int = 0  # step at which it began to decode
    ends: int = 0
    put_aside: bool = False  # preempted at least once


@dataclass(slots=True)
class Engine:
    """The engine: `submit` requests, `advance` the time, `done` is called with what ended."""

    machine: Machine
    done: Callable[[Request], None]
    now: float = 0.0
    steps: int = 0
    running: dict[Request, None] = field(default_factory=dict)  # in order of admission
    decoding: int = 0
    filling: deque[Request] = field(default_factory=deque)
    waiting: deque[Request] = field(default_factory=deque)
    held: float = 0.0  # tokens of running requests
    cached: OrderedDict[int, float] = field(default_factory=OrderedDict)
    cached_sum: float = 0.0
    ending: list[tuple[int, int, Request]] = field(default_factory=list)
    generated: int = 0
    prefilled: int = 0
    recomputed: int = 0
    preemptions: int = 0
    queries: int = 0
    hits: int = 0
    turn_ended: bool = False
    _tie: int = 0

    def submit(self, request: Request) -> None:
        self.waiting.append(request)

    def figures(self, finished: int, left: int) -> Figures:
        usage = min(1.0, self.held / self.machine.cache_tokens)
        return Figures(
            self.now, len(self.running), len(self.waiting), usage, self.preemptions,
            self.generated, self.queries, self.hits, finished, left,
        )  # fmt: skip

    def advance(self, until: float) -> None:
        """Up to a time or a step beyond it, or until a turn ends."""
        self.turn_ended = False
        while self.now < until and not self.turn_ended:
            self._admit()
            if not self.running:
                self.now = until
                return
            self._make_room(self.decoding)
            if self.filling:
                self._mixed_step()
            else:
                self._decode(until)
            self._end()

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self.machine.max_num_seqs:
            request = self.waiting[0]
            if self.held + request.context > self.machine.cache_tokens:
                return
            self.waiting.popleft()
            hit = int(self.cached.pop(request.episode, 0))
            self.cached_sum -= hit
            hit = min(hit, request.context - 1)
            if not request.put_aside:  # vLLM leaves those out
                self.queries += request.context
                self.hits += hit
            request.todo = request.context - hit
            self.recomputed += max(request.todo - request.fresh, 0)
            request.fresh = 0
            self.prefilled += request.todo
            self.held += request.context
            self._evict()
            self.running[request] = None
            self.filling.append(request)

    def _evict(self) -> None:
        """What is not in use gives way, oldest first, from its end."""
        over = self.cached_sum + self.held - self.machine.cache_tokens
        while over > 0 and self.cached:
            episode, tokens = next(iter(self.cached.items()))
            gone = min(tokens, over)
            over -= gone
            self.cached_sum -= gone
            if gone == tokens:
                del self.cached[episode]
            else:
                self.cached[episode] = tokens - gone

    def _make_room(self, growth: int) -> None:
        while self.held + growth > self.machine.cache_tokens and len(self.running) > 1:
            self._preempt(next(reversed(self.running)))
            growth = min(growth, self.decoding)
        self._evict()

    def _preempt(self, request: Request) -> None:
        del self.running[request]
        self.preemptions += 1
        request.put_aside = True
        if request.todo:
            self.filling.remove(request)
            kept = request.context - request.todo
        else:
            made = self.steps - request.since
            self.decoding -= 1
            self._keep_what_was_made(request, made)
            request.ends = -1
            kept = request.context
        self.held -= request.context
        self.cached[request.episode] = kept
        self.cached_sum += kept
        request.todo = 0
        self.waiting.appendleft(request)

    def _keep_what_was_made(self, request: Request, made: int) -> None:
        request.context += made
        request.left -= made

    def _mixed_step(self) -> None:
        """One step with prompts in it; those that decode get a token each."""
        budget = TOKEN_BUDGET - self.decoding
        used = 0
        while self.filling and used < budget:
            request = self.filling[0]
            part = min(request.todo, budget - used)
            request.todo -= part
            used += part
            if request.todo == 0:
                self.filling.popleft()
                request.since = self.steps + 1
                request.ends = request.since + request.left
                self._tie += 1
                heapq.heappush(self.ending, (request.ends, self._tie, request))
        decoded = self.decoding
        self.now += self.machine.step_s(decoded + used, self.held)
        self.steps += 1
        self.held += decoded
        self.generated += decoded
        self.decoding = len(self.running) - len(self.filling)

    def _decode(self, until: float) -> None:
        """As many steps at once as nothing else happens in."""
        while self.ending and self.ending[0][2].ends != self.ending[0][0]:
            heapq.heappop(self.ending)  # was put aside meanwhile
        count = self.decoding
        step = self.machine.step_s(count, self.held)
        steps = max(1, self.ending[0][0] - self.steps) if self.ending else 1
        steps = min(steps, max(1, int((until - self.now) / step) + 1))
        room = int((self.machine.cache_tokens - self.held) / max(count, 1))
        steps = max(1, min(steps, room))
        growth = self.machine.kv * count * steps * (steps - 1) / 2 / self.machine.bandwidth
        self.now += steps * step + growth
        self.steps += steps
        self.held += count * steps
        self.generated += count * steps

    def _end(self) -> None:
        while self.ending and self.ending[0][0] <= self.steps:
            ends, _, request = heapq.heappop(self.ending)
            if request.ends != ends:
                continue
            del self.running[request]
            self.decoding -= 1
            request.context += request.left
            self.held -= request.context
            self.cached[request.episode] = request.context
            self.cached_sum += request.context
            self._evict()
            self.done(request)


@dataclass(frozen=True)
class Result:
    """What a policy made of a run."""

    seconds: float
    tokens_per_s: float
    recomputed: float  # share of all tokens computed
    preemptions: int
    mean_in_flight: float
    end: int


def episodes(count: int, mean_turn: int, seed: int) -> list[list[int]]:
    """Tokens of each turn of each episode: four to sixteen turns, their lengths spread as those of
    models are (log-normal, sigma 0.7), episodes of one model more alike than turns."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        manner = rng.lognormvariate(-0.08, 0.4)
        turns = rng.choice((4, 4, 6, 9, 9, 9, 10, 12, 16))
        lengths = [mean_turn * manner * rng.lognormvariate(-0.18, 0.6) for _ in range(turns)]
        made.append([max(8, min(int(n), 16384)) for n in lengths])
    return made


def play(
    machine: Machine,
    turns: Sequence[Sequence[int]],
    target: Callable[[Figures], int] | int,
    within_s: float = float("inf"),
    *,
    pauses: bool = True,
) -> Result | None:
    """Play all episodes.

    Args:
        target: how many in flight; a fixed number, or asked every `POLL_S`.
        within_s: stop where the engine's clock has passed this: the run is slower than another.
        pauses: with more in flight than the target and a full cache, those that come back from
            their sandboxes wait before they ask again; with room in the cache, the shortest of them
            goes on, one each time that the engine is read (`in_flight.Pace`).

    Returns:
        None where it was stopped.
    """
    # (time, number, episode, turn, context): requests that come back from their sandboxes
    coming: list[tuple[float, int, int, int, int]] = []
    paused: list[tuple[float, int, int, int, int]] = []
    begun = flying = finished = tie = 0
    at_turn: dict[int, int] = {}
    area = 0.0

    def done(request: Request) -> None:
        nonlocal flying, finished, tie
        engine.turn_ended = True
        episode, turn = request.episode, at_turn[request.episode] + 1
        context = request.context + RESULT
        if turn >= len(turns[episode]) or context >= machine.context - 8:
            flying -= 1
            finished += 1
            return
        at_turn[episode] = turn
        tie += 1
        heapq.heappush(coming, (engine.now + SANDBOX_S, tie, episode, turn, context))

    engine = Engine(machine, done)
    fixed = isinstance(target, int)
    wanted = target if isinstance(target, int) else target(engine.figures(0, len(turns)))
    polled = used = 0.0
    read_anew = False

    def ask(episode: int, turn: int, context: int) -> None:
        left = min(turns[episode][turn], machine.context - context)
        engine.submit(Request(episode, context, left, RESULT))

    while finished < len(turns):
        if engine.now > within_s:
            return None
        active = flying - len(paused)
        if paused and (active < 1 or (read_anew and used < RESUME and active < wanted)):
            shortest = min(reversed(paused), key=lambda one: one[4])
            paused.remove(shortest)
            ask(*shortest[2:])
        read_anew = False
        while begun < len(turns) and flying < wanted:
            at_turn[begun] = 0
            engine.cached[begun] = 0
            first = min(turns[begun][0], machine.context - PROMPT)
            engine.submit(Request(begun, PROMPT, first, PROMPT))
            begun += 1
            flying += 1
        until = min(within_s + 1, engine.now + 1e6) if fixed else polled + POLL_S
        if coming:
            until = min(until, max(coming[0][0], engine.now))
        before, in_flight = engine.now, flying
        engine.advance(max(until, engine.now + 1e-6))
        area += in_flight * (engine.now - before)
        while coming and coming[0][0] <= engine.now:
            back = heapq.heappop(coming)
            full = pauses and engine.held > PAUSE * machine.cache_tokens
            if full and flying - len(paused) > wanted:
                paused.append(back)
            else:
                ask(*back[2:])
        if not isinstance(target, int) and engine.now >= polled + POLL_S:
            polled, read_anew = engine.now, True
            said = engine.figures(finished, len(turns) - begun + len(paused))
            wanted, used = target(said), said.kv_usage
    computed = engine.prefilled + engine.generated
    return Result(
        engine.now,
        engine.generated / engine.now,
        engine.recomputed / computed,
        engine.preemptions,
        area / engine.now,
        wanted,
    )
