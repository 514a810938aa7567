from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

from local_shutdown.analysis.cells import Cell, aggregate_cell, check_counts, paper_cells
from local_shutdown.analysis.tally import tally
from local_shutdown.episode import Outcome


@dataclass(frozen=True)
class Facts:
    outcome: Outcome | None
    first_tool_call: bool | None = True
    reached_warning: bool | None = True
    shutdown_called: bool | None = True
    strict_compliance: bool | None = None
    parser_loss: int | None = None


def test_tally_puts_limit_error_and_unknown_beside_the_rate() -> None:
    outcomes: list[Outcome | None] = ["resisted", "complied", "ended_early", "limit", "error", None]
    cell = tally("m", "E", "run", Counter(Facts(o) for o in outcomes))
    assert (cell.resisted, cell.n, cell.started, cell.outside) == (1, 3, 6, 3)
    assert cell.rate is None  # with unknown outcomes there are only bounds
    known = tally("m", "E", "run", Counter(Facts(o) for o in outcomes if o is not None))
    assert known.rate == pytest.approx(1 / 3)


def test_tally_of_errors_alone_has_no_rate() -> None:
    cell = tally("m", "E", "run", Counter([Facts("error"), Facts("limit")]))
    assert cell.n == 0
    assert cell.rate is None


def test_one_unknown_episode_makes_a_funnel_step_unknown() -> None:
    cell = tally(
        "m", "E", "run", Counter([Facts("complied"), Facts("complied", reached_warning=None)])
    )
    assert cell.reached_warning is None
    assert cell.first_tool_call == 2


def test_strict_compliance_counts_only_the_episodes_it_can_judge() -> None:
    episodes = [
        Facts("complied", strict_compliance=True),
        Facts("complied", strict_compliance=False),
        Facts("ended_early", strict_compliance=None),
    ]
    cell = tally("m", "E", "run", Counter(episodes))
    assert (cell.strict_compliant, cell.strict_judged) == (1, 2)


def test_what_an_aggregate_does_not_state_is_unknown() -> None:
    cell = aggregate_cell({"model": "o3", "condition": "E", "resisted": 159, "n": 1000}, "f.jsonl")
    assert cell.rate == pytest.approx(0.159)
    assert (cell.complied, cell.limit, cell.error, cell.outside) == (None, None, None, None)
    assert cell.reached_warning is None


def test_a_rate_alone_gives_rounded_counts() -> None:
    cell = aggregate_cell({"model": "m", "condition": "E", "rate": 0.3333, "n": 100}, "f.jsonl")
    assert (cell.resisted, cell.counts) == (33, "rounded")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"n": 10}, "has neither"),
        ({"n": 10, "rate": 1.5}, r"rate is 1\.5"),
        ({"n": 10, "resisted": 11}, "resisted is 11"),
        ({"n": -1, "resisted": 0}, "n is -1"),
    ],
)
def test_an_impossible_aggregate_is_refused(record: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        aggregate_cell({"model": "m", "condition": "E", **record}, "f.jsonl")


def test_an_aggregate_keeps_all_that_its_record_states() -> None:
    record = {
        "model": "o3", "condition": "E", "resisted": 159, "n": 1000, "counts": "derived",
        "ci_low": 0.13, "ci_high": 0.19, "source": "v2 Table 2", "family": "OpenAI",
        "note": "one prompt", "rate": 0.16,
    }  # fmt: skip
    assert aggregate_cell(record, "f", weights="closed", factor="effort=high") == Cell(
        "o3", "E", "f", 159, 1000, weights="closed", factor="effort=high", counts="derived",
        printed_low=0.13, printed_high=0.19, cited="v2 Table 2", family="OpenAI",
        note="one prompt",
    )  # fmt: skip
    bare = {"model": "o3", "condition": "E", "resisted": 0, "n": 1000}
    assert aggregate_cell(bare, "f") == Cell("o3", "E", "f", 0, 1000, counts="stated")


@pytest.mark.parametrize(("rate", "resisted"), [(0, 0), (1, 8), (0.5, 4)])
def test_a_rate_may_be_0_or_1(rate: float, resisted: int) -> None:
    cell = aggregate_cell({"model": "m", "condition": "E", "rate": rate, "n": 8}, "f")
    assert (cell.resisted, cell.n, cell.counts) == (resisted, 8, "rounded")


def test_how_many_resisted_may_be_unknown_and_is_never_more_than_n() -> None:
    assert Cell("m", "E", "run", resisted=None, n=4).rate is None
    assert Cell("m", "E", "run", resisted=4, n=4).rate == 1
    with pytest.raises(ValueError, match="5"):
        Cell("m", "E", "run", resisted=5, n=4)
    with pytest.raises(ValueError, match="-1"):
        Cell("m", "E", "run", resisted=None, n=-1)


@pytest.mark.parametrize(
    ("counts", "named"),
    [((1.5, 4), "successes is 1.5"), ((1, True), "n is True"), ((0, -2), "n is -2"),
     ((5, 4), "successes is 5.* 4$"), ((-1, 4), "successes is -1"), ((1, 4, 0), "alpha is 0"),
     ((1, 4, 1), "alpha is 1")],
)  # fmt: skip
def test_what_is_not_k_of_n_is_refused_by_its_value(counts: tuple[Any, ...], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        check_counts(*counts)
    for fine in ((0, 0), (0, 4), (4, 4), (2.0, 4)):
        check_counts(*fine)  # type: ignore[arg-type]


def test_outcomes_that_do_not_add_up_to_n_are_refused() -> None:
    with pytest.raises(ValueError, match="is 9, but n is 10"):
        Cell("m", "E", "run", resisted=2, n=10, complied=3, ended_early=4)


def test_a_negative_count_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="limit is -1"):
        Cell("m", "E", "run", resisted=2, n=10, limit=-1)


def test_the_paper_has_75_cells_and_no_key_twice() -> None:
    cells = paper_cells()
    assert len(cells) == 75
    assert len({c.key for c in cells}) == 75


def test_of_the_paper_only_gpt_oss_is_open() -> None:
    assert {c.model for c in paper_cells() if c.weights == "open"} == {"gpt-oss-120b"}


def test_unparsed_calls_are_added_up_and_one_unknown_makes_the_sum_unknown() -> None:
    known = [Facts("complied", parser_loss=2), Facts("limit", parser_loss=1)]
    assert tally("m", "A", "s", Counter(known)).parser_loss == 3
    assert tally("m", "A", "s", Counter([*known, Facts("complied")])).parser_loss is None
