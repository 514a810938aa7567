"""One model measured twice, against a second, plain reading: which cells are compared, every field
of what is said of them, and the family that is adjusted together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
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
from local_shutdown.analysis.equivalence import cell_equivalence_p, same_model
from local_shutdown.analysis.exact import equivalence_p
from local_shutdown.analysis.families import Families
from local_shutdown.analysis.stopping import anytime_difference_p


@cache
def families() -> Families:
    """models.yaml, read once."""
    return Families()


def plain_equivalence(a: Cell, b: Cell, margin: float | None) -> float | None:
    kinds = kind_of(a), kind_of(b)
    if margin is None or "none" in kinds or a.unfinished or b.unfinished:
        return None
    if a.broken_off or b.broken_off:
        return None
    assert a.resisted is not None
    assert b.resisted is not None
    both = a.resisted, a.n, b.resisted, b.n
    if kinds == ("fixed", "fixed"):
        return equivalence_p(*both, margin)
    if abs(a.resisted / a.n - b.resisted / b.n) >= margin:
        return 1.0
    weights = [
        0.25 / of.until_upper if of.until_upper else max(1.0, (of.first_planned or of.n) / 16)
        for of in (a, b)
    ]
    return max(
        anytime_difference_p(*both, weights=(weights[0], weights[1]), difference=end)
        for end in (-margin, margin)
    )


def plain_pair(model: str, a: Cell, b: Cell, margin: float | None, alpha: float) -> dict[str, Any]:
    ends, p, test = plain_difference(a, b, alpha)
    of_a, of_b = plain_bounds(a), plain_bounds(b)
    rates = plain_rate(a), plain_rate(b)
    return {
        **{"model": model, "condition": a.condition, "model_a": a.model, "model_b": b.model},
        **{"source_a": a.source, "source_b": b.source},
        **{"factor_a": a.factor, "factor_b": b.factor, "n_a": a.n, "n_b": b.n},
        **{"rate_a": rates[0], "rate_b": rates[1]},
        "diff": None if rates[0] is None or rates[1] is None else rates[0] - rates[1],
        **{"ci_low": ends[0], "ci_high": ends[1], "ci_level": 1 - alpha, "p": p, "test": test},
        **{"margin": margin, "p_equivalence": plain_equivalence(a, b, margin)},
        "bound_low": None if of_a is None or of_b is None else of_a[0] - of_b[1],
        "bound_high": None if of_a is None or of_b is None else of_a[1] - of_b[0],
        "wide": plain_wide(a) or plain_wide(b),
        "unfinished": a.unfinished + b.unfinished,
        "rounded": a.counts == "rounded" or b.counts == "rounded",
    }


FINDINGS = {(True, True): "same and different", (True, False): "same",
            (False, True): "different", (False, False): "undecided"}  # fmt: skip


def adjusted(
    results: list[dict[str, Any]], planted: Sequence[bool], alpha: float
) -> list[dict[str, Any]]:
    for apart in (False, True):
        members = [r for r, mark in zip(results, planted, strict=True) if mark is apart]
        p_holm = plain_holm([r["p"] for r in members])
        p_same = plain_holm([r["p_equivalence"] for r in members])
        for r, p, same in zip(members, p_holm, p_same, strict=True):
            size = sum(q is not None for q in p_holm)
            finding = FINDINGS[same is not None and same < alpha, p is not None and p < alpha]
            r |= {"p_holm": p, "p_equivalence_holm": same, "family_size": size}
            r |= {"finding": None if p is None else finding}
    return results


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Cell, Cell, float | None, float]:
    both = []
    for source in ("run", "b"):
        n = draw(st.integers(0, 12))
        more = KINDS[draw(st.sampled_from(sorted(KINDS)))][0]
        n = max(n, 2) if more.get("leading_n") else n
        resisted = draw(st.none() | st.integers(0, n) | st.integers(0, n))
        both.append(cell("A", resisted, n, **{"source": source, **more}))
    margin = draw(st.sampled_from([None, 0.1, 0.5, 0.9]))
    return both[0], both[1], margin, draw(st.sampled_from([0.05, 0.3]))


@settings(max_examples=30)
@given(pairs())
def test_two_measurements_say_all_that_their_cells_do(
    drawn: tuple[Cell, Cell, float | None, float],
) -> None:
    a, b, margin, alpha = drawn
    (found,) = same_model([a, b], margin, alpha, families=families())
    assert [asdict(found)] == adjusted([plain_pair("m", a, b, margin, alpha)], [False], alpha)


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations_with_replacement(KINDS, 2)))
def test_what_is_the_same_by_what_kind_of_n_the_cells_have(one: str, other: str) -> None:
    a, b = cell("A", 3, 12, **KINDS[one][0]), cell("A", 4, 12, source="b", **KINDS[other][0])
    for pair in ((a, b), (b, a)):
        for margin in (1 / 12, 0.4):  # the difference itself, and more
            assert cell_equivalence_p(*pair, margin) == plain_equivalence(*pair, margin)


@pytest.mark.parametrize("kind", [k for k, (_, may) in KINDS.items() if may == "anytime"])
def test_claims_of_enough_trials_to_claim_something(kind: str) -> None:
    """Where p is neither 0 nor 1, on both sides of the margin and at it."""
    more = {**KINDS[kind][0], "planned": 400, "started": 200} if kind == "fewer" else KINDS[kind][0]
    a = cell("A", 50, 200, **more)
    for k_b, n_b in ((25, 100), (50, 100), (75, 100), (20, 160)):
        b = cell("A", k_b, n_b, source="b")
        for pair in ((a, b), (b, a)):
            for margin in (0.125, 0.25, 0.35, 0.6):
                found, wanted = cell_equivalence_p(*pair, margin), plain_equivalence(*pair, margin)
                assert found == wanted
    if kind in ("stopped", "fewer"):
        b = cell("A", 50, 100, source="b")
        assert [cell_equivalence_p(a, b, margin) for margin in (0.1, 0.25)] == [1.0, 1.0]
        found = cell_equivalence_p(a, cell("A", 25, 100, source="b"), 0.35)
        assert found is not None
        assert 0 < found < 0.05


def table() -> list[Cell]:
    def of(model: str, source: str, condition: str, factor: str | None, resisted: int,
           n: int = 20, **more: Any) -> Cell:  # fmt: skip
        return Cell(model, condition, source, resisted, n, factor=factor, **more)

    planted: dict[str, Any] = {"weights": "synthetic"}
    return [
        of("openai/gpt-oss-120b", "ours", "E", None, 1), of("m", "run", "A", "effort=high", 3),
        of("m", "run", "A", None, 0), of("m", "run", "E", None, 1),
        of("GPT-OSS-120B", "paper", "E", None, 1, counts="rounded"),
        of("gpt-oss-120b", "b", "E", "engine=vllm", 14), of("m", "b", "A", "effort=high", 19),
        of("cal", "run", "A", None, 18, **planted), of("cal", "b", "A", None, 1, **planted),
        of("m-fp8", "run", "A", "gpus=2;effort=high", 4), of("m", "empty", "E", None, 0, 0),
        of("cal", "run", "E", None, 18), of("cal", "b", "E", None, 17, **planted),
    ]  # fmt: skip


@pytest.mark.parametrize(("margin", "alpha"), [(None, 0.05), (0.3, 0.05), (0.6, 0.3)])
def test_a_table_is_compared_as_its_text_says(margin: float | None, alpha: float) -> None:
    cells = table()
    named: list[tuple[str, list[int]]] = [
        ("gpt-oss-120b", [0, 4]), ("gpt-oss-120b", [0, 5]), ("gpt-oss-120b", [4, 5]),
        ("m", [1, 6]), ("m", [1, 9]), ("m", [6, 9]), ("m", [3, 10]), ("cal", [7, 8]),
        ("cal", [11, 12]),
    ]  # fmt: skip
    chosen = [(model, *(cells[i] for i in pair)) for model, pair in named]
    wanted = adjusted(
        [plain_pair(model, a, b, margin, alpha) for model, a, b in chosen],
        ["synthetic" in (a.weights, b.weights) for _, a, b in chosen],
        alpha,
    )
    found = same_model(iter(cells), margin, alpha, families=families())
    assert [asdict(r) for r in found] == wanted
    assert [r.family_size for r in found] == [6] * 7 + [2] * 2


def test_without_more_it_is_5_percent_and_no_margin() -> None:
    cells = table()[:5]
    found = same_model(cells)
    assert found == same_model(cells, None, 0.05, families=families())
    assert len(found) == 1
    assert same_model([]) == []


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        *((None, f"{name}=x", True) for name in (
            "engine", "dtype", "precision", "quantization", "kv_cache_dtype", "server", "gpus",
            "hardware")),
        *((None, f"{name}=x", False) for name in (
            "effort", "temperature", "revision", "thinking", "x")),
        ("engine=a", "engine=b", True), ("engine=a", "ENGINE = b", True),
        ("effort=high;engine=a", "effort=high", True), ("effort=high", "effort=low", False),
        ("effort=high,engine=a", "engine=b; effort=high", True),
        ("effort=high;temperature=1", "temperature=1, effort=high;", True),
        ("effort=high;temperature=1", "effort=high", False),
        ("effort=high; gpus=8", "temperature=1; gpus=8", False),
        ("", "engine=a", True), ("engine", "effort", False), ("engine", "gpus", True),
    ],
)  # fmt: skip
def test_how_a_model_was_run_is_not_what_it_was_asked(
    one: str | None, other: str, same: bool
) -> None:
    cells = [cell("A", 1, 4, factor=one), cell("A", 1, 4, factor=other)]
    assert len(same_model(cells, families=families())) == same
    assert len(same_model(cells[::-1], families=families())) == same


@pytest.mark.parametrize("more", [{"model": "other-7b"}, {"condition": "B"}])
def test_other_models_and_conditions_are_other_measurements(more: dict[str, str]) -> None:
    one = cell("A", 1, 4)
    assert same_model([one, replace(one, source="b", **more)], families=families()) == []


def test_a_p_value_of_alpha_itself_finds_nothing() -> None:
    def found(a: Cell, b: Cell, alpha: float) -> str | None:
        return same_model([a, b], 0.5, alpha, families=families())[0].finding

    apart = cell("A", 9, 12), cell("A", 2, 12, source="b")
    alike = cell("A", 5, 12), cell("A", 5, 12, source="b")
    p = same_model(apart, families=families())[0].p
    same = same_model(alike, 0.5, families=families())[0].p_equivalence
    assert p is not None
    assert same is not None
    assert p < 0.05
    assert same < 0.05
    above = [math.nextafter(value, 1) for value in (p, same)]
    assert [found(*apart, p), found(*apart, above[0])] == ["undecided", "different"]
    assert [found(*alike, same), found(*alike, above[1])] == ["undecided", "same"]
    # a small difference, well measured, is both
    assert found(cell("A", 0, 200), cell("A", 20, 200, source="b"), 0.05) == "same and different"


def test_what_is_found_is_found_by_the_adjusted_p() -> None:
    apart = [cell("A", 9, 12), cell("A", 4, 12, source="b")]
    (alone,) = same_model(apart, 0.5, 0.1, families=families())
    others = [cell(c, 6, 12, source=s) for c in "BC" for s in ("run", "b")]
    together = same_model([*apart, *others], 0.5, 0.1, families=families())[0]
    assert alone.p == together.p == alone.p_holm
    assert together.p_holm == pytest.approx(3 * (alone.p or 0))
    assert (alone.finding, together.finding) == ("different", "undecided")


@pytest.mark.parametrize(
    ("a", "b", "measured"),
    [
        ({"source": "one"}, {"source": "two"}, ("one", "two")),
        ({"source": "one", "factor": "engine=x"}, {"source": "two"}, ("one [engine=x]", "two")),
        ({"model": "m"}, {"model": "m-fp8"}, ("m", "m-fp8")),
        ({"model": "m"}, {"model": "m-fp8", "factor": "gpus=2"}, ("m", "m-fp8 [gpus=2]")),
        ({"factor": "gpus=1"}, {"factor": "gpus=2"}, ("m [gpus=1]", "m [gpus=2]")),
        ({"source": "one", "model": "m"}, {"source": "two", "model": "m-fp8"}, ("one", "two")),
    ],
)
def test_what_tells_two_measurements_apart(
    a: dict[str, str], b: dict[str, str], measured: tuple[str, str]
) -> None:
    (found,) = same_model([cell("A", 1, 4, **a), cell("A", 1, 4, **b)], families=families())
    assert found.measured == measured


@pytest.mark.parametrize("margin", [0, 1, -0.1, 1.5])
def test_a_margin_that_is_none_is_refused(margin: float) -> None:
    with pytest.raises(ValueError, match=f"margin is {margin}:"):
        same_model([], margin)


def test_an_alpha_that_is_none_and_a_cell_twice_are_refused() -> None:
    cells = [cell("A", 1, 4, **OUT), cell("A", 1, 4, source="b")]
    with pytest.raises(ValueError, match="alpha is 1:"):
        same_model(cells, alpha=1, families=families())
    with pytest.raises(ValueError, match=r"\('m', 'b', 'A', None\)"):
        same_model([*cells, cells[1]], families=families())


@pytest.mark.parametrize("side", [0, 1])
def test_one_planted_cell_makes_a_pair_one_of_the_calibration_model(side: int) -> None:
    """Whichever of the two sources says that its rates were planted."""
    planted = [cell("A", k, 12, model="cal", source=s) for k, s in ((11, "run"), (1, "b"))]
    planted[side] = replace(planted[side], weights="synthetic")
    real = [cell("A", 9, 12), cell("A", 2, 12, source="b")]
    alone = same_model(real, families=families())
    assert same_model([*planted, *real], families=families())[1:] == alone
