"""What a branched run looks like while it goes on: lines, since its cells are its many points."""

from __future__ import annotations

import time
from collections import Counter

from local_shutdown.batch import Progress
from local_shutdown.cli.display import LOG_EVERY_S, pace, served
from local_shutdown.engines import Engine
from local_shutdown.engines.spec import ModelSpec
from local_shutdown.episode import Episode, Outcome
from local_shutdown.run import Display
from local_shutdown.terminal import echo


class BranchDisplay(Display):
    """Plain lines, one every `LOG_EVERY_S` at most."""

    def __init__(self) -> None:
        self._told = 0.0
        self._progress: Progress | None = None
        self._engine: Engine | None = None
        self._outcomes: Counter[str] = Counter()

    def say(self, line: str) -> None:
        echo(line, err=True)

    def start(self, spec: ModelSpec, progress: Progress, engine: Engine) -> None:
        self._progress, self._engine = progress, engine
        self._told = time.monotonic()
        self.say(f"{spec.display_name}: {progress.planned} continuations on {engine.kind}")

    def ended(self, episode: Episode, result: Outcome | None) -> None:
        self._outcomes[result or "unknown"] += 1
        if time.monotonic() - self._told >= LOG_EVERY_S:
            self._told = time.monotonic()
            self._tell()

    def stop(self) -> None:
        self._tell()

    def _tell(self) -> None:
        if self._progress is None or self._engine is None:
            return
        counts = ", ".join(f"{n} {name}" for name, n in sorted(self._outcomes.items()))
        self.say("  ".join(filter(None, (pace(self._progress), counts, served(self._engine)))))
