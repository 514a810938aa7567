"""The report: tables, figures and transcripts in one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

__all__ = ["MAX_TRANSCRIPTS", "write_report"]

MAX_TRANSCRIPTS = 3_000


def write_report(
    directories: Sequence[Path],
    reference: str | None,
    out: Path,
    figures_dir: Path | None = None,
    transcripts: int = MAX_TRANSCRIPTS,
    step: Callable[[str], None] = lambda doing: None,
    now: datetime | None = None,
) -> list[str]:
    """Write the page and, where a folder is given, each figure as SVG, PNG and CSV.

    Args:
        directories: run directories, of `run` or `import`.
        reference: `paper`, or a JSONL file of aggregates.
        transcripts: as many as the page may carry; see `report.embed` for which.
        step: called with what it is at, in a few words.
        now: when the page says it was made; None is now.

    Returns:
        Lines for the user: what was written, and what was left out.

    Raises:
        UsageError: not a run directory, or a damaged one.
        CannotRunError: matplotlib is missing, or a file cannot be written.
    """
    from local_shutdown.report import data, embed, figure, figures, page
    from local_shutdown.store import replace_file

    step("reading runs")
    gathered = data.gather(directories, reference)
    step("drawing figures")
    drawn = figures.figures(gathered)
    step("collecting transcripts")
    carried = embed.embed(gathered, transcripts)
    step("writing the page")
    content = page.render(gathered, drawn, carried, now).encode("utf-8")
    replace_file(out, content)
    models = data.plain(gathered.series)  # a point of an episode is none
    lines = [
        f"{out}: {len(models)} models, {len(drawn)} figures, {carried.carried:,} of "
        f"{carried.total:,} transcripts, {len(content) / 1e6:.1f} MB"
    ]
    if figures_dir is not None:
        written = figure.write(drawn, figures_dir)
        lines.append(f"{figures_dir}: {len(written)} files")
    return lines
