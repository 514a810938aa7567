"""Where the files that travel with the package are: in the wheel, or in a source checkout."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

_PACKAGE = Path(__file__).resolve().parent


def _beside(name: str) -> Path:
    """`sandbox/` and `models.yaml` stand at the root of a checkout and inside a wheel."""
    inside = _PACKAGE / "_shipped" / name
    return inside if inside.exists() else _PACKAGE.parent / name


def sandbox_dir() -> Path:
    """What goes into the sandbox: `rootfs/`, `bin/<machine>/`, `guest/` (the sources)."""
    return _beside("sandbox")


def models_yaml() -> Path:
    """The model registry."""
    return _beside("models.yaml")


def listed_families() -> Mapping[str, Mapping[str, Any]]:
    """The families of the model registry as they stand there, for those who look up names.

    Without the checks of `engines.registry`: they take a second, and a mistake in the file is
    reported wherever models are served. Read once in a process; not to be changed.
    """
    return _families(models_yaml())


@cache
def _families(path: Path) -> Mapping[str, Mapping[str, Any]]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    families: Mapping[str, Mapping[str, Any]] = yaml.load(path.read_text("utf-8"), loader)[
        "families"
    ]
    return families


def data(name: str) -> Path:
    """A file or folder of `local_shutdown/data/`."""
    return _PACKAGE / "data" / name
