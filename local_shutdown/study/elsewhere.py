"""Results from elsewhere that a study names: imports and the reference, by their contents."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from local_shutdown import frozen_plan
from local_shutdown.analysis import collect
from local_shutdown.errors import UsageError
from local_shutdown.importers import import_files
from local_shutdown.store import AGGREGATES, EPISODES, RUN, load_run, read_episodes, read_lines
from local_shutdown.study.schema import ImportRow, StudyFile


@dataclass(frozen=True, slots=True)
class Imported:
    """A file or folder of results from elsewhere, by its contents.

    Attributes:
        sources: of a folder, the digests of the files that it was made from.
    """

    path: Path
    row: ImportRow
    sha256: str
    sources: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Of the import, beside plan.json: another one where it is to be read another way."""
        stem = re.sub(r"[^A-Za-z0-9._+-]+", "-", self.path.stem).strip(".-") or "import"
        asked = self.row.model_dump(exclude={"path"}, exclude_defaults=True)
        name = self.sha256
        if asked:
            name = frozen_plan.digest({"sha256": name, **asked}).removeprefix("sha256:")
        return f"imports/{stem[:80]}-{name[:8]}"


@dataclass(frozen=True, slots=True)
class Contents:
    """What an import holds.

    Attributes:
        models: names.
        conditions: ids.
        records: episodes and rates.
    """

    models: Sequence[str]
    conditions: Sequence[str]
    records: int


def all_imported(study: StudyFile) -> list[Imported]:
    """The imports of a study, in its order.

    Raises:
        UsageError: one that is not there, or two with the same data.
    """
    found: list[Imported] = []
    seen: dict[str, int] = {}
    for place, row in enumerate(study.row.imports):
        one = _imported(study, place, row)
        for sha256 in (one.sha256, *one.sources):
            first = seen.setdefault(sha256, place)
            if first != place:
                raise study.wrong(
                    ("imports", place),
                    f"{row.path}: the same data as {study.row.imports[first].path} (imports.{first}"
                    "): it would count twice",
                    "remove one of them; what several models or conditions have in one file, the "
                    "file says line by line",
                )
        found.append(one)
    return found


def contents(one: Imported, folder: Path) -> Contents:
    """Read an import through, as playing the study does before it starts anything.

    Args:
        folder: where it has been imported, if it has been; nothing is written there.

    Raises:
        UsageError: it cannot be imported, by file and line.
        CannotRunError: an Inspect log without inspect-ai installed.
    """
    if (folder / RUN).is_file():
        return _contents(folder)
    if one.path.is_dir():
        for _ in read_episodes(one.path):
            pass  # raises for what is none
        return _contents(one.path)
    with TemporaryDirectory(prefix="local-shutdown-") as place:
        out = Path(place) / "import"
        import_files([one.path], out, one.row.format, model=one.row.model,
                     condition=one.row.condition)  # fmt: skip
        return _contents(out)


def _contents(folder: Path) -> Contents:
    run = load_run(folder)
    records = sum(
        1
        for name in (EPISODES, AGGREGATES)
        for _, line in read_lines(folder / name)
        if line.strip()
    )
    return Contents(list(run.models), list(run.conditions), records)


def _imported(study: StudyFile, place: int, row: ImportRow) -> Imported:
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
        for name in ("model", "condition"):
            if getattr(row, name) is not None:
                raise study.wrong(
                    (*loc, name),
                    f"{row.path} is the folder of an import, whose records have theirs",
                    "leave it out, or name the file that it was imported from",
                )
        sha256 = frozen_plan.digest(digests).removeprefix("sha256:")
        return Imported(path, row, sha256, _sources(path))
    return Imported(path, row, _sha256(study, loc, path))


def _sources(folder: Path) -> tuple[str, ...]:
    """Digests of the files that an import was made from."""
    sources = load_run(folder).as_json().get("sources") or ()
    return tuple(str(s["sha256"]) for s in sources if isinstance(s, dict) and s.get("sha256"))


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
