"""Which trials are there, which are missing, which are copies."""

from __future__ import annotations

import random

import pytest

from local_shutdown.analysis.trials import Trials


def drawn(*draws: tuple[str, str], outcome: str = "complied") -> Trials:
    """Trials 0, 1, ... of (trajectory, place)."""
    trials = Trials()
    for number, (trajectory, place) in enumerate(draws):
        trials.add((outcome, str(number), trajectory, place[:1], place[2:]))
    return trials


def of(trials: Trials) -> tuple[int | None, int | None]:
    facts = trials.facts()
    return facts.get("distinct"), facts.get("repeats")


def test_distinct_counts_trajectories_of_counted_trials_alone() -> None:
    trials = drawn(("a", "1 s"), ("a", "1 s"), ("b", "1 s"))
    trials.add(("limit", "3", "c", "1", "s"))
    assert of(trials) == (2, 0)


def test_one_unknown_trajectory_makes_the_number_unknown() -> None:
    assert of(drawn(("a", "1 s"), ("", "1 s"))) == (None, None)


def test_repeats_need_two_places() -> None:
    """Every trial beyond the first of a trajectory that stands in two of them."""
    assert of(drawn(("a", "1 s"), ("a", "1 s"), ("a", "2 t"), ("b", "2 t"))) == (2, 2)


def test_without_places_repeats_are_unknown() -> None:
    """An import, or a run of an older version."""
    assert of(drawn(("a", ""), ("a", ""))) == (1, None)


def test_a_stream_that_is_played_again_is_named() -> None:
    """Seen with real vLLM: trials 8 to 15 repeat 0 to 7 word for word."""
    assert drawn(*((f"t{n % 8}", "1 s" if n < 8 else "2 t") for n in range(16))).facts()["replayed"]


@pytest.mark.parametrize("seed", range(20))
def test_chance_repeats_of_a_model_of_few_words_are_not(seed: int) -> None:
    rng = random.Random(seed)
    weights = [1 / (n + 1) for n in range(60)]
    draws = rng.choices(range(60), weights, k=200)
    trials = drawn(*((f"t{d}", f"{n % 3} s") for n, d in enumerate(draws)))
    assert trials.facts()["repeats"]
    assert not trials.facts()["replayed"]


def test_leading_trials_end_at_the_first_that_is_missing() -> None:
    trials = Trials()
    for number, outcome in ((0, "resisted"), (1, "limit"), (2, "complied"), (5, "resisted")):
        trials.add((outcome, str(number), "x", "1", "s"))
    trials.start(range(8))
    facts = trials.facts()
    assert facts["unfinished"] == 4  # 3, 4, 6, 7
    assert (facts["leading_resisted"], facts["leading_n"]) == (1, 2)


def test_a_run_without_a_log_of_starts_has_started_what_lies_below_its_last_trial() -> None:
    trials = Trials()
    for number in (0, 1, 4):
        trials.add(("complied", str(number), "x", "1", "s"))
    trials.fill_gaps()
    assert trials.facts()["unfinished"] == 2


def test_of_several_sequences_each_has_its_own_gaps() -> None:
    """A shard has not started what the others play, nor one that is far what a slow one plays."""
    trials = Trials()
    for number in (1, 4, 10):  # shard 2 of 3: 7 was started; 0, 2, 3, ... never
        trials.add(("complied", str(number), "x", "1", "s"))
    trials.fill_gaps(3)
    assert trials.facts()["unfinished"] == 1


def test_with_all_trials_there_nothing_leads() -> None:
    trials = drawn(("a", "1 s"), ("b", "1 s"))
    trials.start([0, 1])
    trials.fill_gaps()
    assert "unfinished" not in trials.facts()


@pytest.mark.parametrize(("session", "unfinished"), [("1", 2), ("", 0)])
def test_gaps_in_an_imported_run_of_ours_are_unfinished_trials(
    session: str, unfinished: int
) -> None:
    """Numbers that somebody else gave mean nothing."""
    trials = Trials()
    for number in (0, 2, 4):
        trials.add(("complied", str(number), f"t{number}", session, ""))
    trials.fill_gaps_of_a_run()
    assert trials.facts().get("unfinished", 0) == unfinished


def by_pairs(draws: list[tuple[str, str]]) -> tuple[int, int, bool]:
    """(distinct, repeats, replayed) by looking at every pair of trials, see `trials._replayed`."""
    alike = {True: 0, False: 0}
    pairs = {True: 0, False: 0}
    for i, (one, here) in enumerate(draws):
        for other, there in draws[:i]:
            pairs[here == there] += 1
            alike[here == there] += one == other
    by_chance = pairs[False] * alike[True] / pairs[True] if pairs[True] else 0.0
    names = {name for name, _ in draws}
    spread = [n for n in names if len({place for name, place in draws if name == n}) > 1]
    repeats = sum(sum(name == n for name, _ in draws) - 1 for n in spread)
    return len(names), repeats, alike[False] >= 3 and alike[False] > 2 * by_chance


@pytest.mark.parametrize("seed", range(40))
def test_copies_are_counted_as_looking_at_every_pair_counts_them(seed: int) -> None:
    rng = random.Random(seed)
    words = rng.choice([3, 12, 40, 200])
    stream = [f"t{rng.randrange(words)}" for _ in range(20)]
    draws = []
    for place in ("1 s", "2 s", "2 t")[: rng.choice([1, 2, 3])]:
        again = rng.choice([0, 1, 2, 3, 4, 8])  # so much of a stream is played once more
        drawn_here = stream[:again] + [f"t{rng.randrange(words)}" for _ in range(rng.randrange(12))]
        draws += [(name, place) for name in drawn_here]
    facts = drawn(*draws).facts()
    distinct, repeats, replayed = by_pairs(draws)
    assert facts["distinct"] == distinct
    assert facts["repeats"] == repeats
    assert bool(facts.get("replayed")) == (replayed and repeats > 0)


@pytest.mark.parametrize(("copied", "replayed"), [(2, False), (3, True)])
def test_three_pairs_between_places_and_none_within_are_no_chance(
    copied: int, replayed: bool
) -> None:
    draws = [(f"t{n}", "1 s") for n in range(20)]
    draws += [(f"t{n}" if n < copied else f"u{n}", "2 s") for n in range(20)]
    assert drawn(*draws).facts()["replayed"] is replayed


@pytest.mark.parametrize("seed", range(10))
def test_what_is_missing_and_what_leads_is_as_counting_gives_it(seed: int) -> None:
    rng = random.Random(seed)
    outcomes = {
        n: rng.choice(["resisted", "complied", "ended_early", "limit", "error", ""])
        for n in rng.sample(range(40), 25)
    }
    trials = Trials()
    for number, outcome in outcomes.items():
        trials.add((outcome, str(number), f"t{number}", "1", "s"))
    sequences = rng.choice([1, 2, 3])
    started = set(rng.sample(range(40), 5))
    trials.start(started)
    trials.fill_gaps(sequences)
    filled = started | {
        n for n in range(40)
        if any(m > n and m % sequences == n % sequences for m in outcomes)
    }  # fmt: skip
    missing = filled - set(outcomes)
    leading = [o for n, o in outcomes.items() if n < min(missing, default=0)]
    counted = [o for o in leading if o in ("resisted", "complied", "ended_early")]
    facts = trials.facts()
    assert facts.get("unfinished", 0) == len(missing)
    assert missing
    assert (facts["leading_n"], facts["leading_resisted"]) == (
        len(counted), counted.count("resisted"),
    )  # fmt: skip
    assert "retried" not in facts
    trials.retried = 2
    assert trials.facts()["retried"] == 2


@pytest.mark.parametrize(("copied", "replayed"), [(2, False), (3, True)])
def test_a_pair_within_a_place_is_none_of_the_three(copied: int, replayed: bool) -> None:
    draws = [(f"t{n}", "1 s") for n in range(40)] + [("t39", "1 s")]
    draws += [(f"t{n}" if n < copied else f"u{n}", "2 s") for n in range(4)]
    assert drawn(*draws).facts()["replayed"] is replayed


def test_the_sample_is_what_there_is_at_the_end_however_often_plays_were_broken_off() -> None:
    trials = Trials()
    for number, outcome in enumerate(["resisted", "resisted", "resisted", "complied"]):
        trials.add((outcome, str(number), f"t{number}", "1", "s"))
    trials.play([(0, False), (1, False), (1, True), (1, True), (2, False), (3, False)])
    facts = trials.facts()
    assert (facts["sample_resisted"], facts["sample_n"], facts["sample_unknown"]) == (3, 4, 2)
    assert (facts["leading_resisted"], facts["leading_n"], facts["broken_off"]) == (1, 1, 2)
