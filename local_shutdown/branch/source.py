"""The run whose episodes are played on from: only read, never written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from local_shutdown import engines, grid
from local_shutdown.agent import Limits
from local_shutdown.episode import Episode
from local_shutdown.errors import UsageError
from local_shutdown.factors import crossed
from local_shutdown.grid import Condition, InterviewQuestion
from local_shutdown.parent import plain_factor
from local_shutdown.sandbox import SandboxLimits
from local_shutdown.store import EPISODES, RUN, load_run, read_lines, run_digest
from local_shutdown.stored import MAX_INTEGER, shown

_Between = Annotated[float, Field(ge=0, le=1)]


class _Sampling(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    temperature: Annotated[float, Field(ge=0, le=5)] | None = None
    top_p: _Between | None = None
    top_k: int | None = None
    min_p: _Between | None = None


def _engine(name: str) -> str:
    if name not in engines.names():
        raise ValueError(f"not one of {', '.join(engines.names())}")
    return name


class _Given(BaseModel):
    """Of a run's settings what continuations take over, within the bounds of the options of
    `run`."""

    model_config = ConfigDict(extra="allow", strict=True)
    engine: Annotated[str, AfterValidator(_engine)]
    max_messages: Annotated[int, Field(ge=4, le=MAX_INTEGER)]
    max_tokens: Annotated[int, Field(ge=1, le=MAX_INTEGER)] | None = None
    thinking_budget: Annotated[int, Field(ge=0, le=MAX_INTEGER)] | None = None
    sampling: _Sampling | None = None
    temperatures: list[Annotated[float, Field(ge=0, le=5)]] | None = None


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
        """See `store.run_digest`."""
        return run_digest(self.directory, self.run)

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

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """What the run was asked for.

        Raises:
            UsageError: a value that no run can have been given; by field.
        """
        found = self.part("settings")
        try:
            _Given.model_validate(found)
        except ValidationError as failed:
            first = failed.errors()[0]
            where = ".".join(str(part) for part in ("settings", *first["loc"]))
            missing = first["type"] == "missing"
            raise UsageError(
                f"{self.directory / RUN}: {where} is "
                + ("missing" if missing else f"{shown(first['input'])}: {first['msg']}")
                + ", so its episodes cannot be played on"
            ) from None
        return found

    @property
    def limits(self) -> Limits:
        """Of an episode, as they were."""
        seconds = self.part("limits").get("seconds")
        if seconds is not None and (type(seconds) not in (int, float) or not seconds > 0):
            raise UsageError(f"{self.directory / RUN}: limits.seconds is {shown(seconds)}")
        return Limits(messages=self.settings["max_messages"], seconds=seconds)

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
        for field in fields(SandboxLimits):
            value = recorded[field.name]
            kinds = (int, float) if field.type == "float" else (int,)
            if type(value) not in kinds or not 0 < value <= MAX_INTEGER:
                raise UsageError(
                    f"{self.directory / RUN}: sandbox.limits.{field.name} is {shown(value)}"
                )
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
        chosen = grid.choose(wanted, "--condition")
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

    def require_played(self, episode: Episode) -> None:
        """Raises UsageError for an episode that this run cannot have played: of a model, under a
        condition or at a level that is not in its settings."""
        settings = self.settings
        levels = crossed(
            settings.get("thinking") or (),
            settings.get("temperatures") or (),
            settings.get("fixed") or {},
        )
        played: dict[str, tuple[str | None, Sequence[str | None]]] = {
            "model": (episode.model, list(settings.get("models") or ())),
            "condition": (episode.condition, list(settings.get("conditions") or ())),
            "level": (
                plain_factor(episode.extra.get("factor")),
                [level.factor for level in levels],
            ),
        }
        for name, (found, known) in played.items():
            if found not in known:
                listed = ", ".join(one or "the default" for one in known) or "none"
                raise UsageError(
                    f"{self.directory}: {episode.episode_id}: its {name} is {shown(found)}, and "
                    f"{RUN} has {listed}"[:400],
                    "the record or run.json was changed since it was played",
                )

    def model(self, name: str) -> Mapping[str, Any]:
        """What run.json says of a model."""
        found = self.part("models").get(name)
        return found if isinstance(found, dict) else {}
