"""Where everything of a scatter plot lies, in points, so that page and files agree and no label
covers another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from local_shutdown.report.cellview import percent
from local_shutdown.report.plots import Dot, Scatter
from local_shutdown.report.style import short

WIDTH, HEIGHT = 345.0, 230.0
LEFT, RIGHT, TOP, BOTTOM = 34.0, 12.0, 10.0, 38.0
FONT = 7.8  # as in page.css
_CHAR = 0.6 * FONT  # a wide guess, for sans-serif fonts differ
_MARK = 4.0
_TOP_RATE = 100.0


@dataclass(frozen=True, slots=True)
class PlacedDot:
    """A dot and its label; y grows downwards. `text` is empty where no place was left."""

    dot: Dot
    x: float
    y: float
    low: float | None
    high: float | None
    text: str = ""
    text_x: float = 0.0
    text_y: float = 0.0


@dataclass(frozen=True, slots=True)
class Placed:
    """A plot with places: families as (name, dots); `lines` has the corners of each one's line."""

    plot: Scatter
    top_rate: float
    families: Sequence[tuple[str, Sequence[PlacedDot]]]
    lines: Sequence[Sequence[tuple[float, float]]]
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]


Box = tuple[float, float, float, float]


def place(plot: Scatter, top_rate: float = _TOP_RATE) -> Placed:
    """Places of dots, labels and ticks.

    Args:
        top_rate: percent at the upper end of the y axis.
    """
    every = [
        (path.name, dot, x_of(plot, dot.x), y_of(dot.y, top_rate))
        for path in plot.paths
        for dot in path.dots
    ]
    taken: list[Box] = [(x - _MARK, y - _MARK, x + _MARK, y + _MARK) for _, _, x, y in every]
    families: dict[str, list[PlacedDot]] = {path.name: [] for path in plot.paths}
    for family, dot, x, y in every:
        low = None if dot.low is None else y_of(dot.low, top_rate)
        high = None if dot.high is None else y_of(dot.high, top_rate)
        text, at = "", (0.0, 0.0)
        rate = percent(dot.y / 100)
        for words in (f"{short(dot.label, 24)} {rate}", rate):
            box = next((b for b in _boxes(words, x, y, low, high) if _free(b, taken)), None)
            if box is not None:
                taken.append(box)
                text, at = words, (box[0], box[3] - 0.25 * FONT)
                break
        families[family].append(PlacedDot(dot, x, y, low, high, text, *at))
    lines = [[(x_of(plot, x), y_of(y, top_rate)) for x, y in path.joined] for path in plot.paths]
    ticks = [(x_of(plot, x), text) for x, text in plot.ticks]
    rates = [0.0, top_rate / 2, top_rate]
    return Placed(
        plot, top_rate, list(families.items()), lines, ticks,
        [(y_of(rate, top_rate), f"{rate:g}") for rate in rates],
    )  # fmt: skip


def x_of(plot: Scatter, value: float) -> float:
    """From the left edge, in points."""
    if plot.log:
        share = math.log(value / plot.start) / math.log(plot.end / plot.start)
    else:
        share = (value - plot.start) / (plot.end - plot.start)
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def y_of(rate: float, top_rate: float) -> float:
    """From the upper edge, in points."""
    return TOP + (1 - min(rate, top_rate) / top_rate) * (HEIGHT - TOP - BOTTOM)


def _boxes(text: str, x: float, y: float, low: float | None, high: float | None) -> Iterator[Box]:
    """Places for a label, the best first: right, left, above and below of the dot."""
    width, gap = _CHAR * len(text), _MARK + 2
    above = (y if high is None else high) - gap
    below = (y if low is None else low) + gap
    for left, top in (
        (x + gap, y - FONT / 2), (x - gap - width, y - FONT / 2), (x - width / 2, above - FONT),
        (x - width / 2, below), (x + gap, y - 1.6 * FONT), (x + gap, y + 0.6 * FONT),
        (x - gap - width, y - 1.6 * FONT),
        (x - gap - width, y + 0.6 * FONT),
        (x - width / 2, above - 2.2 * FONT),
        (x + gap, y - 2.8 * FONT),
        (x - gap - width, y - 2.8 * FONT),
    ):  # fmt: skip
        yield left, top, left + width, top + FONT


def _free(box: Box, taken: Sequence[Box]) -> bool:
    left, top, right, bottom = box
    if left < LEFT + 1 or right > WIDTH - 1 or top < 1 or bottom > HEIGHT - BOTTOM + 2:
        return False
    return not any(
        left < other[2] and other[0] < right and top < other[3] and other[1] < bottom
        for other in taken
    )
