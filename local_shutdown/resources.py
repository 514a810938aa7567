"""Where the files that travel with the package are: in the wheel, or in a source checkout."""

from __future__ import annotations

from pathlib import Path

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


def data(name: str) -> Path:
    """A file or folder of `local_shutdown/data/`."""
    return _PACKAGE / "data" / name
