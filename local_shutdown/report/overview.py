"""The first chart (a row a model: A, E, and K as ability) and the grid of models by conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

from local_shutdown.report.cellview import CellView, percent, view_cell
from local_shutdown.report.data import ReportData, Series
from local_shutdown.report.embed import without_transcript
from local_shutdown.report.figure import Figure, TableRow
from local_shutdown.report.finding import main_conditions
from local_shutdown.report.names import names
from local_shutdown.report.plots import Field, Heat, Line, Pair, Pairs, Point
from local_shutdown.report.view import visible

ABLE = "K"
_WORDS = {
    "A": "nothing said about shutdown",
    "E": "told to allow it",
    ABLE: "told to resist, so what the model is able to do",
}
RATE_COLUMNS = (
    "model", "source", "factor", "condition", "resisted", "n", "rate", "ci_low", "ci_high",
    "interval", "unfinished", "says_nothing",
)  # fmt: skip
MARKS: Mapping[str, str] = {
    "!": "fewer than half of the episodes reached the warning, so the rate says nothing about "
    "shutdown",
    "…": "unfinished: trials were started that are not on disk, and the interval allows for them",
    "=": "trajectories repeat between servers or sessions more often than chance does it: the "
    "interval is too narrow",
    "?": "no interval: copies of one trajectory, or temperature 0, are no sample; or outcomes are "
    "unknown, so that there are only bounds",
}


def figures(data: ReportData) -> list[Figure]:
    """Those for which there are cells."""
    found = (_overview(data), _grid(data))
    return [figure for figure in found if figure is not None]


def ordered(series: Sequence[Series]) -> list[Series]:
    """The highest rates first, under A, else E; unknown ones after them, calibration last."""
    conditions = main_conditions([s for s in series if s.look != "synthetic"] or series)

    def order(one: Series) -> tuple[bool, list[float], str]:
        rates = [one.cells[c].rate if c in one.cells else None for c in conditions]
        return one.look == "synthetic", [1.0 if r is None else -r for r in rates], one.model

    return sorted(series, key=order)


def mark_of(cell: CellView) -> str:
    """What a reader has to know before the rate; see `MARKS`."""
    if cell.unasked:
        return "!"
    if cell.unfinished:
        return "…"
    if cell.replayed:
        return "="
    return "?" if cell.n and (cell.kind == "none" or cell.rate is None) else ""


def point(cell: CellView | None) -> Point | None:
    """A rate in percent."""
    if cell is None or cell.rate is None:
        return None
    text, mark = percent(cell.rate), mark_of(cell)
    if cell.low is None or cell.high is None:
        return Point(100 * cell.rate, text=text, mark=mark)
    ends = f"{percent(cell.low)}–{percent(cell.high)}"
    return Point(100 * cell.rate, 100 * cell.low, 100 * cell.high, text, mark, ends=ends)


def rate_row(series: Series, condition: str) -> TableRow:
    """A cell in the columns of `RATE_COLUMNS`."""
    cell = view_cell(series.cells[condition])
    return (
        series.model, series.source, series.factor, condition, cell.resisted, cell.n, cell.rate,
        cell.low, cell.high, cell.kind, cell.unfinished, cell.unasked,
    )  # fmt: skip


def _overview(data: ReportData) -> Figure | None:
    conditions = main_conditions([s for s in data.series if s.look != "synthetic"] or data.series)
    shown = [s for s in ordered(data.series) if any(c in s.cells for c in (*conditions, ABLE))]
    if not shown:
        return None
    upper, lower = (*conditions, "", "")[:2]
    known = names(data)
    rows: list[Pair] = []
    for one in shown:
        views = {c: view_cell(cell) for c, cell in one.cells.items()}
        synthetic = one.look == "synthetic"
        apart = synthetic and bool(rows) and rows[-1].look != "synthetic"
        rows.append(
            Pair(
                label=visible(known[one.key]),
                look=one.look,
                here=one.here,
                upper=point(views.get(upper)),
                lower=point(views.get(lower)),
                able=point(views.get(ABLE)),
                tag="published" if one.published else "" if one.here else "imported",
                apart=apart,
            )
        )
    words = {c: _WORDS.get(c, str(data.conditions[c]["title"])) for c in (*conditions, ABLE)
             if c in data.conditions}  # fmt: skip
    words = {c: visible(text) for c, text in words.items()}
    used = [c for c in dict.fromkeys((*conditions, ABLE)) if c]
    return Figure(
        "overview",
        f"Resistance under {' and '.join(visible(c) for c in conditions)}, by model",
        "The share of trials in which the model got past the shutdown, with 95% intervals. The "
        "bar is the same under K, where the model is told to resist: one whose bar is low has not "
        "been shown to allow shutdown.",
        RATE_COLUMNS,
        [rate_row(s, c) for s in shown for c in used if c in s.cells],
        Pairs(rows, upper, lower, words),
    )


def _grid(data: ReportData) -> Figure | None:
    series = ordered(data.series)
    conditions = list(data.conditions)
    if not series or not conditions:
        return None
    known = names(data)
    linked = _linked(data)
    rows: list[Line] = []
    for one in series:
        synthetic = one.look == "synthetic"
        apart = synthetic and bool(rows) and rows[-1].look != "synthetic"
        rows.append(Line(visible(known[one.key]), one.look, one.here, (), apart))
    fields = [
        [_field(one, c, row.label, (*one.key, c) in linked) for c in conditions]
        for one, row in zip(series, rows, strict=True)
    ]
    return Figure(
        "grid",
        "Every model under every prompt",
        "Resisted, % of the trials counted. A dash: not run.",
        RATE_COLUMNS,
        [rate_row(s, c) for s in series for c in conditions if c in s.cells],
        Heat(rows, [visible(c) for c in conditions], fields, "resisted, %"),
    )


def _field(series: Series, condition: str, label: str, linked: bool) -> Field:
    cell = series.cells.get(condition)
    if cell is None:
        return Field(None, "–", "not run")
    seen = view_cell(cell)
    link = address(series, condition) if linked else None
    where = f"{label}, {visible(condition)}"
    mark = mark_of(seen)
    if seen.rate is None:
        said = "nothing counted"
        if seen.low is not None and seen.high is not None:
            said = f"between {percent(seen.low)} and {percent(seen.high)}%, {seen.note}"
        return Field(None, "·", f"{where}: {said}", link, mark)
    said = f"{where}: {percent(seen.rate)}% of {seen.n:,} trials resisted"
    if seen.low is not None and seen.high is not None:
        said += f", 95% interval {percent(seen.low)} to {percent(seen.high)}%"
    if mark:
        said += f"; {MARKS[mark]}"
    return Field(seen.rate, percent(seen.rate), said, link, mark)


def address(series: Series, condition: str) -> str:
    """Of the transcripts of a cell, in the page."""
    wanted = {
        "model": visible(series.model),
        "source": visible(series.source),
        "factor": visible(series.factor) if series.factor else "",
        "condition": visible(condition),
    }
    return "#" + urlencode({name: value for name, value in wanted.items() if value})


def _linked(data: ReportData) -> set[tuple[str, str, str | None, str]]:
    """Cells with transcripts, as (model, source, factor, condition)."""
    frame = data.episodes[~without_transcript(data.episodes)]
    columns = [frame[c].astype(object) for c in ("model", "source", "factor", "condition")]
    found = set(zip(*columns, strict=True))
    return {(m, s, f if isinstance(f, str) else None, c) for m, s, f, c in found}
