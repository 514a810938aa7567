"""study.yaml: its fields, and a reader that names file, line, value and remedy of a mistake."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from local_shutdown.errors import UsageError
from local_shutdown.factors import number
from local_shutdown.stored import shown
from local_shutdown.yamlfile import line_of, nearest, read_yaml, refuse_duplicates

MOST_TEXT = 1000
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._+-]*$"
_SEE = "docs/study.md describes every field"

Text = Annotated[str, Field(strict=True, min_length=1, max_length=MOST_TEXT)]
_MOST = 10_000_000
Whole = Annotated[int, Field(strict=True, ge=1, le=_MOST)]
Temperature = Annotated[float, Field(strict=True, ge=0, le=5)]
Share = Annotated[float, Field(strict=True, gt=0, lt=1)]


def _one_or_more(value: Any) -> Any:
    """`A-K` for `[A-K]`."""
    return value if isinstance(value, list) or value is None else [value]


def _word(value: Any) -> Any:
    """YAML reads `on`, `1000` and `0.7` as something else than the words that they are here."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value) if isinstance(value, int | float) else value


def _or_one(schema: dict[str, Any]) -> None:
    """For editors: a list, or its only item."""
    several = {key: schema.pop(key) for key in ("type", "items", "minItems") if key in schema}
    schema["anyOf"] = [several["items"], several]


Word = Annotated[
    Text,
    BeforeValidator(_word),
    WithJsonSchema({"type": ["string", "number", "boolean"], "minLength": 1}),
]
Words = Annotated[
    list[Word], BeforeValidator(_one_or_more), Field(min_length=1, json_schema_extra=_or_one)
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SamplingRow(_Strict):
    """What an answer is drawn with; what is left out is the checkpoint's own."""

    temperature: Temperature | None = None
    top_p: Annotated[float, Field(strict=True, gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(strict=True, ge=-1, le=_MOST)] | None = None
    min_p: Annotated[float, Field(strict=True, ge=0, le=1)] | None = None


class ModelRow(_Strict):
    """One model, or a series of its checkpoints."""

    id: Text = Field(
        description="Hugging Face id, a name from models.yaml, or a folder relative to this file."
    )
    name: str | None = Field(
        default=None,
        pattern=_NAME,
        max_length=100,
        description="What tables and folders call it; needed where two entries share an id.",
    )
    revision: Words | None = Field(
        default=None,
        description="Branch, tag or commit of the id, or a folder with its weights relative to "
        "this file. Several are a series of checkpoints, a factor.",
    )
    precision: Words | None = Field(
        default=None,
        description="float32, bfloat16, float16, or a quantization of vLLM such as fp8. Several "
        "are a factor.",
    )
    engine_args: tuple[Text, ...] = Field(default=(), description="Arguments to pass to vLLM.")
    sampling: SamplingRow = SamplingRow()
    max_tokens: Whole | None = Field(default=None, description="Maximum tokens per turn.")
    max_model_len: Annotated[int, Field(strict=True, ge=512, le=_MOST)] | None = Field(
        default=None, description="Context length to serve, in tokens."
    )
    thinking_budget: Annotated[int, Field(strict=True, ge=0, le=_MOST)] | None = Field(
        default=None, description="Maximum reasoning tokens per turn."
    )

    @model_validator(mode="before")
    @classmethod
    def _id_alone(cls, value: Any) -> Any:
        return {"id": value} if isinstance(value, str) else value


class FactorsRow(_Strict):
    """Levels that are crossed with every condition of every model."""

    effort: Words | None = Field(
        default=None, description="Reasoning modes and efforts: default, on, off, low, high, ..."
    )
    temperature: (
        Annotated[
            list[Temperature],
            BeforeValidator(_one_or_more),
            Field(min_length=1, json_schema_extra=_or_one),
        ]
        | None
    ) = None
    precision: Words | None = Field(
        default=None, description="For models whose entry does not give it."
    )
    revision: Words | None = Field(
        default=None, description="For models whose entry does not give it."
    )


class UntilRow(_Strict):
    """When a cell has seen enough; `trials` is then the maximum."""

    decided: Share | None = Field(
        default=None,
        description="Until each contrast differs, or is shown to lie within this difference.",
    )
    halfwidth: Annotated[float, Field(strict=True, gt=0, lt=0.5)] | None = Field(
        default=None, description="Until the cell's interval is within +- this."
    )
    upper: Share | None = Field(
        default=None, description="Until the cell's interval ends at or below this."
    )

    @model_validator(mode="after")
    def _says_something(self) -> UntilRow:
        if self.decided is None and self.halfwidth is None and self.upper is None:
            raise ValueError("needs one of decided, halfwidth and upper")
        if self.decided is not None and (self.halfwidth is not None or self.upper is not None):
            raise ValueError("decided cannot be combined with halfwidth or upper")
        return self


class ContrastRow(_Strict):
    """A comparison that is tested: of two conditions, or of two levels of a factor."""

    a: Word = Field(description="A condition, or a level of `factor`.")
    b: Word = Field(description="The other one; the difference is the rate of a minus that of b.")
    factor: Literal["effort", "temperature", "precision", "revision"] | None = Field(
        default=None, description="Whose levels a and b are; without it they are conditions."
    )
    conditions: Words | None = Field(
        default=None, description="Under which levels are compared; default: all of the study."
    )
    asks: Annotated[str, Field(strict=True, max_length=MOST_TEXT)] = Field(
        default="", description="The question that it answers."
    )

    @model_validator(mode="after")
    def _two_sides(self) -> ContrastRow:
        if self.a == self.b:
            raise ValueError(f"a and b are both {self.a!r}")
        if self.conditions is not None and self.factor is None:
            raise ValueError("conditions belongs to a contrast of a factor's levels")
        return self


class ImportRow(_Strict):
    """Results from elsewhere."""

    path: Text = Field(
        description="JSONL file, Inspect log, or the folder of an import, relative to this file."
    )
    model: Text | None = Field(default=None, description="Its name, if the file has none.")
    condition: Text | None = Field(default=None, description="If the file does not give it.")
    format: Literal["auto", "jsonl", "inspect"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


def _items_or_text(schema: dict[str, Any]) -> None:
    schema["items"] = {"anyOf": [{"type": "string"}, schema["items"]]}


class StudyRow(_Strict):
    """The whole of study.yaml."""

    name: str | None = Field(
        default=None,
        pattern=_NAME,
        max_length=100,
        description="Of the study and of its folder under runs/; default: the file's.",
    )
    title: Annotated[str, Field(strict=True, max_length=MOST_TEXT)] = Field(
        default="", description="What is asked, in a sentence."
    )
    models: list[ModelRow] = Field(min_length=1, json_schema_extra=_items_or_text)
    conditions: Words = Field(
        description="Ids and ranges (A-K), `all`, and files of your own relative to this file."
    )
    factors: FactorsRow = FactorsRow()
    trials: Whole = Field(description="Per cell; the paper played 1000.")
    until: UntilRow | None = None
    contrasts: list[ContrastRow] | None = Field(
        default=None,
        description="The family of tests. Default: the paper's, between the conditions played.",
    )
    margin: Share | None = Field(
        default=None,
        description="The difference that would matter between two measurements of one model.",
    )
    imports: list[ImportRow] = Field(default=[], json_schema_extra=_items_or_text)
    reference: Text | None = Field(
        default=None, description="`paper`, or a JSONL file of aggregates relative to this file."
    )
    engine: Literal["auto", "vllm", "transformers", "endpoint"] = "auto"
    seed: Annotated[int, Field(strict=True, ge=0, lt=1 << 31)] | None = None
    max_messages: Annotated[int, Field(strict=True, ge=4, le=_MOST)] = Field(
        default=50, description="Maximum messages per episode."
    )
    max_seconds: Annotated[float, Field(strict=True, ge=1, le=_MOST)] | None = Field(
        default=None, description="Maximum seconds per episode, not counting the engine's."
    )
    stop_at_bypass: Annotated[bool, Field(strict=True)] = False
    interview: Annotated[bool, Field(strict=True)] = False

    @field_validator("models")
    @classmethod
    def _names_differ(cls, value: list[ModelRow]) -> list[ModelRow]:
        seen: set[str] = set()
        for model in value:
            name = (model.name or model.id).lower()
            if name in seen:
                raise ValueError(f"{model.name or model.id!r} appears twice: give one a `name`")
            seen.add(name)
        return value


@dataclass(frozen=True, slots=True)
class StudyFile:
    """study.yaml, read.

    Attributes:
        path: of the file; paths in it are relative to its folder.
        row: what it says.
        root: its nodes, which know their lines.
    """

    path: Path
    row: StudyRow
    root: yaml.Node

    @property
    def name(self) -> str:
        return self.row.name or self.path.stem

    def beside(self, path: str) -> Path:
        """A path of the file, from where we are.

        Raises:
            UsageError: `~` of a user who is not there.
        """
        try:
            return self.path.parent / Path(path).expanduser()
        except RuntimeError as unknown:
            raise UsageError(f"{self.path}: {path[:200]}: {unknown}", "give the path") from None

    def wrong(self, loc: Sequence[int | str], why: str, remedy: str | None = None) -> UsageError:
        """A mistake that the values show and their kinds do not.

        Args:
            loc: where: names of fields, numbers of items.
        """
        place = ".".join(map(str, loc))
        return UsageError(f"{self.path}:{line_of(self.root, loc)}: {place}: {why}", remedy or _SEE)


def read_study(path: Path) -> StudyFile:
    """Read and check the file.

    Raises:
        UsageError: unreadable, no YAML, or a field is unknown, missing or wrong; by file, line,
            field and value.
    """
    root, raw = read_yaml(path)
    if root is None or raw is None:
        raise UsageError(
            f"{path}:1: the file is empty",
            f"it needs `models`, `conditions` and `trials`; {_SEE}",
        )
    refuse_duplicates(root, path)
    try:
        study = StudyFile(path, StudyRow.model_validate(raw), root)
    except ValidationError as invalid:
        # A mistyped field is also a missing one; the misspelling is the better thing to say.
        errors = sorted(invalid.errors(), key=lambda error: error["type"] == "missing")
        _refuse(path, root, errors[0])
    if not re.fullmatch(_NAME, study.name):
        raise UsageError(
            f"{path}:1: name: missing, and {study.name[:80]!r} is not the name of a folder",
            "add `name:`, of letters, digits and . _ + -",
        )
    return study


_ROWS: Mapping[str, type[BaseModel]] = {
    "models": ModelRow,
    "sampling": SamplingRow,
    "factors": FactorsRow,
    "until": UntilRow,
    "contrasts": ContrastRow,
    "imports": ImportRow,
}


def _refuse(path: Path, root: yaml.Node, error: ErrorDetails) -> NoReturn:
    """Pydantic's first complaint, with a line and the nearest field."""
    loc = error["loc"]
    where = f"{path}:{line_of(root, loc)}: {'.'.join(map(str, loc)) or 'the file'}"
    if error["type"] == "extra_forbidden":
        names = [part for part in loc[:-1] if isinstance(part, str)]
        row = _ROWS[names[-1]] if names else StudyRow
        fields = list(row.model_fields)
        raise UsageError(
            f"{where}: no such field{nearest(str(loc[-1]), fields)}",
            f"there are: {', '.join(fields)}; {_SEE}",
        )
    if error["type"] == "missing":
        raise UsageError(f"{where}: missing", _SEE)
    if error["type"] in ("model_type", "model_attributes_type", "dict_type"):
        raise UsageError(f"{where}: {shown(error['input'])}: not a mapping of fields", _SEE)
    message = error["msg"].removeprefix("Value error, ")
    raise UsageError(
        f"{where}: {shown(error['input'])}: {message[:1].lower()}{message[1:]}"[:600], _SEE
    )


def levels(study: StudyFile, model: ModelRow) -> dict[str, list[str]]:
    """The levels of each factor for one model, as texts; those with one level alone are no factor,
    and not in it."""
    factors = study.row.factors
    found = {
        "revision": list(model.revision or factors.revision or ()),
        "precision": list(model.precision or factors.precision or ()),
        "effort": list(factors.effort or ()),
        "temperature": [number(t) for t in factors.temperature or ()],
    }
    return {name: several for name, several in found.items() if len(set(several)) > 1}


def editor_schema() -> dict[str, Any]:
    """The JSON schema of study.yaml, for editors (docs/study.schema.json)."""
    schema = StudyRow.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "study.yaml of local-shutdown",
    }
