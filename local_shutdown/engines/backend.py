"""What an engine is to the rest of the program: can it run here, what would it start, start it.

One file an engine, and one list of them in `backends`. An engine that starts servers of its own is
a `served.Served`, and then says only two things: why it cannot run here, and which servers a model
gets.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import ClassVar

from local_shutdown.engines.engine import Engine, Options
from local_shutdown.engines.spec import ModelSpec
from local_shutdown.engines.starts import Starts


class Backend(ABC):
    """An engine that models can be played on.

    Attributes:
        name: what `--engine` calls it.
        remedy: what to do where it cannot run.
    """

    name: ClassVar[str]
    remedy: ClassVar[str]

    @abstractmethod
    def unusable(self, base_url: str | None) -> str | None:
        """Why it cannot run here; None when it can.

        Args:
            base_url: of an endpoint, where the user gave one.
        """

    @abstractmethod
    async def check(
        self,
        spec: ModelSpec,
        options: Options,
        say: Callable[[str], None],
        *,
        fetch: bool,
        planned: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Find out what `open` would refuse, before anything is started or written.

        Args:
            fetch: fetch weights that are not here; else only see whether they can be had.
            planned: called with the lines that say what would be started.

        Raises:
            UsageError: a flag or address that is wrong.
            CannotRunError: the model does not fit, or has no weights here, or nobody answers.
        """

    @abstractmethod
    def open(
        self,
        spec: ModelSpec,
        options: Options,
        directory: Path,
        say: Callable[[str], None],
        starts: Starts | None,
    ) -> AbstractAsyncContextManager[Engine]:
        """Serve a model until the end of the context, whatever happens in between.

        Args:
            directory: of the run, for logs and pid files.
            starts: gives each start of a server its seed; without it they are drawn.

        Raises:
            EngineUnavailable: it does not start, or nobody answers.
            CannotRunError: the model does not fit, or has no weights here.
        """
