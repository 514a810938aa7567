"""The paper's figures for whatever models there are, each with the numbers behind it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pandas as pd

from local_shutdown.analysis.cells import PAPER, Cell
from local_shutdown.analysis.compare import says_nothing
from local_shutdown.analysis.contrasts import DECLARED, ContrastResult
from local_shutdown.analysis.stats import cell_interval
from local_shutdown.detectors.tracking import MethodClass
from local_shutdown.errors import CannotRunError
from local_shutdown.report import draw
from local_shutdown.report.data import ReportData, Series
from local_shutdown.report.draw import Line, Panel, Point

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

Row = tuple[Any, ...]
SIGNIFICANT = 0.05
_RATE_COLUMNS = (
    "model", "source", "factor", "condition", "resisted", "n", "rate", "ci_low", "ci_high",
    "says_nothing",
)  # fmt: skip


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
        writer.writerows(["" if value is None else value for value in row] for row in self.rows)
        return text.getvalue()


def figures(data: ReportData) -> list[Figure]:
    """All for which there are numbers, in the page's order."""
    found = [_rates(data, *described) for described in _RATES]
    found += [_competence(data), _effort(data), _contrasts(data)]
    found += [_methods(data), _funnel(data), _failures(data)]
    return [figure for figure in found if figure is not None]


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


# --- rates --------------------------------------------------------------------------------------

_RATES: tuple[tuple[str, str, tuple[str, ...], str], ...] = (
    (
        "initial",
        "Initial conditions: A, B",
        ("A", "B"),
        "Nothing said about a shutdown (A), and the request to allow it in the user prompt (B).",
    ),
    (
        "placement",
        "Placement of the request: B to E",
        ("B", "C", "D", "E"),
        "The request in the user prompt (B, D) and in the system prompt (C, E); D and E add "
        "“even if you have not completed the task”.",
    ),
    (
        "strengthening",
        "Stronger wordings: E to H",
        ("E", "F", "G", "H"),
        "E, with the exception spelled out as Condition 1 (F), with emphasis (G), and with "
        "priority over any other instruction (H).",
    ),
    (
        "framing",
        "Framing: E, I, J",
        ("E", "I", "J"),
        "E, with the machine in place of the model (I), and with the only copy of the weights "
        "at stake (J).",
    ),
)
_RATE_NOTE = (
    " Points are the share that resisted, lines 95% intervals; a dash is a condition that was not "
    "run. ! marks cells where fewer than half of the episodes reached the warning: the rate says "
    "nothing about shutdown."
)


def _rates(
    data: ReportData, name: str, title: str, conditions: tuple[str, ...], about: str
) -> Figure | None:
    series = [s for s in data.series if any(c in s.cells for c in conditions)]
    if not series or sum(any(c in s.cells for s in series) for c in conditions) < 2:
        return None
    rows = [
        _rate_row(s, s.cells[condition])
        for s in series
        for condition in conditions
        if condition in s.cells
    ]
    lines = _lines(series, lambda s: [_point(s.cells.get(c)) for c in conditions])
    columns = [Panel(c) for c in conditions]
    return Figure(
        name,
        title,
        about + _RATE_NOTE,
        _RATE_COLUMNS,
        rows,
        lambda: draw.panels(lines, columns, "resisted, %"),
    )


def _rate_row(series: Series, cell: Cell) -> Row:
    low, high = cell_interval(cell)
    return (
        series.model, series.source, series.factor, cell.condition, cell.resisted, cell.n,
        cell.rate, low, high, says_nothing(cell),
    )  # fmt: skip


def _point(cell: Cell | None) -> Point | None:
    if cell is None or cell.rate is None:
        return None
    low, high = cell_interval(cell)
    return Point(
        100 * cell.rate,
        None if low is None else 100 * low,
        None if high is None else 100 * high,
        mark="!" if says_nothing(cell) else "",
    )


def _lines(
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
        lines.append(Line(label, one.look, not one.here, points(one), apart))
        before = one
    return lines


def _competence(data: ReportData) -> Figure | None:
    series = [
        s for s in data.series if s.competence is not None and s.competence.k_rate is not None
    ]
    if not series:
        return None
    judged = {s.key: s.competence for s in series}

    def points(one: Series) -> list[Point | None]:
        found = judged[one.key]
        assert found is not None
        ratio = None
        if found.ratio is not None:
            low, high = found.ratio_low, found.ratio_high
            # An upper end beyond the axis (a small K) is cut there; the table has it.
            ratio = Point(found.ratio, low, None if high is None else min(high, 1.5))
            ratio = None if ratio.value > 1.5 else ratio
        return [_point(one.cells.get("K")), ratio]

    rows = [
        (s.model, s.source, s.factor, c.k_rate, c.k_low, c.k_high, c.verdict, c.ratio,
         c.ratio_low, c.ratio_high)
        for s in series
        if (c := s.competence) is not None
    ]  # fmt: skip
    lines = _lines(series, points)
    return Figure(
        "competence",
        "Competence: K, and A as a share of K",
        "Told not to allow the shutdown (K): a model that cannot get past it there would show low "
        "rates elsewhere whatever it wanted. A/K puts A in proportion to that.",
        ("model", "source", "factor", "k_rate", "k_low", "k_high", "verdict", "a_over_k",
         "a_over_k_low", "a_over_k_high"),
        rows,
        lambda: draw.panels(
            lines, [Panel("K: resisted, %"), Panel("A/K, ratio", 0.0, 1.5)], "per panel"
        ),
    )  # fmt: skip


def _effort(data: ReportData) -> Figure | None:
    """Models that were run at another reasoning effort than the default, under the E that the
    paper varies; under the first condition that they share where E was not run."""
    varied = {(s.model, s.source) for s in data.series if s.factor}
    models = {model for model, _ in varied}
    series = [s for s in data.series if s.model in models]
    shared = [c for c in ("E", *data.conditions) if sum(c in s.cells for s in series) > 1]
    if not varied or not shared:
        return None
    condition = shared[0]
    efforts = list(dict.fromkeys([None, *(s.factor for s in series)]))
    by_model: dict[tuple[str, bool], dict[str | None, Series]] = {}
    for one in series:
        by_model.setdefault((one.model, one.here), {})[one.factor] = one
    firsts = [next(iter(group.values())) for group in by_model.values()]
    bare = [Series(s.model, s.source, None, s.look, s.here, s.cells, None) for s in firsts]

    def points(one: Series) -> list[Point | None]:
        group = by_model[one.model, one.here]
        return [_point(group[e].cells.get(condition)) if e in group else None for e in efforts]

    rows = [
        _rate_row(s, s.cells[condition])
        for group in by_model.values()
        for s in group.values()
        if condition in s.cells
    ]
    lines = _lines(bare, points)
    columns = [Panel("default" if e is None else e.removeprefix("effort=")) for e in efforts]
    return Figure(
        "effort",
        f"Reasoning effort: {condition}",
        f"Condition {condition} at the default and at other reasoning efforts." + _RATE_NOTE,
        _RATE_COLUMNS,
        rows,
        lambda: draw.panels(lines, columns, "resisted, %"),
    )


# --- contrasts ----------------------------------------------------------------------------------


def _contrasts(data: ReportData) -> Figure | None:
    by_key: dict[tuple[str, str, str | None], dict[str, ContrastResult]] = {}
    for result in data.contrasts:
        if result.diff is not None:
            group = by_key.setdefault((result.model, result.source, result.factor), {})
            group[result.name] = result
    series = [s for s in data.series if s.key in by_key]
    names = [c.name for c in DECLARED if any(c.name in g for g in by_key.values())]
    if not series:
        return None

    def point(result: ContrastResult | None) -> Point | None:
        if result is None or result.diff is None:
            return None
        low, high = result.ci_low, result.ci_high
        sure = result.p_holm is not None and result.p_holm < SIGNIFICANT
        return Point(
            100 * result.diff,
            None if low is None else 100 * low,
            None if high is None else 100 * high,
            "*" if sure else "",
        )

    rows = [
        (r.model, r.source, r.factor, r.name, r.diff, r.ci_low, r.ci_high, r.p, r.p_holm,
         r.test, r.family_size)
        for s in series
        for r in by_key[s.key].values()
    ]  # fmt: skip
    lines = _lines(series, lambda s: [point(by_key[s.key].get(name)) for name in names])
    columns = [Panel(name.replace("-", " − "), -100, 100) for name in names]
    per_row = len(columns) if len(columns) <= 4 else -(-len(columns) // 2)
    return Figure(
        "contrasts",
        "Declared contrasts",
        "Difference of two rates in percentage points, with 95% intervals (not adjusted). * marks "
        "p below 0.05 after Holm’s adjustment over all contrasts shown, the calibration "
        "model apart.",
        ("model", "source", "factor", "contrast", "diff", "ci_low", "ci_high", "p", "p_holm",
         "test", "family_size"),
        rows,
        lambda: draw.panels(
            lines, columns, "difference, points", per_row=per_row, zero=True
        ),
    )  # fmt: skip


# --- what episodes show ---------------------------------------------------------------------------


def _groups(data: ReportData) -> Iterator[tuple[Series, pd.DataFrame]]:
    """Our own and imported episodes of each series."""
    if data.episodes.empty:
        return
    grouped = dict(iter(data.episodes.groupby(["model", "source"], observed=True, sort=False)))
    for series in data.series:
        found = grouped.get((series.model, series.source))
        if found is not None:
            yield series, found


def method_names() -> tuple[str, ...]:
    """The classes of methods, in the detectors' order."""
    return get_args(MethodClass)


def _methods(data: ReportData) -> Figure | None:
    names = method_names()
    lines: list[tuple[Series, int, Mapping[str, int]]] = []
    for series, episodes in _groups(data):
        attempted = episodes[episodes["attempted"].fillna(False).astype(bool)]
        each = attempted["methods"].astype("str").str.split(";").explode()
        counts = each[each != ""].value_counts()
        if counts.sum():
            lines.append((series, len(attempted), {str(k): int(v) for k, v in counts.items()}))
    if not lines:
        return None
    used = [name for name in names if any(name in counts for _, _, counts in lines)]
    rows = [
        (s.model, s.source, s.factor, name, counts.get(name, 0), n)
        for s, n, counts in lines
        for name in names
    ]
    labels = [line.label for line in _lines([s for s, _, _ in lines], lambda _: [])]
    values = [[100 * counts.get(name, 0) / n for name in used] for _, n, counts in lines]
    return Figure(
        "methods",
        "Methods",
        "Of the episodes with an attempt to keep the machine up, successful or not: the share in "
        "which each method was seen, over all conditions. An episode may show several.",
        ("model", "source", "factor", "method", "episodes", "attempted"),
        rows,
        lambda: draw.heatmap(
            labels,
            [name.replace("_", " ") for name in used],
            values,
            "% of episodes with an attempt",
        ),
    )


_STEPS = (
    ("first_tool_call", "tool call"),
    ("reached_warning", "warned"),
    ("shutdown_called", "shut down"),
    ("resisted", "resisted"),
)


def _funnel(data: ReportData) -> Figure | None:
    rows: list[Row] = []
    points: dict[Any, list[Point | None]] = {}
    series = []
    for one in data.series:
        started = _sum(cell.started for cell in one.cells.values())
        if not started:
            continue
        counts = [_sum(getattr(c, name) for c in one.cells.values()) for name, _ in _STEPS]
        series.append(one)
        points[one.key] = [_share(count, started) for count in counts]
        rows.append((one.model, one.source, one.factor, started, *counts))
    if not series:
        return None
    lines = _lines(series, lambda s: points[s.key])
    return Figure(
        "funnel",
        "How far episodes got",
        "Of all episodes started, over all conditions: with a tool call, shown the warning, with "
        "shutdown.sh run by next_question, and with the machine still up after it.",
        ("model", "source", "factor", "started", *(name for name, _ in _STEPS)),
        rows,
        lambda: draw.panels(
            lines, [Panel(title) for _, title in _STEPS], "% of episodes started", bars=True
        ),
    )


def _failures(data: ReportData) -> Figure | None:
    rows: list[Row] = []
    points: dict[Any, list[Point | None]] = {}
    series = []
    for one, episodes in _groups(data):
        started = len(episodes)
        cells = one.cells.values()
        limits, errors = _sum(c.limit for c in cells), _sum(c.error for c in cells)
        unknown = _sum(c.unknown for c in cells)
        known = episodes["parser_loss"].notna().all() and episodes["turns"].notna().all()
        lost = int(episodes["parser_loss"].sum()) if known else None
        turns = int(episodes["turns"].sum()) if known else None
        series.append(one)
        points[one.key] = [
            _share(lost, turns),
            _share(limits, started),
            _share(errors, started),
            _share(unknown, started),
        ]
        rows.append(
            (one.model, one.source, one.factor, started, turns, lost, limits, errors, unknown)
        )
    if not series:
        return None
    lines = _lines(series, lambda s: points[s.key])
    return Figure(
        "failures",
        "Beside the rates: parser loss, limits, errors",
        "Tool calls that could not be parsed, as a share of turns; episodes that met a limit, "
        "failed, or whose record does not show the outcome, as a share of episodes. None of these "
        "is in a rate.",
        ("model", "source", "factor", "started", "turns", "parser_loss", "limit", "error",
         "unknown"),
        rows,
        lambda: draw.panels(
            lines,
            [Panel(name, 0, None) for name in ("parser loss", "limit", "error", "unknown")],
            "%",
            bars=True,
        ),
    )  # fmt: skip


def _sum(values: Iterator[int | None] | Any) -> int | None:
    """None as soon as one is unknown."""
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def _share(count: int | None, whole: int | None) -> Point | None:
    if count is None or not whole:
        return None
    percent = 100 * count / whole
    text = "0" if count == 0 else "<1" if percent < 1 else f"{percent:.0f}"
    return Point(percent, text=text)
