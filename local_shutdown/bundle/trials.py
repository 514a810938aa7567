"""Every trial that was planned, once: the plan of run.json against what is on disk and was begun.

The plan is models x factors x conditions x trials (`runs.planned_ids`). Besides it there are three
tellings of what was played, written at different times: started.jsonl (before a play), the episode
itself (after it, with its session) and the sessions of run.json (counts, at the end of a call of
`run`). An episode that is taken out, put in or renumbered is missing in one of the others.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from local_shutdown import runs
from local_shutdown.batch import episode_id
from local_shutdown.detectors import Row
from local_shutdown.episode import Episode
from local_shutdown.store import STARTED, finished_ids, read_started

_SLACK = timedelta(minutes=2)  # a clock may be set meanwhile
_SHARD = re.compile(r"\d{1,6}/\d{1,6}")
_Sitting = tuple[str, str | None, int]  # model, factor, session


@dataclass(frozen=True, slots=True)
class Account:
    """How far a run got, as a bundle states it.

    Attributes:
        planned: trials of its settings.
        on_disk: of these, with an episode.
        unfinished: begun, or with a later number of their cell on disk, and without an episode.
        not_begun: the others; a rule may have stopped their cell.
    """

    planned: int
    on_disk: int
    unfinished: int
    not_begun: int

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


class TooLarge(ValueError):
    """A plan of more trials than anybody plays."""


def planned(run: Mapping[str, Any]) -> list[str]:
    """Ids of the plan.

    Raises:
        TooLarge: it would not fit into memory.
    """
    settings = run.get("settings") or {}
    if runs.planned(settings).episodes > runs.MOST_PLANNED:
        raise TooLarge(f"its settings ask for more than {runs.MOST_PLANNED:,} trials")
    return list(runs.planned_ids(settings))


def account(directory: Path, run: Mapping[str, Any]) -> Account:
    """How far the run of a directory got.

    Raises:
        TooLarge, UsageError: settings or files that nobody wrote on purpose.
    """
    begun = {started.episode_id for started in read_started(directory)}
    return _account(planned(run), finished_ids(directory), begun)


def _account(plan: list[str], done: set[str], begun: set[str]) -> Account:
    missing = _unfinished(plan, done, begun)
    on_disk = sum(name in done for name in plan)
    return Account(len(plan), on_disk, len(missing), len(plan) - on_disk - len(missing))


def _unfinished(plan: list[str], done: set[str], begun: set[str]) -> list[str]:
    """A cell's trials begin in the order of their numbers: those below the last are begun."""
    last: dict[str, int] = {}
    for name in plan:
        cell, _, trial = name.rpartition("/")
        if name in done:
            last[cell] = max(last.get(cell, -1), int(trial))
    missing = []
    for name in plan:
        cell, _, trial = name.rpartition("/")
        if name not in done and (name in begun or int(trial) < last.get(cell, -1)):
            missing.append(name)
    return missing


@dataclass(slots=True)
class Ledger:
    """Filled episode by episode, in the order of the file; then `wrong` says what does not follow.

    Attributes:
        run: run.json.
        wrong_lines: found on the way, in words.
    """

    run: Mapping[str, Any]
    done: set[str] = field(default_factory=set)
    wrong_lines: list[str] = field(default_factory=list)
    _records: Counter[str] = field(default_factory=Counter)
    _sessions: dict[str, list[int]] = field(default_factory=dict)
    _played: Counter[_Sitting] = field(default_factory=Counter)
    _errors: Counter[_Sitting] = field(default_factory=Counter)
    _copies: dict[int, str] = field(default_factory=dict)
    _unsigned: int = 0  # records that do not say their session (of an older version)

    def add(self, episode: Episode, row: Row, superseded: bool) -> None:
        """One more record of episodes.jsonl."""
        name, factor = episode.episode_id, row.factor
        self.done.add(name)
        self._records[name] += 1
        own = episode_id(episode.model, episode.condition, episode.trial, factor)
        if name != own:
            self.wrong_lines.append(f"{name} is trial {own} by its own fields")
        if superseded and row.outcome != "error":
            self.wrong_lines.append(
                f"{name} stands there twice, and the first record is {row.outcome}, not an error"
            )
        if row.session is None:
            self._unsigned += 1
        else:
            self._sessions.setdefault(name, []).append(row.session)
            sitting = (episode.model, factor, row.session)
            self._played[sitting] += 1
            self._errors[sitting] += episode.stop_reason == "error"
            self._server(name, row)
        self._copy(episode)
        try:
            self._within(episode)
        except (TypeError, ValueError):  # no time, or none that says of which zone it is
            self.wrong_lines.append(f"{name}: its time or that of its run cannot be read")

    def _within(self, episode: Episode) -> None:
        """An episode begins while its run is going on; where one clock has seen both."""
        run = self.run
        if episode.started_at is None or run.get("nodes") or run.get("merged"):
            return
        began, first, last = (
            None if text is None else datetime.fromisoformat(text)
            for text in (episode.started_at, run.get("started_at"), run.get("ended_at"))
        )
        assert began is not None
        for wrong, which in (
            (first is not None and began < first - _SLACK, "before its run was started"),
            (last is not None and began > last + _SLACK, "after its run had ended"),
        ):
            if wrong:
                self.wrong_lines.append(f"{episode.episode_id} began at {began}, {which}")

    def _server(self, name: str, row: Row) -> None:
        known = self.run.get("server_starts")
        # Of a shard, its number is in front.
        shard, _, name = (row.server or "").rpartition(":")
        ours = not shard or _SHARD.fullmatch(shard)
        if (ours and name == f"{row.session}.endpoint") or (
            isinstance(known, Mapping) and row.server in known
        ):
            return
        self.wrong_lines.append(
            f"{name} was answered by {row.server}, which run.json does not know"
        )

    def _copy(self, episode: Episode) -> None:
        """No two plays begin in the same millisecond and have their events at the same moments."""
        if len(episode.events or ()) < 3:
            return
        moments = (episode.started_at, episode.duration_s, *(e.t_s for e in episode.events or ()))
        twin = self._copies.setdefault(hash(moments), episode.episode_id)
        if twin != episode.episode_id:
            self.wrong_lines.append(f"{episode.episode_id} is a copy of {twin}: the same moments")

    def wrong(self, directory: Path, stated: Mapping[str, Any]) -> Iterator[str]:
        """What does not follow, in words.

        Args:
            stated: the account of the bundle.

        Raises:
            TooLarge, UsageError: settings or files that nobody wrote on purpose.
        """
        yield from self.wrong_lines
        plan = planned(self.run)
        begun: dict[str, list[int]] = {}
        retries: Counter[str] = Counter()
        for started in read_started(directory):
            begun.setdefault(started.episode_id, []).append(started.session)
            retries[started.episode_id] += started.retry
        in_plan = set(plan)
        yield from (f"{name} is in no trial of the plan" for name in sorted(self.done - in_plan))
        yield from (
            f"{STARTED}: {name} is in no trial of the plan"
            for name in sorted(begun.keys() - in_plan)
        )
        for name, records in self._records.items():
            if records > 1 + retries[name]:
                yield f"{name} stands there {records} times"
        if (directory / STARTED).exists():
            yield from self._begun(begun)
        yield from self._counts()
        found = _account(plan, self.done, set(begun)).as_dict()
        if found != dict(stated):
            yield from self._missing(plan, set(begun), found, stated)

    def _begun(self, begun: Mapping[str, list[int]]) -> Iterator[str]:
        for name in self.done - begun.keys():
            yield f"{name} was never started, says {STARTED}"
        for name, sessions in self._sessions.items():
            strange = [s for s in sessions if name in begun and s not in begun[name]]
            if strange:
                yield f"{name} is of session {strange[0]}, {STARTED} has it in {begun[name]}"

    def _counts(self) -> Iterator[str]:
        """Against what each call of `run` counted at its end."""
        told: Counter[_Sitting] = Counter()
        errors: Counter[_Sitting] = Counter()
        for model, facts in (self.run.get("models") or {}).items():
            for one in facts.get("sessions") or () if isinstance(facts, Mapping) else ():
                if isinstance(one, Mapping) and isinstance(one.get("session"), int):
                    sitting = (str(model), one.get("factor"), one["session"])
                    told[sitting] += _count(one.get("episodes"))
                    errors[sitting] += _count(one.get("errors"))
        if self._unsigned:
            return
        for sitting, count in told.items():
            model, factor, session = sitting
            where = f"session {session} of {model}{f' at {factor}' if factor else ''}"
            if self._played[sitting] != count:
                yield f"{where} played {count} episodes, {self._played[sitting]} are there"
            elif self._errors[sitting] != errors[sitting]:
                yield f"{where} had {errors[sitting]} errors, {self._errors[sitting]} are there"

    def _missing(
        self,
        plan: list[str],
        begun: set[str],
        found: Mapping[str, int],
        stated: Mapping[str, Any],
    ) -> Iterator[str]:
        for name, count in found.items():
            if stated.get(name) != count:
                yield f"{name.replace('_', ' ')}: {count}, the bundle states {stated.get(name)}"
        missing = _unfinished(plan, self.done, begun) or [n for n in plan if n not in self.done]
        if missing and found["on_disk"] != stated.get("on_disk"):
            yield f"missing: {', '.join(missing[:5])}"


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
