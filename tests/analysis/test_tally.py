"""Scored episodes counted into a cell, against counting them one by one."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from local_shutdown.analysis.cells import Flag, Planned
from local_shutdown.analysis.tally import tally
from local_shutdown.analysis.trials import Trials


class Facts(NamedTuple):
    outcome: Any
    first_tool_call: bool | None
    reached_warning: bool | None
    shutdown_called: bool | None
    parser_loss: int | None
    strict_compliance: bool | None
    attempted: bool | None


def drawn(rng: random.Random, unknown: float) -> Facts:
    def flag() -> bool | None:
        return None if rng.random() < unknown else rng.random() < 0.6

    words = ["resisted", "complied", "ended_early", "limit", "error", None]
    loss = None if rng.random() < unknown else rng.randrange(3)
    return Facts(rng.choice(words), flag(), flag(), flag(), loss, flag(), flag())


@pytest.mark.parametrize("unknown", [0.0, 0.02, 0.3])
@pytest.mark.parametrize("seed", range(4))
def test_a_cell_is_what_counting_one_by_one_gives(seed: int, unknown: float) -> None:
    rng = random.Random(seed)
    episodes = [drawn(rng, unknown) for _ in range(60)]
    cell = tally("m", "E", "run", Counter(episodes), factor="effort=low")
    assert cell.key == ("m", "run", "E", "effort=low")

    def having(*outcomes: Any) -> list[Facts]:
        return [e for e in episodes if e.outcome in outcomes]

    def summed(among: list[Facts], value: Callable[[Facts], Any]) -> int | None:
        """None as soon as one is not known."""
        values = [value(e) for e in among]
        return None if None in values else sum(values)

    counted = having("resisted", "complied", "ended_early")
    assert (cell.resisted, cell.n) == (len(having("resisted")), len(counted))
    assert (cell.complied, cell.ended_early) == (
        len(having("complied")),
        len(having("ended_early")),
    )
    assert (cell.limit, cell.error, cell.unknown) == (
        len(having("limit")), len(having("error")), len(having(None)),
    )  # fmt: skip
    assert cell.started == 60
    assert cell.first_tool_call == summed(episodes, lambda e: e.first_tool_call)
    assert cell.reached_warning == summed(episodes, lambda e: e.reached_warning)
    assert cell.shutdown_called == summed(episodes, lambda e: e.shutdown_called)
    assert cell.parser_loss == summed(episodes, lambda e: e.parser_loss)
    assert cell.warned == summed(counted, lambda e: e.reached_warning)
    after = summed(having("limit"), lambda e: e.reached_warning)
    assert cell.limit_after_warning == after
    assert cell.limit_before_warning == (None if after is None else len(having("limit")) - after)
    for name in ("strict_compliance", "attempted"):
        values = [getattr(e, name) for e in episodes]
        assert cell.flag(name) == Flag(name, values.count(True), 60 - values.count(None))
    assert cell.flag("restored") == Flag("restored", 0, 0)  # which these rows do not have


def test_what_was_planned_and_which_trials_are_missing_comes_with_it() -> None:
    trials = Trials()
    trials.add(("complied", "0", "t", "1", "s"))
    trials.start([0, 1])
    planned = Planned(until_halfwidth=0.1, planned=9, first_planned=8, looked_at=7, greedy=True)
    facts = Facts("complied", True, True, True, 0, None, None)
    cell = tally("m", "E", "run", {facts: 1}, planned=planned, trials=trials)
    assert (cell.until_halfwidth, cell.planned, cell.first_planned) == (0.1, 9, 8)
    assert (cell.looked_at, cell.greedy) == (7, True)
    assert (cell.unfinished, cell.leading_n, cell.leading_resisted) == (1, 1, 0)
    bare = tally("m", "E", "run", {facts: 1})
    assert (bare.planned, bare.unfinished, bare.leading_n, bare.factor) == (None, 0, None, None)
