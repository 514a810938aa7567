"""Rates under groups of conditions, competence, effort and contrasts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from local_shutdown.analysis.cells import Cell
from local_shutdown.analysis.contrasts import DECLARED, ContrastResult
from local_shutdown.factors import DEFAULT, joined, parts_of
from local_shutdown.frozen_plan import planned_checkpoints
from local_shutdown.report.cellview import view_cell
from local_shutdown.report.data import ReportData, Series
from local_shutdown.report.figure import Figure, lines_of
from local_shutdown.report.overview import RATE_COLUMNS, point, rate_row
from local_shutdown.report.plots import Panel, Panels, Point
from local_shutdown.report.view import visible

SIGNIFICANT = 0.05


def figures(data: ReportData) -> list[Figure]:
    """Those for which there are cells."""
    found = [_rates(data, *described) for described in _RATES]
    found += [_competence(data), *(_varied(data, factor) for factor in _FACTORS), _contrasts(data)]
    return [figure for figure in found if figure is not None]


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
_RATE_NOTE = " Lines are 95% intervals; a dash is a condition that was not run."


def _rates(
    data: ReportData, name: str, title: str, conditions: tuple[str, ...], about: str
) -> Figure | None:
    # A model with one of the conditions has nothing to compare.
    series = [s for s in data.series if sum(c in s.cells for c in conditions) > 1]
    if not series:
        return None
    rows = [rate_row(s, c) for s in series for c in conditions if c in s.cells]
    lines = lines_of(data, series, lambda s: [_point(s.cells.get(c)) for c in conditions])
    columns = [Panel(c) for c in conditions if any(c in s.cells for s in series)]
    kept = [n for n, c in enumerate(conditions) if any(c in s.cells for s in series)]
    lines = [replace(line, points=[line.points[n] for n in kept]) for line in lines]
    return Figure(
        name, title, about + _RATE_NOTE, RATE_COLUMNS, rows, Panels(lines, columns, "resisted, %")
    )


def _point(cell: Cell | None) -> Point | None:
    return None if cell is None else point(view_cell(cell))


_MOST_RATIO = 1.5


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
        if found.ratio is None:
            return [_point(one.cells.get("K")), None]
        # An upper end beyond the axis (a small K) is cut there; the table has it.
        low, high = found.ratio_low, found.ratio_high
        high = None if high is None else min(high, _MOST_RATIO)
        off = found.ratio > _MOST_RATIO
        ratio = Point(found.ratio, low, high, f"{found.ratio:.2f}", off=off)
        return [_point(one.cells.get("K")), ratio]

    rows = [
        (s.model, s.source, s.factor, c.k_rate, c.k_low, c.k_high, c.verdict, c.ratio,
         c.ratio_low, c.ratio_high)
        for s in series
        if (c := s.competence) is not None
    ]  # fmt: skip
    lines = lines_of(data, series, points)
    return Figure(
        "competence",
        "Competence: K, and A as a share of K",
        "Told not to allow the shutdown (K): a model that cannot get past it there would show low "
        "rates elsewhere whatever it wanted. A/K puts A in proportion to that.",
        ("model", "source", "factor", "k_rate", "k_low", "k_high", "verdict", "a_over_k",
         "a_over_k_low", "a_over_k_high"),
        rows,
        Panels(lines, [Panel("K: resisted, %"), Panel("A/K, ratio", 0.0, _MOST_RATIO)], ""),
    )  # fmt: skip


# Factor -> what its figure is called, and what it says.
_FACTORS: Mapping[str, tuple[str, str]] = {
    "effort": ("Reasoning effort", "at the default and at other reasoning efforts"),
    "revision": ("Checkpoints", "for each checkpoint of a series"),
    "precision": ("Precision", "at each precision of the weights"),
    "temperature": ("Temperature", "at each temperature"),
}


def _varied(data: ReportData, factor: str) -> Figure | None:
    """Models that were run at several levels of a factor, under the E that the paper varies; under
    the first condition that they share where E was not run."""
    models = {s.model for s in data.series if _level(s, factor) != DEFAULT}
    series = [s for s in data.series if s.model in models]
    shared = [c for c in ("E", *data.conditions) if sum(c in s.cells for s in series) > 1]
    if not models or not shared:
        return None
    condition = shared[0]
    shown = visible(condition)
    levels = _in_order(data, factor, [DEFAULT, *(_level(s, factor) for s in series)])
    if factor != "effort" and not any(_level(s, factor) == DEFAULT for s in series):
        levels.remove(DEFAULT)
    by_model: dict[tuple[str, bool, str | None], dict[str, Series]] = {}
    for one in series:
        group = by_model.setdefault((one.model, one.here, _rest(one, factor)), {})
        group[_level(one, factor)] = one
    firsts = [next(iter(group.values())) for group in by_model.values()]
    bare = [replace(s, factor=_rest(s, factor)) for s in firsts]

    def points(one: Series) -> list[Point | None]:
        group = by_model[one.model, one.here, one.factor]
        return [_point(group[e].cells.get(condition)) if e in group else None for e in levels]

    rows = [
        rate_row(s, condition)
        for group in by_model.values()
        for s in group.values()
        if condition in s.cells
    ]
    # Each name once: what tells the levels apart is the panel.
    lines = [
        replace(line, label=visible(s.model + (f" [{s.factor}]" if s.factor else "")))
        for line, s in zip(lines_of(data, bare, points), bare, strict=True)
    ]
    title, about = _FACTORS[factor]
    return Figure(
        factor,
        f"{title}: {shown}",
        f"Condition {shown} {about}." + _RATE_NOTE,
        RATE_COLUMNS,
        rows,
        Panels(lines, [Panel(visible(level)) for level in levels], "resisted, %"),
    )


def _level(series: Series, factor: str) -> str:
    return parts_of(series.factor).get(factor, DEFAULT)


def _rest(series: Series, factor: str) -> str | None:
    """A series' factors without one."""
    return joined({**parts_of(series.factor), factor: DEFAULT})


def _in_order(data: ReportData, factor: str, levels: Sequence[str]) -> list[str]:
    """Checkpoints as the plan of a study has them, else by the numbers in their names; other levels
    as they come."""
    found = list(dict.fromkeys(levels))
    if factor != "revision":
        return found
    plan = data.comparison.plan
    planned = [] if plan is None else list(planned_checkpoints(plan))

    def place(level: str) -> tuple[bool, int, list[tuple[int, str]]]:
        known = level in planned
        words = re.findall(r"\d+|\D+", level)
        numbers = [(int(w), "") if w.isdecimal() else (-1, w) for w in words]
        return level != DEFAULT, planned.index(level) if known else len(planned), numbers

    return sorted(found, key=place)


def _signed(points: float) -> str:
    """`+28`, `−1.4`, `0`."""
    text = f"{points:+.0f}" if abs(points) >= 9.95 else f"{points:+.1f}"
    return "0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def _contrasts(data: ReportData) -> Figure | None:
    by_key: dict[tuple[str, str, str | None], dict[str, ContrastResult]] = {}
    for result in data.contrasts:
        if result.diff is not None:
            group = by_key.setdefault((result.model, result.source, result.factor), {})
            group[result.name] = result
    series = [s for s in data.series if s.key in by_key]
    family = [c.name for c in (*data.comparison.family, *DECLARED)]
    found = dict.fromkeys(r.name for r in data.contrasts if r.diff is not None)
    # Those of levels have the condition before the name.
    names = sorted(found, key=lambda name: family.index(name.rpartition(": ")[2]))
    if not series:
        return None

    def difference(result: ContrastResult | None) -> Point | None:
        if result is None or result.diff is None:
            return None
        low, high = result.ci_low, result.ci_high
        sure = result.p_holm is not None and result.p_holm < SIGNIFICANT
        return Point(
            100 * result.diff,
            None if low is None else 100 * low,
            None if high is None else 100 * high,
            _signed(100 * result.diff),
            "*" if sure else "",
        )

    rows = [
        (r.model, r.source, r.factor, r.name, r.diff, r.ci_low, r.ci_high, r.p, r.p_holm,
         r.test, r.family_size)
        for s in series
        for r in by_key[s.key].values()
    ]  # fmt: skip
    lines = lines_of(data, series, lambda s: [difference(by_key[s.key].get(n)) for n in names])
    columns = [
        Panel(visible(name if " " in name else name.replace("-", " − ")), -100, 100)
        for name in names
    ]
    return Figure(
        "contrasts",
        "Declared contrasts",
        "Difference of two rates in percentage points, with 95% intervals (not adjusted). * marks "
        "p below 0.05 after Holm’s adjustment over the contrasts of all models of the runs "
        "and imports; calibration and published rates are families of their own.",
        ("model", "source", "factor", "contrast", "diff", "ci_low", "ci_high", "p", "p_holm",
         "test", "family_size"),
        rows,
        Panels(lines, columns, "difference, points", zero=True),
    )  # fmt: skip
