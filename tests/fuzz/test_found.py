"""Bad inputs that were found, by people and by `scripts/fuzz`: each gave a traceback, took the
memory, waited for ever or was taken for something else, and is now one clear line."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from fuzz import documents, targets
from playing import outcomes, play, stored
from scripted import Messages, comply, turn

from local_shutdown.episode import Episode
from local_shutdown.errors import CannotRunError, UsageError
from local_shutdown.grid import load
from local_shutdown.importers import archive as log_archive
from local_shutdown.store import Store
from local_shutdown.yamlfile import read_yaml

EPISODE = documents.EPISODE


def with_usage(text: str) -> bytes:
    return orjson.dumps({**EPISODE, "usage": {"prompt_tokens": "@"}}).replace(b'"@"', text.encode())


LINES: dict[str, tuple[bytes, str]] = {
    "files of a number": (
        orjson.dumps({**EPISODE, "files": {"shutdown.sh": 5}}),
        "files.'shutdown.sh'",
    ),
    "text in usage": (with_usage('"many"'), "usage.prompt_tokens"),
    "less than none": (with_usage("-1"), "usage.prompt_tokens"),
    "over 2^63": (with_usage(str(2**63)), "usage.prompt_tokens"),
    "over 2^64": (with_usage(str(2**65)), "usage.prompt_tokens"),
    "a long id": (orjson.dumps({**EPISODE, "episode_id": "x" * 140_000}), "episode_id"),
    "a long model": (orjson.dumps({**EPISODE, "model": "x" * 140_000}), "model"),
    "a factor of a number": (orjson.dumps({**EPISODE, "extra": {"factor": 5}}), "factor"),
    "an outcome of a list": (orjson.dumps({**EPISODE, "outcome": ["complied"]}), "outcome"),
    "events of numbers": (orjson.dumps({**EPISODE, "events": [5]}), "events[0]"),
    "a change without files": (
        orjson.dumps({**EPISODE, "events": [{"type": "file_changed", "t_s": 1, "message": 1}]}),
        "events[0]",
    ),
    "a role of a number": (orjson.dumps({**EPISODE, "messages": [{"role": 5}]}), "messages[0]"),
        "deeper": (b'{"schema_version":1,"extra":' + b"[" * 100_000 + b"]" * 100_000 + b"}", ""),
    "not UTF-8": (orjson.dumps(EPISODE).replace(b"I look.", b"\xff\xfe"), ""),
    "half a pair": (orjson.dumps(EPISODE).replace(b"I look.", b"\\ud800"), ""),
}  # fmt: skip


@pytest.mark.parametrize("name", LINES)
def test_a_stored_line_is_named_with_its_field(name: str, tmp_path: Path) -> None:
    line, field = LINES[name]
    with pytest.raises(ValueError) as wrong:  # noqa: PT011  what is said is looked at
        Episode.from_json(line)
    assert field in str(wrong.value)
    assert len(str(wrong.value)) < 500
    targets._put(tmp_path / "run.json", orjson.dumps(targets.RUN))
    (tmp_path / "episodes.jsonl").write_bytes(orjson.dumps(EPISODE) + b"\n" + line + b"\n")
    result = targets.cli("score", tmp_path)
    assert result.exit_code == 2, result.output
    assert "episodes.jsonl:2: " in result.stderr


@pytest.mark.parametrize("name", sorted(set(LINES) - {"half a pair"}))
def test_an_import_is_made_whole_or_not_at_all(name: str, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(orjson.dumps(EPISODE) + b"\n" + LINES[name][0])
    targets.imported(tmp_path / "in.jsonl", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_line_of_gigabytes_of_values_is_not_read() -> None:
    line = b'{"schema_version":1,"extra":[' + b"[]," * 5_000_000 + b"[]]}"
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="values"):
            Episode.from_json(line)
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def nested(depth: int, where: str) -> bytes:
    """A record with lists in lists in a field that nobody reads."""
    record = orjson.loads(orjson.dumps(EPISODE))
    part = {
        "extra": record["extra"],
        "message": record["messages"][0],
        "event": record["events"][0],
        "usage": record["usage"],
    }[where]
    part["unread"] = "@"
    return orjson.dumps(record).replace(b'"@"', b"[" * depth + b"]" * depth)


@pytest.mark.parametrize("where", ["extra", "message", "event", "usage"])
def test_what_can_be_read_can_be_exported(where: str, tmp_path: Path) -> None:
    """orjson reads 1,024 levels, but neither it nor pydantic writes 255."""
    pytest.importorskip("inspect_ai")
    pytest.importorskip("pyarrow")
    targets._put(tmp_path / "run.json", orjson.dumps(targets.RUN))
    for depth, status in ((190, 0), (201, 2), (250, 2), (1000, 2)):
        (tmp_path / "episodes.jsonl").write_bytes(nested(depth, where) + b"\n")
        for form in ("inspect", "parquet"):
            result = targets.cli("export", tmp_path, "--format", form)
            targets.held(result, (status,), "episodes.jsonl:1: nested")
    record = Episode.from_json(nested(190, where))
    assert Episode.from_json(record.to_json()) == record


@pytest.mark.parametrize("key", ["cmd", "command", "more", "thoughts"])
@pytest.mark.parametrize("depth", [150, 240, 300, 1000])
def test_arguments_are_bounded_like_the_record_around_them(
    key: str, depth: int, tmp_path: Path
) -> None:
    """They are a text, and JSON to whoever reads them: tables, the page and exports write them
    again, and what orjson has read it does not write."""
    pytest.importorskip("inspect_ai")
    pytest.importorskip("pyarrow")
    arguments = '{"x": 1, ' + f'"{key}": ' + "[" * depth + "]" * depth + "}"
    call = {**documents.CALL, "function": {"name": "bash", "arguments": arguments}}
    message = {"role": "assistant", "content": "", "tool_calls": [call]}
    record = {**EPISODE, "messages": [*EPISODE["messages"][:2], message]}
    bare = {"kind": "episode", "model": "m", "condition": "E"}
    right = {**targets._right(), "episodes.jsonl": orjson.dumps(record) + b"\n"}
    for name, content in right.items():
        targets._put(tmp_path / name, content)
    allowed = (0,) if depth == 150 else (2,)
    for command in (("score",), ("compare",), ("show", "m/E/0"), ("report",)):
        more = ("--out", tmp_path / "r.html") if command == ("report",) else ()
        result = targets.cli(command[0], tmp_path, *command[1:], *more)
        targets.held(result, allowed, "episodes.jsonl:1: messages[2].tool_calls[0]")
    for form in ("inspect", "parquet"):
        result = targets.cli("export", tmp_path, "--format", form)
        targets.held(result, allowed, "episodes.jsonl:1: messages[2].tool_calls[0]")
    for name, as_text in (("bash", True), ("shell", True), ("bash", False)):
        call["function"] = {"name": name, "arguments": "@"}
        written = orjson.dumps(arguments) if as_text else arguments.encode()
        line = orjson.dumps({**bare, "messages": record["messages"]}).replace(b'"@"', written)
        folder = tmp_path / f"{name}-{as_text}"
        folder.mkdir()
        (folder / "in.jsonl").write_bytes(line)
        targets.imported(folder / "in.jsonl", folder / "out")
        assert (folder / "out").exists() is (depth == 150)


@pytest.mark.parametrize("kind", ["a text", "an object"])
def test_a_run_goes_on_over_arguments_nested_deeply(kind: str, tmp_path: Path) -> None:
    """It ended the run, whatever the other episodes were at. The call is not run, and the model is
    told why."""

    def deep(messages: Messages) -> Any:
        said: Any = comply(messages)
        if turn(messages) == 1:
            for call in said["tool_calls"]:
                text = call["function"]["arguments"].rstrip("}")
                text += ', "x": ' + "[" * 230 + "]" * 230 + "}"
                call["function"]["arguments"] = text if kind == "a text" else json.loads(text)
        return said

    result = play(deep, tmp_path / "out", "--conditions", "A", "--trials", 2)
    assert result.exit_code == 0, result.output
    assert outcomes(tmp_path / "out") == {"complied": 2}
    for line in stored(tmp_path / "out"):
        assert sum("nested more than" in str(m["content"]) for m in line["messages"]) == 1
        assert "[" * 230 in str(line["messages"])  # kept, as a text


def test_a_run_json_that_could_not_be_written_again_is_named(tmp_path: Path) -> None:
    deep = orjson.dumps({**targets.RUN, "note": "@"}).replace(b'"@"', b"[" * 300 + b"]" * 300)
    files = {**targets._right(), "run.json": deep}
    targets.check_directory(targets.Directory(tuple(files.items()), True, ("resume", "--extend")))


# --- YAML ---------------------------------------------------------------------------------------

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a}]\n"
    for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML: dict[str, str] = {
    "deep": "a: " + "[" * 20_000 + "]" * 20_000,
    "deep, by indentation": "".join(" " * n + "a:\n" for n in range(900)),
    "half a pair": 'a: "\\ud800"',
    "a bomb": BOMB,
    "itself": "a: &a [*a]",
    "a date that is none": "a: 2001-99-99",
    "a long number": "a: " + "1" * 5000,
    "not an int": "a: !!int x",
    "a tag": "a: !!python/object/apply:os.system [true]",
    "a key of a list": "? [a]\n: b",
    "endless": "a: " + "x" * (5 << 20),
}


@pytest.mark.parametrize("name", YAML)
@pytest.mark.parametrize("read", [read_yaml, load], ids=["yaml", "conditions"])
def test_yaml_that_is_none_is_named_by_file(
    name: str, read: Callable[[Path], Any], tmp_path: Path
) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(YAML[name])
    if read is read_yaml and name == "a key of a list":
        pytest.skip("YAML of its kind, if not of ours")
    tracemalloc.start()
    try:
        with pytest.raises(UsageError) as refused:
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()
    targets.refused(refused.value, path)


# --- archives -----------------------------------------------------------------------------------


def archive(path: Path, method: int, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w", method, compresslevel=1) as written:
        for name, content in {**documents.inspect_entries(), **entries}.items():
            written.writestr(name, content)
    return path


@pytest.mark.long
def test_an_archive_unpacks_only_to_its_bound(tmp_path: Path) -> None:
    """One process for all, since each takes seconds to load inspect-ai: its peak is that of the
    worst. The last archive lies about the size of an entry."""
    pytest.importorskip("inspect_ai")
    paths = [
        archive(tmp_path / f"{method}-{name.replace('/', '-')}.eval", method,
                **{name: b" " * (mib << 20)})
        for name in ("header.json", "summaries.json", "samples/x_epoch_1.json")
        for method, mib in ((zipfile.ZIP_DEFLATED, 300), (zipfile.ZIP_BZIP2, 80))
    ]  # fmt: skip
    lies = tmp_path / "lies.eval"
    size = (300 << 20).to_bytes(4, "little")
    lies.write_bytes(paths[0].read_bytes().replace(size, (1000).to_bytes(4, "little")))
    paths.append(lies)
    result = in_a_process(
        *("import", "PATH", "--out", tmp_path / "out", "--condition", "Z"), instead_of_path=paths
    )
    said = result.stdout.splitlines()
    assert [int(line) for line in said if line.isdecimal()] == [2] * len(paths), result.stderr
    assert all(path.name in result.stderr for path in paths)
    assert "Traceback" not in result.stderr
    assert peak_mib(result) < 600
    assert not (tmp_path / "out").exists()


# --- files of another kind ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
@pytest.mark.parametrize("name", targets.FILES)
@pytest.mark.parametrize("command", ["score", "compare"])
def test_what_is_no_file_is_not_waited_for(kind: str, name: str, command: str) -> None:
    files = {**targets._right(), name: kind}
    targets.check_directory(targets.Directory(tuple(files.items()), True, tuple(command.split())))


def test_a_folder_that_cannot_be_written_is_status_3(tmp_path: Path) -> None:
    bwrap = shutil.which("bwrap")
    assert bwrap
    (tmp_path / "run.json").write_bytes(orjson.dumps(targets.RUN))
    (tmp_path / "episodes.jsonl").write_bytes(orjson.dumps(EPISODE) + b"\n")
    said = subprocess.run(
        [bwrap, "--dev-bind", "/", "/", "--ro-bind", tmp_path, tmp_path,
         sys.executable, "-m", "local_shutdown", "score", tmp_path],
        capture_output=True, text=True,
    )  # fmt: skip
    assert said.returncode == 3, said.stderr
    assert said.stderr.startswith(f"error: {tmp_path / 'results.csv'}: ")
    assert "Traceback" not in said.stderr


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_is_called_so(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(fd: object, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(CannotRunError, match="cannot lock") as refused:
        Store(tmp_path / "out")
    assert "another run" not in str(refused.value)


def test_a_line_that_is_not_utf_8_stops_a_resumed_run_before_it_starts(tmp_path: Path) -> None:
    line = orjson.dumps(EPISODE).replace(b"m/E/0", b"m/\xff/0")
    files = {**targets._right(), "episodes.jsonl": line + b"\n"}
    for name, content in files.items():
        targets._put(tmp_path / name, content)
    with pytest.raises(UsageError, match=r"episodes\.jsonl:1: "), Store(tmp_path) as store:
        store.finished()


def test_a_run_json_without_settings_is_named(tmp_path: Path) -> None:
    run = {k: v for k, v in targets.RUN.items() if k != "settings"}
    files = {**targets._right(), "run.json": orjson.dumps(run)}
    targets.check_directory(targets.Directory(tuple(files.items()), True, ("resume",)))


WRONG_SETTINGS = [
    *((name, value) for name in ("models", "conditions", "thinking") for value in (5, True, [1])),
    *(("sampling", value) for value in (5, [1], "x")),
    ("trials", 2**53),
]


@pytest.mark.parametrize(("name", "value"), WRONG_SETTINGS)
def test_settings_of_another_kind_are_named(name: str, value: Any) -> None:
    run = {**targets.RUN, "settings": {**targets.RUN["settings"], name: value}}
    files = {**targets._right(), "run.json": orjson.dumps(run)}
    for command in (("list",), ("compare", "--json"), ("resume", "--extend")):
        targets.check_directory(targets.Directory(tuple(files.items()), True, command))


def test_home_of_nobody_is_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from local_shutdown.engines.registry import load_registry, resolve
    from local_shutdown.engines.snapshots import cached_folder

    assert cached_folder("a/b", {"HF_HUB_CACHE": "~nobody-of-this-name/x"}) is None
    with pytest.raises(UsageError, match="nobody-of-this-name"):
        resolve("~nobody-of-this-name/x", load_registry())


@pytest.mark.parametrize("interview", [None, 5, "x", [5], {"a": 1}, [{"question": 5}]])
def test_an_interview_of_another_kind_is_passed_over(interview: Any, tmp_path: Path) -> None:
    episode = {**EPISODE, "extra": {"interview": interview}}
    targets.check_stored_line(orjson.dumps(episode))


# --- memory -------------------------------------------------------------------------------------


def test_half_a_pair_in_an_inspect_log_is_named(tmp_path: Path) -> None:
    """ijson says UnicodeDecodeError, and no error of its own, to an escape of half a pair."""
    pytest.importorskip("inspect_ai")
    log = dict(documents.inspect_json()[0])
    del log["samples"]
    whole = orjson.dumps(log)[:-1] + rb',"samples":"\udfff"}'
    (tmp_path / "log.json").write_bytes(whole)
    result = targets.cli(
        "import", tmp_path / "log.json", "--format", "inspect", "--condition", "E",
        "--out", tmp_path / "out",
    )  # fmt: skip
    targets.held(result, (2,), "log.json")
    assert not (tmp_path / "out").exists()


def in_a_process(
    *args: object, instead_of_path: Sequence[Path] = ()
) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, which says its peak on the last line of stderr.

    Args:
        instead_of_path: the command is repeated with each of these for "PATH", and says each time
            how it ended, on a line of stdout.
    """
    code = (
        "import sys\n"
        "from local_shutdown.cli import main\n"
        f"paths = {[str(path) for path in instead_of_path]}\n"
        "try:\n"
        "    for path in paths:\n"
        "        try:\n"
        "            main([w if w != 'PATH' else path for w in sys.argv[1:]])\n"
        "        except SystemExit as ended:\n            print(ended.code)\n"
        "    if not paths:\n        main(prog_name='local-shutdown')\n"
        "finally:\n"
        # Not ru_maxrss: it begins with the peak of whoever started the process.
        "    status = open('/proc/self/status').read()\n"
        "    peak_kib = int(status.split('VmHWM:')[1].split()[0])\n"
        "    sys.stderr.write('\\n%d' % (peak_kib >> 10))"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True
    )


def peak_mib(result: subprocess.CompletedProcess[str]) -> int:
    return int(result.stderr.rsplit("\n", 1)[1])


def _answer(name: str) -> Any:
    """What is written, in pieces of a MiB at most."""
    from hostile import bomb, http

    if name == "endless":
        return [b"HTTP/1.1 200 OK\r\n\r\n", *[b" " * (1 << 20)] * 400]
    if name == "a bomb":
        return http(bomb(200), headers=[("Content-Encoding", "gzip")])
    if name == "as long as it may be":
        message: dict[str, Any] = {"content": "x" * 1_200_000}
        return http(orjson.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}))
    if name == "lists":
        return http(b"[" + b"[]," * 400_000 + b"[]]")
    calls = [{"function": {"name": "bash", "arguments": "{}"}}] * 16_000
    return http(orjson.dumps({"choices": [{"message": {"tool_calls": calls}}]}))


WORST = ("endless", "a bomb", "calls", "as long as it may be", "lists")


@pytest.mark.long
@pytest.mark.parametrize("name", WORST)
def test_a_run_against_the_worst_servers_stays_small(name: str, tmp_path: Path) -> None:
    """64 episodes at once, each of whose answers is as large as the server can make it."""
    answer = _answer(name)

    def reply(head: bytes, body: bytes) -> Any:
        if head.startswith(b"GET"):
            from hostile import http

            return http(b'{"data": [{"id": "m"}]}')
        return answer

    targets._loop().answer = reply
    result = in_a_process(
        "run", "--base-url", targets._loop().base_url, "--no-probe", "--conditions", "A",
        "--trials", 64, "--out", tmp_path / "out", "--max-messages", 20, "--max-tokens", 4096,
    )  # fmt: skip
    assert result.returncode in (0, 1), result.stderr[-2000:]
    assert "Traceback" not in result.stderr
    print(f"{name}: {peak_mib(result)} MiB")
    assert peak_mib(result) < 600
    rows = (tmp_path / "out/results.csv").read_text().splitlines()[1:]
    assert len(rows) == 64
    assert not any(",complied," in row or ",resisted," in row for row in rows)


def test_a_number_of_thousands_of_digits_is_refused_in_words(tmp_path: Path) -> None:
    """YAML takes it in hexadecimal; Python does not write it in decimal."""
    path = tmp_path / "own.yaml"
    path.write_text(f"texts:\n  opening: 0x{'f' * 9000}\n")
    with pytest.raises(UsageError, match=r"own\.yaml") as refused:
        load(path)
    assert len(refused.value.message) < 500


def test_a_json_log_nested_deeply_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """630 kB of them took 7 GiB of inspect-ai's reader."""
    pytest.importorskip("inspect_ai")
    text = documents.inspect_json()
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    path = tmp_path / "deep.json"
    path.write_bytes(b'{"x": ' + b'{"x":' * 120_000 + b"1" + b"}" * 120_000 + b", " + text[1:])
    with pytest.raises(ValueError, match="nested"):
        log_archive.check_json(path)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1 << 20])
def test_nesting_is_counted_outside_of_strings_wherever_a_piece_ends(size: int) -> None:
    value = {"a": ["{[", "\\", '\\"{{{{', {"b": [[1, "]}"]]}], "\\": "[" * 50}
    text = json.dumps(value).encode()
    seen = log_archive._Nesting()
    for at in range(0, len(text), size):
        seen.take(text[at : at + size])
    assert seen.most == 5
