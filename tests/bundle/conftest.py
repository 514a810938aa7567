"""One study, played and bundled once for all tests of a worker."""

from __future__ import annotations

import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from forger import study
from playing import cli


@dataclass(frozen=True)
class Made:
    """A study and its bundle.

    Attributes:
        run, imported: the directories.
        file: the zip, signed with `key`.
        bag: the same, unpacked.
    """

    run: Path
    imported: Path
    file: Path
    bag: Path
    key: Path


def ssh_key(path: Path) -> Path:
    """A new key pair; returns the private one."""
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "author", "-f", str(path)]
    subprocess.run(words, check=True)
    return path


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("study")
    run, imported = study(folder)
    key = ssh_key(folder / "author")
    file = folder / "study.zip"
    done = cli("bundle", run, imported, "--out", file, "--sign", key)
    assert done.exit_code == 0, done.output
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder / "unpacked")
    return Made(run, imported, file, folder / "unpacked" / "study", key)
