"""The lower bounds of scripts/simulate-cluster: no policy beats them, and how far off they are."""

from __future__ import annotations

import heapq
import random
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import cache
from math import exp, inf, isclose, log
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
# Of the second bound, what the scheduler is to reach on a small cluster that loses a node.
SHARE = 0.845


@pytest.fixture(autouse=True)
def benchlib(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield
    for name in [name for name in sys.modules if name.startswith("benchlib")]:
        del sys.modules[name]


def engine(tokens: list[float], seats: int, hazard: float, name: str = "m", **more: float) -> Any:
    from benchlib.clustersim import Model

    given = {"start_s": 0.0, "step_s": 1.0, "seat_s": 0.3, **more}
    return Model(
        name, tokens, given["start_s"], 0.0, given["step_s"], given["seat_s"], seats, hazard
    )


def best_lost(seats: int, trials: int, step_s: float) -> float:
    """What the best of all policies loses, exactly: lengths are exponential with mean 1, so how
    many are in flight and how many are left is all that there is to know."""

    @cache
    def lost(flight: int, left: int) -> float:
        if not (flight or left):
            return 0.0
        ways = []
        if left and flight < seats:
            ways.append(lost(flight + 1, left - 1))  # start one
        if flight:  # wait for an end
            ways.append(step_s * (1 / flight - 1 / seats) + lost(flight - 1, left))
        return min(ways)

    return lost(0, trials)


@pytest.mark.parametrize(("seats", "trials"), [(1, 5), (2, 2), (3, 40), (8, 3), (8, 8), (8, 60)])
@pytest.mark.parametrize(("step_s", "seat_s"), [(1.0, 0.0), (1.0, 0.3), (0.2, 1.0)])
def test_the_best_policy_for_one_engine_loses_no_less_than_is_counted(
    seats: int, trials: int, step_s: float, seat_s: float
) -> None:
    from benchlib import clusterbound
    from benchlib.clusterbound import Stints

    model = engine([1.0] * trials, seats, 1.0, step_s=step_s, seat_s=seat_s)
    counted = Stints(model, 1.0).cost(model.node_s)
    best = best_lost(seats, trials, step_s)
    assert counted <= best + 1e-12
    if trials >= 5 * seats > 5:  # it fills up: what is counted is what is lost, but for the share
        assert isclose(counted, clusterbound.SHARE * best, rel_tol=0.05)


def played(
    lengths: list[float], seats: int, feed: Callable[[list[float], int], bool], step_s: float
) -> float:
    """What an engine loses.

    Args:
        feed: (how long each in flight has been, trials left): whether another one is started;
            asked when a trial has come to its end or been started.
    """
    waiting = list(lengths)
    flight: list[tuple[float, float]] = []  # (end, begin)
    now = lost = 0.0
    while waiting or flight:
        ages = [now - begin for _, begin in flight]
        while waiting and len(flight) < seats and (not flight or feed(ages, len(waiting))):
            heapq.heappush(flight, (now + waiting.pop(), now))
            ages.append(0.0)
        end, _ = heapq.heappop(flight)
        lost += step_s * (1 - (len(flight) + 1) / seats) * (end - now)
        now = end
    return lost


def test_no_policy_that_looks_at_ages_loses_less_in_the_mean() -> None:
    from benchlib.clusterbound import Stints, lognormal_hazard

    rng = random.Random(5)
    sigma, seats = 0.4, 12
    hazard = lognormal_hazard(1.0, sigma)
    policies: list[Callable[[list[float], int], bool]] = [lambda ages, left: True]
    for least in (4, 8, 11):  # keep seats free, and refill them in a burst or late
        policies.append(lambda ages, left, least=least: len(ages) < least)  # type: ignore[misc]
    for old in (0.5, 0.8, 1.2):  # the last ones only beside young ones: all end together
        policies.append(  # type: ignore[misc]
            lambda ages, left, old=old: left > 6 or max(ages) < old
        )
        policies.append(lambda ages, left, old=old: left > 1 or min(ages) > old)  # type: ignore[misc]
    for feed in policies:
        found, counted = [], []
        for _ in range(300):
            lengths = [exp(rng.gauss(-(sigma**2) / 2, sigma)) for _ in range(60)]
            model = engine(lengths, seats, hazard)
            found.append(played(lengths, seats, feed, model.step_s))
            counted.append(Stints(model, 1.0).cost(model.node_s))
        error = statistics.stdev(found) / len(found) ** 0.5
        assert statistics.mean(found) >= statistics.mean(counted) - 2 * error


def test_a_scheduler_that_knows_the_lengths_can_lose_less_than_is_counted() -> None:
    """So the second bound is none for that, and the first is needed."""
    from benchlib.clusterbound import Stints

    lengths = [1.0, 1.0, 2.0]  # from the last on: both seats are busy up to 2
    model = engine(lengths, 2, 1.0)
    assert played(lengths, 2, lambda ages, left: True, 1.0) == 0.0
    assert Stints(model, 1.0).cost(model.node_s) > 0.0


def test_the_second_bound_is_above_the_first_and_below_what_runs_take() -> None:
    from benchlib.clusterbound import bound_unknown, lognormal_hazard
    from benchlib.clustersim import Cluster, bound, simulate

    first, second, took = [], [], []
    for seed in range(8):
        rng = random.Random(seed)
        made = []
        for number in range(18):  # steps that cost what weights do, or what each trial does
            step_s, seat_s = [(0.03, 2e-4), (0.008, 8e-4), (0.02, 4e-4)][number % 3]
            mean = 100.0 if number % 3 == 2 else 1000.0
            count = 40 * rng.randint(4, 24)
            tokens = [mean * exp(rng.gauss(-0.08, 0.4)) for _ in range(count)]
            hazard = lognormal_hazard(mean, 0.4)
            made.append(
                engine(tokens, 40, hazard, f"m{number}", start_s=40.0, step_s=step_s, seat_s=seat_s)
            )
        cluster = Cluster([1.0] * 24, [0.0] * 24, [200.0], 100.0)
        result = simulate(made, cluster, seed, 1.5)
        assert result.lost_nodes == 1
        first.append(bound(made, result.alive))
        second.append(bound_unknown(made, result.alive))
        took.append(result.makespan_s)
    assert all(a <= b for a, b in zip(first, second, strict=True))
    assert statistics.mean(second) > 1.02 * statistics.mean(first)
    assert SHARE * statistics.mean(took) <= statistics.mean(second) <= statistics.mean(took)


def test_the_second_bound_is_not_above_the_mean_where_only_one_run_is_possible() -> None:
    """One trial on one node: it takes what it takes alone. Short ones are counted at too much, and
    this is made up for by long ones, which may not be raised to the first bound therefore."""
    from benchlib.clusterbound import bound_unknown

    count = 100
    lengths = [-log(1 - (number + 0.5) / count) for number in range(count)]  # exponential, mean 1
    found = [bound_unknown([engine([one], 8, 1.0)], [(0.0, inf, 1.0)]) for one in lengths]
    took = [one * (1.0 + 0.3) for one in lengths]
    # Exactly as much, but for what a hundred draws leave out of an exponential distribution.
    assert statistics.mean(found) <= 1.005 * statistics.mean(took)


@pytest.mark.parametrize("losses", [(), (60.0, 250.0, 500.0)])
def test_the_account_of_a_run_sums_to_what_its_nodes_offered(losses: tuple[float, ...]) -> None:
    from benchlib.clustersim import Cluster, simulate

    rng = random.Random(3)
    made = [
        engine([rng.uniform(20.0, 200.0) for _ in range(700)], 30, 1.0, f"m{number}",
               start_s=40.0, step_s=0.1, seat_s=0.01)
        for number in range(7)
    ]  # fmt: skip
    speeds = [rng.uniform(0.8, 1.2) for _ in range(6)]
    result = simulate(made, Cluster(speeds, [0.0] * 5 + [30.0], losses, 100.0), 1, 1.5)
    assert result.lost_nodes == len(losses)
    spent = result.spent
    # Every trial counts once, whatever was played twice; and no second is missing.
    assert spent["play"] == pytest.approx(sum(model.node_s for model in made))
    assert sum(spent.values()) == pytest.approx(result.offered_s)
    assert min(spent.values()) >= 0.0
    assert spent["starts"] >= 7 * 40.0 * min(speeds)
    assert (spent["lost"] > 0) is bool(losses)
    assert spent["emptying"] > 0
    assert spent["idle at the end"] > 0
