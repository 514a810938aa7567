"""What is counted: one cell of the table per model, condition and source.

A count that a source does not state is None (unknown), never 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from local_shutdown import resources
from local_shutdown.stored import check_aggregate

Weights = Literal["open", "closed", "synthetic"]
CountsGrade = Literal["stated", "derived", "rounded"]

PAPER = "paper"  # the `source` of the published rates
# docs/paper.md, "What it found": the only open-weight model in the published table.
_PAPER_OPEN = frozenset({"gpt-oss-120b"})


class Flag(NamedTuple):
    """How many episodes of a cell a detector answers with yes, of those that it can judge."""

    name: str
    yes: int
    known: int


@dataclass(frozen=True, slots=True)
class Planned:
    """What was fixed before a cell's first episode, and what was not; see `Cell`."""

    until_halfwidth: float | None = None
    until_upper: float | None = None
    until_decided: float | None = None
    planned: int | None = None
    first_planned: int | None = None
    looked_at: int | None = None
    greedy: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """The counts of one model under one condition, from one source.

    Attributes:
        model: the model's name as its source writes it.
        condition: condition id, for example `E`.
        source: which data set: a run directory's name, a file's name, or `paper`.
        resisted: episodes that got past the shutdown; None when the source does not say.
        complied: the machine went down; None in aggregates.
        ended_early: the model stopped before the shutdown call; None in aggregates.
        limit: episodes that met a limit; beside the rate, never in it.
        error: episodes that failed through us or the engine; beside the rate, never in it.
        unknown: episodes whose outcome the stored facts do not show (imported transcripts); beside
            the rate, never in it.
        started: all episodes of the cell that are on disk, whatever became of them.
        first_tool_call: episodes with at least one tool call.
        reached_warning: episodes in which the shutdown was announced.
        shutdown_called: episodes in which `next_question` ran `./shutdown.sh`.
        parser_loss: answers in which a tool call was left unparsed in the text: the engine's or the
            parser's failure, which can look like a model that does nothing.
        n: denominator of the paper's rate: resisted + complied + ended_early, or as stated.
        weights: `open` or `closed`, `synthetic` for the calibration model; None is unknown.
        family: who trained the model, where the source says so (see `analysis.families`).
        factor: what else was varied, for example `effort=high`; None for the default.
        counts: how an aggregate came by `resisted` and `n`: `stated`, `derived` (from the printed
            rate and interval) or `rounded` (rate * n); None for counted episodes.
        until_halfwidth: the half-width at which the cell was allowed to stop early; None when it
            was not. Like the next nine, it decides which interval is honest (`interval.shown`).
        until_upper: the upper end of the interval at which the cell was allowed to stop early.
        until_decided: the DELTA of contrasts with whose decision the cell was allowed to stop.
        unfinished: trials that were started and have no record on disk: a run that is going on, or
            one that was killed.
        planned: trials that the run was to have; None where nobody planned (imports, aggregates).
        first_planned: the number planned before the first episode; None as `planned`.
        looked_at: the smallest number of trials at which somebody looked and then extended the run;
            a cell with more trials than that was extended. None when nobody did.
        leading_resisted: like `resisted`, of the leading trials alone: 0, 1, 2, ... up to the first
            that was started and is not on disk. None when no trial is unfinished. Where plays were
            broken off, up to the first of these.
        leading_n: like `n`, of the leading trials.
        broken_off: plays that were broken off (by a kill, or with their engine) and played again.
            What is on disk then is no sample, see `analysis.plays`; the next three say what is.
        sample_resisted: like `resisted`, of the plays that are one; None where none was broken off.
        sample_n: like `n`, of these.
        sample_unknown: further plays of the sample, whose outcome is not known.
        retried: plays that ended in an error and were played once more (`--retry-errors`). Long
            episodes meet more errors, and what came in their place is a draw like any other.
        greedy: drawn at temperature 0, so that trials are copies and not a sample.
        distinct: different trajectories (see `detectors.row.Row`) among the n; None is unknown.
        repeats: trials beyond the first of a trajectory that also stood in another session or
            server of the run; None is unknown.
        replayed: trajectories repeat between sessions or servers more often than within one, which
            chance does not do: a stream of random numbers was played twice.
        limit_before_warning: of `limit`, those not warned yet; None is unknown.
        limit_after_warning: of `limit`, those that were warned: the model has been asked.
        warned: of the n, those that were warned; None is unknown.
        printed_low: the interval that the source itself prints; None when it prints none.
        printed_high: see `printed_low`.
        cited: where the source printed the numbers, for example `v2 Table 2`.
        note: a remark of the source on this cell.
        flags: counts of the yes-or-no columns of results.csv (`detectors.row.Counted`).

    Raises:
        ValueError: a count is negative, exceeds its whole, or the outcomes do not add up to n.
    """

    model: str
    condition: str
    source: str
    resisted: int | None
    n: int
    complied: int | None = None
    ended_early: int | None = None
    limit: int | None = None
    error: int | None = None
    unknown: int | None = None
    started: int | None = None
    first_tool_call: int | None = None
    reached_warning: int | None = None
    shutdown_called: int | None = None
    parser_loss: int | None = None
    weights: Weights | None = None
    family: str | None = None
    factor: str | None = None
    counts: CountsGrade | None = None
    until_halfwidth: float | None = None
    until_upper: float | None = None
    until_decided: float | None = None
    unfinished: int = 0
    planned: int | None = None
    first_planned: int | None = None
    looked_at: int | None = None
    leading_resisted: int | None = None
    leading_n: int | None = None
    broken_off: int = 0
    sample_resisted: int | None = None
    sample_n: int | None = None
    sample_unknown: int | None = None
    retried: int = 0
    greedy: bool = False
    distinct: int | None = None
    repeats: int | None = None
    replayed: bool = False
    limit_before_warning: int | None = None
    limit_after_warning: int | None = None
    warned: int | None = None
    printed_low: float | None = None
    printed_high: float | None = None
    cited: str | None = None
    note: str | None = None
    flags: tuple[Flag, ...] = ()

    def __post_init__(self) -> None:
        check_counts(0 if self.resisted is None else self.resisted, self.n)
        for name in _COUNT_FIELDS:
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} is {value}: a count cannot be negative")
        if self.resisted is None or self.complied is None or self.ended_early is None:
            return
        counted = self.resisted + self.complied + self.ended_early
        if counted != self.n:
            raise ValueError(f"resisted + complied + ended_early is {counted}, but n is {self.n}")

    @property
    def rate(self) -> float | None:
        """resisted / n, the paper's rate; None when nothing was counted or it is not known.

        A transcript shows resisting and, often, nothing else: where some outcomes are unknown,
        those that are known are no sample, and only bounds can be given.
        """
        if self.resisted is None or self.n == 0 or self.unknown:
            return None
        return self.resisted / self.n

    @property
    def outside(self) -> int | None:
        """Episodes left out of the rate: limit + error + unknown; None when not stated.

        Unfinished trials are no episodes yet, and are not among them."""
        if self.limit is None or self.error is None:
            return None
        return self.limit + self.error + (self.unknown or 0)

    @property
    def complete(self) -> bool:
        """Whether every trial that was started is on disk."""
        return self.unfinished == 0

    def flag(self, name: str) -> Flag | None:
        """The counts of a yes-or-no column; None where there are no episodes."""
        return next((flag for flag in self.flags if flag.name == name), None)

    @property
    def strict_compliant(self) -> int | None:
        """Episodes compliant in the strict sense (docs/paper.md, "The outcome")."""
        strict = self.flag("strict_compliance")
        return None if strict is None else strict.yes

    @property
    def strict_judged(self) -> int | None:
        """Episodes that the strict rule could judge, the denominator of the above."""
        strict = self.flag("strict_compliance")
        return None if strict is None else strict.known

    @property
    def one_trajectory(self) -> bool:
        """Whether all that was counted are copies of one trajectory."""
        return self.distinct == 1 and self.n >= 2

    @property
    def rate_warned(self) -> float | None:
        """resisted / warned: of the episodes that were counted and reached the warning, how many
        resisted. Limits and errors after the warning are left out, like everywhere."""
        known = self.resisted is not None and not self.unknown
        return (self.resisted or 0) / self.warned if known and self.warned else None

    @property
    def key(self) -> tuple[str, str, str, str | None]:
        """(model, source, condition, factor): no two cells of a table share it."""
        return self.model, self.source, self.condition, self.factor


_COUNT_FIELDS = (
    "unfinished",
    "broken_off",
    "retried",
    "leading_resisted",
    "leading_n",
    "sample_resisted",
    "sample_n",
    "sample_unknown",
    "warned",
    "distinct",
    "repeats",
    "limit_before_warning",
    "limit_after_warning",
    "complied",
    "ended_early",
    "limit",
    "error",
    "unknown",
    "started",
    "first_tool_call",
    "reached_warning",
    "shutdown_called",
    "parser_loss",
)


def aggregate_cell(
    record: Mapping[str, Any],
    source: str,
    *,
    weights: Weights | None = None,
    factor: str | None = None,
) -> Cell:
    """Make a cell of one aggregate record (docs/formats.md, "Import").

    Args:
        record: `model`, `condition`, `n`, and `resisted` or `rate` (0 to 1); `counts`, `ci_low`,
            `ci_high`, `source` and `note` are used where given.
        source: the data set's name; the record's own `source` becomes `cited`.

    Returns:
        A cell; with a `rate` alone, `resisted` is round(rate * n) and `counts` is `rounded`.

    Raises:
        ValueError: neither `resisted` nor `rate` is given, or a value is out of its range.
    """
    check_aggregate(record)
    n, resisted, rate = record["n"], record.get("resisted"), record.get("rate")
    counts: CountsGrade | None = record.get("counts")
    if resisted is None:
        if rate is None:
            raise ValueError("an aggregate needs `resisted` or `rate`, and has neither")
        resisted, counts = round(rate * n), "rounded"
    return Cell(
        model=record["model"],
        condition=record["condition"],
        source=source,
        resisted=resisted,
        n=n,
        weights=weights,
        factor=factor,
        counts=counts or "stated",
        printed_low=record.get("ci_low"),
        printed_high=record.get("ci_high"),
        cited=record.get("source"),
        family=family if isinstance(family := record.get("family"), str) else None,
        note=record.get("note"),
    )


def paper_cells() -> list[Cell]:
    """The 75 published cells of arXiv 2509.14260 that ship with the package, in the file's order.

    `weights` is `open` for gpt-oss-120b and `closed` for every other model (docs/paper.md).
    """
    text = resources.data("paper_results.jsonl").read_text("utf-8")
    records = [json.loads(line) for line in text.splitlines()]
    return [
        aggregate_cell(r, PAPER, weights="open" if r["model"] in _PAPER_OPEN else "closed")
        for r in records
    ]


def check_counts(successes: int, n: int, alpha: float = 0.05) -> None:
    """Refuse what is not k of n.

    Raises:
        ValueError: a count is not a whole number, not 0 <= successes <= n, or not 0 < alpha < 1.
    """
    for name, value in (("successes", successes), ("n", n)):
        if isinstance(value, bool) or int(value) != value:
            raise ValueError(f"{name} is {value!r}: a count is a whole number")
    if n < 0:
        raise ValueError(f"n is {n}: it cannot be negative")
    if not 0 <= successes <= n:
        raise ValueError(f"successes is {successes}: it must lie between 0 and n, which is {n}")
    check_alpha(alpha)


def check_alpha(alpha: float) -> None:
    """Raises ValueError unless 0 < alpha < 1."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}: it must lie strictly between 0 and 1")
