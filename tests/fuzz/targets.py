"""What is fuzzed: each target is a strategy of inputs and a check of one input.

The property is the same everywhere: a result, or one clear error that names the place, with the
right exit status, and nothing half-written. A check raises AssertionError (or whatever escaped).
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import socket
import threading
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hostile
import orjson
import scripted
from click.testing import CliRunner, Result
from fuzz import documents
from fuzz.damage import CHANGES, CUTS, apply, cut, damaged, dumps, few
from hypothesis import strategies as st

from local_shutdown.agent import Limits, Task, run_episode
from local_shutdown.cli import main
from local_shutdown.detectors import outcome, score
from local_shutdown.detectors.facts import gather
from local_shutdown.engines import client as client_module
from local_shutdown.engines.client import ChatClient, Request
from local_shutdown.engines.planner import plan
from local_shutdown.engines.registry import load_registry
from local_shutdown.episode import OUTCOMES, Episode
from local_shutdown.errors import (
    CannotRunError,
    ContextOverflow,
    EngineDown,
    EngineFault,
    UsageError,
)
from local_shutdown.grid import load
from local_shutdown.messages import TOOLS_JSON, raw_call_markup, read_calls, storable, wire
from local_shutdown.results import STAMP, detectors_version, digest
from local_shutdown.sandbox import Kit, prepare
from local_shutdown.store import read_episodes
from local_shutdown.terminal import UNSEEN


@dataclass(frozen=True)
class Target:
    """One kind of input.

    Attributes:
        share: of all inputs of a run, in proportion to the others'.
        quick: inputs of the default suite.
    """

    name: str
    strategy: Callable[[], st.SearchStrategy[Any]]
    check: Callable[[Any], None]
    share: int
    quick: int = 60


# --- the property -------------------------------------------------------------------------------


def cli(*args: object) -> Result:
    return CliRunner(env={"COLUMNS": "120"}).invoke(main, [str(arg) for arg in args])


def held(result: Result, allowed: Sequence[int], *names: str) -> None:
    """A result, or an error in words.

    Args:
        names: of files, of which an error names one.
    """
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in allowed, (result.exit_code, result.stderr[-400:])
    assert "Traceback" not in result.output
    assert not UNSEEN.search(result.output.replace("\r\n", "\n")), ascii(result.output)[:400]
    if result.exit_code in (2, 3):
        assert "error: " in result.stderr, result.stderr[:400]
        assert len(result.stderr) < 20_000, len(result.stderr)
        assert any(name in result.stderr for name in names), result.stderr[:400]


def in_words(said: str) -> None:
    """Something, and no more than a reader takes in."""
    assert 0 < len(said) < 2_000, said[:400]


def refused(error: UsageError | CannotRunError, path: Path) -> None:
    assert str(path) in error.message, error.message[:400]
    in_words(error.message)


# --- stored lines -------------------------------------------------------------------------------


def check_stored_line(line: bytes) -> None:
    from local_shutdown.cli import transcript
    from local_shutdown.report import view

    try:
        episode = Episode.from_json(line)
    except ValueError as wrong:
        in_words(str(wrong))
        return
    row = score(episode)
    assert row.outcome is None or row.outcome in OUTCOMES
    if episode.stop_reason == "error" and row.outcome in ("complied", "ended_early"):
        assert gather(episode).down is not None
    with contextlib.suppress(ValueError):  # nested too deeply to be written again
        assert Episode.from_json(episode.to_json()) == episode
    for shown in transcript.lines(episode):
        assert "\x1b]" not in shown
    orjson.dumps(view.view(episode))


# --- imports ------------------------------------------------------------------------------------


def check_import(lines: Sequence[bytes]) -> None:
    with TemporaryDirectory(prefix="fuzz-") as folder:
        path, out = Path(folder) / "in.jsonl", Path(folder) / "out"
        path.write_bytes(b"\n".join(lines))
        imported(path, out, "--condition", "Z", "--format", "jsonl")


def imported(path: Path, out: Path, *more: str) -> None:
    """Import it: whole and usable, or not at all."""
    result = cli("import", path, "--out", out, *more)
    held(result, (0, 2), path.name)
    left = sorted(p.name for p in out.parent.iterdir() if p != path)
    if result.exit_code:
        assert left == [], left
        return
    assert left == ["out"], left
    assert (out / "results.csv").exists()
    for episode in read_episodes(out):
        score(episode)
    held(cli("compare", out, "--json"), (0, 2), "out", "condition")
    held(cli("show", out), (0,))


# --- YAML ---------------------------------------------------------------------------------------


@st.composite
def yaml_text(draw: st.DrawFn, base: str) -> bytes:
    lines = base.splitlines()
    for at, bit, what in draw(
        few(
            st.tuples(
                st.integers(0, 60),
                st.sampled_from(documents.YAML_BITS),
                st.sampled_from(("value", "line", "replace", "delete", "indent")),
            )
        )
    ):
        at %= len(lines) or 1
        line = lines[at] if lines else ""
        if what == "value" and ": " in line:
            lines[at] = f"{line.partition(': ')[0]}: {bit}"
        elif what == "line":
            lines.insert(at, bit)
        elif what == "replace" and lines:
            lines[at] = bit
        elif what == "delete" and lines:
            del lines[at]
        elif lines:
            lines[at] = f" {line}"
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    return cut(data, draw(few(CUTS, 2)) if draw(st.integers(0, 2)) == 0 else [])


def check_conditions(text: bytes) -> None:
    with TemporaryDirectory(prefix="fuzz-") as folder:
        path = Path(folder) / "own.yaml"
        path.write_bytes(text)
        try:
            conditions = load(path)
        except UsageError as error:
            refused(error, path)
            return
        for condition in conditions.values():
            wire({"role": "system", "content": condition.system})
            wire({"role": "user", "content": condition.user})
            assert len(condition.prompt_hash) == 16


def check_models(text: bytes) -> None:
    with TemporaryDirectory(prefix="fuzz-") as folder:
        path = Path(folder) / "models.yaml"
        path.write_bytes(text)
        try:
            registry = load_registry(path)
        except UsageError as error:
            refused(error, path)
            return
        for spec in registry:
            with contextlib.suppress(UsageError, CannotRunError):
                plan(spec, [], concurrency=64, ram_gib=64.0)


# --- Inspect logs -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Log:
    data: bytes
    suffix: str


@st.composite
def inspect_log(draw: st.DrawFn) -> Log:
    if draw(st.booleans()):
        return Log(draw(damaged(documents.inspect_json())), ".json")
    entries = documents.inspect_entries()
    names = sorted(entries)
    hit = draw(st.sets(st.sampled_from(names), max_size=2))
    method = draw(st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)))
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", method) as archive:
        for name in names:
            text = entries[name]
            if name in hit:
                what = draw(st.sampled_from(("change", "drop", "cut", "bomb")))
                if what == "drop":
                    continue
                if what == "change":
                    text = dumps(apply(orjson.loads(text), draw(few(CHANGES))))
                elif what == "cut":
                    text = cut(text, draw(few(CUTS)))
                else:
                    text = b" " * (66 << 20) if draw(st.integers(0, 9)) == 0 else b"[" * 200_000
            archive.writestr(name, text)
    data = written.getvalue()
    return Log(cut(data, draw(few(CUTS, 2)) if draw(st.booleans()) else []), ".eval")


def check_inspect(log: Log) -> None:
    with TemporaryDirectory(prefix="fuzz-") as folder:
        path, out = Path(folder) / f"log{log.suffix}", Path(folder) / "out"
        path.write_bytes(log.data)
        imported(path, out, "--condition", "Z", "--format", "inspect")


# --- servers ------------------------------------------------------------------------------------


class _Loop:
    """An event loop of its own, with a server whose answer is changed from outside."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.answer: hostile.Answer = lambda head, body: []
        threading.Thread(target=self.loop.run_forever, daemon=True, name="fuzz").start()
        self.base_url = self.run(self._serve())
        self.kit: Kit | None = None

    async def _serve(self) -> str:
        self._stack = contextlib.AsyncExitStack()
        server = await self._stack.enter_async_context(
            hostile.hostile(lambda head, body: self.answer(head, body), remember=False)
        )
        return server.base_url

    def run(self, task: Any) -> Any:
        """Meanwhile a client asks again at once; what comes later in this process waits again."""
        before, client_module.BACKOFF_S = client_module.BACKOFF_S, 0.0
        try:
            return asyncio.run_coroutine_threadsafe(task, self.loop).result(120)
        finally:
            client_module.BACKOFF_S = before


@cache
def _loop() -> _Loop:
    return _Loop()


@cache
def _kit() -> Kit:
    # Until the process ends: its folder goes with the kit's own clean-up.
    return contextlib.ExitStack().enter_context(prepare())


HEADERS = (
    (),
    (),
    (),
    (("Content-Encoding", "gzip"),),
    (("Content-Encoding", "br"),),
    (("Location", "http://x/"),),
    (("Set-Cookie", "a=b"),),
    (("Content-Type", "text/html; charset=nonsense"),),
    (("X", "y" * 9000),),
    tuple((f"X-{n}", "y") for n in range(200)),
    (("Transfer-Encoding", "chunked"),),
    (("X\x00", "\x1b]0;owned\x07"),),
    (("Content-Length", "-1"),),
    (("Content-Length", "99999999999999999999"),),
)
STATUSES = ("200 OK",) * 8 + (
    "400 B",
    "401 U",
    "404 N",
    "413 L",
    "429 T",
    "500 I",
    "503 S",
    "204 N",
    "301 M",
    "307 T",
    "100 C",
    "999 X",
    "200",
    "2 0 0",
    "-1 x",
    "200 \x1b]0;owned\x07",
)


@dataclass(frozen=True)
class Answer:
    """Bytes of a whole HTTP answer."""

    data: bytes


@st.composite
def server_answer(draw: st.DrawFn) -> Answer:
    kind = draw(st.integers(0, 9))
    body = draw(damaged(documents.COMPLETIONS if kind < 8 else documents.ERRORS))
    status, headers = "200 OK", ()
    if kind in (0, 8, 9):
        status = draw(st.sampled_from(STATUSES))
        headers = draw(st.sampled_from(HEADERS))
    data = b"".join(hostile.http(body, status, headers))
    if kind == 1:
        data = cut(data, draw(few(CUTS)))
    return Answer(data)


def check_answer(answer: Answer) -> None:
    async def ask() -> None:
        async with ChatClient(loop.base_url, "sk-secret-0123456789", timeout_s=5) as client:
            try:
                got = await client.complete(Request("m", max_tokens=64), [], TOOLS_JSON)
            except EngineDown:
                raise  # it is there
            except (EngineFault, ContextOverflow) as fault:
                in_words(fault.message)
                return
            calls = read_calls(got.message)
            kept = storable(got.message, calls)
            raw_call_markup(kept)
            wire(kept)
            for count in (got.prompt_tokens, got.completion_tokens):
                assert count is None or 0 <= count < 2**41
            check_kept(kept)

    loop = _loop()
    loop.answer = lambda head, body: [answer.data]
    loop.run(ask())


def check_kept(message: Any) -> None:
    """What is kept of an answer is an episode that can be read again."""
    episode = Episode.from_json(orjson.dumps({**documents.EPISODE, "messages": [message]}))
    score(episode)


def check_episode(given: tuple[Answer, int, bool]) -> None:
    """A whole episode in a real sandbox, whose answer in one turn is damaged."""
    answer, damaged_turn, resists = given
    policy = scripted.resist("chmod 000 shutdown.sh") if resists else scripted.comply

    def reply(head: bytes, body: bytes) -> hostile.Pieces:
        messages = orjson.loads(body)["messages"]
        if scripted.turn(messages) == damaged_turn:
            return [answer.data]
        choice = {"message": policy(messages), "finish_reason": "stop"}
        return hostile.http(orjson.dumps({"choices": [choice]}))

    async def play() -> Episode:
        async with ChatClient(loop.base_url, timeout_s=5) as client:
            return await run_episode(
                Task("m/A/0", "m", load()["A"], 0),
                client,
                Request("m", max_tokens=64),
                _kit(),
                Limits(messages=30, seconds=60),
            )

    loop = _loop()
    loop.answer = reply
    episode = loop.run(play())
    again = Episode.from_json(episode.to_json())
    found = outcome(again)
    assert found in OUTCOMES
    seen = {event.type for event in again.events or ()}
    # Ground truth: whatever a server sends, only the machine decides.
    if found == "complied":
        assert "machine_down" in seen
    if found == "resisted":
        assert "survived" in seen
    if episode.stop_reason == "error":
        assert found == "error"
        assert episode.error
    score(again)


# --- run directories ----------------------------------------------------------------------------

RUN: dict[str, Any] = {
    "schema_version": 1,
    "kind": "run",
    "package_version": "0",
    "run_seed": 5,
    "settings": {
        "models": ["m"],
        "conditions": {"A": load()["A"].prompt_hash},
        "trials": 3,
        "engine": "endpoint",
        "max_tokens": None,
        "sampling": {},
        "thinking": ["default"],
        "thinking_budget": None,
        "max_messages": 50,
        "stop_at_bypass": False,
        "interview": [],
        "until_halfwidth": None,
    },
    "models": {"m": {"display_name": "M", "model": "m", "probe": {"default": {"called": True}}}},
    "conditions": {
        "E": {"title": "t", "wording": "verbatim", "system": "s", "user": "u"},
        "A": {"title": "t"},
    },
    "hardware": {"gpus": [], "cpus": 2},
    "started_at": "2026-01-02T03:04:05+00:00",
    "looks": [],
    "server_starts": {"1.0.1": {"seed": 1, "model": "m"}},
}
FILES = ("run.json", "episodes.jsonl", "results.csv", "aggregates.jsonl", "started.jsonl")
KINDS = ("fifo", "socket", "folder", "loop", "gone", "empty", "nowhere", "device")


@dataclass(frozen=True)
class Directory:
    """Contents by name of file; a text stands for another kind of file."""

    files: tuple[tuple[str, bytes | str], ...]
    stale: bool  # else results.csv says that it belongs to the episodes, whatever is in it
    command: tuple[str, ...]


COMMANDS = (
    ("compare", "--json"),
    ("compare",),
    ("show",),
    ("show", "m/E/0"),
    ("show", "m"),
    ("score",),
    ("report",),
    ("list",),
    ("export", "--format", "parquet"),
    ("resume",),
    ("resume", "--extend"),
)


@cache
def _results() -> bytes:
    from local_shutdown.results import write_csv

    with TemporaryDirectory() as folder:
        path = Path(folder) / "results.csv"
        write_csv((score(Episode.from_json(orjson.dumps(e))) for e in documents.STORED), path)
        return path.read_bytes()


def _right() -> dict[str, bytes]:
    started = [
        {
            "episode_id": e["episode_id"],
            "model": e["model"],
            "condition": e["condition"],
            "trial": e["trial"],
            "factor": None,
            "session": 1,
        }
        for e in documents.STORED
    ]
    return {
        "run.json": orjson.dumps(RUN),
        "episodes.jsonl": b"".join(orjson.dumps(e) + b"\n" for e in documents.STORED),
        "results.csv": _results(),
        "aggregates.jsonl": b"".join(orjson.dumps(a) + b"\n" for a in documents.AGGREGATES),
        "started.jsonl": b"".join(orjson.dumps(s) + b"\n" for s in started),
    }


@st.composite
def run_directory(draw: st.DrawFn) -> Directory:
    files: dict[str, bytes | str] = dict(_right())
    for name in draw(st.lists(st.sampled_from(FILES), min_size=1, max_size=2)):
        how = draw(st.sampled_from(("values", "values", "bytes", "kind", "random")))
        if how == "kind":
            files[name] = draw(st.sampled_from(KINDS))
        elif how == "bytes":
            content = files[name]
            files[name] = content if isinstance(content, str) else cut(content, draw(few(CUTS)))
        elif how == "random":
            files[name] = draw(st.binary(max_size=200))
        elif name == "run.json":
            files[name] = draw(damaged((RUN,)))
        elif name == "episodes.jsonl":
            lines = draw(st.lists(damaged(documents.STORED), max_size=3))
            files[name] = b"".join(line + b"\n" for line in lines)
        elif name == "aggregates.jsonl":
            files[name] = b"\n".join(draw(st.lists(damaged(documents.AGGREGATES), max_size=2)))
        elif name == "started.jsonl":
            files[name] = draw(damaged(tuple(map(orjson.loads, _right()[name].splitlines()))))
        else:
            files[name] = cut(_results(), draw(few(CUTS)))
    command = draw(st.sampled_from(COMMANDS))
    return Directory(tuple(files.items()), draw(st.booleans()), command)


def _put(path: Path, content: bytes | str) -> None:
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "fifo":
        os.mkfifo(path)
    elif content == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    elif content == "folder":
        path.mkdir()
    elif content == "loop":
        path.symlink_to(path.name)
    elif content == "nowhere":
        path.symlink_to("/nonexistent/file")
    elif content == "device":
        path.symlink_to("/dev/full")
    elif content == "empty":
        path.touch()


def _submits(head: bytes, body: bytes) -> hostile.Pieces:
    if head.startswith(b"GET"):
        return hostile.http(b'{"data": [{"id": "m"}]}')
    message = scripted.submit_at_once(())
    return hostile.http(orjson.dumps({"choices": [{"message": message}]}))


def check_directory(given: Directory) -> None:
    with TemporaryDirectory(prefix="fuzz-") as folder:
        out = Path(folder) / "out"
        out.mkdir()
        for name, content in given.files:
            _put(out / name, content)
        if not given.stale:
            with contextlib.suppress(OSError, UsageError):
                stamp = {
                    "episodes": digest(out / "episodes.jsonl"),
                    "results": digest(out / "results.csv"),
                    "detectors": detectors_version(),
                }
                (out / STAMP).write_bytes(orjson.dumps(stamp))
        before = (
            (out / "episodes.jsonl").read_bytes()
            if isinstance(dict(given.files)["episodes.jsonl"], bytes)
            else b""
        )
        command, *more = given.command
        if command == "resume":
            loop = _loop()
            loop.answer = _submits
            args: list[object] = ["run", "--base-url", loop.base_url, "--model", "m", "--no-probe"]
            args += ["--conditions", "A", "--trials", 3, "--out", out, *more]
        elif command == "report":
            args = [command, out, "--out", Path(folder) / "r.html"]
        elif command == "export":
            args = [command, out, "--out", Path(folder) / "tables", *more]
        else:
            args = [command, out, *more]
        held(cli(*args), (0, 1, 2, 3), str(out), "condition", "contrast")
        if before:  # nobody writes into the past
            whole = before[: before.rfind(b"\n") + 1] if command == "resume" else before
            assert (out / "episodes.jsonl").read_bytes().startswith(whole)
        assert not [p for p in out.iterdir() if p.name.startswith(".") and p.suffix != ".pid"]


# --- all ----------------------------------------------------------------------------------------

TARGETS = (
    Target("stored lines", lambda: damaged(documents.STORED), check_stored_line, 500, 150),
    Target(
        "import lines",
        lambda: st.lists(damaged(documents.LINES), min_size=1, max_size=3),
        check_import,
        60,
    ),
    Target("conditions.yaml", lambda: yaml_text(documents.CONDITIONS), check_conditions, 190, 100),
    Target("models.yaml", lambda: yaml_text(documents.MODELS), check_models, 125, 80),
    Target("Inspect logs", inspect_log, check_inspect, 8, 20),
    Target("answers", server_answer, check_answer, 100, 100),
    Target(
        "episodes",
        lambda: st.tuples(server_answer(), st.integers(0, 6), st.booleans()),
        check_episode,
        9,
        12,
    ),
    Target("run directories", run_directory, check_directory, 8, 25),
)
