"""Contrasts of levels of a factor: which cells are compared, and what is said of them."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from local_shutdown.analysis.cells import Cell
from local_shutdown.analysis.contrasts import Contrast, declared_contrasts, level_pairs
from local_shutdown.analysis.stats import difference_test, newcombe

EFFORT = Contrast("high-low", "high", "low", "Does effort raise it?", factor="effort")
BASE = Contrast("warm-base", "0.5", "default", "?", factor="temperature", conditions=("A",))
A_B = Contrast("A-B", "A", "B", "?")


def cell(condition: str, factor: str | None, source: str = "run", model: str = "m",
         resisted: int = 5, n: int = 50, **more: object) -> Cell:  # fmt: skip
    return Cell(model, condition, source, resisted, n, factor=factor, **more)  # type: ignore[arg-type]


HIGH, LOW = cell("A", "effort=high"), cell("A", "effort=low")
HIGH_WARM = cell("A", "effort=high;temperature=0.5")
LOW_WARM = cell("A", "effort=low;temperature=0.5")


@pytest.mark.parametrize(
    ("cells", "pairs"),
    [
        ([HIGH, LOW], [(EFFORT, HIGH, LOW)]),
        ([LOW, HIGH], [(EFFORT, HIGH, LOW)]),
        ([HIGH], []),
        ([LOW], []),
        # all else has to be the same
        ([HIGH, LOW_WARM], []),
        ([HIGH, cell("E", "effort=low")], []),
        ([HIGH, cell("A", "effort=low", model="n")], []),
        ([HIGH, cell("A", None)], []),
        ([HIGH_WARM, LOW_WARM], [(EFFORT, HIGH_WARM, LOW_WARM)]),
        ([HIGH_WARM, HIGH, LOW],
         [(EFFORT, HIGH, LOW), (BASE, HIGH_WARM, HIGH)]),
        ([cell("A", "temperature=0.5;effort=high"), LOW_WARM],  # in whatever order it is written
         [(EFFORT, cell("A", "temperature=0.5;effort=high"), LOW_WARM)]),
        # only under the conditions that are named, where some are
        ([cell("A", "temperature=0.5"), cell("A", None)],
         [(BASE, cell("A", "temperature=0.5"), cell("A", None))]),
        ([cell("E", "temperature=0.5"), cell("E", None)], []),
        ([cell("E", "effort=high"), cell("E", "effort=low")],
         [(EFFORT, cell("E", "effort=high"), cell("E", "effort=low"))]),
        # of the same source, else of the one that there is
        ([HIGH, LOW, cell("A", "effort=low", "b")], [(EFFORT, HIGH, LOW)]),
        ([HIGH, cell("A", "effort=low", "b")], [(EFFORT, HIGH, cell("A", "effort=low", "b"))]),
        ([HIGH, cell("A", "effort=low", "b"), cell("A", "effort=low", "c")], []),
        ([HIGH, cell("A", "effort=high", "b"), LOW],
         [(EFFORT, HIGH, LOW), (EFFORT, cell("A", "effort=high", "b"), LOW)]),
    ],
)  # fmt: skip
def test_cells_are_compared_that_differ_in_the_level_alone(
    cells: list[Cell], pairs: list[tuple[Contrast, Cell, Cell]]
) -> None:
    assert level_pairs(cells, [EFFORT, A_B, BASE]) == pairs


def test_a_contrast_of_levels_says_of_both_cells_where_they_are_from() -> None:
    a = cell("E", "effort=high", "one", resisted=20, counts="rounded", limit=10,
             complied=30, ended_early=0, error=0, unknown=0, started=60)  # fmt: skip
    b = cell("E", "effort=low", "two", resisted=5)
    (found,) = declared_contrasts([a, b], 0.1, [A_B, EFFORT])
    test = difference_test(20, 50, 5, 50)
    low, high = newcombe(20, 50, 5, 50, 0.1)
    assert asdict(found) == {
        **{"name": "E: high-low", "a": "high", "b": "low", "asks": EFFORT.asks, "model": "m"},
        **{"source": "one", "source_b": "two", "factor": "effort=high", "factor_b": "effort=low"},
        **{"n_a": 50, "n_b": 50, "rate_a": 0.4, "rate_b": 0.1, "diff": pytest.approx(0.3)},
        **{"ci_low": low, "ci_high": high, "ci_level": 0.9, "p": test.p, "test": test.test},
        **{"bound_low": None, "bound_high": None, "wide": True, "unfinished": 0, "rounded": True},
        **{"ci_low_holm": low, "ci_high_holm": high, "ci_level_holm": 0.9, "p_holm": test.p},
        **{"family_size": 1, "varied": "effort", "condition": "E"},
        **{"decision": None, "decided_at": None, "delta": None},
    }


def test_a_contrast_of_conditions_says_at_which_level() -> None:
    cells = [cell("A", "effort=high"), cell("B", "effort=high"), cell("A", None), cell("B", None)]
    found = declared_contrasts(cells, family=[A_B, EFFORT])
    assert [(c.name, c.factor, c.varied, c.condition, c.source_b, c.factor_b) for c in found] == [
        ("A-B", "effort=high", None, None, None, None), ("A-B", None, None, None, None, None),
    ]  # fmt: skip
    assert {c.ci_level_holm for c in found} == {0.975}
