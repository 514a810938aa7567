"""Open against closed weights, with the model as the unit.

A thousand episodes of one model say nothing about other models, so pooling episodes would claim far
too much: each model gives one rate, and the rates are compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.stats import permutation_test, ttest_ind

from local_shutdown.analysis.cells import Cell, Weights
from local_shutdown.analysis.competence import NOT_COMPETENT, competence
from local_shutdown.analysis.contrasts import index
from local_shutdown.analysis.stats import UNKNOWN, holm

Rates = npt.NDArray[np.float64]
# Above this many relabellings they are sampled: 1 in 10,000 is as fine as a p-value needs to be.
PERMUTATIONS = 9999


@dataclass(frozen=True, slots=True)
class OpenClosed:
    """Open against closed weights under one condition; the unit is the model.

    Attributes:
        condition: condition id.
        open_models: names of the models compared, open weights.
        closed_models: names of the models compared, closed weights.
        mean_open: mean of the open models' rates, each model counting the same; None without any.
        mean_closed: the same for closed.
        diff: mean_open - mean_closed; None when either is missing.
        ci_low: lower end of Welch's t interval over models; None when it cannot be known.
        ci_high: upper end.
        p: permutation test over models, two-sided; None with fewer than two models on a side.
        p_holm: adjusted over the conditions.
        p_floor: the smallest p that so few models can give.
        left_out: models left out because they are not competent (see `competence`).
        kind_unknown: models left out because nobody said whether their weights are open.
    """

    condition: str
    open_models: tuple[str, ...]
    closed_models: tuple[str, ...]
    mean_open: float | None
    mean_closed: float | None
    diff: float | None
    ci_low: float | None
    ci_high: float | None
    p: float | None
    p_holm: float | None
    p_floor: float | None
    left_out: tuple[str, ...]
    kind_unknown: tuple[str, ...]


def open_against_closed(
    cells: Iterable[Cell], alpha: float = 0.05, *, competent_only: bool = True
) -> list[OpenClosed]:
    """Compare open with closed weights, condition by condition, with models as the unit.

    Cluster-level summaries (Hayes and Moulton, Cluster Randomised Trials, chapter 10): one rate per
    model, the difference of the groups' mean rates, a permutation test over which models are open,
    and Welch's t interval over models. Permutations are enumerated up to 9,999 of them and else
    sampled with a fixed seed. All pairs of an open and a closed model would be a far larger family,
    and would speak about those pairs only. The models are not a sample from a population, so the
    interval describes models like these at best.

    Only cells at the default factor enter. A model measured by several sources is one model: its
    counts are added up. Models that fail the K gate are left out (except under K itself): a model
    that cannot get past the shutdown would count as one that does not want to.

    Args:
        cells: the whole table.
        alpha: 1 - confidence.
        competent_only: leave out models that are `not competent`; those whose K is missing or
            unclear stay.

    Returns:
        One entry per condition that has an open and a closed model, in order of appearance.

    Raises:
        ValueError: two cells have the same model, source, condition and factor.
    """
    usable = _one_per_model(
        c
        for c in index(cells).values()
        if c.factor is None and c.weights != "synthetic" and c.rate is not None
    )
    incapable = {c.model for c in competence(usable, alpha=alpha) if c.verdict == NOT_COMPETENT}
    results: list[OpenClosed] = []
    for condition in dict.fromkeys(c.condition for c in usable):
        here = [c for c in usable if c.condition == condition]
        out = incapable if competent_only and condition != "K" else set()
        rates_open, rates_closed = _rates(here, "open", out), _rates(here, "closed", out)
        if {"open", "closed"} <= {c.weights for c in here}:
            result = _open_closed(condition, rates_open, rates_closed, alpha)
            left_out = dict.fromkeys(c.model for c in here if c.model in out)
            unknown = dict.fromkeys(c.model for c in here if c.weights is None)
            result = replace(result, left_out=tuple(left_out), kind_unknown=tuple(unknown))
            results.append(result)
    p_holm = holm([r.p for r in results])
    return [replace(r, p_holm=p) for r, p in zip(results, p_holm, strict=True)]


def _one_per_model(cells: Iterable[Cell]) -> list[Cell]:
    """One cell per model and condition; the counts of its sources added up."""
    pooled: dict[tuple[str, str], Cell] = {}
    for cell in cells:
        so_far = pooled.get((cell.model, cell.condition))
        if so_far is None:
            resisted, n, weights, width = 0, 0, cell.weights, cell.until_halfwidth
        else:
            resisted, n, weights = so_far.resisted or 0, so_far.n, so_far.weights or cell.weights
            width = so_far.until_halfwidth or cell.until_halfwidth
        pooled[cell.model, cell.condition] = Cell(
            model=cell.model,
            condition=cell.condition,
            source="all sources",
            resisted=resisted + (cell.resisted or 0),  # known: cells without a rate are left out
            n=n + cell.n,
            weights=weights,
            until_halfwidth=width,
        )
    return list(pooled.values())


def _rates(cells: Iterable[Cell], weights: Weights, left_out: set[str]) -> dict[str, float]:
    return {
        c.model: c.rate
        for c in cells
        if c.weights == weights and c.model not in left_out and c.rate is not None
    }


def _open_closed(
    condition: str, rates_open: dict[str, float], rates_closed: dict[str, float], alpha: float
) -> OpenClosed:
    x, y = np.array(list(rates_open.values())), np.array(list(rates_closed.values()))
    mean_open = float(x.mean()) if x.size else None
    mean_closed = float(y.mean()) if y.size else None
    diff = None if mean_open is None or mean_closed is None else mean_open - mean_closed
    low, high = UNKNOWN
    p = p_floor = None
    if min(x.size, y.size) >= 2:
        p = _permutation_p(x, y)
        p_floor = min(1.0, 2 / min(math.comb(x.size + y.size, x.size), PERMUTATIONS + 1))
        # Without spread on either side Welch's interval is a point: nothing is known of its width.
        if np.ptp(x) > 0 or np.ptp(y) > 0:
            found = ttest_ind(x, y, equal_var=False).confidence_interval(1 - alpha)
            low, high = max(float(found.low), -1.0), min(float(found.high), 1.0)
    return OpenClosed(
        condition=condition,
        open_models=tuple(rates_open),
        closed_models=tuple(rates_closed),
        mean_open=mean_open,
        mean_closed=mean_closed,
        diff=diff,
        ci_low=low,
        ci_high=high,
        p=p,
        p_holm=None,
        p_floor=p_floor,
        left_out=(),
        kind_unknown=(),
    )


def _permutation_p(x: Rates, y: Rates) -> float:
    def mean_difference(a: Rates, b: Rates, axis: int) -> Rates:
        return np.asarray(a.mean(axis=axis) - b.mean(axis=axis))

    found = permutation_test(
        (x, y),
        mean_difference,
        vectorized=True,
        n_resamples=PERMUTATIONS,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)
