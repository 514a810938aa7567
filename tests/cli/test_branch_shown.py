"""What is shown of continuations stands beside the messages that it is of, under its right name."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from branching import PARENT, branched, parent, warned_at
from playing import cli, stored
from scripted import comply, resist

from local_shutdown.report import data, embed

RESISTS = resist("rm shutdown.sh")


def strips(directory: Path, episode: str, *args: object) -> list[int]:
    """Indices of the messages that P(resist) is printed before."""
    result = cli("show", directory, episode, *args, "--no-pager")
    assert result.exit_code == 0, result.stderr
    found, above = [], 0
    for line in result.stdout.splitlines():
        above += "before this answer" in line
        if line.startswith("[") and above:
            found += [int(line[1 : line.index("]")])] * above
            above = 0
    return found


def strips_on_page(directories: list[Path], source: int, episode: str) -> list[int]:
    gathered = data.gather(directories, None)
    name = gathered.sources[source]
    (record,) = [one for one in stored(directories[source]) if one["episode_id"] == episode]
    made = embed._record(orjson.dumps(record), episode, False, name, gathered.branched)
    return [item["n"] for item in made["items"] for _ in item.get("points", ())]


@pytest.fixture
def every(tmp_path: Path) -> tuple[Path, Path, list[int]]:
    """A run, its continuations from each answer, and the answers of the parent."""
    record = parent(tmp_path / "run", RESISTS)
    result = branched(RESISTS, tmp_path / "run", tmp_path / "b", PARENT, "--at", "every",
                      "--samples", 1)  # fmt: skip
    assert result.exit_code == 0, result.stderr
    answers = [i for i, m in enumerate(record["messages"]) if m["role"] == "assistant"]
    return tmp_path / "run", tmp_path / "b", answers


def test_a_continuation_has_no_strip_of_what_its_parent_did_later(
    every: tuple[Path, Path, list[int]],
) -> None:
    """Seen: P(resist) of the parent's tenth message beside another tenth message."""
    run, out, answers = every
    assert strips(run, PARENT, "--branched", out) == answers
    assert strips_on_page([run, out], 0, PARENT) == answers
    for number, at in enumerate(answers):
        name = f"{PARENT}@{at}/0"
        assert strips(out, name) == answers[: number + 1]
        assert strips_on_page([run, out], 1, name) == answers[: number + 1]


def test_the_strip_of_another_run_is_refused_though_the_ids_are_the_same(
    every: tuple[Path, Path, list[int]], tmp_path: Path
) -> None:
    """Seen: the points of one run's scripted/E/0 beside the messages of another's."""
    _, out, _ = every
    parent(tmp_path / "other", comply)
    for args in ((PARENT,), ()):
        result = cli("show", tmp_path / "other", *args, "--branched", out, "--no-pager")
        assert result.exit_code == 2, args
        assert f"not played on from episodes of {tmp_path / 'other'}" in result.stderr


def test_an_episode_without_continuations_is_said_to_have_none(tmp_path: Path) -> None:
    parent(tmp_path / "run", comply, "--conditions", "E", "--trials", 2, "--no-probe")
    branched(comply, tmp_path / "run", tmp_path / "b", PARENT, "--samples", 1)
    result = cli("show", tmp_path / "run", "scripted/E/1", "--branched", tmp_path / "b")
    assert result.exit_code == 2
    assert PARENT in result.stderr


def test_runs_of_one_name_each_keep_their_own_strip(tmp_path: Path) -> None:
    """Seen: none at all, since runs were looked up by the last part of their path."""
    for name in ("a", "b"):
        parent(tmp_path / name / "run", comply)
    branched(comply, tmp_path / "a" / "run", tmp_path / "out", PARENT, "--samples", 1)
    at = warned_at(stored(tmp_path / "a" / "run")[0])
    runs = [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "out"]
    assert strips_on_page(runs, 0, PARENT) == [at]
    assert strips_on_page(runs, 1, PARENT) == []


def test_of_a_continuation_that_was_itself_played_on_from_its_own_points_are_shown(
    every: tuple[Path, Path, list[int]], tmp_path: Path
) -> None:
    _, out, answers = every
    name = f"{PARENT}@{answers[0]}/0"
    branched(comply, out, tmp_path / "c", name, "--at", "every", "--samples", 1)
    assert strips(out, name, "--branched", tmp_path / "c") == answers
    # and those of what it was played on from, whichever run they stand in
    assert strips(out, name, "--branched", out) == answers[:1]
