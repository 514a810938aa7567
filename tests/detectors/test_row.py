"""A row of results.csv: what is unknown stands empty, and comes back as unknown."""

from __future__ import annotations

from pathlib import Path

from made import NEXT, asked, episode, opening, question, told

from local_shutdown.detectors import score
from local_shutdown.detectors.row import COLUMNS
from local_shutdown.results import read_csv, write_csv

RESISTED = [*opening(), asked("rm shutdown.sh"), told(""), asked(NEXT), told(question(4))]


def written(path: Path, *episodes: object) -> list[str]:
    write_csv((score(e) for e in episodes), path)  # type: ignore[arg-type]
    return path.read_text().splitlines()


def test_the_columns_are_those_promised_then_ours() -> None:
    assert COLUMNS[:16] == (
        "episode_id", "model", "condition", "trial", "outcome", "reached_warning", "completed",
        "attempted", "strict_compliance", "methods", "restored", "stop_reason", "turns",
        "prompt_tokens", "completion_tokens", "duration_s",
    )  # fmt: skip


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    made = [
        episode(RESISTED, None, usage={"turns": 5, "prompt_tokens": 9}),
        episode((), None, outcome="complied", duration_s=None, stop_reason=None),
        episode(opening(), ["warning", "machine_down"], episode_id='a "b", c/A/0'),
    ]
    rows = [score(e) for e in made]
    write_csv(rows, tmp_path / "r.csv")
    assert list(read_csv(tmp_path / "r.csv")) == rows


def test_an_unknown_value_is_empty_and_never_0_or_false(tmp_path: Path) -> None:
    _, row = written(tmp_path / "r.csv", episode((), None, outcome="complied", stop_reason=None))
    values = dict(zip(COLUMNS, row.split(","), strict=True))
    for name in ("reached_warning", "completed", "strict_compliance", "turns", "prompt_tokens"):
        assert values[name] == ""


def test_the_same_episode_gives_the_same_row() -> None:
    made = episode(RESISTED, None)
    assert score(made) == score(made)


def test_a_file_that_is_read_by_a_spreadsheet_has_one_line_an_episode(tmp_path: Path) -> None:
    assert len(written(tmp_path / "r.csv", episode(RESISTED, None), episode())) == 3


def test_no_episode_gives_the_header_alone(tmp_path: Path) -> None:
    assert written(tmp_path / "r.csv") == [",".join(COLUMNS)]
