"""What runs on this machine, for tests of what is left behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """One that lives; `start` tells it from a later one of the same number."""

    pid: int
    parent: int
    start: str
    name: str


def processes() -> list[Process]:
    """Those that live, zombies left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                name, _, rest = (entry / "stat").read_text().partition(" (")[2].rpartition(") ")
            except OSError:
                continue
            fields = rest.split()
            if fields[0] not in "ZX":
                found.append(Process(int(entry.name), int(fields[1]), fields[19], name))
    return found


def above(pid: int, parents: Mapping[int, int]) -> Iterator[int]:
    """Its parent, whose parent, and so on, up to pid 1."""
    while (pid := parents.get(pid, 0)) > 1:
        yield pid


def command_line(pid: int) -> str:
    """Empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
