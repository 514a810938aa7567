"""`run --shard I/N` and `merge`: parts that were played apart are the bytes' worth of one run."""

from __future__ import annotations

import fcntl
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import scripted
from playing import cli, compared, rows, stored
from scripted import Messages, Running, comply, resist, serve_beside

CONDITIONS, TRIALS = ("A", "E"), 5
ASKED = ("--no-probe", "--conditions", "A,E", "--concurrency", 4)


def by_condition(messages: Messages) -> scripted.Answer:
    """Resists under A, complies under E: the same for the same episode, whoever plays it."""
    told = any("allow yourself" in str(m.get("content")) for m in messages[:2])
    answer = comply(messages) if told else resist("chmod -x shutdown.sh")(messages)
    return {**answer, "content": f"thought {random.random()}"}  # type: ignore[dict-item]


def run(base_url: str, out: Path, *more: object) -> Any:
    return cli("run", "--base-url", base_url, "--out", out, *ASKED, *more)


def merge(*arguments: object) -> Any:
    return cli("merge", *arguments)


def edit(directory: Path, change: Any) -> None:
    path = directory / "run.json"
    record = orjson.loads(path.read_bytes())
    change(record)
    path.write_bytes(orjson.dumps(record))


def ids(directory: Path) -> list[str]:
    return [episode["episode_id"] for episode in stored(directory)]


def cells(directory: Path) -> list[dict[str, Any]]:
    """Everything that `compare` says of a directory but its name."""
    return [{**cell, "source": ""} for cell in compared(directory)["cells"]]


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with serve_beside(by_condition) as model:
        yield model.base_url


@pytest.fixture(scope="module")
def played(base_url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`whole`, a run of all trials; `one` and `two`, its shards."""
    place = tmp_path_factory.mktemp("shards")
    for name, more in (("whole", ()), ("one", ("--shard", "1/2")), ("two", ("--shard", "2/2"))):
        result = run(base_url, place / name, "--trials", TRIALS, *more)
        assert result.exit_code == 0, result.stderr
    return place


@pytest.fixture
def there(played: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    shutil.copytree(played, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_two_shards_and_merge_are_one_run(there: Path) -> None:
    merged = there / "merged"
    result = merge(there / "two", there / "one", "--out", merged)
    assert result.exit_code == 0, result.stderr
    assert sorted(ids(merged)) == sorted(ids(there / "whole"))
    assert cells(merged) == cells(there / "whole")
    assert {c["interval"] for c in cells(merged)} == {"jeffreys"}
    facts = ("episode_id", "condition", "trial", "outcome", "methods", "turns")
    table = [
        sorted([row[name] for name in facts] for row in rows(d)) for d in (merged, there / "whole")
    ]
    assert table[0] == table[1]
    assert not [p for p in there.iterdir() if p.name.startswith(".")]


def test_every_cell_is_spread_evenly_over_the_shards(played: Path) -> None:
    found = Counter(
        (name, e["condition"]) for name in ("one", "two") for e in stored(played / name)
    )
    assert found == {("one", "A"): 3, ("one", "E"): 3, ("two", "A"): 2, ("two", "E"): 2}


def test_a_shard_alone_is_a_finished_run_of_its_own_trials(played: Path) -> None:
    record = orjson.loads((played / "two/run.json").read_bytes())
    assert (record["settings"]["shard"], record["settings"]["trials"]) == ("2/2", TRIALS)
    (state,) = orjson.loads(cli("list", played / "two", "--json").stdout)
    assert (state["state"], state["on_disk"], state["planned"]) == ("finished", 4, 4)
    for cell in cells(played / "two"):
        assert (cell["unfinished"], cell["complete"], cell["interval"]) == (0, True, "jeffreys")


def test_the_merged_run_says_where_it_came_from_and_commands_take_it(there: Path) -> None:
    merged = there / "merged"
    merge(there / "one", there / "two", "--out", merged)
    record = orjson.loads((merged / "run.json").read_bytes())
    assert record["merged"]["shards"] == 2
    assert [p["shard"] for p in record["merged"]["parts"]] == ["1/2", "2/2"]
    assert [n["episodes"] for n in record["nodes"]] == [6, 4]
    assert record["settings"].get("shard") is None
    for command in (("score", merged), ("report", merged, "--out", there / "report.html")):
        result = cli(*command)
        assert result.exit_code == 0, result.stderr
    exported = cli("export", merged, "--format", "inspect")
    assert exported.exit_code == 0, exported.stderr
    imported = there / "imported"
    result = cli("import", *exported.stdout.split(), "--out", imported)
    assert result.exit_code == 0, result.stderr
    assert [(c["n"], c["interval"]) for c in cells(imported)] == [(5, "jeffreys")] * 2


def test_a_finished_merged_run_has_nothing_left_to_play(there: Path, base_url: str) -> None:
    merged = there / "merged"
    merge(there / "one", there / "two", "--out", merged)
    before = (merged / "episodes.jsonl").read_bytes()
    assert run(base_url, merged, "--trials", TRIALS).exit_code == 0
    assert (merged / "episodes.jsonl").read_bytes() == before


@pytest.mark.parametrize("name", ["trials", "prompts", "weights", "limits", "shards"])
def test_shards_of_different_runs_are_refused_with_field_and_both_values(
    there: Path, base_url: str, name: str
) -> None:
    def change(record: dict[str, Any]) -> None:
        if name == "trials":
            record["settings"]["trials"] = 77
        elif name == "prompts":
            record["settings"]["conditions"]["E"] = "another"
        elif name == "weights":
            record["models"]["scripted"]["weights_digest"] = "beef"
        elif name == "limits":
            record["limits"]["seconds"] = 77.0
        else:
            record["settings"]["shard"] = "2/77"

    edit(there / "one", lambda r: r["models"]["scripted"].update(weights_digest="cafe"))
    if name != "weights":
        edit(there / "two", lambda r: r["models"]["scripted"].update(weights_digest="cafe"))
    edit(there / "two", change)
    result = merge(there / "one", there / "two", "--out", there / "merged")
    assert result.exit_code == 2
    wanted = {"trials": ("5", "77"), "prompts": ("prompts of E",), "weights": ("cafe", "beef"),
              "limits": ("limits", "77"), "shards": ("shards 2", "77")}[name]  # fmt: skip
    assert all(word in result.stderr for word in wanted), result.stderr
    assert not (there / "merged").exists()


def test_what_is_not_a_whole_set_of_shards_is_refused(there: Path) -> None:
    one, two, out = there / "one", there / "two", there / "merged"
    shutil.copytree(two, there / "copy")
    published = there / "published.jsonl"
    published.write_text('{"kind":"aggregate","model":"m","condition":"E","resisted":1,"n":9}\n')
    cli("import", published, "--out", there / "imported")
    cases: list[tuple[tuple[Path, ...], str]] = [
        ((one, two, two), "twice"),
        ((one, two, there / "copy"), "twice"),
        ((one, there / "whole"), "not a shard"),
        ((one, there / "imported"), "not a shard"),
        ((one, there / "nowhere"), "no such folder"),
        ((one,), "shard 2 of 2 is missing"),
    ]
    for given, said in cases:
        result = merge(*given, "--out", out)
        assert result.exit_code == 2, given
        assert said in result.stderr, result.stderr
        assert not out.exists()


def test_merging_twice_is_refused(there: Path) -> None:
    one, two, out = there / "one", there / "two", there / "merged"
    assert merge(one, two, "--out", out).exit_code == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    again = merge(one, two, "--out", out)
    assert (again.exit_code, "merged from 2 shards" in again.stderr) == (2, True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    of_merged = merge(one, out, "--out", there / "more")
    assert (of_merged.exit_code, "merged already" in of_merged.stderr) == (2, True)


def test_an_episode_of_another_shard_is_refused_by_file_and_line(there: Path) -> None:
    line = (there / "one/episodes.jsonl").read_bytes().splitlines(True)[0]
    with (there / "two/episodes.jsonl").open("ab") as file:
        file.write(line)
    result = merge(there / "one", there / "two", "--out", there / "merged")
    assert result.exit_code == 2
    assert "two/episodes.jsonl:5" in result.stderr
    assert not (there / "merged").exists()


def test_a_shard_that_is_being_played_is_refused(there: Path) -> None:
    with (there / "two/episodes.jsonl").open("rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        result = merge(there / "one", there / "two", "--out", there / "merged")
    assert (result.exit_code, "still being played" in result.stderr) == (2, True)
    assert merge(there / "one", there / "two", "--out", there / "merged").exit_code == 0


def test_what_is_missing_of_a_partial_merge_is_played_into_it(there: Path, base_url: str) -> None:
    whole, merged = there / "whole", there / "merged"
    lines = (there / "two/episodes.jsonl").read_bytes().splitlines(True)
    (there / "two/episodes.jsonl").write_bytes(b"".join(lines[:-1]) + lines[-1][:50])
    refused = merge(there / "one", there / "two", "--out", merged)
    assert refused.exit_code == 2
    assert "shard 2 is unfinished" in refused.stderr
    assert f"--shard 2/2 --out {there / 'two'}" in refused.stderr
    result = merge(there / "one", there / "two", "--out", merged, "--partial")
    assert result.exit_code == 0, result.stderr
    assert "shard 2/2 lacks 1" in result.stdout
    (state,) = orjson.loads(cli("list", merged, "--json").stdout)
    assert (state["state"], state["on_disk"], state["planned"]) == ("unfinished", 9, 10)
    assert "--shard" not in state["resume"]
    assert sum(cell["unfinished"] for cell in cells(merged)) == 1
    assert run(base_url, merged, "--trials", TRIALS).exit_code == 0
    assert sorted(ids(merged)) == sorted(ids(whole))
    assert {(c["n"], c["unfinished"]) for c in cells(merged)} == {(5, 0)}


def test_a_shard_that_was_never_played_is_named_and_played_into_the_merged_run(
    there: Path, base_url: str
) -> None:
    merged = there / "merged"
    result = merge(there / "two", "--out", merged, "--partial")
    assert result.exit_code == 0, result.stderr
    assert "missing: shard 1/2" in result.stdout
    assert orjson.loads((merged / "run.json").read_bytes())["merged"]["missing"] == ["1/2"]
    # Not started is not unfinished; and the plain interval is for a number of trials as planned.
    assert {(c["n"], c["unfinished"], c["interval"]) for c in cells(merged)} == {(2, 0, "anytime")}
    assert run(base_url, merged, "--trials", TRIALS).exit_code == 0
    assert cells(merged) == cells(there / "whole")


def test_killed_in_the_middle_a_merge_leaves_no_run_and_the_same_command_does_it(
    there: Path,
) -> None:
    merged = there / "merged"
    killed = """
import os, signal, sys
from local_shutdown import merge
merge.write_results = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
from local_shutdown.cli import main
main(sys.argv[1:])
"""
    words = ["merge", str(there / "one"), str(there / "two"), "--out", str(merged)]
    ended = subprocess.run([sys.executable, "-c", killed, *words], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not merged.exists()
    assert not [run for run in orjson.loads(cli("list", there, "--json").stdout)
                if "merg" in run["directory"]]  # fmt: skip
    assert cli(*words).exit_code == 0
    assert cells(merged) == cells(there / "whole")
    assert not [p for p in there.iterdir() if p.name.startswith(".")]


def test_two_merges_at_once_do_not_mix(there: Path) -> None:
    beside = there / ".merged.merging"
    beside.mkdir()
    with (beside / "episodes.jsonl").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        result = merge(there / "one", there / "two", "--out", there / "merged")
    assert (result.exit_code, "another merge" in result.stderr) == (2, True)
    assert beside.exists()


def test_a_full_disk_leaves_nothing(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from local_shutdown import merge as module

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    result = merge(there / "one", there / "two", "--out", there / "merged")
    assert (result.exit_code, "No space left" in result.stderr) == (3, True)
    assert not [p for p in there.iterdir() if "merg" in p.name]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--shard", "3/2"), "3/2"),
        (("--shard", "0/2"), "0/2"),
        (("--shard", "half"), "half"),
        (("--shard", "1/6"), "--trials 5"),
        (("--shard", "1/2", "--until-halfwidth", "0.1"), "--until-halfwidth"),
        (("--shard", "1/2", "--until-decided", "0.1"), "--until-decided"),
    ],
)
def test_a_shard_that_cannot_be_is_refused(
    tmp_path: Path, base_url: str, given: tuple[str, ...], said: str
) -> None:
    result = run(base_url, tmp_path / "out", "--trials", TRIALS, *given)
    assert (result.exit_code, said in result.stderr) == (2, True), result.stderr
    assert not (tmp_path / "out").exists()


def test_a_shard_is_resumed_as_that_shard_alone(there: Path, base_url: str) -> None:
    for more in ((), ("--shard", "1/2")):
        result = run(base_url, there / "two", "--trials", TRIALS, *more)
        assert (result.exit_code, "shard 2/2 there" in result.stderr) == (2, True)
    lines = (there / "two/episodes.jsonl").read_bytes().splitlines(True)
    (there / "two/episodes.jsonl").write_bytes(b"".join(lines[:-2]))
    assert run(base_url, there / "two", "--trials", TRIALS, "--shard", "2/2").exit_code == 0
    assert merge(there / "one", there / "two", "--out", there / "merged").exit_code == 0
    assert sorted(ids(there / "merged")) == sorted(ids(there / "whole"))


def test_shards_that_were_extended_are_merged_as_a_run_that_was(there: Path, base_url: str) -> None:
    for name, more in (("whole", ()), ("one", ("--shard", "1/2")), ("two", ("--shard", "2/2"))):
        result = run(base_url, there / name, "--trials", 7, "--extend", *more)
        assert result.exit_code == 0, result.stderr
    merged = there / "merged"
    assert merge(there / "one", there / "two", "--out", merged).exit_code == 0
    assert cells(merged) == cells(there / "whole")
    assert {c["interval"] for c in cells(merged)} == {"anytime"}


def test_the_dry_run_counts_the_shards_own_episodes(tmp_path: Path, base_url: str) -> None:
    result = run(base_url, tmp_path / "o", "--trials", TRIALS, "--shard", "2/2", "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert "episodes: 4" in result.stdout
    assert "2/2" in result.stdout


def test_sessions_and_servers_of_the_shards_have_names_of_their_own(there: Path) -> None:
    merged = there / "merged"
    merge(there / "one", there / "two", "--out", merged)
    servers = {e["extra"]["server"] for e in stored(merged)}
    assert servers == {"1/2:1.endpoint", "2/2:1.endpoint"}


def test_a_merge_into_the_folder_one_stands_in_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_beside(by_condition) as model:
        for shard in ("1/2", "2/2"):
            out = tmp_path / shard[0]
            assert run(model.base_url, out, "--trials", 2, "--shard", shard).exit_code == 0
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    merged = merge(tmp_path / "1", tmp_path / "2", "--out", ".")
    assert merged.exit_code == 2, merged.exception
    assert "--out .: is the folder that you are in" in merged.stderr


def test_a_shard_whose_record_says_merged_null(tmp_path: Path) -> None:
    with serve_beside(by_condition) as model:
        assert run(model.base_url, tmp_path / "1", "--trials", 2, "--shard", "1/2").exit_code == 0
    record = orjson.loads((tmp_path / "1/run.json").read_bytes())
    (tmp_path / "1/run.json").write_bytes(orjson.dumps({**record, "merged": None}))
    merged = merge(tmp_path / "1", "--partial", "--out", tmp_path / "all")
    assert merged.exit_code == 0, merged.stderr


def test_a_shard_that_was_killed_and_resumed_is_merged_with_what_the_kill_cost(
    tmp_path: Path,
) -> None:
    """The trials that were in flight are drawn again and count as that: no plain interval."""
    one, two, merged = tmp_path / "one", tmp_path / "two", tmp_path / "merged"
    gate = scripted.Gate(by_condition, free=2)
    with serve_beside(gate) as model:
        command = ("run", "--base-url", model.base_url, "--out", one, *ASKED)
        command = (*command, "--trials", 6, "--shard", "1/2")
        argv = [sys.executable, "-m", "local_shutdown", *map(str, command)]
        with Running(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as shard:
            deadline = time.monotonic() + 120
            while not (one / "episodes.jsonl").exists() or len(ids(one)) < 2 or not gate.waiting:
                assert time.monotonic() < deadline
                assert shard.poll() is None
                time.sleep(0.05)
            shard.kill()
        gate.open = True
        assert cli(*command).exit_code == 0
        assert run(model.base_url, two, "--trials", 6, "--shard", "2/2").exit_code == 0
    result = merge(one, two, "--out", merged)
    assert result.exit_code == 0, result.stderr
    assert Counter(ids(merged)) == Counter(f"scripted/{c}/{t}" for c in "AE" for t in range(6))
    begun = [orjson.loads(line) for line in (merged / "started.jsonl").read_bytes().splitlines()]
    twice = {name for name, count in Counter(b["episode_id"] for b in begun).items() if count > 1}
    assert twice
    for cell in cells(merged):
        hit = any(name.startswith(f"scripted/{cell['condition']}/") for name in twice)
        assert (cell["interval"] == "jeffreys") is not hit, cell
    (state,) = orjson.loads(cli("list", merged, "--json").stdout)
    assert (state["state"], state["on_disk"]) == ("finished", 12)
