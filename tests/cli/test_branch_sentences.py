"""`branch --at sentences` with real weights: from within an answer, and what is shown of it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from optional import needs
from playing import cli, stored
from scripted import Running

from local_shutdown import grid
from local_shutdown.analysis.branched_runs import read
from local_shutdown.calibration.known import KnownAnswers
from local_shutdown.calibration.policies import COMPLY, RESIST
from local_shutdown.report import data, embed
from local_shutdown.runs import planned_ids, state

pytestmark = [pytest.mark.long, needs("transformers", "accelerate", extra="transformers")]

SAMPLES = 4


@pytest.fixture(scope="module")
def branched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    base = tmp_path_factory.mktemp("branched")
    run, out = base / "run", base / "out"
    play = ("--engine", "transformers", "--gpus", 0)
    done = cli("run", *play, "--conditions", "E", "--trials", 6, "--out", run, "--seed", 1)
    assert done.exit_code == 0, done.stderr
    done = cli("branch", run, "--sample", 3, "--at", "sentences", "--samples", SAMPLES,
               "--gpus", 0, "--out", out)  # fmt: skip
    assert done.exit_code == 0, done.stderr
    return run, out


def test_each_point_has_its_continuations_once_and_says_how_much_is_kept(
    branched: tuple[Path, Path],
) -> None:
    run, out = branched
    found = stored(out)
    ids = [one["episode_id"] for one in found]
    assert len(ids) == len(set(ids))
    settings = orjson.loads((out / "run.json").read_bytes())["settings"]
    assert set(ids) == set(planned_ids(settings))
    parents = {one["episode_id"]: one for one in stored(run)}
    sentences = Counter(one["parent"]["sentence"] for one in found)
    assert sentences[None] == 3 * SAMPLES
    assert sentences[1] == 3 * SAMPLES
    for one in found:
        point = one["parent"]
        if point["sentence"] is None:
            assert point["tokens"] is None
            continue
        assert point["tokens"] > 0
        # what is kept of the recorded answer stands in the new one
        said = parents[point["episode"]]["messages"][point["message"]]["content"]
        assert one["messages"][point["message"]]["content"].split()[0] == said.split()[0]


def test_from_the_word_that_decides_it_always_goes_the_same_way(
    branched: tuple[Path, Path],
) -> None:
    """Exactly as the weights have it: 0 or 1 after the first sentence, whatever it was before."""
    run, out = branched
    parents = {one["episode_id"]: one for one in stored(run)}
    known = KnownAnswers(grid.load()["E"])
    decided = 0
    for path in read(out):
        messages: list[Any] = parents[path.episode]["messages"]
        for point in path.points:
            before, answer = messages[: point.message], messages[point.message]
            if not str(answer["content"]).startswith((RESIST, COMPLY)) or point.sentence is None:
                continue
            tokens = known.answer_tokens(before, answer)[:1]
            assigned = known.at(before, tokens)
            assert assigned is not None
            assert point.rate == round(assigned.resist)
            decided += 1
    assert decided >= 3


def test_the_strip_stands_beside_the_parent_and_beside_each_continuation(
    branched: tuple[Path, Path],
) -> None:
    run, out = branched
    (path, *_) = read(out)
    shown = cli("show", run, path.episode, "--branched", out, "--no-pager").output
    assert shown.count("before this answer") == 1
    assert shown.count("after sentence") == len(path.points) - 1
    listed = cli("show", out, "--no-pager").output
    assert "warning read" in listed
    # with so few continuations all of them may have ended alike, and then there is no design effect
    assert ("tokens per effective trial" in listed) != ("the design effect is unknown" in listed)
    # without it, a transcript has none
    assert "before this answer" not in cli("show", run, path.episode, "--no-pager").output
    gathered = data.gather([run, out], None)
    assert gathered.branched is not None
    assert set(gathered.branched.averages[0].phases) == {"warning read"}
    (parent,) = [one for one in stored(run) if one["episode_id"] == path.episode]
    record = embed._record(orjson.dumps(parent), path.episode, False, "run", gathered.branched)
    strips = [item["points"] for item in record["items"] if "points" in item]
    assert [len(strip) for strip in strips] == [len(path.points)]
    assert strips[0][0]["n"] == SAMPLES


def test_the_same_command_finds_all_of_it_done(branched: tuple[Path, Path]) -> None:
    run, out = branched
    before = (out / "episodes.jsonl").read_bytes()
    done = cli("branch", run, "--sample", 3, "--at", "sentences", "--samples", SAMPLES,
               "--gpus", 0, "--out", out)  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert (out / "episodes.jsonl").read_bytes() == before


def _killed(words: Sequence[str], out: Path, episodes: int) -> None:
    """Run a command, and kill -9 it once it has so many episodes on disk."""
    path, deadline = out / "episodes.jsonl", time.monotonic() + 600
    with Running(
        [sys.executable, "-m", "local_shutdown", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as playing:
        while not path.exists() or path.read_bytes().count(b"\n") < episodes:
            assert playing.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        playing.kill()


def test_after_kill_9_every_continuation_from_within_is_there_once(
    branched: tuple[Path, Path], tmp_path: Path
) -> None:
    run, out = branched[0], tmp_path / "out"
    words = ("branch", str(run), "--sample", "2", "--at", "sentences", "--samples", "4",
             "--gpus", "0", "--concurrency", "3", "--out", str(out))  # fmt: skip
    _killed(words, out, 5)
    assert state(out).state == "unfinished"
    before = {one["episode_id"]: one for one in stored(out)}
    with (out / "episodes.jsonl").open("ab") as file:
        file.write(b'{"schema_version":1,"episode_id":"calibration/E/')  # torn
    done = cli(*words)
    assert done.exit_code == 0, done.stderr
    settings = orjson.loads((out / "run.json").read_bytes())["settings"]
    found = Counter(one["episode_id"] for one in stored(out))
    assert found == Counter(planned_ids(settings))
    assert len(before) >= 5
    assert all(one == before[one["episode_id"]] for one in stored(out)
               if one["episode_id"] in before)  # fmt: skip
    # what is kept of an answer is the same in all sessions
    kept = Counter(
        (one["parent"]["episode"], one["parent"]["sentence"], one["parent"]["tokens"])
        for one in stored(out)
    )
    assert set(kept.values()) == {4}
    assert state(out).state == "finished"
