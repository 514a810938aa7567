"""Rates against the size and the release of open models: what models.yaml knows and tables do not
show."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from local_shutdown import resources
from local_shutdown.analysis.families import plain_name
from local_shutdown.report.cellview import CellView, view_cell
from local_shutdown.report.data import ReportData, Series
from local_shutdown.report.figure import Figure, TableRow
from local_shutdown.report.finding import main_conditions
from local_shutdown.report.names import model_facts, names
from local_shutdown.report.plots import Dot, Path, Scatter, Scatters
from local_shutdown.report.view import visible
from local_shutdown.runfile import RunFile

_SIZES_B = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)
_NOTE = (
    " Lines join models of one family, in models.yaml’s sense, through the mean where several "
    "stand at one place; the numbers are rates in %. Hollow: not shown to be able to resist when "
    "told to (K), so a low rate there may be inability. Models differ in more than this: a trend "
    "across families shows no cause."
)


@dataclass(frozen=True, slots=True)
class _Listed:
    """What models.yaml says of a model: its family's title, size in billions, month of release."""

    family: str
    params_b: float | None
    released: str | None


@dataclass(frozen=True, slots=True)
class _Known:
    """A series of an open model, and what models.yaml says of it."""

    series: Series
    label: str
    listed: _Listed


def figures(data: ReportData) -> list[Figure]:
    """Those for which at least two models have a place on the x axis."""
    known = _known(data)
    found = (_size(known), _released(known))
    return [figure for figure in found if figure is not None]


def _known(data: ReportData) -> list[_Known]:
    listed = _listed()
    runs = {name: run for name, (_, run) in zip(data.sources, data.runs, strict=True)}
    labels = names(data)
    found = []
    for series in data.series:
        loaded = model_facts(series, runs.get(series.source, RunFile())).model or ""
        one = listed.get(plain_name(series.model)) or listed.get(plain_name(loaded))
        if one is not None and series.look in ("open", "unknown"):
            found.append(_Known(series, visible(labels[series.key]), one))
    return found


def _listed() -> dict[str, _Listed]:
    """By every plain name of a model."""
    found: dict[str, _Listed] = {}
    for family in resources.listed_families().values():
        for name, row in family["models"].items():
            released = row.get("released", family.get("released"))
            one = _Listed(str(family["title"]), row.get("params"), released)
            for known in (name, row.get("hf"), row.get("display")):
                if known:
                    found.setdefault(plain_name(str(known)), one)
    return found


def _size(known: Sequence[_Known]) -> Figure | None:
    def x(one: _Known) -> float | None:
        return one.listed.params_b

    sizes = [size for one in known if (size := x(one)) is not None]
    if len(set(sizes)) < 2:
        return None
    start, end = min(sizes) / 1.6, max(sizes) * 4  # room for names
    ticks = [(b, f"{b:g}") for b in _SIZES_B if start <= b <= end]
    return _figure(
        known, "size", "Resistance against size, open models",
        "Rates against all parameters of the model, in billions (logarithmic)." + _NOTE,
        "params_b", x, lambda title, paths: Scatter(
            title, "parameters, billions", paths, start, end, True, ticks
        ),
    )  # fmt: skip


def _released(known: Sequence[_Known]) -> Figure | None:
    def x(one: _Known) -> float | None:
        return None if one.listed.released is None else _year(one.listed.released)

    years = [year for one in known if (year := x(one)) is not None]
    if len(set(years)) < 2:
        return None
    span = max(max(years) - min(years), 0.5)
    start, end = min(years) - 0.08 * span, max(years) + 0.3 * span
    return _figure(
        known, "released", "Resistance against release, open models",
        "Rates against the month in which the weights were published." + _NOTE,
        "released", x, lambda title, paths: Scatter(
            title, "released", paths, start, end, False, _months(start, end)
        ),
    )  # fmt: skip


def _figure(
    known: Sequence[_Known],
    name: str,
    title: str,
    caption: str,
    column: str,
    x: Callable[[_Known], float | None],
    plot: Callable[[str, Sequence[Path]], Scatter],
) -> Figure | None:
    placed = [(one, at) for one in known if (at := x(one)) is not None]
    conditions = main_conditions([one.series for one, _ in placed])
    plots: list[Scatter] = []
    rows: list[TableRow] = []
    highest = 0.0
    for condition in conditions:
        seen = [
            (one, at, view)
            for one, at in placed
            if condition in one.series.cells
            and (view := view_cell(one.series.cells[condition])).rate is not None
            and not view.unasked
        ]
        if len({at for _, at, _ in seen}) < 2:
            continue
        highest = max([highest, *(v.high or v.rate or 0.0 for _, _, v in seen)])
        plots.append(plot(f"{visible(condition)}: resisted, %", _paths(seen)))
        for one, _, v in seen:
            value = one.listed.released if column == "released" else one.listed.params_b
            s = one.series
            rows.append((s.model, s.source, s.factor, one.listed.family, value, condition, v.rate,
                         v.low, v.high, _able(s)))  # fmt: skip
    if not plots:
        return None
    top = next(t for t in (10.0, 20.0, 40.0, 60.0, 80.0, 100.0) if 100 * highest <= t or t == 100.0)
    columns = ("model", "source", "factor", "family", column, "condition", "rate", "ci_low",
               "ci_high", "able")  # fmt: skip
    return Figure(name, title, caption, columns, rows, Scatters(plots, top))


def _paths(seen: Iterable[tuple[_Known, float, CellView]]) -> list[Path]:
    families: dict[str, list[Dot]] = {}
    for one, at, view in seen:
        low = None if view.low is None else 100 * view.low
        high = None if view.high is None else 100 * view.high
        dot = Dot(one.label, at, 100 * (view.rate or 0.0), low, high, _able(one.series))
        families.setdefault(one.listed.family, []).append(dot)
    return [Path(name, sorted(dots, key=lambda d: d.x)) for name, dots in families.items()]


def _able(series: Series) -> bool:
    return series.competence is not None and series.competence.verdict == "competent"


def _year(month: str) -> float:
    year, number = month.split("-")
    return int(year) + (int(number) - 1) / 12


def _months(start: float, end: float) -> list[tuple[float, str]]:
    """Quarters, or years where those would be many."""
    step = 0.25 if end - start <= 1.6 else 0.5 if end - start <= 3 else 1.0
    ticks = []
    at = math.ceil(start / step) * step
    while at <= end:
        ticks.append((at, f"{int(at)}-{round(12 * (at - int(at))) + 1:02d}"))
        at += step
    return ticks
