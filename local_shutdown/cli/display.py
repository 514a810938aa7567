"""What a run looks like: a live table on a terminal, plain lines in a log."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from local_shutdown.analysis.compare import percent
from local_shutdown.analysis.stats import jeffreys
from local_shutdown.batch import Progress
from local_shutdown.engines import Engine
from local_shutdown.engines.spec import ModelSpec
from local_shutdown.episode import COUNTED, OUTCOMES, Episode
from local_shutdown.run import Display

LOG_EVERY_S = 15.0


class _Counts:
    """Outcomes per condition of this session; the table at the end has all that is on disk."""

    def __init__(self, conditions: Sequence[str]) -> None:
        self.cells: dict[str, dict[str | None, int]] = {c: {} for c in conditions}

    def add(self, condition: str, result: str | None) -> None:
        cell = self.cells.setdefault(condition, {})
        cell[result] = cell.get(result, 0) + 1

    def rate(self, condition: str) -> tuple[int, int, str]:
        """(resisted, counted, rate with interval in words)."""
        cell = self.cells[condition]
        resisted, n = cell.get("resisted", 0), sum(cell.get(name, 0) for name in COUNTED)
        if not n:
            return 0, 0, "-"
        low, high = jeffreys(resisted, n)
        return resisted, n, f"{percent(resisted / n)} ({percent(low)}-{percent(high)})"


def pace(progress: Progress) -> str:
    """One line: how far, how fast, how long yet."""
    elapsed = progress.elapsed_s
    rate = progress.finished / elapsed
    left = progress.planned - progress.finished
    parts = [
        f"{progress.finished}/{progress.planned}",
        f"{rate:.1f} episodes/s",
        f"{progress.completion_tokens / elapsed:.0f} tok/s",
        f"{progress.in_flight} in flight",
    ]
    if rate and left:
        parts.append(f"{_duration(left / rate)} left")
    if progress.errors:
        parts.append(f"{progress.errors} errors")
    if progress.parser_loss:
        parts.append(f"{progress.parser_loss} unparsed calls")
    if progress.rerun:
        parts.append(f"{progress.rerun} run again")
    return "  ".join(parts)


def served(engine: Engine) -> str:
    """What the servers say of themselves; empty where they say nothing."""
    reading = engine.reading
    if reading is None or reading.running is None:
        return ""
    parts = [f"server: {reading.running:.0f} running"]
    if reading.waiting is not None:
        parts.append(f"{reading.waiting:.0f} waiting")
    if reading.kv_usage is not None:
        parts.append(f"cache {100 * reading.kv_usage:.0f}%")
    hits = engine.metrics().get("prefix_hit_rate")
    if hits is not None:
        parts.append(f"prefix hits {100 * hits:.0f}%")
    if engine.tokens_per_s is not None:
        parts.append(f"{engine.tokens_per_s:.0f} tok/s")
    return "  ".join(parts)


def _duration(seconds: float) -> str:
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}h{m:02d}m" if hours else f"{m}m{s:02d}s" if m else f"{s}s"


class LogDisplay(Display):
    """Plain lines, one every `LOG_EVERY_S` at most; no control codes."""

    def __init__(self, conditions: Mapping[str, str], trials: int) -> None:
        self._conditions = list(conditions)
        self._told = 0.0
        self._progress: Progress | None = None
        self._engine: Engine | None = None
        self._counts = _Counts(self._conditions)

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def start(self, spec: ModelSpec, progress: Progress, engine: Engine) -> None:
        self._progress, self._engine = progress, engine
        self._counts = _Counts(self._conditions)
        self._told = time.monotonic()
        self.say(f"{spec.display_name}: {progress.planned} episodes on {engine.kind}")

    def ended(self, episode: Episode, result: str | None) -> None:
        self._counts.add(episode.condition, result)
        if time.monotonic() - self._told >= LOG_EVERY_S:
            self._told = time.monotonic()
            self._tell()

    def _tell(self) -> None:
        assert self._progress is not None
        said = served(self._engine) if self._engine is not None else ""
        self.say(pace(self._progress) + (f"  ({said})" if said else ""))

    def stop(self) -> None:
        if self._progress is not None:
            self._tell()
            self._progress = None


class LiveDisplay(LogDisplay):
    """A table that is redrawn four times a second, whatever the episodes' pace."""

    def __init__(self, conditions: Mapping[str, str], trials: int) -> None:
        super().__init__(conditions, trials)
        self._titles = conditions
        self._trials = trials
        self._console = Console(stderr=True, highlight=False)
        self._live: Live | None = None
        self._name = ""

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)

    def start(self, spec: ModelSpec, progress: Progress, engine: Engine) -> None:
        super().start(spec, progress, engine)
        self._name = spec.display_name
        self._live = Live(
            get_renderable=self._draw,
            console=self._console,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def ended(self, episode: Episode, result: str | None) -> None:
        self._counts.add(episode.condition, result)

    def stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        super().stop()

    def _draw(self) -> RenderableType:
        progress = self._progress
        if progress is None:
            return Text("")
        table = Table(box=None, pad_edge=False, padding=(0, 1))
        table.add_column("", no_wrap=True)
        table.add_column("done", justify="right", no_wrap=True)
        table.add_column("resisted % (95%)", justify="right", no_wrap=True)
        table.add_column("limit", justify="right", no_wrap=True)
        table.add_column("error", justify="right", no_wrap=True)
        wide = self._console.width >= 100
        if wide:
            table.add_column("condition", no_wrap=True, overflow="ellipsis", style="dim")
        room = max(3, self._console.height - 7)
        names = list(self._counts.cells)
        for name in names[:room]:
            cell = self._counts.cells[name]
            _, _, rate = self._counts.rate(name)
            row = [
                name,
                str(sum(cell.get(o, 0) for o in OUTCOMES)),
                rate,
                str(cell.get("limit", 0) or ""),
                str(cell.get("error", 0) or ""),
            ]
            table.add_row(*row, *([self._titles.get(name, "")] if wide else []))
        lines: list[RenderableType] = [Text(self._name, style="bold"), table]
        if len(names) > room:
            lines.append(Text(f"... {len(names) - room} more conditions", style="dim"))
        done = progress.finished / max(progress.planned, 1)
        width = max(10, min(40, self._console.width - 2))
        full = int(done * width)
        lines.append(Text("█" * full + "░" * (width - full) + f" {100 * done:.0f}%"))
        lines.append(Text(pace(progress), no_wrap=True, overflow="ellipsis"))
        said = served(self._engine) if self._engine is not None else ""
        if said:
            lines.append(Text(said, style="dim", no_wrap=True, overflow="ellipsis"))
        return Group(*lines)


def for_this_terminal(conditions: Mapping[str, str], trials: int) -> Display:
    """A live table where standard error is a terminal that can move its cursor."""
    live = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    return (LiveDisplay if live else LogDisplay)(conditions, trials)
