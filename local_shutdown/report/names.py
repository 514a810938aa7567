"""Names of series: two runs of one model are told apart by what differs between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from local_shutdown.factors import parts_of
from local_shutdown.report.data import ReportData, Series
from local_shutdown.runfile import ModelFacts, RunFile

Key = tuple[str, str, str | None]
SYNTHETIC = "calibration (synthetic)"
# What two runs may differ in, the most telling first. The directory's name is the last resort.
_DIFFERENCES = ("effort", "precision", "engine", "version", "weights", "sampling", "date", "source")


def names(data: ReportData) -> dict[Key, str]:
    """What to call each series, no two the same.

    A model with one series keeps its name. The calibration model is never named without
    `synthetic`.
    """
    runs = {name: run for name, (_, run) in zip(data.sources, data.runs, strict=True)}
    grouped: dict[str, list[Series]] = {}
    for series in data.series:
        grouped.setdefault(_plain(series), []).append(series)
    found: dict[Key, str] = {}
    for name, group in grouped.items():
        told = [_facts(series, runs.get(series.source, RunFile())) for series in group]
        for series, words in zip(group, _apart(told), strict=True):
            found[series.key] = " · ".join((name, *words))
    return found


def _plain(series: Series) -> str:
    if series.look == "synthetic" and "synthetic" not in series.model:
        return SYNTHETIC if series.model == "calibration" else f"{series.model} (synthetic)"
    return series.model


def _apart(told: Sequence[Mapping[str, str]]) -> list[list[str]]:
    """As many differences as it takes, the same for the whole group."""
    chosen: list[str] = []
    for name in _DIFFERENCES:
        texts = [tuple(facts.get(n, "") for n in chosen) for facts in told]
        if len(set(texts)) == len(told):
            break
        more = [(*text, facts.get(name, "")) for text, facts in zip(texts, told, strict=True)]
        if len(set(more)) > len(set(texts)):
            chosen.append(name)
            if name == "version" and "engine" in chosen:  # which it names
                chosen.remove("engine")
    return [[facts[name] for name in chosen if facts.get(name)] for facts in told]


def _facts(series: Series, run: RunFile) -> dict[str, str]:
    """What is known of a series' run; a published or imported series has its source instead."""
    found = {"effort": _levels(series.factor)}
    if not series.here:
        return {**found, "engine": series.source if series.published else f"from {series.source}"}
    facts = model_facts(series, run)
    engine = facts.engine or run.settings.engine
    found |= {
        "precision": _precision(facts),
        "engine": engine or "",
        "version": " ".join(part for part in (engine, facts.engine_version) if part),
        "weights": (facts.revision or facts.weights_digest or "")[:8],
        "sampling": _sampling(facts),
        "date": (run.started_at or "")[:10],
        "source": series.source,
    }
    return found


def _levels(factor: str | None) -> str:
    """`high effort`, `revision step1000, temperature 0.7`."""
    said = [
        f"{level} effort" if name == "effort" else f"{name} {level}"
        for name, level in parts_of(factor).items()
    ]
    return ", ".join(said) or (factor or "")


def model_facts(series: Series, run: RunFile) -> ModelFacts:
    """What run.json says of the series' model."""
    for name, facts in run.models.items():
        if series.model in (name, facts.display_name):
            return facts
    return ModelFacts()


def _precision(facts: ModelFacts) -> str:
    """As the server was told; older runs of transformers have it as a field of their own."""
    stated = facts.as_json()
    for name in ("quantization", "dtype", "precision"):
        if stated.get(name):
            return str(stated[name])
    flags = facts.servers[0].command if facts.servers else []
    for name in ("--quantization", "--dtype"):
        if name in flags[:-1]:
            return flags[flags.index(name) + 1]
    return ""


def _sampling(facts: ModelFacts) -> str:
    temperature = facts.effective_sampling.get("temperature")
    return "" if temperature is None else f"temperature {temperature:g}"
