"""Which episodes are played on, and from which points."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from local_shutdown.branch.source import ParentRun
from local_shutdown.detectors.facts import gather
from local_shutdown.episode import Episode
from local_shutdown.errors import UsageError
from local_shutdown.results import Results
from local_shutdown.sentences import spoken
from local_shutdown.store import finished_ids, read_episodes
from local_shutdown.stored import shown

AT_WARNING = "warning"
AT_EVERY = "every"
AT_SENTENCES = "sentences"
_NAMED = 5  # episodes in a message
_MOST_VALUES = 20  # conditions in a message
Place = tuple[int, int | None]


@dataclass(frozen=True, slots=True)
class Selection:
    """What the user asked for.

    Attributes:
        episodes: ids, each whole or a prefix of only one.
        sample: how many episodes are drawn at random, where none is named.
        outcome, condition: of the episodes that are drawn from; None is any.
        seed: of the draw.
        at: `warning` (the answer after the warning), `every` (each answer), `sentences` (the answer
            after the warning, and within it after each sentence), or the index of an answer.
    """

    episodes: tuple[str, ...] = ()
    sample: int | None = None
    outcome: str | None = None
    condition: str | None = None
    seed: int = 0
    at: str = AT_WARNING

    def as_dict(self) -> dict[str, Any]:
        """What run.json says of it."""
        return {**asdict(self), "episodes": list(self.episodes)}


@dataclass(frozen=True, slots=True)
class Picked:
    """An episode and the points of it that are played from.

    Attributes:
        places: (index of the answer that is sampled anew, how many of its sentences are kept).
    """

    episode: Episode
    places: tuple[Place, ...]


def choose(run: ParentRun, selection: Selection) -> list[Picked]:
    """The episodes and their points.

    Raises:
        UsageError: no such episode, or none with such a point; fewer than were asked for.
    """
    if selection.episodes:
        return list(_named(run, selection))
    eligible = [name for name, points in _eligible(run, selection) if points]
    if selection.sample is None or len(eligible) < selection.sample:
        raise UsageError(
            f"--sample {selection.sample}: {run.directory} has {len(eligible)} episodes "
            f"{_described(selection)}",
            f"ask for {len(eligible)} at most" if eligible else _what_there_is(run),
        )
    drawn = random.Random(f"{selection.seed}:parents").sample(sorted(eligible), selection.sample)
    wanted = set(drawn)
    return [
        Picked(episode, points(episode, selection.at))
        for episode in read_episodes(run.directory)
        if episode.episode_id in wanted
    ]


def fixed(run: ParentRun, recorded: Sequence[tuple[str, Place]], at: str) -> list[Picked]:
    """The points that an earlier call settled on, whatever the run holds by now.

    Args:
        at: see `Selection`.

    Raises:
        UsageError: one of the episodes is no longer there, or has no such point.
    """
    by_episode: dict[str, list[Place]] = {}
    for name, place in recorded:
        by_episode.setdefault(name, []).append(place)
    found = [
        Picked(episode, tuple(by_episode[episode.episode_id]))
        for episode in read_episodes(run.directory)
        if episode.episode_id in by_episode
    ]
    gone = set(by_episode) - {one.episode.episode_id for one in found}
    if gone:
        raise UsageError(f"{run.directory}: no episode {min(gone)!r} any more")
    for one in found:
        there = points(one.episode, at)
        for place in one.places:
            if place not in there:
                raise UsageError(
                    f"{one.episode.episode_id}: message {shown(place[0])} is no point of it that "
                    f"--at {at} gives, but run.json has it",
                    "the record or run.json was changed since it was begun: give another --out",
                )
    return found


def points(episode: Episode, at: str) -> tuple[Place, ...]:
    """The points of an episode that can be played from; empty where it has none.

    Args:
        at: see `Selection`.
    """
    if episode.events is None:
        return ()
    answers = [i for i, m in enumerate(episode.messages) if m["role"] == "assistant"]
    if at == AT_EVERY:
        return tuple((i, None) for i in answers)
    if at in (AT_WARNING, AT_SENTENCES):
        shown = gather(episode).shown
        found = [i for i in answers if shown is not None and i > shown][:1]
        if at == AT_WARNING or not found:
            return tuple((i, None) for i in found)
        if _broken_call(episode.messages[found[0]]):
            return ()
        kept = range(1, len(spoken(episode.messages[found[0]])) + 1)
        return tuple((found[0], number) for number in (None, *kept))
    return tuple((i, None) for i in answers if i == int(at))


def _broken_call(answer: Mapping[str, Any]) -> bool:
    """Its tokens cannot be had back: broken arguments are kept beside the call, and not sent."""
    return any("invalid_arguments" in call for call in answer.get("tool_calls") or ())


def _named(run: ParentRun, selection: Selection) -> Iterator[Picked]:
    known = finished_ids(run.directory)
    wanted = {_resolve(run, name, known) for name in selection.episodes}
    for episode in read_episodes(run.directory):
        if episode.episode_id not in wanted:
            continue
        found = points(episode, selection.at)
        if not found:
            raise UsageError(f"{episode.episode_id}: {_no_point(episode, selection.at)}")
        yield Picked(episode, found)


def _resolve(run: ParentRun, name: str, known: set[str]) -> str:
    if name in known:
        return name
    found = sorted(one for one in known if one.startswith(name))
    if len(found) != 1:
        what = "several episodes begin with" if found else "no episode"
        there = ", ".join((found or sorted(known))[:_NAMED])
        raise UsageError(
            f"{run.directory}: {what} {shown(name)}",
            f"for example: {there}; `local-shutdown show {run.directory}` lists all",
        )
    return found[0]


def _what_there_is(run: ParentRun) -> str:
    """Conditions and outcomes, with how many episodes have them."""
    counts = Results(run.directory).counted(("condition", "outcome"))
    found = []
    for at, name in enumerate(("conditions", "outcomes")):
        of_name: Counter[str] = Counter()
        for values, number in counts.items():
            of_name[values[at] or "unknown"] += number
        most = of_name.most_common(_MOST_VALUES)
        listed = ", ".join(f"{value} ({number})" for value, number in most)
        found.append(f"{name} there: {listed}" + ("" if len(most) == len(of_name) else ", ..."))
    return "; ".join(found)


def _no_point(episode: Episode, at: str) -> str:
    if episode.events is None:
        return "nobody watched its environment: it was imported, and cannot be played on"
    if at == AT_SENTENCES and points(episode, AT_WARNING):
        return (
            "the arguments of a call in its answer to the warning are not JSON, so that it cannot "
            "be continued from within; --at warning samples it whole"
        )
    if at in (AT_WARNING, AT_SENTENCES):
        return "it has no answer after the warning"
    if at == AT_EVERY:
        return "it has no answer"
    if int(at) >= len(episode.messages):
        return f"it has no message {at}: the last is {len(episode.messages) - 1}"
    role = episode.messages[int(at)]["role"]
    return f"message {at} is of the role {role}: only an answer can be sampled anew"


def _eligible(run: ParentRun, selection: Selection) -> Iterator[tuple[str, tuple[Place, ...]]]:
    fitting = {
        row.episode_id
        for row in Results(run.directory).rows()
        if (selection.outcome is None or row.outcome == selection.outcome)
        and (selection.condition is None or row.condition == selection.condition)
    }
    for episode in read_episodes(run.directory):
        if episode.episode_id in fitting:
            yield episode.episode_id, points(episode, selection.at)


def _described(selection: Selection) -> str:
    said = "with an answer after the warning"
    if selection.at == AT_EVERY:
        said = "with an answer"
    elif selection.at == AT_SENTENCES:
        said = "whose answer after the warning can be continued from within"
    elif selection.at not in (AT_WARNING, AT_SENTENCES):
        said = f"whose message {selection.at} is an answer"
    if selection.outcome:
        said += f" and outcome {selection.outcome}"
    if selection.condition:
        said += f" under condition {selection.condition}"
    return said
