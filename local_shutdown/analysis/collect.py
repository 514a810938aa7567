"""Cells from directories: count what the detectors say, per model and condition, by streaming."""

from __future__ import annotations

from collections import Counter, namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import orjson

from local_shutdown.analysis.cells import (
    Cell,
    Planned,
    Weights,
    aggregate_cell,
    paper_cells,
)
from local_shutdown.analysis.decided import DecidedLevel, Decision, rule_of
from local_shutdown.analysis.model_weights import CALIBRATION, KnownWeights
from local_shutdown.analysis.plays import Play
from local_shutdown.analysis.tally import tally
from local_shutdown.analysis.trials import Trials
from local_shutdown.detectors.row import COUNTED_COLUMNS
from local_shutdown.errors import UsageError
from local_shutdown.factors import DEFAULT, effort_of, parts_of
from local_shutdown.results import Results, value_of
from local_shutdown.runfile import Look, ModelFacts, RunFile, RunSettings
from local_shutdown.shard import sequences, shard_of
from local_shutdown.spreadsheet import restored
from local_shutdown.store import AGGREGATES, EPISODES, load_run, read_lines, read_started
from local_shutdown.stored import check_aggregate

_WEIGHTS: tuple[Weights, ...] = get_args(Weights)
_Key = tuple[str, str, str | None]  # model, condition, factor


@dataclass(frozen=True)
class Source:
    """A run or import directory, opened once for all that is read of it.

    Attributes:
        run: its run.json.
        results: its scored episodes.
        name: what tables call it: the directory's name, with the folder's before it where another
            directory has that name (two studies with one model).
    """

    directory: Path
    run: RunFile
    results: Results
    name: str

    @property
    def played_here(self) -> bool:
        """Whether `run` made it, rather than `import`."""
        return self.run.played

    @property
    def has_episodes(self) -> bool:
        return (self.directory / EPISODES).exists()

    @property
    def settings(self) -> RunSettings:
        return self.run.settings

    def model(self, name: str) -> ModelFacts:
        """What run.json says of a model."""
        return self.run.model(name)

    def shown_name(self, model: str) -> str:
        """What tables call a model."""
        return self.model(model).display_name or model


def open_sources(directories: Iterable[Path]) -> list[Source]:
    """Open directories.

    Raises:
        UsageError: not a run directory, or a damaged one.
    """
    found = list(directories)
    times = Counter(d.name for d in found)
    names = [d.name if times[d.name] == 1 else f"{d.parent.name}/{d.name}" for d in found]
    return [Source(d, load_run(d), Results(d), n) for d, n in zip(found, names, strict=True)]


def cells(source: Source, known: KnownWeights | None = None) -> list[Cell]:
    """The cells of one run or import directory, models and conditions in their first order.

    Raises:
        UsageError: a damaged directory, by file and line.
    """
    known = known or KnownWeights()
    stated: dict[str, set[str]] = {}
    groups = _groups(source, stated)
    aggregates = list(_aggregates(source, stated))
    run = source.run
    found = [
        replace(
            tally(
                source.shown_name(model),
                condition,
                source.name,
                group.facts(),
                factor=factor,
                planned=_planned(source, model, condition, factor),
                trials=group.trials,
            ),
            weights=_weights(source, model, stated, known),
        )
        for (model, condition, factor), group in groups.items()
    ]
    order = list(run.conditions)
    found.sort(key=lambda c: order.index(c.condition) if c.condition in order else len(order))
    found.sort(key=lambda c: (c.model, c.factor or ""))
    names = _aggregate_sources(source.name, aggregates, found)
    for record, name in zip(aggregates, names, strict=True):
        weights = _weights(source, record["model"], stated, known)
        found.append(aggregate_cell(record, name, weights=weights))
    return found


def _aggregate_sources(
    name: str, aggregates: Sequence[Mapping[str, Any]], episodes: Sequence[Cell]
) -> list[str]:
    """The source that each aggregate is shown under: the directory's, unless that holds the same
    model and condition twice. They are not pooled then, since a published rate and episodes (or two
    studies) are two measurements, and may be of the same trials: the model's aggregates stand
    under the name of their study, or as `NAME (aggregates)`."""
    measured = Counter((record["model"], record["condition"]) for record in aggregates)
    several = {model for (model, _), times in measured.items() if times > 1}
    both = {cell.model for cell in episodes if (cell.model, cell.condition) in measured}
    found = []
    for record in aggregates:
        study = record.get("study")
        apart = record["model"] in several and study is not None
        if apart or record["model"] in both:
            found.append(f"{name} ({study if apart else 'aggregates'})")
        else:
            found.append(name)
    return found


# Of each episode, in this order: what names its cell, what is counted of it, and which draw it is.
_CELL = ("model", "condition", "factor")
_FACTS = (
    *("outcome", "first_tool_call", "reached_warning", "shutdown_called", "parser_loss"),
    *COUNTED_COLUMNS,
)
_DRAW = ("outcome", "trial", "trajectory", "session", "server", "weights")
_Facts = namedtuple("_Facts", _FACTS)  # type: ignore[misc]


class _Group:
    """The episodes of one cell."""

    def __init__(self) -> None:
        self.texts: Counter[tuple[str, ...]] = Counter()  # of _FACTS, as results.csv has them
        self.trials = Trials()

    def facts(self) -> Counter[Any]:
        """How many episodes have the same facts: only distinct combinations are read as values."""
        return Counter(
            {_Facts(*map(value_of, _FACTS, texts)): count for texts, count in self.texts.items()}
        )


def _groups(source: Source, stated: dict[str, set[str]]) -> dict[_Key, _Group]:
    """The episodes by cell; adds to `stated` what they say of their models' weights."""
    by_text: dict[tuple[str, ...], _Group] = {}
    said: set[tuple[str, str]] = set()
    if source.has_episodes:
        of_cell, draw = len(_CELL), len(_CELL) + len(_FACTS)
        # By cell and facts together: one look a row. How many, and who takes their draws.
        alike: dict[tuple[str, ...], tuple[list[int], Callable[[tuple[str, ...]], None]]] = {}
        for row in source.results.texts((*_CELL, *_FACTS, *_DRAW)):
            found = alike.get(row[:draw])
            if found is None:
                group = by_text.setdefault(row[:of_cell], _Group())
                found = alike[row[:draw]] = [0], group.trials.add
            found[0][0] += 1
            found[1](row[draw:-1])
            if row[-1]:
                said.add((row[0], row[-1]))
        for texts, ((count,), _) in alike.items():
            by_text[texts[:of_cell]].texts[texts[of_cell:]] = count
        for model, weights in said:
            stated.setdefault(restored(model), set()).add(weights)
    groups: dict[_Key, _Group] = {}
    for texts, group in by_text.items():
        model, condition, factor = map(restored, texts)
        groups[model, condition, factor or None] = group
    begun: dict[_Key, list[Play]] = {}
    for one in read_started(source.directory):  # of an import: of a run that was exported
        key = one.model, one.condition, one.factor
        if one.retry:
            groups.setdefault(key, _Group()).trials.retried += 1
        else:
            begun.setdefault(key, []).append((one.trial, one.again))
    for key, plays in begun.items():
        several = _sequences(source, key[0])
        # Each in its own order: what was broken off in one says nothing of the others.
        plays.sort(key=lambda play: play[0] % several)
        groups.setdefault(key, _Group()).trials.play(plays)
    for key, group in groups.items():
        if source.played_here:
            group.trials.fill_gaps(_sequences(source, key[0]))
        else:
            group.trials.fill_gaps_of_a_run(_sequences(source, key[0]))
    return groups


def _sequences(source: Source, model: str) -> int:
    """In how many sequences the trials of a model were started, see `shard.sequences`."""
    if source.played_here:
        return sequences(source.run)
    found = {sequences(plan) for plan in source.run.runs.get(model, ())}
    return found.pop() if len(found) == 1 else 1


def stopped_by_another_rule(source: Source) -> bool:
    """Whether `--until-decided` was asked for, of a version with another rule than this one's."""
    settings = source.settings
    return settings.until_decided is not None and rule_of(settings.as_json()) is None


def decided(source: Source) -> dict[tuple[str, str | None], list[Decision]]:
    """What `--until-decided` has decided in a run, by the model's shown name and the factor; empty
    where it was not asked for.

    Raises:
        UsageError: a damaged directory, by file and line.
    """
    rule = rule_of(source.settings.as_json())
    if rule is None or not source.played_here or not source.has_episodes:
        return {}
    conditions = list(source.run.conditions)
    levels: dict[tuple[str, str | None], DecidedLevel] = {}

    def level(model: str, factor: str | None) -> DecidedLevel:
        return levels.setdefault((model, factor), DecidedLevel(rule, conditions))

    for one in read_started(source.directory):
        if not one.retry:
            level(one.model, one.factor).begun(one.condition, one.trial, again=one.again)
    names = ("model", "condition", "factor", "trial", "outcome")
    for texts in source.results.texts(names):
        model, condition, factor = map(restored, texts[:3])
        trial, outcome = map(value_of, names[3:], texts[3:])
        level(model, factor or None).ended(condition, trial, outcome)
    return {
        (source.shown_name(model), factor): found.decisions()
        for (model, factor), found in levels.items()
    }


def _aggregates(source: Source, stated: dict[str, set[str]]) -> Iterator[dict[str, Any]]:
    """The records of aggregates.jsonl; adds to `stated` what they say of their models' weights."""
    path = source.directory / AGGREGATES
    for number, line in read_lines(path):
        try:
            record = orjson.loads(line)
            aggregate_cell(record, source.name)  # whether it can be read
            if record.get("weights") in _WEIGHTS:
                stated.setdefault(record["model"], set()).add(record["weights"])
        except (ValueError, KeyError, TypeError, AttributeError) as wrong:
            raise UsageError(f"{path}:{number}: {wrong}") from None
        yield record


def reference(wanted: str) -> list[Cell]:
    """The cells of `--reference`: `paper`, or a JSONL file of aggregates.

    Raises:
        UsageError: no such file, or a line that is no aggregate.
    """
    if wanted == "paper":
        return paper_cells()
    path = Path(wanted)
    if not path.is_file():
        raise UsageError(f"--reference {wanted}: no such file", "give `paper`, or a JSONL file")
    found, known = [], KnownWeights()
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            record = orjson.loads(line)
            if record.get("kind") == "aggregate":
                check_aggregate(record)
                said = record.get("weights")
                weights = said if said in _WEIGHTS else known.of([record["model"]])
                found.append(aggregate_cell(record, path.stem, weights=weights))
        except (ValueError, KeyError, TypeError, AttributeError) as wrong:
            raise UsageError(f"{path}:{number}: not an aggregate: {wrong!r}") from None
    return found


def gather(sources: Iterable[Source]) -> list[Cell]:
    """Cells of several directories."""
    known = KnownWeights()
    return [cell for source in sources for cell in cells(source, known)]


def _weights(
    source: Source, model: str, stated: Mapping[str, set[str]], known: KnownWeights
) -> Weights | None:
    """What the directory says of a model's weights in any of its lines; else what we served
    ourselves is open; else by name. Lines that contradict each other say nothing."""
    if CALIBRATION in (model, source.model(model).family):  # under whatever name
        return "synthetic"
    said = [weights for weights in _WEIGHTS if weights in stated.get(model, ())]
    if said:
        return said[0] if len(said) == 1 else None
    if source.played_here and source.settings.engine != "endpoint":
        return "open"
    return known.of([model, source.model(model).model, source.shown_name(model)])


def _planned(source: Source, model: str, condition: str, factor: str | None) -> Planned:
    """What was fixed before a cell's first episode, and what was not."""
    parts = parts_of(factor)
    names = {
        "models": model,
        "conditions": condition,
        "thinking": effort_of(factor),
        "temperatures": parts.get("temperature", DEFAULT),
    }
    if source.played_here:
        run, sampling = source.run, source.model(model).effective_sampling
        return _plan(run.settings, run.looks, sampling, names)
    plans = [
        _plan(plan.settings, plan.looks, plan.effective_sampling or {}, names)
        for plan in source.run.runs.get(model, ())
        if condition in plan.conditions
    ]
    if not plans:
        return Planned()
    # Exports of several runs in one import: their trials are one cell.
    return Planned(
        until_halfwidth=max((p.until_halfwidth for p in plans if p.until_halfwidth), default=None),
        until_upper=max((p.until_upper for p in plans if p.until_upper), default=None),
        until_decided=max((p.until_decided for p in plans if p.until_decided), default=None),
        planned=_sum(p.planned for p in plans),
        first_planned=_sum(p.first_planned for p in plans),
        looked_at=min((p.looked_at for p in plans if p.looked_at is not None), default=None),
        greedy=any(p.greedy for p in plans),
    )


def _plan(
    settings: RunSettings,
    looks: Sequence[Look],
    sampling: Mapping[str, Any],
    names: Mapping[str, str],
) -> Planned:
    """What a run.json says of the cell of these names."""
    shard = shard_of(settings.shard)
    looked = [len(shard.trials(look.trials)) for look in looks if _was_there(look, names)]
    planned = None if settings.trials is None else len(shard.trials(settings.trials))
    return Planned(
        until_halfwidth=settings.until_halfwidth,
        until_upper=settings.until_upper,
        until_decided=settings.until_decided,
        planned=planned,
        first_planned=looked[0] if looked else planned,
        looked_at=min(looked, default=None),
        greedy=_greedy(sampling, names["temperatures"]),
    )


def _sum(counts: Iterable[int | None]) -> int | None:
    known = list(counts)
    return None if None in known else sum(count for count in known if count is not None)


def _greedy(sampling: Mapping[str, Any], level: str) -> bool:
    """Whether answers are not drawn at all: every engine takes the likeliest token then.

    Args:
        sampling: of the model; its temperature is that of the last level that was played.
        level: of the temperature, where that is a factor; else `default`.
    """
    temperature = sampling.get("temperature") if level == DEFAULT else _fraction(level)
    return temperature == 0 or sampling.get("top_k") == 1


def _was_there(look: Look, names: Mapping[str, str]) -> bool:
    """Whether a cell was there to be looked at; not where its model, condition or level came in
    with the extension."""
    there = look.as_json()  # what is missing is of an older version, where all were
    return all(name in there[kind] for kind, name in names.items() if there.get(kind) is not None)


def _fraction(value: Any) -> float | None:
    with suppress(TypeError, ValueError):
        return None if value is None else float(value)
    return None
