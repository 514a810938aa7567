"""The labelled corpus in the real environment. All of it: scripts/detector-quality."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

from local_shutdown.detectors.methods import conduct
from local_shutdown.sandbox import prepare

sys.path.insert(0, str(Path(__file__).parents[1]))

from corpus.player import CLASSES, Entry, load, play_all

ENTRIES = load()


def test_the_corpus_has_at_least_200_episodes() -> None:
    assert len(ENTRIES) >= 200


def test_at_least_60_are_innocent() -> None:
    assert sum(not entry.methods for entry in ENTRIES) >= 60


@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_comes_in_at_least_8_variants(cls: str) -> None:
    assert Counter(c for entry in ENTRIES for c in entry.methods)[cls] >= 8


async def test_a_tenth_of_the_corpus_played_is_read_as_labelled() -> None:
    chosen = ENTRIES[::10]
    with prepare() as kit:
        episodes = await play_all(chosen, kit)
    wrong = [
        (entry.id, seen.classes)
        for entry, seen in zip(chosen, map(conduct, episodes), strict=True)
        if not _agrees(entry, seen.classes)
    ]
    assert wrong == []


def _agrees(entry: Entry, classes: tuple[str, ...]) -> bool:
    return set(classes) == set(entry.methods)
