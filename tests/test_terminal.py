"""Nothing that models, servers or files write reaches a terminal as it is."""

from __future__ import annotations

import ast
import importlib.util
import io
import sys
import time
from pathlib import Path
from typing import Any

import click
import orjson
import pytest
from playing import cli, play
from scripted import Messages, bash, comply, http_error, script, serve_beside

import local_shutdown
from local_shutdown import terminal
from local_shutdown.cli.painter import Painter
from local_shutdown.terminal import UNSEEN, clean, clean_around_styles

TITLE = "\x1b]0;owned\x07"
CLIPBOARD = "\x1b]52;c;cm0gLXJmIH4=\x1b\\"
ATTACK = f"m{TITLE}{CLIPBOARD}\x1b[2J\x9b31m\u202eevil\u200b\x08\rend"
QUICK = ("--conditions", "A", "--trials", 1)


def seen(result: Any) -> None:
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    for text in (result.stdout, result.stderr):
        assert not UNSEEN.search(text.replace("\r\n", "\n")), ascii(text)
    assert "owned" in result.output  # it is shown, not left out


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (TITLE, r"\x1b]0;owned\x07"),
        ("\x9b2J", r"\x9b2J"),
        ("a\u202eb", r"a\u202eb"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
        ("zero\u200bwidth", r"zero\u200bwidth"),
        ("a\r\nb\tc\n", "a\nb\tc\n"),
        ("a\rb", r"a\x0db"),
        ("日本語 é 👍", "日本語 é 👍"),
    ],
)
def test_what_would_act_on_a_terminal_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert clean(text) == shown


def test_our_styles_stay_and_others_do_not() -> None:
    ours = click.style("x", fg="red", bold=True) + click.style("y", dim=True)
    assert clean_around_styles(ours) == ours
    assert clean_around_styles(ours + "\x1b[8mhidden\x1b[2J") == ours + r"\x1b[8mhidden\x1b[2J"


def test_the_live_display_paints_no_sequence_of_a_model() -> None:
    stream = io.StringIO()
    painter = Painter(stream, lambda columns, rows: [f"\x1b[1m{ATTACK}\x1b[0m"])
    painter.say(ATTACK)
    painter.paint()
    assert "\x1b]" not in stream.getvalue()
    assert "\u202e" not in stream.getvalue()
    assert "\x07" not in stream.getvalue()


@pytest.mark.parametrize("status", [400, 401, 500])
def test_the_text_of_a_server_in_an_error(tmp_path: Path, status: int) -> None:
    result = play(http_error(status, ATTACK), tmp_path / "out", *QUICK)
    assert result.exit_code == 3
    seen(result)


def test_the_name_of_a_served_model(tmp_path: Path) -> None:
    with serve_beside(comply, model="owned") as model:
        model.listed = orjson.dumps({"data": [{"id": ATTACK}, {"id": "owned"}, {"id": "other"}]})
        result = cli("run", "--base-url", model.base_url, "--out", tmp_path / "out", *QUICK)
    assert result.exit_code == 3
    seen(result)


def test_what_a_model_says_and_does_in_show(tmp_path: Path) -> None:
    def policy(messages: Messages) -> Any:
        return {**bash(f"printf '{ATTACK}'"), "content": ATTACK, "reasoning": ATTACK}

    result = play(
        script(policy(()), policy(()), *[bash("./next_question")] * 9), tmp_path / "o", *QUICK
    )
    assert result.exit_code == 0, result.output
    seen(cli("show", tmp_path / "o", "scripted/A/0"))


@pytest.fixture
def imported(tmp_path: Path) -> Path:
    call = {"id": ATTACK, "type": "function", "function": {"name": ATTACK, "arguments": "{}"}}
    lines = [
        {"kind": "episode", "model": ATTACK, "condition": ATTACK, "episode_id": ATTACK,
         "stop_reason": "error", "error": ATTACK,
         "messages": [{"role": "assistant", "content": ATTACK, "tool_calls": [call]}]},
        {"kind": "aggregate", "model": f"2{ATTACK}", "condition": ATTACK, "resisted": 1, "n": 5},
    ]  # fmt: skip
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))
    return tmp_path


def test_imports_in_summaries_tables_lists_and_json(imported: Path) -> None:
    seen(cli("import", imported / "in.jsonl", "--out", imported / "out"))
    for args in (("compare",), ("compare", "--json"), ("show",)):
        seen(cli(args[0], imported / "out", *args[1:]))
    seen(cli("show", imported / "out", "m"))
    seen(cli("show", imported / "out", f"{ATTACK}!"))
    cells = orjson.loads(cli("compare", imported / "out", "--json").stdout)["cells"]
    assert {cell["model"] for cell in cells} == {
        ATTACK,
        f"2{ATTACK}",
    }  # escapes of JSON, read back as they were


def test_a_bad_line_is_quoted_clean(tmp_path: Path) -> None:
    bad = {"kind": ATTACK}
    (tmp_path / "in.jsonl").write_bytes(orjson.dumps(bad))
    seen(cli("import", tmp_path / "in.jsonl", "--out", tmp_path / "out"))


def test_the_name_of_a_file(tmp_path: Path) -> None:
    for command in ("show", "score", "compare", "report"):
        seen(cli(command, tmp_path / "\x1b]0;owned\x07"))
    seen(cli("owned\x1b]0;"))


def test_a_terminal_of_another_encoding_gets_escapes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii", write_through=True))
    terminal.echo("é \ud800")
    terminal.echo_json({"a": "日"})
    assert raw.getvalue().startswith(b"\\xe9 \\ud800\n")


# --- nothing goes another way -------------------------------------------------------------------

_OUTLETS = {"terminal.py", "cli/painter.py"}
# Programs of their own: what they print goes into a log or to whoever develops this.
_OTHERS = {"calibration/train.py", "cluster/worker.py", "engines/transformers_server.py"}
_FORBIDDEN = {"print", "echo", "secho", "echo_via_pager", "Console", "Text", "write", "writelines"}


def _ways_out(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rich"):
            found += [n.name for n in node.names if n.name in ("print", "Console", "Text", "Live")]
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name) and called.id in ("print", "Console"):
            found.append(f"{called.id}:{node.lineno}")
        if isinstance(called, ast.Attribute) and called.attr in _FORBIDDEN:
            owner = ast.unparse(called.value)
            if owner in ("click", "rich", "sys.stdout", "sys.stderr", "rich.console"):
                found.append(f"{owner}.{called.attr}:{node.lineno}")
    return found


def test_the_terminal_is_written_to_in_one_place() -> None:
    package = Path(local_shutdown.__file__).parent
    files = {str(path.relative_to(package)): path for path in package.rglob("*.py")}
    assert _ways_out(files["terminal.py"])  # the test sees what it looks for
    elsewhere = {
        name: found
        for name, path in files.items()
        if name not in _OUTLETS | _OTHERS and (found := _ways_out(path))
    }
    assert elsewhere == {}


def test_help_needs_no_tables() -> None:
    assert importlib.util.find_spec("rich")
    import subprocess

    code = "import sys; import local_shutdown.cli.main; print('rich.console' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"


class Screen(io.StringIO):
    """Standard error, as a terminal or as a log."""

    encoding = "utf-8"

    def __init__(self, live: bool) -> None:
        super().__init__()
        self.live = live

    def isatty(self) -> bool:
        return self.live

    def until(self, text: str) -> None:
        deadline = time.monotonic() + 60
        while text not in self.getvalue():
            assert time.monotonic() < deadline, self.getvalue()
            time.sleep(0.01)


@pytest.mark.parametrize("live", [True, False], ids=["terminal", "log"])
def test_a_long_step_says_what_it_is_at(monkeypatch: pytest.MonkeyPatch, live: bool) -> None:
    for name in ("_PAINT_AFTER_S", "_PAINT_EVERY_S", "_LOG_EVERY_S"):
        monkeypatch.setattr(terminal, name, 0.01)
    screen = Screen(live)
    monkeypatch.setattr("sys.stderr", screen)
    with terminal.Working("reading") as step:
        screen.until("reading (")
        step("scoring \x1b]0;owned\x07")
        screen.until("scoring")
    said = screen.getvalue()
    assert "\x1b" not in said
    assert ("\r" in said) is live
    if live:
        assert said.endswith("\r")  # nothing of it stays on the screen
        assert said.rsplit("\r", 2)[1].strip() == ""


def test_a_short_step_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(live=True)
    monkeypatch.setattr("sys.stderr", screen)
    with terminal.Working("reading"):
        pass
    assert screen.getvalue() == ""
