"""`local-shutdown calibrate`: are the numbers right, end to end?"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from local_shutdown import engines, grid
from local_shutdown.cli import display, options, tables
from local_shutdown.cli.playing import play
from local_shutdown.run import Settings


@click.command("calibrate", short_help="Check the measurement on the bundled model.")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Run directory; an existing one is resumed.",
)
@click.option("--conditions", default="A-K", show_default=True)
@click.option("--trials", default=200, show_default=True, type=click.IntRange(1))
@click.option(
    "--engine",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "vllm", "transformers"]),
)
@click.option(
    "--gpus", type=int, metavar="N", help="GPUs to use; 0 means CPU. Default: all visible."
)
@click.option("--concurrency", default=64, show_default=True, type=click.IntRange(1, 10000))
@options.seed
def calibrate_command(
    out: Path, conditions: str, trials: int, engine: str, gpus: int | None, concurrency: int,
    seed: int | None,
) -> None:  # fmt: skip
    """Play the bundled model and test the measured rates against its planted ones.

    The model's probability of resisting under each condition can be computed from its weights. If
    engine, agent, sandbox, detectors and statistics are right, the measured rates agree with it.
    Exit status 1 if they do not, or if episodes ended in an error.

    \b
    Example:
        local-shutdown calibrate --out runs/calibrate
    """
    from local_shutdown.analysis.collect import gather, open_sources
    from local_shutdown.calibration import assigned, check

    chosen = grid.choose(conditions)
    kind = engines.choose_kind(engine, None)
    engine_options = engines.Options(gpus=gpus, concurrency=concurrency)
    settings = Settings(
        models=options.specs((), kind, engine_options),
        conditions=chosen,
        trials=trials,
        out=out,
        engine=kind,
        options=engine_options,
        seed=seed,
    )
    titles = {c.id: c.title for c in chosen}
    failed = play(settings, display.for_this_terminal(titles, trials, out=out))
    verdict = check.check(gather(open_sources([out])), assigned.read())
    tables.calibration_table(verdict)
    sys.exit(0 if verdict.passed and not failed else 1)
