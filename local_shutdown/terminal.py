"""The one way to a terminal: models, servers and other people's files write much of what we print,
and none of it may act on the terminal of whoever reads it.

Everything that the commands say goes through here (a test looks for what does not). Characters that
move the cursor, start a sequence (titles, the clipboard), turn or hide text, or are none, are shown
as escapes. The styles are ours, and put on afterwards.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click
import orjson

if TYPE_CHECKING:
    from rich.console import Console

# Control characters (ANSI sequences start with one), and those that turn or hide text.
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]"
)
_PAINT_AFTER_S, _PAINT_EVERY_S, _LOG_EVERY_S = 1.0, 0.3, 15.0
# What `click.style` writes for the styles in use: none of them hides a text.
_OURS = re.compile(r"(\x1b\[(?:[012]|3[1-7])m)")


def clean(text: str) -> str:
    """The text with whatever would act on a terminal, or not be seen, as escapes. Line ends and
    tabs stay."""
    return UNSEEN.sub(_escape, text.replace("\r\n", "\n"))


def clean_around_styles(text: str) -> str:
    """Clean a text in which we have put styles already; what it was made of is clean."""
    if "\x1b" not in text:
        return clean(text)
    pieces = _OURS.split(text)
    return "".join(piece if at % 2 else clean(piece) for at, piece in enumerate(pieces))


def echo(text: str = "", *, err: bool = False, styled: bool = False) -> None:
    """A line, or several.

    Args:
        err: on standard error.
        styled: our styles are in it.
    """
    stream = sys.stderr if err else sys.stdout
    line = clean_around_styles(text) if styled else clean(text)
    click.echo(_encodable(line, stream.encoding), err=err, color=colours())


def note(text: str, *, indent: int = 0) -> None:
    """A sentence under a table: broken between words where there is a terminal, else one line."""
    margin = " " * indent
    if not sys.stdout.isatty():
        echo(margin + text)
        return
    width = max(shutil.get_terminal_size().columns - 1, 40)
    wrapped = textwrap.fill(
        clean(text),
        width,
        initial_indent=margin,
        subsequent_indent=f"{margin}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    echo(wrapped)


def folded(name: str, width: int) -> str:
    """A name in lines of at most `width` characters and nearly the same length, so that none is a
    scrap of two letters; a name that is longer than one line is cut where it is, not at spaces."""
    if len(name) <= width:
        return name
    count = -(-len(name) // width)
    size = -(-len(name) // count)
    return "\n".join(name[at : at + size] for at in range(0, len(name), size))


def echo_json(value: Any) -> None:
    """JSON on standard output; for programs, but people look at it, too."""
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
    click.echo(_encodable(UNSEEN.sub(_json_escape, text), sys.stdout.encoding))


def echo_pages(lines: Iterable[str]) -> None:
    """Many lines, with our styles in them, through the user's pager."""
    click.echo_via_pager((f"{clean_around_styles(line)}\n" for line in lines), color=colours())


def colours() -> bool | None:
    """For click: False where the user wants none (NO_COLOR), else what the stream can do."""
    return False if os.environ.get("NO_COLOR") else None


def console() -> Console:
    """For tables on standard output; as wide as a log may be where there is no terminal."""
    from rich.console import Console  # late: `--help` needs none
    from rich.text import Text

    class CleanConsole(Console):
        """Every cell, title and line of text becomes a `Text` here."""

        def render_str(self, text: str, *args: Any, **options: Any) -> Text:
            return super().render_str(_encodable(clean(text), self.encoding), *args, **options)

    width = None if sys.stdout.isatty() else 118
    # Names of models are data: nothing in them is markup.
    return CleanConsole(highlight=False, markup=False, width=width, soft_wrap=False)


def show_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """For `sys.excepthook`: a traceback quotes what caused it."""
    echo("".join(traceback.format_exception(kind, error, trace)), err=True)


def _encodable(text: str, encoding: str | None) -> str:
    """A terminal of another encoding gets escapes, not an exception."""
    return text.encode(encoding or "utf-8", "backslashreplace").decode(encoding or "utf-8")


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_escape(match: re.Match[str]) -> str:
    units = match.group().encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


class Working:
    """What a long step is at: a line that is painted over on a terminal, a plain one now and then
    in a log. On standard error, and only once it has taken a while.

    Args:
        doing: what it is at first, in a few words.
    """

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._began = time.monotonic()
        self._live = sys.stderr.isatty()
        self._painted = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="working", daemon=True)

    def __call__(self, doing: str) -> None:
        """It is at something else now."""
        self._doing = doing

    def __enter__(self) -> Working:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        if self._painted:
            self._write("\r" + " " * self._painted + "\r")

    def _watch(self) -> None:
        wait = _PAINT_AFTER_S if self._live else _LOG_EVERY_S
        while not self._done.wait(wait):
            line = clean(f"{self._doing} ({time.monotonic() - self._began:.0f} s)")
            if self._live:
                columns = shutil.get_terminal_size().columns - 1
                self._write("\r" + line[:columns].ljust(self._painted))
                self._painted = max(self._painted, min(len(line), columns))
                wait = _PAINT_EVERY_S
            else:
                self._write(f"{line}\n")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
            sys.stderr.write(_encodable(text, sys.stderr.encoding))
            sys.stderr.flush()
