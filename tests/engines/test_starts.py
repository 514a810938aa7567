"""Each start of each server has a seed that its run directory has never seen."""

from __future__ import annotations

from typing import Any

import pytest

from local_shutdown.engines import flags, starts
from local_shutdown.engines.starts import SEEDS, Start, Starts, derived
from local_shutdown.errors import UsageError


def test_each_start_has_a_name_and_a_seed_of_its_own() -> None:
    known: dict[str, Any] = {}
    begun: list[Start] = []
    for session in (1, 2):
        ours = Starts(7, session, known)
        begun += [ours.begin(server, "m") for server in (0, 1, 0)]
        begun.append(ours.begin(0, "another model"))
    assert [start.name for start in begun] == [
        "1.0.1", "1.1.1", "1.0.2", "1.0.3", "2.0.1", "2.1.1", "2.0.2", "2.0.3",
    ]  # fmt: skip
    assert len({start.seed for start in begun}) == 8
    assert known["2.0.3"] == {"seed": begun[-1].seed, "model": "another model"}


def test_a_seed_is_on_record_before_the_server_is_started() -> None:
    known: dict[str, Any] = {}
    saved: list[dict[str, Any]] = []
    start = Starts(7, 1, known, lambda: saved.append(dict(known))).begin(0, "m")
    assert saved == [{start.name: {"seed": start.seed, "model": "m"}}]


def test_the_same_run_seed_gives_the_same_seeds_and_another_gives_others() -> None:
    def seeds(run_seed: int) -> list[int]:
        ours = Starts(run_seed, 1, {})
        return [ours.begin(0, "m").seed for _ in range(20)]

    assert seeds(7) == seeds(7)
    assert not set(seeds(7)) & set(seeds(8))


def test_shards_with_the_seed_of_one_run_share_no_seed_and_no_name() -> None:
    """Else both would draw the same episodes, and copies would count as trials."""

    def begun(place: str) -> list[Start]:
        ours = Starts(7, 1, {}, place=place)
        return [ours.begin(0, "m") for _ in range(20)]

    of = [begun(place) for place in ("", "1/2:", "2/2:")]
    assert begun("1/2:") == of[1]
    assert len({start.seed for shard in of for start in shard}) == 60
    assert len({start.name for shard in of for start in shard}) == 60


def test_a_seed_that_was_used_before_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts, "derived", lambda run_seed, counter, place: counter // 3)
    ours = Starts(7, 1, {})
    assert [ours.begin(0, "m").seed for _ in range(4)] == [0, 1, 2, 3]


def test_seeds_fit_what_engines_take() -> None:
    found = [derived(seed, counter) for seed in (0, SEEDS - 1) for counter in range(500)]
    assert len(set(found)) == 1000
    assert min(found) >= 1
    assert max(found) < 2**31


@pytest.mark.parametrize("given", ["--seed=3", "--seed 3", "--seed"])
def test_the_seed_of_a_server_is_not_the_users_to_set(given: str) -> None:
    with pytest.raises(UsageError, match="own --seed") as refused:
        flags.split_engine_args([given])
    assert "--seed" in (refused.value.hint or "")
