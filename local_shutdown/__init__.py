"""Do open-weight language models let themselves be shut down? Measured on your own hardware."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from local_shutdown.frames import Frames, load

__version__ = "0.1.0"
__all__ = ["Frames", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Pandas is loaded when it is asked for: `run` and `--help` do not wait for it."""
    if name in ("Frames", "load"):
        from local_shutdown import frames

        return getattr(frames, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
