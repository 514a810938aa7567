"""The plan of a branched run: its points, and the continuations of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local_shutdown.agent import Task
from local_shutdown.branch.edit import Edit
from local_shutdown.branch.select import Picked, Place, Selection
from local_shutdown.branch.source import ParentRun
from local_shutdown.errors import UsageError
from local_shutdown.grid import Condition
from local_shutdown.parent import Parent, plain_factor
from local_shutdown.prefix import Prefix
from local_shutdown.sandbox import SandboxLimits


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a stored episode, from which others are played.

    Attributes:
        condition: whose prompts the model is shown.
        level: the levels of factors that the parent was played at, see `factors`.
        factor: what the cell of its continuations is called, see `parent.Parent.label`.
    """

    model: str
    condition: Condition
    level: str | None
    factor: str
    prefix: Prefix

    def task(self, number: int) -> Task:
        """One continuation.

        Args:
            number: counted from 0.
        """
        name = continuation_id(self.prefix.parent.point, number)
        return Task(name, self.model, self.condition, number, self.factor, self.prefix)


def continuation_id(point: str, number: int) -> str:
    """Id of a continuation.

    Args:
        point: see `parent.Parent.point`.
    """
    return f"{point}/{number}"


@dataclass(frozen=True, slots=True)
class Branch:
    """What a branched run is made of, beside the settings that it shares with every run.

    Attributes:
        source: the parent's directory.
        run: its digest.
        selection: what was asked for.
        points: what came of it.
        sandbox: limits of each sandbox, the parent's.
        recorded: what the parent's run.json says of its models, by name.
        condition: whose prompts are shown in place of the parent's; None for its own.
        edit: replaces a message.
        allow_different: play on a model, engine or sampling that is not the recorded one.
        skipped: episodes that cannot be brought back to their point, and why.
        ignore_times: see `Prefix`.
    """

    source: Path
    run: str
    selection: Selection
    points: Sequence[Point]
    sandbox: SandboxLimits
    recorded: Mapping[str, Mapping[str, Any]]
    condition: Condition | None = None
    edit: Edit | None = None
    allow_different: bool = False
    skipped: Mapping[str, str] = field(default_factory=dict)
    ignore_times: bool = False

    def identity(self) -> dict[str, Any]:
        """What must be the same for two calls to be one run."""
        return {
            "run": self.run,
            "ignore_times": self.ignore_times,
            "selection": self.selection.as_dict(),
            "condition": None if self.condition is None else self.condition.id,
            "edit": None if self.edit is None else self.edit.sha256,
            "points": [
                [parent.episode, parent.message]
                if parent.sentence is None
                else [parent.episode, parent.message, parent.sentence]
                for parent in (point.prefix.parent for point in self.points)
            ],
        }

    def about(self) -> dict[str, Any]:
        """What run.json says besides."""
        edit = self.edit
        return {
            "directory": str(self.source),
            "allow_different": self.allow_different,
            "skipped": dict(self.skipped),
            "edit": None if edit is None else {"message": edit.message, "content": edit.content},
        }

    def tasks(self, model: str, level: str | None, trials: int) -> Iterator[Task]:
        """All continuations of one model at one level: one of every point after the other, so that
        a run that is ended early has about as many of each."""
        own = [point for point in self.points if (point.model, point.level) == (model, level)]
        for number in range(trials):
            for point in own:
                yield point.task(number)


def points_of(
    run: ParentRun, picked: Iterable[Picked], condition: Condition | None, edit: Edit | None
) -> list[Point]:
    """The points, with all that is needed to play from them.

    Raises:
        UsageError: an edit that is not before its point, or of a transcript that was edited before;
            an episode that the run cannot have played.
    """
    found: list[Point] = []
    for one in picked:
        for place in one.places:
            found.append(_point(run, one, place, condition, edit))
    return found


def _point(
    run: ParentRun, picked: Picked, place: Place, condition: Condition | None, edit: Edit | None
) -> Point:
    episode, (message, sentence) = picked.episode, place
    if episode.parent is not None and episode.parent.edit is not None:
        raise UsageError(
            f"{episode.episode_id}: a message of it was replaced by an edit, so its tool results "
            "are not all those of its commands",
            "branch from the episode that it was itself played from",
        )
    run.require_played(episode)
    own = run.condition(episode.condition)
    prompts = [(m["role"], m.get("content")) for m in episode.messages[:2]]
    if prompts != [("system", own.system), ("user", own.user)]:
        raise UsageError(
            f"{run.directory}: {episode.episode_id}: its prompts are not those of condition "
            f"{own.id} in run.json",
            "the record or run.json was changed since it was played",
        )
    replaced: dict[int, str] = {}
    if condition is not None:
        replaced = {0: condition.system, 1: condition.user}
    if edit is not None:
        replaced[edit.at(episode, message)] = edit.content
    parent = Parent(
        run=run.digest,
        episode=episode.episode_id,
        message=message,
        sentence=sentence,
        condition=None if condition is None else condition.id,
        edit=None if edit is None else edit.sha256,
    )
    factor = plain_factor(episode.extra.get("factor"))
    shown = condition or own
    return Point(
        model=episode.model,
        condition=shown,
        level=factor,
        factor=parent.label(factor, model=episode.model),
        prefix=Prefix(
            parent=parent,
            messages=episode.messages[:message],
            events=[event for event in episode.events or () if event.message < message],
            shown=replaced,
            answer=None if sentence is None else episode.messages[message],
            other_warning=shown.warning_on_call != own.warning_on_call,
        ),
    )
