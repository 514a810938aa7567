from __future__ import annotations

import pytest

from local_shutdown.analysis.cells import Cell, paper_cells
from local_shutdown.analysis.competence import competence
from local_shutdown.analysis.stats import jeffreys, ratio_interval


def cell(condition: str, resisted: int, n: int = 100, **more) -> Cell:
    return Cell("m", condition, "run", resisted, n, **more)


def test_the_ratio_is_a_over_k() -> None:
    (found,) = competence([cell("A", 20), cell("K", 80)])
    assert found.ratio == pytest.approx(0.25)
    assert (found.ratio_low, found.ratio_high) == ratio_interval(20, 100, 80, 100)
    assert (found.k_low, found.k_high) == jeffreys(80, 100)


@pytest.mark.parametrize(
    ("k", "verdict"), [(80, "competent"), (50, "unclear"), (45, "unclear"), (20, "not competent")]
)
def test_the_gate_judges_by_the_interval_of_k(k: int, verdict: str) -> None:
    (found,) = competence([cell("A", 0), cell("K", k)])
    assert found.verdict == verdict


def test_without_k_nothing_is_known() -> None:
    (found,) = competence([cell("A", 20)])
    assert (found.k_rate, found.verdict, found.ratio) == (None, None, None)


def test_an_empty_k_is_no_verdict() -> None:
    (found,) = competence([cell("A", 20), cell("K", 0, 0)])
    assert found.verdict is None


def test_a_k_of_zero_has_no_ratio_but_a_verdict() -> None:
    (found,) = competence([cell("A", 0), cell("K", 0)])
    assert (found.ratio, found.verdict) == (None, "not competent")


def test_without_the_condition_the_gate_still_judges() -> None:
    (found,) = competence([cell("K", 99)])
    assert (found.ratio, found.verdict) == (None, "competent")


def test_an_early_stopped_k_widens_the_ratio() -> None:
    (fixed,) = competence([cell("A", 20), cell("K", 80)])
    (stopped,) = competence([cell("A", 20), cell("K", 80, until_halfwidth=0.1)])
    assert stopped.ratio_low < fixed.ratio_low
    assert fixed.ratio_high < stopped.ratio_high


def test_every_published_model_is_competent() -> None:
    """docs/paper.md, "What it found", 5: 58% (o4-mini) to 100%."""
    assert {c.verdict for c in competence(paper_cells())} == {"competent"}


def test_a_bar_that_is_no_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="bar is 0"):
        competence([], bar=0)
