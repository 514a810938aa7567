"""Results from elsewhere that a study names: imports and the reference, by their contents."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_shutdown import frozen_plan
from local_shutdown.analysis import collect
from local_shutdown.errors import UsageError
from local_shutdown.store import AGGREGATES, EPISODES, RUN
from local_shutdown.study.schema import ImportRow, StudyFile


@dataclass(frozen=True, slots=True)
class Imported:
    """A file or folder of results from elsewhere, by its contents."""

    path: Path
    row: ImportRow
    sha256: str

    @property
    def folder(self) -> str:
        """Of the import, beside plan.json."""
        stem = re.sub(r"[^A-Za-z0-9._+-]+", "-", self.path.stem).strip(".-") or "import"
        return f"imports/{stem[:80]}-{self.sha256[:8]}"


def imported(study: StudyFile, place: int, row: ImportRow) -> Imported:
    path = study.beside(row.path)
    loc = ("imports", place)
    if path.is_dir():
        if not (path / RUN).is_file():
            raise study.wrong(
                loc, f"{row.path}: a folder, and not one of `import`", "name the files in it"
            )
        digests = {
            name: _sha256(study, loc, path / name)
            for name in (EPISODES, AGGREGATES)
            if (path / name).is_file()
        }
        return Imported(path, row, frozen_plan.digest(digests).removeprefix("sha256:"))
    return Imported(path, row, _sha256(study, loc, path))


def _sha256(study: StudyFile, loc: Sequence[int | str], path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            raise study.wrong(loc, f"{path}: not a regular file", "save the data to a file first")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as failed:
        raise study.wrong(
            loc, f"{path}: {failed.strerror}", "the path is relative to the study's file"
        ) from None


def reference_of(study: StudyFile) -> tuple[str | None, Any]:
    """The reference, and how the plan names it."""
    wanted = study.row.reference
    if wanted is None or wanted == "paper":
        return wanted, wanted
    path = study.beside(wanted)
    found = {"name": path.name, "sha256": _sha256(study, ("reference",), path)}
    try:
        collect.reference(str(path))
    except UsageError as wrong:
        raise study.wrong(("reference",), wrong.message, wrong.hint) from None
    return str(path), found
