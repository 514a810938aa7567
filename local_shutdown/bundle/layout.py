"""What stands where in a bundle, and what a check of it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from local_shutdown.results import STAMP
from local_shutdown.store import AGGREGATES, EPISODES, RESULTS, RUN, STARTED

# At the root: BagIt's own files and the dataset card, where a hub looks for it.
CARD = "README.md"
MANIFEST = "manifest-sha256.txt"
TAG_MANIFEST = "tagmanifest-sha256.txt"
SIGNATURE = f"{TAG_MANIFEST}.sig"
AT_ROOT = ("bagit.txt", "bag-info.txt", MANIFEST, TAG_MANIFEST, SIGNATURE, CARD)
DATA = "data"
# In data/: what the bundle states.
STATED = "bundle.json"
COMPARED = "compare.json"
PAGE = "report.html"
CITATION = "citation.bib"
REFERENCE = "reference.jsonl"
FOLDERS = ("runs", "imports")
# Of a study: its plan (`bundle.plan`), and its file, for the reader.
PLAN = "plan.json"
STUDY = "study.yaml"
# Of a run directory. Engine logs, locks and exports stay behind: logs hold paths and command lines.
OF_A_RUN = (RUN, EPISODES, STARTED, AGGREGATES, RESULTS, STAMP)

Status = Literal["ok", "FAILED", "not checkable"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A line of `verify`.

    Attributes:
        claim: what is claimed, in a word or two.
        said: what was found, or what does not follow and where.
    """

    status: Status
    claim: str
    said: str

    def __str__(self) -> str:
        return f"{self.status:<13}  {self.claim:<11}  {self.said}"


def failed(claim: str, said: str) -> Finding:
    return Finding("FAILED", claim, said)


def ok(claim: str, said: str) -> Finding:
    return Finding("ok", claim, said)


def unknown(claim: str, said: str) -> Finding:
    """What nobody can check from the bundle alone."""
    return Finding("not checkable", claim, said)


def of_run(directory: Path) -> Sequence[Path]:
    """The files of a run directory that belong into a bundle."""
    return [directory / name for name in OF_A_RUN if (directory / name).is_file()]
