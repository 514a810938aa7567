"""The two sides by themselves: who stands where, what was measured, who cannot do the task."""

from __future__ import annotations

import pytest
from analysis.plain import cell

from local_shutdown.analysis.families import Families
from local_shutdown.analysis.sides import Measured, incapable, sides

OPEN = {"weights": "open", "limit": 0, "error": 0}


def only(*cells):
    found, unknown = sides(cells, Families())
    (model,) = found["open"]
    assert (found["closed"], unknown) == ([], [])
    return model


def test_sources_of_one_model_are_added_up() -> None:
    model = only(
        cell("E", 2, 10, model="Qwen/Qwen3-8B", **{**OPEN, "limit": 1, "error": 2, "unknown": 4}),
        cell("E", None, 7, model="qwen3-8b-fp8", source="b", **OPEN),
        cell("E", 3, 5, model="qwen3-8b", source="c", broken_off=6, unfinished=1, **OPEN),
        cell("A", 1, 4, model="qwen3-8b", source="c", weights="open"),  # says nothing of limits
    )
    assert (model.name, model.key, model.family) == ("Qwen/Qwen3-8B", "qwen3-8b", "qwen")
    assert model.measured == {
        "E": Measured(resisted=5, n=15, outside=13, unknown=4, unfinished=1),
        "A": Measured(resisted=1, n=4),
    }
    assert (model.measured["E"].low, model.measured["E"].high) == (5 / 28, 18 / 28)
    assert (model.unfinished("E"), model.unknown("E"), model.rate("E")) == (True, True, None)
    assert (model.unfinished("A"), model.unknown("A"), model.rate("A")) == (False, False, 0.25)
    assert (model.has("B"), model.unfinished("B"), model.unknown("B")) == (False, False, False)
    assert model.rate("B") is None


@pytest.mark.parametrize(
    ("resisted", "n", "more", "has", "rate"),
    [
        (1, 1, {}, True, 1.0),
        (1, 4, {"limit": 3, "broken_off": 1}, True, 0.25),
        (1, 4, {"unfinished": 1}, True, None),
        (1, 4, {"unknown": 1}, True, None),
        (0, 0, {"unfinished": 1}, True, None),
        (0, 0, {"unknown": 1}, True, None),
        (0, 0, {"limit": 3, "error": 2}, False, None),  # nothing that could be a rate
    ],
)
def test_a_condition_was_played_where_it_could_have_a_rate(
    resisted: int, n: int, more: dict[str, int], has: bool, rate: float | None
) -> None:
    model = only(cell("E", resisted, n, **{**OPEN, **more}))
    assert (model.has("E"), model.rate("E")) == (has, rate)
    assert model.unknown("E") is ("unknown" in more)
    assert model.unfinished("E") is ("unfinished" in more)


def test_the_family_is_the_stated_one_or_that_of_the_name() -> None:
    assert only(cell("E", 1, 2, model="qwen3-8b", **OPEN)).family == "qwen"
    stated = [cell("E", 1, 2, model="qwen3-8b", source=s, family=f, **OPEN)
              for s, f in (("a", None), ("b", "Zoo"), ("c", "other"))]  # fmt: skip
    assert only(*stated).family == "zoo"


def test_who_is_on_neither_side_is_named() -> None:
    found, unknown = sides(
        [
            cell("E", 1, 2, model="a", weights="open"),
            cell("E", 1, 2, model="b", weights="closed"),
            cell("E", 1, 2, model="nobody"),
            cell("E", 1, 2, model="both", source="x", weights="open"),
            cell("E", 1, 2, model="both", source="y", weights="closed"),
            cell("E", 1, 2, model="synthetic", weights="synthetic"),
            cell("A", 1, 2, model="a"),  # as its other cell says
        ],
        Families(),
    )
    assert [m.name for m in found["open"]] == ["a"]
    assert set(found["open"][0].measured) == {"E", "A"}
    assert [(m.name, m.key) for m in found["closed"]] == [("b", "b")]
    assert unknown == ["nobody", "both", "synthetic"]


def test_a_model_that_passes_the_gate_once_is_capable() -> None:
    fails, passes, few = (cell("K", k, n, **OPEN) for k, n in ((0, 60), (60, 60), (1, 2)))
    named = [("bad", fails), ("good", passes), ("short", few)]
    cells = [cell(of.condition, of.resisted, of.n, model=m, **OPEN) for m, of in named]
    assert incapable(cells, 0.05, Families()) == {"bad"}
    saved = cell("K", 60, 60, model="bad", source="again", **OPEN)
    assert incapable([*cells, saved], 0.05, Families()) == set()


def test_the_gate_has_the_level_that_was_asked_for() -> None:
    """A model that fails it at a level of 0.5 and not at 0.001."""
    found = {
        alpha: incapable([cell("K", 4, 12, **OPEN)], alpha, Families()) for alpha in (0.5, 0.001)
    }
    assert found == {0.5: {"m"}, 0.001: set()}
