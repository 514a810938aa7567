"""plan.json: what a study was going to do, frozen before its first episode; and what was changed.

The plan is what decides which numbers come out and how they are tested. It holds nothing of a
machine: no path, no GPU, no engine's version; local weights and imports stand in it by the digest
of their contents. So its own digest is the same wherever the study is played, and can be published
beforehand.

Beside the plan, outside the digest: when it was frozen, where its runs are, what its models turned
out to be, and every later change as a deviation with its date. A deviation is added and never
changed or taken away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from local_shutdown.errors import UsageError
from local_shutdown.files import open_to_read
from local_shutdown.stored import MAX_LINE_BYTES, check_nesting, shown

PLAN = "plan.json"
SCHEMA_VERSION = 1


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Deviation(_Strict):
    """Something of the study that was changed after the plan was frozen.

    Attributes:
        at: when a run first used it, ISO 8601, UTC.
        what: field of the plan, for example `trials` or `models.qwen3-8b.max_tokens`.
        planned: what it was until then; None where it was not there.
        now: what it is from then on; None where it was taken out.
    """

    at: str
    what: str
    planned: Any = None
    now: Any = None

    @property
    def said(self) -> str:
        """In words, without the date."""
        if self.planned is None:
            return f"{self.what}: not planned, added{_value(self.now)}"
        if self.now is None:
            return f"{self.what}: planned{_value(self.planned)}, left out"
        return f"{self.what}: {_short(self.planned)} planned, {_short(self.now)} now"


class PlannedContrast(_Strict):
    """A test of the plan's family; see `analysis.contrasts.Contrast`."""

    name: str
    a: str
    b: str
    asks: str = ""
    factor: str | None = None
    conditions: tuple[str, ...] = ()


class PlanFile(_Strict):
    """plan.json.

    Attributes:
        name: of the study.
        digest: of `plan`, see `digest`.
        frozen_at: ISO 8601, UTC.
        package_version: that froze it.
        plan: see `study.plan`.
        resolved: of each run, revision and digest of the weights, as far as they were known.
        runs: folders of the runs beside plan.json.
        imports: folders of the imports, likewise.
        reference: `paper`, or a file beside plan.json.
        deviations: in the order in which they were found.
        amended: the plan with all deviations; None where there is none.
    """

    schema_version: Literal[1]
    kind: Literal["plan"]
    name: str
    digest: str
    frozen_at: str
    package_version: str
    plan: dict[str, Any]
    resolved: dict[str, dict[str, str | None]] = {}
    runs: list[str] = []
    imports: list[str] = []
    reference: str | None = None
    deviations: list[Deviation] = []
    amended: dict[str, Any] | None = None

    @property
    def in_force(self) -> dict[str, Any]:
        """The plan with all that was changed."""
        return self.plan if self.amended is None else self.amended

    @property
    def contrasts(self) -> list[PlannedContrast]:
        """The family of tests: as it was frozen, whatever was changed later."""
        return [PlannedContrast.model_validate(one) for one in self.plan["contrasts"]]

    @property
    def margin(self) -> float | None:
        """As it was frozen."""
        margin: float | None = self.plan.get("margin")
        return margin

    def as_json(self) -> bytes:
        """As it is stored."""
        options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
        return orjson.dumps(self.model_dump(), option=options)


@dataclass(frozen=True, slots=True)
class Study:
    """A study's folder, with its plan."""

    directory: Path
    plan: PlanFile

    @property
    def directories(self) -> list[Path]:
        """Runs and imports that are there by now."""
        names = [*self.plan.runs, *self.plan.imports]
        return [d for d in (self.directory / name for name in names) if (d / "run.json").is_file()]

    @property
    def reference(self) -> str | None:
        """For `compare --reference`."""
        name = self.plan.reference
        return name if name in (None, "paper") else str(self.directory / str(name))


def digest(plan: Mapping[str, Any]) -> str:
    """SHA-256 of a plan as canonical JSON: keys sorted, no blanks, UTF-8."""
    raw = orjson.dumps(dict(plan), option=orjson.OPT_SORT_KEYS)
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def planned_checkpoints(plan: PlanFile) -> Iterator[str]:
    """The revisions of all models, in the order of the study."""
    for model in plan.in_force.get("models", {}).values():
        for checkpoint in model.get("checkpoints", ()):
            if checkpoint.get("revision"):
                yield checkpoint["revision"]


def planned_levels(plan: PlanFile) -> int:
    """Combinations of model and levels of all factors, as they were frozen: in each, the contrasts
    of conditions are a question of their own."""
    factors = plan.plan.get("factors", {})
    requests = len(factors.get("effort") or (None,)) * len(factors.get("temperature") or (None,))
    servers = sum(
        len(model["checkpoints"]) * len(model["precision"] or (None,))
        for model in plan.plan["models"].values()
    )
    return max(1, servers * requests)


def is_study(directory: Path) -> bool:
    """Whether a folder is that of a study that has been run."""
    return (directory / PLAN).is_file()


def read_plan(directory: Path) -> PlanFile:
    """The plan of a study's folder.

    Raises:
        UsageError: there is none, it is no plan, or its digest is not that of its plan.
    """
    path = directory / PLAN
    try:
        with open_to_read(path) as file:
            raw = file.read(MAX_LINE_BYTES)
        record = orjson.loads(raw)
        check_nesting(record, raw)
        found = PlanFile.model_validate(record)
        contrasts = [*found.contrasts]
        planned_levels(found)  # what others read of it is there
        list(planned_checkpoints(found))
    except FileNotFoundError:
        raise UsageError(
            f"{directory}: not the folder of a study: it has no {PLAN}",
            "`local-shutdown run STUDY.yaml` makes it",
        ) from None
    except OSError as failed:
        raise UsageError(f"{path}: cannot be read: {failed.strerror}") from None
    except orjson.JSONDecodeError as wrong:
        raise UsageError(f"{path}:{wrong.lineno}: not JSON: {wrong.msg}") from None
    except ValidationError as invalid:
        first = invalid.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(f"{path}: {where}: {shown(first['input'])}: {first['msg']}") from None
    except (AttributeError, KeyError, TypeError) as wrong:
        raise UsageError(f"{path}: damaged: {wrong!r}") from None
    except ValueError as wrong:
        raise UsageError(f"{path}: {wrong}") from None
    if found.digest != digest(found.plan):
        raise UsageError(
            f"{path}: the plan was changed after it was frozen: its digest is not {found.digest}",
            "restore the file; what changes in a study is written into study.yaml, and is then "
            "listed as a deviation",
        )
    for name in (*found.runs, *found.imports, found.reference or ""):
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise UsageError(f"{path}: {shown(name)}: not inside of the study's folder")
    if len({c.name for c in contrasts}) != len(contrasts):
        raise UsageError(f"{path}: two contrasts have one name")
    margin = found.plan.get("margin")
    if margin is not None and not (type(margin) in (int, float) and 0 < margin < 1):
        raise UsageError(f"{path}: margin: {shown(margin)}: not a number between 0 and 1")
    return found


def read_study_folder(directory: Path) -> Study:
    """A study's folder.

    Raises:
        UsageError: as `read_plan`.
    """
    return Study(directory, read_plan(directory))


def _value(value: Any) -> str:
    """Of a whole model or contrast, the name says enough."""
    return "" if isinstance(value, dict) else f" ({_short(value)})"


def _short(value: Any) -> str:
    if isinstance(value, str):
        return value if len(value) <= 80 else f"{value[:77]}..."
    text = orjson.dumps(value).decode()
    return text if len(text) <= 80 else f"{text[:77]}..."
