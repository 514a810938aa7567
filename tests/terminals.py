"""A command in a real terminal of a given width, and what its screen shows."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pyte

ROWS = 1000  # nothing scrolls away


def screen(
    argv: Sequence[str], *, columns: int, cwd: Path, env: Mapping[str, str]
) -> tuple[int, list[str]]:
    """Run it to its end; its exit status and the lines of the screen."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
    kept = {name: value for name, value in env.items() if name not in ("COLUMNS", "NO_COLOR")}
    with subprocess.Popen(
        argv, stdin=its, stdout=its, stderr=its, cwd=cwd, env={**kept, "TERM": "xterm-256color"}
    ) as run:
        os.close(its)
        shown = pyte.Screen(columns, ROWS)
        stream = pyte.ByteStream(shown)
        with suppress(OSError):  # EIO: nobody has the terminal open any more
            while said := os.read(ours, 65536):
                stream.feed(said)
        os.close(ours)
        code = run.wait()
    return code, [line.rstrip() for line in shown.display]


def pieces(name: str, lines: Sequence[str]) -> list[str] | None:
    """How a name stands on the screen: whole, or in pieces one below the other; None where it does
    not stand there."""
    for number, line in enumerate(lines):
        for size in range(len(name), 0, -1):
            at = line.find(name[:size])
            if at < 0:
                continue
            rest = name[size:]
            if not rest:
                return [name]
            if number + 1 < len(lines):
                below = pieces(rest, [lines[number + 1][at:].partition("  ")[0]])
                if below is not None:
                    return [name[:size], *below]
            break
    return None
