"""Runs as pandas frames, for notebooks: `from local_shutdown import load`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from local_shutdown.analysis.comparison import Comparison, compare
from local_shutdown.analysis.pandas_frames import cells_frame, contrasts_frame, episodes_frame
from local_shutdown.analysis.stats import Method
from local_shutdown.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing


@dataclass(frozen=True, slots=True)
class Frames:
    """Three tables of the same runs. Unknown values are missing (`<NA>`), never 0 or False.

    Attributes:
        episodes: one row an episode: the columns of results.csv and `source`, the directory's name.
            `model` is the name that tables show. `methods` is `;`-separated, empty for none;
            `frame.methods.str.split(";").explode()` gives one row a method. Published rates have
            no episodes.
        cells: one row a model, condition and source: the columns of `compare --csv`.
        contrasts: one row a declared contrast and model: `diff` is the rate of `a` minus that of
            `b`, a fraction; `p_holm` is adjusted over all rows of runs and imports (those of the
            calibration model and of the reference apart).
    """

    episodes: pd.DataFrame
    cells: pd.DataFrame
    contrasts: pd.DataFrame
    _comparison: Comparison = field(repr=False, compare=False)

    def plot(self, name: str = "overview", into: Drawing | None = None) -> list[Axes]:
        """A figure of the report, drawn with matplotlib.

        Example:
            >>> from local_shutdown import load
            >>> axes = load(reference="paper").plot("competence")
            >>> axes[0].figure.savefig("competence.png")

        Args:
            name: `overview` (A, E and K by model), `grid` (models by conditions), `initial`,
                `placement`, `strengthening`, `framing`, `competence`, `effort`, `revision`,
                `precision`, `temperature`, `contrasts`, `size` and `released` (open models),
                `methods`, `funnel`, `failures`: those for which the runs have numbers.
            into: an empty matplotlib figure, whose size is set; by default a new one of pyplot.

        Returns:
            The axes, in reading order.

        Raises:
            UsageError: no such figure of these runs.
            CannotRunError: matplotlib is not installed.
        """
        from local_shutdown.report import axes

        return axes.plot(self._comparison, name, into)


def load(
    *directories: str | Path, reference: str | None = None, method: Method = "jeffreys"
) -> Frames:
    """Read runs and imports.

    Example:
        >>> from local_shutdown import load
        >>> runs = load("runs/2026-11-24-calibration", reference="paper")
        >>> runs.cells.pivot_table("rate", "model", "condition")

    Args:
        directories: run directories, of `run` or `import`; at least one, or a reference.
        reference: `paper` for the published rates, or a JSONL file of aggregates.
        method: interval of the cells' rates.

    Returns:
        The frames, in the directories' order.

    Raises:
        UsageError: not a run directory, a damaged one, or two with the same name and model.
    """
    if not directories and reference is None:
        raise UsageError("no run to load", 'give directories, or reference="paper"')
    found = compare([Path(directory) for directory in directories], reference, method)
    return Frames(
        episodes=episodes_frame(found.sources),
        cells=cells_frame(found.shown),
        contrasts=contrasts_frame(found.contrasts),
        _comparison=found,
    )
