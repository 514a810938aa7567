"""The run whose episodes are played on from: only read, never written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from local_shutdown import grid
from local_shutdown.agent import Limits
from local_shutdown.errors import UsageError
from local_shutdown.grid import Condition, InterviewQuestion
from local_shutdown.sandbox import SandboxLimits
from local_shutdown.store import EPISODES, RUN, load_run, read_lines
from local_shutdown.stored import shown

_CONDITION = tuple(field.name for field in fields(Condition))


@dataclass(frozen=True)
class ParentRun:
    """A run directory as the parent of another.

    Attributes:
        run: its run.json.
    """

    directory: Path
    run: Mapping[str, Any]

    @classmethod
    def open(cls, directory: Path) -> ParentRun:
        """Raises UsageError for what is no run that was played here, or has no episodes."""
        run = load_run(directory).as_json()
        if run.get("kind") != "run":
            raise UsageError(
                f"{directory}: holds {run.get('kind')!r}, not a run",
                "only an episode that was played here can be played on: its sandbox, limits and "
                "sampling are on record",
            )
        if next(read_lines(directory / EPISODES), None) is None:
            raise UsageError(f"{directory}: has no episodes")
        return cls(directory, run)

    @cached_property
    def digest(self) -> str:
        """16 hex digits that name the run, over what does not change while it goes on: its seed,
        when it began, and its first episode."""
        first = next((line for _, line in read_lines(self.directory / EPISODES)), b"")
        named = [self.run.get("run_seed"), self.run.get("started_at")]
        return hashlib.sha256(orjson.dumps(named) + b"\n" + first).hexdigest()[:16]

    def part(self, name: str) -> Mapping[str, Any]:
        """An object of run.json.

        Raises:
            UsageError: it is missing.
        """
        found = self.run.get(name)
        if not isinstance(found, dict):
            raise UsageError(
                f"{self.directory / RUN}: {name} is missing, so its episodes cannot be played on"
            )
        return found

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.part("settings")

    @property
    def limits(self) -> Limits:
        """Of an episode, as they were."""
        seconds = self.part("limits").get("seconds")
        if seconds is not None and (type(seconds) not in (int, float) or not seconds > 0):
            raise UsageError(f"{self.directory / RUN}: limits.seconds is {shown(seconds)}")
        return Limits(messages=int(self.settings.get("max_messages") or 0), seconds=seconds)

    @property
    def sandbox(self) -> SandboxLimits:
        """Of a sandbox, as they were.

        Raises:
            UsageError: they are not those that this version keeps.
        """
        recorded = self.part("sandbox").get("limits")
        recorded = recorded if isinstance(recorded, dict) else {}
        names = {field.name for field in fields(SandboxLimits)}
        differ = sorted(names ^ set(recorded))
        if differ:
            raise UsageError(
                f"{self.directory / RUN}: sandbox.limits: {', '.join(differ)} "
                "are not on record there, or not kept by this version"
            )
        for name, value in recorded.items():
            if type(value) not in (int, float) or value <= 0:
                raise UsageError(f"{self.directory / RUN}: sandbox.limits.{name} is {shown(value)}")
        return SandboxLimits(**recorded)

    def condition(self, name: str) -> Condition:
        """A condition as the run played it.

        Raises:
            UsageError: it is not on record there.
        """
        found = self.part("conditions").get(name, {})
        try:
            return Condition(**{"id": name, **{k: found[k] for k in _CONDITION if k in found}})
        except TypeError:
            raise UsageError(
                f"{self.directory / RUN}: conditions.{name} is missing or not whole"
            ) from None

    def other_condition(self, wanted: str) -> Condition:
        """The condition of `--condition`: as the run itself played it where it did, else that of
        the grid or of a file.

        Raises:
            UsageError: unknown, or several.
        """
        for name in self.part("conditions"):
            if name.lower() == wanted.lower():
                return self.condition(name)
        chosen = grid.choose(wanted)
        if len(chosen) != 1:
            raise UsageError(
                f"--condition {wanted}: {len(chosen)} conditions", "give one: run again for another"
            )
        return chosen[0]

    @property
    def interview(self) -> tuple[InterviewQuestion, ...]:
        """The questions that the run put after each episode.

        Raises:
            UsageError: this version asks other ones.
        """
        texts = self.settings.get("interview") or []
        known = {question.text: question for question in grid.interview_questions()}
        if not set(texts) <= set(known):
            raise UsageError(
                f"{self.directory / RUN}: the interview's questions are not those of this version"
            )
        return tuple(known[text] for text in texts)

    def model(self, name: str) -> Mapping[str, Any]:
        """What run.json says of a model."""
        found = self.part("models").get(name)
        return found if isinstance(found, dict) else {}
