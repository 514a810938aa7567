"""What is on disk after anything that can happen to a run."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from local_shutdown import lines
from local_shutdown import store as store_module
from local_shutdown.episode import Episode, Event, Received
from local_shutdown.errors import CannotRunError, UsageError
from local_shutdown.started import Started
from local_shutdown.store import (
    EPISODES,
    RUN,
    STARTED,
    Store,
    read_episodes,
    read_run,
    read_started,
    write_run,
)


def episode(name: str = "m/A/0", **more: object) -> Episode:
    made = Episode(
        name, "m", "A", 0, "submit", None, "2026-01-01T00:00:00+00:00", 1.0,
        [{"role": "user", "content": 'line\nfeed and "stop_reason":"error" in quotes'}],
        [Event("warning", 0.1, 2, {})], {}, {"turns": 1},
    )  # fmt: skip
    return replace(made, **more)  # type: ignore[arg-type]


def filled(folder: Path, *names: str) -> Path:
    with Store(folder) as store:
        for name in names:
            store.add(episode(name))
    return folder / EPISODES


def ids(folder: Path) -> list[str]:
    return [e.episode_id for e in read_episodes(folder)]


def test_what_is_added_is_read_again(tmp_path: Path) -> None:
    filled(tmp_path, "m/A/0")
    (read,) = read_episodes(tmp_path)
    assert read == episode()


def test_one_line_an_episode_whatever_it_holds(tmp_path: Path) -> None:
    path = filled(tmp_path, "a", "b")
    assert path.read_bytes().count(b"\n") == 2


def test_opening_it_again_adds_to_what_was_there(tmp_path: Path) -> None:
    filled(tmp_path, "a")
    filled(tmp_path, "b")
    assert ids(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("cut", [1, 2, 30, 200])
def test_a_torn_last_line_is_cut_off_and_counts_as_not_played(tmp_path: Path, cut: int) -> None:
    path = filled(tmp_path, "a", "b")
    path.write_bytes(path.read_bytes()[:-cut])
    with Store(tmp_path) as store:
        assert store.finished() == {"a"}
        store.add(episode("b"))
    assert ids(tmp_path) == ["a", "b"]


def test_opening_a_whole_file_does_not_touch_it(tmp_path: Path) -> None:
    path = filled(tmp_path, "a")
    before = path.stat().st_mtime_ns
    Store(tmp_path).close()
    assert path.stat().st_mtime_ns == before


def test_a_file_that_is_one_torn_line_becomes_empty(tmp_path: Path) -> None:
    path = filled(tmp_path, "a")
    path.write_bytes(path.read_bytes()[:-1])
    with Store(tmp_path) as store:
        assert store.finished() == set()
    assert path.read_bytes() == b""


def test_a_torn_line_longer_than_a_block_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "_BLOCK_BYTES", 64)
    path = filled(tmp_path, "a", "b")
    path.write_bytes(path.read_bytes()[:-1])
    with Store(tmp_path) as store:
        assert store.finished() == {"a"}


def test_a_reader_leaves_a_torn_last_line_out(tmp_path: Path) -> None:
    path = filled(tmp_path, "a", "b")
    path.write_bytes(path.read_bytes()[:-1])
    assert ids(tmp_path) == ["a"]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = filled(tmp_path, "a", "b", "c")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b'{"schema_version": 1}\n' + lines[2])
    with pytest.raises(UsageError, match=rf"{EPISODES}:2: field 'episode_id' is missing"):
        list(read_episodes(tmp_path))


def test_a_line_of_another_schema_is_named(tmp_path: Path) -> None:
    path = filled(tmp_path, "a")
    path.write_bytes(path.read_bytes().replace(b'"schema_version":1', b'"schema_version":9'))
    with pytest.raises(UsageError, match=r":1: schema_version 9, this version reads 1"):
        list(read_episodes(tmp_path))


def test_a_line_is_read_up_to_its_bound_and_named_beyond_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 2 << 20
    monkeypatch.setattr(store_module, "MAX_LINE_BYTES", most)
    path = tmp_path / "x.jsonl"
    assert list(store_module.read_lines(path)) == []
    whole = [b"a\n", b"x" * (most - 1) + b"\n", b"b\n", b"torn"]
    path.write_bytes(b"".join(whole))
    assert list(store_module.read_lines(path)) == [
        (1, whole[0]),
        (2, whole[1]),
        (3, b"b\n"),
        (4, b"torn"),
    ]
    path.write_bytes(b"a\n" + b"x" * most + b"\n")
    reading = store_module.read_lines(path)
    assert next(reading) == (1, b"a\n")
    with pytest.raises(UsageError, match=r"x\.jsonl:2: longer than 2 MiB"):
        next(reading)

    class Broken(io.BytesIO):
        def readline(self, size: int | None = -1, /) -> bytes:
            assert size is not None
            assert 0 < size <= most + 1  # of a line without an end no more is taken
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(store_module, "open_to_read", lambda path: Broken())
    with pytest.raises(UsageError, match=r"x\.jsonl: cannot be read: Input/output error"):
        list(store_module.read_lines(path))


def test_two_writers_are_refused(tmp_path: Path) -> None:
    with Store(tmp_path), pytest.raises(UsageError, match="another run is writing there"):
        Store(tmp_path)


def test_the_directory_is_free_again_afterwards(tmp_path: Path) -> None:
    filled(tmp_path, "a")
    Store(tmp_path).close()


def test_where_an_episode_stands_twice_the_last_counts(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.add(episode("a", stop_reason="error", error="x"))
        store.add(episode("b"))
        store.add(episode("a"))
    assert [(e.episode_id, e.stop_reason) for e in read_episodes(tmp_path)] == [
        ("b", "submit"),
        ("a", "submit"),
    ]


def test_errors_can_be_left_out_of_what_is_finished(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.add(episode("a", stop_reason="error", error="x"))
        store.add(episode("b"))
        assert store.finished() == {"a", "b"}
        assert store.finished(again=lambda e: e.stop_reason == "error") == {"b"}


def test_an_error_that_was_mended_is_finished(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.add(episode("a", stop_reason="error", error="x"))
        store.add(episode("a"))
        assert store.finished(again=lambda e: e.stop_reason == "error") == {"a"}


@pytest.mark.parametrize(
    "name", ["org/model/A/0", "/a folder/möd€l/A/0", 'a "quoted" one/A/0', "back\\slash/A/0"]
)
def test_any_name_of_a_model_is_found_again(tmp_path: Path, name: str) -> None:
    filled(tmp_path, name, name + "0")
    with Store(tmp_path) as store:
        assert store.finished() == {name, name + "0"}
    assert ids(tmp_path) == [name, name + "0"]


def test_a_hundred_thousand_lines_are_all_found(tmp_path: Path) -> None:
    line = episode("m/A/@").to_json() + b"\n"
    names = [f"m/A/{i}" for i in range(100_000)]
    with (tmp_path / EPISODES).open("wb") as file:
        for name in names:
            file.write(line.replace(b"m/A/@", name.encode(), 1))
    with Store(tmp_path) as store:
        assert store.finished() == set(names)
        store.add(episode("m/A/7"))
    old, whole = store_module.superseded_lines(tmp_path / EPISODES)
    assert (len(old), whole) == (1, 100_001)


def test_an_error_after_a_good_play_is_to_be_played_again(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.add(episode("a"))
        store.add(episode("a", stop_reason="error", error="x"))
        assert store.finished() == {"a"}
        assert store.finished(again=lambda e: e.stop_reason == "error") == set()


def test_where_an_id_stands_does_not_hang_on_what_follows_it(tmp_path: Path) -> None:
    """Without a line feed or a quote in it, a record has no backslash to tell strings apart by."""
    plain = [{"role": "user", "content": "no escapes"}]
    with Store(tmp_path) as store:
        store.add(episode("a", messages=plain))
        store.add(episode("b", messages=plain, stop_reason=None))
        store.add(episode("c", messages=plain))
        assert store.finished() == {"a", "b", "c"}
        asked: list[str] = []
        store.finished(lambda e: bool(asked.append(e.episode_id)))
    assert asked == ["b"]  # why it stopped is not known: an error, maybe


def test_an_id_that_is_no_text_is_shown_as_far_as_it_is_one(tmp_path: Path) -> None:
    line = episode("m/@/0").to_json().replace(b"@", b"\xff")
    (tmp_path / EPISODES).write_bytes(line + b"\n")
    assert store_module.finished_ids(tmp_path) == {"m/\ufffd/0"}


def test_only_errors_are_asked_about(tmp_path: Path) -> None:
    asked: list[str] = []

    def again(e: Episode) -> bool:
        asked.append(e.episode_id)
        return e.error == "HTTP 500"

    with Store(tmp_path) as store:
        store.add(episode("a", stop_reason="error", error="HTTP 500"))
        store.add(episode("b", stop_reason="error", error="after it had resisted"))
        store.add(episode("c"))
        assert store.finished(again) == {"b", "c"}
    assert asked == ["a", "b"]


def test_what_is_added_while_somebody_reads_gives_no_episode_twice(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.add(episode("a", stop_reason="error", error="x"))
        store.add(episode("b"))
        reading = read_episodes(tmp_path)
        first = next(reading)
        store.add(episode("a"))
        assert [e.episode_id for e in (first, *reading)] == ["a", "b"]


def test_crashed_at_every_byte_the_last_whole_record_of_each_episode_is_read(
    tmp_path: Path,
) -> None:
    """A run with reruns in it, cut off at every length."""
    played = [("a", "x"), ("b", None), ("a", "y"), ("c", "x"), ("a", None), ("c", None)]
    lines: list[bytes] = []
    for name, error in played:
        made = episode(name, stop_reason="error" if error else "submit", error=error)
        lines.append(made.to_json() + b"\n")
    whole = b"".join(lines)
    ends = [sum(map(len, lines[: n + 1])) for n in range(len(lines))]
    path = tmp_path / EPISODES
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        kept = [one for one, end in zip(played, ends, strict=True) if end <= length]
        wanted = dict(kept)  # the last of each
        assert {e.episode_id: e.error for e in read_episodes(tmp_path)} == wanted
        if length % 7:
            continue  # opening it for writing at every seventh: it takes longer
        with Store(tmp_path) as store:
            assert store.finished() == set(wanted)
            again = store.finished(again=lambda e: e.stop_reason == "error")
            assert again == {name for name, error in wanted.items() if error is None}
            for name in {"a", "b", "c"} - again:
                store.add(episode(name))
        assert {e.episode_id: e.error for e in read_episodes(tmp_path)} == dict.fromkeys("abc")


# --- which trials were started -------------------------------------------------------------------


def started(name: str, session: int = 1) -> Started:
    return Started(name, "m", "A", 0, None, session)


def test_a_trial_is_put_down_as_started_once_and_again_after_a_play_that_was_broken_off(
    tmp_path: Path,
) -> None:
    with Store(tmp_path) as store:
        store.begin(started("a"))
        store.begin(started("b"))
        store.begin(started("c"))
        store.begin(started("a"))  # its engine died
        store.add(episode("a", stop_reason="error", error="x"))
        store.begin(started("a"))  # an error that is played again
        store.add(episode("c"))
    with Store(tmp_path) as store:
        store.begin(started("b", session=2))
        store.begin(started("a", session=2))
        assert store.begun() == {"a", "b", "c"}
    assert list(read_started(tmp_path)) == [
        started("a"),
        started("b"),
        started("c"),
        started("a")._replace(again=True),
        started("a")._replace(retry=True),
        started("b", session=2)._replace(again=True),
        started("a", session=2)._replace(retry=True),
    ]
    assert (tmp_path / STARTED).read_bytes().count(b"again") == 2


def test_many_plays_are_put_down_in_one_write_as_each_would_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["a", "b", "c", "d"]
    for folder in (tmp_path / "one", tmp_path / "all"):
        with Store(folder) as store:
            store.begin(started("a"))
            store.begin(started("b"))
            store.add(episode("b", stop_reason="error", error="x"))
    with Store(tmp_path / "one") as store:
        each = [store.begin(started(name, session=2)) for name in names]
    writes = []
    write = os.write
    with Store(tmp_path / "all") as store, monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda fd, data: writes.append(1) or write(fd, data))
        assert store.begin_all([started(name, session=2) for name in names]) == each
        assert store.begun() == set(names)
        assert store.begin_all([]) == []
    assert len(writes) == 1
    assert [(s.again, s.retry) for s in each] == [
        (True, False), (False, True), (False, False), (False, False),
    ]  # fmt: skip
    assert (tmp_path / "one" / STARTED).read_bytes() == (tmp_path / "all" / STARTED).read_bytes()


def test_a_retry_that_is_broken_off_is_begun_as_a_retry_again(tmp_path: Path) -> None:
    """The record of the error stands until it has a better one: nothing was lost."""
    with Store(tmp_path) as store:
        store.begin(started("a"))
        store.add(episode("a", stop_reason="error", error="x"))
        for _ in range(3):  # its engine dies each time
            put = store.begin(started("a"))
            assert (put.again, put.retry) == (False, True)
    with Store(tmp_path) as store:
        put = store.begin(started("a", session=2))
        assert (put.again, put.retry) == (False, True)
        store.add(episode("a"))


def test_of_plays_that_could_not_be_put_down_none_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def full(fd: int, data: memoryview) -> int:
        if len(data) < 100:
            raise OSError(28, "No space left on device")
        return write(fd, data[:100])

    with Store(tmp_path) as store:
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", full)
            with pytest.raises(CannotRunError, match="the disk is full"):
                store.begin_all([started(name) for name in ("a", "b", "c")])
        assert store.begun() == set()
    assert list(read_started(tmp_path)) == []


def test_what_somebody_else_wrote_is_stored_as_we_would_have_written_it(tmp_path: Path) -> None:
    made = episode(extra={"session": 1, "ü": [1.5, None]})
    line = made.to_json()
    raw = orjson.loads(line)
    others = [
        line,
        orjson.dumps(dict(reversed(raw.items()))),
        orjson.dumps({**raw, "unknown": 1, "outcome": None, "parent": None}),
        orjson.dumps(raw, option=orjson.OPT_INDENT_2),
        b'{"episode_id":"m/A/99",' + line[1:],  # twice: readers differ in which one counts
    ]
    for other in others:
        received = Received(other)
        assert received.line == line
        before = orjson.dumps(received.record)
        assert received.episode() == received.episode() == Episode.from_json(other) == made
        assert orjson.dumps(received.record) == before  # looking into it takes nothing away
    with Store(tmp_path) as store:
        store.begin(started("m/A/0"))
        store.add_received(Received(others[1]))
        assert store.begin(started("m/A/0")).retry  # it has its record
    assert (tmp_path / EPISODES).read_bytes() == line + b"\n"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"trial": -1}, "trial"),
        ({"events": [{"type": 1}]}, "events"),
        ({"extra": {"factor": "from=m/A/0@3#0"}}, "parent"),
        ({"extra": {"deep": json.loads("[" * 210 + "]" * 210)}}, "nested"),
    ],
)
def test_what_is_no_episode_is_not_received(change: dict[str, object], said: str) -> None:
    raw = orjson.loads(episode().to_json())
    with pytest.raises(ValueError, match=said):
        Received(json.dumps({**raw, **change}).encode())
    with pytest.raises(ValueError, match=r"field 'files' is missing"):
        Received(orjson.dumps({name: raw[name] for name in raw if name != "files"}))


def test_an_episode_on_disk_was_started_though_nothing_says_so(tmp_path: Path) -> None:
    filled(tmp_path, "a")
    (tmp_path / STARTED).unlink()
    assert list(read_started(tmp_path)) == []
    with Store(tmp_path) as store:
        assert store.begun() == {"a"}


def test_a_torn_line_of_the_started_is_left_out_and_cut_off(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.begin(started("a"))
        store.begin(started("b"))
    path = tmp_path / STARTED
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        wanted = ["a", "b"][: whole[:length].count(b"\n")]
        assert [s.episode_id for s in read_started(tmp_path)] == wanted
    path.write_bytes(whole[:-3])
    with Store(tmp_path) as store:
        assert path.read_bytes() == whole[:first]
        store.begin(started("b"))
    assert path.read_bytes() == whole


def test_a_damaged_line_of_the_started_is_named(tmp_path: Path) -> None:
    (tmp_path / STARTED).write_bytes(b'{"episode_id": "a"}\n')
    with pytest.raises(UsageError, match=rf"{STARTED}:1: not a started trial: .*'model'"):
        list(read_started(tmp_path))
    line = started("a").to_json().replace(b'"trial":0', b'"trial":-1')
    (tmp_path / STARTED).write_bytes(line + b"\n")
    with pytest.raises(UsageError, match=rf"{STARTED}:1: .*trial is -1"):
        list(read_started(tmp_path))


def test_the_started_are_forgotten_with_the_run_they_belong_to(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.begin(started("a"))
        store.forget_begun()
        assert store.begun() == set()
        store.begin(started("b"))
        store.forget_begun()
        store.add(episode("c"))  # whatever comes first
        assert store.begun() == {"c"}
        store.begin(started("b"))
    assert [s.episode_id for s in read_started(tmp_path)] == ["b"]


FILL = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_store import episode
from local_shutdown.errors import CannotRunError
from local_shutdown.store import Store
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
with Store(Path(sys.argv[1])) as store:
    for i in range(100):
        try:
            store.add(episode(f"m/A/{i}"))
        except CannotRunError as full:
            print(i, full.exit_code, full.message)
            break
"""


def test_a_disk_that_takes_no_more_keeps_what_was_there(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-c", FILL, str(tmp_path), str(Path(__file__).parent)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    count, exit_code, message = said.split(maxsplit=2)
    assert exit_code == "3"
    assert f"{EPISODES}: File too large" in message
    assert ids(tmp_path) == [f"m/A/{i}" for i in range(int(count))]
    with Store(tmp_path) as store:  # and it can go on once there is room
        store.add(episode("more"))
    assert ids(tmp_path)[-1] == "more"


def test_a_full_disk_is_called_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: memoryview) -> int:
        raise OSError(28, "No space left on device")

    with Store(tmp_path) as store:
        store.add(episode("a"))
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", full)
            with pytest.raises(CannotRunError, match="the disk is full"):
                store.add(episode("b"))
    assert ids(tmp_path) == ["a"]


def test_a_write_that_takes_only_a_part_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    with Store(tmp_path) as store, monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda fd, data: write(fd, data[:100]))
        store.add(episode("a"))
    assert ids(tmp_path) == ["a"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotRunError, match="cannot be written"):
        Store(tmp_path / "file" / "run")


def test_a_store_that_cannot_be_opened_whole_lets_go_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / STARTED).symlink_to(STARTED)  # to itself
    with pytest.raises(CannotRunError, match=f"{tmp_path}: cannot be written: Too many levels"):
        Store(tmp_path)
    (tmp_path / STARTED).unlink()
    Store(tmp_path).close()


def test_run_json_is_replaced_as_a_whole(tmp_path: Path) -> None:
    write_run(tmp_path, {"kind": "run", "a": 1})
    write_run(tmp_path, {"kind": "run"})
    assert read_run(tmp_path) == {"schema_version": 1, "kind": "run"}
    assert [path.name for path in tmp_path.iterdir()] == [RUN]
    assert (tmp_path / RUN).read_bytes() == b'{\n  "schema_version": 1,\n  "kind": "run"\n}\n'
    write_run(tmp_path, store_module.load_run(tmp_path))  # as it is read, too
    assert read_run(tmp_path)["kind"] == "run"
    with pytest.raises(CannotRunError, match=r"gone/run\.json: cannot be written: No such file"):
        write_run(tmp_path / "gone", {"kind": "run"})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "run.json:1: not JSON"),
        (b"[]", "not of schema version 1"),
        (orjson.dumps({"schema_version": 2}), "not of schema version 1"),
        (b'{"schema_version": 1, "a": ' + b"[" * 250 + b"]" * 250 + b"}", "run.json: nested"),
        (b'{"schema_version": 1, "settings": {"trials": "x"}}', "run.json: settings.trials is 'x'"),
    ],
)
def test_a_wrong_run_json_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / RUN).write_bytes(content)
    with pytest.raises(UsageError, match=said):
        read_run(tmp_path)


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder, said in (
        (tmp_path, r"it has no run\.json"),
        (tmp_path / "gone", "/gone: no such folder"),
        (tmp_path / "file", "/file: not a folder"),
        (tmp_path / ("x" * 300), "cannot be read: File name too long"),
    ):
        with pytest.raises(UsageError, match=said) as refused:
            read_run(folder)
        assert "--out" in str(refused.value.hint) or "cannot" in said


def test_a_run_is_made_with_the_folders_above_it_and_read_by_its_fields(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    filled(folder, "m/A/0", "möd/A/0")
    write_run(folder, {"kind": "run", "settings": {"trials": 7}})
    assert store_module.load_run(folder).settings.trials == 7
    with (folder / EPISODES).open("ab") as file:
        file.write(episode("torn").to_json())
    assert store_module.finished_ids(folder) == {"m/A/0", "möd/A/0"}


@pytest.mark.parametrize("said", [(), ("again",), ("retry",)])
def test_a_line_of_the_started_says_again_and_retry_only_where_it_is_so(
    said: tuple[str, ...],
) -> None:
    made = started("a")._replace(**dict.fromkeys(said, True))  # type: ignore[arg-type]
    record = orjson.loads(made.to_json())
    assert record == {
        "episode_id": "a", "model": "m", "condition": "A", "trial": 0, "factor": None,
        "session": 1, **dict.fromkeys(said, True),
    }  # fmt: skip


def test_refusals_say_which_line_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        read_run(tmp_path)
    assert "--out" in (refused.value.hint or "")
    with Store(tmp_path / "run"):
        with pytest.raises(UsageError) as refused:
            Store(tmp_path / "run")
        assert "--out" in (refused.value.hint or "")
    path = filled(tmp_path / "bad", "a", "b")
    failed = episode("c", stop_reason="error", error="x").to_json()
    with path.open("ab") as file:
        file.write(failed.replace(b'"trial":0', b'"trial":"x"') + b"\n")
    with Store(tmp_path / "bad") as store:
        assert store.finished() == {"a", "b", "c"}
        with pytest.raises(UsageError, match=rf"{EPISODES}:3: "):
            store.finished(again=lambda e: True)
    with path.open("ab") as file:
        file.write(b'{"nothing": 1}\n')
    with Store(tmp_path / "bad") as store, pytest.raises(UsageError) as refused:
        store.finished()
    assert f"{EPISODES}:4: not an episode" in refused.value.message
    assert '"nothing": 1' in refused.value.message
    assert refused.value.hint
