"""What a run looks like: a live table on a terminal, plain lines in a log."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.cells import cell_len, set_cell_size

from local_shutdown.analysis.stop_rule import StopRule
from local_shutdown.analysis.stopping import weight_for
from local_shutdown.batch import Progress
from local_shutdown.cli.counts import (
    BrokenOff,
    Counts,
    Earlier,
    broken_off,
    on_disk,
    weight_of,
)
from local_shutdown.cli.painter import Painter
from local_shutdown.engines import Engine
from local_shutdown.engines.spec import ModelSpec
from local_shutdown.episode import Episode, Outcome
from local_shutdown.run import Display
from local_shutdown.shard import WHOLE, Shard
from local_shutdown.terminal import clean, echo

LOG_EVERY_S = 15.0
_NAME_COLUMNS = 10  # of a condition's id


def pace(progress: Progress) -> str:
    """How far, how fast, how long yet; for a log."""
    return "  ".join([*_far(progress), *_fast(progress)])


def _far(progress: Progress) -> list[str]:
    parts = [f"{progress.finished}/{progress.planned}"]
    rate = progress.finished / progress.elapsed_s
    left = progress.planned - progress.finished
    if rate and left > 0:
        parts.append(f"{_duration(left / rate)} left")
    return parts


def _fast(progress: Progress) -> list[str]:
    elapsed = progress.elapsed_s
    parts = [
        f"{progress.finished / elapsed:.1f} episodes/s",
        f"{progress.completion_tokens / elapsed:.0f} tok/s",
        f"{progress.in_flight} in flight",
        f"{progress.errors} errors",
    ]
    if progress.parser_loss:
        parts.append(f"{progress.parser_loss} unparsed")
    if progress.rerun:
        parts.append(f"{progress.rerun} run again")
    return parts


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
    """Plain lines, one every `LOG_EVERY_S` at most; no control codes.

    Args:
        conditions: id -> title.
        trials: asked for, per model and condition.
        earlier: what is on disk already, and the trials of which a play was broken off; asked for
            before anything is played, and not at all where nothing is.
        weight: see `Counts`; by default, by the trials.
        shard: the part of the trials that is played here.
        overall: a line on all of the runs that this is one of, from the number of episodes that
            have finished in this one; None where it is the only one.
    """

    def __init__(
        self,
        conditions: Mapping[str, str],
        trials: int,
        earlier: Callable[[], tuple[Earlier, BrokenOff]] = lambda: ({}, {}),
        weight: float | None = None,
        shard: Shard = WHOLE,
        overall: Callable[[int], str] | None = None,
    ) -> None:
        self._overall = overall
        self._finished = 0  # of the levels before this one
        self._titles = conditions
        self._trials = trials
        self._ask_earlier = earlier
        self._earlier: tuple[Earlier, BrokenOff] | None = None
        self._shard = shard
        own = len(shard.trials(trials))
        self._weight = weight_for(trials=own) if weight is None else weight
        self._told = 0.0
        self._progress: Progress | None = None
        self._engine: Engine | None = None
        self._counts = self._new_counts()
        self._fresh = True

    def _new_counts(self) -> Counts:
        return Counts(list(self._titles), self._trials, self._weight, self._shard)

    def say(self, line: str) -> None:
        echo(line, err=True)

    def prepare(self) -> None:
        if self._earlier is None:
            self._earlier = self._ask_earlier()

    def start(self, spec: ModelSpec, progress: Progress, engine: Engine) -> None:
        self.prepare()
        self._progress, self._engine = progress, engine
        self._counts, self._fresh = self._new_counts(), True
        self._told = time.monotonic()
        self.say(f"{spec.display_name}: {progress.planned} episodes on {engine.kind}")

    def ended(self, episode: Episode, result: Outcome | None) -> None:
        self._count(episode, result)
        if time.monotonic() - self._told >= LOG_EVERY_S:
            self._told = time.monotonic()
            self._tell()

    def _count(self, episode: Episode, result: Outcome | None) -> None:
        if self._fresh:  # only now is it known at which effort this model is being played
            self._fresh = False
            assert self._earlier is not None
            earlier, broken = self._earlier
            key = episode.model, episode.extra.get("factor")
            for condition, trials in broken.get(key, {}).items():
                self._counts.break_off(condition, trials)
            before = earlier.get(key, {})
            for condition, outcomes in before.items():
                if condition in self._titles:
                    for trial, outcome in outcomes.items():
                        self._counts.add(condition, trial, outcome)
        self._counts.add(episode.condition, episode.trial, result)

    def _tell(self) -> None:
        self._tell_pace()
        leading = {name: self._counts.leading(name) for name in self._counts.cells}
        rates = [f"{name} {k}/{n}" for name, (k, n) in leading.items() if n]
        if rates:
            self.say(f"  resisted, of the trials before the first unfinished: {', '.join(rates)}")

    def stop(self) -> None:
        if self._progress is not None:
            self._tell_pace()  # the rates follow in a table
            self._finished += self._progress.finished
            self._progress = None

    def _tell_pace(self) -> None:
        assert self._progress is not None
        said = served(self._engine) if self._engine is not None else ""
        self.say(pace(self._progress) + (f"  ({said})" if said else ""))
        if self._overall is not None:
            self.say(self._overall(self._finished + self._progress.finished))


class LiveDisplay(LogDisplay):
    """A table that is painted four times a second, whatever the episodes' pace."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._painter = Painter(sys.stderr, self._draw)
        self._name = ""
        self._styled = not os.environ.get("NO_COLOR")

    def say(self, line: str) -> None:
        self._painter.say(line)

    def start(self, spec: ModelSpec, progress: Progress, engine: Engine) -> None:
        super().start(spec, progress, engine)
        self._name = _one_line(spec.display_name)
        self._painter.start()

    def ended(self, episode: Episode, result: Outcome | None) -> None:
        self._count(episode, result)

    def stop(self) -> None:
        if self._progress is not None:
            self._painter.stop()
        super().stop()

    def _draw(self, columns: int, rows: int) -> list[str]:
        progress = self._progress
        if progress is None:
            return []
        said = served(self._engine) if self._engine is not None else ""
        below = [self._bar(progress, columns), "  ".join(_fast(progress))]
        if self._overall is not None:
            below.append(_one_line(self._overall(self._finished + progress.finished)))
        below += [self._style("2", said)] if said else []
        room = rows - len(below) - 2
        names = list(self._counts.cells)
        if len(names) > room:
            shown = max(room - 1, 0)
            more = [self._style("2", f"... {len(names) - shown} more conditions")]
            names = names[:shown]
        else:
            more = []
        wide = max([4, *(cell_len(_one_line(name)) for name in self._counts.cells)])
        wide = min(wide, _NAME_COLUMNS)
        head = f"{'':<{wide}} {'done':>{self._counts.width}}  {'resisted % (95%)':>19}"
        head += f"  {'early':>5}  {'limit':>5}  {'error':>5}"
        table = [self._style("2", head), *(self._row(name, wide, columns) for name in names), *more]
        return [self._style("1", self._name), *table, *below]

    def _row(self, name: str, wide: int, columns: int) -> str:
        cell = self._counts.cells[name]
        asked, rate = self._counts.done(name), self._counts.rate(name)
        line = f"{_fit(name, wide)} {asked:>{self._counts.width}}  {rate:>19}"
        for outcome in ("ended_early", "limit", "error"):
            line += f"  {cell[outcome] or '':>5}"
        title = self._titles.get(name, "")
        if columns - cell_len(line) > 12 and title:
            line += "   " + self._style("2", _one_line(title))
        return line

    def _bar(self, progress: Progress, columns: int) -> str:
        done = min(1.0, progress.finished / max(progress.planned, 1))
        said = f" {100 * done:3.0f}%  " + "  ".join(_far(progress))
        width = max(4, min(40, columns - len(said)))
        full = int(done * width)
        solid, empty = ("█", "░") if _unicode() else ("#", "-")
        return self._style("36", solid * full) + empty * (width - full) + said

    def _style(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._styled and text else text


def _one_line(text: str) -> str:
    """Names and messages of engines are data: nothing in them moves the cursor."""
    return clean(text).replace("\n", " | ")


def _fit(text: str, width: int) -> str:
    text = _one_line(text)
    return (
        set_cell_size(text, width)
        if cell_len(text) <= width
        else (set_cell_size(text, width - 1) + "…")
    )


def _unicode() -> bool:
    return "utf" in (getattr(sys.stderr, "encoding", None) or "").lower()


def for_this_terminal(
    conditions: Mapping[str, str],
    trials: int,
    out: Path | None = None,
    rule: StopRule | None = None,
    shard: Shard = WHOLE,
    overall: Callable[[int], str] | None = None,
) -> Display:
    """A live table where standard error is a terminal that can move its cursor.

    Args:
        conditions: id -> title.
        trials: asked for, per model and condition.
        out: the run directory, whose finished episodes are counted, too.
        rule: when a cell has seen enough.
        shard: the part of the trials that is played here.
        overall: see `LogDisplay`.
    """
    live = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"

    def earlier() -> tuple[Earlier, BrokenOff]:
        if out is None or not out.is_dir():
            return {}, {}
        there = on_disk(out)
        return there, broken_off(out, there)

    kind = LiveDisplay if live else LogDisplay
    own = len(shard.trials(trials))
    weight = weight_of(out, own, rule) if out is not None else None
    return kind(conditions, trials, earlier, weight, shard, overall)
