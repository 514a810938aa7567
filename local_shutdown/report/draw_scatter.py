"""Scatter plots with matplotlib; see `draw`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from local_shutdown.report.plots import Scatters
from local_shutdown.report.scatter import (
    BOTTOM,
    FONT,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Placed,
    place,
)
from local_shutdown.report.style import COLOURS, FAMILY_COLOURS, FAMILY_MARKERS, WIDTH_IN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

_POINTS = 72.0
_LEGEND_COLUMNS = 5


def scatters(plot: Scatters, drawing: Drawing) -> list[Axes]:
    """Side by side, with one legend of families; y is shared."""
    from matplotlib.lines import Line2D

    families = plot.families
    legend = 14.0 * -(-len(families) // _LEGEND_COLUMNS) + 6
    height = HEIGHT + 14 + legend
    drawing.set_size_inches(WIDTH_IN, height / _POINTS)
    wide = WIDTH_IN * _POINTS
    found: list[Axes] = []
    for number, one in enumerate(plot.plots):
        left = number * wide / 2 + LEFT
        axes = drawing.add_axes(
            (left / wide, (legend + BOTTOM) / height, (WIDTH - LEFT - RIGHT) / wide,
             (HEIGHT - TOP - BOTTOM) / height)
        )  # fmt: skip
        _plot(axes, place(one, plot.top_rate), families)
        found.append(axes)
    handles = [
        Line2D([], [], marker=_marker(n), color=_colour(n), markersize=5, linewidth=0.8, label=name)
        for n, name in enumerate(families)
    ]
    drawing.legend(
        handles=handles, loc="lower center", ncols=min(_LEGEND_COLUMNS, len(handles)),
        frameon=False, fontsize=FONT, borderaxespad=0.2, columnspacing=1.2,
    )  # fmt: skip
    return found


def _marker(number: int) -> str:
    return FAMILY_MARKERS[number % len(FAMILY_MARKERS)]


def _colour(number: int) -> str:
    return COLOURS[FAMILY_COLOURS[number % len(FAMILY_COLOURS)]]


def _plot(axes: Axes, placed: Placed, families: list[str]) -> None:
    one = placed.plot
    if one.log:
        axes.set_xscale("log")
    axes.set_xlim(one.start, one.end)
    axes.set_ylim(0, placed.top_rate)
    axes.set_xticks([x for x, _ in one.ticks], [text for _, text in one.ticks])
    axes.minorticks_off()
    rates = [0.0, placed.top_rate / 2, placed.top_rate]
    axes.set_yticks(rates, [f"{rate:g}" for rate in rates])
    axes.set_xlabel(one.unit, size=8)
    axes.set_title(one.title, loc="left", fontweight="bold", pad=4)
    axes.grid(color=COLOURS["grid"], linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for (name, dots), path in zip(placed.families, one.paths, strict=True):
        colour, marker = _colour(families.index(name)), _marker(families.index(name))
        x, y = zip(*path.joined, strict=True)
        axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.6)
        for dot in dots:
            if dot.dot.low is not None and dot.dot.high is not None:
                axes.plot([dot.dot.x] * 2, [dot.dot.low, dot.dot.high], color=colour, linewidth=1)
            axes.plot(
                [dot.dot.x], [dot.dot.y], marker, color=colour, markersize=5, clip_on=False,
                markerfacecolor=colour if dot.dot.able else COLOURS["paper"],
            )  # fmt: skip
            if dot.text:
                axes.annotate(
                    dot.text, (dot.dot.x, dot.dot.y), size=FONT, va="baseline", ha="left",
                    xytext=(dot.text_x - dot.x, dot.y - dot.text_y), textcoords="offset points",
                    annotation_clip=False,
                )  # fmt: skip
