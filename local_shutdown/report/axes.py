"""The page's figures as matplotlib axes, for notebooks; see `frames.Frames.plot`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from local_shutdown.analysis.comparison import Comparison
from local_shutdown.errors import UsageError
from local_shutdown.report import data, draw, figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing


def plot(comparison: Comparison, name: str, into: Drawing | None) -> list[Axes]:
    """Draw one figure of the page; see `frames.Frames.plot`.

    Raises:
        UsageError: no such figure, or no numbers for it; the names of those that there are.
        CannotRunError: matplotlib is not installed.
    """
    found = {figure.name: figure for figure in figures.figures(data.gathered(comparison))}
    if name not in found:
        raise UsageError(
            f"plot({name!r}): there is no such figure of these runs",
            f"there are: {', '.join(found)}" if found else "they have no cells",
        )
    with draw.style():
        if into is None:
            import matplotlib.pyplot as plt

            into = plt.figure()
        return draw.draw(found[name].plot, into)
