"""Where the files that travel with the package are: in the wheel, or in a source checkout."""

from __future__ import annotations

from collections.abc import Mapping
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
    path = models_yaml()
    if path not in _families:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        keep_families(path, yaml.load(path.read_text("utf-8"), loader)["families"])
    return _families[path]


def keep_families(path: Path, families: Mapping[str, Mapping[str, Any]]) -> None:
    """Of the model registry, once somebody else has read it: reading it takes 50 ms."""
    if path == models_yaml():
        _families[path] = families


_families: dict[Path, Mapping[str, Mapping[str, Any]]] = {}


def data(name: str) -> Path:
    """A file or folder of `local_shutdown/data/`."""
    return _PACKAGE / "data" / name
