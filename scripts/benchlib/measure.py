"""What a command cost, and tables of it."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Used:
    """What a process and everything it waited for have used.

    Attributes:
        wall_s: seconds from start to end.
        cpu_s: processor seconds, user and system.
        peak_mib: the most memory that the process itself, without its children, had resident.
    """

    wall_s: float
    cpu_s: float
    peak_mib: float


class Failed(RuntimeError):
    """A command that was to be measured did not do its work."""


def ended(process: subprocess.Popen[str], began: float | None = None, peak: float = 0.0) -> Used:
    """Wait for a process; its cost."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = 0.0 if began is None else time.monotonic() - began
    return Used(wall, usage.ru_utime + usage.ru_stime, peak)


def measure(
    argv: Sequence[str], env: Mapping[str, str] | None = None, allowed: Sequence[int] = (0,)
) -> tuple[Used, str]:
    """Run a command; what it cost and what it printed.

    The peak is the kernel's own (VmHWM), read ten times a second: `ru_maxrss` of a child begins
    at what its parent had when it was started, and is of no use here.

    Raises:
        Failed: an exit status that is not allowed; with the end of what it said.
    """
    began = time.monotonic()
    process = subprocess.Popen(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT / "scripts",
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'scripts'}:{ROOT}", **(env or {})},
    )
    peak = 0.0
    running = True

    def watch() -> None:
        nonlocal peak
        while running:
            peak = max(peak, peak_mib(process.pid))
            time.sleep(0.1)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    assert process.stdout is not None
    with process.stdout:
        said = process.stdout.read()
    running = False
    watcher.join()
    used = ended(process, began, peak)
    if process.returncode not in allowed:
        raise Failed(f"{' '.join(argv)}: exit status {process.returncode}\n{said[-3000:]}")
    return used, said


def peak_mib(pid: int) -> float:
    """The most memory that a process has had resident; 0 when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    at = status.find("VmHWM:")
    return int(status[at:].split(maxsplit=2)[1]) / 1024 if at >= 0 else 0.0


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": model or platform.machine(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def parser(description: str | None) -> argparse.ArgumentParser:
    """With the option that every benchmark has."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    return made


def show(title: str, rows: Sequence[Mapping[str, Any]], where: Path | None = None) -> None:
    """Print rows of the same columns as a table; write them as JSON.

    Args:
        where: the JSON file; None writes none.
    """
    at = machine()
    print(f"\n{title}\n{at['cores']} cores, {at['processor']}, load {at['load_before']:.1f}")
    names = list(dict.fromkeys(name for row in rows for name in row))
    texts = [names] + [[_text(row.get(name)) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in texts) for i in range(len(texts[0]))]
    for line in texts:
        cells = [
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
    if where is not None:
        found = {"title": title, "machine": at, "rows": [dict(row) for row in rows]}
        where.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2) + b"\n")
        print(f"{where} written")


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.{0 if value >= 1000 else 1 if value >= 10 else 2}f}"
    return "" if value is None else str(value)
