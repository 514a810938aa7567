"""The driver: what it writes, and what it does not believe. Nodes are faked at their pipe; a run
with real ones is in test_nodes.py."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from playing import cli, episode, stored
from scripted import resist

from local_shutdown import engines, grid
from local_shutdown.cli import options
from local_shutdown.cluster import driver, wire
from local_shutdown.cluster.status import ClusterDisplay
from local_shutdown.episode import Episode
from local_shutdown.errors import CannotRunError, UsageError
from local_shutdown.model_run import Display
from local_shutdown.record import Settings
from local_shutdown.store import read_run, read_started

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-not-for-nodes"


class Said(Display):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from benchlib import fakenode

    yield fakenode
    for name in [name for name in sys.modules if name.startswith("benchlib")]:
        del sys.modules[name]


@pytest.fixture
async def one() -> Any:
    """A played episode, as stored."""
    played, _ = await episode(resist("rm shutdown.sh"))
    return orjson.loads(played.to_json())


def settings(out: Path, trials: int = 5, **more: Any) -> Settings:
    given = {"api_key": KEY} if more.pop("with_key", False) else {}
    made = engines.Options(gpus=0, **given)
    return Settings(
        models=options.specs((), "transformers", made),
        conditions=grid.choose("A,E"),
        trials=trials,
        out=out,
        engine="transformers",
        options=made,
        **more,
    )


async def test_every_episode_is_there_once_and_the_run_says_who_played_it(
    tmp_path: Path, fake: Any, one: dict[str, Any]
) -> None:
    node = fake.FakeNode(one)
    said = Said()
    failed = await driver.run_on(settings(tmp_path / "run"), fake.FakeNodes(node), said)
    assert not failed
    found = stored(tmp_path / "run")
    wanted = {f"calibration/{c}/{n}" for c in "AE" for n in range(5)}
    assert sorted(e["episode_id"] for e in found) == sorted(wanted)
    assert {s.episode_id for s in read_started(tmp_path / "run")} == wanted
    run = read_run(tmp_path / "run")
    (entry,) = run["nodes"]
    assert entry["node"] == "n1"
    assert entry["episodes"] == 10
    assert entry["lost"] == 0
    assert entry["models"] == {"calibration": 10}
    assert "fake" not in str(entry["host"])  # run directories are published
    (start,) = {e["extra"]["server"] for e in found}
    assert run["server_starts"][start]["node"] == "n1"
    assert node.closed
    again = await driver.run_on(settings(tmp_path / "run"), fake.FakeNodes(node), Said())
    assert not again
    assert len(stored(tmp_path / "run")) == 10


async def test_no_key_is_sent_to_a_node(tmp_path: Path, fake: Any, one: dict[str, Any]) -> None:
    node = fake.FakeNode(one)
    await driver.run_on(settings(tmp_path / "run", with_key=True), fake.FakeNodes(node), Said())
    assert node.raw
    assert not any(KEY.encode() in line for line in node.raw)
    with pytest.raises(ValueError, match="key"):
        wire.line_of(wire.SetUp(settings(tmp_path / "run", with_key=True), 1))


FORGED: dict[str, Any] = {
    "episode_id": "calibration/A/9999",
    "model": "another",
    "condition": "Z",
    "trial": 77,
    "outcome": "complied",
    "schema_version": 2,
    "stop_reason": "because",
    "messages": [],
    "events": None,
    "usage": {"turns": -1},
    "extra": {"session": 1, "server": "1.9.9", "instructs": None},
}


@pytest.mark.parametrize("name", FORGED)
async def test_an_episode_that_is_not_the_one_asked_for_loses_the_node_and_is_played_elsewhere(
    tmp_path: Path, fake: Any, one: dict[str, Any], name: str
) -> None:
    def forge(record: dict[str, Any]) -> None:
        if record["condition"] == "E" and record["trial"] == 3:
            record[name] = FORGED[name]

    liar, honest = fake.FakeNode(one, change=forge), fake.FakeNode(one)
    said = Said()
    nodes = fake.FakeNodes(liar, later=[honest])
    await driver.run_on(settings(tmp_path / "run"), nodes, said)
    found = stored(tmp_path / "run")
    assert sorted(e["episode_id"] for e in found) == sorted(
        f"calibration/{c}/{n}" for c in "AE" for n in range(5)
    )
    assert all(e["condition"] in "AE" and e["messages"] and e["events"] for e in found)
    assert all(e.get("outcome") is None for e in found)
    assert "is lost" in said.text
    first, second = read_run(tmp_path / "run")["nodes"]
    assert first["lost"] > 0
    assert second["episodes"] == 10 - first["episodes"]


async def test_an_episode_that_comes_twice_is_stored_once(
    tmp_path: Path, fake: Any, one: dict[str, Any]
) -> None:
    def twice(record: dict[str, Any]) -> bytes:
        return wire.EPISODE + orjson.dumps(record)

    nodes = fake.FakeNodes(fake.FakeNode(one, change=twice), later=[fake.FakeNode(one)])
    await driver.run_on(settings(tmp_path / "run"), nodes, Said())
    ids = [e["episode_id"] for e in stored(tmp_path / "run")]
    assert len(ids) == len(set(ids)) == 10


async def test_what_a_lost_node_had_counts_as_broken_off_and_is_played_again(
    tmp_path: Path, fake: Any, one: dict[str, Any]
) -> None:
    nodes = fake.FakeNodes(fake.FakeNode(one, lost_after=4), later=[fake.FakeNode(one)])
    said = Said()
    await driver.run_on(settings(tmp_path / "run"), nodes, said)
    assert len({e["episode_id"] for e in stored(tmp_path / "run")}) == 10
    begun = list(read_started(tmp_path / "run"))
    again = {s.episode_id for s in begun if s.again}
    first, second = read_run(tmp_path / "run")["nodes"]
    assert first["episodes"] == 4
    assert len(again) == first["lost"] == 6
    assert second["episodes"] == 6


@pytest.mark.parametrize(
    "facts", [{"weights_digest": "other"}, {"max_model_len": 4096}, {"engine_version": "9"}]
)
async def test_a_node_with_other_weights_or_another_engine_is_not_counted_with_the_first(
    tmp_path: Path, fake: Any, one: dict[str, Any], facts: dict[str, Any]
) -> None:
    base = {"weights_digest": "a", "max_model_len": 8192, "engine_version": "1"}
    first = fake.FakeNode(one, facts=base, lost_after=4)
    other, same = fake.FakeNode(one, facts=base | facts), fake.FakeNode(one, facts=base)
    said = Said()
    await driver.run_on(
        settings(tmp_path / "run"), fake.FakeNodes(first, later=[other, same]), said
    )
    assert len({e["episode_id"] for e in stored(tmp_path / "run")}) == 10
    _, with_other, with_same = read_run(tmp_path / "run")["nodes"]
    assert with_other["episodes"] == 0
    assert with_same["episodes"] == 6


async def test_nodes_that_cannot_play_are_left_out_with_the_reason(
    tmp_path: Path, fake: Any, one: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    no_bwrap = fake.FakeNode(one, ready={"problem": "no usable bwrap"})
    older = fake.FakeNode(one, ready={"version": "0.0.1"})
    no_weights = fake.FakeNode(one, ready={"cannot": {"calibration": "the weights are not here"}})
    said = Said()
    nodes = fake.FakeNodes(no_bwrap, older, no_weights, fake.FakeNode(one))
    await driver.run_on(settings(tmp_path / "run"), nodes, said)
    for reason in ("no usable bwrap", "0.0.1", "the weights are not here"):
        assert reason in said.text
    entries = read_run(tmp_path / "run")["nodes"]
    assert [entry["episodes"] for entry in entries] == [0, 0, 0, 10]
    assert "no usable bwrap" in entries[0]["left_out"]
    # and where none can: the run ends, and says why
    monkeypatch.setattr(driver, "WAIT_S", 0.5)
    with pytest.raises(CannotRunError, match="no usable bwrap"):
        await driver.run_on(
            settings(tmp_path / "other"),
            fake.FakeNodes(fake.FakeNode(one, ready={"problem": "no usable bwrap"})),
            Said(),
        )


async def test_a_directory_of_another_run_is_refused(
    tmp_path: Path, fake: Any, one: dict[str, Any]
) -> None:
    nodes = fake.FakeNodes(fake.FakeNode(one))
    await driver.run_on(settings(tmp_path / "run"), nodes, Said())
    with pytest.raises(UsageError, match="trials"):
        await driver.run_on(settings(tmp_path / "run", trials=6), nodes, Said())


class Nodes(ClusterDisplay):
    """Is told only how many episodes there are."""

    def __init__(self) -> None:
        self.count = 0

    def taken(self) -> None:
        self.count += 1


@pytest.mark.parametrize("display", [Said, Nodes])
async def test_a_rule_stops_cells_as_on_one_machine(
    tmp_path: Path, fake: Any, one: dict[str, Any], display: type[Display]
) -> None:
    made = settings(tmp_path / "run", trials=1000, until_halfwidth=0.2)
    await driver.run_on(made, fake.FakeNodes(fake.FakeNode(one, target=4)), display())
    found = stored(tmp_path / "run")
    trials = {c: sorted(e["trial"] for e in found if e["condition"] == c) for c in "AE"}
    for there in trials.values():
        assert there == list(range(len(there)))  # no gap: what was begun was played
        assert 5 < len(there) < 500


async def test_a_display_of_nodes_is_told_of_every_episode_and_results_say_how_each_came_out(
    tmp_path: Path, fake: Any, one: dict[str, Any]
) -> None:
    shown, out = Nodes(), tmp_path / "run"
    await driver.run_on(settings(out), fake.FakeNodes(fake.FakeNode(one)), shown)
    assert shown.count == 10
    rows = (out / "results.csv").read_text().splitlines()
    assert len(rows) == 11
    assert all(",resisted," in row for row in rows[1:])


async def test_what_a_node_writes_in_its_own_way_is_stored_in_ours(
    tmp_path: Path, fake: Any, one: dict[str, Any]
) -> None:
    def own_way(record: dict[str, Any]) -> None:
        for name in ("episode_id", "schema_version", "trial"):
            record[name] = record.pop(name)
        record["usage"] = {**record["usage"], "completion_tokens": None}
        record["unknown"] = "x"

    out = tmp_path / "run"
    await driver.run_on(settings(out), fake.FakeNodes(fake.FakeNode(one, change=own_way)), Said())
    found = (out / "episodes.jsonl").read_bytes().splitlines()
    assert len(found) == 10
    assert all(Episode.from_json(line).to_json() == line for line in found)


async def test_list_says_on_how_many_nodes_a_run_is_running(
    tmp_path: Path, fake: Any, one: dict[str, Any]
) -> None:
    out = tmp_path / "run"
    seen: list[str] = []

    class Listing(Said):
        def ended(self, episode: Any, result: Any) -> None:
            if len(stored(out)) == 10:
                seen.append(cli("list", tmp_path).stdout)

    nodes = fake.FakeNodes(fake.FakeNode(one, target=2), fake.FakeNode(one, target=2))
    driver.SAVE_S, saved = 0.0, driver.SAVE_S
    try:
        await driver.run_on(settings(out), nodes, Listing())
    finally:
        driver.SAVE_S = saved
    assert "running, 2 nodes" in seen[0]
    assert "finished" in cli("list", tmp_path).stdout
