"""Writing plan.json: frozen by the first run, and what is changed later added as deviations."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from local_shutdown import __version__
from local_shutdown.errors import CannotRunError, UsageError
from local_shutdown.frozen_plan import PLAN, Deviation, PlanFile, digest, is_study, read_plan
from local_shutdown.importers import import_files
from local_shutdown.record import now
from local_shutdown.results import STAMP
from local_shutdown.store import (
    AGGREGATES,
    EPISODES,
    RESULTS,
    RUN,
    STARTED,
    finished_ids,
    load_run,
    replace_file,
)
from local_shutdown.study.elsewhere import Imported
from local_shutdown.study.plan import Resolved

# Parts of the plan whose items have names: a change is told by the name.
_NAMED = ("contrasts", "imports")


def planned(directory: Path, resolved: Resolved, at: str | None = None) -> PlanFile:
    """The plan as the next run of a study has it: frozen now, or the frozen one with what has been
    changed since as further deviations. Nothing is written.

    A plan under which no episode has ended yet is no plan that anybody could have looked at, and is
    frozen anew.

    Args:
        directory: of the study, which need not exist yet.
        at: the date of what is new; None for now.

    Raises:
        UsageError: the folder holds another study, or a damaged plan.
    """
    at = at or now()
    known = resolved.known()
    old = read_plan(directory) if is_study(directory) else None
    if old is not None and old.name != resolved.study.name:
        raise UsageError(
            f"{directory}: holds the study {old.name!r}, not {resolved.study.name!r}",
            "give another --out, or the study another `name`",
        )
    if old is None or not any(_episodes(directory / name) for name in old.runs):
        return PlanFile(
            schema_version=1,
            kind="plan",
            name=resolved.study.name,
            digest=resolved.digest,
            frozen_at=at,
            package_version=__version__,
            plan=resolved.plan,
            resolved=known,
            runs=[one.name for one in resolved.served],
            imports=[one.folder for one in resolved.imports],
            reference=_reference(resolved),
        )
    found = [
        Deviation(at=at, what=what, planned=before, now=after)
        for what, before, after in [
            *changes(old.in_force, resolved.plan),
            *_other_weights(old, known),
        ]
    ]
    amended = old.amended if resolved.plan == old.in_force else resolved.plan
    return old.model_copy(
        update={
            "resolved": {**known, **old.resolved},
            "runs": list(dict.fromkeys([*old.runs, *(one.name for one in resolved.served)])),
            "imports": [one.folder for one in resolved.imports],
            "reference": _reference(resolved),
            "deviations": [*old.deviations, *found],
            "amended": amended,
        }
    )


def recorded(directory: Path, plan: PlanFile, runs: Sequence[str]) -> PlanFile:
    """The plan with the revisions and digests that runs have recorded by now: of weights that were
    fetched for them."""
    found = dict(plan.resolved)
    for name in runs:
        try:
            models = load_run(directory / name).models
        except UsageError:
            continue
        for facts in models.values():
            if name not in found and (facts.revision or facts.weights_digest):
                found[name] = {
                    "revision": facts.revision,
                    "weights_digest": facts.weights_digest,
                }
    return plan.model_copy(update={"resolved": found})


def write(directory: Path, plan: PlanFile) -> None:
    """Replace plan.json as a whole.

    Raises:
        CannotRunError: it cannot be written.
    """
    replace_file(directory / PLAN, plan.as_json())


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a study's folder, which is made: one run of a study at a time writes its plan.

    Raises:
        UsageError: another run of it is going on.
        CannotRunError: the folder cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as failed:
        raise CannotRunError(f"{directory}: cannot be written: {failed.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as failed:
        if failed.errno in (errno.EWOULDBLOCK, errno.EACCES):
            os.close(fd)
            raise UsageError(
                f"{directory}: another run of this study is going on",
                "wait for it, or give another --out",
            ) from None
        # A file system without locks for folders; each run directory is still locked by its own.
    try:
        yield
    finally:
        os.close(fd)


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """What differs between two plans: (field, before, after), None for what is not there."""
    return list(_changes("", old, new))


def _changes(where: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    if where in _NAMED:
        old, new = _by_name(old), _by_name(new)
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in dict.fromkeys([*old, *new]):
            below = f"{where}.{name}" if where else name
            yield from _changes(below, old.get(name), new.get(name))
    elif old != new:
        yield where, old, new


def _by_name(several: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Files of two folders may share a name; each of them is told."""
    found: dict[str, Mapping[str, Any]] = {}
    for one in several:
        name, number = str(one["name"]), 2
        while name in found:
            name, number = f"{one['name']} ({number})", number + 1
        found[name] = one
    return found


def _other_weights(
    old: PlanFile, known: Mapping[str, Mapping[str, str | None]]
) -> Iterator[tuple[str, Any, Any]]:
    """Models whose weights are no longer those of the first run: `main` has moved on."""
    for name, facts in known.items():
        what = f"weights.{name}"
        before: Any = old.resolved.get(name)
        for deviation in old.deviations:
            before = deviation.now if deviation.what == what else before
        if before is not None and before != facts:
            yield what, before, dict(facts)


def _episodes(directory: Path) -> bool:
    return (directory / EPISODES).is_file() and bool(finished_ids(directory))


# --- results from elsewhere -----------------------------------------------------------------------


def take_imports(
    directory: Path, resolved: Resolved, score: Callable[[Path], object]
) -> Iterator[str]:
    """Bring the study's imports and its reference into its folder, those that are not there yet;
    whole or not at all.

    Args:
        score: makes results.csv of an import.

    Yields:
        A line for the user on each that was imported.

    Raises:
        UsageError: a file that cannot be imported, by line.
    """
    for place, one in enumerate(resolved.imports):
        out = directory / one.folder
        if (out / RUN).is_file():
            continue
        try:
            if one.path.is_dir():
                _copied(one, out)
            else:
                import_files(
                    [one.path], out, one.row.format, model=one.row.model,
                    condition=one.row.condition, complete=score,
                )  # fmt: skip
        except UsageError as wrong:
            raise resolved.study.wrong(("imports", place), wrong.message, wrong.hint) from None
        yield f"imported {one.path} into {out}"
    name = _reference(resolved)
    if name is not None and name != "paper" and resolved.reference is not None:
        out = directory / name
        if not out.is_file():
            out.parent.mkdir(parents=True, exist_ok=True)
            replace_file(out, Path(resolved.reference).read_bytes())


def _copied(one: Imported, out: Path) -> None:
    """Copy the folder of an import: a study holds all that its numbers come from."""
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(mkdtemp(prefix=f".{out.name[:100]}.importing-", dir=out.parent))
    try:
        for name in (RUN, EPISODES, AGGREGATES, STARTED, RESULTS, STAMP):
            if (one.path / name).is_file():
                shutil.copyfile(one.path / name, beside / name)
        load_run(beside)
        beside.chmod(0o755)
        beside.replace(out)
    except OSError as failed:
        raise CannotRunError(f"{out}: cannot be written: {failed.strerror}") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _reference(resolved: Resolved) -> str | None:
    """Of the plan's file: `paper`, or where the file is kept beside plan.json."""
    said = resolved.plan["reference"]
    if said is None or isinstance(said, str):
        return said
    return f"reference/{said['sha256'][:8]}/{said['name']}"


__all__ = ["changes", "digest", "locked", "planned", "recorded", "take_imports", "write"]
