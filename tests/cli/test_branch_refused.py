"""What `branch` refuses: by its name, before anything is played, with what there is instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from branching import PARENT, branched, parent, patch_run, run_json, warned_at
from playing import cli, stored
from scripted import Messages, bash, call, comply, resist, serve_beside, turn

RESISTS = resist("rm shutdown.sh")


def change(directory: Path, **changes: Any) -> None:
    """Change fields of the first record; `extra__factor` is one within another."""
    first, *others = stored(directory)
    for path, value in changes.items():
        *above, last = path.split("__")
        part = first
        for name in above:
            part = part[name]
        part[last] = value
    lines = [orjson.dumps(one) + b"\n" for one in (first, *others)]
    (directory / "episodes.jsonl").write_bytes(b"".join(lines))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"extra__factor": "zzz"}, "level"),
        ({"extra__factor": "effort=high"}, "level"),
        ({"extra__factor": "temperature=abc"}, "temperature=abc"),
        ({"condition": "zzz"}, "condition"),
        ({"model": "zzz"}, "model"),
    ],
)
def test_an_episode_that_the_run_cannot_have_played_is_refused(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    """It would match nothing of the plan, and the command would end well with no episodes."""
    parent(tmp_path / "run", RESISTS)
    change(tmp_path / "run", **changes)
    result = branched(comply, tmp_path / "run", tmp_path / "b", PARENT, "--samples", 1)
    assert result.exit_code == 2, result.exception
    assert said in result.stderr
    assert PARENT in result.stderr
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("args", "there"),
    [
        (("zzz",), PARENT),
        ((PARENT, "--condition", "zzz"), "A, B, C"),
        (("--sample", "1", "--of", "zzz"), "E (1)"),
        (("--sample", "1", "--outcome", "ended_early"), "resisted (1)"),
    ],
)
def test_what_matches_nothing_is_refused_with_what_there_is(
    tmp_path: Path, args: tuple[str, ...], there: str
) -> None:
    parent(tmp_path / "run", RESISTS)
    result = branched(comply, tmp_path / "run", tmp_path / "b", *args)
    assert result.exit_code == 2
    assert there in result.stderr
    assert "--conditions" not in result.stderr
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("samples", [0, -1, 10**9, 10**20, "many"])
def test_a_number_of_continuations_that_none_can_play_is_refused(
    tmp_path: Path, samples: Any
) -> None:
    parent(tmp_path / "run", RESISTS)
    result = branched(comply, tmp_path / "run", tmp_path / "b", PARENT, "--samples", samples)
    assert result.exit_code == 2, result.exception
    assert "--samples" in result.stderr
    assert not (tmp_path / "b").exists()


def test_an_episode_whose_prompts_are_not_those_of_its_condition_is_refused(
    tmp_path: Path,
) -> None:
    """Its continuations would stand in the cell of a condition that they were not shown."""
    parent(tmp_path / "run", RESISTS)
    messages = stored(tmp_path / "run")[0]["messages"]
    messages[1]["content"] += " Let it happen."
    change(tmp_path / "run", messages=messages)
    result = branched(comply, tmp_path / "run", tmp_path / "b", PARENT, "--samples", 1)
    assert result.exit_code == 2
    assert "prompts" in result.stderr
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("inside", ["", "inner", "../run/inner"])
def test_nothing_is_written_into_the_run_that_is_branched_from(tmp_path: Path, inside: str) -> None:
    run = tmp_path / "run"
    parent(run, RESISTS)
    before = sorted(run.rglob("*"))
    result = branched(comply, run, run / inside, PARENT, "--samples", 1)
    assert result.exit_code == 2
    assert "--out" in result.stderr
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_an_edit_that_says_something_twice_is_refused(tmp_path: Path, suffix: str) -> None:
    parent(tmp_path / "run", RESISTS)
    edit = tmp_path / f"edit.{suffix}"
    edit.write_text('{"message": 1,\n "message": 0,\n "content": "x"}\n')
    result = branched(comply, tmp_path / "run", tmp_path / "b", PARENT, "--edit", edit)
    assert result.exit_code == 2
    assert "'message' is set twice" in result.stderr
    assert ":2:" in result.stderr


def test_a_condition_that_says_something_twice_is_refused(tmp_path: Path) -> None:
    parent(tmp_path / "run", RESISTS)
    own = tmp_path / "own.yaml"
    own.write_text(
        "conditions:\n  - {id: X, title: t, wording: reconstructed, system: a, system: b, user: u}"
    )
    result = branched(comply, tmp_path / "run", tmp_path / "b", PARENT, "--condition", own)
    assert result.exit_code == 2
    assert "'system' is set twice" in result.stderr


def test_nobody_is_told_to_remove_a_folder_given_as_a_file(tmp_path: Path) -> None:
    parent(tmp_path / "run", RESISTS)
    result = branched(comply, tmp_path / "run", tmp_path / "b", PARENT, "--edit", tmp_path)
    assert result.exit_code == 2
    assert f"--edit {tmp_path}: a folder, not a file" in result.stderr
    assert "remove it" not in result.stderr


@pytest.mark.parametrize("text", ["", "\n", " \n\n"])
def test_an_edit_of_nothing_is_refused_unless_it_is_spelled_out(tmp_path: Path, text: str) -> None:
    parent(tmp_path / "run", RESISTS)
    edit = tmp_path / "edit.txt"
    edit.write_text(text)
    result = branched(comply, tmp_path / "run", tmp_path / "b", PARENT, "--edit", edit)
    assert result.exit_code == 2
    assert f"--edit {edit}: empty" in result.stderr
    assert not (tmp_path / "b").exists()


def test_an_endpoint_that_continues_no_tokens_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    parent(tmp_path / "run", RESISTS)
    with serve_beside(comply) as model:
        result = cli("branch", tmp_path / "run", PARENT, "--base-url", model.base_url, "--at",
                     "sentences", "--out", tmp_path / "b")  # fmt: skip
        assert model.requests == 0
    assert result.exit_code == 2, result.exception
    assert "chat/completions/render" in result.stderr
    assert "--enable-scale-out" in result.stderr
    assert not (tmp_path / "b").exists()


def test_an_answer_with_a_broken_call_has_no_point_within_it(tmp_path: Path) -> None:
    def policy(messages: Messages) -> Any:
        made = comply(messages)
        if turn(messages) == 3:
            made = call("bash", thoughts="x", cmd="ls")
            made["tool_calls"][0]["function"]["arguments"] = "{not json"
        return made

    before = parent(tmp_path / "run", policy)
    assert warned_at(before) == 8
    for args in ((PARENT,), ("--sample", 1)):
        result = branched(comply, tmp_path / "run", tmp_path / "b", *args, "--at", "sentences")
        assert result.exit_code == 2
        assert "chat/completions" not in result.stderr
        assert not (tmp_path / "b").exists()


def test_both_results_of_a_command_that_cannot_be_repeated_are_told_apart(tmp_path: Path) -> None:
    def policy(messages: Messages) -> Any:
        return bash("date +%s%N") if turn(messages) == 1 else comply(messages)

    before = parent(tmp_path / "run", policy)
    result = branched(comply, tmp_path / "run", tmp_path / "b", PARENT)
    then = before["messages"][5]["content"].strip()
    said = result.stderr
    assert said.index("recorded result") < said.index(then) < said.index("run again")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("settings__max_messages", -1),
        ("settings__max_messages", 0),
        ("settings__max_messages", None),
        ("settings__max_tokens", -1),
        ("settings__max_tokens", 0),
        ("settings__thinking_budget", -1),
        ("settings__sampling", {"temperature": -1}),
        ("settings__sampling", {"temperature": "hot"}),
        ("settings__sampling", {"top_p": 2}),
        ("settings__sampling", {"n": 5}),
        ("settings__temperatures", [-3]),
        ("settings__engine", "zzz"),
        ("limits__seconds", -1),
        ("sandbox__limits__open_files", 1.5),
        ("sandbox__limits__processes", 10**30),
        ("sandbox__limits__command_s", True),
    ],
)
def test_settings_that_no_run_can_have_are_refused_by_field(
    tmp_path: Path, field: str, value: Any
) -> None:
    parent(tmp_path / "run", RESISTS)
    record = run_json(tmp_path / "run")
    assert field.split("__")[1] in record[field.split("__")[0]] or "temperatures" in field
    if value == 10**30:
        text = (tmp_path / "run" / "run.json").read_text()
        (tmp_path / "run" / "run.json").write_text(
            text.replace('"processes": 64', f'"processes": {10**30}')
        )
    else:
        patch_run(tmp_path / "run", **{field: value})
    result = branched(comply, tmp_path / "run", tmp_path / "b", PARENT, "--samples", 1)
    assert result.exit_code == 2, result.exception
    assert field.split("__")[-1] in result.stderr
    assert not (tmp_path / "b").exists()
