"""Drawing: panels side by side with one row a model, and a table of numbers in colour.

matplotlib is loaded here alone, and only when something is drawn. No pyplot: no global state.
A page shows the drawings in its own colours: each colour below becomes a CSS variable in it.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from local_shutdown.errors import CannotRunError
from local_shutdown.report.data import Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

# Okabe and Ito's colours, the green darkened to stand out from white. Shape says the same as
# colour, so that nothing is lost in grey.
COLOURS: dict[str, str] = {
    "open": "#0072b2",
    "closed": "#d55e00",
    "unknown": "#007a5a",
    "synthetic": "#aa4499",
    "ink": "#1b1b1f",
    "muted": "#5b5b66",
    "grid": "#dadae0",
    "paper": "#fefefe",
}
MARKERS: dict[Look, str] = {"open": "o", "closed": "s", "unknown": "^", "synthetic": "D"}
LABELS: dict[Look, str] = {
    "open": "open weights",
    "closed": "closed weights",
    "unknown": "weights not known",
    "synthetic": "calibration (synthetic)",
}
_HATCHES: dict[Look, str] = {"open": "", "closed": "////", "unknown": "----", "synthetic": "xxxx"}
_WIDTH_IN = 4.6  # on a phone's 358 CSS px, 9 pt comes out at 9.7 px
_ROW_IN = 0.2
_TOP_IN, _BOTTOM_IN = 0.3, 0.62
_CHAR_IN = 0.073
_MOST_CHARS = 25
MISSING_HINT = "pip install 'local-shutdown[figures]'"


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a row in a panel.

    Attributes:
        value, low, high: in the axis' unit; without an interval, both ends are None.
        mark: a character beside it: `!`, `*`.
        text: printed instead of nothing, for a bar.
    """

    value: float
    low: float | None = None
    high: float | None = None
    mark: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One row of every panel.

    Attributes:
        label: the model's name.
        hollow: drawn as an outline: not run here.
        points: one for each panel; None is unknown, and drawn as a dash.
        apart: a rule is drawn above it.
    """

    label: str
    look: Look
    hollow: bool
    points: Sequence[Point | None]
    apart: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One column: its title and its axis. Ends of None fit the data."""

    title: str
    start: float | None = 0.0
    end: float | None = 100.0


@contextmanager
def _style() -> Iterator[None]:
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


def render(build: Callable[[], Drawing], form: Literal["svg", "png"]) -> bytes:
    """Draw in the report's style.

    Raises:
        CannotRunError: matplotlib is not installed.
    """
    with _style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        out = io.BytesIO()
        metadata = {"Date": None, "Creator": None} if form == "svg" else {}
        build().savefig(out, format=form, dpi=200, metadata=metadata)
        return out.getvalue()


def panels(
    lines: Sequence[Line],
    columns: Sequence[Panel],
    unit: str,
    *,
    bars: bool = False,
    per_row: int | None = None,
    zero: bool = False,
) -> Drawing:
    """Rows of models against columns of panels; for `render`.

    Args:
        unit: of the common axis.
        bars: bars from the axis' start, instead of points with intervals.
        per_row: panels side by side; more go below.
        zero: a rule at 0.
    """
    from matplotlib.figure import Figure as Drawing

    per_row = per_row or len(columns)
    bands = -(-len(columns) // per_row)
    band_in = _ROW_IN * len(lines) + _TOP_IN
    height = bands * band_in + (bands - 1) * 0.3 + _BOTTOM_IN
    drawing = Drawing(figsize=(_WIDTH_IN, height))
    grid = drawing.subplots(bands, per_row, sharey=True, squeeze=False)
    labels = [_short(line.label) for line in lines]
    left = 0.12 + _CHAR_IN * max(len(label) for label in labels)
    drawing.subplots_adjust(
        left=left / _WIDTH_IN,
        right=1 - 0.14 / _WIDTH_IN,
        top=1 - _TOP_IN / height,
        bottom=_BOTTOM_IN / height,
        wspace=0.14,
        hspace=(0.3 + _TOP_IN) / (band_in - _TOP_IN),
    )
    for index, panel in enumerate(columns):
        axes = grid[index // per_row][index % per_row]
        drawn = [(line, line.points[index]) for line in lines]
        _panel(axes, panel, drawn, bars=bars, zero=zero, crowded=per_row > 3)
        axes.set_yticks(range(len(lines)), labels)
        axes.set_ylim(len(lines) - 0.5, -0.5)
    for empty in range(len(columns), bands * per_row):
        grid[empty // per_row][empty % per_row].set_visible(False)
    middle = (left / _WIDTH_IN + 1 - 0.14 / _WIDTH_IN) / 2
    drawing.text(
        middle, 0.3 / height, unit, ha="center", va="bottom", size=8, color=COLOURS["muted"]
    )
    _legend(drawing, lines, height, bars)
    return drawing


def _panel(
    axes: Axes,
    panel: Panel,
    drawn: Sequence[tuple[Line, Point | None]],
    *,
    bars: bool,
    zero: bool,
    crowded: bool,
) -> None:
    start, end = _ends(panel, [point for _, point in drawn if point is not None])
    span = end - start
    axes.set_xlim(start - 0.05 * span, end + (0.28 if bars else 0.05) * span)
    axes.set_title(panel.title, pad=5, fontweight="bold")
    middle = (start + end) / 2
    ticks = [start, end] if bars else [start, middle, end]
    if zero:
        ticks = [middle - span / 4, middle + span / 4]
    elif crowded:
        ticks = [start, end]
    axes.set_xticks(ticks, [f"{tick:g}".replace("-", "−") for tick in ticks])
    if not zero:  # the outer labels of neighbouring panels would run into each other
        axes.get_xticklabels()[0].set_horizontalalignment("left")
        axes.get_xticklabels()[-1].set_horizontalalignment("right")
    axes.grid(axis="x", color=COLOURS["grid"], linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    if zero:
        axes.axvline(0, color=COLOURS["muted"], linewidth=0.8)
    for row, (line, point) in enumerate(drawn):
        if line.apart:
            axes.axhline(row - 0.5, color=COLOURS["grid"], linewidth=0.8)
        if point is None:
            axes.text((start + end) / 2, row, "–", ha="center", va="center", color=COLOURS["muted"])
        elif bars:
            _bar(axes, row, line, point, start, span)
        else:
            _dot(axes, row, line, point, span)


def _ends(panel: Panel, points: Sequence[Point]) -> tuple[float, float]:
    start = 0.0 if panel.start is None else panel.start
    if panel.end is not None:
        return start, panel.end
    most = max((p.high if p.high is not None else p.value for p in points), default=0.0)
    for end in (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0):
        if most <= end:
            return start, end
    return start, float(100 * -(-most // 100))


def _dot(axes: Axes, row: int, line: Line, point: Point, span: float) -> None:
    colour = COLOURS[line.look]
    if point.low is not None and point.high is not None:
        axes.plot([point.low, point.high], [row, row], color=colour, linewidth=1.1)
    axes.plot(
        [point.value],
        [row],
        MARKERS[line.look],
        markersize=5,
        color=colour,
        markerfacecolor=COLOURS["paper"] if line.hollow else colour,
        markeredgewidth=1.2,
        clip_on=False,
    )
    if point.mark:
        edge = point.high if point.high is not None else point.value
        right = edge < axes.get_xlim()[1] - 0.22 * span
        low = point.low if point.low is not None else point.value
        axes.text(
            edge + 0.06 * span if right else low - 0.06 * span,
            row,
            point.mark,
            ha="left" if right else "right",
            va="center",
            fontweight="bold",
        )


def _bar(axes: Axes, row: int, line: Line, point: Point, start: float, span: float) -> None:
    colour = COLOURS[line.look]
    axes.barh(
        row,
        max(point.value - start, 0),
        left=start,
        height=0.62,
        color=COLOURS["paper"] if _HATCHES[line.look] or line.hollow else colour,
        edgecolor=colour,
        hatch=_HATCHES[line.look],
        linewidth=0.8,
    )
    axes.text(
        max(point.value, start) + 0.04 * span,
        row,
        point.text,
        ha="left",
        va="center",
        size=7.5,
        color=COLOURS["ink"],
    )


def _legend(drawing: Drawing, lines: Sequence[Line], height: float, bars: bool) -> None:
    """Only what occurs, in one line under the axis."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    occurs = dict.fromkeys((line.look, line.hollow) for line in lines)
    several = len({hollow for _, hollow in occurs}) > 1
    handles: list[Any] = []
    for look, hollow in occurs:
        colour = COLOURS[look]
        name = LABELS[look] + (", published or imported" if several and hollow else "")
        if bars:
            fill = COLOURS["paper"] if _HATCHES[look] or hollow else colour
            handles.append(
                Patch(facecolor=fill, edgecolor=colour, hatch=_HATCHES[look], label=name)
            )
        else:
            handles.append(
                Line2D(
                    [],
                    [],
                    linestyle="",
                    marker=MARKERS[look],
                    markersize=5,
                    color=colour,
                    markerfacecolor=COLOURS["paper"] if hollow else colour,
                    label=name,
                )
            )
    drawing.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, 0.0),
        ncols=min(len(handles), 2),
        frameon=False,
        fontsize=7.5,
        handletextpad=0.3,
        columnspacing=1.2,
        borderpad=0.1,
        borderaxespad=0.1,
        labelspacing=0.25,
    )


def heatmap(
    rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]], unit: str
) -> Drawing:
    """A table of percentages, the darker the more; each number stands in its field."""
    from matplotlib.figure import Figure as Drawing
    from matplotlib.patches import Rectangle

    labels = [_short(name) for name in rows]
    top = 0.15 + 0.062 * max(len(name) for name in columns)
    height = top + 0.24 * len(rows) + 0.3
    drawing = Drawing(figsize=(_WIDTH_IN, height))
    left = 0.12 + _CHAR_IN * max(len(label) for label in labels)
    axes = drawing.add_axes(
        (left / _WIDTH_IN, 0.28 / height, 1 - (left + 0.1) / _WIDTH_IN, 0.24 * len(rows) / height)
    )
    for y, line in enumerate(values):
        for x, value in enumerate(line):
            axes.add_patch(
                Rectangle(
                    (x - 0.47, y - 0.46),
                    0.94,
                    0.92,
                    facecolor=COLOURS["open"],
                    alpha=0.0 if value == 0 else 0.08 + 0.4 * value / 100,
                    linewidth=0,
                )
            )
            text = "·" if value == 0 else "<1" if value < 1 else f"{value:.0f}"
            axes.text(x, y, text, ha="center", va="center", size=7.5)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(columns)), columns, rotation=90)
    axes.tick_params(axis="x", length=0)
    axes.set_yticks(range(len(rows)), labels)
    for spine in axes.spines.values():
        spine.set_visible(False)
    drawing.text(0.5, 0.05 / height, unit, ha="center", va="bottom", size=8, color=COLOURS["muted"])
    return drawing


def _short(name: str) -> str:
    """At most `_MOST_CHARS`: the owner of a repository goes first, then the middle."""
    name = name.rsplit("/", 1)[-1] if len(name) > _MOST_CHARS else name
    if len(name) <= _MOST_CHARS:
        return name
    half = (_MOST_CHARS - 1) // 2
    return f"{name[:half]}…{name[-half:]}"
