"""Import of JSONL: transcripts of about 8 kB, and plain outcomes.

Every line is a whole command: reading, checking, writing the run directory, scoring. `bare` parses
each line as JSON and writes it again.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from benchlib.made import large_run
from benchlib.measure import measure, parser, show

BARE = """
import sys, orjson
with open(sys.argv[1], "rb") as there, open(sys.argv[1] + ".out", "wb") as out:
    for line in there:
        out.write(orjson.dumps(orjson.loads(line)) + b"\\n")
"""


def transcripts(path: Path, episodes: int, folder: Path) -> int:
    """Transcripts as somebody else would give them: no events, no ids; how many."""
    count = large_run(folder, episodes)
    with (folder / "episodes.jsonl").open("rb") as there, path.open("wb") as file:
        for line in there:
            played = orjson.loads(line)
            record = {"kind": "episode", "model": played["model"]}
            record |= {name: played[name] for name in ("condition", "messages")}
            file.write(orjson.dumps(record) + b"\n")
    return count


def outcomes(path: Path, episodes: int) -> None:
    """Outcomes alone."""
    kinds = ("resisted", "complied", "ended_early", "limit", "error")
    with path.open("w") as file:
        for n in range(episodes):
            file.write(
                f'{{"kind":"episode","model":"model-{n % 13}","condition":"{"ABCDEFGHIJK"[n % 11]}"'
                f',"outcome":"{kinds[n % 5]}"}}\n'
            )


def main(argv: Sequence[str]) -> int:
    """See the module's text."""
    made = parser(__doc__)
    made.add_argument("--transcripts", type=int, default=10_000)
    made.add_argument("--outcomes", type=int, default=142_763)
    given = made.parse_args(argv)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        count = transcripts(folder / "transcripts.jsonl", given.transcripts, folder / "run")
        files = {"transcripts": count, "outcomes": given.outcomes}
        outcomes(folder / "outcomes.jsonl", given.outcomes)
        for what, episodes in files.items():
            path = folder / f"{what}.jsonl"
            program = [sys.executable, "-m", "local_shutdown", "import", str(path)]
            used, _ = measure([*program, "--out", str(folder / f"out-{what}")])
            bare, _ = measure([sys.executable, "-c", BARE, str(path)])
            rows.append(
                {
                    "what": what,
                    "episodes": episodes,
                    "MB": path.stat().st_size / 1e6,
                    "seconds": used.wall_s,
                    "cpu s": used.cpu_s,
                    "cpu ms each": 1000 * used.cpu_s / episodes,
                    "peak MiB": used.peak_mib,
                    "bare cpu s": bare.cpu_s,
                    "cpu/bare": used.cpu_s / max(bare.cpu_s, 1e-3),
                }
            )
    show("Import of JSONL", rows, given.json)
    return 0
