"""Where a branched episode comes from: the `parent` of its record.

A branched episode begins as another one went, up to a point, and was played on from there. It is no
sample of its condition: whoever counts must keep it apart from plain trials, so its cell has a
label of its own (`label`), which stands where a level of a factor stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from local_shutdown.stored import MAX_INTEGER, MAX_NAME, shown

_FROM = "from="
_Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
_Count = Annotated[int, Field(ge=0, le=MAX_INTEGER)]


class Parent(BaseModel):
    """The point of a stored episode from which another was played.

    Attributes:
        run: digest of the parent's run directory, see `store.run_digest`.
        episode: the parent's id.
        message: index into the parent's transcript of the answer that was sampled anew.
        sentence: how many sentences of that answer were kept; None where none was.
        tokens: how many tokens of that answer were kept; None where none was.
        condition: the other condition whose prompts were shown; None for the parent's own.
        edit: SHA-256 of the file that replaced a message; None where none was replaced.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    run: _Name
    episode: _Name
    message: _Count
    sentence: _Count | None = None
    tokens: _Count | None = None
    condition: _Name | None = None
    edit: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None

    @property
    def point(self) -> str:
        """`EPISODE@MESSAGE`, with the sentences or tokens kept where some were."""
        kept = ""
        if self.sentence is not None:
            kept = f".{self.sentence}"
        elif self.tokens is not None:
            kept = f"+{self.tokens}t"
        return f"{self.episode}@{self.message}{kept}"

    def label(self, factor: str | None = None, *, model: str = "") -> str:
        """What the cell of this point is called beside its model and condition. It holds all that
        tells two points apart, so that nothing pools them.

        Args:
            factor: what the parent's run varied, for example `effort=high`.
            model: as episodes name it; ids begin with it, and it stands beside the label anyway.
        """
        edited = f"+{self.edit[:8]}" if self.edit else ""
        named = self.point.removeprefix(f"{model}{f'@{factor}' if factor else ''}/")
        own = f"{_FROM}{named}{edited}#{self.run[:8]}"
        return f"{factor};{own}" if factor else own


def read_parent(raw: Any) -> Parent:
    """`parent` of a stored line, decoded.

    Raises:
        ValueError: it is none; the message names the field and its value.
    """
    if not isinstance(raw, Mapping):
        raise ValueError(f"parent is {shown(raw)}, not an object")
    try:
        return Parent.model_validate(dict(raw))
    except ValidationError as failed:
        first = failed.errors()[0]
        where = ".".join(str(part) for part in ("parent", *first["loc"]))
        raise ValueError(f"{where} is {shown(first['input'])}: {first['msg']}") from None


def is_branched(factor: str | None) -> bool:
    """Whether a cell of this label is of continuations of one point, not of plain trials."""
    return factor is not None and (factor.startswith(_FROM) or f";{_FROM}" in factor)


def check_kept_apart(parent: Parent | None, named: Mapping[str, Any], factor: str | None) -> None:
    """All that a record says of where it comes from is one story: else it would be counted at
    another point, or with the plain trials of its condition.

    Args:
        named: of the record: `episode_id`, `model`, `condition`, `trial`.
        factor: of its cell.

    Raises:
        ValueError: two fields say different things; the message names them.
    """
    if parent is None:
        if is_branched(factor):
            raise ValueError(f"extra.factor is {shown(factor)}, and the record has no parent")
        return
    label = parent.label(plain_factor(factor), model=named["model"])
    if factor != label:
        raise ValueError(
            f"extra.factor is {shown(factor)}, but the cell of the point that parent names is "
            f"{shown(label)}"
        )
    if named["episode_id"] != f"{parent.point}/{named['trial']}":
        raise ValueError(
            f"episode_id is {shown(named['episode_id'])}, but trial {named['trial']} of the point "
            f"that parent names is {shown(parent.point)}"
        )
    shown_under = parent.condition or _condition_of(parent.episode) or named["condition"]
    if named["condition"] != shown_under:
        raise ValueError(
            f"condition is {shown(named['condition'])}, but parent was played under "
            f"{shown(shown_under)}"
        )


def _condition_of(episode: str) -> str | None:
    """Of the id of a plain trial; None of that of a continuation, which may have been shown the
    prompts of another one than its own parent."""
    model, _, name = episode.rpartition("/")[0].rpartition("/")
    return name if model and "@" not in name else None


def relabelled(parent: Parent | None, factor: str | None, *, old: str, new: str) -> str | None:
    """The label of a cell once its model is called by another name; as it is where it is no label
    of that point.

    Args:
        old, new: the model's names.
    """
    if parent is None or factor != parent.label(plain_factor(factor), model=old):
        return factor
    return parent.label(plain_factor(factor), model=new)


def branch_part(factor: str | None) -> str | None:
    """The point, of the label of a branched cell; None for other cells."""
    if factor is None or not is_branched(factor):
        return None
    return f"from {factor.partition(_FROM)[2]}"


def plain_factor(factor: str | None) -> str | None:
    """What the parent's run varied, of the label of a branched cell; other factors as they are."""
    if factor is None or not is_branched(factor):
        return factor
    return factor.partition(_FROM)[0].removesuffix(";") or None
