"""Which trials are whose."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_shutdown.runfile import parse_run
from local_shutdown.runs import planned_ids
from local_shutdown.shard import WHOLE, Shard, sequences, shard_of

SETTINGS = {"models": ["m", "org/n"], "conditions": {"A": "x", "E": "y"}, "trials": 7}


@given(st.integers(1, 40), st.integers(1, 200), st.integers(0, 100))
def test_shards_divide_the_trials_and_keep_theirs_when_more_are_added(
    of: int, trials: int, more: int
) -> None:
    every = [list(Shard(index, of).trials(trials)) for index in range(1, of + 1)]
    assert sorted(trial for part in every for trial in part) == list(range(trials))
    assert max(map(len, every)) - min(map(len, every)) <= 1
    for index, part in enumerate(every, 1):
        ours = Shard(index, of)
        assert set(part) <= set(ours.trials(trials + more))
        assert [ours.number(trial) for trial in part] == list(range(len(part)))


def test_the_ids_of_all_shards_are_the_ids_of_the_run() -> None:
    parts = [list(planned_ids({**SETTINGS, "shard": f"{i}/3"})) for i in (1, 2, 3)]
    assert sorted(name for part in parts for name in part) == sorted(planned_ids(SETTINGS))
    assert [len(part) for part in parts] == [12, 8, 8]


@given(st.text(alphabet="0123456789/ -.", max_size=8))
def test_what_is_said_is_a_shard_or_refused(text: str) -> None:
    found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", text)
    right = bool(found) and 1 <= int(found[1]) <= int(found[2]) <= 10_000  # type: ignore[index]
    if right:
        assert str(Shard.parse(text)) == text
        return
    with pytest.raises(ValueError, match=r"/"):
        Shard.parse(text)


def test_settings_and_records_say_which_sequences_there_are() -> None:
    assert shard_of(None) == WHOLE
    assert sequences(parse_run({"settings": {}})) == 1
    assert sequences(parse_run({"settings": {"shard": "2/5"}})) == 5
    assert sequences(parse_run({"settings": {}, "merged": {"shards": 3}})) == 3


@pytest.mark.parametrize(
    "run",
    [
        {"settings": {"shard": "5/2"}},
        {"settings": {"shard": 3}},
        {"merged": {"shards": 0}},
        {"merged": {"shards": True}},
        {"merged": []},
        {"runs": {"m": [{"conditions": [], "settings": {"shard": "x"}}]}},
    ],
)
def test_a_damaged_record_is_refused(run: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"shard|merged"):
        parse_run(run)
