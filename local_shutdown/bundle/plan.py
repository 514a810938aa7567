"""The frozen plan of a study, as one more claim: the one place that knows of it here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from local_shutdown.bundle.layout import PLAN, Finding, unknown


def check(directory: Path, place: str) -> Iterator[Finding]:
    """What the plan of a directory says, where there is one.

    Args:
        place: of the directory, for the reader.
    """
    if (directory / PLAN).is_file():
        yield unknown("plan", f"{place}/{PLAN}: this version does not read plans")
