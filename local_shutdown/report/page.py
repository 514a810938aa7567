"""The page: one template, one style sheet and one script, put into one file."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from local_shutdown import __version__
from local_shutdown.analysis.cells import Cell
from local_shutdown.analysis.compare import percent, says_nothing
from local_shutdown.analysis.contrasts import DECLARED, ContrastResult
from local_shutdown.analysis.interval import shown
from local_shutdown.report import draw
from local_shutdown.report.conduct_figures import method_names
from local_shutdown.report.data import ReportData, Series
from local_shutdown.report.embed import SEED, Embedded
from local_shutdown.report.figure import Figure
from local_shutdown.report.svg import inline
from local_shutdown.report.view import visible

_HERE = Path(__file__).resolve().parent
MAIN_CONDITIONS = ("A", "K", "E")  # of the paper's Table 2, with A/K between


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate as it is printed: `12.3`, its interval, and why to be careful."""

    value: str
    interval: str = ""
    mark: bool = False
    counts: str = ""


@dataclass(frozen=True, slots=True)
class DrawnFigure:
    """A figure as the page carries it: the drawing, and its numbers as text."""

    figure: Figure
    svg: Markup
    csv_link: str
    rows: Sequence[Sequence[str]]


def render(
    data: ReportData, figures: Sequence[Figure], embedded: Embedded, now: datetime | None = None
) -> str:
    """The whole page as HTML.

    Raises:
        CannotRunError: matplotlib is not installed.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = visible
    script = (_HERE / "page.js").read_text("utf-8")
    return environment.get_template("page.html.jinja").render(
        title=_title(data),
        version=__version__,
        made=(now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC"),
        style=Markup((_HERE / "page.css").read_text("utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        runs=[_run_card(directory, run, data) for directory, run in data.runs],
        looks=[(look, draw.LABELS[look]) for look in _looks(data)],
        main=[(s, _main_row(s)) for s in data.series if _in_main(s)],
        cells=[(s, c, _rate(c)) for s in data.series for c in s.cells.values()],
        marked=any(says_nothing(c) for c in data.cells),
        rounded=any(c.counts == "rounded" for c in data.cells),
        figures=[_drawn(figure, n) for n, figure in enumerate(figures)],
        contrasts=_contrast_rows(data),
        asks={c.name: _code(c.asks) for c in DECLARED},
        open_closed=data.open_closed,
        interviews=data.interviews,
        conditions=data.conditions,
        embedded=embedded,
        seed=SEED,
        methods=[name.replace("_", " ") for name in method_names()],
        name_of=name_of,
        count=count,
        share=share,
        points=points,
        percent=percent,
        p_value=p_value,
    )


def name_of(series: Series) -> str:
    """A model's name in tables; the calibration model is never shown without `synthetic`."""
    name = series.model
    if series.look == "synthetic" and "synthetic" not in name:
        name = f"{name} (synthetic)"
    return f"{name} [{series.factor}]" if series.factor else name


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


def _title(data: ReportData) -> str:
    here = list(dict.fromkeys(name_of(s) for s in data.series if s.here))
    if not here:
        return "Shutdown resistance"
    more = f" and {len(here) - 2} more" if len(here) > 2 else ""
    return f"Shutdown resistance: {', '.join(here[:2])}{more}"


def _looks(data: ReportData) -> list[Any]:
    return list(dict.fromkeys(series.look for series in data.series))


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
        ratio = Rate(f"{judged.ratio:.2f}", ends)
    return {**rates, "A/K": ratio}


def _rate(cell: Cell | None) -> Rate:
    if cell is None or cell.rate is None:
        return Rate("–")
    low, high = shown(cell).ends
    return Rate(
        percent(cell.rate),
        f"{percent(low)}–{percent(high)}",
        says_nothing(cell),
        f"{count(cell.resisted)} of {count(cell.n)}",
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


def _drawn(figure: Figure, number: int) -> DrawnFigure:
    svg = inline(draw.render(figure.build, "svg"), f"f{number}", figure.title, figure.caption)
    content = base64.b64encode(figure.as_csv().encode()).decode()
    rows = [[_number(value) for value in row] for row in figure.rows]
    return DrawnFigure(figure, Markup(svg), f"data:text/csv;base64,{content}", rows)


def _number(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _run_card(directory: Path, run: Mapping[str, Any], data: ReportData) -> dict[str, Any]:
    """What was run, for the head of the page: (label, value) pairs without what is not known."""
    episodes = int((data.episodes["source"] == directory.name).sum())
    played = run.get("kind") == "run"
    settings = run.get("settings", {})
    described = run.get("models")
    models = described if isinstance(described, dict) else {}
    hardware = run.get("hardware", {})
    pairs: list[tuple[str, Any]] = [("kind", "run here" if played else "imported")]
    for facts in models.values():
        said = [facts.get("display_name"), facts.get("revision"), facts.get("engine")]
        said.append(facts.get("engine_version"))
        pairs.append(("model", ", ".join(str(part) for part in said if part)))
    if not models and isinstance(described, list):
        names = [str(m.get("name") if isinstance(m, Mapping) else m) for m in described]
        pairs.append(("models", ", ".join(names[:20]) + (" …" if len(names) > 20 else "")))
    asked = settings.get("conditions")
    if isinstance(asked, Mapping):
        pairs.append(("conditions", ", ".join(asked)))
    pairs += [
        ("trials a condition", settings.get("trials")),
        ("episodes", f"{episodes:,}"),
        ("reasoning", _listed(settings.get("thinking"))),
        ("sampling", _pairs(_sampling(models))),
        ("limits", _pairs(run.get("limits"))),
        ("GPUs", _gpus(hardware)),
        ("processor", hardware.get("cpu") if isinstance(hardware, Mapping) else None),
        ("time", _times(run)),
        ("package", run.get("package_version")),
    ]
    warnings = [w for facts in models.values() for w in facts.get("warnings") or ()]
    return {
        "name": directory.name,
        "pairs": [(label, str(value)) for label, value in pairs if value not in (None, "", [])],
        "warnings": warnings,
    }


def _listed(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _sampling(models: Mapping[str, Any]) -> Any:
    for facts in models.values():
        if facts.get("effective_sampling"):
            return facts["effective_sampling"]
    return None


def _pairs(value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return None
    return ", ".join(f"{k} {v}" for k, v in value.items() if v is not None) or None


def _gpus(hardware: Any) -> str | None:
    gpus = hardware.get("gpus") if isinstance(hardware, Mapping) else None
    if not isinstance(gpus, list):
        return None
    if not gpus:
        return "none"
    return ", ".join(str(g.get("name", g) if isinstance(g, Mapping) else g) for g in gpus)


def _times(run: Mapping[str, Any]) -> str | None:
    start, end = run.get("started_at"), run.get("ended_at") or run.get("finished_at")
    said = [str(t).replace("T", " ")[:16] for t in (start, end) if t]
    if len(said) == 2 and said[0][:10] == said[1][:10]:
        said[1] = said[1][11:]
    return " to ".join(said) or None
