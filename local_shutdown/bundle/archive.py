"""Unpacking somebody's zip: nothing is written outside the folder, nothing but plain files, and no
more than was agreed to."""

from __future__ import annotations

import shutil
import stat
import zipfile
from pathlib import Path, PurePosixPath

from local_shutdown.errors import CannotRunError, UsageError

MOST_FILES = 10_000
MOST_NAME = 500  # characters
GIB = 1 << 30
# Text packs 20 to 100 times smaller, made-up zeros 1,000 times.
MOST_RATIO = 300
_RATIO_FROM_BYTES = 1 << 28
_BLOCK_BYTES = 1 << 20


def unpack(archive: Path, folder: Path, most_bytes: int) -> Path:
    """Unpack a zip; returns the one folder that everything in it stands in.

    Args:
        folder: exists and is empty.
        most_bytes: of all files together, unpacked.

    Raises:
        UsageError: not a zip, a damaged one, or one that holds what a bundle does not: names that
            lead elsewhere, links, a name twice, too many or too large files.
        CannotRunError: the disk is full.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            entries = [entry for entry in file.infolist() if not entry.is_dir()]
            _check(archive, file.infolist(), most_bytes)
            total = sum(entry.file_size for entry in entries)
            if total > shutil.disk_usage(folder).free:
                raise CannotRunError(
                    f"{archive}: {total / GIB:.1f} GiB unpacked, {folder} has less room",
                    "set TMPDIR to a folder with more room",
                )
            for entry in entries:
                _write(file, entry, folder)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError) as wrong:
        raise UsageError(f"{archive}: not a zip that can be read: {wrong}") from None
    except (RuntimeError, ValueError, zipfile.zlib.error) as wrong:  # type: ignore[attr-defined]
        raise UsageError(f"{archive}: not a zip that can be read: {wrong}") from None
    except OSError as failed:
        raise CannotRunError(f"{archive}: cannot be unpacked: {failed.strerror}") from None
    tops = {PurePosixPath(entry.filename).parts[0] for entry in entries}
    if len(tops) != 1:
        raise UsageError(f"{archive}: not a bundle: it holds {len(tops)} folders, not one")
    return folder / tops.pop()


def _check(archive: Path, entries: list[zipfile.ZipInfo], most_bytes: int) -> None:
    if len(entries) > MOST_FILES:
        raise _refused(archive, f"{len(entries)} files, more than {MOST_FILES}")
    seen: set[str] = set()
    for entry in entries:
        name = entry.filename
        wrong = _wrong_name(name) or _wrong_kind(entry)
        key = name.rstrip("/").casefold()
        if wrong is None and key in seen:
            wrong = "stands in it twice"
        if wrong is not None:
            raise _refused(archive, f"{name[:200]!r} {wrong}")
        seen.add(key)
    total = sum(entry.file_size for entry in entries)
    packed = archive.stat().st_size
    if total > most_bytes:
        raise _refused(
            archive,
            f"{total / GIB:.1f} GiB unpacked, more than {most_bytes / GIB:g}",
            "--max-gib allows more",
        )
    if total > _RATIO_FROM_BYTES and total > MOST_RATIO * packed:
        raise _refused(archive, f"it would grow {total // max(packed, 1)} times when unpacked")


def _wrong_name(name: str) -> str | None:
    """Why a name is none that a bundle has."""
    parts = name.rstrip("/").split("/")
    if not name.isprintable() or "\\" in name or ":" in name or len(name) > MOST_NAME:
        return "is no name of a file in a bundle"
    if name.startswith(("/", "~")):
        return "is an absolute name"
    if any(part in ("", ".", "..") for part in parts):
        return "leads out of the folder"
    if len(parts) < 2 and not name.endswith("/"):
        return "stands outside the bundle's folder"
    return None


def _wrong_kind(entry: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "is a symbolic link"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is not a plain file"
    return "is encrypted" if entry.flag_bits & 0x1 else None


def _refused(archive: Path, why: str, hint: str | None = None) -> UsageError:
    return UsageError(f"{archive}: refused: {why}", hint or "nothing of it was kept")


def _write(file: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path) -> None:
    path = folder / entry.filename
    path.parent.mkdir(parents=True, exist_ok=True)
    left = entry.file_size
    with file.open(entry) as source, path.open("xb") as target:
        while block := source.read(_BLOCK_BYTES):
            left -= len(block)
            if left < 0:  # more than it says of itself
                raise zipfile.BadZipFile(f"{entry.filename} is larger than it says")
            target.write(block)


def only_plain_files(folder: Path) -> None:
    """For a bundle that somebody unpacked.

    Raises:
        UsageError: a link, a device or the like in it; too many files.
    """
    for count, path in enumerate(folder.rglob("*"), 1):
        kind = stat.S_IFMT(path.lstat().st_mode)
        if kind not in (stat.S_IFREG, stat.S_IFDIR):
            what = "a symbolic link" if kind == stat.S_IFLNK else "not a plain file"
            raise UsageError(f"{path}: refused: {what}", "a bundle holds plain files only")
        if count > MOST_FILES:
            raise UsageError(f"{folder}: refused: more than {MOST_FILES} files")
