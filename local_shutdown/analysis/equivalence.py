"""The same model and condition measured twice: does it do the same?

A difference that is not significant is no finding of sameness: few trials never find one. To claim
that two measurements agree takes a margin, named beforehand, and a test that rejects "they differ
by the margin or more".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

from local_shutdown.analysis.cells import Cell
from local_shutdown.analysis.contrasts import difference, difference_bounds, index
from local_shutdown.analysis.exact import equivalence_p
from local_shutdown.analysis.families import Families
from local_shutdown.analysis.interval import anytime_weight, is_anytime, is_sample
from local_shutdown.analysis.stats import TestName, holm
from local_shutdown.analysis.stopping import anytime_difference_p

# Factors that say how a model was run and not what it was asked: levels of one are measurements of
# the same thing. Reasoning effort, say, is another question.
_HOW_IT_RUNS = frozenset(
    {"engine", "dtype", "precision", "quantization", "kv_cache_dtype", "server", "gpus", "hardware"}
)
Finding = Literal["same", "different", "same and different", "undecided"]


@dataclass(frozen=True, slots=True)
class SameModel:
    """One model under one condition, measured twice; the difference is rate a - rate b.

    Attributes:
        model: the model's name, see `families.Families.model`.
        condition: condition id.
        model_a: as the source of a writes it.
        model_b: see `model_a`.
        source_a: the data set of a.
        source_b: the data set of b.
        factor_a: what else was varied in a; None for the default.
        factor_b: see `factor_a`.
        n_a: counted episodes.
        n_b: see `n_a`.
        rate_a: a fraction.
        rate_b: see `rate_a`.
        diff: rate_a - rate_b.
        ci_low: lower end of its interval, not adjusted.
        ci_high: upper end.
        ci_level: the interval's confidence, 1 - alpha.
        p: two-sided, of "the rates are equal".
        p_holm: adjusted over all pairs.
        test: where p comes from.
        margin: the difference that would matter; None when nobody named one.
        p_equivalence: of "the rates differ by the margin or more"; None without a margin, and where
            a cell has unfinished or broken-off trials or is no sample.
        p_equivalence_holm: adjusted over all pairs.
        finding: `same`: they differ by less than the margin; `different`: they are not equal; both
            may hold, for a small difference that is well measured. By the adjusted p-values.
        bound_low: see `contrasts.ContrastResult`.
        bound_high: see `bound_low`.
        wide: see `bound_low`.
        unfinished: trials of both that were started and are not on disk.
        rounded: one of the counts is only a rounded rate, so is everything derived from it.
        family_size: how many pairs p_holm was adjusted for.
    """

    model: str
    condition: str
    model_a: str
    model_b: str
    source_a: str
    source_b: str
    factor_a: str | None
    factor_b: str | None
    n_a: int
    n_b: int
    rate_a: float | None
    rate_b: float | None
    diff: float | None
    ci_low: float | None
    ci_high: float | None
    ci_level: float
    p: float | None
    test: TestName | None
    margin: float | None
    p_equivalence: float | None
    bound_low: float | None
    bound_high: float | None
    wide: bool
    unfinished: int
    rounded: bool
    p_holm: float | None = None
    p_equivalence_holm: float | None = None
    family_size: int = 0
    finding: Finding | None = None

    @property
    def measured(self) -> tuple[str, str]:
        """What tells the two measurements apart: their sources, else names; and factors."""
        by_source = self.source_a != self.source_b
        names = (self.source_a, self.source_b) if by_source else (self.model_a, self.model_b)
        factors = (self.factor_a, self.factor_b)
        a, b = (n + (f" [{f}]" if f else "") for n, f in zip(names, factors, strict=True))
        return a, b


def same_model(
    cells: Iterable[Cell],
    margin: float | None = None,
    alpha: float = 0.05,
    *,
    families: Families | None = None,
) -> list[SameModel]:
    """Compare every pair of cells that measure one model under one condition.

    Two sources, two precisions of the weights, two engines: same model by its name
    (`Families.model`), same condition, and the same factor but for how the model was run. The
    calibration model is a family of tests of its own.

    Args:
        cells: the whole table.
        margin: the smallest difference that would matter, a fraction; None to test only whether
            they differ.
        alpha: 1 - confidence, and the level of both tests.
        families: looks up names; None reads models.yaml.

    Returns:
        In the order of the cells.

    Raises:
        ValueError: two cells have the same key, not 0 < margin < 1, or not 0 < alpha < 1.
    """
    if margin is not None and not 0 < margin < 1:
        raise ValueError(f"margin is {margin}: it must lie strictly between 0 and 1")
    families = families or Families()
    grouped: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in index(cells).values():
        key = families.model(cell.model), cell.condition, _asked(cell.factor)
        grouped.setdefault(key, []).append(cell)
    pairs = [(key[0], *pair) for key, found in grouped.items() for pair in combinations(found, 2)]
    results = [_compared(model, a, b, margin, alpha) for model, a, b in pairs]
    adjusted = list(results)
    for apart in (False, True):
        members = [
            i
            for i, (_, a, b) in enumerate(pairs)
            if ("synthetic" in (a.weights, b.weights)) is apart
        ]
        p_holm = holm([results[i].p for i in members])
        p_same = holm([results[i].p_equivalence for i in members])
        size = sum(p is not None for p in p_holm)
        for i, p, same in zip(members, p_holm, p_same, strict=True):
            adjusted[i] = replace(
                results[i],
                p_holm=p,
                p_equivalence_holm=same,
                family_size=size,
                finding=_finding(p, same, alpha),
            )
    return adjusted


def cell_equivalence_p(a: Cell, b: Cell, margin: float) -> float | None:
    """p-value of "the rates differ by `margin` or more", by what kind of n the cells have.

    The exact test (`exact.equivalence_p`) where both n were fixed. Else, with the martingale of
    `stopping`, the larger p of the two differences at the margin's ends, which is valid for all
    beyond them too: the evidence against a difference grows with its distance from the estimate.

    Returns:
        None where trials are unfinished (more of them are needed, not a claim) or were broken off
        and played again (what is on disk is no sample, see `analysis.plays`), where nothing was
        counted, or where a cell is no sample.
    """
    if not (is_sample(a) and is_sample(b)):
        return None
    if not (a.complete and b.complete) or a.broken_off or b.broken_off:
        return None
    assert a.resisted is not None  # `is_sample`
    assert b.resisted is not None
    counts = (a.resisted, a.n, b.resisted, b.n)
    if not (is_anytime(a) or is_anytime(b)):
        return equivalence_p(*counts, margin)
    if abs(a.resisted / a.n - b.resisted / b.n) >= margin:
        return 1.0
    weights = anytime_weight(a), anytime_weight(b)
    return max(
        anytime_difference_p(*counts, weights=weights, difference=end) for end in (-margin, margin)
    )


def _asked(factor: str | None) -> str:
    """A factor without how the model was run."""
    parts = [part.strip() for part in re.split(r"[;,]", factor or "")]
    kept = [p for p in parts if p and p.partition("=")[0].strip().lower() not in _HOW_IT_RUNS]
    return ";".join(sorted(kept))


def _compared(model: str, a: Cell, b: Cell, margin: float | None, alpha: float) -> SameModel:
    (low, high), test = difference(a, b, alpha)
    (bound_low, bound_high), wide = difference_bounds(a, b)
    rate_a, rate_b = a.rate, b.rate
    return SameModel(
        model=model,
        condition=a.condition,
        model_a=a.model,
        model_b=b.model,
        source_a=a.source,
        source_b=b.source,
        factor_a=a.factor,
        factor_b=b.factor,
        n_a=a.n,
        n_b=b.n,
        rate_a=rate_a,
        rate_b=rate_b,
        diff=None if rate_a is None or rate_b is None else rate_a - rate_b,
        ci_low=low,
        ci_high=high,
        ci_level=1 - alpha,
        p=test.p,
        test=test.test,
        margin=margin,
        p_equivalence=None if margin is None else cell_equivalence_p(a, b, margin),
        bound_low=bound_low,
        bound_high=bound_high,
        wide=wide,
        unfinished=a.unfinished + b.unfinished,
        rounded="rounded" in (a.counts, b.counts),
    )


def _finding(p: float | None, same: float | None, alpha: float) -> Finding | None:
    if p is None:
        return None
    is_same, is_different = same is not None and same < alpha, p < alpha
    if is_same and is_different:
        return "same and different"
    return "same" if is_same else "different" if is_different else "undecided"
