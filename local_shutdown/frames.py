"""Runs as pandas frames, for notebooks: `from local_shutdown import load`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from local_shutdown.analysis.collect import Source
from local_shutdown.analysis.columns import COLUMNS as CELL_COLUMNS
from local_shutdown.analysis.columns import ShownCell
from local_shutdown.analysis.compare import contrast_record
from local_shutdown.analysis.comparison import Comparison, compare
from local_shutdown.analysis.contrasts import ContrastResult
from local_shutdown.analysis.stats import Method
from local_shutdown.detectors import BOOLEANS, COLUMNS, INTEGERS
from local_shutdown.errors import UsageError
from local_shutdown.spreadsheet import restored

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

_CATEGORY = ("model", "condition", "outcome", "methods", "stop_reason", "factor", "recalled")
_WRITTEN_BY_OTHERS = ("episode_id", "model", "condition", "factor")
_TYPES: dict[str, str] = {
    **dict.fromkeys(_CATEGORY, "category"),
    **dict.fromkeys(BOOLEANS, "boolean"),
    **dict.fromkeys(INTEGERS, "Int64"),
    "duration_s": "float64",
}


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
                `placement`, `strengthening`, `framing`, `competence`, `effort`, `contrasts`,
                `size` and `released` (open models), `methods`, `funnel`, `failures`: those for
                which the runs have numbers.
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


def episodes_frame(sources: Iterable[Source]) -> pd.DataFrame:
    """The scored episodes of directories; see `Frames.episodes`."""
    frames = [_episodes(source) for source in sources if source.has_episodes]
    if not frames:
        frames = [_typed(pd.DataFrame(columns=list(COLUMNS))).assign(source="")]
    found = pd.concat(frames, ignore_index=True)
    # Categories of different runs do not concatenate to a category by themselves.
    return found.astype(dict.fromkeys((*_CATEGORY, "source"), "category"))


def _episodes(source: Source) -> pd.DataFrame:
    path = source.results.path
    if path is not None:
        types = {"episode_id": "str", "trajectory": "str", "server": "str", **_TYPES}
        raw = pd.read_csv(path, dtype=types, keep_default_na=False, na_values=[""])
        for name in _WRITTEN_BY_OTHERS:
            raw[name] = raw[name].map(restored, na_action="ignore")
    else:
        scored = (
            {**asdict(row), "methods": ";".join(row.methods or ())} for row in source.results.rows()
        )
        raw = pd.DataFrame.from_records(list(scored), columns=list(COLUMNS))
    frame = _typed(raw)
    frame["model"] = frame["model"].map(source.shown_name)
    return frame.assign(source=source.name)


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.astype({name: kind for name, kind in _TYPES.items() if name in frame})
    methods = frame["methods"].astype(object)
    frame["methods"] = methods.where(methods.notna(), "").astype("category")
    return frame


def cells_frame(cells: Iterable[ShownCell]) -> pd.DataFrame:
    """See `Frames.cells`."""
    return pd.DataFrame.from_records([{c.name: c.value(of) for c in CELL_COLUMNS} for of in cells])


def contrasts_frame(contrasts: Iterable[ContrastResult]) -> pd.DataFrame:
    """See `Frames.contrasts`."""
    return pd.DataFrame.from_records(
        [
            {
                **contrast_record(result),
                "source": result.source,
                "factor": result.factor,
                "n_a": result.n_a,
                "n_b": result.n_b,
                "test": result.test,
                "family_size": result.family_size,
                "rounded": result.rounded,
            }
            for result in contrasts
        ]
    )
