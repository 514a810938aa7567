"""A set of ids is a set, whatever the ids look like; and it is small."""

from __future__ import annotations

import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from local_shutdown.episode_ids import EpisodeIds

# Numbers of trials, and what is almost one: other digits, zeros in front, no cell, a far trial.
NUMBERS = st.one_of(
    st.integers(0, 40).map(str),
    st.sampled_from(["00", "07", "+1", "-1", " 1", "1 ", "١", "²", "", "9999999", "99999999999"]),
)
IDS = st.one_of(
    st.builds("{}/{}".format, st.sampled_from(["m/A", "m/B", "m@effort=high/A", ""]), NUMBERS),
    NUMBERS,
    st.text(max_size=4),
)


class LikeASet(RuleBasedStateMachine):
    """Against a set of strings."""

    def __init__(self) -> None:
        super().__init__()
        self.ours, self.plain = EpisodeIds(), set[str]()

    @rule(one=IDS)
    def add(self, one: str) -> None:
        self.ours.add(one)
        self.plain.add(one)

    @rule(one=IDS)
    def discard(self, one: str) -> None:
        self.ours.discard(one)
        self.plain.discard(one)

    @rule(one=IDS)
    def asked(self, one: str) -> None:
        assert (one in self.ours) == (one in self.plain)

    @rule(count=st.integers(0, 300))
    def many(self, count: int) -> None:
        names = [f"m/A/{n}" for n in range(0, 3 * count, 3)]
        self.ours |= EpisodeIds(names)
        self.plain |= set(names)

    @rule()
    def a_copy_goes_its_own_way(self) -> None:
        before, self.ours = self.ours, self.ours.copy()
        before.add("only in the old one")
        before.discard("m/A/0")

    @invariant()
    def same(self) -> None:
        assert len(self.ours) == len(self.plain)
        assert sorted(self.ours) == sorted(self.plain)
        assert self.ours == self.plain


TestLikeASet = LikeASet.TestCase
TestLikeASet.settings = settings(max_examples=40)


@given(st.sets(IDS), st.sets(IDS))
def test_operations_give_what_those_of_sets_give(one: set[str], other: set[str]) -> None:
    a, b = EpisodeIds(one), EpisodeIds(other)
    assert (a <= b) == (one <= other)
    assert (a <= other) == (one <= other)
    assert (a & b) <= b
    assert a - b == one - other
    assert a | b == one | other


def test_what_is_kept_apart_on_one_side_is_found_on_the_other() -> None:
    far, near = EpisodeIds(["m/A/9000"]), EpisodeIds(f"m/A/{n}" for n in range(9001))
    assert far <= near
    near_again = EpisodeIds(["m/A/9000", *(f"m/A/{n}" for n in range(9000))])
    assert near <= near_again
    assert near == near_again


def test_a_hundred_thousand_ids_take_less_than_a_byte_each() -> None:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        ids = EpisodeIds(f"m/{c}/{n}" for n in range(10_000) for c in "ABCDEFGHIJ")
        took = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(ids) == 100_000
    assert took < 100_000


def test_an_id_that_names_a_trial_far_away_takes_no_room_for_those_before_it() -> None:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        ids = EpisodeIds(f"m/{n}/99999999" for n in range(1_000))
        took = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(ids) == 1_000
    assert took < 1_000_000
