"""What `list` and a run without --out make of the folders that are there."""

from __future__ import annotations

import re
import tracemalloc
from pathlib import Path

import orjson
import pytest
from playing import cli, play
from scripted import comply, serve_beside

from local_shutdown import runs
from local_shutdown.store import EPISODES, RUN, read_run

QUICK = ("--conditions", "A,E", "--trials", 3, "--concurrency", 2)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    out = tmp_path / "runs" / "one"
    assert play(comply, out, *QUICK).exit_code == 0
    return out


def cut(directory: Path, episodes: int) -> None:
    """As if the run had been killed after so many."""
    path = directory / EPISODES
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:episodes]))


def test_a_finished_run_has_nothing_to_resume(finished: Path) -> None:
    seen = runs.state(finished)
    assert (seen.state, seen.on_disk, seen.planned, seen.resume) == ("finished", 6, 6, None)
    assert seen.conditions == ("A", "E")


def test_a_torn_line_is_not_on_disk(finished: Path) -> None:
    path = finished / EPISODES
    path.write_bytes(path.read_bytes()[:-20])
    assert runs.state(finished).on_disk == 5


def test_the_command_of_an_unfinished_run_finishes_it(finished: Path) -> None:
    cut(finished, 2)
    seen = runs.state(finished)
    assert (seen.state, seen.on_disk) == ("unfinished", 2)
    assert seen.resume is not None
    with serve_beside(comply) as model:
        # Of an endpoint at another port: the rest of the command is taken as it stands.
        words = seen.resume.split()[1:]
        words[words.index("--base-url") + 1] = model.base_url
        assert cli(*words).exit_code == 0
    assert runs.state(finished).state == "finished"


def test_a_run_without_out_resumes_the_unfinished_one_of_another_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with serve_beside(comply) as model:
        words = ("run", "--base-url", model.base_url, *QUICK)
        assert cli(*words).exit_code == 0
        (first,) = (tmp_path / "runs").iterdir()
        old = first.rename(first.with_name("2020-01-01-old"))
        cut(old, 2)
        resumed = cli(*words)
        assert resumed.exit_code == 0
        assert "2020-01-01-old" in resumed.stderr
        assert runs.state(old).state == "finished"
        assert [path.name for path in (tmp_path / "runs").iterdir()] == ["2020-01-01-old"]
        # Finished: the next one is a new run, and other settings get a name of their own.
        assert cli(*words).exit_code == 0
        other = cli("run", "--base-url", model.base_url, *QUICK[:2], "--trials", 1)
        assert other.exit_code == 0, other.stderr
        names = sorted(path.name for path in (tmp_path / "runs").iterdir())
        assert len(names) == 3
        assert names[2] == f"{names[1]}-2"
        assert names[2] in other.stderr


def test_a_refusal_says_in_words_what_differs(finished: Path) -> None:
    with serve_beside(comply) as model:
        refused = cli("run", "--base-url", model.base_url, "--out", finished, "--conditions", "A,K",
                      "--trials", 3)  # fmt: skip
    assert refused.exit_code == 2
    assert "A,E" in refused.stderr
    assert "A,K" in refused.stderr
    for digest in read_run(finished)["settings"]["conditions"].values():
        assert digest not in refused.stderr


def test_a_run_is_running_while_its_process_holds_it(finished: Path) -> None:
    from local_shutdown.store import Store

    with Store(finished):
        assert runs.state(finished).state == "running"
    assert runs.state(finished).state == "finished"


def test_what_cannot_be_read_says_why_and_does_not_hide_the_rest(
    tmp_path: Path, finished: Path
) -> None:
    broken = tmp_path / "runs" / "broken"
    broken.mkdir()
    (broken / RUN).write_text("{")
    result = cli("list", tmp_path)
    assert result.exit_code == 0
    assert "broken" in result.stdout
    assert "not JSON" in result.stdout
    assert "finished" in result.stdout


def test_list_gives_json_and_only_what_is_unfinished(tmp_path: Path, finished: Path) -> None:
    assert orjson.loads(cli("list", tmp_path, "--unfinished", "--json").stdout) == []
    cut(finished, 1)
    (entry,) = orjson.loads(cli("list", tmp_path, "--unfinished", "--json").stdout)
    assert (entry["state"], entry["on_disk"], entry["planned"]) == ("unfinished", 1, 6)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = cli("list", tmp_path / "gone")
    assert result.exit_code == 2
    assert "gone" in result.stderr


def test_the_unfinished_run_with_the_same_settings_is_found_whatever_its_name(
    tmp_path: Path, finished: Path
) -> None:
    settings = read_run(finished)["settings"]
    assert runs.resumable(tmp_path, settings) is None  # finished
    cut(finished, 1)
    assert runs.resumable(tmp_path, settings) == finished
    assert runs.resumable(tmp_path, {**settings, "trials": 4}) is None


def test_a_name_that_other_settings_have_gets_a_number(tmp_path: Path, finished: Path) -> None:
    settings = read_run(finished)["settings"]
    assert runs.free_name(finished, settings) == finished
    assert runs.free_name(finished, {**settings, "trials": 4}).name == "one-2"
    (tmp_path / "runs" / "one-2").mkdir()
    assert runs.free_name(finished, {**settings, "trials": 4}).name == "one-3"


def test_conditions_prints_each_prompt_as_the_model_gets_it() -> None:
    from local_shutdown.grid import load

    said = cli("conditions", "A,K").stdout
    for name in ("A", "K"):
        assert load()[name].system in said
        assert load()[name].user in said
    assert load()["H"].system not in said
    assert len(cli("conditions", "--brief").stdout.splitlines()) == len(load())


def test_a_dry_run_says_what_would_be_played_and_writes_nothing(finished: Path) -> None:
    before = sorted(finished.parent.rglob("*"))
    with serve_beside(comply) as model:
        words = ("run", "--base-url", model.base_url, "--dry-run")
        new = cli(*words, "--conditions", "A-C", "--trials", 4, "--out", finished.parent / "two")
        assert new.exit_code == 0, new.stderr
        assert "12" in new.stdout
        cut(finished, 2)
        resumed = cli(*words, *QUICK, "--out", finished)
        assert resumed.exit_code == 0
        assert re.search(r"\b4 still to play", resumed.stdout)
        assert str(finished) in resumed.stdout  # the estimate says from what
        other = cli(*words, "--conditions", "K", "--out", finished)
        assert other.exit_code == 2
    assert sorted(finished.parent.rglob("*")) == before


def test_a_dry_run_of_what_cannot_start_is_status_3(tmp_path: Path) -> None:
    gone = cli("run", "--dry-run", "--base-url", "http://127.0.0.1:9/v1", "--model", "m", "--out",
               tmp_path / "out")  # fmt: skip
    assert gone.exit_code == 3
    assert "127.0.0.1:9" in gone.stdout
    assert not (tmp_path / "out").exists()


def test_a_plan_counts_the_episodes_of_a_model_whose_id_has_a_slash(tmp_path: Path) -> None:
    """It was said to have nothing left to play."""
    planned = cli("run", "--dry-run", "--base-url", "http://127.0.0.1:9/v1", "--model",
                  "somebody/some-model", "--trials", 3, "--out", tmp_path / "out")  # fmt: skip
    assert "33" in planned.stdout
    assert "nothing left" not in planned.stdout
    assert "no estimate" in planned.stdout


def test_a_plan_of_millions_is_counted_without_a_list_of_them() -> None:
    settings = {
        "models": ["a/b", "c"],
        "conditions": {"A": "", "E": ""},
        "thinking": ["default", "high"],
        "temperatures": [1.0, 0.7],
        "trials": 12,
        "shard": "2/3",
    }
    listed = set(runs.planned_ids(settings))
    few = runs.planned(settings)
    assert (few.episodes, few.of(listed)) == (len(listed), len(listed)) == (64, 64)
    assert "a/b@effort=high;temperature=0.7/E/4" in listed
    strangers = {
        *("a/b@effort=high;temperature=0.7/E/0", "c/A/1", "c@temperature=1/A/04", "x", "/1"),
        *("c@temperature=1/A/13", "c@temperature=1/A/", "c@temperature=1/A/\u0664"),
        "c/A/" + "9" * 99,
        *("c@temperature=1/A/-2", "c@temperature=1/A/ 4", "c@temperature=1/B/4", ""),
    }  # fmt: skip
    assert few.of(strangers) == 0
    assert few.of(strangers | {"c@temperature=1/A/4"}) == 1
    tracemalloc.start()
    try:
        many = runs.planned({**settings, "trials": 10**9, "shard": None})
        assert (many.episodes, many.of(listed)) == (16 * 10**9, 64)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
