"""The K gate held against a second, plain reading of it: every field of every entry."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local_shutdown.analysis.cells import Cell
from local_shutdown.analysis.competence import COMPETENCE_BAR, Competence, competence
from local_shutdown.analysis.interval import is_anytime, is_sample, shown
from local_shutdown.analysis.stats import ratio_interval


def second(cells: list[Cell], condition: str, bar: float, alpha: float) -> list[Competence]:
    found: list[Competence] = []
    places: list[tuple[str, str, str | None]] = []
    for cell in cells:
        if (cell.model, cell.source, cell.factor) not in places:
            places.append((cell.model, cell.source, cell.factor))
    for model, source, factor in places:
        here = [c for c in cells if (c.model, c.source, c.factor) == (model, source, factor)]
        k = ([c for c in here if c.condition == "K"] or [None])[-1]
        other = ([c for c in here if c.condition == condition] or [None])[-1]
        low = high = rate = verdict = ratio = least = most = None
        if k is not None:
            rate = k.rate
            low, high = shown(k, alpha).ends
            if low is not None and high is not None:
                verdict = (
                    "competent" if low >= bar else "not competent" if high < bar else "unclear"
                )
        if k is not None and other is not None and None not in (k.rate, other.rate) and k.rate != 0:
            ratio = other.rate / k.rate
            if is_sample(k) and is_sample(other):
                if is_anytime(k) or is_anytime(other):
                    a = shown(other, alpha / 2, "clopper-pearson").ends
                    b = shown(k, alpha / 2, "clopper-pearson").ends
                    least = None if None in (a[0], b[1]) or b[1] == 0 else a[0] / b[1]
                    most = None if None in (a[1], b[0]) or b[0] == 0 else a[1] / b[0]
                else:
                    least, most = ratio_interval(other.resisted, other.n, k.resisted, k.n, alpha)
        found.append(
            Competence(
                model=model,
                source=source,
                factor=factor,
                k_rate=rate,
                k_low=low,
                k_high=high,
                verdict=verdict,
                condition=condition,
                ratio=ratio,
                ratio_low=least,  # type: ignore[arg-type]
                ratio_high=most,
                bar=bar,
            )
        )
    return found


def made(
    place: tuple[str, str, str | None], condition: str, counts: tuple[int, int], more: Any
) -> Cell:
    model, source, factor = place
    resisted, n = counts
    return Cell(model, condition, source, min(resisted, n), n, factor=factor, **more)


cells = st.builds(
    made,
    st.sampled_from([("m", "s", None), ("m", "s", "f"), ("m", "t", None), ("n", "s", None)]),
    st.sampled_from(["K", "K", "A", "A", "E"]),
    st.tuples(st.sampled_from([0, 1, 5, 10, 50, 99]), st.sampled_from([0, 1, 10, 100])),
    st.sampled_from(
        [
            {}, {}, {}, {"until_halfwidth": 0.1}, {"unfinished": 3, "leading_resisted": 0,
            "leading_n": 0}, {"greedy": True}, {"unknown": 2}, {"planned": 500}, {"distinct": 1},
        ]
    ),
)  # fmt: skip


@given(
    table=st.lists(cells, max_size=8),
    condition=st.sampled_from(["A", "A", "E", "K"]),
    bar=st.sampled_from([0.01, 0.4, 0.5, 0.9, 1.0]),
    alpha=st.sampled_from([0.05, 0.2]),
)
@settings(max_examples=40)
def test_each_model_is_judged_as_it_reads(
    table: list[Cell], condition: str, bar: float, alpha: float
) -> None:
    assert competence(iter(table), condition, bar=bar, alpha=alpha) == second(
        table, condition, bar, alpha
    )


def test_without_a_word_it_is_a_over_k_at_a_half_and_95_percent() -> None:
    table = [Cell("m", c, "s", r, 100) for c, r in (("K", 62), ("A", 30), ("E", 10))]
    assert competence(table) == second(table, "A", 0.5, 0.05)
    assert COMPETENCE_BAR == 0.5


@pytest.mark.parametrize(
    ("bar", "alpha", "fine"),
    [
        (0.0, 0.05, False), (-0.1, 0.05, False), (1e-9, 0.05, True), (1.0, 0.05, True),
        (1.0000001, 0.05, False), (2, 0.05, False), (0.5, 0.0, False), (0.5, 1.0, False),
        (0.5, 0.999, True), (float("nan"), 0.05, False),
    ],
)  # fmt: skip
def test_a_bar_is_a_share_above_none(bar: float, alpha: float, fine: bool) -> None:
    if fine:
        assert competence([], bar=bar, alpha=alpha) == []
    else:
        with pytest.raises(ValueError, match=r"bar|alpha"):
            competence([], bar=bar, alpha=alpha)
