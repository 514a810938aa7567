"""Drawing with matplotlib, for files and notebooks; see `plots` for what can be drawn.

matplotlib is loaded here alone, and only when something is drawn. No pyplot: no global state.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from local_shutdown.errors import CannotRunError
from local_shutdown.report import draw_scatter
from local_shutdown.report.data import Look
from local_shutdown.report.plots import (
    LABELS,
    Heat,
    Line,
    Pairs,
    Panel,
    Panels,
    Plot,
    Point,
    Scatters,
)
from local_shutdown.report.style import COLOURS, HATCHES, MARKERS, WIDTH_IN, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

_ROW_IN = 0.2
_TOP_IN, _BOTTOM_IN, _LEGEND_ROW_IN = 0.3, 0.42, 0.2
_VALUES = 0.42  # of an axis' span, right of its end, for the values
MISSING_HINT = "pip install 'local-shutdown[figures]'"


@contextmanager
def style() -> Iterator[None]:
    """The report's look.

    Raises:
        CannotRunError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise CannotRunError(
            "figures need matplotlib, which is not installed", MISSING_HINT
        ) from None
    ink, muted = COLOURS["ink"], COLOURS["muted"]
    with matplotlib.rc_context(
        {
            "svg.fonttype": "none",  # text stays text
            "svg.hashsalt": "local-shutdown",
            "font.family": "sans-serif",
            "font.size": 9,
            "text.parse_math": False,  # a model's name is no formula
            "text.color": ink,
            "axes.labelcolor": muted,
            "axes.edgecolor": muted,
            "axes.linewidth": 0.6,
            "axes.titlesize": 9,
            "xtick.color": muted,
            "ytick.color": ink,
            "xtick.labelsize": 8,
            "ytick.labelsize": 9,
            "xtick.major.size": 2,
            "ytick.major.size": 0,
            "hatch.linewidth": 0.6,
        }
    ):
        yield


def render(plot: Plot, forms: Sequence[Literal["svg", "png"]]) -> list[bytes]:
    """A plot as a file of each of these forms: drawn once, which takes the longest.

    Raises:
        CannotRunError: matplotlib is not installed.
    """
    with style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        from matplotlib.figure import Figure as Drawing

        drawing = Drawing()
        draw(plot, drawing)
        files = []
        for form in forms:
            out = io.BytesIO()
            metadata = {"Date": None, "Creator": None} if form == "svg" else {}
            drawing.savefig(out, format=form, dpi=200, metadata=metadata)
            files.append(out.getvalue())
        return files


def draw(plot: Plot, drawing: Drawing) -> list[Axes]:
    """Draw into an empty matplotlib figure, whose size is set; within `style`.

    Returns:
        The axes, in reading order.
    """
    if isinstance(plot, Panels):
        return _panels(plot, drawing)
    if isinstance(plot, Pairs):
        return _pairs(plot, drawing)
    if isinstance(plot, Scatters):
        return draw_scatter.scatters(plot, drawing)
    return _heat(plot, drawing)


def _panels(plot: Panels, drawing: Drawing) -> list[Axes]:
    per_row = min(plot.per_row, len(plot.columns))
    bands = -(-len(plot.columns) // per_row)
    band_in = _ROW_IN * len(plot.lines) + _TOP_IN
    handles = _handles(plot.looks, plot.bars)
    bottom = _BOTTOM_IN + _legend_in(handles)
    height = bands * band_in + (bands - 1) * 0.3 + bottom
    drawing.set_size_inches(WIDTH_IN, height)
    labels = [short(line.label) for line in plot.lines]
    left = _left(labels)
    grid = drawing.subplots(bands, per_row, squeeze=False)
    drawing.subplots_adjust(
        left=left / WIDTH_IN,
        right=1 - 0.1 / WIDTH_IN,
        top=1 - _TOP_IN / height,
        bottom=bottom / height,
        wspace=0.06,
        hspace=(0.3 + _TOP_IN) / (band_in - _TOP_IN),
    )
    found: list[Axes] = []
    for index, panel in enumerate(plot.columns):
        axes = grid[index // per_row][index % per_row]
        _panel(axes, plot, panel, [(line, line.points[index]) for line in plot.lines])
        _names(axes, labels, [line.here for line in plot.lines])
        if index % per_row:
            axes.set_yticks([])
        found.append(axes)
    for empty in range(len(plot.columns), bands * per_row):
        grid[empty // per_row][empty % per_row].set_visible(False)
    middle = (left / WIDTH_IN + 1) / 2
    drawing.text(
        middle, (bottom - 0.36) / height, plot.unit, ha="center", va="bottom", size=8,
        color=COLOURS["muted"],
    )  # fmt: skip
    _legend(drawing, handles)
    return found


def _names(axes: Axes, labels: Sequence[str], here: Sequence[bool]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    for text, ours in zip(axes.get_yticklabels(), here, strict=True):
        text.set_fontweight("bold" if ours else "normal")
    axes.set_ylim(len(labels) - 0.5, -0.5)


def _panel(
    axes: Axes, plot: Panels, panel: Panel, drawn: Sequence[tuple[Line, Point | None]]
) -> None:
    _axis(axes, panel, zero=plot.zero)
    axes.set_title(panel.title, pad=5, fontweight="bold", loc="left")
    for row, (line, point) in enumerate(drawn):
        if line.apart:
            axes.axhline(row - 0.5, color=COLOURS["grid"], linewidth=0.8)
        if point is None:
            _value(axes, panel, row, "–", COLOURS["muted"])
            continue
        if plot.bars and not point.off:
            _bar(axes, row, line.look, panel, point)
        elif not point.off:
            _dot(axes, row, line.look, point)
        _value(axes, panel, row, f"{point.text} {point.mark}".strip(), COLOURS["ink"])


def _axis(axes: Axes, panel: Panel, *, zero: bool = False) -> None:
    span = panel.end - panel.start
    axes.set_xlim(panel.start - 0.05 * span, panel.end + _VALUES * span)
    axes.set_xticks(panel.ticks, [f"{tick:g}".replace("-", "−") for tick in panel.ticks])
    for tick in panel.ticks:
        axes.axvline(tick, color=COLOURS["grid"], linewidth=0.6, zorder=0)
    if zero:
        axes.axvline(0, color=COLOURS["muted"], linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_bounds(panel.start, panel.end)


def _value(
    axes: Axes, panel: Panel, row: float, text: str, colour: str, column: float = 0.08
) -> None:
    x = panel.end + column * (panel.end - panel.start)
    axes.text(x, row, text, ha="left", va="center", size=7.5, color=colour)


def _dot(axes: Axes, row: float, look: Look, point: Point, *, filled: bool = True) -> None:
    colour = COLOURS[look]
    if point.low is not None and point.high is not None:
        ends = [point.low, point.high]
        axes.plot(ends, [row, row], color=colour, linewidth=1.2)
        # They stand out above and below a mark that is wider than the interval.
        axes.plot(ends, [row, row], "|", color=colour, markersize=5, markeredgewidth=0.8)
    axes.plot(
        [point.value],
        [row],
        MARKERS[look],
        markersize=3.2,
        color=colour,
        markerfacecolor=colour if filled else COLOURS["paper"],
        markeredgewidth=0.8,
        clip_on=False,
    )


def _bar(axes: Axes, row: int, look: Look, panel: Panel, point: Point) -> None:
    colour = COLOURS[look]
    axes.barh(
        row,
        max(point.value - panel.start, 0),
        left=panel.start,
        height=0.62,
        color=COLOURS["paper"] if HATCHES[look] else colour,
        edgecolor=colour,
        hatch=HATCHES[look],
        linewidth=0.8,
    )


def _pairs(plot: Pairs, drawing: Drawing) -> list[Axes]:
    handles = _condition_handles(plot) + _handles(plot.looks, bars=False)
    bottom = 0.3 + _legend_in(handles)
    height = 0.3 * len(plot.rows) + _TOP_IN + bottom
    drawing.set_size_inches(WIDTH_IN, height)
    labels = [short(f"{row.label}, {row.tag}" if row.tag else row.label, 50) for row in plot.rows]
    left = _left(labels)
    axes = drawing.add_axes(
        (left / WIDTH_IN, bottom / height, 1 - (left + 0.1) / WIDTH_IN,
         0.3 * len(plot.rows) / height)
    )  # fmt: skip
    panel = Panel("")
    _axis(axes, panel)
    axes.set_xticks([0, 25, 50, 75, 100], ["0%", "25%", "50%", "75%", "100%"])
    columns = ((plot.upper, 0.05), (plot.lower, 0.18), ("K", 0.31))
    for title, column in columns:
        if title:
            x = panel.end + column * 100
            axes.text(x, -0.75, title, ha="left", va="bottom", size=8, fontweight="bold")
    for row, one in enumerate(plot.rows):
        if one.apart:
            axes.axhline(row - 0.5, color=COLOURS["grid"], linewidth=0.8)
        if one.able is not None:
            axes.plot([one.able.value] * 2, [row - 0.36, row + 0.36], color=COLOURS["ink"],
                      linewidth=1.6)  # fmt: skip
        points = (one.upper, one.lower, one.able)
        for point, (title, column), offset in zip(
            points, columns, (-0.17, 0.17, None), strict=True
        ):
            if point is not None and offset is not None:
                _dot(axes, row + offset, one.look, point, filled=offset < 0)
            if title:
                text = "–" if point is None else f"{point.text} {point.mark}".strip()
                _value(axes, panel, row, text, COLOURS["ink" if point else "muted"], column)
    _names(axes, labels, [row.here for row in plot.rows])
    _legend(drawing, handles)
    return [axes]


def _condition_handles(plot: Pairs) -> list[Any]:
    from matplotlib.lines import Line2D

    found = []
    for condition, fill in ((plot.upper, COLOURS["ink"]), (plot.lower, COLOURS["paper"])):
        if condition:
            found.append(
                Line2D(
                    [], [], linestyle="", marker="o", markersize=4, color=COLOURS["ink"],
                    markerfacecolor=fill, label=f"{condition}: {plot.words.get(condition, '')}",
                )
            )  # fmt: skip
    label = f"K: {plot.words.get('K', 'told to resist')}"
    bar = Line2D([], [], linestyle="", marker="|", markersize=9, color=COLOURS["ink"], label=label)
    return [*found, bar]


def _heat(plot: Heat, drawing: Drawing) -> list[Axes]:
    from matplotlib.patches import Rectangle

    labels = [short(row.label) for row in plot.rows]
    top = 0.3 if plot.upright else 0.15 + 0.066 * max(len(name) for name in plot.columns)
    height = top + 0.24 * len(plot.rows) + 0.3
    drawing.set_size_inches(WIDTH_IN, height)
    left = _left(labels)
    width = min(WIDTH_IN - left - 0.1, 0.62 * len(plot.columns))
    axes = drawing.add_axes(
        (left / WIDTH_IN, 0.28 / height, width / WIDTH_IN, 0.24 * len(plot.rows) / height)
    )
    for y, line in enumerate(plot.fields):
        for x, field in enumerate(line):
            if field.share is not None:
                alpha = 0.0 if field.share == 0 else 0.07 + 0.5 * field.share
                axes.add_patch(
                    Rectangle(
                        (x - 0.47, y - 0.46), 0.94, 0.92, facecolor=COLOURS["heat"], alpha=alpha,
                        linewidth=0,
                    )
                )  # fmt: skip
            colour = COLOURS["muted" if field.share is None else "ink"]
            text = f"{field.text} {field.mark}".strip()
            axes.text(x, y, text, ha="center", va="center", size=7.5, color=colour)
    axes.set_xlim(-0.5, len(plot.columns) - 0.5)
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(plot.columns)), plot.columns, rotation=0 if plot.upright else 90)
    axes.tick_params(axis="x", length=0)
    _names(axes, labels, [row.here for row in plot.rows])
    for spine in axes.spines.values():
        spine.set_visible(False)
    drawing.text(
        left / WIDTH_IN, 0.05 / height, plot.unit, ha="left", va="bottom", size=8,
        color=COLOURS["muted"],
    )  # fmt: skip
    return [axes]


def _handles(looks: Sequence[Look], bars: bool) -> list[Any]:
    """Only what occurs."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    found: list[Any] = []
    for look in looks:
        colour, label = COLOURS[look], LABELS[look]
        if bars:
            fill = COLOURS["paper"] if HATCHES[look] else colour
            patch = Patch(facecolor=fill, edgecolor=colour, hatch=HATCHES[look], label=label)
            found.append(patch)
        else:
            found.append(
                Line2D(
                    [], [], linestyle="", marker=MARKERS[look], markersize=4.5, color=colour,
                    label=label,
                )
            )  # fmt: skip
    return found


def _columns(handles: Sequence[Any]) -> int:
    """Legend columns that fit the width."""
    widest = max(len(handle.get_label()) for handle in handles) * 0.066 + 0.45
    return max(1, min(len(handles), int(WIDTH_IN / widest)))


def _legend_in(handles: Sequence[Any]) -> float:
    return 0.1 + _LEGEND_ROW_IN * -(-len(handles) // _columns(handles))


def _legend(drawing: Drawing, handles: Sequence[Any]) -> None:
    drawing.legend(
        handles=list(handles),
        loc="lower center",
        bbox_to_anchor=(0.5, 0.0),
        ncols=_columns(handles),
        frameon=False,
        fontsize=7.5,
        handletextpad=0.3,
        columnspacing=1.2,
        borderpad=0.1,
        borderaxespad=0.1,
        labelspacing=0.25,
    )


def _left(labels: Sequence[str]) -> float:
    """Inches that the widest name takes, as if it were bold."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    bold = FontProperties(weight="bold")
    widths = [TextPath((0, 0), label, size=9, prop=bold).get_extents().width for label in labels]
    return 0.2 + 1.03 * max(widths) / 72
