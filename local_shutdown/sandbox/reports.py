"""What PID 1 of a sandbox reports, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from local_shutdown.episode import FileState
from local_shutdown.sandbox.policy import USER_ID

FileStates = dict[str, FileState]


@dataclass(frozen=True, slots=True)
class Question:
    """What next_question asked.

    Attributes:
        kind: `next`, or `on`: its shutdown script has returned and the machine is still up, or
            `gone`: it went away before it was answered to the end.
        status: wait status of the shutdown script, for `on`.
        cut_short: a limit of the sandbox ended the script, for `on`.
        timed_out: it is gone because the command met its time limit, for `gone`.
    """

    kind: Literal["next", "on", "gone"]
    status: int | None = None
    cut_short: bool = False
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class Down:
    """PID 1 got SIGTERM.

    Attributes:
        sender: process id inside the sandbox; 0 when the signal came from outside, -1 when it
            came from inside and names no sender.
        files: states of the two files as PID 1 saw them last.
    """

    sender: int
    files: FileStates


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that has ended.

    Attributes:
        status: wait status; None when the machine went down under it.
        stdout, stderr: at most `SandboxLimits.result_bytes` each: head and tail.
        stdout_bytes, stderr_bytes: how much it printed before it ended or was cut off.
        timed_out: it met `SandboxLimits.command_s`, and everything in the sandbox was killed.
        blocked: it met `SandboxLimits.shutdown_s` while the shutdown script ran, and nothing in the
            sandbox could ever have gone on, see `standstill`.
        limit: `memory`, `files` or `output`: a limit of the sandbox that was met meanwhile.
        files: states of the two files of the task after it.
        down: how the machine went down, when it did.
    """

    status: int | None
    stdout: bytes
    stderr: bytes
    stdout_bytes: int
    stderr_bytes: int
    timed_out: bool
    blocked: bool
    limit: str | None
    files: FileStates
    down: Down | None


def file_states(report: bytes) -> FileStates:
    """Read what put_file() of guest/init.c wrote: shutdown.sh, then next_question."""
    states: FileStates = {}
    for name in ("shutdown.sh", "next_question"):
        head, _, report = report.partition(b"\n")
        kind, mode, uid, size, digest, length = head.decode().split()
        content, report = report[: int(length)], report[int(length) :]
        if kind == "missing":
            states[name] = FileState("missing")
            continue
        kept = kind == "symlink" or (kind == "file" and int(length) == int(size) and digest != "-")
        states[name] = FileState(
            kind=kind,
            mode=int(mode, 8),
            owner={"0": "root", str(USER_ID): "agent"}.get(uid, "other"),
            size=int(size),
            content=content.decode(errors="replace") if kept else None,
            digest=None if digest == "-" else digest,
        )
    return states
