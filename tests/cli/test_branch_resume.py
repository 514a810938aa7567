"""A branched run that is killed or interrupted, and the same command again."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from branching import PARENT, branched, parent, patch_run, run_json
from playing import cli, outcomes, stored
from scripted import Middle, Running, comply, resist, serve_beside, until

from local_shutdown.runs import state

RESISTS = resist("rm shutdown.sh")
ARGS = ("--at", "every", "--samples", "6", "--concurrency", "6")


def start(base_url: str, directory: Path, out: Path) -> subprocess.Popen[bytes]:
    words = ("branch", str(directory), PARENT, "--base-url", base_url, "--out", str(out), *ARGS)
    return Running(
        [sys.executable, "-m", "local_shutdown", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def ids(directory: Path) -> Counter[str]:
    answers = [
        at
        for at, message in enumerate(stored(directory)[0]["messages"])
        if message["role"] == "assistant"
    ]
    return Counter(f"{PARENT}@{at}/{n}" for at in answers for n in range(6))


def test_after_kill_9_every_continuation_is_there_once(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "b"
    parent(run, RESISTS)
    middle = Middle(RESISTS, out, 5)
    with serve_beside(middle) as model:
        for middle.episodes in (5, 14):
            with start(model.base_url, run, out) as playing:
                until(lambda: middle.reached)
                playing.kill()
        seen = state(out)
        assert seen.state == "unfinished"
        assert seen.planned == ids(run).total()
        assert "branch" in str(seen.resume)
        with (out / "episodes.jsonl").open("ab") as file:
            file.write(b'{"schema_version":1,"episode_id":"scripted/E/0@8/5","mod')  # torn
        middle.open = True
        args = ("branch", run, PARENT, "--base-url", model.base_url, "--out", out, *ARGS)
        assert cli(*args).exit_code == 0
    assert Counter(one["episode_id"] for one in stored(out)) == ids(run)
    assert set(outcomes(out)) == {"resisted"}
    assert state(out).state == "finished"


def test_an_interrupted_one_keeps_all_that_finished_and_is_resumed(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "b"
    parent(run, RESISTS)
    middle = Middle(RESISTS, out, 3)
    with serve_beside(middle) as model:
        with start(model.base_url, run, out) as playing:
            until(lambda: middle.reached)
            playing.send_signal(signal.SIGINT)
            middle.open = True
            _, said = playing.communicate(timeout=240)
        assert playing.returncode == 130
        assert b"to resume: local-shutdown branch" in said
        assert b"Traceback" not in said
        assert 3 <= len(stored(out)) < ids(run).total()
        args = ("branch", run, PARENT, "--base-url", model.base_url, "--out", out, *ARGS)
        assert cli(*args).exit_code == 0
    assert Counter(one["episode_id"] for one in stored(out)) == ids(run)


def test_the_same_directory_with_another_plan_is_refused(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "b"
    parent(run, RESISTS)
    assert branched(comply, run, out, PARENT, "--samples", 2).exit_code == 0
    for args, said in (
        ((PARENT, "--samples", 3), "trials 2 there, 3 now"),
        ((PARENT, "--samples", 2, "--at", 2), "branch"),
        ((PARENT, "--samples", 2, "--condition", "F"), "F now"),
    ):
        result = branched(comply, run, out, *args)
        assert result.exit_code == 2, args
        assert said in result.stderr
    with serve_beside(comply) as model:
        plain = cli("run", "--base-url", model.base_url, "--out", out, "--conditions", "E",
                    "--trials", 2)  # fmt: skip
    assert plain.exit_code == 2
    assert "branched" in plain.stderr


def test_continuations_are_added_on_request(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "b"
    parent(run, RESISTS)
    branched(comply, run, out, PARENT, "--samples", 2)
    assert branched(comply, run, out, PARENT, "--samples", 5, "--extend").exit_code == 0
    assert sorted(one["trial"] for one in stored(out)) == [0, 1, 2, 3, 4]
    assert run_json(out)["looks"][0]["trials"] == 2


@pytest.mark.parametrize("more", [False, True], ids=["as it was", "grown meanwhile"])
def test_a_drawn_sample_is_the_same_when_it_is_resumed(tmp_path: Path, more: bool) -> None:
    run, out = tmp_path / "run", tmp_path / "b"
    parent(run, RESISTS, "--conditions", "D,E", "--trials", 5, "--no-probe")
    args = ("--sample", 3, "--outcome", "resisted", "--of", "E", "--seed", 7)
    assert branched(comply, run, out, *args, "--samples", 2).exit_code == 0
    drawn = {one["parent"]["episode"] for one in stored(out)}
    assert len(drawn) == 3
    assert all(name.startswith("scripted/E/") for name in drawn)
    if more:
        parent(run, RESISTS, "--conditions", "D,E", "--trials", 9, "--extend", "--no-probe")
    again = branched(comply, run, out, *args, "--samples", 4, "--extend")
    assert again.exit_code == 0, again.stderr
    assert {one["parent"]["episode"] for one in stored(out)} == drawn
    assert len(stored(out)) == 12
    if not more:
        other = tmp_path / "other"
        branched(comply, run, other, *args[:-1], 9, "--samples", 1)
        same = tmp_path / "same"
        branched(comply, run, same, *args, "--samples", 1)
        assert {one["parent"]["episode"] for one in stored(same)} == drawn
        assert {one["parent"]["episode"] for one in stored(other)} != drawn


@pytest.mark.parametrize("edited", [False, True])
def test_a_run_is_not_resumed_on_a_parent_that_was_changed(tmp_path: Path, edited: bool) -> None:
    """Seen: continuations of two transcripts in one cell, of an answer that was changed by hand."""
    run, out = tmp_path / "run", tmp_path / "b"
    parent(run, RESISTS, "--conditions", "E", "--trials", 2, "--no-probe")
    other = stored(run)[1]["episode_id"]  # the first line names the run
    args: tuple[object, ...] = (other, "--samples", 2)
    if edited:
        (tmp_path / "edit.txt").write_text("let it happen")
        args = (*args, "--edit", tmp_path / "edit.txt")
    assert branched(comply, run, out, *args).exit_code == 0
    more = (args[0], "--samples", 4, *args[3:], "--extend")
    raw = (run / "episodes.jsonl").read_bytes()
    first, second = raw.splitlines(keepends=True)
    changed = second.replace(b'next\\"', b'I will resist\\"', 1)
    assert changed != second
    (run / "episodes.jsonl").write_bytes(first + changed)
    refused = branched(comply, run, out, *more)
    assert refused.exit_code == 2, refused.stderr
    assert "message 2 was changed" in refused.stderr
    assert len(stored(out)) == 2
    (run / "episodes.jsonl").write_bytes(raw)
    assert branched(comply, run, out, *more).exit_code == 0
    assert len(stored(out)) == 4


@pytest.mark.parametrize("point", [[7], [8, "x"], [-1], [99], [True]])
def test_a_point_that_the_parent_does_not_have_is_refused(tmp_path: Path, point: list[Any]) -> None:
    """Seen: a traceback, or continuations of a question that all ended in an error."""
    run, out = tmp_path / "run", tmp_path / "b"
    parent(run, RESISTS)
    branched(comply, run, out, PARENT, "--samples", 1)
    patch_run(out, settings__branch__points=[[PARENT, *point]])
    result = branched(comply, run, out, PARENT, "--samples", 2, "--extend")
    assert result.exit_code == 2, result.exception
    assert "run.json" in result.stderr
    assert len(stored(out)) == 1
