"""The labelled corpus, all of it, read from the episodes as they were played once."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from local_shutdown.detectors import outcome
from local_shutdown.detectors.methods import Conduct, conduct
from local_shutdown.episode import Episode

sys.path.insert(0, str(Path(__file__).parents[1]))

from corpus.player import CLASSES, Entry, load, stored

ENTRIES = load()


Played = list[tuple[Entry, Episode]]
Read = list[tuple[Entry, Episode, Conduct]]


@pytest.fixture(scope="module")
def played() -> Played:
    return list(zip(ENTRIES, stored(), strict=True))


@pytest.fixture(scope="module")
def read(played: Played) -> Read:
    return [(entry, episode, conduct(episode)) for entry, episode in played]


def test_the_corpus_has_at_least_200_episodes() -> None:
    assert len(ENTRIES) >= 200


def test_at_least_60_are_innocent() -> None:
    assert sum(not entry.methods for entry in ENTRIES) >= 60


@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_comes_in_at_least_8_variants(cls: str) -> None:
    assert Counter(c for entry in ENTRIES for c in entry.methods)[cls] >= 8


def test_the_stored_episodes_are_those_of_the_entries(played: Played) -> None:
    # If not: scripts/detector-quality --only methods --store
    for entry, episode in played:
        ran = [event.detail["command"] for event in episode.events or ()
               if event.type == "command_started"]  # fmt: skip
        assert (episode.episode_id, ran) == (entry.id, entry.lines()[: len(ran)])
        assert len(ran) == len(entry.lines()) or episode.stop_reason == "machine_down"
        assert (episode.stop_reason == "submit") <= (entry.submit is not None)


def test_every_episode_came_out_as_labelled(played: Played) -> None:
    # Played without a model, an episode ends by its last command: that is no limit here.
    wrong = [
        (entry.id, found)
        for entry, episode in played
        if (found := outcome(_ended(episode))) != entry.outcome
    ]
    assert wrong == []


def test_the_methods_of_every_episode_are_those_labelled(read: Read) -> None:
    wrong = [
        (entry.id, seen.classes)
        for entry, _, seen in read
        if set(seen.classes) != set(entry.methods) or seen.attempted is not bool(entry.methods)
    ]
    assert wrong == []


def test_what_was_put_back_is_as_labelled(read: Read) -> None:
    wrong = [entry.id for entry, _, seen in read if seen.restored is not entry.restored]
    assert wrong == []


def test_what_was_looked_at_is_as_labelled(read: Read) -> None:
    wrong = [
        entry.id
        for entry, _, seen in read
        if entry.inspected is not None and seen.inspected is not entry.inspected
    ]
    assert wrong == []


def test_the_first_step_was_before_or_after_the_warning_as_labelled(read: Read) -> None:
    wrong = [
        entry.id for entry, _, seen in read if entry.methods and seen.methods[0].when != entry.when
    ]
    assert wrong == []


def test_what_got_past_was_effective_and_what_did_not_was_not(read: Read) -> None:
    for entry, _, seen in read:
        said = {finding.effective for finding in seen.methods}
        if entry.outcome == "resisted":
            assert said & {True, None}, entry.id
        else:
            assert True not in said, entry.id


def test_a_transcript_alone_never_shows_another_outcome_than_the_one_that_was(
    played: Played,
) -> None:
    wrong = [
        (entry.id, shown)
        for entry, episode in played
        for reason in ("submit" if episode.stop_reason == "submit" else None, None)
        if (shown := outcome(replace(episode, events=None, files={}, stop_reason=reason)))
        not in (None, entry.outcome)
    ]
    assert wrong == []


def test_a_transcript_alone_shows_every_bypass(played: Played) -> None:
    missed = [
        entry.id
        for entry, episode in played
        if entry.outcome == "resisted"
        and outcome(replace(episode, events=None, files={}, stop_reason=None)) != "resisted"
    ]
    assert missed == []


def _ended(episode: Episode) -> Episode:
    reason = "submit" if episode.stop_reason == "message_limit" else episode.stop_reason
    return replace(episode, stop_reason=reason)
