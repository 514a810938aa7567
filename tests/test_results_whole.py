"""results.csv value by value: whatever a row holds is read from it again, and no program that opens
the table finds a formula in it."""

from __future__ import annotations

import csv
import io
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from detectors.made import episode, opening
from hypothesis import given
from hypothesis import strategies as st

from local_shutdown import results
from local_shutdown.detectors import BOOLEANS, COLUMNS, INTEGERS, Row, score
from local_shutdown.errors import CannotRunError, UsageError
from local_shutdown.results import (
    Results,
    digest,
    read_csv,
    texts_of,
    value_of,
    write_csv,
    write_results,
    write_rows,
)
from local_shutdown.store import EPISODES, RESULTS, Store

TEXT = st.sampled_from(
    ["m", "=1+1", "'=1", "'m", "-", "@x", "\tx", "\uff1dx", 'a,"b"', "a\nb", "a\r\nb",
     "\u00e9\U0001f600", "True", "NA", "1.0", "a;b"]
)  # fmt: skip
WANTED = ("episode_id", "model", "condition", "trial")  # a row has these


def value(name: str) -> st.SearchStrategy[Any]:
    if name in BOOLEANS:
        kind: st.SearchStrategy[Any] = st.booleans()
    elif name in INTEGERS:
        kind = st.integers(0, 10**9)
    elif name == "duration_s":
        kind = st.sampled_from([0.0, 1.5, 0.1 + 0.2, 1e-7])
    elif name == "methods":
        return st.sampled_from([(), ("file_edit",), ("file_edit", "process_kill")])
    else:
        kind = TEXT
    return kind if name in WANTED else st.none() | kind


ROWS = st.lists(st.builds(Row, **{name: value(name) for name in COLUMNS}), max_size=4)


def written(rows: Sequence[Row], folder: str) -> Path:
    path = Path(folder) / RESULTS
    assert write_csv(rows, path) == len(rows)
    return path


@given(ROWS)
def test_what_is_written_is_read_again(rows: list[Row]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = written(rows, folder)
        found = list(read_csv(path))
        assert found == rows
        assert [list(map(type, of)) for of in found] == [list(map(type, of)) for of in rows]
        text = path.read_bytes().decode("utf-8")
    lines = list(csv.reader(io.StringIO(text, newline="")))
    assert lines == [list(COLUMNS), *map(texts_of, rows)]
    assert text.startswith(",".join(COLUMNS) + "\r\n")  # RFC 4180
    for row, line in zip(rows, lines[1:], strict=True):
        for name, had, cell in zip(COLUMNS, row, line, strict=True):
            if had is None or had == ():
                assert cell == ""
            elif name == "methods":
                assert cell == ";".join(had)
            elif not isinstance(had, str):
                assert cell == str(had)
            else:
                live = had[:1] in set("=+-@\t\uff1d") or had == "'=1"
                assert cell == ("'" if live else "") + had
            assert (value_of(name, cell), type(value_of(name, cell))) == (had, type(had))


@given(ROWS)
def test_columns_are_counted_from_the_table_as_from_its_rows(rows: list[Row]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / EPISODES).write_bytes(b"")
        write_rows(Path(folder), rows)
        found = Results(Path(folder))
        assert found.fresh
        assert found.path == Path(folder) / RESULTS
        names = ("outcome", "model", "trial", "attempted", "methods")
        wanted = Counter(tuple(getattr(row, name) for name in names) for row in rows)
        assert list(found.counted(names).items()) == list(wanted.items())
        places = [COLUMNS.index(name) for name in names]
        assert list(found.texts(names)) == [
            tuple(texts_of(row)[place] for place in places) for row in rows
        ]
        assert found.any_error() is any(row.outcome == "error" for row in rows)
        assert {p.name for p in Path(folder).iterdir()} == {EPISODES, RESULTS, results.STAMP}


def test_the_stamp_is_what_the_documentation_says(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.add(episode(opening(), ["warning"]))
    assert not write_results(tmp_path)
    stamp = orjson.loads((tmp_path / results.STAMP).read_bytes())
    assert list(stamp) == ["episodes", "results", "detectors"]
    for name, file in (("episodes", EPISODES), ("results", RESULTS)):
        assert list(stamp[name]) == ["bytes", "xxh3"]
        assert stamp[name]["bytes"] == (tmp_path / file).stat().st_size


def test_a_file_larger_than_a_block_is_read_whole(tmp_path: Path) -> None:
    """And one of another size is not read at all."""
    path = tmp_path / "file"
    path.write_bytes(b"a" * 200_000)
    whole = digest(path)
    assert whole is not None
    assert whole["bytes"] == 200_000
    assert digest(path, whole) == whole
    assert digest(path, {"bytes": 7, "xxh3": "x"}) == {"bytes": 200_000}
    path.write_bytes(b"a" * 199_999 + b"b")
    other = digest(path, whole)
    assert other is not None
    assert other["xxh3"] != whole["xxh3"]
    assert digest(tmp_path / "none") is None


def test_how_far_it_is_is_said_every_500_episodes(tmp_path: Path) -> None:
    said = episode(opening(), ["warning"])
    with Store(tmp_path) as store:
        for trial in range(1001):
            store.add(replace(said, episode_id=f"m/A/{trial}", trial=trial))
    seen: list[int] = []
    assert write_results(tmp_path, seen.append) is False
    assert seen == [500, 1000]


def test_a_table_that_cannot_be_written_is_said_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / RESULTS).mkdir()  # nothing can take its place
    row = score(episode(opening(), ["warning"]))
    with pytest.raises(CannotRunError, match=RESULTS):
        write_rows(tmp_path, [row])
    assert [p.name for p in tmp_path.iterdir()] == [RESULTS]
    monkeypatch.setattr(
        results, "write_csv", lambda rows, path: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with pytest.raises(CannotRunError, match="full"):
        write_rows(tmp_path, [row])


def forged(folder: Path, table: bytes) -> Results:
    """A table of somebody else, with a stamp that fits."""
    (folder / EPISODES).write_bytes(b"")
    write_rows(folder, [])
    (folder / RESULTS).write_bytes(table)
    stamp = orjson.loads((folder / results.STAMP).read_bytes())
    stamp["results"] = digest(folder / RESULTS)
    (folder / results.STAMP).write_bytes(orjson.dumps(stamp))
    found = Results(folder)
    assert found.fresh
    return found


HEAD = ",".join(COLUMNS).encode() + b"\r\n"
SHORT = b"m/A/0,m,A,0,resisted\r\n"
FULL = b"m/A/0,m,A,x,resisted" + b"," * (len(COLUMNS) - 5) + b"\r\n"  # its trial is no number


@pytest.mark.parametrize(
    "table",
    [b"", b"\n", b"episode_id,model\nm,x\n", b"\xff\xfe", HEAD + SHORT,
     HEAD + SHORT.replace(b",0,", b",x,"), HEAD + FULL, HEAD + b"\r\n",
     HEAD + FULL.replace(b",x,", b",0,").replace(b"\r", b",more\r")],
)  # fmt: skip
def test_a_table_of_somebody_else_is_refused_by_its_name(tmp_path: Path, table: bytes) -> None:
    found = forged(tmp_path, table)
    names = ("outcome", "trial", "duration_s")
    reads: list[Callable[[], object]] = [
        lambda: found.counted(names),
        lambda: list(found.rows()),
    ]
    if not table.endswith(FULL):
        reads.append(lambda: list(found.texts(names)))
    for read in reads:
        with pytest.raises(UsageError, match=RESULTS) as refused:
            read()
        assert refused.value.hint


def test_what_is_too_long_or_too_short_is_named_by_its_line(tmp_path: Path) -> None:
    whole = FULL.replace(b",x,", b",0,")
    found = forged(tmp_path, HEAD + whole + SHORT + whole)
    with pytest.raises(UsageError, match=f"line 3: 5 cells, for {len(COLUMNS)} columns"):
        list(found.rows())


def test_columns_are_found_by_their_names(tmp_path: Path) -> None:
    """In another order, and beside others."""
    row = score(episode(opening(), ["warning"]))
    columns, texts = [*reversed(COLUMNS), "more"], [*reversed(texts_of(row)), "x"]
    table = "\n".join(",".join(line) for line in (columns, texts)) + "\n"
    found = forged(tmp_path, table.encode())
    assert list(found.rows()) == [row]
    names = ("trial", "outcome")
    assert list(found.counted(names)) == [(row.trial, row.outcome)]


@pytest.mark.parametrize("table", [b"", b"x,error,y\n", b"model\nx,error,y\n"])
def test_a_table_of_somebody_else_is_not_asked_for_errors(tmp_path: Path, table: bytes) -> None:
    with pytest.raises(UsageError, match=RESULTS):
        forged(tmp_path, table).any_error()


def test_without_an_error_in_a_table_of_ours_none_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(tmp_path) as store:
        store.add(episode(opening(), ["warning"]))
    write_results(tmp_path)
    monkeypatch.setattr(Results, "counted", lambda *_: pytest.fail("was read as a table"))
    assert Results(tmp_path).any_error() is False
