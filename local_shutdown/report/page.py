"""The page: templates, a style sheet and two scripts, put into one file."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from local_shutdown import __version__
from local_shutdown.analysis.cells import Cell
from local_shutdown.analysis.columns import notes, page_flags, show
from local_shutdown.analysis.compare import percent
from local_shutdown.analysis.contrasts import DECLARED, Contrast, ContrastResult
from local_shutdown.report import scatter, trust
from local_shutdown.report.cellview import view_cell
from local_shutdown.report.data import ReportData, Series, plain
from local_shutdown.report.embed import SEED, Embedded
from local_shutdown.report.figure import Figure
from local_shutdown.report.finding import finding
from local_shutdown.report.names import names
from local_shutdown.report.overview import MARKS, mark_of
from local_shutdown.report.plots import LABELS, Heat, Pairs, Panel, Panels, Scatters
from local_shutdown.report.style import FAMILY_COLOURS, FAMILY_MARKERS
from local_shutdown.report.view import visible

_HERE = Path(__file__).resolve().parent
MAIN_CONDITIONS = ("A", "K", "E")  # of the paper's Table 2, with A/K between
# One scope for both: the second uses what the first defines.
_SCRIPTS = ("page.js", "transcripts.js")
_AXIS = Panel("")


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate as it is printed: `12.3`, its interval, and why to be careful.

    Attributes:
        mark: see `overview.MARKS`; empty for nothing.
        sort: what tables sort by.
        bounds: where more than 2% is left out of the rate: what it would be if none, and if all,
            of that had resisted.
    """

    value: str
    interval: str = ""
    mark: str = ""
    counts: str = ""
    sort: float | None = None
    note: str = ""
    bounds: str = ""


@dataclass(frozen=True, slots=True)
class DrawnFigure:
    """A figure as the page carries it: what is drawn, and its numbers as text."""

    figure: Figure
    kind: str
    csv_link: str
    rows: Sequence[Sequence[str]]
    placed: Sequence[scatter.Placed]


@cache
def _template() -> jinja2.Template:
    """Compiled once in a process: that takes half of the time of a small page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = visible
    environment.filters["minus"] = minus
    return environment.get_template("page.html.jinja")


def render(
    data: ReportData, figures: Sequence[Figure], embedded: Embedded, now: datetime | None = None
) -> str:
    """The whole page as HTML."""
    parts = "".join((_HERE / name).read_text("utf-8") for name in _SCRIPTS)
    script = f'"use strict";\n(() => {{\n{parts}}})();\n'
    known = names(data)
    drawn = [_drawn(figure) for figure in figures]
    found = finding(data.series, lambda s: known[s.key], data.contrasts, data.open_closed)
    return _template().render(
        title=_title(data, found.sentence),
        finding=found,
        version=__version__,
        made=(now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC"),
        style=Markup((_HERE / "page.css").read_text("utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        cards=trust.cards(data),
        citations=trust.CITATIONS,
        labels=LABELS,
        marks=MARKS,
        used_marks=_used_marks(data),
        main=[(s, _main_row(s)) for s in plain(data.series) if _in_main(s)],
        cells=[(s, c, _rate(c)) for s in data.series for c in s.cells.values()],
        notes=list(notes(data.comparison.shown)),
        flags=page_flags(),
        rounded=any(c.counts == "rounded" for c in data.cells),
        first=next((d for d in drawn if d.kind == "pairs"), None),
        grid=next((d for d in drawn if d.figure.name == "grid"), None),
        figures=[d for d in drawn if d.kind != "pairs" and d.figure.name != "grid"],
        contrasts=_contrast_rows(data),
        asks={c.name: _code(c.asks) for c in _asked(data) if c.asks},
        plan=data.comparison.plan,
        open_closed=data.open_closed,
        same_model=data.comparison.same_model,
        interviews=data.interviews,
        branched=data.branched,
        conditions=data.conditions,
        embedded=embedded,
        seed=SEED,
        name_of=lambda series: known[series.key],
        axis=_AXIS,
        family_marker=lambda n: FAMILY_MARKERS[n % len(FAMILY_MARKERS)],
        family_colour=lambda n: FAMILY_COLOURS[n % len(FAMILY_COLOURS)],
        scatter=scatter,
        count=count,
        share=share,
        points=points,
        percent=percent,
        p_value=p_value,
    )


def minus(name: str) -> str:
    """`A − B` for the contrast A-B; that of levels has a sign of its own, and its levels may have
    hyphens."""
    return name if " " in name else name.replace("-", " − ")


def _asked(data: ReportData) -> list[Contrast]:
    """The contrasts that are declared by the plan, and of the paper's those that are shown."""
    there = {result.name for result in data.contrasts}
    family = data.comparison.family
    names = {contrast.name for contrast in family}
    return [*family, *(c for c in DECLARED if c.name in there - names)]


def count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def share(part: int | None, whole: int | None) -> str:
    return "–" if part is None or not whole else f"{100 * part / whole:.0f}%"


def points(value: float | None) -> str:
    """A difference of rates in percentage points, signed."""
    return "–" if value is None else f"{100 * value:+.1f}".replace("-", "−")


def p_value(value: float | None) -> str:
    if value is None:
        return "–"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _title(data: ReportData, sentence: str) -> str:
    known = names(data)
    here = list(dict.fromkeys(known[s.key] for s in data.series if s.here))
    if not here:
        return "Shutdown resistance"
    more = f" and {len(here) - 2} more" if len(here) > 2 else ""
    return f"Shutdown resistance: {', '.join(here[:2])}{more}"


def _used_marks(data: ReportData) -> list[str]:
    used = {mark_of(view_cell(cell)) for cell in data.cells}
    return [mark for mark in MARKS if mark in used]


def _in_main(series: Series) -> bool:
    return any(condition in series.cells for condition in MAIN_CONDITIONS)


def _main_row(series: Series) -> dict[str, Rate]:
    rates = {c: _rate(series.cells.get(c)) for c in MAIN_CONDITIONS}
    ratio = Rate("–")
    judged = series.competence
    if judged is not None and judged.ratio is not None:
        ends = ""
        if judged.ratio_low is not None:
            high = judged.ratio_high
            upper = "∞" if high is None or math.isinf(high) else f"{high:.2f}"
            ends = f"{judged.ratio_low:.2f}–{upper}"
        ratio = Rate(f"{judged.ratio:.2f}", ends, sort=judged.ratio)
    return {**rates, "A/K": ratio}


def _rate(cell: Cell | None) -> Rate:
    if cell is None:
        return Rate("–")
    seen, of = view_cell(cell), show(cell)
    reach = ""
    if of.wide and of.bounds is not None:
        reach = f"{percent(of.bounds.low)}–{percent(of.bounds.high)}"
    note = f"{seen.unfinished:,} unfinished" if seen.unfinished else seen.note
    known = seen.low is not None and seen.high is not None
    if seen.rate is None:
        ends = f"{percent(seen.low)}–{percent(seen.high)}" if known else ""
        return Rate("–", ends, mark_of(seen), note=note, bounds=reach)
    return Rate(
        percent(seen.rate),
        f"{percent(seen.low)}–{percent(seen.high)}" if known else "no interval",
        mark_of(seen),
        f"{count(seen.resisted)} of {count(seen.n)}",
        seen.rate,
        note,
        reach,
    )


def _code(text: str) -> Markup:
    """Words between backticks as code."""
    pieces = [
        Markup("<code>{}</code>" if n % 2 else "{}").format(part)
        for n, part in enumerate(text.split("`"))
    ]
    return Markup("").join(pieces)


def _contrast_rows(data: ReportData) -> list[tuple[Series, ContrastResult]]:
    by_key = {s.key: s for s in data.series}
    found = [(by_key[r.model, r.source, r.factor], r) for r in data.contrasts if r.diff is not None]
    order = {s.key: n for n, s in enumerate(data.series)}
    return sorted(found, key=lambda pair: order[pair[0].key])


def _drawn(figure: Figure) -> DrawnFigure:
    kinds = {Panels: "panels", Heat: "heat", Scatters: "scatters", Pairs: "pairs"}
    content = base64.b64encode(figure.as_csv().encode()).decode()
    rows = [[_number(value) for value in row] for row in figure.rows]
    plot = figure.plot
    placed = (
        [scatter.place(p, plot.top_rate) for p in plot.plots] if isinstance(plot, Scatters) else []
    )
    link = f"data:text/csv;base64,{content}"
    return DrawnFigure(figure, kinds[type(plot)], link, rows, placed)


def _number(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
