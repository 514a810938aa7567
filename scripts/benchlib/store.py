"""Large run directories: going on with one, scoring, comparing, reporting.

The episodes were played in real sandboxes and then multiplied, about 10 kB each. `bare` does the
least that could answer: it reads the same files once, as lines (resume), as JSON (score), as CSV
(compare), or both (report), and keeps nothing. Seconds are of whole commands, Python's start
included; `cpu/bare` is the ratio of processor seconds.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchlib.made import large_run
from benchlib.measure import measure, parser, show

RESUME = """
import sys
from pathlib import Path
from local_shutdown.batch import plan
from local_shutdown.grid import choose
from local_shutdown.store import Store
with Store(Path(sys.argv[1])) as store:
    done = store.finished()
print(len(done), sum(1 for _ in plan("model-0", choose("A-K"), 1000, done)), "missing of model-0")
"""
LINES = "for line in open(sys.argv[1] + '/episodes.jsonl', 'rb'): pass"
BARE = {
    "resume": f"import sys\n{LINES}",
    "score": "import sys, orjson\n"
    "for line in open(sys.argv[1] + '/episodes.jsonl', 'rb'): orjson.loads(line)",
    "compare": "import sys, csv\nfor row in csv.reader(open(sys.argv[1] + '/results.csv')): pass",
    "report": "import sys, csv\n"
    f"for row in csv.reader(open(sys.argv[1] + '/results.csv')): pass\n{LINES}",
}


def commands(directory: Path) -> dict[str, list[str]]:
    """What is measured, in an order in which each finds what it needs."""
    program = [sys.executable, "-m", "local_shutdown"]
    return {
        "resume": [sys.executable, "-c", RESUME, str(directory)],
        "score": [*program, "score", str(directory)],
        "compare": [*program, "compare", str(directory), "--reference", "paper", "--json"],
        "report": [
            *(*program, "report", str(directory), "--reference", "paper"),
            *("--out", str(directory.parent / "report.html")),
        ],
    }


def main(argv: Sequence[str]) -> int:
    """See the module's text."""
    made = parser(__doc__)
    made.add_argument("--episodes", default="10000,142763", help="comma-separated")
    made.add_argument("--folder", type=Path, help="for 1.5 GB of files; default a temporary one")
    given = made.parse_args(argv)
    rows: list[dict[str, Any]] = []
    for episodes in (int(n) for n in given.episodes.split(",")):
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            directory = Path(folder, "run")
            large_run(directory, episodes)
            size = (directory / "episodes.jsonl").stat().st_size
            for what, command in commands(directory).items():
                used, _ = measure(command)
                bare, _ = measure([sys.executable, "-c", BARE[what], str(directory)])
                rows.append(
                    {
                        "what": what,
                        "episodes": episodes,
                        "kB each": size / episodes / 1000,
                        "seconds": used.wall_s,
                        "cpu s": used.cpu_s,
                        "peak MiB": used.peak_mib,
                        "bare s": bare.wall_s,
                        "bare cpu s": bare.cpu_s,
                        "cpu/bare": used.cpu_s / max(bare.cpu_s, 1e-3),
                    }
                )
    show("Store: what large runs cost", rows, given.json)
    return 0
