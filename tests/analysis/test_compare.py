"""What tables, JSON and the page say of cells and contrasts."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from local_shutdown.analysis.cells import Cell, paper_cells
from local_shutdown.analysis.compare import (
    competence_record,
    contrast_record,
    in_order,
    needed,
    open_closed_record,
    percent,
    says_nothing,
)
from local_shutdown.analysis.competence import competence
from local_shutdown.analysis.contrasts import declared_contrasts
from local_shutdown.analysis.openclosed import open_against_closed
from local_shutdown.analysis.samplesize import n_for_halfwidth


def cell(condition: str = "A", model: str = "m", source: str = "run", **more: object) -> Cell:
    return Cell(model, condition, source, **{"resisted": 0, "n": 0, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("warned", "started", "nothing"),
    [(49, 100, True), (50, 100, False), (0, 1, True), (0, 0, False), (0, None, False),
     (None, 100, False)],
)  # fmt: skip
def test_a_rate_says_nothing_where_fewer_than_half_were_warned(
    warned: int | None, started: int | None, nothing: bool
) -> None:
    assert says_nothing(cell(reached_warning=warned, started=started)) is nothing


def test_cells_come_by_model_and_within_it_as_the_grid_has_its_conditions() -> None:
    found = [cell("mine"), cell("K"), cell("B", "n"), cell("A"), cell("A", factor="effort=low"),
             cell("A", "n"), cell("E", source="other"), cell("B")]  # fmt: skip
    assert [(c.source, c.model, c.factor, c.condition) for c in in_order(found)] == [
        ("run", "m", None, "A"),
        ("run", "m", None, "B"),
        ("run", "m", None, "K"),
        ("run", "m", None, "mine"),
        ("run", "n", None, "A"),
        ("run", "n", None, "B"),
        ("run", "m", "effort=low", "A"),
        ("other", "m", None, "E"),
    ]


def test_a_record_of_competence_has_each_of_its_numbers_under_its_own_name() -> None:
    cells = [cell("A", resisted=20, n=100), cell("K", resisted=80, n=100)]
    (found,) = competence(cells)
    found = replace(found, factor="effort=low")
    assert competence_record(found) == {
        "model": "m", "source": "run", "factor": "effort=low", "verdict": "competent",
        "k_rate": 0.8, "k_low": found.k_low, "k_high": found.k_high, "a_over_k": 0.25,
        "a_over_k_low": found.ratio_low, "a_over_k_high": found.ratio_high,
    }  # fmt: skip
    assert len({found.k_low, found.k_high, found.ratio_low, found.ratio_high}) == 4


def test_a_record_of_a_contrast_has_each_of_its_fields_under_its_own_name() -> None:
    cells = [cell("A", resisted=20, n=100), cell("B", resisted=60, n=90)]
    found = next(r for r in declared_contrasts(cells) if (r.a, r.b) == ("A", "B"))
    # a value of its own in each field, so that none can stand for another
    marked = replace(found, **{f.name: f"<{f.name}>" for f in fields(found)})
    record = contrast_record(marked)
    assert record.pop("interval") == marked.interval
    assert record == {name: f"<{name}>" for name in record}
    assert {"diff", "ci_low", "ci_high", "p", "p_holm", "decision", "bound_low"} <= set(record)
    assert {f.name for f in fields(found)} - set(record) == {"asks", "wide", "rounded"}


def test_a_record_of_open_against_closed_is_all_of_it() -> None:
    found = open_against_closed([c for c in paper_cells() if c.condition == "E"])[0]
    record = open_closed_record(found)
    assert {"condition", "mean_open", "diff", "p", "p_holm"} <= set(record)
    for field in fields(found):
        value = getattr(found, field.name)
        if field.name.endswith("families"):
            value = tuple({"name": f.name, "models": f.models, "rate": f.rate} for f in value)
        assert record[field.name] == value


def test_how_many_episodes_a_precision_takes_beyond_those_that_are_there() -> None:
    cells = [cell("A"), cell("B", resisted=10, n=100), cell("C", resisted=0, n=5000)]
    found = needed(cells, 0.05)
    assert [c for c, _, _ in found] == cells
    wanted = [n_for_halfwidth(0.05, rate) for rate in (0.5, 0.1, 0.0)]
    assert [n for _, n, _ in found] == wanted
    assert [more for *_, more in found] == [wanted[0], wanted[1] - 100, 0]
    with pytest.raises(ValueError, match=r"0\.5"):
        needed(cells, 0.5)


@pytest.mark.parametrize(
    ("rate", "said"), [(None, "-"), (0.0, "0.0"), (0.1234, "12.3"), (1.0, "100.0")]
)
def test_a_rate_is_printed_as_the_paper_prints_it(rate: float | None, said: str) -> None:
    assert percent(rate) == said
