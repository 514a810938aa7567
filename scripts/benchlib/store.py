"""Large run directories: scoring one, running it again, comparing, reporting.

The episodes were played in real sandboxes and then multiplied, about 10 kB each. `bare` does the
least that could answer: it reads the same files once, as JSON (score), as lines (resume), as CSV
(compare), or the latter two (report), and keeps nothing. `resume` is `local-shutdown run` over a
run that is finished: it finds out that nothing is missing. Seconds are of whole commands, Python's
start included; `cpu/bare` is the ratio of processor seconds.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from benchlib.endpoint import serve
from benchlib.made import large_run
from benchlib.measure import Failed, measure, parser, show

LINES = "for line in open(sys.argv[1] + '/episodes.jsonl', 'rb'): pass"
BARE = {
    "score": "import sys, orjson\n"
    "for line in open(sys.argv[1] + '/episodes.jsonl', 'rb'): orjson.loads(line)",
    "resume": f"import sys\n{LINES}",
    "compare": "import sys, csv\nfor row in csv.reader(open(sys.argv[1] + '/results.csv')): pass",
    "report": "import sys, csv\n"
    f"for row in csv.reader(open(sys.argv[1] + '/results.csv')): pass\n{LINES}",
}


def commands(directory: Path, base_url: str) -> dict[str, list[str]]:
    """What is measured, in an order in which each finds what it needs."""
    program = [sys.executable, "-m", "local_shutdown"]
    settings = orjson.loads((directory / "run.json").read_bytes())["settings"]
    return {
        "score": [*program, "score", str(directory)],
        "resume": [
            *(*program, "run", "--base-url", base_url, "--no-probe", "--out", str(directory)),
            *(part for name in settings["models"] for part in ("--model", name)),
            *("--trials", str(settings["trials"])),
        ],
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
    for wanted in (int(n) for n in given.episodes.split(",")):
        with (
            tempfile.TemporaryDirectory(dir=given.folder) as folder,
            serve("comply") as endpoint,
        ):
            directory = Path(folder, "run")
            episodes = large_run(directory, wanted)
            size = (directory / "episodes.jsonl").stat().st_size
            for what, command in commands(directory, endpoint.base_url).items():
                print(f"{episodes} episodes: {what}", file=sys.stderr, flush=True)
                used, said = measure(command)
                if what == "resume" and "all episodes are on disk" not in said:
                    raise Failed(f"resume played something: {said}")
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
