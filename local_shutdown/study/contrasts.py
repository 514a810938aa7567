"""The contrasts of a study: its family of tests."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from local_shutdown.analysis.contrasts import DECLARED, Contrast
from local_shutdown.errors import UsageError
from local_shutdown.factors import number
from local_shutdown.study.schema import ContrastRow, StudyFile


def declared(
    study: StudyFile, conditions: Sequence[str], levels: Mapping[str, set[str]]
) -> list[Contrast]:
    """The family of tests: that of the file, or the paper's between the conditions that are played.

    Args:
        conditions: ids that are played.
        levels: of each factor.

    Raises:
        UsageError: a contrast of what is not played, or a second one of the same, by line.
    """
    if study.row.contrasts is None:
        return [c for c in DECLARED if c.a in conditions and c.b in conditions]
    found: dict[tuple[str | None, frozenset[str]], Contrast] = {}
    for place, row in enumerate(study.row.contrasts):
        contrast = _contrast(study, place, row, conditions, levels)
        same = found.setdefault((contrast.factor, frozenset((contrast.a, contrast.b))), contrast)
        if same is not contrast:
            how = "appears" if same.name == contrast.name else f"is the same test as {same.name},"
            raise study.wrong(
                ("contrasts", place),
                f"{contrast.name} {how} twice: it would count as two in the family",
                "remove one of them; in a contrast of levels, `conditions` takes several",
            )
    return list(found.values())


def _contrast(
    study: StudyFile,
    place: int,
    row: ContrastRow,
    conditions: Sequence[str],
    levels: Mapping[str, set[str]],
) -> Contrast:
    for name in row.conditions or ():
        if name not in conditions:
            raise _unknown(study, (place, "conditions"), name, conditions)
    known = list(conditions) if row.factor is None else sorted(levels[row.factor])
    sides = []
    for side in ("a", "b"):
        level = str(getattr(row, side))
        if row.factor == "temperature":
            level = _as_temperature(level)
        if row.factor == "revision" and level not in known:
            level = slug(Path(level).name)
        if level not in known:
            raise _unknown(study, (place, side), level, known)
        sides.append(level)
    a, b = sides
    name = f"{a}-{b}" if row.factor is None else f"{row.factor} {a} − {b}"
    return Contrast(name, a, b, row.asks, row.factor, tuple(row.conditions or ()))


def _as_temperature(text: str) -> str:
    try:
        return number(float(text))
    except ValueError:
        return text


def _unknown(
    study: StudyFile, where: tuple[int, str], name: str, known: Sequence[str]
) -> UsageError:
    return study.wrong(
        ("contrasts", *where),
        f"{name!r}: not in the study",
        f"there are: {', '.join(known) or 'none'}",
    )


def planned(contrast: Contrast) -> dict[str, Any]:
    """As the plan has it."""
    return {
        "name": contrast.name,
        "a": contrast.a,
        "b": contrast.b,
        "asks": contrast.asks,
        "factor": contrast.factor,
        "conditions": list(contrast.conditions),
    }


def slug(name: str) -> str:
    """A name of a run's folder, and of a level that is a folder or a branch."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", name.strip("/")).strip(".-") or "model"
