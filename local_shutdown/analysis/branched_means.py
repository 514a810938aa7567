"""Averages over the paths of many parents: by phase, by what sentences speak of, by condition, and
what an effective trial cost."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from local_shutdown.analysis.branched import PHASES, Path, Phase, Point
from local_shutdown.analysis.clustered import (
    Change,
    ClusteredRate,
    clustered,
    optimal_continuations,
    paired_change,
)
from local_shutdown.analysis.clustered_interval import Counts, mean_change
from local_shutdown.detectors.reasoning import TOPICS

OTHER = "other"  # sentences that speak of no topic


@dataclass(frozen=True, slots=True)
class Moved:
    """What sentences of one kind do to P(resist): the mean change from before to after them.

    Attributes:
        topic: of `detectors.reasoning`, or `OTHER`.
        sentences: how many, of all parents.
        change: the mean over parents of each parent's mean, and its interval.
    """

    topic: str
    sentences: int
    change: Change


@dataclass(frozen=True, slots=True)
class Cost:
    """What the continuations cost beside plain trials.

    Attributes:
        phase: of the point that it is said of, that with most parents.
        within: whether that is a point within an answer.
        tokens: of the continuations from there, prompts included.
        rate: there.
        tokens_effective: per effective trial; None where the design effect is unknown.
        tokens_plain: of a plain trial; None where the parents' run is not there.
        optimal: continuations per parent that tell most for what they cost; None if unknown.
    """

    phase: Phase
    within: bool
    tokens: int
    rate: ClusteredRate
    tokens_effective: float | None
    tokens_plain: float | None
    optimal: int | None


def _plain(paths: Sequence[Path]) -> list[Path]:
    return [path for path in paths if path.prompts is None]


@dataclass(frozen=True, slots=True)
class Group:
    """Paths that an average may be taken of: parents of one model at one level of its factors,
    under one condition; and the same parents under other prompts.

    Attributes:
        name: of the model, with level and condition.
        cell: of the parents: their ids without the number.
    """

    name: str
    cell: str
    paths: tuple[Path, ...]


def groups(paths: Sequence[Path]) -> list[Group]:
    """The paths, sorted into groups. One under other prompts goes with the path of the same parent
    under its own; without that it is in none: there is nothing to compare it with."""
    found: dict[tuple[str, ...], list[Path]] = {}
    of_parent: dict[tuple[str, str, str], tuple[str, ...]] = {}
    for path in _plain(paths):
        key = (path.model, path.level or "", path.played_under, path.apart or "")
        found.setdefault(key, []).append(path)
        of_parent[path.run, path.episode, path.apart or ""] = key
    for path in paths:
        key_of = of_parent.get((path.run, path.episode, path.apart or ""))
        if path.prompts is not None and key_of is not None:
            found[key_of].append(path)
    return [
        Group(_name(*key), some[0].episode.rpartition("/")[0], tuple(some))
        for key, some in found.items()
    ]


def _name(model: str, level: str, condition: str, apart: str) -> str:
    named = f"{model} [{level}]" if level else model
    return f"{named}, {condition}" + (f", played otherwise ({apart})" if apart else "")


def by_phase(paths: Sequence[Path], alpha: float = 0.05) -> dict[Phase, ClusteredRate]:
    """The mean path: P(resist) at the first answer of each phase, over the parents that have one
    there. Parents with other prompts or an edit are left out."""
    counts: dict[Phase, list[Counts]] = defaultdict(list)
    for path in _plain(paths):
        seen: set[Phase] = set()
        for point in path.points:
            if point.sentence is None and point.n and point.phase not in seen:
                seen.add(point.phase)
                counts[point.phase].append((point.resisted, point.n))
    return {name: clustered(counts[name], alpha) for name in PHASES if counts[name]}


def by_topic(paths: Sequence[Path], alpha: float = 0.05) -> list[Moved]:
    """Which kinds of sentences move P(resist). A sentence of several kinds counts for each."""
    found: dict[str, list[tuple[float, int, int]]] = defaultdict(list)
    for path in _plain(paths):
        own: dict[str, list[tuple[float, int]]] = defaultdict(list)
        for before, after in pairwise([point for point in path.points if point.n]):
            if after.message != before.message or after.sentence != (before.sentence or 0) + 1:
                continue  # over a sentence that nobody played on from, it is no change of this one
            change = after.resisted / after.n - before.resisted / before.n
            for topic in after.topics or (OTHER,):
                own[topic].append((change, min(before.n, after.n)))
        for topic, changes in own.items():
            mean = math.fsum(one for one, _ in changes) / len(changes)
            found[topic].append((mean, sum(n for _, n in changes), len(changes)))
    moved = []
    for topic in (*TOPICS, OTHER):
        values = [mean for mean, _, _ in found[topic]]
        if not values:
            continue
        low, high = mean_change(values, sum(n for _, n, _ in found[topic]), alpha)
        mean_of_all = Change(math.fsum(values) / len(values), low, high, len(values))
        moved.append(Moved(topic, sum(number for _, _, number in found[topic]), mean_of_all))
    return moved


def by_condition(paths: Sequence[Path], alpha: float = 0.05) -> dict[str, Change]:
    """Paired differences: the same trajectories under another condition's prompts (or with an
    edit), less under their own; at the first point that a parent has both ways."""
    own = {(path.run, path.episode): path for path in _plain(paths)}
    pairs: dict[str, list[tuple[Counts, Counts]]] = defaultdict(list)
    for path in paths:
        name, same = path.prompts, own.get((path.run, path.episode))
        if name is None or same is None:
            continue
        there = {(p.message, p.sentence): p for p in same.points if p.n}
        for point in path.points:
            before = there.get((point.message, point.sentence))
            if point.n and before is not None:
                pairs[name].append(((before.resisted, before.n), (point.resisted, point.n)))
                break
    changes = {}
    for name, both in sorted(pairs.items()):
        change = paired_change([one for one, _ in both], [other for _, other in both], alpha)
        if change is not None:
            changes[name] = change
    return changes


def cost(paths: Sequence[Path], tokens_plain: float | None = None) -> Cost | None:
    """What the continuations told for what they cost; None where nothing was counted.

    Args:
        tokens_plain: mean tokens of a plain trial of the parents' run.
    """
    places: dict[tuple[Phase, bool], list[Point]] = defaultdict(list)
    for path in _plain(paths):
        seen: set[tuple[Phase, bool]] = set()
        for point in path.points:
            place = (point.phase, point.sentence is not None)
            if point.n and place not in seen:
                seen.add(place)
                places[place].append(point)
    if not places:
        return None
    phase, within = max(places, key=lambda place: len(places[place]))
    points = places[phase, within]
    rate = clustered([(point.resisted, point.n) for point in points])
    tokens = sum(point.tokens for point in points)
    each = tokens / sum(point.n + point.outside for point in points)
    optimal = None
    if tokens_plain is not None and each > 0:
        optimal = optimal_continuations(rate.spread.icc, tokens_plain / each)
    effective = tokens / rate.effective if rate.effective else None
    return Cost(phase, within, tokens, rate, effective, tokens_plain, optimal)
