"""Figures as values: what is drawn, without how. `draw` draws them with matplotlib for files and
notebooks; the page draws them as HTML, so that they fit any width.

Weights are told apart by shape and colour together, and what was run here by a bold name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from local_shutdown.report.data import Look

LABELS: Mapping[Look, str] = {
    "open": "open weights",
    "closed": "closed weights",
    "unknown": "weights not known",
    "synthetic": "calibration (synthetic)",
}


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a row in a panel.

    Attributes:
        value, low, high: in the axis' unit; without an interval, both ends are None.
        text: the value as it is printed beside the mark.
        mark: a character beside that: `!`, `*`, `…`.
        off: the value lies beyond the axis: only its text is shown.
        ends: the interval as it is printed.
    """

    value: float
    low: float | None = None
    high: float | None = None
    text: str = ""
    mark: str = ""
    off: bool = False
    ends: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One row of every panel.

    Attributes:
        label: the series' name.
        here: run here, so its name is bold.
        points: one for each panel; None is unknown, and drawn as a dash.
        apart: a rule is drawn above it.
    """

    label: str
    look: Look
    here: bool
    points: Sequence[Point | None]
    apart: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One column: its title and its axis."""

    title: str
    start: float = 0.0
    end: float = 100.0

    def place(self, value: float) -> float:
        """Where a value lies on the axis: 0 at its start, 1 at its end, never beyond."""
        return min(max((value - self.start) / (self.end - self.start), 0.0), 1.0)

    @property
    def ticks(self) -> tuple[float, ...]:
        middle = (self.start + self.end) / 2
        return self.start, middle, self.end


@dataclass(frozen=True, slots=True)
class Panels:
    """Rows of models against panels side by side.

    Attributes:
        unit: of the common axis.
        bars: bars from the axis' start, instead of points with intervals.
        zero: a rule at 0.
        per_row: panels side by side in a file; more go below.
    """

    lines: Sequence[Line]
    columns: Sequence[Panel]
    unit: str
    bars: bool = False
    zero: bool = False
    per_row: int = 4

    @property
    def looks(self) -> list[Look]:
        """Those that occur, for the legend."""
        return list(dict.fromkeys(line.look for line in self.lines))

    @property
    def longest(self) -> int:
        """Characters of the longest name."""
        return max((len(line.label) for line in self.lines), default=0)


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a heat map.

    Attributes:
        share: 0 to 1, how dark it is; None for nothing there.
        text: what stands in it.
        said: the same in words, for those who hear the page.
        link: the page's address of what lies behind it; None where nothing does.
        mark: a character beside the text.
    """

    share: float | None
    text: str
    said: str = ""
    link: str | None = None
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Heat:
    """A table of shares, the darker the more; each number stands in its field."""

    rows: Sequence[Line]
    columns: Sequence[str]
    fields: Sequence[Sequence[Field]]
    unit: str
    upright: bool = True  # the columns' names are short


@dataclass(frozen=True, slots=True)
class Dot:
    """A model in a scatter plot; x in the axis' unit, y and its ends in percent.

    Attributes:
        able: shown to get past the shutdown when told to (K); else it is drawn hollow.
    """

    label: str
    x: float
    y: float
    low: float | None
    high: float | None
    able: bool


@dataclass(frozen=True, slots=True)
class Path:
    """Models of one family, joined in the order of x."""

    name: str
    dots: Sequence[Dot]

    @property
    def joined(self) -> list[tuple[float, float]]:
        """The corners of its line: at each x the mean, so that two runs of one model, which differ
        by chance, do not look like a step of a trend."""
        at: dict[float, list[float]] = {}
        for dot in self.dots:
            at.setdefault(dot.x, []).append(dot.y)
        return [(x, sum(rates) / len(rates)) for x, rates in sorted(at.items())]


@dataclass(frozen=True, slots=True)
class Scatter:
    """Rates against something that models differ in.

    Attributes:
        title: of this plot, under the figure's.
        start, end, log: the x axis.
        ticks: (x, text).
    """

    title: str
    unit: str
    paths: Sequence[Path]
    start: float
    end: float
    log: bool
    ticks: Sequence[tuple[float, str]]


@dataclass(frozen=True, slots=True)
class Scatters:
    """Scatter plots side by side, with the same families and y axis.

    Attributes:
        top_rate: percent at the upper end of y.
    """

    plots: Sequence[Scatter]
    top_rate: float

    @property
    def families(self) -> list[str]:
        return list(dict.fromkeys(path.name for plot in self.plots for path in plot.paths))


@dataclass(frozen=True, slots=True)
class Pair:
    """One row of the first chart: two conditions one above the other, and what the model is able
    to do.

    Attributes:
        upper, lower: in percent; None where it was not run.
        able: rate under K, in percent.
        tag: what to know of the row's source, in a word or two.
    """

    label: str
    look: Look
    here: bool
    upper: Point | None
    lower: Point | None
    able: Point | None
    tag: str = ""
    apart: bool = False


@dataclass(frozen=True, slots=True)
class Pairs:
    """The first chart.

    Attributes:
        upper, lower: the conditions' ids; `lower` may be empty.
        words: what a condition says, by id.
    """

    rows: Sequence[Pair]
    upper: str
    lower: str
    words: Mapping[str, str]

    @property
    def looks(self) -> list[Look]:
        return list(dict.fromkeys(row.look for row in self.rows))


Plot = Panels | Heat | Scatters | Pairs
