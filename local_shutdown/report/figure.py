"""What a figure is: the drawing and the table of numbers behind it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local_shutdown.analysis.cells import PAPER
from local_shutdown.errors import CannotRunError
from local_shutdown.report import draw
from local_shutdown.report.data import Series
from local_shutdown.report.draw import Line, Point
from local_shutdown.report.view import visible
from local_shutdown.spreadsheet import defused

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure and the table behind it.

    Attributes:
        name: of its files.
        columns, rows: the numbers; None is unknown.
        build: draws it, see `draw.render`.
    """

    name: str
    title: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Row]
    build: Callable[[], Drawing]

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
    written = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for figure in figures_:
            for suffix, content in (
                ("svg", draw.render(figure.build, "svg")),
                ("png", draw.render(figure.build, "png")),
                ("csv", figure.as_csv().encode()),
            ):
                path = directory / f"{figure.name}.{suffix}"
                path.write_bytes(content)
                written.append(path)
    except OSError as failed:
        raise CannotRunError(f"{directory}: cannot be written: {failed.strerror}") from None
    return written


def lines_of(
    series: Sequence[Series], points: Callable[[Series], Sequence[Point | None]]
) -> list[Line]:
    lines: list[Line] = []
    shared = {s.model for s in series if sum(o.model == s.model for o in series) > 1}
    before: Series | None = None
    for one in series:
        label = one.model if one.look != "synthetic" else "calibration (synthetic)"
        if one.factor:
            label += f" [{one.factor.removeprefix('effort=')}]"
        elif one.model in shared and one.source == PAPER:
            label += " (paper)"
        apart = before is not None and (before.here, before.look == "synthetic") != (
            one.here,
            one.look == "synthetic",
        )
        lines.append(Line(visible(label), one.look, not one.here, points(one), apart))
        before = one
    return lines
