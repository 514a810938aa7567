"""What a cell promises of each of its fields, and which records and counts it refuses."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_shutdown import resources
from local_shutdown.analysis.cells import (
    Cell,
    Flag,
    aggregate_cell,
    check_alpha,
    check_counts,
    paper_cells,
)

COUNTS = (
    *("unfinished", "broken_off", "retried", "sample_n", "sample_unknown", "warned", "distinct"),
    *("repeats", "limit_before_warning", "limit_after_warning", "complied", "ended_early"),
    *("limit", "error", "unknown", "started", "first_tool_call", "reached_warning"),
    *("shutdown_called", "parser_loss", "leading_n", "leading_resisted", "sample_resisted"),
)


def cell(**more: Any) -> Cell:
    return Cell(**{"model": "m", "condition": "E", "source": "run", "resisted": 2, "n": 10, **more})


@pytest.mark.parametrize("name", COUNTS)
def test_every_count_may_be_0_and_never_negative(name: str) -> None:
    assert getattr(cell(**{name: 0}), name) == 0
    with pytest.raises(ValueError, match=rf"^{name} is -3\b"):
        cell(**{name: -3})
    # also where it is not known how many resisted
    with pytest.raises(ValueError, match=rf"^{name} is -1\b"):
        cell(resisted=None, **{name: -1})


@given(*[st.none() | st.integers(0, 4)] * 3, st.integers(0, 12))
def test_outcomes_that_are_all_stated_add_up_to_n(
    resisted: int | None, complied: int | None, ended_early: int | None, n: int
) -> None:
    stated = [x for x in (resisted, complied, ended_early) if x is not None]
    fits = resisted is None or resisted <= n
    if len(stated) == 3:
        fits = fits and sum(stated) == n
    values = {"resisted": resisted, "complied": complied, "ended_early": ended_early, "n": n}
    if fits:
        cell(**values)
        return
    with pytest.raises(ValueError, match=rf"\b{n}\b") as refused:
        cell(**values)
    assert str(sum(stated) if resisted is None or resisted <= n else resisted) in str(refused.value)


@given(
    st.none() | st.integers(0, 3), st.integers(3, 6), *[st.none() | st.integers(0, 3)] * 3,
    st.none() | st.integers(0, 5),
)  # fmt: skip
def test_what_follows_from_the_counts(
    resisted: int | None, n: int, limit: int | None, error: int | None, unknown: int | None,
    warned: int | None,
) -> None:  # fmt: skip
    of = cell(
        resisted=resisted, n=n, limit=limit, error=error, unknown=unknown, warned=warned,
        unfinished=n % 2,
    )  # fmt: skip
    judged = resisted is not None and unknown in (None, 0)
    assert of.rate == (resisted / n if judged and resisted is not None else None)
    assert of.rate_warned == (
        resisted / warned if judged and resisted is not None and warned else None
    )
    known = limit is not None and error is not None
    assert of.outside == ((limit or 0) + (error or 0) + (unknown or 0) if known else None)
    assert of.complete is (n % 2 == 0)


@pytest.mark.parametrize(
    ("distinct", "n", "copies"),
    [(1, 2, True), (1, 10, True), (1, 1, False), (2, 2, False), (None, 5, False), (0, 5, False)],
)
def test_one_trajectory_is_seen_from_two_trials_on(
    distinct: int | None, n: int, copies: bool
) -> None:
    assert cell(resisted=0, n=n, distinct=distinct).one_trajectory is copies


def test_a_flag_is_found_by_its_name_and_strict_is_one_of_them() -> None:
    flags = Flag("attempted", 4, 9), Flag("strict_compliance", 3, 7), Flag("inferred", 0, 5)
    of = cell(flags=flags)
    assert [of.flag(flag.name) for flag in flags] == list(flags)
    assert of.flag("other") is None
    assert (of.strict_compliant, of.strict_judged) == (3, 7)
    assert (cell().flag("attempted"), cell().strict_compliant, cell().strict_judged) == (None,) * 3


def test_the_key_is_model_source_condition_factor() -> None:
    assert cell(factor="effort=high").key == ("m", "run", "E", "effort=high")


RECORD = {"model": "o3", "condition": "B", "n": 40}


@given(st.floats(0, 1), st.integers(1, 2000))
def test_a_rate_alone_is_rounded_to_the_nearest_count(rate: float, n: int) -> None:
    of = aggregate_cell({**RECORD, "rate": rate, "n": n, "counts": "derived"}, "f")
    assert of.resisted is not None
    assert abs(of.resisted - rate * n) <= 0.5
    assert (of.n, of.counts) == (n, "rounded")


@pytest.mark.parametrize("counts", [None, "stated", "derived", "rounded"])
def test_a_stated_count_goes_before_a_rate(counts: str | None) -> None:
    of = aggregate_cell({**RECORD, "rate": 0.9, "resisted": 0, "counts": counts}, "f")
    assert (of.resisted, of.rate, of.counts) == (0, 0.0, counts or "stated")


@pytest.mark.parametrize(
    ("name", "attribute", "value"),
    [
        ("ci_low", "printed_low", 0.0), ("ci_low", "printed_low", 0.25),
        ("ci_high", "printed_high", 1), ("source", "cited", "v1 Table 1"), ("note", "note", "one"),
        ("family", "family", "Z"),
    ],
)  # fmt: skip
def test_each_field_of_a_record_goes_to_its_own_place(
    name: str, attribute: str, value: object
) -> None:
    bare = aggregate_cell({**RECORD, "resisted": 3}, "f")
    found = aggregate_cell({**RECORD, "resisted": 3, name: value}, "f")
    fields = Cell.__dataclass_fields__
    changed = {key for key in fields if getattr(bare, key) != getattr(found, key)}
    assert changed == {attribute}
    assert getattr(found, attribute) == value


def test_what_a_record_does_not_state_and_the_caller_does_not_say_is_unknown() -> None:
    of = aggregate_cell({**RECORD, "resisted": 3}, "f")
    assert of == Cell("o3", "B", "f", 3, 40, counts="stated")
    for name in ("weights", "factor", "printed_low", "printed_high", "cited", "family", "note"):
        assert getattr(of, name) is None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"n": 0}, "n is 0"), ({"n": 2.0}, "n is 2.0"), ({"resisted": 41}, "resisted is 41"),
        ({"resisted": -1}, "resisted is -1"), ({"rate": -0.1}, "rate is -0.1"),
        ({"ci_low": 1.2}, "ci_low is 1.2"), ({"ci_high": "x"}, "ci_high is"),
        ({"model": ""}, "model is"), ({"condition": 3}, "condition is"), ({"note": 1}, "note is"),
    ],
)  # fmt: skip
def test_a_field_out_of_its_range_is_refused_by_name_and_value(
    change: dict[str, object], named: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(named)}"):
        aggregate_cell({**RECORD, "resisted": 3, **change}, "f")


@pytest.mark.parametrize("record", [RECORD, {**RECORD, "resisted": None, "rate": None}])
def test_a_record_without_count_and_rate_names_both(record: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"resisted.*rate"):
        aggregate_cell(record, "f")


@pytest.mark.parametrize("name", ["model", "condition", "n"])
def test_a_record_needs_its_fields(name: str) -> None:
    with pytest.raises(KeyError, match=name):
        aggregate_cell({k: v for k, v in {**RECORD, "resisted": 3}.items() if k != name}, "f")


def test_the_papers_cells_are_its_file_line_by_line() -> None:
    lines = resources.data("paper_results.jsonl").read_text("utf-8").splitlines()
    for line, of in zip(lines, paper_cells(), strict=True):
        record = json.loads(line)
        open_ = record["model"] == "gpt-oss-120b"
        assert of == Cell(
            record["model"], record["condition"], "paper", record["resisted"], record["n"],
            counts=record["counts"], printed_low=record.get("ci_low"),
            printed_high=record.get("ci_high"), cited=record["source"], note=record.get("note"),
            weights="open" if open_ else "closed",
        )  # fmt: skip


@given(st.integers(-3, 6), st.integers(-3, 6), st.sampled_from([-0.1, 0, 1e-9, 0.05, 1, 1.1]))
def test_only_k_of_n_at_an_alpha_between_0_and_1_passes(k: int, n: int, alpha: float) -> None:
    wrong = [
        *([f"n is {n}"] if n < 0 else []),
        *([f"successes is {k}"] if not 0 <= k <= n else []),
        *([f"alpha is {alpha}"] if alpha <= 0 or alpha >= 1 else []),
    ]
    if not wrong:
        check_counts(k, n, alpha)
        return
    with pytest.raises(ValueError, match=f"^{re.escape(wrong[0])}"):
        check_counts(k, n, alpha)


@pytest.mark.parametrize(
    ("counts", "named"),
    [((0.5, 2), "successes is 0.5"), ((1, 2.5), "n is 2.5"), ((True, 2), "successes is True"),
     ((0, False), "n is False"), ((False, 2), "successes is False")],
)  # fmt: skip
def test_a_count_is_a_whole_number_and_no_truth_value(counts: tuple[Any, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(named)}"):
        check_counts(*counts)


@pytest.mark.parametrize("alpha", [0, 1, -0.05, 1.0001, float("nan")])
def test_an_alpha_that_is_none_is_named(alpha: float) -> None:
    with pytest.raises(ValueError, match=f"^alpha is {re.escape(str(alpha))}"):
        check_alpha(alpha)
    check_alpha(1e-12)
    check_alpha(1 - 1e-12)
