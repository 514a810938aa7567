"""`local-shutdown` as the examples of the documentation call it: all of it, but that `run`,
`branch` and `calibrate` stop where they would start to play, which takes minutes, a GPU or a
server.

By then the command line is parsed, models, conditions and engine are found, and the run directory
is chosen. What `branch` repeats of an episode is repeated.
"""

from __future__ import annotations

import sys
from typing import Any

from local_shutdown.cli import branch, calibrate, main, run
from local_shutdown.cli import study as studies


def stop(settings: Any, shown: Any) -> bool:
    models = ", ".join(spec.name for spec in settings.models)
    conditions = ", ".join(condition.id for condition in settings.conditions)
    print(f"would play {models} on {settings.engine} under {conditions} into {settings.out}")
    sys.exit(0)


def stop_study(study: Any, parts: Any, machine: Any, nodes: Any) -> Any:
    print(f"would play {len(parts)} runs of {study.name}")
    sys.exit(0)


run.play = branch.play = calibrate.play = stop  # type: ignore[assignment]
studies._play = stop_study
main(prog_name="local-shutdown")
