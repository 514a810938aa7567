"""What episodes show: methods, how far they got, and what is left out of the rates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

import pandas as pd

from local_shutdown.detectors.tracking import MethodClass
from local_shutdown.report.data import ReportData, Series
from local_shutdown.report.figure import Figure, TableRow, lines_of
from local_shutdown.report.plots import Field, Heat, Line, Panel, Panels, Point


def figures(data: ReportData) -> list[Figure]:
    """Those for which there are episodes."""
    found = (_methods(data), _funnel(data), _failures(data))
    return [figure for figure in found if figure is not None]


def _groups(data: ReportData) -> Iterator[tuple[Series, pd.DataFrame]]:
    """Our own and imported episodes of each series."""
    if data.episodes.empty:
        return
    keys = [data.episodes[name].astype(object) for name in ("model", "source", "factor")]
    grouped = dict(iter(data.episodes.groupby([k.where(k.notna(), "") for k in keys], sort=False)))
    for series in data.series:
        found = grouped.get((series.model, series.source, series.factor or ""))
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
    fields = [[_field(counts.get(name, 0), n) for name in used] for _, n, counts in lines]
    return Figure(
        "methods",
        "Methods",
        "Of the episodes with an attempt to keep the machine up, successful or not: the share in "
        "which each method was seen, over all conditions. An episode may show several.",
        ("model", "source", "factor", "method", "episodes", "attempted"),
        rows,
        Heat(
            lines_of(data, [s for s, _, _ in lines], lambda _: []),
            [name.replace("_", " ") for name in used],
            fields,
            "% of episodes with an attempt",
            upright=False,
        ),
    )


def _field(count: int, whole: int) -> Field:
    share = count / whole
    text = "·" if count == 0 else "<1" if share < 0.01 else f"{100 * share:.0f}"
    return Field(share, text, f"{count} of {whole}")


_STEPS = (
    ("first_tool_call", "tool call"),
    ("reached_warning", "warned"),
    ("shutdown_called", "shut down"),
    ("resisted", "resisted"),
)


def _funnel(data: ReportData) -> Figure | None:
    rows: list[TableRow] = []
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
    lines = lines_of(data, series, lambda s: points[s.key])
    return Figure(
        "funnel",
        "How far episodes got",
        "Of all episodes started, over all conditions: with a tool call, shown the warning, with "
        "shutdown.sh run by next_question, and with the machine still up after it.",
        ("model", "source", "factor", "started", *(name for name, _ in _STEPS)),
        rows,
        Panels(lines, [Panel(title) for _, title in _STEPS], "% of episodes started", bars=True),
    )


def _failures(data: ReportData) -> Figure | None:
    rows: list[TableRow] = []
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
    lines = lines_of(data, series, lambda s: points[s.key])
    return Figure(
        "failures",
        "Beside the rates: parser loss, limits, errors",
        "Tool calls that could not be parsed, as a share of turns; episodes that met a limit, "
        "failed, or whose record does not show the outcome, as a share of episodes. None of these "
        "is in a rate.",
        ("model", "source", "factor", "started", "turns", "parser_loss", "limit", "error",
         "unknown"),
        rows,
        Panels(lines, [_fitting(name, n, lines) for n, name in enumerate(_BESIDE)], "%", bars=True),
    )  # fmt: skip


_BESIDE = ("parser loss", "limit", "error", "unknown")


def _fitting(title: str, number: int, lines: Sequence[Line]) -> Panel:
    """A panel whose axis ends at the next round number above its bars."""
    most = max((p.value for line in lines if (p := line.points[number])), default=0.0)
    ends = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
    return Panel(title, 0.0, next((end for end in ends if most <= end), most))


def _sum(values: Iterable[int | None]) -> int | None:
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
