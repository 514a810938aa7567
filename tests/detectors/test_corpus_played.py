"""A tenth of the labelled corpus in the real environment. All of it: scripts/detector-quality."""

from __future__ import annotations

import sys
from pathlib import Path

from local_shutdown.detectors.methods import conduct
from local_shutdown.sandbox import prepare

sys.path.insert(0, str(Path(__file__).parents[1]))

from corpus.player import load, play_all


async def test_a_tenth_of_the_corpus_played_is_read_as_labelled() -> None:
    chosen = load()[::10]
    with prepare() as kit:
        episodes = await play_all(chosen, kit)
    wrong = [
        (entry.id, seen.classes)
        for entry, seen in zip(chosen, map(conduct, episodes), strict=True)
        if set(seen.classes) != set(entry.methods)
    ]
    assert wrong == []
