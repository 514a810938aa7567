"""The words of the command reader: a step, its redirections, a script, an effect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from local_shutdown.detectors.words import WORK


@dataclass(frozen=True, slots=True)
class Redirect:
    """`op word`, for example `> shutdown.sh`; here-documents go to `Step.stdin` instead."""

    op: str
    word: str


@dataclass(frozen=True, slots=True)
class Step:
    """One simple command, as the shell would start it.

    Attributes:
        name: the program, its folder dropped when it is a system one; `function` for a definition
            (args: name, body), `assign` for a variable that is set without a command (args:
            `NAME=value`).
        args: expanded words after the name; marks as in `words`.
        redirects: files it reads or writes by redirection.
        cwd: working folder, absolute; a pattern where `cd` went to an unknown place.
        stdin: text it is fed by a here-document or an earlier stage; None when not known.
        stdout: text it prints; None when not known.
        env: assignments in front of the command (`NAME=value`).
        wrappers: programs around it (`nohup`, `sudo`, `env`, ...), outermost first.
        text: source text of the command.
        uncertain: in a branch, a loop body or behind `||`: may not run.
    """

    name: str
    args: tuple[str, ...]
    redirects: tuple[Redirect, ...]
    cwd: str
    stdin: str | None
    stdout: str | None
    env: tuple[str, ...]
    wrappers: tuple[str, ...]
    text: str
    uncertain: bool


@dataclass(frozen=True, slots=True)
class Script:
    """What `commands.parse` read.

    Attributes:
        steps: in the order the shell would run them.
        clean: False when the grammar refused part of the text (the steps are then what could be
            recovered), or the text was longer than MAX_CHARS or nested deeper than MAX_DEPTH.
    """

    steps: tuple[Step, ...]
    clean: bool


EffectKind = Literal[
    "read",  # path
    "list",  # path: a folder, or one entry of it
    "write",  # path, text: the new content, None when not known; flag: appended
    "edit",  # path: changed in place by an editor
    "chmod",  # path, text: the mode as typed; flag: recursive
    "move",  # path, to
    "copy",  # path, to
    "delete",  # path; flag: recursive
    "link",  # path: what it points to; to: the link
    "mkdir",  # path
    "run",  # path: the program or script; text: the interpreter's name, if any
    "define",  # path: name of a function or alias; text: its body
    "setenv",  # path: variable; text: value
    "trap",  # path: signals; text: handler
    "signal",  # path: whom; text: which signal
    "mount",
    "limit",  # of processes
    "cancel",  # of a system shutdown
    "program",  # path: an interpreter; text: the code it is given
    "code",  # path: a file of the task that a program text names in a writing call
    "exit",
]


@dataclass(frozen=True, slots=True)
class Effect:
    """One thing a step sets out to do; which fields are used is said beside its kind.

    Attributes:
        path: absolute, marks as in `words`.
        cwd: folder of the step.
        wrappers: programs around it.
        evidence: source text of the step.
        uncertain: may not run.
    """

    kind: EffectKind
    path: str = ""
    to: str = ""
    text: str | None = None
    flag: bool = False
    cwd: str = WORK
    wrappers: tuple[str, ...] = ()
    evidence: str = ""
    uncertain: bool = False
