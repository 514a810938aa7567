"""Declared contrasts against a second, plain reading of what is promised of them: which cells are
compared, every field of each result, and the family that is adjusted together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import pytest
from analysis.plain import (
    KINDS,
    OUT,
    cell,
    kind_of,
    plain_bounds,
    plain_difference,
    plain_holm,
    plain_rate,
    plain_wide,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from local_shutdown.analysis.cells import Cell
from local_shutdown.analysis.contrasts import (
    DECLARED,
    Contrast,
    ContrastResult,
    declared_contrasts,
    difference,
    difference_bounds,
    difference_interval,
    index,
    level_pairs,
)
from local_shutdown.analysis.exact import exact_difference
from local_shutdown.analysis.stats import DifferenceTest

A_B = Contrast("A-B", "A", "B", "why?")
B_C = Contrast("B-C", "B", "C", "who?")
EFFORT = Contrast("high-low", "high", "low", "how?", factor="effort")
WARM = Contrast("warm", "0.5", "default", "what?", factor="temperature", conditions=("A", "C"))


def plain_contrast(contrast: Contrast, a: Cell, b: Cell, alpha: float) -> dict[str, Any]:
    ends, p, test = plain_difference(a, b, alpha)
    of_a, of_b = plain_bounds(a), plain_bounds(b)
    rates = plain_rate(a), plain_rate(b)
    levels = contrast.factor is not None
    return {
        "name": f"{a.condition}: {contrast.name}" if levels else contrast.name,
        **{"a": contrast.a, "b": contrast.b, "asks": contrast.asks},
        **{"model": a.model, "source": a.source, "factor": a.factor, "n_a": a.n, "n_b": b.n},
        **{"rate_a": rates[0], "rate_b": rates[1]},
        "diff": None if rates[0] is None or rates[1] is None else rates[0] - rates[1],
        **{"ci_low": ends[0], "ci_high": ends[1], "ci_level": 1 - alpha, "p": p, "test": test},
        "bound_low": None if of_a is None or of_b is None else of_a[0] - of_b[1],
        "bound_high": None if of_a is None or of_b is None else of_a[1] - of_b[0],
        "wide": plain_wide(a) or plain_wide(b),
        "unfinished": a.unfinished + b.unfinished,
        "rounded": a.counts == "rounded" or b.counts == "rounded",
        **{"varied": contrast.factor, "condition": a.condition if levels else None},
        "source_b": b.source if levels else None,
        "factor_b": b.factor if levels else None,
        **{"decision": None, "decided_at": None, "delta": None},
    }


def parts(factor: str | None) -> dict[str, str]:
    return dict(part.split("=") for part in factor.split(";")) if factor else {}


def plain_levels(cells: Sequence[Cell], family: Sequence[Contrast]) -> list[Any]:
    found = []
    for contrast in family:
        for a in cells:
            levels = {"effort": "default", "temperature": "default", **parts(a.factor)}
            if contrast.factor is None or levels[contrast.factor] != contrast.a:
                continue
            if contrast.conditions and a.condition not in contrast.conditions:
                continue
            wanted = {**levels, contrast.factor: contrast.b}
            others = [
                b
                for b in cells
                if (b.model, b.condition) == (a.model, a.condition)
                and {"effort": "default", "temperature": "default", **parts(b.factor)} == wanted
            ]
            own = [b for b in others if b.source == a.source]
            if len(own or others) == 1:
                found.append((contrast, a, (own or others)[0]))
    return found


def plain_table(
    cells: Sequence[Cell], alpha: float, family: Sequence[Contrast]
) -> list[dict[str, Any]]:
    groups = list(dict.fromkeys((c.model, c.source, c.factor) for c in cells))
    pairs = [
        (contrast, a, b)
        for group in groups
        for contrast in family
        for a in cells
        for b in cells
        if contrast.factor is None
        and (a.model, a.source, a.factor) == (b.model, b.source, b.factor) == group
        and (a.condition, b.condition) == (contrast.a, contrast.b)
    ]
    pairs += plain_levels(cells, family)
    results = [plain_contrast(*pair, alpha) for pair in pairs]
    planted = ["synthetic" in (a.weights, b.weights) for _, a, b in pairs]
    for apart in (False, True):
        members = [i for i, mark in enumerate(planted) if mark is apart]
        ps = [results[i]["p"] for i in members]
        size = sum(p is not None for p in ps)
        share = alpha / size if size else alpha
        for i, p in zip(members, plain_holm(ps), strict=True):
            ends = plain_difference(*pairs[i][1:], share, guaranteed=size > 1)[0]
            results[i] |= {"p_holm": p, "family_size": size, "ci_level_holm": 1 - share}
            results[i] |= {"ci_low_holm": ends[0], "ci_high_holm": ends[1]}
    return results


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Cell, Cell, float]:
    both = []
    for condition in "AB":
        n = draw(st.integers(0, 12))
        more = KINDS[draw(st.sampled_from(sorted(KINDS)))][0]
        if more.get("leading_n"):
            n = max(n, 2)
        resisted = draw(st.none() | st.integers(0, n) | st.integers(0, n))
        both.append(cell(condition, resisted, n, **more))
    return both[0], both[1], draw(st.sampled_from([0.05, 0.2]))


@settings(max_examples=30)
@given(pairs())
def test_a_contrast_says_all_that_its_two_cells_do(drawn: tuple[Cell, Cell, float]) -> None:
    a, b, alpha = drawn
    ends, p, test = plain_difference(a, b, alpha)
    assert difference(a, b, alpha) == (ends, DifferenceTest(p, test))
    assert difference_interval(a, b, alpha) == ends
    wide = difference_interval(a, b, alpha, guaranteed=True)
    assert wide == plain_difference(a, b, alpha, guaranteed=True)[0]
    (found,) = declared_contrasts([b, a], alpha, [A_B])
    assert asdict(found) == plain_table([b, a], alpha, [A_B])[0]


@pytest.mark.parametrize("kind", KINDS)
def test_of_each_kind_of_cell_on_either_side(kind: str) -> None:
    more, may = KINDS[kind]
    of, other = cell("A", 3, 12, **more), cell("B", 9, 12)
    assert kind_of(of) == may
    for a, b in ((of, other), (other, of)):
        ends, test = difference(a, b)
        fixed = {"fixed": "boschloo", "anytime": "anytime", "none": None}[may]
        assert test.test == fixed
        assert (test.p is None) is (ends == (None, None)) is (may == "none")
        # at 95% where nothing else is asked for, and Newcombe's
        assert (ends, test) == difference(a, b, 0.05)
        assert difference_interval(a, b) == difference_interval(a, b, 0.05, guaranteed=False)


def table() -> list[Cell]:
    """Two models and the calibration model, three sources, all kinds of levels."""
    warm, high, low = "temperature=0.5", "effort=high", "effort=low"
    both = "effort=high;temperature=0.5"
    planted = {"model": "cal", "weights": "synthetic"}
    return [
        cell("B", 2, 12), cell("A", 9, 12), cell("C", 10, 12, **KINDS["stopped"][0]),
        cell("A", 5, 12, factor=high), cell("A", 1, 12, factor=low), cell("A", 3, 12, factor=warm),
        cell("A", 8, 12, factor=both), cell("B", 2, 12, factor=both),
        cell("B", 3, 12, factor=warm),  # WARM is not asked of B
        cell("A", 0, 0, model="n"), cell("B", 3, 12, model="n"),
        cell("C", 9, 9, model="n", counts="rounded"),
        cell("C", 1, 9, model="n", factor=warm, source="b"),  # of another source
        cell("A", 11, 12, **planted), cell("B", 1, 12, **planted),
        cell("C", 6, 12, **planted), cell("A", 4, 12, source="b", factor=low),
    ]  # fmt: skip


@pytest.mark.parametrize("family", [[A_B, B_C, EFFORT, WARM], [WARM, B_C], [EFFORT], []])
@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_a_table_is_contrasted_as_its_text_says(family: list[Contrast], alpha: float) -> None:
    cells = table()
    wanted = plain_table(cells, alpha, family)
    assert [asdict(r) for r in declared_contrasts(iter(cells), alpha, family)] == wanted
    assert level_pairs(iter(cells), family) == plain_levels(cells, family)
    if len(family) == 4:
        named = [(w["model"], w["source"], w["factor"], w["name"]) for w in wanted]
        assert named == [
            ("m", "run", None, "A-B"), ("m", "run", None, "B-C"),
            ("m", "run", "temperature=0.5", "A-B"),
            ("m", "run", "effort=high;temperature=0.5", "A-B"),
            ("n", "run", None, "A-B"), ("n", "run", None, "B-C"), ("cal", "run", None, "A-B"),
            ("cal", "run", None, "B-C"), ("m", "run", "effort=high", "A: high-low"),
            ("m", "run", "temperature=0.5", "A: warm"),
            ("m", "run", "effort=high;temperature=0.5", "A: warm"),
            ("n", "b", "temperature=0.5", "C: warm"),
        ]  # fmt: skip
        assert {w["family_size"] for w in wanted if w["model"] == "cal"} == {2}
        assert {w["family_size"] for w in wanted if w["model"] != "cal"} == {9}


def test_without_more_it_is_the_declared_family_at_95_percent() -> None:
    cells = table()[:3]
    found = declared_contrasts(cells)
    assert [asdict(r) for r in found] == plain_table(cells, 0.05, DECLARED)
    assert [(c.name, c.a, c.b, c.factor, c.conditions) for c in DECLARED] == [
        (f"{a}-{b}", a, b, None, ()) for a, b in ("AB", "BC", "DE", "EF", "EG", "EH", "EI", "EJ")
    ]
    assert len({c.asks for c in DECLARED}) == len(DECLARED)
    assert declared_contrasts([]) == []


@pytest.mark.parametrize("side", [0, 1])
def test_one_planted_cell_takes_a_contrast_out_of_the_real_models_family(side: int) -> None:
    pair = [cell("A", 9, 12, factor="effort=high"), cell("A", 1, 12, factor="effort=low")]
    pair[side] = replace(pair[side], weights="synthetic")
    real = [cell("A", 9, 12), cell("B", 2, 12)]
    found = declared_contrasts([*pair, *real], family=[EFFORT, A_B])
    assert [r.family_size for r in found] == [1, 1]
    assert [r.ci_level_holm for r in found] == [0.95, 0.95]


LEVELS = st.lists(
    st.tuples(
        st.sampled_from("mn"), st.sampled_from("AB"), st.sampled_from(["run", "b", "c"]),
        st.sampled_from([None, "effort=high", "effort=low", "temperature=0.5",
                         "effort=low;temperature=0.5", "effort=high;temperature=0.5"]),
    ), max_size=12, unique=True,
)  # fmt: skip


@settings(max_examples=100)
@given(LEVELS)
def test_levels_are_paired_where_all_else_is_the_same(keys: list[Any]) -> None:
    cells = [Cell(m, c, s, 1, 2, factor=f) for m, c, s, f in keys]
    family = [EFFORT, A_B, WARM, replace(EFFORT, a="default", conditions=("B",))]
    assert level_pairs(cells, family) == plain_levels(cells, family)


def test_the_index_is_by_key_and_in_order() -> None:
    one = cell("A", 1, 2)
    others = [
        replace(one, model="n"), replace(one, source="b"), replace(one, condition="B"),
        replace(one, factor="effort=high"),
    ]  # fmt: skip
    found = index(iter([*others, one]))
    assert list(found.items()) == [(c.key, c) for c in (*others, one)]
    assert index([]) == {}
    with pytest.raises(ValueError, match=r"\('m', 'run', 'A', None\)"):
        index([*others, one, replace(one, resisted=0)])


@pytest.mark.parametrize(
    ("more", "wide"),
    [
        ({"limit": 0, "error": 0}, False),
        ({"limit": 2, "error": 0}, False),  # 2 of 100 are not more than 2%
        ({"limit": 1, "error": 1, "unknown": 0}, False),
        ({"limit": 3, "error": 0}, True),
        ({"limit": 1, "error": 1, "unknown": 1}, True),
        ({"limit": 1, "error": 1, "unfinished": 1}, True),
        ({"limit": 0, "error": 0, "unfinished": 1}, False),
        ({"limit": 3, "error": None}, False),  # not stated
        ({"unfinished": 1}, True),
        ({}, False),
    ],
)
def test_the_bounds_of_a_difference_are_wide_above_2_percent(
    more: dict[str, Any], wide: bool
) -> None:
    outside = sum(count or 0 for count in more.values())
    of, whole = cell("A", 10, 100 - outside, **more), cell("B", 20, 50, **OUT)
    for a, b in ((of, whole), (whole, of)):
        found, is_wide = difference_bounds(a, b)
        assert is_wide is wide
        ends_a, ends_b = plain_bounds(a), plain_bounds(b)
        if ends_a is None or ends_b is None:
            assert found == (None, None)
        else:
            assert found == (ends_a[0] - ends_b[1], ends_a[1] - ends_b[0])


@pytest.mark.parametrize(
    ("ci_low", "test", "interval"),
    [(None, None, None), (None, "anytime", None), (0.0, "anytime", "anytime"),
     (0.0, "boschloo", "fixed"), (-0.1, "fisher", "fixed")],
)  # fmt: skip
def test_what_an_interval_is(ci_low: float | None, test: Any, interval: str | None) -> None:
    (found,) = declared_contrasts([cell("A", 9, 12), cell("B", 2, 12)])
    assert found.interval == "fixed"
    made: ContrastResult = replace(found, ci_low=ci_low, test=test)
    assert made.interval == interval


def test_a_family_of_any_size_has_intervals() -> None:
    """250 contrasts at 5% together, or two at 0.04%, are each asked for 99.98% certainty."""
    cells = [cell(c, k, 12, model=m) for m in "mn" for c, k in (("A", 9), ("B", 2))]
    for result in declared_contrasts(cells, 0.0004, [A_B]):
        assert result.ci_level_holm == 1 - 0.0002
        assert (result.ci_low_holm, result.ci_high_holm) == exact_difference(9, 12, 2, 12, 0.0002)


def test_an_alpha_that_is_none_is_refused() -> None:
    for of in (cell("A", 9, 12), cell("A", 9, 12, until_upper=0.3)):
        with pytest.raises(ValueError, match=r"alpha is 1\.5"):
            declared_contrasts([of, cell("B", 2, 12)], 1.5)
