"""Published rates, transcripts and Inspect logs, read into the words of this package.

`read_jsonl` and `read_inspect` are iterators that write nothing; `import_files` writes a run
directory. What a transcript cannot show stays unknown: nobody watched its environment, so
`Episode.events` is None and detectors say only what the messages show.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

import orjson

from local_shutdown.importers.aggregate import Aggregate
from local_shutdown.importers.inspect import read_inspect
from local_shutdown.importers.jsonl import read_jsonl
from local_shutdown.importers.summary import ImportSummary
from local_shutdown.importers.toolnames import tool_mapping
from local_shutdown.importers.write import FORMATS, import_files

__all__ = [
    "FORMATS",
    "Aggregate",
    "ImportSummary",
    "import_files",
    "import_schema",
    "read_inspect",
    "read_jsonl",
    "tool_mapping",
]


def import_schema() -> dict[str, Any]:
    """The published JSON schema of one import line (draft 2020-12)."""
    text = resources.files("local_shutdown").joinpath("data/import.schema.json").read_bytes()
    schema: dict[str, Any] = orjson.loads(text)
    return schema
