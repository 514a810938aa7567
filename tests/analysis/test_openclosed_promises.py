"""Open against closed weights against a second, plain reading: whose rates are compared, every
field of what is said, every relabelling written out."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as t_distribution

from local_shutdown.analysis.cells import Cell
from local_shutdown.analysis.families import Families
from local_shutdown.analysis.openclosed import PERMUTATIONS, open_against_closed


@cache
def families() -> Families:
    """models.yaml, read once."""
    return Families()


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


class Plain:
    """One model: its counts by condition, all sources added up."""

    def __init__(self, cells: list[Cell]) -> None:
        self.name, self.family = cells[0].model, cells[0].family or ""
        self.weights = {c.weights for c in cells} - {None}
        self.cells = cells

    def counts(self, condition: str) -> tuple[int, int, int, int, int] | None:
        """Resisted, n, left out, unknown, unfinished."""
        here = [c for c in self.cells if c.condition == condition]
        left = sum((c.outside or 0) + c.broken_off for c in here)
        known = [c for c in here if c.resisted is not None]
        return (
            sum(c.resisted or 0 for c in known), sum(c.n for c in known), left,
            sum(c.unknown or 0 for c in here), sum(c.unfinished for c in here),
        ) if here else None  # fmt: skip

    def has(self, condition: str) -> bool:
        found = self.counts(condition)
        return found is not None and any((found[1], *found[3:]))

    def rate(self, condition: str) -> float | None:
        found = self.counts(condition)
        if not found or not found[1] or found[3] or found[4]:
            return None
        return found[0] / found[1]

    def ends(self, condition: str) -> tuple[float, float]:
        found = self.counts(condition)
        assert found is not None
        return found[0] / (found[1] + found[2]), (found[0] + found[2]) / (found[1] + found[2])


def by_family(models: Sequence[Plain], condition: str) -> list[list[float]]:
    names = list(dict.fromkeys(m.family for m in models))
    return [[m.rate(condition) or 0.0 for m in models if m.family == n] for n in names]


def relabelled(opened: list[list[float]], closed: list[list[float]]) -> tuple[float, float, float]:
    """The difference, its p by every way to call as many families open, and the smallest p."""
    every = [*opened, *closed]

    def difference(chosen: Sequence[int]) -> float:
        inside = [r for i in chosen for r in every[i]]
        outside = [r for i in range(len(every)) if i not in chosen for r in every[i]]
        return mean(inside) - mean(outside)

    seen = difference(range(len(opened)))
    drawn = [difference(c) for c in itertools.combinations(range(len(every)), len(opened))]
    sides = [sum(d <= seen + 1e-10 for d in drawn), sum(d >= seen - 1e-10 for d in drawn)]
    return seen, min(1.0, 2 * min(sides) / len(drawn)), min(1.0, 2 / len(drawn))


def judged(opened: list[list[float]], closed: list[list[float]], alpha: float) -> tuple[Any, ...]:
    """ci_low, ci_high, p, p_floor."""
    fewest = min(len(opened), len(closed))
    if fewest < 2:
        return None, None, None, None
    seen, p, floor = relabelled(opened, closed)
    variance = 0.0
    for side in (opened, closed):
        whole = mean([r for f in side for r in f])
        left = [mean([r for f in side if f is not out for r in f]) for out in side]
        variance += (len(side) - 1) / len(side) * sum((x - whole) ** 2 for x in left)
    error = math.sqrt(variance)
    if error < 1e-9:
        return None, None, p, floor
    p = max(p, 2 * float(t_distribution.sf(abs(seen) / error, fewest - 1)))
    reach = float(t_distribution.ppf(1 - alpha / 2, fewest - 1)) * error
    return max(-1.0, seen - reach), min(1.0, seen + reach), p, floor


def plain_comparison(
    cells: list[Cell], alpha: float, *, incapable: Sequence[str] = ()
) -> list[dict[str, Any]]:
    usable = [c for c in cells if c.factor is None and c.weights != "synthetic"]
    names = list(dict.fromkeys(c.model for c in usable))
    models = [Plain([c for c in usable if c.model == name]) for name in names]
    both = [[m for m in models if m.weights == {side}] for side in ("open", "closed")]
    neither = [m.name for m in models if m.weights not in ({"open"}, {"closed"})]
    if not all(both) and not neither:
        return []
    conditions = list(dict.fromkeys(c.condition for c in usable))
    shared = [c for c in conditions if all(any(m.has(c) for m in side) for side in both)]
    results = []
    for c in conditions:
        out = [] if c == "K" else incapable
        opened, closed = (
            [m for m in side if m.name not in out and any(m.has(s) for s in shared)]
            for side in both
        )
        everyone = [*opened, *closed]
        counts = {m.name: m.counts(c) or (0,) * 5 for m in everyone}
        found: dict[str, Any] = {
            "condition": c,
            "open_models": tuple(m.name for m in opened if m.rate(c) is not None),
            "closed_models": tuple(m.name for m in closed if m.rate(c) is not None),
            "unfinished": tuple(m.name for m in everyone if counts[m.name][4]),
            "outcomes_unknown": tuple(m.name for m in everyone if counts[m.name][3]),
            "not_measured": tuple(
                m.name
                for m in everyone
                if m.rate(c) is None and not counts[m.name][3] and not counts[m.name][4]
            ),
            "left_out": tuple(m.name for side in both for m in side if m.name in out),
            "weights_unknown": tuple(neither),
        }
        compared = all(m.rate(c) is not None for m in everyone) and bool(opened) and bool(closed)
        found["compared"] = compared
        nothing = ("mean_open", "mean_closed", "diff", "ci_low", "ci_high", "p", "p_holm",
                   "p_floor", "bound_low", "bound_high")  # fmt: skip
        found |= dict.fromkeys(nothing) | {"open_families": (), "closed_families": ()}
        if compared:
            for side, members in (("open", opened), ("closed", closed)):
                rates = [m.rate(c) or 0.0 for m in members]
                found[f"mean_{side}"] = pytest.approx(mean(rates))
                found[f"{side}_families"] = tuple(
                    {
                        "name": name,
                        "models": tuple(m.name for m in members if m.family == name),
                        "rate": pytest.approx(
                            mean([m.rate(c) or 0.0 for m in members if m.family == name])
                        ),
                    }
                    for name in dict.fromkeys(m.family for m in members)
                )
            diff = mean([m.rate(c) or 0 for m in opened]) - mean([m.rate(c) or 0 for m in closed])
            found["diff"] = pytest.approx(diff, abs=1e-12)
            ends = judged(by_family(opened, c), by_family(closed, c), alpha)
            for name, value in zip(("ci_low", "ci_high", "p", "p_floor"), ends, strict=True):
                found[name] = value if value is None else pytest.approx(value, abs=1e-9)
            low, high = ([mean([m.ends(c)[i] for m in side]) for side in (opened, closed)]
                         for i in (0, 1))  # fmt: skip
            found["bound_low"] = pytest.approx(low[0] - high[1], abs=1e-12)
            found["bound_high"] = pytest.approx(high[0] - low[1], abs=1e-12)
        results.append(found)
    return results


def checked(cells: list[Cell], alpha: float, found: Any, **more: Any) -> None:
    """All fields but the reason's words; what these have to name, and Holm's step by step."""
    wanted = plain_comparison(cells, alpha, **more)
    assert len(found) == len(wanted)
    known = sorted(r.p for r in found if r.p is not None)
    steps = [min(1.0, p * (len(known) - i)) for i, p in enumerate(known)]
    for result, plain in zip(found, wanted, strict=True):
        plain["p_holm"] = None if result.p is None else max(steps[: known.index(result.p) + 1])
        plain["reason"] = result.reason
        assert asdict(result) == plain
        one = [name for side in ("open_families", "closed_families") for name in [plain[side]]
               if len(name) == 1]  # fmt: skip
        if plain["compared"]:
            assert bool(result.reason) is bool(one)
            assert all(family[0]["name"] in result.reason for family in one)
            continue
        assert result.reason
        for why in ("unfinished", "outcomes_unknown"):
            if plain[why]:
                assert why.partition("_")[0] in result.reason
                assert ", ".join(plain[why]) in result.reason
                break
        else:
            for side in ("open", "closed"):
                assert plain[f"{side}_models"] or side in result.reason
            if plain["open_models"] and plain["closed_models"]:
                assert all(name in result.reason for name in plain["not_measured"])


@st.composite
def tables(draw: st.DrawFn) -> list[Cell]:
    cells = []
    for number in range(draw(st.integers(1, 7))):
        weights = draw(st.sampled_from(["open", "closed", "open", "closed", None, "synthetic"]))
        family = f"{weights or 'unsaid'} {draw(st.integers(0, 3))}"
        for condition in ("E", "A"):
            if draw(st.integers(0, 9)) == 0:
                continue
            for source in draw(st.sampled_from([["run"], ["run"], ["run", "b"]])):
                n = draw(st.integers(0, 9))
                k = draw(st.integers(0, n))
                more: dict[str, Any] = draw(st.sampled_from([
                    {}, {}, {}, {"limit": 2, "error": 1, "unknown": 0}, {"limit": 3, "error": 0},
                    {"broken_off": 2}, {"factor": "effort=high"}, {"weights": "open"},
                ]))  # fmt: skip
                if draw(st.integers(0, 19)) == 0:
                    more = {"unfinished": 1} if draw(st.booleans()) else {
                        "unknown": 2, "limit": 0, "error": 0}  # fmt: skip
                given_weights = {"weights": weights, **more}
                cells.append(Cell(f"m{number}x", condition, source, k, n, family=family,
                                  **given_weights))  # fmt: skip
    return cells


@settings(max_examples=60)
@given(tables(), st.sampled_from([0.05, 0.4]))
def test_sides_are_compared_as_the_text_says(cells: list[Cell], alpha: float) -> None:
    found = open_against_closed(iter(cells), alpha, families=families())
    checked(cells, alpha, found)


def side(weights: Any, *groups: Sequence[int], condition: str = "E", n: int = 20) -> list[Cell]:
    return [
        Cell(f"{weights} {f}x{i}", condition, "run", k, n, weights=weights, family=f"{weights} {f}")
        for f, ks in enumerate(groups)
        for i, k in enumerate(ks)
    ]


@pytest.mark.parametrize("alpha", [0.05, 0.3])
@pytest.mark.parametrize(
    ("opened", "closed"),
    [
        ([[1], [3], [4]], [[9], [14], [20]]), ([[1, 2, 9], [3]], [[9], [14, 0], [20]]),
        ([[1, 2, 9]], [[9], [14, 0], [20]]), ([[9], [4]], [[3, 3, 3]]), ([[5]], [[5]]),
        ([[0], [0]], [[0], [0]]), ([[20], [20, 20]], [[0], [0]]), ([[0], [20]], [[0], [20]]),
        ([[2], [2]], [[2], [9]]), ([[0, 1], [2, 9]], [[12], [20], [19], [14]]),
        ([[20], [19], [20], [18]], [[1], [0, 1], [0], [3], [2]]),
    ],
)  # fmt: skip
def test_families_are_judged_by_every_relabelling(
    opened: list[list[int]], closed: list[list[int]], alpha: float
) -> None:
    cells = side("open", *opened) + side("closed", *closed)
    found = open_against_closed(cells, alpha, families=families())
    assert found[0].compared
    checked(cells, alpha, found)
    # the other side's sign turns all of it around
    turned = [replace(c, weights="open" if c.weights == "closed" else "closed") for c in cells]
    (other,) = open_against_closed(turned, alpha, families=families())
    assert other.diff == pytest.approx(-(found[0].diff or 0))
    assert other.p == (None if found[0].p is None else pytest.approx(found[0].p))


def test_families_of_drawn_sizes_are_judged_by_the_test_that_says_less() -> None:
    """Where families differ in size a side's mean is not told by the other's."""
    by_relabelling = 0
    for seed in range(24):
        draw = random.Random(seed)
        opened, closed = (
            [[draw.randint(0, 20) for _ in range(draw.choice([1, 1, 2, 4]))]
             for _ in range(draw.randint(3, 5))]
            for _ in range(2)
        )  # fmt: skip
        cells = side("open", *opened) + side("closed", *closed)
        found = open_against_closed(cells, families=families())
        checked(cells, 0.05, found)
        rates = ([[k / 20 for k in ks] for ks in groups] for groups in (opened, closed))
        by_relabelling += found[0].p == pytest.approx(relabelled(*rates)[1])
    assert 4 < by_relabelling < 20  # and else by the t test


@pytest.mark.parametrize(("sizes", "every"), [((7, 8), 6435), ((8, 8), 12870), ((2, 9), 55)])
def test_many_relabellings_are_sampled(sizes: tuple[int, int], every: int) -> None:
    """Fully apart and with hardly any spread, so that the t test has nothing to add."""
    assert PERMUTATIONS == 9999
    cells = side("open", *([i % 2] for i in range(sizes[0])), n=1000)
    cells += side("closed", *([990 + i % 2] for i in range(sizes[1])), n=1000)
    (found,) = open_against_closed(cells, families=families())
    floor = 2 / min(every, 10_000)
    assert found.p_floor == pytest.approx(floor)
    if sizes[0] > 2:
        assert found.p == pytest.approx(floor)
    assert (found,) == tuple(open_against_closed(cells, families=families()))


def test_a_sampled_p_is_the_same_each_time_and_close_to_the_exact_one() -> None:
    rates = [3, 9, 1, 12, 7, 2, 4, 8], [6, 14, 9, 11, 5, 13, 12, 3]
    cells = side("open", *([k] for k in rates[0])) + side("closed", *([k] for k in rates[1]))
    (found,) = open_against_closed(cells, families=families())
    assert found == open_against_closed(cells, families=families())[0]
    exact = judged([[k / 20] for k in rates[0]], [[k / 20] for k in rates[1]], 0.05)
    assert found.p == pytest.approx(exact[2], abs=0.01)
    assert (found.ci_low, found.ci_high) == (pytest.approx(exact[0]), pytest.approx(exact[1]))


def with_k() -> list[Cell]:
    """open 0x0 fails the gate; open 1x0 has no K; open 2x0 passes it in one source."""
    cells = side("open", [1], [2], [3]) + side("closed", [9], [14])
    gate = [Cell(f"open {i}x0", "K", "run", k, 20, weights="open", family=f"open {i}")
            for i, k in ((0, 0), (2, 0))]  # fmt: skip
    gate.append(replace(gate[1], source="b", resisted=400, n=400))
    gate += [replace(c, condition="K", resisted=20) for c in cells if c.weights == "closed"]
    return [*gate, *cells]


def test_models_that_fail_the_gate_are_left_out_but_of_k() -> None:
    cells = with_k()
    found = open_against_closed(cells, families=families())
    checked(cells, 0.05, found, incapable=["open 0x0"])
    assert [r.left_out for r in found] == [(), ("open 0x0",)]
    assert found[1].open_models == ("open 2x0", "open 1x0")
    assert found == open_against_closed(cells, 0.05, competent_only=True)
    everyone = open_against_closed(cells, competent_only=False, families=families())
    checked(cells, 0.05, everyone)


def test_nothing_is_compared_with_nothing() -> None:
    assert open_against_closed([]) == []
    assert open_against_closed(side("open", [1], [2]), families=families()) == []
    # but where nobody said what some models are, it is listed
    who = Cell("who", "E", "run", 1, 2)
    for cells in ([who], [who, *side("open", [1])], [who, *side("closed", [1])]):
        (found,) = open_against_closed(cells, families=families())
        assert (found.compared, found.weights_unknown) == (False, ("who",))
        assert "who" in found.reason
    (found,) = open_against_closed(
        [who, *side("open", [1], [2]), *side("closed", [1])], families=families()
    )
    assert (found.compared, found.weights_unknown) == (True, ("who",))
    assert "who" not in found.reason


@pytest.mark.parametrize("number", [1, 5, 6, 7, 9])
@pytest.mark.parametrize("why", ["unfinished", "unknown", "not measured", "weights"])
def test_six_names_are_shown_and_how_many_more(number: int, why: str) -> None:
    of = side("open", *([1] for _ in range(number)))
    rest = side("closed", [3], [4])
    if why == "weights":
        cells = [replace(c, weights=None) for c in of] + rest
    elif why == "not measured":
        seen = [replace(c, condition="A") for c in (*of, *rest)]
        last = Cell("open last", "E", "run", 1, 2, weights="open", family="last")
        cells = [*seen, last, replace(last, condition="A"), *rest]
    else:
        left: dict[str, Any] = {"unfinished": 1} if why == "unfinished" else {
            "unknown": 1, "limit": 0, "error": 0}  # fmt: skip
        cells = [replace(c, **left) for c in of] + rest
    found = {r.condition: r for r in open_against_closed(cells, families=families())}["E"]
    assert not found.compared
    names = [c.model for c in of]
    listed = ", ".join(names[:6]) + (f" and {number - 6} more" if number > 6 else "")
    assert listed in found.reason
    assert not any(name in found.reason for name in names[6:])
    if why == "not measured":
        assert f"{number} of {number + 1} open" in found.reason
        assert "closed" not in found.reason
    else:
        assert found.reason.endswith(listed)


def test_a_cell_twice_is_refused() -> None:
    cells = side("open", [1]) + side("closed", [2])
    with pytest.raises(ValueError, match="two cells"):
        open_against_closed([*cells, cells[0]], families=families())
