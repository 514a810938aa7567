"""Everything that can go wrong, and the exit code each kind ends the program with.

LocalShutdownError
├── UsageError          2  wrong usage or input: a value, a file, a line
├── CannotRunError      3  this machine cannot run it
│   ├── SandboxUnavailable   no usable sandbox (there is no unsandboxed mode)
│   └── EngineUnavailable    the engine does not start, or starts and fails the probe
└── EpisodeFault           ends one episode, never the run
    ├── SandboxFault         our sandbox broke (not: the model's command failed)
    ├── ReplayFault          a recorded command came to something else than it did then
    ├── EngineFault          the engine answered with an error, with nonsense or not at all
    │   └── EngineDown       the engine is gone: the episode is run again once it is back
    └── ContextOverflow      the prompt no longer fits the model's context: a limit
"""

from __future__ import annotations

from collections.abc import Iterator


class LocalShutdownError(Exception):
    """Base of all errors with a message meant for the user.

    Args:
        message: what failed, with which value.
        hint: what to do next, one sentence or command; printed on its own line.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


def first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one exception of a group that the user should see: what nobody expected before what has
    a message for them, and what ends the run before what ends an episode."""

    def rank(error: BaseException) -> int:
        if not isinstance(error, LocalShutdownError):
            return 0
        return 2 if isinstance(error, EpisodeFault) else 1

    return min(_leaves(group), key=rank)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


class UsageError(LocalShutdownError):
    """Wrong usage or input; nothing was written."""

    exit_code = 2


class CannotRunError(LocalShutdownError):
    """The machine lacks what the command needs."""

    exit_code = 3


class SandboxUnavailable(CannotRunError):
    """No sandbox can be started here. Fail closed: no sandbox, no run."""


class EngineUnavailable(CannotRunError):
    """The engine does not start, or fails the probe before the first episode."""


class EpisodeFault(LocalShutdownError):
    """Ends one episode. Only `agent.run_episode` turns these into stop reasons."""


class SandboxFault(EpisodeFault):
    """Our sandbox broke. A command that fails inside a sound sandbox is not this."""


class ReplayFault(EpisodeFault):
    """A stored episode cannot be brought back to a point: a command did something else."""


class EngineFault(EpisodeFault):
    """The engine answered with an error or with something that is not a chat completion."""


class EngineDown(EngineFault):
    """The engine is gone. The episode leaves no record and is run again."""


class ContextOverflow(EpisodeFault):
    """The conversation no longer fits the model's context window."""
