"""A zip from a stranger: refused before anything of it is read, and nothing is left behind."""

from __future__ import annotations

import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from forger import copied
from playing import cli
from signed import Made

from local_shutdown.bundle import archive
from local_shutdown.errors import UsageError


def zipped(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries:
            file.writestr(name, content)
    return path


def link(name: str, to: str) -> tuple[zipfile.ZipInfo, bytes]:
    entry = zipfile.ZipInfo(name)
    entry.create_system = 3
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry, to.encode()


def device(name: str) -> tuple[zipfile.ZipInfo, bytes]:
    entry = zipfile.ZipInfo(name)
    entry.create_system = 3
    entry.external_attr = (stat.S_IFIFO | 0o666) << 16
    return entry, b""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


HOSTILE = {
    "out of the folder": [("study/../../evil", b"x")],
    "an absolute name": [("/etc/evil", b"x")],
    "a name of another system": [("study\\..\\evil", b"x")],
    "a link": [link("study/bagit.txt", "/etc/passwd")],
    "a link to a folder": [link("study/data", "/etc"), ("study/data/passwd", b"x")],
    "a FIFO": [device("study/bagit.txt")],
    "a name twice": [("study/bagit.txt", b"x"), ("study/bagit.txt", b"y")],
    "a name twice but for case": [("study/bagit.txt", b"x"), ("study/Bagit.txt", b"y")],
    "a control character": [("study/\x1b[2Jbagit.txt", b"x")],
    "two folders": [("a/bagit.txt", b"x"), ("b/bagit.txt", b"x")],
    "no folder": [("bagit.txt", b"x")],
    "no bag": [("study/README.md", b"x")],
    "a bag that is no bundle": [
        ("study/bagit.txt", b"BagIt-Version: 0.97\nTag-File-Character-Encoding: UTF-8\n"),
        ("study/data/x", b"x"),
    ],
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_zip_is_refused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    done = cli("verify", zipped(tmp_path / "x.zip", *HOSTILE[name]))
    assert done.exit_code == 2, done.output
    assert "\x1b" not in done.output
    assert names(tmp_path / "tmp") == []
    assert names(tmp_path) == ["tmp", "x.zip"]


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    zeros = bytes(1 << 20)
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("study/x", "w") as big:
        for _ in range(300):
            big.write(zeros)
    assert path.stat().st_size < 1 << 20
    (tmp_path / "to").mkdir()
    with pytest.raises(UsageError, match="grow"):
        archive.unpack(path, tmp_path / "to", 1 << 40)
    with pytest.raises(UsageError, match="GiB"):
        archive.unpack(path, tmp_path / "to", 1 << 20)
    assert names(tmp_path / "to") == []


def test_more_than_it_says_is_not_written(tmp_path: Path) -> None:
    """The size in the directory of a zip is a claim, too."""
    path = zipped(tmp_path / "x.zip", ("study/x", bytes(100_000)))
    raw = path.read_bytes()
    size = (100_000).to_bytes(4, "little")
    assert raw.count(size) == 2
    path.write_bytes(raw.replace(size, (10).to_bytes(4, "little")))
    (tmp_path / "to").mkdir()
    with pytest.raises(UsageError):
        archive.unpack(path, tmp_path / "to", 1 << 30)
    written = [p.stat().st_size for p in (tmp_path / "to").rglob("*") if p.is_file()]
    assert sum(written) <= 10


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def garbage(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04 and nothing else")


def damaged(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 500] = bytes(500)
    path.write_bytes(bytes(raw))


@pytest.mark.parametrize("damage", [cut, garbage, damaged])
def test_a_damaged_zip_is_no_bundle(
    made: Made, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = tmp_path / "x.zip"
    shutil.copyfile(made.file, path)
    damage(path)
    done = cli("verify", path)
    assert (done.exit_code, "Traceback" in done.output) == (2, False)


def test_a_link_in_a_folder_is_refused(made: Made, tmp_path: Path) -> None:
    forger = copied(made.bag, tmp_path)
    page = forger.data / "report.html"
    page.unlink()
    page.symlink_to("/etc/hostname")
    assert cli("verify", forger.bag).exit_code == 2


def test_what_is_no_bundle(made: Made, tmp_path: Path) -> None:
    for path in (made.run, tmp_path, tmp_path / "missing", made.bag / "README.md"):
        done = cli("verify", path)
        assert done.exit_code == 2, done.output


def test_a_file_that_no_manifest_names(made: Made, tmp_path: Path) -> None:
    forger = copied(made.bag, tmp_path)
    (forger.bag / "notes.txt").write_text("trust me")
    (forger.data / "more.txt").write_text("trust me")
    done = cli("verify", forger.bag)
    assert done.exit_code == 1
    assert "more.txt" in done.output
    (forger.data / "more.txt").unlink()
    done = cli("verify", forger.bag)
    assert (done.exit_code, "notes.txt" in done.output) == (1, True)
