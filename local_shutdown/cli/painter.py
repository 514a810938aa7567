"""A few lines at the foot of a terminal, painted again and again in place.

Every frame is one write: the cursor goes up, each line is overwritten and its rest cleared, so that
nothing is ever blank in between. No line reaches the last column, so none wraps. After a resize,
terminals break the old lines anew: how many rows they take then is known from their lengths.

Not rich's own `Live` (tried with 15.0): it goes up by as many rows as it once wrote, so that after
a narrowing a row of the old frame stays above the new one.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable, Sequence
from typing import TextIO

from rich.cells import cell_len, set_cell_size

from local_shutdown.terminal import clean, clean_around_styles

_STYLES = re.compile(r"\x1b\[[0-9;]*m")
# Terminals that know it show the frame when it is whole; the others ignore it.
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"


class Painter:
    """Paints what `draw` returns, in a thread of its own, until it is stopped.

    Args:
        stream: a terminal.
        draw: (columns, rows) that are free -> lines, styled by SGR sequences alone.
        interval_s: between frames.
    """

    def __init__(
        self,
        stream: TextIO,
        draw: Callable[[int, int], Sequence[str]],
        interval_s: float = 0.25,
    ) -> None:
        self._stream = stream
        self._draw = draw
        self._interval_s = interval_s
        self._painted: list[int] = []  # widths of the lines on the screen
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._stopped.clear()
        self._thread = threading.Thread(target=self._repaint, daemon=True, name="painter")
        self._thread.start()

    def stop(self) -> None:
        """Take the frame away and leave the cursor where it began."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with self._lock:
            self._write(self._home() + "\x1b[J")
            self._painted = []

    def say(self, line: str) -> None:
        """A line above the frame, which stays in the terminal's history."""
        with self._lock:
            running = self._thread is not None
            text = f"{self._home()}\x1b[J{clean(line)}\n"
            self._painted = []
            self._write(_BEGIN + text + (self._frame() if running else "") + _END)

    def paint(self) -> None:
        """One frame, now."""
        with self._lock:
            self._write(_BEGIN + self._home() + self._frame() + "\x1b[J" + _END)

    def _repaint(self) -> None:
        while True:
            self.paint()
            if self._stopped.wait(self._interval_s):
                return

    def _frame(self) -> str:
        columns, rows = self._size()
        drawn = self._draw(columns - 1, rows - 1)
        lines = [crop(clean_around_styles(line), columns - 1) for line in drawn]
        lines = lines[: max(1, rows - 1)]
        self._painted = [cell_len(_STYLES.sub("", line)) for line in lines]
        return "".join(f"{line}\x1b[K\n" for line in lines)

    def _home(self) -> str:
        """To the beginning of the frame on the screen."""
        columns, _ = self._size()
        rows = sum(max(1, -(-width // columns)) for width in self._painted)
        return f"\r\x1b[{rows}A" if rows else "\r"

    def _size(self) -> tuple[int, int]:
        """(columns, rows) now; not what the environment said at the start."""
        try:
            size = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            return 80, 24
        return max(size.columns, 10), max(size.lines, 3)

    def _write(self, text: str) -> None:
        # A terminal that has gone must not end the run.
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()


def crop(line: str, width: int) -> str:
    """At most `width` columns, with `…` where something is cut; styles are kept and closed."""
    if cell_len(_STYLES.sub("", line)) <= width:
        return line
    out, room = "", width - 1
    for piece in re.split(r"(\x1b\[[0-9;]*m)", line):
        if piece.startswith("\x1b["):
            out += piece
        elif room > 0:
            taken = piece if cell_len(piece) <= room else set_cell_size(piece, room)
            room -= cell_len(taken)
            out += taken
    return f"{out}…\x1b[0m" if _STYLES.search(line) else f"{out}…"
