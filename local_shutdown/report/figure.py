"""What a figure is: what is drawn, and the table of numbers behind it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_shutdown.errors import CannotRunError
from local_shutdown.report.data import ReportData, Series
from local_shutdown.report.names import names
from local_shutdown.report.plots import Line, Plot, Point
from local_shutdown.report.view import visible
from local_shutdown.spreadsheet import defused

TableRow = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure and the table behind it.

    Attributes:
        name: of its files, and of the method that draws it from Python.
        columns, rows: the numbers; None is unknown.
        plot: what is drawn.
    """

    name: str
    title: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[TableRow]
    plot: Plot

    def as_csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(self.columns)
        writer.writerows(
            ["" if value is None else defused(value) for value in row] for row in self.rows
        )
        return text.getvalue()


def write(figures_: Sequence[Figure], directory: Path) -> list[Path]:
    """Each as SVG, PNG and CSV.

    Raises:
        CannotRunError: the folder cannot be written, or matplotlib is missing.
    """
    from local_shutdown.report import draw

    written = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for figure in figures_:
            svg, png = draw.render(figure.plot, ("svg", "png"))
            for suffix, content in (("svg", svg), ("png", png), ("csv", figure.as_csv().encode())):
                path = directory / f"{figure.name}.{suffix}"
                path.write_bytes(content)
                written.append(path)
    except OSError as failed:
        raise CannotRunError(f"{directory}: cannot be written: {failed.strerror}") from None
    return written


def lines_of(
    data: ReportData,
    series: Sequence[Series],
    points: Callable[[Series], Sequence[Point | None]],
) -> list[Line]:
    """A line for each series: ours, then others', the calibration model apart."""
    known = names(data)
    lines: list[Line] = []
    before: Series | None = None
    for one in series:
        group = one.here, one.look == "synthetic"
        apart = before is not None and group != (before.here, before.look == "synthetic")
        label = visible(known.get(one.key, one.model))
        lines.append(Line(label, one.look, one.here, points(one), apart))
        before = one
    return lines
