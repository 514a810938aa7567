"""One study, played and bundled once for all tests of a worker."""

from __future__ import annotations

import zipfile

import pytest
from forger import study
from playing import cli
from signed import Made, ssh_key


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
