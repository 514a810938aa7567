"""What the tests of bundles share: a study with its bundle, and a key to sign it with."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


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
