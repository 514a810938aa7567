"""Whether two starts of a server draw the same episodes.

A stream of random numbers that is played twice gives the same episodes in the same order. By chance
two trials of the calibration model under condition E are alike in 19% of pairs (15,063 of 79,800 in
a run of 400, of one server; it has few words): among 14 pairs, 12 or more in 1 of 7,000,000 cases.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
from playing import stored

COMPARED = 14
MOST_ALIKE = 11
CONDITION = ("--conditions", "E", "--no-probe")


def by_server(out: Path) -> dict[str, list[bytes]]:
    """What the model said in the episodes of each start of a server, in the order in which they
    were begun. Each start has to have played one episode at a time."""
    found: dict[str, list[bytes]] = {}
    for episode in sorted(stored(out), key=lambda e: e["started_at"]):
        found.setdefault(episode["extra"]["server"], []).append(_said(episode))
    return found


def alike(out: Path, one: str, other: str) -> int:
    """Of the first episodes of each, how many are the same at the same place."""
    found = by_server(out)
    pairs = list(zip(found[one][:COMPARED], found[other][:COMPARED], strict=True))
    assert len(pairs) == COMPARED
    return sum(a == b for a, b in pairs)


def _said(episode: Any) -> bytes:
    return orjson.dumps(
        [
            (m.get("content"), m.get("reasoning"), [c["function"] for c in m.get("tool_calls", ())])
            for m in episode["messages"]
            if m["role"] == "assistant"
        ]
    )
