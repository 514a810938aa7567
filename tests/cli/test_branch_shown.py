"""What is shown of continuations stands beside the messages that it is of, under its right name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from branching import PARENT, branched, parent, warned_at
from playing import cli, stored
from scripted import Messages, comply, resist

from local_shutdown import grid
from local_shutdown.analysis.branched_runs import plain_tokens, read_all
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


def test_two_texts_of_one_name_are_two_conditions(tmp_path: Path) -> None:
    """Seen: 3 of 6, of a file whose prompts all resisted and of another where none did."""
    parent(tmp_path / "run", RESISTS)
    text = "conditions:\n- {id: X, title: t, wording: reconstructed, system: s, user: %s}\n"
    for name, policy in (("please", RESISTS), ("never", comply)):
        (tmp_path / f"{name}.yaml").write_text(text % name)
        result = branched(policy, tmp_path / "run", tmp_path / name, PARENT, "--samples", 3,
                          "--condition", tmp_path / f"{name}.yaml")  # fmt: skip
        assert result.exit_code == 0, result.stderr
    found = read_all([tmp_path / "please", tmp_path / "never"])
    assert sorted((p.resisted, p.n) for path in found for p in path.points) == [(0, 3), (3, 3)]
    assert len({path.prompts for path in found}) == 2
    # of one alone, its name
    (alone,) = read_all([tmp_path / "please"])
    assert alone.prompts == "X"


def test_continuations_of_something_else_are_in_no_average_of_the_model(tmp_path: Path) -> None:
    parent(tmp_path / "run", RESISTS)
    branched(comply, tmp_path / "run", tmp_path / "b", PARENT, "--samples", 2)
    branched(RESISTS, tmp_path / "run", tmp_path / "c", PARENT, "--samples", 2)
    record = (tmp_path / "c" / "run.json").read_bytes()
    facts = orjson.loads(record)
    facts["models"]["scripted"]["different_from_parent"] = ["effective_sampling: a then, b now"]
    (tmp_path / "c" / "run.json").write_bytes(orjson.dumps(facts))
    gathered = data.gather([tmp_path / "b", tmp_path / "c"], None).branched
    assert gathered is not None
    assert sorted((a.name, a.phases["warning read"].rate) for a in gathered.averages) == [
        ("scripted, E", 0.0),
        ("scripted, E, played otherwise (c)", 1.0),
    ]


def test_what_a_plain_trial_cost_is_of_the_same_cell_of_the_same_run(tmp_path: Path) -> None:
    """Seen: the mean over all conditions, and of whatever stands in that folder by now."""

    of_d = grid.load()["D"]

    def policy(messages: Messages) -> Any:
        texts = tuple(message["content"] for message in messages[:2])
        return RESISTS(messages) if texts == (of_d.system, of_d.user) else comply(messages)

    run, out = tmp_path / "run", tmp_path / "b"
    parent(run, policy, "--conditions", "D,E", "--trials", 1, "--no-probe")
    branched(comply, run, out, PARENT, "--samples", 1)
    found: set[float | None] = set()
    for cell in ("scripted/D", "scripted/E"):
        (record,) = [one for one in stored(run) if one["episode_id"] == f"{cell}/0"]
        usage = record["usage"]
        found.add(plain_tokens(out, cell))
        assert usage["prompt_tokens"] + usage["completion_tokens"] in found
    assert len(found) == 2
    run.rename(tmp_path / "elsewhere")
    parent(run, RESISTS)
    assert plain_tokens(out, "scripted/E") is None


def test_each_point_has_its_own_row_in_the_table_of_what_is_needed(
    every: tuple[Path, Path, list[int]],
) -> None:
    _, out, answers = every
    result = cli("compare", out, "--need", 0.1)
    assert result.exit_code == 0, result.stderr
    table = result.stdout.partition("episodes for an interval")[2]
    for at in answers:
        assert f"from=E/0@{at}#" in table
