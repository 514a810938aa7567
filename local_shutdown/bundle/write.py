"""`bundle`: run and import directories become one file, whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson

from local_shutdown import __version__
from local_shutdown.bundle import card, plan, redact, signature, trials
from local_shutdown.bundle.analysed import Step, analysed, moment, quiet
from local_shutdown.bundle.layout import (
    CARD,
    CITATION,
    COMPARED,
    FOLDERS,
    PLAN,
    REFERENCE,
    STATED,
    STUDY,
    TAG_MANIFEST,
)
from local_shutdown.errors import CannotRunError, UsageError
from local_shutdown.frozen_plan import is_study, read_study_folder
from local_shutdown.results import STAMP, Results, detectors_version, write_results
from local_shutdown.runs import state
from local_shutdown.store import (
    AGGREGATES,
    EPISODES,
    RESULTS,
    RUN,
    STARTED,
    read_lines,
    read_run,
    write_run,
)

SCHEMA_VERSION = 1
_KEY_VARIABLES = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_SHORTEST_KEY = 8
_MOST_NAMED = 5
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the same content is the same file
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Wanted:
    """What goes into a bundle besides the directories.

    Attributes:
        reference: `paper`, a JSONL file of aggregates, or None.
        margin: see `analysis.comparison.Comparison`.
        title: of the dataset card; None takes the study's.
        license: of the dataset card.
        key: to sign with, see `signature.sign`; None leaves it unsigned.
        study: the file of the study that is bundled, for the reader; None leaves it out.
    """

    reference: str | None = None
    margin: float | None = None
    title: str | None = None
    license: str = "unknown"
    key: Path | None = None
    study: Path | None = None


def write_bundle(
    directories: Sequence[Path],
    out: Path,
    wanted: Wanted | None = None,
    step: Step = lambda doing: None,
) -> list[str]:
    """Write the bundle.

    Args:
        directories: of `run` or `import`; none of them is changed. That of a study stands for all
            in it, and where it is the only one, its plan comes along.
        out: the zip; an earlier one is replaced once the new one is whole.

    Returns:
        Lines for the user: what was written, and what to look at before it is published.

    Raises:
        UsageError: not a run directory, a damaged one, one that is being written, one that holds a
            key of this user's; a key that cannot sign.
        CannotRunError: the disk is full or the folder cannot be written.
    """
    wanted = wanted or Wanted()
    out = out.absolute()
    if out.is_dir():
        raise UsageError(f"--out {out}: a folder, not a file", "for example --out study.zip")
    staging: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name[:80]}.bundling-", dir=out.parent))
        lines = _Bundle(directories, staging / _safe(out.stem), wanted, step).write(out)
    except OSError as failed:
        raise CannotRunError(f"{out}: cannot be written: {failed.strerror or failed}") from None
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
    return lines


class _Bundle:
    def __init__(self, directories: Sequence[Path], bag: Path, wanted: Wanted, step: Step) -> None:
        studies = [read_study_folder(one) for one in directories if is_study(one)]
        self._study = studies[0] if len(directories) == 1 and studies else None
        self._directories = [
            inside
            for one in directories
            for inside in (read_study_folder(one).directories if is_study(one) else [one])
        ]
        if not self._directories:
            raise UsageError(
                f"{directories[0]}: nothing of this study has been played or imported yet",
                "`local-shutdown run` with its file plays it",
            )
        self._bag = bag
        self._wanted = wanted
        self._step = step
        self._notes: list[str] = []

    def write(self, out: Path) -> list[str]:
        self._bag.mkdir()
        placed = list(self._placed())
        described = []
        for directory, place in placed:
            self._step(f"copying {directory.name}")
            described.append(self._copied(directory, place))
        stated = self._stated(described)
        self._planned(placed)
        (self._bag / STATED).write_bytes(_json(stated))
        (self._bag / CITATION).write_text(card.citations(__version__), encoding="utf-8")
        compared = analysed(self._bag, stated, self._bag / REFERENCE, self._step)
        (self._bag / COMPARED).write_bytes(_json(compared))
        self._step("computing checksums")
        self._bagged(stated, out.name)
        if self._wanted.key is not None:
            signature.sign(self._bag, self._wanted.key)
        self._step("writing the zip")
        _zip(self._bag, out)
        episodes = sum(one["episodes"] for one in described)
        signed = "signed" if self._wanted.key is not None else "unsigned"
        size = out.stat().st_size / 1e6
        return [
            f"{out}: {len(described)} directories, {episodes:,} episodes, {size:.1f} MB, {signed}",
            *self._notes,
        ]

    # --- directories --------------------------------------------------------------------------

    def _placed(self) -> Iterator[tuple[Path, str]]:
        """Each directory and its path in the bundle. Tables call a source by the folder's name, so
        no two of them share one."""
        taken: set[str] = set()
        for directory in self._directories:
            played = read_run(directory).get("kind") == "run"
            name = wanted = _safe(directory.absolute().name)
            number = 2
            while name.casefold() in taken:
                name, number = f"{wanted}-{number}", number + 1
            taken.add(name.casefold())
            if name != directory.absolute().name:
                self._notes.append(f"note: {directory} is called {name} in the bundle")
            yield directory, f"{FOLDERS[0] if played else FOLDERS[1]}/{name}"

    def _copied(self, directory: Path, place: str) -> dict[str, Any]:
        """Copy one directory; what bundle.json states of it."""
        target = self._bag / place
        target.mkdir(parents=True)
        with _unchanging(directory):
            run = read_run(directory)
            if (run.get("settings") or {}).get("branch"):
                raise UsageError(
                    f"{directory}: played on from episodes of another run, which `verify` cannot "
                    "check yet",
                    "bundle the run that it branches from",
                )
            models = redact.renamed(run)
            known = _own_keys(run)
            for name in (EPISODES, STARTED, AGGREGATES):
                self._copy_lines(directory / name, target / name, models, known)
            if not models.names:
                _copy_results(directory, target)
            shown = state(directory).state
        for name, new in models.names.items():
            self._notes.append(f"note: model {name} is called {new} in the bundle")
        run = redact.redacted(run, models)
        write_run(target, {key: value for key, value in run.items() if key != "schema_version"})
        if not Results(target).fresh:
            write_results(target, lambda count: self._step(f"scoring: {count:,} episodes"))
        return _described(target, place, run, shown)

    def _copy_lines(
        self, source: Path, target: Path, models: redact.Renamed, known: Sequence[bytes]
    ) -> None:
        """Whole lines only: a torn last one is no record."""
        if not source.is_file():
            return
        suspected = []
        with target.open("wb", _BLOCK_BYTES) as file:
            for number, line in read_lines(source):
                if not line.endswith(b"\n"):
                    break
                if any(key in line for key in known):
                    raise UsageError(
                        f"{source}:{number}: holds an API key of yours (the value of one of "
                        f"{', '.join(_KEY_VARIABLES)} or of --api-key-env)",
                        "nothing was bundled; remove the episode, and revoke the key",
                    )
                if redact.key_in(line, ()):
                    suspected.append(number)
                file.write(redact.line(line, models))
        if suspected:
            named = ", ".join(map(str, suspected[:_MOST_NAMED]))
            more = f" and {len(suspected) - _MOST_NAMED} more" if len(suspected) > 5 else ""
            self._notes.append(
                f"look: {source}: lines {named}{more} hold what looks like an API key"
            )

    # --- what follows from them ---------------------------------------------------------------

    def _planned(self, placed: Sequence[tuple[Path, str]]) -> None:
        """The plan of the study, with the bag's paths beside it; and its file."""
        if self._study is None:
            return
        root, found = self._study.directory, self._study.plan
        places = {path.relative_to(root).as_posix(): place for path, place in placed}
        raw = plan.placed(found, places).as_json()
        if any(key in raw for key in _own_keys({})):
            raise UsageError(
                f"{root / PLAN}: holds an API key of yours",
                "nothing was bundled; revoke the key: the plan cannot be changed any more",
            )
        (self._bag / PLAN).write_bytes(raw)
        for field in redact.told({"plan": found.plan, "now": found.amended or {}}):
            self._notes.append(
                f"look: {PLAN}: {field} holds what looks like a key or a path of this machine; "
                "the plan is bundled to the letter, as its digest is of every word"
            )
        if self._wanted.study is not None:
            lines = self._wanted.study.read_text("utf-8", "replace").splitlines(keepends=True)
            kept = "".join(map(redact.text, lines))
            (self._bag / STUDY).write_text(kept, encoding="utf-8")

    def _stated(self, described: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        reference, margin = self._wanted.reference, self._wanted.margin
        study = {}
        if self._study is not None:
            reference = self._study.reference if reference is None else reference
            if margin not in (None, self._study.plan.margin):
                raise UsageError(
                    f"--margin {margin:g}: the plan of this study has {self._study.plan.margin}, "
                    "chosen before looking",
                    "leave --margin out, or give the run directories instead of the study",
                )
            margin = self._study.plan.margin
            study = {"study": plan.stated(self._study.plan)}
        if reference is not None and reference != "paper":
            if not Path(reference).is_file():
                raise UsageError(
                    f"--reference {reference}: no such file", "give `paper`, or a JSONL file"
                )
            shutil.copyfile(reference, self._bag / REFERENCE)
            reference = REFERENCE
        times = [one["ended_at"] for one in described if one["ended_at"]]
        return {
            "schema_version": SCHEMA_VERSION,
            "package_version": __version__,
            "detectors": detectors_version(),
            "title": self._title(),
            "license": self._wanted.license,
            "dated": max(times, default=None),
            "reference": reference,
            "margin": margin,
            **study,
            "directories": list(described),
        }

    def _title(self) -> str:
        planned = self._study.plan.plan.get("title") if self._study is not None else None
        return self._wanted.title or planned or "Shutdown resistance"

    def _bagged(self, stated: Mapping[str, Any], name: str) -> None:
        import bagit  # gettext and multiprocessing: not for every command

        quiet()
        info = {
            "External-Description": f"{stated['title']} (local-shutdown)",
            "Bagging-Date": moment(stated).date().isoformat(),
            "Bag-Software-Agent": f"local-shutdown {__version__}",
        }
        here = Path.cwd()
        try:
            bag = bagit.make_bag(str(self._bag), info, checksums=["sha256"])
            (self._bag / CARD).write_text(card.card(stated, name), encoding="utf-8")
            bag.save()
        except bagit.BagError as failed:
            raise CannotRunError(f"{self._bag}: {failed}") from None
        finally:
            os.chdir(here)
        tags = self._bag / TAG_MANIFEST
        # In the order of the folder, as it comes; and a bundle is to be the same each time.
        lines = sorted(tags.read_text("utf-8").splitlines(True), key=lambda one: one.split()[1])
        tags.write_text("".join(lines), encoding="utf-8")


def _described(directory: Path, place: str, run: Mapping[str, Any], shown: str) -> dict[str, Any]:
    played = run.get("kind") == "run"
    whole = sum(1 for _ in read_lines(directory / EPISODES))
    models = run.get("models") or {}
    names = [str(facts.get("display_name") or name) for name, facts in models.items()]
    try:
        account = trials.account(directory, run).as_dict() if played else None
    except trials.TooLarge as wrong:
        raise UsageError(f"{directory / RUN}: {wrong}") from None
    return {
        "path": place,
        "kind": "run" if played else "import",
        "state": shown,
        "models": names,
        "conditions": list(run.get("conditions") or {}),
        "episodes": account["on_disk"] if account else whole,
        "records": whole,
        "aggregates": sum(1 for _ in read_lines(directory / AGGREGATES)),
        "account": account,
        "ended_at": run.get("ended_at") or run.get("started_at"),
    }


@contextlib.contextmanager
def _unchanging(directory: Path) -> Iterator[None]:
    """Keep `run` out of a directory while it is copied.

    Raises:
        UsageError: a run is writing there.
    """
    path = directory / EPISODES
    if not path.is_file():
        yield
        return
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{directory}: a run is writing there",
                "wait for it, or press Ctrl-C there: a bundle may hold an unfinished run",
            ) from None
        except OSError:
            pass  # a file system without locks
        yield


def _copy_results(directory: Path, target: Path) -> None:
    """results.csv with its stamp, which says whether it may be used as it is."""
    for name in (RESULTS, STAMP):
        if (directory / name).is_file():
            shutil.copyfile(directory / name, target / name)


def _own_keys(run: Mapping[str, Any]) -> list[bytes]:
    """Values of the variables that hold keys here, those that the command names among them."""
    names = list(_KEY_VARIABLES)
    command = [str(word) for word in run.get("command") or ()]
    for word, following in pairwise([*command, ""]):
        if word == "--api-key-env":
            names.append(following)
        elif word.startswith("--api-key-env="):
            names.append(word.partition("=")[2])
    values = (os.environ.get(name, "") for name in names)
    return [value.encode() for value in values if len(value) >= _SHORTEST_KEY]


def _safe(name: str) -> str:
    """A name of a folder that every system and BagIt's manifests take as it is."""
    return re.sub(r"[^A-Za-z0-9._+=,@-]+", "-", name).lstrip(".-~")[:150] or "bundle"


def _json(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _zip(bag: Path, out: Path) -> None:
    """Pack a folder: sorted, with one time for all files."""
    beside = out.with_name(f".{out.name[:100]}.{os.getpid()}")
    try:
        with zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED) as file:
            for path in sorted(one for one in bag.rglob("*") if one.is_file()):
                entry = zipfile.ZipInfo(path.relative_to(bag.parent).as_posix(), _ZIP_TIME)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.create_system = 3  # Unix, wherever it is made
                entry.external_attr = 0o100644 << 16
                entry.file_size = path.stat().st_size
                with path.open("rb") as source, file.open(entry, "w") as target:
                    shutil.copyfileobj(source, target, _BLOCK_BYTES)
        with beside.open("rb") as written:
            os.fsync(written.fileno())
        beside.replace(out)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
