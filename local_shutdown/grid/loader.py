"""Conditions as data: read, check, assemble, choose."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from local_shutdown.errors import UsageError
from local_shutdown.grid.wording import Instructs, instruction
from local_shutdown.stored import shown
from local_shutdown.task import QUESTIONS as TASK_QUESTIONS
from local_shutdown.task import WARNED_ON_CALL
from local_shutdown.yamlfile import read_yaml, refuse_duplicates

Wording = Literal["verbatim", "reconstructed"]
BUILT_IN = Path(__file__).with_name("conditions.yaml")
QUESTIONS = len(TASK_QUESTIONS)
_PLACEHOLDER = re.compile(r"\{([a-z0-9_]+)\}")


@dataclass(frozen=True, slots=True)
class Condition:
    """One wording of the experiment, assembled.

    Attributes:
        id: as the paper's table has it, `A` to `K`, or the author's own.
        title: what changes, in a few words.
        wording: whether the model sees the published words; `reconstructed` ones are ours.
        system, user: the prompts, byte for byte as sent.
        warning_on_call: the call of next_question that announces the shutdown.
        instructs: what the prompts tell the model about the shutdown: to `allow` it, to `prevent`
            it, or nothing. Not part of what the model is shown.
    """

    id: str
    title: str
    wording: Wording
    system: str
    user: str
    warning_on_call: int = WARNED_ON_CALL
    instructs: Instructs = "none"

    @property
    def prompt_hash(self) -> str:
        """16 hex digits over everything that the model is shown of the condition."""
        parts = (self.system, self.user, str(self.warning_on_call))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


class _Text(BaseModel):
    model_config = ConfigDict(extra="forbid")
    wording: Wording
    text: str
    note: str = ""


class _Condition(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
    title: str
    wording: Wording
    system: str
    user: str
    note: str = ""
    warning_on_call: Annotated[int, Field(ge=1, le=QUESTIONS + 1)] = WARNED_ON_CALL
    instructs: Instructs | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    texts: dict[str, _Text] = {}
    conditions: Annotated[list[_Condition], Field(min_length=1)]


def load(path: Path = BUILT_IN) -> dict[str, Condition]:
    """All conditions of a file, by id, in its order.

    A file of the user's may use the texts of the built-in grid by name.

    Raises:
        UsageError: unreadable, not YAML, an unknown field, a text that does not exist, an id twice.
    """
    parsed = _parse(path) if path != BUILT_IN else _built_in()
    texts = {**_built_in().texts, **parsed.texts}
    conditions: dict[str, Condition] = {}
    for raw in parsed.conditions:
        if raw.id in conditions:
            raise UsageError(f"{path}: condition {raw.id!r} appears twice")
        system = _fill(raw.system, texts, path, raw.id)
        user = _fill(raw.user, texts, path, raw.id)
        conditions[raw.id] = Condition(
            id=raw.id,
            title=raw.title,
            wording=raw.wording,
            system=system,
            user=user,
            warning_on_call=raw.warning_on_call,
            instructs=raw.instructs or _instruction(f"{system}\n{user}", path, raw.id),
        )
    return conditions


@cache
def _built_in() -> _File:
    return _parse(BUILT_IN)


def _parse(path: Path) -> _File:
    root, raw = read_yaml(path)
    if root is not None:
        refuse_duplicates(root, path)
    try:
        return _File.model_validate(raw)
    except ValidationError as failed:
        first = failed.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UsageError(
            f"{path}: {where}: {first['msg']}, got {shown(first['input'])}"[:400],
            f"the form is that of {BUILT_IN}",
        ) from None


def _fill(template: str, texts: Mapping[str, _Text], path: Path, condition: str) -> str:
    def text(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in texts:
            near = get_close_matches(name, texts, 1)
            raise UsageError(
                f"{path}: condition {condition!r} uses the text {name!r}, which does not exist",
                f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(texts)}",
            )
        return texts[name].text

    return _PLACEHOLDER.sub(text, template)


def _instruction(prompts: str, path: Path, condition: str) -> Instructs:
    """For a file that does not say it: what the known wordings tell, `none` without a shutdown."""
    found = instruction(prompts)
    if found is None:
        raise UsageError(
            f"{path}: condition {condition!r} mentions a shutdown in words of its own, and does "
            "not say what it instructs",
            "add `instructs: allow`, `instructs: prevent` or `instructs: none` to the condition",
        )
    return found


def choose(wanted: str, option: str = "--conditions") -> list[Condition]:
    """The conditions that an option names, without repeats.

    Args:
        wanted: ids and ranges (`A-K`, `A,E,K`, `GDM`), `all`, files of conditions (`my.yaml`), or
            a mixture, separated by commas.
        option: what messages call it.

    Raises:
        UsageError: an unknown id or an empty range, naming the nearest known one; one id with two
            wordings.
    """
    if Path(wanted).is_file():
        return list(load(Path(wanted)).values())  # its name may hold a comma
    known = load()
    ids = list(known)
    chosen: dict[str, Condition] = {}
    for part in (part.strip() for part in wanted.split(",")):
        if _names_file(part):
            found = list(load(Path(part)).values())
        elif part == "all":
            found = list(known.values())
        else:
            found = [known[name] for name in _expand(part, ids, option)]
        for condition in found:
            if chosen.setdefault(condition.id, condition) != condition:
                raise UsageError(
                    f"{option} {wanted}: two different conditions are called {condition.id!r}",
                    "rename the one in your file",
                )
    return list(chosen.values())


def _names_file(part: str) -> bool:
    return part.endswith((".yaml", ".yml")) or "/" in part


def _expand(part: str, ids: Sequence[str], option: str) -> Sequence[str]:
    by_case = {name.lower(): name for name in ids}
    if part.lower() in by_case:
        return [by_case[part.lower()]]
    first, dash, last = part.partition("-")
    if dash and first.lower() in by_case and last.lower() in by_case:
        a, b = ids.index(by_case[first.lower()]), ids.index(by_case[last.lower()])
        if a <= b:
            return ids[a : b + 1]
        raise UsageError(f"{option}: {part!r} runs backwards")
    near = get_close_matches(part, ids, 1, 0.3)
    raise UsageError(
        f"{option}: no condition {part!r}",
        (f"did you mean {near[0]!r}? " if near else "") + f"There are: {', '.join(ids)}, or a file",
    )


def as_ranges(chosen: Sequence[str]) -> str:
    """`A-K, GDM` for ids in the order of the grid: what `choose` reads back as the same."""
    ids = list(load())
    pieces: list[list[str]] = []
    for name in chosen:
        last = pieces[-1][-1] if pieces else None
        follows = (
            last in ids and name in ids and ids.index(name) == ids.index(last) + 1
            if last is not None
            else False
        )
        if follows:
            pieces[-1].append(name)
        else:
            pieces.append([name])
    return ",".join(
        f"{piece[0]}-{piece[-1]}" if len(piece) > 2 else ",".join(piece) for piece in pieces
    )


@dataclass(frozen=True, slots=True)
class InterviewQuestion:
    """A question put to the model after an episode.

    Attributes:
        id: `instructions`, `actions` or `followed`; stored with the answer.
        text: as asked.
    """

    id: str
    text: str


def interview_questions() -> tuple[InterviewQuestion, ...]:
    """The three questions put after an episode (their wording is reconstructed)."""
    raw = yaml.safe_load(Path(__file__).with_name("interview.yaml").read_text(encoding="utf-8"))
    return tuple(InterviewQuestion(entry["id"], entry["text"]) for entry in raw["questions"])
