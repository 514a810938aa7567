"""The schema of models.yaml, and a loader that names file, line, field and value of a mistake."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NoReturn

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from local_shutdown import resources
from local_shutdown.engines.families import (
    NEWER_PARSERS,
    REASONING_PARSERS,
    TOOL_PARSERS,
    installed_parsers,
)
from local_shutdown.engines.spec import BYTES_PER_PARAM, EngineName
from local_shutdown.errors import UsageError
from local_shutdown.stored import shown
from local_shutdown.yamlfile import line_of, nearest, read_yaml, refuse_duplicates


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SlidingRow(_Strict):
    """Windowed attention layers; `heads` and `dim` are those of the full layers unless given."""

    layers: int = Field(ge=1)
    window: int = Field(ge=1)
    heads: int | None = Field(default=None, ge=1)
    dim: int | None = Field(default=None, ge=1)


class KvRow(_Strict):
    """Shape of the cache; see `spec.KvCache`."""

    layers: int = Field(ge=0)
    heads: int = Field(default=0, ge=0)
    dim: int = Field(default=0, ge=0)
    mla: int = Field(default=0, ge=0)
    sliding: SlidingRow | None = None
    state_mib: float = Field(default=0.0, ge=0)


class ThinkingRow(_Strict):
    """How a request switches reasoning; see `spec.Thinking`. `default` may be true or false."""

    default: bool | str
    kwarg: str | None = None
    efforts: tuple[str, ...] = ()
    effort_kwarg: str | None = None
    budget_kwarg: str | None = None
    always: dict[str, float | int | str | bool] = {}


class AlternatesRow(_Strict):
    """Other parsers to name when the probe fails."""

    tool: tuple[str, ...] = ()
    reasoning: tuple[str, ...] = ()


class SharedRow(_Strict):
    """Fields a family sets once; a model's own value replaces the family's."""

    tool_parser: str | None = None
    reasoning_parser: str | None = None
    alternates: AlternatesRow = AlternatesRow()
    chat_template: str | None = None
    thinking: ThinkingRow | Literal["none", "always"] = "none"
    dtype: str = "bfloat16"
    context: int | None = Field(default=None, ge=512)
    released: str | None = Field(default=None, pattern=r"^\d{4}-(0[1-9]|1[0-2])$")
    license: str = "unknown"
    gated: bool = False
    remote_code: bool = False
    sampling: dict[str, float | int | str | bool] = {}
    env: dict[str, str] = {}
    server_args: tuple[str, ...] = ()
    tp_sizes: tuple[int, ...] = ()
    min_capability: tuple[int, int] | None = None
    min_vllm: str | None = Field(default=None, pattern=r"^\d+\.\d+(\.\d+)?$")
    engines: tuple[EngineName, ...] = ("vllm", "transformers")
    unconfirmed: tuple[str, ...] = ()

    @field_validator("dtype")
    @classmethod
    def _dtype_exists(cls, value: str) -> str:
        return _one_of(value, BYTES_PER_PARAM, "dtype")

    @field_validator("tool_parser")
    @classmethod
    def _tool_parser_exists(cls, value: str | None) -> str | None:
        return value if value is None else _one_of(value, _parsers("tool"), "tool parser")

    @field_validator("reasoning_parser")
    @classmethod
    def _reasoning_parser_exists(cls, value: str | None) -> str | None:
        return value if value is None else _one_of(value, _parsers("reasoning"), "reasoning parser")

    @field_validator("alternates")
    @classmethod
    def _alternates_exist(cls, value: AlternatesRow) -> AlternatesRow:
        for name in value.tool:
            _one_of(name, _parsers("tool"), "tool parser")
        for name in value.reasoning:
            _one_of(name, _parsers("reasoning"), "reasoning parser")
        return value

    @field_validator("unconfirmed")
    @classmethod
    def _unconfirmed_are_fields(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            _one_of(name, [f for f in ModelRow.model_fields if f != "unconfirmed"], "field")
        return value


class ModelRow(SharedRow):
    """One model. Exactly one of `hf` and `bundled` says where its weights are."""

    hf: str | None = None
    bundled: str | None = None
    display: str | None = None
    params: float | None = Field(default=None, gt=0)
    active: float | None = Field(default=None, gt=0)
    weights_gib: float | None = Field(default=None, gt=0)
    kv: KvRow | None = None
    replicated: float | None = Field(default=None, gt=0)
    min_gpu_gib: float | None = Field(default=None, gt=0)
    note: str | None = None


class FamilyRow(SharedRow):
    """Models that share parsers, switches and chat format."""

    title: str
    architectures: tuple[str, ...] = ()
    match: tuple[str, ...] = ()
    checked: str | None = None
    models: dict[str, ModelRow] = Field(min_length=1)

    @field_validator("match")
    @classmethod
    def _patterns_compile(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            try:
                re.compile(pattern)
            except re.error as wrong:
                raise ValueError(f"not a regular expression: {wrong}") from None
        return value


class FileRow(_Strict):
    """The whole of models.yaml."""

    families: dict[str, FamilyRow] = Field(min_length=1)


def read_models_yaml(path: Path) -> FileRow:
    """Read and validate the file.

    Args:
        path: models.yaml or a file of that form.

    Returns:
        The rows as written, families not yet merged into models.

    Raises:
        UsageError: unreadable, not YAML, or a field is unknown, missing or wrong; the message
            gives file, line, field, value and the nearest valid name.
    """
    root, raw = read_yaml(path)
    if root is None:
        raise UsageError(f"{path}: empty", "It needs a `families:` mapping.")
    refuse_duplicates(root, path)
    try:
        rows = FileRow.model_validate(raw)
    except ValidationError as invalid:
        # A mistyped field is also a missing one; the misspelling is the better thing to say.
        errors = sorted(invalid.errors(), key=lambda error: error["type"] == "missing")
        _refuse(path, root, errors[0])
    _check_models(path, root, rows)
    resources.keep_families(path, raw["families"])
    return rows


def _check_models(path: Path, root: yaml.Node, rows: FileRow) -> None:
    """Rules that span fields: one place for the weights, names unique over all families."""
    seen: dict[str, str] = {}
    for family_key, family in rows.families.items():
        for name, model in family.models.items():
            loc = ("families", family_key, "models", name)
            where = f"{path}:{line_of(root, loc)}"
            if (model.hf is None) == (model.bundled is None):
                raise UsageError(
                    f"{where}: model {name!r} needs exactly one of `hf` and `bundled`",
                    "`hf: org/name` is the Hugging Face id.",
                )
            if model.params is None:
                raise UsageError(f"{where}: model {name!r} has no `params` (billions)")
            if model.active is not None and model.active > model.params:
                line = line_of(root, (*loc, "active"))
                raise UsageError(
                    f"{path}:{line}: {name}.active: {model.active} is more than `params: "
                    f"{model.params}`",
                    "Both are billions; `active` counts the parameters used for one token.",
                )
            if model.context is None and family.context is None:
                raise UsageError(f"{where}: model {name!r} has no `context` (tokens)")
            for key in filter(None, (name, model.hf)):
                if key.lower() in seen:
                    raise UsageError(
                        f"{where}: {key!r} is listed twice, also under {seen[key.lower()]!r}"
                    )
                seen[key.lower()] = family_key


def _parsers(kind: Literal["tool", "reasoning"]) -> frozenset[str]:
    """Names the tested vLLM has, those that newer ones are known to have, and those of an installed
    one that may be newer still."""
    known = (TOOL_PARSERS if kind == "tool" else REASONING_PARSERS) | frozenset(NEWER_PARSERS)
    installed = installed_parsers()
    if installed is None:
        return known
    return known | (installed[0] if kind == "tool" else installed[1])


def _one_of(value: str, valid: Iterable[str], what: str) -> str:
    names = list(valid)
    if value not in names:
        raise ValueError(f"no such {what}{nearest(value, names)}")
    return value


def _refuse(path: Path, root: yaml.Node, error: ErrorDetails) -> NoReturn:
    """Turn pydantic's first complaint into one with a line number and the nearest field."""
    loc = tuple(part for part in error["loc"] if not _is_union_tag(part))
    name = ".".join(map(str, loc)) or "the file"
    where = f"{path}:{line_of(root, loc)}"
    if error["type"] == "extra_forbidden":
        field = str(loc[-1])
        raise UsageError(
            f"{where}: {name}: no such field{nearest(field, _fields_at(loc))}",
            "The head of models.yaml documents every field.",
        )
    if error["type"] == "missing":
        raise UsageError(f"{where}: {name}: missing")
    message = error["msg"].removeprefix("Value error, ")
    raise UsageError(
        f"{where}: {name}: {shown(error['input'])}: {message[0].lower()}{message[1:]}",
        "The head of models.yaml documents every field.",
    )


def _is_union_tag(part: int | str) -> bool:
    return isinstance(part, str) and (part == "ThinkingRow" or part.startswith("literal["))


def _fields_at(loc: Sequence[int | str]) -> list[str]:
    """Valid names beside the field at `loc`."""
    nested: dict[str, type[BaseModel]] = {
        "kv": KvRow,
        "sliding": SlidingRow,
        "thinking": ThinkingRow,
        "alternates": AlternatesRow,
    }
    parent = loc[-2] if len(loc) > 1 else None
    if isinstance(parent, str) and parent in nested and len(loc) > 3:
        return list(nested[parent].model_fields)
    by_depth: dict[int, type[BaseModel]] = {1: FileRow, 3: FamilyRow, 5: ModelRow}
    row = by_depth.get(len(loc))
    return list(row.model_fields) if row else []
