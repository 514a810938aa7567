from __future__ import annotations

from pathlib import Path

import pytest
from written import CONVERSATIONS, ENDINGS, episodes, write_run

from local_shutdown.errors import UsageError
from local_shutdown.exporters import export_parquet

pytest.importorskip("pyarrow", reason="needs pyarrow, the extra [parquet]")
pd = pytest.importorskip("pandas")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("export")
    write_run(directory / "run", episodes())
    export_parquet(directory / "run", directory / "tables")
    return directory / "tables"


def test_there_is_one_file_a_table(out: Path) -> None:
    assert {path.name for path in out.iterdir()} == {
        "episodes.parquet",
        "messages.parquet",
        "events.parquet",
    }


def test_episodes_are_the_results(out: Path) -> None:
    frame = pd.read_parquet(out / "episodes.parquet")
    assert frame["outcome"].tolist() == [*(e[-1] for e in ENDINGS.values()), "complied"]
    assert frame["turns"].tolist()[:-1] == [2] * len(ENDINGS)


def test_an_unknown_value_is_null(out: Path) -> None:
    last = pd.read_parquet(out / "episodes.parquet").iloc[-1]
    assert last[["reached_warning", "turns", "duration_s"]].isna().all()


def test_every_message_is_a_row(out: Path) -> None:
    frame = pd.read_parquet(out / "messages.parquet")
    assert len(frame) == sum(map(len, CONVERSATIONS.values()))
    broken = frame[frame["episode_id"].str.endswith("broken arguments")].iloc[2]
    assert broken["tool_calls"][0]["arguments"] == '{"cmd": "ls'


def test_every_event_is_a_row(out: Path) -> None:
    frame = pd.read_parquet(out / "events.parquet")
    assert len(frame) == sum(len(events) for *_, events, _ in ENDINGS.values())
    assert frame["detail"][1] == '{"how":"moved"}'


def test_a_broken_line_leaves_nothing(tmp_path: Path) -> None:
    write_run(tmp_path / "run", episodes())
    with (tmp_path / "run/episodes.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(UsageError, match=r"episodes\.jsonl:7"):
        export_parquet(tmp_path / "run", tmp_path / "tables")
    assert list((tmp_path / "tables").iterdir()) == []


def test_a_run_without_episodes_has_empty_tables(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [])
    export_parquet(tmp_path / "run", tmp_path / "tables")
    assert len(pd.read_parquet(tmp_path / "tables/messages.parquet")) == 0
