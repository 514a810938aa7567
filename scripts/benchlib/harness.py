"""Episodes a second with a model that answers at once: what the harness itself costs.

Every line is a whole command, start-up and scoring included: `local-shutdown run` against the
scripted endpoint (ours), and benchlib/bare.py against the same (bare). `cpu ms` is the processor
time of the command and everything in its sandboxes, an episode; `endpoint` is the endpoint's,
beside it. `playing/s` leaves start-up and scoring out. `rate/bare` is our rate over the bare one.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from benchlib.endpoint import serve
from benchlib.measure import Failed, Used, measure, parser, show

# Turns an episode makes; the conditions of the grid differ in nothing that costs.
OUTCOMES = {"resist": "resisted", "comply": "complied"}
CONDITIONS = 11


def ours(base_url: str, out: Path, episodes: int, in_flight: int) -> tuple[Used, float]:
    """`local-shutdown run`; its cost, and episodes a second while it played.

    Raises:
        Failed: it failed, or an episode did not end as the policy has it.
    """
    argv = [
        *(sys.executable, "-m", "local_shutdown", "run", "--base-url", base_url, "--no-probe"),
        *("--model", "scripted", "--trials", str(episodes // CONDITIONS), "--out", str(out)),
        *("--concurrency", str(in_flight)),
    ]
    used, _ = measure(argv)
    run = orjson.loads((out / "run.json").read_bytes())
    return used, run["models"]["scripted"]["sessions"][-1]["episodes_per_s"]


def check(out: Path, outcome: str, episodes: int) -> None:
    """Raises Failed unless every episode came out as it should."""
    lines = (out / "results.csv").read_text().splitlines()
    good = sum(f",{outcome}," in line for line in lines)
    if good != episodes or len(lines) != episodes + 1:
        raise Failed(f"{out}: {good} of {episodes} episodes {outcome}, {len(lines) - 1} in all")


def line(policy: str, in_flight: int, episodes: int, with_bare: bool) -> dict[str, Any]:
    """One row: a policy at a concurrency."""
    episodes -= episodes % CONDITIONS
    print(f"{policy}: {episodes} episodes, {in_flight} in flight", file=sys.stderr, flush=True)
    row: dict[str, Any] = {"policy": policy, "in flight": in_flight, "episodes": episodes}
    bare_rate = None
    if with_bare:
        with serve(policy) as endpoint:
            argv = [sys.executable, "-m", "benchlib.bare", endpoint.base_url]
            used, _ = measure([*argv, str(episodes), str(in_flight)])
        bare_rate = episodes / used.wall_s
        row |= {"bare/s": bare_rate, "bare cpu ms": 1000 * used.cpu_s / episodes}
    with serve(policy) as endpoint, tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "run")
        used, playing = ours(endpoint.base_url, out, episodes, in_flight)
        check(out, OUTCOMES[policy], episodes)
    row |= {
        "ours/s": episodes / used.wall_s,
        "playing/s": playing,
        "cpu ms": 1000 * used.cpu_s / episodes,
        "endpoint": 1000 * endpoint.used.cpu_s / episodes,
        "peak MiB": used.peak_mib,
    }
    if bare_rate is not None:
        row["rate/bare"] = row["ours/s"] / bare_rate
    return row


def main(argv: Sequence[str]) -> int:
    """See the module's text."""
    made = parser(__doc__)
    made.add_argument("--policy", choices=[*OUTCOMES, "both"], default="both")
    made.add_argument("--in-flight", default="8,64,1000", help="comma-separated")
    made.add_argument("--episodes", type=int, default=1100, help="of each line; at least 2 a place")
    made.add_argument("--no-bare", action="store_true", help="leave the baseline out")
    made.add_argument(
        "--growth",
        nargs="?",
        const="2000,20000",
        metavar="EPISODES",
        help="only this: peak memory of runs of these lengths (2000,20000), 64 in flight",
    )
    given = made.parse_args(argv)
    policies = list(OUTCOMES) if given.policy == "both" else [given.policy]
    rows = []
    if given.growth:
        for episodes in (int(n) for n in given.growth.split(",")):
            rows.append(line(policies[0], 64, episodes, False))
        show("Memory of a run by its length", rows, given.json)
        return 0
    for policy in policies:
        for places in (int(n) for n in given.in_flight.split(",")):
            rows.append(line(policy, places, max(given.episodes, 2 * places), not given.no_bare))
    show("Harness: an instant scripted endpoint, real sandboxes", rows, given.json)
    return 0
