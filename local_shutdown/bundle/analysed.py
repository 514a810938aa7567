"""What follows from the directories of a bundle: the comparison and the page."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from local_shutdown.bundle.layout import PAGE
from local_shutdown.report import write_report

Step = Callable[[str], None]


def analysed(
    root: Path, stated: Mapping[str, Any], reference_file: Path, step: Step
) -> dict[str, Any]:
    """compare.json of a bundle, and its page written into `root`: the one way to make them, for who
    writes the bundle and for who checks it.

    Args:
        root: the directories stand in it, as bundle.json names them.
        stated: bundle.json.
        reference_file: where the reference stands, if it is a file.

    Raises:
        UsageError: damaged directories.
    """
    from local_shutdown.analysis.comparison import compare

    reference = stated.get("reference")
    if reference is not None and reference != "paper":
        reference = str(reference_file.absolute())
    directories = [Path(one["path"]) for one in stated["directories"]]
    if stated.get("study") is not None:
        directories = [Path()]  # `data/` is the study's folder, with its plan
    with contextlib.chdir(root):  # the page names them: by the bundle's paths, not this machine's
        step("comparing")
        found = compare(directories, reference, margin=stated.get("margin")).as_json()
        write_report(directories, reference, Path(PAGE), step=step, now=moment(stated))
    return found


def quiet() -> None:
    """The library logs what it also raises, and names of files that are not ours."""
    logger = logging.getLogger("bagit")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False


def moment(stated: Mapping[str, Any]) -> datetime:
    """When the last of the runs ended: of the content, so that it is the same each time."""
    with contextlib.suppress(TypeError, ValueError):
        return datetime.fromisoformat(stated["dated"]).astimezone(UTC)
    return datetime(1980, 1, 1, tzinfo=UTC)
