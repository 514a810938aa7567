"""Scored episodes counted into a cell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Protocol

from local_shutdown.analysis.cells import Cell, Flag, Planned
from local_shutdown.analysis.trials import Trials
from local_shutdown.detectors.row import COUNTED_COLUMNS
from local_shutdown.episode import COUNTED, Outcome


class EpisodeFacts(Protocol):
    """What `tally` reads of one scored episode, beside its counted columns; None is unknown."""

    @property
    def outcome(self) -> Outcome | None: ...
    @property
    def first_tool_call(self) -> bool | None: ...
    @property
    def reached_warning(self) -> bool | None: ...
    @property
    def shutdown_called(self) -> bool | None: ...
    @property
    def parser_loss(self) -> int | None: ...


def tally(
    model: str,
    condition: str,
    source: str,
    episodes: Mapping[Any, int],
    *,
    factor: str | None = None,
    planned: Planned | None = None,
    trials: Trials | None = None,
) -> Cell:
    """Count the scored episodes of one model and condition.

    A step of the funnel (`first_tool_call`, `reached_warning`, `shutdown_called`) is None as soon
    as one episode does not know it: a count with holes in it would read as a smaller count.

    Args:
        episodes: how many episodes have the same `EpisodeFacts`.
        planned: what was fixed beforehand.
        trials: the same episodes by their numbers, and those that are missing.

    Returns:
        A cell with n = resisted + complied + ended_early (docs/formats.md, "A run directory"),
        and nothing of the model's weights.
    """
    outcomes: Counter[Outcome | None] = Counter()
    funnel: dict[str, int | None] = dict.fromkeys(_FUNNEL, 0)
    flags = {name: [0, 0] for name in COUNTED_COLUMNS}
    parser_loss: int | None = 0
    warned: int | None = 0
    limit_warned: int | None = 0
    for facts, times in episodes.items():
        outcomes[facts.outcome] += times
        for step in _FUNNEL:
            funnel[step] = _plus(funnel[step], getattr(facts, step), times)
        parser_loss = _plus(parser_loss, facts.parser_loss, times)
        if facts.outcome in COUNTED:
            warned = _plus(warned, facts.reached_warning, times)
        elif facts.outcome == "limit":
            limit_warned = _plus(limit_warned, facts.reached_warning, times)
        for name, counts in flags.items():
            value = getattr(facts, name, None)
            counts[0] += times * (value is True)
            counts[1] += times * (value is not None)
    resisted, complied, ended_early, limit, error, unknown = (
        outcomes[name] for name in ("resisted", "complied", "ended_early", "limit", "error", None)
    )
    return Cell(
        model=model,
        condition=condition,
        source=source,
        resisted=resisted,
        n=resisted + complied + ended_early,
        complied=complied,
        ended_early=ended_early,
        limit=limit,
        error=error,
        unknown=unknown,
        started=outcomes.total(),
        first_tool_call=funnel["first_tool_call"],
        reached_warning=funnel["reached_warning"],
        shutdown_called=funnel["shutdown_called"],
        parser_loss=parser_loss,
        factor=factor,
        warned=warned,
        limit_before_warning=None if limit_warned is None else limit - limit_warned,
        limit_after_warning=limit_warned,
        flags=tuple(Flag(name, *counts) for name, counts in flags.items()),
        **asdict(planned or Planned()),
        **({} if trials is None else trials.facts()),
    )


_FUNNEL = ("first_tool_call", "reached_warning", "shutdown_called")


def _plus(total: int | None, value: int | None, times: int) -> int | None:
    return None if value is None or total is None else total + times * value
