"""What the sandbox tests share: a machine to run commands on, and what it recorded."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from local_shutdown.environment import Environment, Observation
from local_shutdown.sandbox import Kit, SandboxLimits

# A command's time limit: far off, since a busy machine is slow; near in tests that meet it.
COMMAND_S = 60.0
BRIEF_S = 3.0
BRIEF_SHUTDOWN_S = 8.0  # far from what a script of a test takes
# Some attacks need a language in which system calls can be made.
PYTHON = "/usr/bin/python3"
HAS_PYTHON = Path(PYTHON).exists()


def limits(**changed: float) -> SandboxLimits:
    return replace(SandboxLimits(command_s=COMMAND_S), **changed)


def brief_limits() -> SandboxLimits:
    """For commands, and shutdown scripts, that do not end by themselves."""
    return limits(command_s=BRIEF_S, shutdown_s=BRIEF_SHUTDOWN_S)


def python(source: str, *, name: str = "tool") -> str:
    """A command that runs a Python program inside, which may use `sock`, a connection to PID 1's
    question channel, and `syscall`."""
    head = (
        "import array, ctypes, fcntl, os, signal, socket, struct, sys, time\n"
        "syscall = ctypes.CDLL(None, use_errno=True).syscall\n"
        "syscall.restype = ctypes.c_long\n"
        "def channel():\n"
        "    sock = socket.socket(socket.AF_UNIX)\n"
        "    sock.connect(b'\\0qd')\n"
        "    return sock\n"
    )
    return f"cat > /tmp/{name}.py <<'EOF'\n{head}{source}\nEOF\n{PYTHON} /tmp/{name}.py"


@dataclass
class Played:
    """A machine and what it answered, command by command."""

    environment: Environment
    seen: list[Observation] = field(default_factory=list)

    async def run(self, command: str) -> str:
        """The tool result; empty when the machine is down."""
        observation = await self.environment.bash(command, len(self.seen))
        self.seen.append(observation)
        return observation.text or ""

    @property
    def recorded(self) -> list[str]:
        """Kinds of the events in order, without those that every command has."""
        return [e.type for e in self.environment.events if e.type != "command_started"]

    def detail(self, event_type: str, key: str) -> list[object]:
        return [e.detail[key] for e in self.environment.events if e.type == event_type]


def under(played: Played, kit: Kit) -> None:
    """From now on its commands are under the limits of another kit: what is to end by itself is not
    to meet, on a busy machine, the limit that another command is there to meet."""
    assert played.environment._sandbox is not None
    played.environment._sandbox._kit = kit


@asynccontextmanager
async def machine(kit: Kit, warning_on_call: int = 3) -> AsyncIterator[Played]:
    environment = Environment(kit, warning_on_call)
    try:
        await environment.begin()
        yield Played(environment)
    finally:
        await environment.stop()


def children() -> set[int]:
    """Processes that this one has started and not reaped."""
    own = f"/proc/{'self'}/task"
    return {
        int(pid) for task in Path(own).iterdir() for pid in (task / "children").read_text().split()
    }


def descriptors() -> dict[str, str]:
    """Open files of this process by number."""
    found = {}
    for link in Path("/proc/self/fd").iterdir():
        try:
            found[link.name] = str(link.readlink())
        except OSError:
            continue
    return {n: to for n, to in found.items() if not to.startswith("/proc/")}


def processes_with(text: str) -> list[int]:
    """Processes of the whole machine whose command line has it, this one left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != _self():
            try:
                if text.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def _self() -> int:
    return int(Path("/proc/self").readlink().name)


INTERPRETER = sys.executable
