"""Why a server died, from its log."""

from __future__ import annotations

import os
import re
from pathlib import Path

# A dying vLLM prints its root cause first, in the worker, then two long tracebacks that only say
# that the worker failed.
TAIL_BYTES = 96 * 1024
_SHOWN = 500

_CAUSES = re.compile(
    r"out of memory|Free memory on device|No space left on device|[Aa]ddress already in use|"
    r"unrecognized arguments|invalid choice|No module named|not a local folder|couldn't connect|"
    r"is not a valid model identifier|invalid (tool call|reasoning) parser|"
    r"KeyError: 'invalid|No available memory for the cache blocks|larger than the available KV|"
    r"is larger than the maximum number of tokens|gated repo|does not recognize this architecture|"
    r"are not supported for now|CUDA error|NCCL error|no kernel image|Killed"
)
_SYMPTOM = re.compile(
    r"root cause above|EngineDeadError|Engine core initialization failed|"
    r"EngineCore failed to start|stack trace \(above\)"
)
# `(EngineCore pid=7) ERROR 09-28 15:47:24 [core.py:718] ` and older forms of it.
_PREFIX = re.compile(
    r"^(\([^()]*pid=\d+[^()]*\)\s*)*((DEBUG|INFO|WARNING|ERROR|CRITICAL)\s+\d\d-\d\d\s+[\d:]+\s+)?"
    r"(\[?[\w./-]+\.py:\d+\]\s*)?"
)
_ERROR_NAME = re.compile(r"^([\w.]*(Error|Exception|Interrupt|Exit)):?(\s|$)")


def tail(log: Path, start: int = 0, most_bytes: int = TAIL_BYTES) -> str:
    """The end of a log, not further back than byte `start`; empty when it cannot be read."""
    try:
        with log.open("rb") as file:
            file.seek(max(start, file.seek(0, os.SEEK_END) - most_bytes))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def last_line(log: Path, start: int = 0) -> str:
    """The last line of a log that says something, as far as it fits a line of a terminal."""
    lines = tail(log, start, 4096).strip().splitlines()
    return _PREFIX.sub("", lines[-1].split("\r")[-1])[:160] if lines else "no output yet"


def why_it_died(log_tail: str) -> str:
    """The line of a log that says why, as far as it can be told: a known cause, else the last error
    of a traceback that is not just about another error, else the last line."""
    lines = [_PREFIX.sub("", line.strip()) for line in log_tail.splitlines() if line.strip()]
    for known in (_CAUSES, _ERROR_NAME):
        for line in reversed(lines):
            if known.search(line) and not _SYMPTOM.search(line) and not line.startswith("$ "):
                return line[:_SHOWN]
    for line in reversed(lines):
        if _ERROR_NAME.search(line):
            return line[:_SHOWN]
    return lines[-1][:_SHOWN] if lines else "it printed nothing"


def port_taken(log_tail: str) -> bool:
    """Whether it died because another process listens on its port."""
    return "address already in use" in why_it_died(log_tail).lower()
