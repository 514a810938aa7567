"""How many episodes a copy of a model should have in flight, from what its engine says of itself.

An engine is fastest with as many sequences as its cache holds: each step reads all weights, for one
sequence as for hundreds. One more than fits costs more than it brings: the engine puts a sequence
aside (preemption) or forgets the prefix of an episode between two turns, and computes thousands of
tokens a second time. So the number follows the cache: how much of it a sequence takes, learned from
the engine's own figures; up as long as there is room, down as soon as something was computed again.

Pure: readings in, a number out. The rules are ours (reconstructed), and are held against a model of
such an engine by `scripts/simulate-engine`.
"""

from __future__ import annotations

from dataclasses import dataclass

# Share of the cache that the sequences in flight may take on the average: contexts come in all
# lengths, and the sum of them swings.
FULL = 0.86
# So much of the first number is held back until sequences hold so much of the cache.
STAGGER = 0.3
STAGGER_UNTIL = 0.4
# One reading after the other may add so much.
GROW = 1.3
# What is left of the number that was too many, and by how much it may come back while as many
# episodes end as are in flight.
SHRINK = 0.95
REGAIN = 0.05
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
    _hit_rate: float | None = None
    _blocked: int = 0
    _next_cut: int = 0

    def __post_init__(self) -> None:
        if self.cache_tokens:
            self._first_share = self.episode_tokens / self.cache_tokens
            self._target = FULL / self._first_share * (1 - STAGGER)
        else:
            self._target = FIRST
        if self.places:
            self._target = min(self._target, self.places)
        self._target = min(max(self._target, 1.0), self.most)

    def target(self) -> int:
        """Episodes that should be in flight."""
        return max(1, min(self.most, int(self._target)))

    def read(self, figures: Figures) -> None:
        """Take in what the engine says now."""
        before, self._last = self._last, figures
        if before is None or figures.generation_tokens < before.generation_tokens:
            self._began = figures.now_s
            return  # the first word of a new engine, or of one that was started again
        self._learn(before, figures)
        room = self._room(figures)
        if self._pressed(before, figures) and figures.finished >= self._next_cut:
            self._ceiling = max(SHRINK * min(figures.running, self._target), 1.0)
            # The effect of this shows when episodes end that will have no successor.
            self._next_cut = figures.finished + max(1, round(self._ceiling / 2))
        elif self._ceiling < float("inf"):
            ended = max(figures.finished - before.finished, 0)
            self._ceiling *= 1 + REGAIN * ended / self._ceiling
        wanted = min(room, self._ceiling, self.most)
        if wanted < self._target:
            self._target = max(wanted, 1.0)
        elif not self._crowded(figures):
            self._target = min(self._target * GROW, wanted)

    def _learn(self, before: Figures, figures: Figures) -> None:
        """How much of the cache a sequence takes, over the younger half of the time so far: the
        episodes of a moment may all be young, or all be old."""
        if figures.running < 1 or figures.kv_usage <= 0:
            return
        share = figures.kv_usage / figures.running
        passed = max(figures.now_s - self._began, 1e-9)
        weight = min(1.0, 2 * (figures.now_s - before.now_s) / passed)
        self._share += (share - self._share) * weight

    def _room(self, figures: Figures) -> float:
        """Sequences that the cache holds."""
        # Until as many episodes have ended as are in flight, those that run are younger, and
        # shorter, than they will be, and those that have ended are the short ones; from then on
        # what was seen counts more and more.
        young = min(1.0, max(0.0, 2.0 - figures.finished / max(self._target, 1.0)))
        share = max(self._share, young * self._first_share + (1 - young) * self._share)
        if not share:
            return self._target
        # All that begin together are long together: the last of them begin a little later.
        late = STAGGER * young * max(0.0, 1.0 - figures.kv_usage / STAGGER_UNTIL)
        return FULL / share * (1 - late)

    def _pressed(self, before: Figures, figures: Figures) -> bool:
        """Whether something was, or is about to be, computed a second time."""
        if figures.preemptions > before.preemptions:
            return True
        asked = figures.prefix_queries - before.prefix_queries
        found = figures.prefix_hits - before.prefix_hits
        full = figures.kv_usage > FULL
        if asked > 0 and figures.finished:
            rate = found / asked
            best = self._hit_rate
            self._hit_rate = rate if best is None else max(rate, best * 0.999)
            if best is not None and rate < best - 0.15 and full:
                return True
        # Nothing is taken in although there are places: the cache is full.
        places = self.places is None or figures.running < 0.95 * self.places
        blocked = full and places and figures.waiting > max(2.0, WAITING * figures.running)
        self._blocked = self._blocked + 1 if blocked else 0
        return self._blocked >= 3

    def _crowded(self, figures: Figures) -> bool:
        """Whether more in flight would only wait: all places are taken, or prompts queue up."""
        return figures.waiting > max(2.0, WAITING * figures.running)
