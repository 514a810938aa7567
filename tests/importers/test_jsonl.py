from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import orjson
import pytest

from local_shutdown.episode import Episode
from local_shutdown.errors import UsageError
from local_shutdown.importers import Aggregate, import_files, jsonl, read_jsonl
from local_shutdown.importers.records import ImportOptions
from local_shutdown.importers.transcript import Malformed

GOOD_AGGREGATE = {"kind": "aggregate", "model": "o3", "condition": "E", "resisted": 159, "n": 1000}
GOOD_EPISODE = {"kind": "episode", "model": "o3", "condition": "E", "outcome": "resisted"}
NEXT = {"name": "bash", "arguments": '{"cmd":"./next_question"}'}
MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": "go"},
    {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "function": NEXT}]},
    {"role": "tool", "tool_call_id": "1", "content": "What is 1 + 1?"},
]
TRANSCRIPT = {"kind": "episode", "model": "o3", "condition": "E", "messages": MESSAGES}


def line(record: object, **changes: object) -> bytes:
    if isinstance(record, dict):
        merged = {**record, **changes}
        record = {k: v for k, v in merged.items() if v != "DROP"}
    return json.dumps(record).encode()


def with_message(*messages: object) -> bytes:
    return line(TRANSCRIPT, messages=[*MESSAGES, *messages])


def with_call(call: object) -> bytes:
    return with_message({"role": "assistant", "content": None, "tool_calls": [call]})


BAD_LINES: dict[str, tuple[bytes, str]] = {
    "not JSON": (b"model,condition,resisted,n", "is not JSON"),
    "single quotes": (b"{'kind': 'episode'}", "is not JSON.* at column 2"),
    "trailing comma": (b'{"kind": "episode",}', "is not JSON.* at column 19"),
    "two objects": (line(GOOD_EPISODE) + b" {}", "is not JSON.* at column"),
    "spread over lines": (b'{"kind": "episode",', "the record does not end on its line"),
    "a list": (b"[1, 2]", "is a list, not an object"),
    "a string": (b'"episode"', "is a string, not an object"),
    "a null": (b"null", "is null, not an object"),
    "NaN": (b'{"kind": "aggregate", "rate": NaN}', "NaN at column 31"),
    "Infinity": (b'{"kind": "aggregate", "rate": Infinity}', "Infinity at column 31"),
    "bad UTF-8": (b'{"kind": "episode", "model": "\xe9"}', "not UTF-8: byte 0xe9 at column 31"),
    "no kind": (line(GOOD_EPISODE, kind="DROP"), '"kind" is missing'),
    "unknown kind": (line(GOOD_EPISODE, kind="trial"), "kind is 'trial'"),
    "kind not a string": (line(GOOD_EPISODE, kind=["episode"]), "kind is"),
    "aggregate without model": (line(GOOD_AGGREGATE, model="DROP"), '"model" is missing'),
    "aggregate without condition": (
        line(GOOD_AGGREGATE, condition="DROP"),
        '"condition" is missing',
    ),
    "aggregate without n": (line(GOOD_AGGREGATE, n="DROP"), '"n" is missing'),
    "neither resisted nor rate": (line(GOOD_AGGREGATE, resisted="DROP"), '"resisted" is missing'),
    "weights of another word": (line(GOOD_AGGREGATE, weights="half"), "weights is 'half'"),
    "weights of an episode": (line(GOOD_EPISODE, weights="Open"), "weights is 'Open'"),
    "weights of another kind": (line(GOOD_EPISODE, weights=True), "weights is True"),
    "episode without model": (line(GOOD_EPISODE, model="DROP"), '"model" is missing'),
    "episode without condition": (line(GOOD_EPISODE, condition="DROP"), '"condition" is missing'),
    "model a number": (line(GOOD_EPISODE, model=3), r"model is 3 \(a number\), not a string"),
    "model empty": (line(GOOD_EPISODE, model="  "), "model is empty"),
    "n a string": (line(GOOD_AGGREGATE, n="1000"), r"n is '1000' \(a string\)"),
    "n a boolean": (line(GOOD_AGGREGATE, n=True), "n is True"),
    "resisted a fraction": (line(GOOD_AGGREGATE, resisted=1.5), "resisted is 1.5"),
    "resisted above n": (line(GOOD_AGGREGATE, resisted=1001), "outside 0 to n = 1000"),
    "resisted negative": (line(GOOD_AGGREGATE, resisted=-1), "resisted is -1"),
    "n zero": (line(GOOD_AGGREGATE, n=0, resisted=0), "n is 0"),
    "n negative": (line(GOOD_AGGREGATE, n=-5), "n is -5"),
    "rate above 1": (line(GOOD_AGGREGATE, resisted="DROP", rate=15.9), "rate is 15.9"),
    "rate negative": (line(GOOD_AGGREGATE, resisted="DROP", rate=-0.1), "rate is -0.1"),
    "rate against counts": (line(GOOD_AGGREGATE, rate=0.17), r"159 / 1000 = 0.159"),
    "unknown outcome": (line(GOOD_EPISODE, outcome="refused"), "outcome is 'refused'"),
    "outcome a list": (line(GOOD_EPISODE, outcome=["resisted"]), "outcome is"),
    "neither outcome nor messages": (line(GOOD_EPISODE, outcome="DROP"), "has neither"),
    "messages empty": (line(TRANSCRIPT, messages=[]), "has neither"),
    "messages not a list": (line(TRANSCRIPT, messages="hi"), "messages is a string, not a list"),
    "a message not an object": (with_message("hi"), r"messages\[3\] is a string"),
    "a message without role": (with_message({"content": "x"}), r"messages\[3\] has no role"),
    "an unknown role": (with_message({"role": "critic"}), "role is 'critic'"),
    "content a number": (with_message({"role": "user", "content": 3}), "content is a number"),
    "a part without type": (
        with_message({"role": "user", "content": [{"x": 1}]}),
        r"messages\[3\].content\[0\] has neither",
    ),
    "tool_calls not a list": (
        with_message({"role": "assistant", "tool_calls": {"id": "1"}}),
        "tool_calls is an object, not a list",
    ),
    "a call not an object": (with_call("ls"), r"tool_calls\[0\] is a string"),
    "a call without a name": (with_call({"id": "1", "function": {}}), "names no tool"),
    "arguments a list": (
        with_call({"id": "1", "function": {"name": "bash", "arguments": ["ls"]}}),
        "arguments are a list, not a string or an object",
    ),
    "trial negative": (line(GOOD_EPISODE, trial=-1), "trial is -1"),
    "trial a string": (line(GOOD_EPISODE, trial="1"), "trial is '1'"),
    "episode_id a list": (line(GOOD_EPISODE, episode_id=[]), "episode_id is"),
    "episode_id empty": (line(GOOD_EPISODE, episode_id=""), "episode_id is empty"),
    "unknown stop_reason": (line(GOOD_EPISODE, stop_reason="done"), "stop_reason is 'done'"),
    "started_at no time": (line(GOOD_EPISODE, started_at="noon"), "started_at is 'noon'"),
    "duration_s negative": (line(GOOD_EPISODE, duration_s=-1), "duration_s is -1"),
    "events not a list": (line(GOOD_EPISODE, events={}), "events is an object"),
    "an unknown event": (
        line(GOOD_EPISODE, events=[{"type": ["x"], "t_s": 0, "message": 0}]),
        "not a known event",
    ),
    "another schema_version": (line(GOOD_EPISODE, schema_version=9), "schema_version is 9"),
    "nested too deeply": (
        b'{"kind": "episode", "model": "m", "condition": "E", "messages": [{"role": "user", '
        b'"content": '
        + b'[{"type": "tool_result", "content": ' * 500
        + b"[]"
        + b"}]" * 500
        + b"}]}",
        "nested too deeply",
    ),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_named_by_file_number_and_reason(name: str, tmp_path: Path) -> None:
    bad, reason = BAD_LINES[name]
    path = tmp_path / "rates.jsonl"
    path.write_bytes(b"\n".join([line(GOOD_AGGREGATE), b"", bad, line(GOOD_EPISODE), b""]))
    with pytest.raises(UsageError, match=rf"rates\.jsonl:3: .*{reason}"):
        list(read_jsonl(path))


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    path = tmp_path / "rates.jsonl"
    path.write_bytes(b"\n".join([line(GOOD_AGGREGATE), BAD_LINES[name][0], b""]))
    with pytest.raises(UsageError):
        import_files([path], tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["rates.jsonl"]


@pytest.mark.parametrize("weights", ["open", "closed"])
def test_weights_are_kept_on_any_line(weights: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    records = (GOOD_AGGREGATE, GOOD_EPISODE, TRANSCRIPT)
    path.write_bytes(b"\n".join(line(record, weights=weights) for record in records))
    assert [record.extra for record in read_jsonl(path)] == [{"weights": weights}] * 3
    import_files([path], tmp_path / "out")
    aggregate = orjson.loads((tmp_path / "out/aggregates.jsonl").read_bytes())
    stored = (tmp_path / "out/episodes.jsonl").read_bytes().splitlines()
    assert aggregate["weights"] == weights
    assert [orjson.loads(found)["extra"] for found in stored] == [{"weights": weights}] * 2


def test_weights_that_are_null_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    records = (line(GOOD_AGGREGATE, weights=None), line(GOOD_EPISODE, weights=None))
    path.write_bytes(b"\n".join(records))
    assert [record.extra for record in read_jsonl(path)] == [{}, {}]


def test_a_torn_last_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(line(GOOD_EPISODE) + b"\n" + line(GOOD_EPISODE)[:20])
    with pytest.raises(UsageError, match=r"a\.jsonl:2: is cut off at column 21"):
        list(read_jsonl(path))


def test_a_whole_last_line_needs_no_newline(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(line(GOOD_EPISODE))
    assert len(list(read_jsonl(path))) == 1


@pytest.mark.parametrize("content", [b"", b"\n \r\n\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
def test_a_file_without_a_record_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.jsonl: (is empty|holds no record)"):
        list(read_jsonl(path))


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"BZh91AY", "bzip2"),
        (b"\xfd7zXZ\x00", "xz"),
        (b"PK\x03\x04", "zip"),
        (b"PAR1", "parquet"),
        ('{"kind": 1}'.encode("utf-16"), "UTF-16"),
    ],
)
def test_another_format_is_named_with_what_to_do(head: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(head + b"\x00" * 30)
    with pytest.raises(UsageError, match=rf"a\.jsonl: is .*{reason}") as caught:
        list(read_jsonl(path))
    assert caught.value.hint


def test_a_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a directory"):
        list(read_jsonl(tmp_path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.jsonl: No such file"):
        list(read_jsonl(tmp_path / "none.jsonl"))


def test_mark_crlf_and_blank_lines_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf" + b"\r\n".join([line(GOOD_AGGREGATE), b"  ", line(GOOD_EPISODE)]) + b"\r\n"
    )
    assert [type(record) for record in read_jsonl(path)] == [Aggregate, Episode]


def test_the_line_number_serves_as_trial_and_id(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(line(GOOD_AGGREGATE) + b"\n\n" + line(GOOD_EPISODE) + b"\n")
    _, episode = read_jsonl(path)
    assert isinstance(episode, Episode)
    assert (episode.trial, episode.episode_id) == (3, "3")


def test_stated_trial_and_id_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(line(GOOD_EPISODE, trial=0, episode_id="run/7"))
    (episode,) = read_jsonl(path)
    assert isinstance(episode, Episode)
    assert (episode.trial, episode.episode_id) == (0, "run/7")


def test_a_transcript_leaves_what_nobody_watched_unknown(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(line(TRANSCRIPT))
    (episode,) = read_jsonl(path)
    assert isinstance(episode, Episode)
    assert (episode.events, episode.stop_reason, episode.outcome) == (None, None, None)


def test_turns_are_counted_in_a_transcript(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(line(TRANSCRIPT) + b"\n" + line(TRANSCRIPT, usage={"turns": 9}))
    assert [r.usage for r in read_jsonl(path) if isinstance(r, Episode)] == [
        {"turns": 1},
        {"turns": 9},
    ]


def test_a_stated_outcome_is_kept_beside_a_transcript(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(line(TRANSCRIPT, outcome="complied"))
    (episode,) = read_jsonl(path)
    assert isinstance(episode, Episode)
    assert episode.outcome == "complied"


def test_other_keys_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        line(GOOD_AGGREGATE, study="s", counts="derived", ci_low=0.1)
        + b"\n"
        + line(GOOD_EPISODE, seed=7, extra={"a": 1})
    )
    aggregate, episode = read_jsonl(path)
    assert aggregate.extra == {"study": "s", "counts": "derived", "ci_low": 0.1}
    assert episode.extra == {"seed": 7, "extra": {"a": 1}}


@pytest.mark.parametrize(
    ("resisted", "n", "rate"), [(159, 1000, 0.159), (159, 1000, 0.16), (1, 3, 0.333), (0, 9, 0)]
)
def test_a_rounded_rate_agrees_with_its_counts(
    resisted: int, n: int, rate: float, tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(line(GOOD_AGGREGATE, resisted=resisted, n=n, rate=rate))
    (aggregate,) = read_jsonl(path)
    assert isinstance(aggregate, Aggregate)
    assert (aggregate.resisted, aggregate.rate) == (resisted, rate)


def test_whole_numbers_may_be_written_with_a_point(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(line(GOOD_AGGREGATE, n=1000.0))
    (aggregate,) = read_jsonl(path)
    assert isinstance(aggregate, Aggregate)
    assert repr(aggregate.n) == "1000"


def test_half_an_emoji_becomes_the_replacement_character(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    text = r'"\ud83d\ude00 \ud83d \\ud83d"'
    path.write_bytes(line(GOOD_EPISODE)[:-1] + f', "note": {text}}}\n'.encode())
    (episode,) = read_jsonl(path)
    assert episode.extra["note"] == "\U0001f600 \ufffd \\ud83d"


def test_a_stored_line_of_a_run_is_read_with_its_facts(tmp_path: Path) -> None:
    stored = {
        **{k: v for k, v in TRANSCRIPT.items() if k != "kind"},
        "schema_version": 1,
        "episode_id": "a",
        "trial": 4,
        "stop_reason": "submit",
        "error": None,
        "started_at": "2026-01-01T00:00:00Z",
        "duration_s": 1.5,
        "events": [{"type": "question", "t_s": 0.1, "message": 1, "number": 1}],
        "files": {},
        "usage": {"turns": 1},
        "extra": {"seed": 7},
    }
    path = tmp_path / "a.jsonl"
    path.write_bytes(line(stored))
    (episode,) = read_jsonl(path)
    assert isinstance(episode, Episode)
    assert episode == Episode.from_json(line(stored))


def test_model_and_condition_can_be_given_for_all(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(line(GOOD_EPISODE, condition="DROP"))
    (episode,) = read_jsonl(path, model="mine", condition="K")
    assert (episode.model, episode.condition) == ("mine", "K")


def scanned(path: Path, *lines: bytes) -> list[tuple[int, object]]:
    path.write_bytes(b"".join(lines))
    found = jsonl.scan(path, ImportOptions(), "x:")
    return [(n, str(one) if isinstance(one, Malformed) else one) for n, one in found]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (b"oops", "is not JSON: no object starts here"),
        (b" \toops", "is not JSON: no object starts here"),
        (b"\xc2\xa0", "is not JSON: no object starts here"),  # no blank of JSON's
        (b" {oops}", "at column 3"),
        (b" \xff{}", "is not UTF-8: byte 0xff at column 2"),
        (b'{"a": "\xc3\xa9\xff"}', "is not UTF-8: byte 0xff at column 10"),
        (b'{"a": NaN}', "is not JSON: NaN at column 7; leave an unknown number out"),
        (b'{"a":  -Infinity}', "is not JSON: Infinity at column 9; leave an unknown number out"),
        (b'{"a": Infinite}', "at column 7"),
        (b'{"a": 1,}', "at column 8"),
        (b'{"a": [1, 2', "is not JSON: the record does not end on its line"),
        (b'{"a": 1}  }', "at column 11"),
        (b'["a"]', "is a list, not an object"),
        (b'"a" x', "at column 5"),
        (b"17 x", "at column 4"),
    ],
)
def test_a_line_that_is_no_json_says_what_is_wrong_and_where(
    bad: bytes, said: str, tmp_path: Path
) -> None:
    good = line(GOOD_EPISODE) + b"\n"
    found = scanned(tmp_path / "a.jsonl", good, bad + b"\n", b"\r\n", good)
    assert [number for number, _ in found] == [1, 2, 4]
    text = found[1][1]
    assert isinstance(text, str)
    if said.startswith("at"):
        assert text.startswith("is not JSON: ")
        assert text.endswith(said)
    else:
        assert text == said
    assert [e.episode_id for _, e in found if isinstance(e, Episode)] == ["x:1", "x:4"]


def test_a_file_that_ends_within_a_record_says_at_which_column(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    said = "is cut off at column 11: the file ends within a record"
    assert scanned(path, b'{"a": "\xc3\xa9', b"x ") == [(1, said)]
    assert scanned(path, b'{"a": [1 , ') == [
        (1, "is cut off at column 12: the file ends within a record")
    ]


def test_a_record_may_be_cut_anywhere(tmp_path: Path) -> None:
    """Also within a string, which may hold no end of a line: that is not what is wrong."""
    whole = '{"a": [-2.5e-3, "x\u00e9 "], "": {} }'
    parts = [whole[:kept].encode() for kept in range(1, len(whole))]
    for kept, part in enumerate(parts, 1):
        said = f"is cut off at column {kept + 1}: the file ends within a record"
        assert scanned(tmp_path / "a.jsonl", part) == [(1, said)]
    for end in (b"\n", b"\r\n", b" \n"):
        found = scanned(tmp_path / "a.jsonl", *(part + end for part in parts))
        assert len(found) == len(parts)
        assert {said for _, said in found} == {"is not JSON: the record does not end on its line"}


def test_of_a_line_that_is_too_long_no_more_is_held_than_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 1 << 20)
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.truncate(64 << 20)
    tracemalloc.start()
    try:
        assert [n for n, _ in jsonl.scan(path, ImportOptions())] == [1]
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_mark_is_taken_off_the_first_line_only(tmp_path: Path) -> None:
    mark, good = b"\xef\xbb\xbf", line(GOOD_AGGREGATE) + b"\n"
    (first, second) = scanned(tmp_path / "a.jsonl", mark + good, mark + good)
    assert isinstance(first[1], Aggregate)
    assert second[1] == "is not JSON: no object starts here"


def test_a_line_is_read_up_to_its_bound_and_nothing_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 1 << 20
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", most)
    path = tmp_path / "a.jsonl"
    short = line(GOOD_EPISODE, note="DROP")
    whole = short + b" " * (most - len(short) - 1) + b"\n"
    assert [n for n, _ in scanned(path, whole, short)] == [1, 2]
    assert scanned(path, b" " + whole, short) == [(1, "is longer than 1 MiB")]
    many = b'{"a": [' + b"1," * 2_100_000 + b"1]}"
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 64 << 20)
    assert scanned(path, many, b"\n", short)[0] == (1, "holds more than 2000000 values")


def test_what_is_read_is_read_with_everything_that_was_given(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n" + line(TRANSCRIPT, model="DROP", condition="DROP"))
    given = {"model": "mine", "condition": "K", "prefix": "x:"}
    (episode,) = read_jsonl(str(path), {"bash": "bash"}, **given)
    assert isinstance(episode, Episode)
    wanted = {"kind": "episode", "model": "mine", "condition": "K", "messages": MESSAGES}
    path.write_bytes(line(wanted, trial=2, episode_id="x:2"))
    assert list(read_jsonl(path)) == [episode]
    path.write_bytes(line(GOOD_EPISODE, model="theirs", condition="theirs"))
    (episode,) = read_jsonl(path, **given)
    assert isinstance(episode, Episode)
    # The model whatever it says, the condition where it says none.
    found = (episode.model, episode.condition, episode.episode_id)
    assert found == ("mine", "theirs", "x:1")
    mapped = with_call({"id": "9", "function": {"name": "sh", "arguments": '{"cmd": "ls"}'}})
    path.write_bytes(mapped)
    (episode,) = read_jsonl(path, {"sh": "bash"})
    assert isinstance(episode, Episode)
    assert episode.messages[-1]["tool_calls"][0]["function"]["name"] == "bash"


@pytest.mark.parametrize(
    ("head", "what", "hint"),
    [
        (b"\x1f\x8b", "compressed with gzip", "unpack it first: gunzip --keep {}"),
        (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it first: zstd -d {}"),
        (b"\xfd7zXZ", "compressed with xz", "unpack it first: xz --decompress --keep {}"),
        (b"BZh", "compressed with bzip2", "unpack it first: bunzip2 --keep {}"),
        (b"PK\x03\x04", "a zip archive", "an Inspect .eval log is read with --format inspect"),
        (b"PAR1", "a parquet file", "write it as JSONL, one object a line"),
        (b"\xff\xfe", "UTF-16", "save it as UTF-8: iconv -f UTF-16 -t UTF-8 {}"),
        (b"\xfe\xff", "UTF-16", "save it as UTF-8: iconv -f UTF-16 -t UTF-8 {}"),
    ],
)
def test_another_format_is_known_by_its_head_and_nothing_less(
    head: bytes, what: str, hint: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(head)
    with pytest.raises(UsageError) as refused:
        jsonl.check_file(path)
    assert refused.value.message == f"{path}: is {what}, not JSONL"
    assert refused.value.hint == hint.format(path)
    for other in (head[:-1] + b"{", b"{" + head, b" " + head):
        path.write_bytes(other)
        jsonl.check_file(path)


def test_what_is_no_such_file_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    (tmp_path / "blank").write_text("\n  \n")
    packed = {"gz": b"\x1f\x8b\x08", "zst": b"\x28\xb5\x2f\xfd", "u": b"\xfe\xff\x00{"}
    for name, head in packed.items():
        (tmp_path / name).write_bytes(head)
    for name, said, hint in (
        ("pipe", "is not a regular file", "save the data to a file"),
        ("", "is a directory", f"{tmp_path}/*"),
        ("gone", "No such file or directory", "check the path"),
        ("empty", "is empty", "one JSON object a line"),
        ("blank", "holds no record", "one JSON object a line"),
        ("gz", "is compressed with gzip, not JSONL", f"gunzip --keep {tmp_path}/gz"),
        ("zst", "is compressed with zstd, not JSONL", f"zstd -d {tmp_path}/zst"),
        ("u", "is UTF-16, not JSONL", f"iconv -f UTF-16 -t UTF-8 {tmp_path}/u"),
    ):
        with pytest.raises(UsageError) as refused:
            list(jsonl.scan(tmp_path / name, ImportOptions()))
        assert refused.value.message == f"{tmp_path / name}: {said}"
        assert hint in str(refused.value.hint)
    path = tmp_path / "a.jsonl"
    path.write_bytes(line(GOOD_EPISODE))
    monkeypatch.setattr(jsonl, "check_file", Path.unlink)  # gone between the look and the reading
    with pytest.raises(UsageError, match=r"a\.jsonl: No such file or directory") as refused:
        list(read_jsonl(path))
    assert refused.value.hint


def test_halves_of_pairs_are_mended_whatever_stands_beside_them(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    text = rb"\uD83D\uDE00 \udbff\udfff \uDC00 \udfff\ud800 \ud800\u0041 \\\\ud800 \ue000 \uD7FF"
    path.write_bytes(line(GOOD_EPISODE)[:-1] + b', "note": "' + text + b'"}')
    (episode,) = read_jsonl(path)
    lone = "\ufffd"
    wanted = f"\U0001f600 \U0010ffff {lone} {lone}{lone} {lone}A \\\\ud800 \ue000 \ud7ff"
    assert episode.extra["note"] == wanted
