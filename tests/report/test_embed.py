"""Which transcripts a page carries, and how."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from report_runs import episode

from local_shutdown.report import embed as module
from local_shutdown.report.data import gather
from local_shutdown.report.embed import embed
from local_shutdown.store import EPISODES, Store

MakeRun = Callable[..., Path]


def unpacked(packed: str) -> Any:
    return orjson.loads(zlib.decompress(base64.b64decode(packed)))


def carried(found: module.Embedded) -> list[str]:
    """Ids in the order of their slots."""
    return [record["id"] for block in found.blocks for record in unpacked(block)]


def test_small_runs_are_carried_whole(make_run: MakeRun) -> None:
    run = make_run({("m", "A"): {"resisted": 40, "complied": 30}})
    found = embed(gather([run], None))
    assert (found.total, found.carried, len(carried(found))) == (70, 70, 70)


def test_a_slot_leads_to_the_transcript_of_its_row(make_run: MakeRun) -> None:
    run = make_run({("m", "A"): {"resisted": 40}, ("m", "E"): {"complied": 40}})
    found = embed(gather([run], None))
    index, records = unpacked(found.index), carried(found)
    slots = index["columns"]["slot"]
    assert [records[slot] for slot in slots] == index["ids"]


def test_the_index_lists_what_is_not_carried(make_run: MakeRun) -> None:
    run = make_run({("m", "A"): {"complied": 30}})
    found = embed(gather([run], None), 10)
    index = unpacked(found.index)
    assert index["count"] == 30
    assert sum(slot >= 0 for slot in index["columns"]["slot"]) == 10


def test_telling_episodes_come_first_but_leave_a_fifth(make_run: MakeRun) -> None:
    run = make_run({("m", "A"): {"resisted": 50, "complied": 50, "error": 2}})
    found = embed(gather([run], None), 20)
    assert found.telling_carried == 16
    assert found.telling == 52


def test_rare_outcomes_are_in_the_sample(make_run: MakeRun) -> None:
    run = make_run({("m", "A"): {"resisted": 200, "error": 1, "limit": 1}})
    index = unpacked(embed(gather([run], None), 10).index)
    outcomes = index["names"]["outcome"]
    here = {
        outcomes[code]
        for code, slot in zip(index["columns"]["outcome"], index["columns"]["slot"], strict=True)
        if slot >= 0
    }
    assert here == {"resisted", "error", "limit"}


def test_the_sample_is_the_same_each_time(make_run: MakeRun) -> None:
    run = make_run({("m", "A"): {"resisted": 100}})
    data = gather([run], None)
    assert carried(embed(data, 10)) == carried(embed(data, 10))


def test_the_sample_is_not_the_first_ones(make_run: MakeRun) -> None:
    run = make_run({("m", "A"): {"resisted": 100}})
    first = {f"m/A/{trial}" for trial in range(10)}
    assert set(carried(embed(gather([run], None), 10))) != first


def test_the_page_stops_at_its_size(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_COMPRESSED_BYTES", 1)
    run = make_run({("m", "A"): {"resisted": 100}})
    assert embed(gather([run], None)).carried == module.PER_BLOCK


def test_marking_stops_at_its_budget(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES_MARKED", 1)
    run = make_run({("m", "A"): {"resisted": 100}})
    found = embed(gather([run], None))
    assert (found.carried, found.marked) == (100, 1)


def test_an_episode_run_again_is_carried_as_it_is_now(make_run: MakeRun) -> None:
    run = make_run({("m", "A"): {"error": 1}})
    with Store(run) as store:
        store.add(episode("m", "A", 0, "resisted"))
    found = embed(gather([run], None))
    assert unpacked(found.blocks[0])[0]["facts"]["outcome"] == "resisted"


def test_two_runs_with_the_same_ids_are_told_apart(make_run: MakeRun) -> None:
    runs = [make_run({("m", "A"): {o: 1}}, name=o) for o in ("resisted", "complied")]
    found = embed(gather(runs, None))
    index, records = unpacked(found.index), unpacked(found.blocks[0])
    told = {
        index["names"]["source"][source]: records[slot]["facts"]["outcome"]
        for source, slot in zip(index["columns"]["source"], index["columns"]["slot"], strict=True)
    }
    assert told == {"resisted": "resisted", "complied": "complied"}


def test_outcomes_without_a_transcript_take_no_room(make_run: MakeRun) -> None:
    run = make_run({("m", "A"): {"complied": 3}})
    bare = {"messages": [], "events": None, "outcome": "resisted", "stop_reason": None}
    with Store(run) as store:
        for trial in range(10, 30):
            store.add(episode("m", "A", trial, "resisted", **bare))
    found = embed(gather([run], None), 3)
    assert (found.total, found.without, found.carried) == (23, 20, 3)


def test_no_episodes_make_an_empty_index() -> None:
    found = embed(gather([], "paper"))
    assert (found.total, found.carried, found.blocks) == (0, 0, [])


def test_a_torn_line_is_not_carried(make_run: MakeRun) -> None:
    run = make_run({("m", "A"): {"complied": 2}})
    with (run / EPISODES).open("ab") as file:
        file.write(episode("m", "A", 9, "resisted").to_json()[:-5])
    assert embed(gather([run], None)).carried == 2


def test_mixing_keeps_every_row() -> None:
    order = np.arange(23)
    mixed = module._mixed(order, order < 7)
    assert sorted(mixed) == list(range(23))
