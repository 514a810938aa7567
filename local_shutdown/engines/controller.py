"""How many episodes a copy of a model should have in flight, from what its engine says of itself.

An engine is fastest with as many sequences as its cache holds: each step reads all weights, for one
sequence as for hundreds. With more than fit, the engine puts a sequence aside (preemption), or
forgets the prefix of an episode between two turns, and computes thousands of tokens a second time.
So the number follows the cache: how much of it a sequence takes, learned from the engine's own
figures; up as long as there is room; nothing new while the cache is about to be full; down when too
much was computed again. The last episodes of a run have no successors: they are begun together.

Pure: readings in, a number out. The rules are ours (reconstructed), and are held against a model of
such an engine by `scripts/simulate-engine`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, sqrt

# Contexts come in all lengths, and their sum swings by this over the root of their number: so much
# of the cache is kept free on the average, within these bounds.
SWING = 0.7
FULL = (0.7, 0.88)
# So much of the first number is held back until sequences hold so much of the cache: all that begin
# together are long together, and then take a little more than on the average.
STAGGER = 0.15
STAGGER_UNTIL = 0.9
TOGETHER = 1.05
# Nothing new is begun where the cache would be this full after such a share of an episode's life:
# less full with many small contexts than with few that each take so much of the cache. What is
# free keeps the prefixes of those that are in their sandboxes, and many small ones often are.
BRAKE, BRAKE_LARGE = 0.88, 0.91
LARGE = 0.02
AHEAD = 0.15
# Nor does an episode beyond the number go on while the cache is as full as this.
PAUSE = 0.935
# One of those goes on again each time that the cache is found emptier than this.
RESUME = 0.87
# Episodes that may be in flight beyond the number when none follow them, as a share of it, and how
# full the cache may be ahead of that. Without successors, what the old ones hold falls while the
# new ones grow.
LAST = 0.8
LAST_UNTIL = 0.95
# One reading after the other may add so much.
GROW = 1.3
# The share of computed tokens that may be computed again; else, what is left of the number that was
# too many, and by how much it may come back while as many episodes end as are in flight.
AGAIN = 0.025
SHRINK = 0.95
REGAIN = 0.1
# Below this, a prompt that is not found in the cache was not pushed out of it.
CROWDED = 0.8
# Requests that wait, as a share of those that run, when more would only wait as well.
WAITING = 0.1
# Of an engine of which nothing is known.
FIRST = 32


@dataclass(frozen=True, slots=True)
class Figures:
    """What is known of one engine at a moment; counters are since its start.

    Attributes:
        now_s: any clock that does not go back.
        running, waiting: requests.
        kv_usage: share of the cache that running requests hold.
        preemptions: so far.
        generation_tokens: so far.
        prefix_queries, prefix_hits: tokens looked up in the prefix cache, and found, so far.
        finished: episodes that this engine has played to their end.
        left: episodes that have not been begun; None where nobody knows.
    """

    now_s: float
    running: float
    waiting: float
    kv_usage: float
    preemptions: float = 0.0
    generation_tokens: float = 0.0
    prefix_queries: float = 0.0
    prefix_hits: float = 0.0
    finished: int = 0
    left: int | None = None


@dataclass(slots=True)
class Controller:
    """Follows one engine.

    Args:
        most: never more than this.
        cache_tokens: tokens its cache holds; None where nobody knows.
        episode_tokens: what an episode is expected to hold on the average, until it is known.
        places: sequences it works on at once; None where nobody knows.
    """

    most: int
    cache_tokens: int | None = None
    episode_tokens: int = 4096
    places: int | None = None
    _target: float = 0.0
    _share: float = 0.0  # of the cache, that a sequence takes on the average
    _first_share: float = 0.0
    _ceiling: float = float("inf")
    _began: float = 0.0
    _last: Figures | None = None
    _next_cut: int = 0
    _slope: float = 0.0  # of the use of the cache, a second
    # Tokens of late: generated, of prompts not found in the cache, put aside. What ended long ago
    # counts less and less.
    _generated: float = 0.0
    _missed: float = 0.0
    _aside: float = 0.0
    _fresh: float | None = None  # prompt tokens to a generated one, when none are computed again

    def __post_init__(self) -> None:
        if self.cache_tokens:
            self._first_share = TOGETHER * self.episode_tokens / self.cache_tokens
            self._target = _full(self._first_share) / self._first_share * (1 - STAGGER)
        else:
            self._target = FIRST
        if self.places:
            self._target = min(self._target, self.places)
        self._target = min(max(self._target, 1.0), self.most)

    def target(self) -> int:
        """Episodes that should be in flight."""
        return max(1, min(self.most, int(self._target)))

    @property
    def kv_usage(self) -> float:
        """Share of the cache that was held at the last reading."""
        return self._last.kv_usage if self._last is not None else 0.0

    def read(self, figures: Figures) -> None:
        """Take in what the engine says now."""
        before, self._last = self._last, figures
        if before is None or figures.generation_tokens < before.generation_tokens:
            self._began = figures.now_s
            return  # the first word of a new engine, or of one that was started again
        self._learn(before, figures)
        room = self._room(figures)
        ended = max(figures.finished - before.finished, 0)
        too_much = self._again(before, figures, ended) > AGAIN
        # Where there is room by now, it was the past.
        now = figures.kv_usage > CROWDED or figures.preemptions > before.preemptions
        if too_much and now and figures.finished >= self._next_cut:
            self._ceiling = max(SHRINK * min(figures.running, self._target), 1.0)
            # The effect of this shows when episodes end that will have no successor.
            self._next_cut = figures.finished + max(1, round(self._ceiling / 2))
        elif self._ceiling < float("inf"):
            self._ceiling *= 1 + REGAIN * ended / self._ceiling
        wanted = min(room, self._ceiling, self.most)
        soon = self._soon(before, figures)
        if soon < LAST_UNTIL:
            wanted = min(wanted + self._last_ones(figures, wanted), self.most)
        large = min(1.0, self._mature_share(figures) / LARGE)
        if soon > BRAKE + (BRAKE_LARGE - BRAKE) * large and figures.running:
            wanted = min(wanted, figures.running + figures.waiting - 1)
        if wanted < self._target:
            self._target = max(wanted, 1.0)
        elif not self._queued(figures):
            self._target = min(self._target * GROW, wanted)

    def _learn(self, before: Figures, figures: Figures) -> None:
        """How much of the cache a sequence takes, over all the time so far: the episodes of a
        moment may all be young, or all be old, and so may those of the younger half of the time,
        in which the first ones are all about to end."""
        if figures.running < 1 or figures.kv_usage <= 0:
            return
        share = figures.kv_usage / figures.running
        passed = max(figures.now_s - self._began, 1e-9)
        weight = min(1.0, (figures.now_s - before.now_s) / passed)
        self._share += (share - self._share) * weight

    def _room(self, figures: Figures) -> float:
        """Sequences that the cache holds."""
        young, share = self._young(figures), self._mature_share(figures)
        if not share:
            return self._target
        late = STAGGER * young * max(0.0, 1.0 - figures.kv_usage / STAGGER_UNTIL)
        return _full(share) / share * (1 - late)

    def _young(self, figures: Figures) -> float:
        """1 while those that run are younger, and shorter, than they will be, and those that have
        ended are the short ones; 0 once twice as many have ended as are in flight."""
        return min(1.0, max(0.0, 2.0 - figures.finished / max(self._target, 1.0)))

    def _mature_share(self, figures: Figures) -> float:
        """Of the cache, that a sequence takes over its life: what was expected of it at first,
        what was seen later on."""
        young = self._young(figures)
        return max(self._share, young * self._first_share + (1 - young) * self._share)

    def _soon(self, before: Figures, figures: Figures) -> float:
        """Share of the cache that will be held a part of an episode's life from now, if it goes on
        growing as it does."""
        passed = figures.now_s - before.now_s
        if figures.finished < 3 or passed <= 0:
            return figures.kv_usage
        life = (figures.now_s - self._began) * max(figures.running, 1.0) / figures.finished
        weight = min(1.0, passed / max(AHEAD * life / 2, passed))
        slope = (figures.kv_usage - before.kv_usage) / passed
        self._slope += (slope - self._slope) * weight
        return figures.kv_usage + max(0.0, self._slope * AHEAD * life)

    def _last_ones(self, figures: Figures, number: float) -> float:
        """How many may be in flight beyond this number, since none follow them."""
        if figures.left is None or not self._share or figures.running < 1:
            return 0.0
        beyond = figures.left + figures.running + figures.waiting - number
        # Those that run must have come of age: a young lot has its longest time ahead of it.
        aged = min(1.0, figures.finished / max(number, 1.0))
        grown = figures.kv_usage / figures.running / max(self._mature_share(figures), 1e-9)
        return beyond if 0 < beyond <= LAST * aged * min(1.0, grown) * number else 0.0

    def _again(self, before: Figures, figures: Figures, ended: int) -> float:
        """Share of the tokens computed of late that had been computed before, as far as can be
        told: all of what was put aside, and prompts beyond what tools and tasks add to them."""
        kept = exp(-ended / max(self._target, 1.0))
        missed = figures.prefix_queries - before.prefix_queries
        missed -= figures.prefix_hits - before.prefix_hits
        preempted = figures.preemptions - before.preemptions
        if preempted > 0 and not self.cache_tokens:
            return 1.0  # nobody knows how much it was
        context = figures.kv_usage * (self.cache_tokens or 0) / max(figures.running, 1.0)
        self._generated *= kept
        self._generated += figures.generation_tokens - before.generation_tokens
        self._missed = self._missed * kept + max(missed, 0.0)
        self._aside = self._aside * kept + context * max(preempted, 0.0)
        if not figures.finished or self._generated <= 0:
            return 0.0
        fresh = self._missed / self._generated
        self._fresh = fresh if self._fresh is None else min(self._fresh, fresh)
        again = self._aside
        if figures.kv_usage > CROWDED:
            again += max(self._missed - self._fresh * self._generated, 0.0)
        return again / (self._generated + self._missed + self._aside)

    def _queued(self, figures: Figures) -> bool:
        """Whether more in flight would only wait: all places are taken, or prompts queue up."""
        return figures.waiting > max(2.0, WAITING * figures.running)


def _full(share: float) -> float:
    """Of the cache, that sequences of this share each may take together on the average."""
    least, most = FULL
    return min(most, max(least, 1 - SWING * sqrt(share)))
