"""The trials of a run that are to be given out, and what becomes of those that were."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from local_shutdown.agent import Task
from local_shutdown.cluster.wire import Trial
from local_shutdown.engines.spec import ModelSpec
from local_shutdown.level import LevelState, missing, state_of
from local_shutdown.record import Settings
from local_shutdown.started import Started
from local_shutdown.store import Store


@dataclass(frozen=True, slots=True)
class Given:
    """A trial that a node has."""

    task: Task
    level: LevelState
    node: str

    def check(self, record: Mapping[str, Any], session: int, starts: set[str]) -> None:
        """An episode that a node says is this one, held against what was asked for.

        Args:
            record: of the episode, its fields checked for their kinds.
            starts: names of the servers that this node was allowed to start.

        Raises:
            ValueError: it is not the one, by the first field that differs.
        """
        extra = record.get("extra", {})
        for name, said, asked in (
            ("model", record["model"], self.task.model),
            ("condition", record["condition"], self.task.condition.id),
            ("trial", record["trial"], self.task.trial),
            ("outcome", record.get("outcome"), None),
            ("factor", extra.get("factor"), self.task.factor),
            ("instructs", extra.get("instructs"), self.task.condition.instructs),
            ("session", extra.get("session"), session),
        ):
            if said != asked:
                raise ValueError(f"{name} is {said!r}, asked for was {asked!r}")
        if extra.get("server") not in starts:
            raise ValueError(f"server {extra.get('server')!r} was never started there")
        if record["events"] is None or record["stop_reason"] is None or not record["messages"]:
            raise ValueError("it was not played: no events, no stop reason or no messages")


class Supply:
    """One model's trials: those that came back first, then what is missing, in the order of a run
    on one machine.

    Args:
        done: ids of finished episodes, see `Store.finished`.
    """

    def __init__(self, spec: ModelSpec, settings: Settings, store: Store, done: Set[str]) -> None:
        self.spec = spec
        self._store = store
        self._back: deque[tuple[Task, LevelState]] = deque()
        levels = [state_of(spec, settings, level, done) for level in settings.levels]
        self._missing = {
            level.of.name: sum(1 for _ in missing(spec, settings, store, done, level))
            for level in levels
        }
        self._fresh = self._tasks(settings, store, done, levels)

    def _tasks(
        self, settings: Settings, store: Store, done: Set[str], levels: list[LevelState]
    ) -> Iterator[tuple[Task, LevelState]]:
        for level in levels:

            def left_out(name: str = level.of.name) -> None:
                self._missing[name] -= 1

            for task in missing(self.spec, settings, store, done, level, left_out):
                self._missing[level.of.name] -= 1
                yield task, level

    @property
    def waiting(self) -> int:
        """Trials that no node has; fewer once cells have seen enough."""
        return sum(self._missing.values()) + len(self._back)

    @property
    def came_back(self) -> int:
        """Of these, those that a node had and lost."""
        return len(self._back)

    def give(self, node: str, count: int, session: int, *, fresh: bool = True) -> list[Given]:
        """Trials for a node, put down as begun: it may begin them before it can say so.

        Args:
            fresh: False gives only what came back.

        Raises:
            CannotRunError: a full disk.
        """
        found: list[Given] = []
        while len(found) < count:
            if self._back:
                task, level = self._back.popleft()
            elif not fresh or (following := next(self._fresh, None)) is None:
                break
            else:
                task, level = following
            found.append(Given(task, level, node))
        self._begin(found, session)
        return found

    def again(self, given: Given, session: int) -> None:
        """The node plays it anew: its engine died."""
        self._begin([given], session)

    def take_back(self, given: Given) -> None:
        """The node is gone, or cannot play it."""
        self._back.append((given.task, given.level))

    def _begin(self, plays: Sequence[Given], session: int) -> None:
        put_down = self._store.begin_all(
            [
                Started(t.episode_id, t.model, t.condition.id, t.trial, t.factor, session)
                for t in (given.task for given in plays)
            ]
        )
        for given, begun in zip(plays, put_down, strict=True):
            if not begun.retry:
                given.level.early.begun(begun.condition, begun.trial, again=begun.again)


def trial_of(given: Given) -> Trial:
    """As a node is told."""
    task = given.task
    return Trial(task.episode_id, task.condition.id, task.trial, given.level.of.name)
