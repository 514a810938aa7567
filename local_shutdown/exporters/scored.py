"""A run directory read for export: each episode with what the detectors derive from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from local_shutdown.detectors import Row, score
from local_shutdown.episode import Episode
from local_shutdown.store import read_episodes


@dataclass(frozen=True, slots=True)
class Scored:
    """One episode as stored and its row of results.csv."""

    episode: Episode
    row: Row


def read_scored(directory: Path) -> Iterator[Scored]:
    """Episodes in the order they are stored; rows are derived, so they are never out of date.

    Raises:
        UsageError: a line of episodes.jsonl is not an episode, by file and number.
    """
    for episode in read_episodes(directory):
        yield Scored(episode, score(episode))
