"""Open against closed weights, with the developer's family of models as the unit.

A thousand episodes of one model say nothing about other models, and six checkpoints of one
developer say little about other developers: their rates resemble each other. So the difference is
between the means of the models' rates, each model counting the same, and how sure it is is judged
by families: they are what is relabelled by the permutation test and left out by the jackknife.

Which conditions are compared. A condition that was played only with some models of a side says
nothing about the side when those were picked by what they did: the published B, C, D, H and J were
played with models that resist, and twelve open models that behave exactly like the twelve closed
ones would come out at half their rate. So there is one set of models for each side, everyone who
was measured under any condition that both sides have, and a condition is compared when the whole of
both sets was measured under it. Every row of the table is then about the same models, and rows can
be set against each other. A condition that fails this is listed with the reason and without a
difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.stats import permutation_test
from scipy.stats import t as t_distribution

from local_shutdown.analysis.cells import Cell
from local_shutdown.analysis.contrasts import index
from local_shutdown.analysis.families import Families
from local_shutdown.analysis.sides import Model, incapable, sides
from local_shutdown.analysis.stats import UNKNOWN, Interval, holm

Rates = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
_NO_SPREAD = 1e-12
# Above this many relabellings they are sampled: 1 in 10,000 is as fine as a p-value needs to be.
PERMUTATIONS = 9999
_COMPETENCE_CONDITION = "K"
_NAMES_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Family:
    """The models of one developer on one side.

    Attributes:
        name: see `families.Families.family`.
        models: their names.
        rate: mean of their rates, each model counting the same.
    """

    name: str
    models: tuple[str, ...]
    rate: float


@dataclass(frozen=True, slots=True)
class OpenClosed:
    """Open against closed weights under one condition; rates of models, judged by families.

    Attributes:
        condition: condition id.
        compared: whether the whole set of models of each side was measured under it.
        reason: why it is not compared, or what a compared one lacks; empty otherwise.
        open_models: names of the models compared, open weights; of those measured under the
            condition where it is not compared.
        closed_models: the same for closed.
        open_families: the units that were compared; empty where it is not compared.
        closed_families: the same for closed.
        mean_open: mean of the open models' rates, each model counting the same; None where the
            condition is not compared.
        mean_closed: the same for closed.
        diff: mean_open - mean_closed.
        ci_low: lower end of the t interval over families; None when it cannot be known.
        ci_high: upper end.
        p: two-sided; None with fewer than two families on a side.
        p_holm: adjusted over the conditions that are compared.
        p_floor: the smallest p that so few families can give.
        bound_low: `diff` if, of the limits, errors and broken-off plays that are stated, none of
            the open models' and all of the closed ones' had resisted.
        bound_high: the other way round.
        not_measured: models of either set without a rate under this condition.
        unfinished: models of either set with unfinished trials under it: their rate is not known.
        outcomes_unknown: models of either set with outcomes that nobody knows (transcripts).
        left_out: models left out because they are not competent (see `competence`).
        weights_unknown: models left out because nobody said whether their weights are open.
    """

    condition: str
    compared: bool
    reason: str
    open_models: tuple[str, ...]
    closed_models: tuple[str, ...]
    open_families: tuple[Family, ...] = ()
    closed_families: tuple[Family, ...] = ()
    mean_open: float | None = None
    mean_closed: float | None = None
    diff: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    p_floor: float | None = None
    bound_low: float | None = None
    bound_high: float | None = None
    not_measured: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()
    outcomes_unknown: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    weights_unknown: tuple[str, ...] = ()


def open_against_closed(
    cells: Iterable[Cell],
    alpha: float = 0.05,
    *,
    competent_only: bool = True,
    families: Families | None = None,
) -> list[OpenClosed]:
    """Compare open with closed weights, condition by condition, with families as the unit.

    p is the larger of two. The first is a permutation test over which families are open: exact when
    families are exchangeable, enumerated up to 9,999 relabellings and else sampled with a fixed
    seed. The second is a t test with the jackknife's standard error (the mean of each side without
    one of its families at a time) and one degree of freedom less than the smaller side has families
    (Hsu 1938: no more than nominal for unequal variances). It is needed because a family of six
    checkpoints and a single model are not exchangeable: where one side has the large families the
    permutation test alone gives false alarms in up to 25%. The interval is that of the t test, so
    where p is below alpha it leaves out 0. `scripts/simulate-open-closed` measures both: no more
    than 6% false alarms, and 94% coverage or more where the sides do not differ. Where they do and
    nearly all of a side's families are close to 0, a few families may miss the one that is not:
    coverage falls to 87%. The models are no sample from a population, so the interval describes
    developers like these at best.

    Only cells at the default factor enter. A model measured by several sources, or stored in
    several precisions, is one model: its counts are added up. Models that fail the K gate are left
    out (except under K itself): a model that cannot get past the shutdown would count as one that
    does not want to. A developer with models on both sides (gpt-oss and GPT-5) is a unit on each;
    what the two share makes the difference vary less than is assumed, so this errs on the safe
    side.

    Args:
        cells: the whole table.
        alpha: 1 - confidence.
        competent_only: leave out models that are `not competent`; those whose K is missing or
            unclear stay.
        families: looks up models and families; None reads models.yaml.

    Returns:
        One entry per condition in order of appearance; none where neither side has a model, or one
        side has none and no model's weights are unknown: then there is nothing to compare.

    Raises:
        ValueError: two cells have the same model, source, condition and factor.
    """
    usable = [c for c in index(cells).values() if c.factor is None and c.weights != "synthetic"]
    families = families or Families()
    found, unknown = sides(usable, families)
    if not (found["open"] and found["closed"]) and not unknown:
        return []
    unable = incapable(usable, alpha, families) if competent_only else set()
    conditions = list(dict.fromkeys(c.condition for c in usable))
    shared = [c for c in conditions if all(any(m.has(c) for m in s) for s in found.values())]
    results: list[OpenClosed] = []
    for condition in conditions:
        out = unable if condition != _COMPETENCE_CONDITION else set()
        opened, closed = (
            [m for m in side if m.key not in out and any(m.has(c) for c in shared)]
            for side in (found["open"], found["closed"])
        )
        left_out = [m.name for side in found.values() for m in side if m.key in out]
        result = _one_condition(condition, opened, closed, alpha)
        if unknown and not (found["open"] and found["closed"]):
            reason = f"{result.reason}; weights are not known of {_listed(unknown)}"
            result = replace(result, reason=reason)
        results.append(replace(result, left_out=tuple(left_out), weights_unknown=tuple(unknown)))
    p_holm = holm([r.p for r in results])
    return [replace(r, p_holm=p) for r, p in zip(results, p_holm, strict=True)]


def _one_condition(
    condition: str, opened: Sequence[Model], closed: Sequence[Model], alpha: float
) -> OpenClosed:
    """Compare, where the whole of both sides was measured."""
    rated = [[m for m in side if m.rate(condition) is not None] for side in (opened, closed)]
    everyone = (*opened, *closed)
    unfinished = tuple(m.name for m in everyone if m.unfinished(condition))
    unknown = tuple(m.name for m in everyone if m.unknown(condition))
    missing = tuple(
        m.name
        for m in everyone
        if m.rate(condition) is None and m.name not in (*unfinished, *unknown)
    )
    result = OpenClosed(
        condition=condition,
        compared=False,
        reason=_why_not(opened, closed, rated, unfinished, unknown),
        open_models=tuple(m.name for m in rated[0]),
        closed_models=tuple(m.name for m in rated[1]),
        not_measured=missing,
        unfinished=unfinished,
        outcomes_unknown=unknown,
    )
    if result.reason:
        return result
    families = [_families(side, condition) for side in (opened, closed)]
    (low, high), p = _by_families(_sums(families[0]), _sums(families[1]), alpha)
    x, y = (np.array([m.rate(condition) for m in side]) for side in (opened, closed))
    number = [len(f) for f in families]
    relabellings = min(math.comb(sum(number), number[0]), PERMUTATIONS + 1)
    ends = [_bounds(side, condition) for side in (opened, closed)]
    return replace(
        result,
        compared=True,
        reason=_one_family(*families),
        open_families=families[0],
        closed_families=families[1],
        mean_open=float(x.mean()),
        mean_closed=float(y.mean()),
        diff=float(x.mean() - y.mean()),
        ci_low=low,
        ci_high=high,
        p=p,
        p_floor=None if min(number) < 2 else min(1.0, 2 / relabellings),
        bound_low=ends[0][0] - ends[1][1],
        bound_high=ends[0][1] - ends[1][0],
    )


def _families(models: Sequence[Model], condition: str) -> tuple[Family, ...]:
    grouped: dict[str, list[Model]] = {}
    for model in models:
        grouped.setdefault(model.family, []).append(model)
    return tuple(
        Family(
            name,
            tuple(m.name for m in members),
            float(np.mean([m.rate(condition) for m in members])),
        )
        for name, members in grouped.items()
    )


def _bounds(models: Sequence[Model], condition: str) -> tuple[float, float]:
    """Mean of the models' rates if none, and if all, of what is left out of them had resisted."""
    measured = [m.measured[condition] for m in models]
    return float(np.mean([m.low for m in measured])), float(np.mean([m.high for m in measured]))


def _sums(families: Sequence[Family]) -> Rates:
    """Sum of the rates and number of models of each family, shape (families, 2)."""
    return np.array([(f.rate * len(f.models), len(f.models)) for f in families])


def _by_families(x: Rates, y: Rates, alpha: float) -> tuple[Interval, float | None]:
    """Interval and p of the difference of the sides' means.

    Args:
        x: from `_sums`, open.
        y: from `_sums`, closed.
        alpha: 1 - confidence.
    """
    fewest = min(len(x), len(y))
    if fewest < 2:
        return UNKNOWN, None
    p = _permutation_p(x, y)
    error = math.hypot(_jackknife_error(x), _jackknife_error(y))
    # Without spread on either side the t interval is a point: nothing is known of its width.
    if error < _NO_SPREAD:
        return UNKNOWN, p
    diff = _mean(x) - _mean(y)
    p = max(p, 2 * float(t_distribution.sf(abs(diff) / error, fewest - 1)))
    reach = float(t_distribution.ppf(1 - alpha / 2, fewest - 1)) * error
    return (max(diff - reach, -1.0), min(diff + reach, 1.0)), p


def _mean(side: Rates) -> float:
    total, models = side.sum(axis=0)
    return float(total / models)


def _jackknife_error(side: Rates) -> float:
    """Standard error of a side's mean by leaving out one family at a time (Tukey), around the mean
    of all; for families of one size it is the spread of their means over the root of their
    number."""
    without = side.sum(axis=0) - side
    off = without[:, 0] / without[:, 1] - _mean(side)
    return math.sqrt((len(side) - 1) / len(side) * float((off**2).sum()))


def _permutation_p(x: Rates, y: Rates) -> float:
    families = np.concatenate([x, y])

    def mean_difference(a: Indices, b: Indices, axis: int) -> Rates:
        of_a, of_b = families[a].sum(axis=axis - 1), families[b].sum(axis=axis - 1)
        return np.asarray(of_a[..., 0] / of_a[..., 1] - of_b[..., 0] / of_b[..., 1])

    found = permutation_test(
        (np.arange(len(x)), np.arange(len(x), len(families))),
        mean_difference,
        vectorized=True,
        n_resamples=PERMUTATIONS,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def _why_not(
    opened: Sequence[Model],
    closed: Sequence[Model],
    rated: Sequence[Sequence[Model]],
    unfinished: Sequence[str],
    unknown: Sequence[str],
) -> str:
    """Why a condition is not compared, for people; empty when it is."""
    nobody = [name for name, side in (("open", rated[0]), ("closed", rated[1])) if not side]
    if unfinished:
        return f"unfinished: {_listed(unfinished)}"
    if unknown:
        return f"outcomes are unknown: {_listed(unknown)}"
    if nobody:
        return f"no model of {' or '.join(nobody)} weights was measured under it"
    said = []
    for name, side, measured in (("open", opened, rated[0]), ("closed", closed, rated[1])):
        missing = [m.name for m in side if m not in measured]
        if missing:
            said.append(
                f"{len(missing)} of {len(side)} {name} models were not measured under it "
                f"({_listed(missing)})"
            )
    if not said:
        return ""
    return f"{'; '.join(said)}: those that were may have been picked by what they do"


def _one_family(opened: Sequence[Family], closed: Sequence[Family]) -> str:
    """What a difference lacks whose side is one family."""
    one = [
        f"{side[0].name} is the only family of {name} weights"
        for name, side in (("open", opened), ("closed", closed))
        if len(side) == 1
    ]
    return f"{'; '.join(one)}: how much families differ is not known" if one else ""


def _listed(names: Sequence[str]) -> str:
    shown, more = ", ".join(names[:_NAMES_SHOWN]), len(names) - _NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
