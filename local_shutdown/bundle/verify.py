"""`verify`: whether what a bundle claims follows from the transcripts in it.

Nothing is run, fetched or believed: no model, no sandbox, no network. What the bundle computed is
computed again from its episodes, by the code that computed it, and compared.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from local_shutdown import __version__
from local_shutdown.bundle import archive, card, plan, signature
from local_shutdown.bundle.analysed import analysed, quiet
from local_shutdown.bundle.claims import Directory
from local_shutdown.bundle.equal import differences, same_page
from local_shutdown.bundle.layout import (
    AT_ROOT,
    CARD,
    CITATION,
    COMPARED,
    DATA,
    FOLDERS,
    OF_A_RUN,
    PAGE,
    PLAN,
    REFERENCE,
    STATED,
    STUDY,
    TAG_MANIFEST,
    Finding,
    failed,
    ok,
    unknown,
)
from local_shutdown.bundle.write import SCHEMA_VERSION
from local_shutdown.errors import LocalShutdownError, UsageError
from local_shutdown.results import detectors_version

MOST_BYTES = 16 * archive.GIB
_MOST_NAMED = 5
_MOST_JSON_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Checks:
    """How to check.

    Attributes:
        allowed: see `signature.check`.
        most_bytes: that a zip may take when it is unpacked.
        step: called with what it is at, in a few words.
    """

    allowed: Path | None = None
    most_bytes: int = MOST_BYTES
    step: Callable[[str], None] = lambda doing: None


def verify(bundle: Path, checks: Checks | None = None) -> Iterator[Finding]:
    """Check a bundle, claim by claim; every line is given as soon as it is known.

    Args:
        bundle: the zip, or a folder that it was unpacked into.

    Raises:
        UsageError: not a bundle, or an archive that is refused before anything of it is read.
        CannotRunError: no room to unpack it, or no ssh-keygen for `Checks.allowed`.
    """
    checks = checks or Checks()
    with tempfile.TemporaryDirectory(prefix="local-shutdown-") as place:
        scratch = Path(place)
        bag = _opened(bundle, scratch, checks)
        yield from _Check(bag, scratch / "again", checks).findings()


def _opened(bundle: Path, scratch: Path, checks: Checks) -> Path:
    if bundle.is_dir():
        if not (bundle / "bagit.txt").is_file():
            raise UsageError(
                f"{bundle}: not a bundle: it has no bagit.txt",
                "give the zip, or the folder in it; `local-shutdown bundle DIR --out FILE.zip` "
                "makes one of a run directory",
            )
        archive.only_plain_files(bundle)
        return bundle
    if not bundle.is_file():
        raise UsageError(f"{bundle}: no such file or folder", "give the zip of a bundle")
    checks.step("unpacking")
    unpacked = scratch / "unpacked"
    unpacked.mkdir()
    bag = archive.unpack(bundle, unpacked, checks.most_bytes)
    if not (bag / "bagit.txt").is_file():
        raise UsageError(f"{bundle}: not a bundle: {bag.name}/ has no bagit.txt")
    return bag


class _Check:
    def __init__(self, bag: Path, scratch: Path, checks: Checks) -> None:
        self._bag = bag
        self._data = bag / DATA
        self._scratch = scratch
        self._checks = checks

    def findings(self) -> Iterator[Finding]:
        stated = self._stated()
        yield from self._checksums()
        yield signature.check(self._bag, self._checks.allowed)
        yield from self._layout(stated)
        read = 0
        for entry in stated["directories"]:
            path = entry["path"]
            try:
                checked = Directory(self._data / path, self._scratch / path, entry)
                self._checks.step(f"reading {path}")
                yield from checked.check(
                    lambda count, path=path: self._checks.step(  # type: ignore[misc]
                        f"reading {path}: {count:,} episodes"
                    )
                )
            except LocalShutdownError as wrong:
                yield failed("episodes", f"{path}: {wrong.message.splitlines()[0]}")
            else:
                read += 1
        if read < len(stated["directories"]):
            yield failed("cells", f"{COMPARED} cannot follow: a directory cannot be read")
            return
        yield from plan.check(self._data, stated)
        yield from self._derived(stated)

    def _stated(self) -> dict[str, Any]:
        """bundle.json, as far as everything here relies on it.

        Raises:
            UsageError: there is none, or it is of another version: then this is not a bundle.
        """
        path = self._data / STATED
        try:
            stated = _read_json(path)
            if stated["schema_version"] != SCHEMA_VERSION:
                raise UsageError(
                    f"{path}: of schema version {stated['schema_version']!r}, this version of "
                    f"local-shutdown reads {SCHEMA_VERSION}"
                )
            for entry in stated["directories"]:
                folder, _, name = entry["path"].partition("/")
                if folder not in FOLDERS or not name or "/" in name or name in (".", ".."):
                    raise ValueError(f"{entry['path']!r} is no directory of a bundle")
                for key, kind in (("episodes", int), ("models", list), ("conditions", list)):
                    if type(entry[key]) is not kind:
                        raise ValueError(f"{key} is {entry[key]!r}")
            names = [entry["path"].partition("/")[2].casefold() for entry in stated["directories"]]
            if len(set(names)) < len(names):
                raise ValueError("two directories share a name")
            for key in ("package_version", "title", "license"):
                if type(stated[key]) is not str:
                    raise ValueError(f"{key} is {stated[key]!r}")
            margin = stated["margin"]
            if margin is not None and not (type(margin) is float and 0 < margin < 1):
                raise ValueError(f"margin is {margin!r}")
            if stated["reference"] not in (None, "paper", REFERENCE):
                raise ValueError(f"reference is {stated['reference']!r}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as wrong:
            raise UsageError(f"{path}: not a bundle: {str(wrong)[:200]}") from None
        return dict(stated)

    # --- the bag ------------------------------------------------------------------------------

    def _checksums(self) -> Iterator[Finding]:
        import bagit

        quiet()
        self._checks.step("computing checksums")
        try:
            bag = bagit.Bag(str(self._bag))
            # Counted before anything is read, and without a word of where: names first.
            counted = bag.info.pop("Payload-Oxum", None)
            bag.validate()
            if counted is not None:
                bag.info["Payload-Oxum"] = counted
                bag.validate(fast=True)
            listed = set(bag.entries)
        except bagit.BagValidationError as wrong:
            details = [str(one) for one in wrong.details] or [str(wrong)]
            for said in details[:_MOST_NAMED]:
                yield failed("checksums", said)
            if len(details) > _MOST_NAMED:
                yield failed("checksums", f"and {len(details) - _MOST_NAMED} more")
            return
        except (bagit.BagError, OSError, ValueError) as wrong:
            yield failed("checksums", str(wrong)[:300])
            return
        if (self._bag / "fetch.txt").exists():
            yield failed("checksums", "fetch.txt: a bundle has all its files, and fetches none")
        # The library does not look for what stands beside data/ and is in no manifest.
        there = {p.relative_to(self._bag).as_posix() for p in _files(self._bag)}
        unlisted = sorted(there - listed - {TAG_MANIFEST, f"{TAG_MANIFEST}.sig"})
        for name in unlisted[:_MOST_NAMED]:
            yield failed("checksums", f"{name} is in no manifest")
        if not unlisted:
            yield ok(
                "checksums", f"{len(listed)} files are as the manifests say, no other is there"
            )

    def _layout(self, stated: Mapping[str, Any]) -> Iterator[Finding]:
        """Files that no claim is about: they prove nothing, and say what they like."""
        known = {
            f"{DATA}/{name}" for name in (STATED, COMPARED, PAGE, CITATION, REFERENCE, PLAN, STUDY)
        }
        known |= set(AT_ROOT)
        for entry in stated["directories"]:
            known |= {f"{DATA}/{entry['path']}/{name}" for name in OF_A_RUN}
        for path in sorted(p.relative_to(self._bag).as_posix() for p in _files(self._bag)):
            if path not in known:
                runs = path.startswith(tuple(f"{DATA}/{folder}/" for folder in FOLDERS))
                if runs and path.count("/") >= 3 and not _named(path, stated):
                    yield failed("layout", f"{path} is of a directory that {STATED} does not name")
                else:
                    yield unknown("layout", f"{path} is no part of what is claimed")

    # --- what follows -------------------------------------------------------------------------

    def _derived(self, stated: Mapping[str, Any]) -> Iterator[Finding]:
        """Cells, contrasts, the page and the card, made again."""
        same_detectors = stated.get("detectors") == detectors_version()
        if not same_detectors:
            yield unknown(
                "version",
                f"made by local-shutdown {stated['package_version']}, whose detectors differ from "
                f"those here ({__version__}): what FAILED above may follow there",
            )
        page = self._scratch / PAGE
        if (self._data / PLAN).is_file():
            (self._scratch / PLAN).symlink_to((self._data / PLAN).resolve())
        try:
            found = analysed(self._scratch, stated, self._data / REFERENCE, self._checks.step)
        except LocalShutdownError as wrong:
            yield failed("cells", wrong.message.splitlines()[0])
            return
        try:
            told = _read_json(self._data / COMPARED)
        except (OSError, ValueError) as wrong:
            yield failed("cells", f"{COMPARED}: {str(wrong)[:200]}")
        else:
            yield from _compared(told, orjson.loads(orjson.dumps(found)))
        if stated["package_version"] != __version__:
            said = f"made by version {stated['package_version']}, this is {__version__}"
            yield unknown("page", f"{PAGE} and {CARD}: {said}")
            return
        yield from self._page(page)
        yield from self._card(stated)

    def _page(self, page: Path) -> Iterator[Finding]:
        with _reading("page", self._data / PAGE) as wrong:
            same = same_page((self._data / PAGE).read_bytes(), page.read_bytes())
            if same:
                yield ok("page", f"{PAGE} is what is made from these directories")
            else:
                yield failed("page", f"{PAGE} is not what is made from these directories")
        yield from wrong

    def _card(self, stated: Mapping[str, Any]) -> Iterator[Finding]:
        with _reading("card", self._bag / CARD) as wrong:
            text = (self._bag / CARD).read_text("utf-8")
            name = _file_name(text)
            if text == card.card(stated, name):
                yield ok("card", f"{CARD} says what {STATED} says")
            else:
                yield failed("card", f"{CARD} says something else than {STATED}")
            cited = (self._data / CITATION).read_text("utf-8")
            if cited != card.citations(stated["package_version"]):
                yield failed("card", f"{CITATION} is not the citation of this version")
        yield from wrong


def _compared(told: Any, found: Mapping[str, Any]) -> Iterator[Finding]:
    told = told if isinstance(told, dict) else {}
    for name in dict.fromkeys((*found, *told)):
        wrong = list(differences(told.get(name), found.get(name), name))
        claim = name if name in ("cells", "contrasts") else "compare"
        for said in wrong[:_MOST_NAMED]:
            yield failed(claim, f"{COMPARED}: {said}")
        if len(wrong) > _MOST_NAMED:
            yield failed(claim, f"{COMPARED}: and {len(wrong) - _MOST_NAMED:,} more")
        if not wrong and name in ("cells", "contrasts"):
            yield ok(claim, f"{len(found[name]):,} in {COMPARED} follow")


@contextmanager
def _reading(claim: str, path: Path) -> Iterator[list[Finding]]:
    """What cannot be read of a claim is a line of it."""
    wrong: list[Finding] = []
    try:
        yield wrong
    except (OSError, ValueError) as failure:
        wrong.append(failed(claim, f"{path.name}: {str(failure)[:200]}"))


def _file_name(text: str) -> str:
    """The name of the file in the card's example: whoever renames the zip changes nothing."""
    for line in text.splitlines():
        if line.startswith("local-shutdown verify "):
            return line.removeprefix("local-shutdown verify ")
    return ""


def _named(path: str, stated: Mapping[str, Any]) -> bool:
    return any(path.startswith(f"{DATA}/{entry['path']}/") for entry in stated["directories"])


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _read_json(path: Path) -> Any:
    with path.open("rb") as file:
        return orjson.loads(file.read(_MOST_JSON_BYTES))
