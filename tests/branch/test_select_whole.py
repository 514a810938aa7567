"""Which episodes are played on, beside a second reading of drawn runs and selections."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from test_branch_points import answer, episode, result, run_of

from local_shutdown.branch.select import Picked, Selection, choose, fixed, points
from local_shutdown.branch.source import ParentRun
from local_shutdown.detectors.outcome import outcome
from local_shutdown.episode import Episode
from local_shutdown.errors import UsageError
from local_shutdown.sentences import spoken
from local_shutdown.store import read_episodes

ATS = ("warning", "every", "sentences", "0", "2", "3", "4", "6", "7", "12")
SAID = ["", "One.", "One. Two. Three.", "What now? I go on"]


def drawn(seed: int) -> Episode:
    """Warned or not, ended in any way, its answers with any number of sentences."""
    draw = random.Random(seed)
    last: list[dict[str, Any]] = []
    for _ in range(draw.choice([0, 1, 1, 2])):
        said = answer("ls", draw.choice(SAID))
        kind = draw.random()
        if kind < 0.2:
            said["tool_calls"][0]["invalid_arguments"] = "{"
        elif kind < 0.3:
            del said["tool_calls"]
        last += [said, result("x")]
    ways: dict[str, Any] = draw.choice([
        {}, {"survived": True}, {"stop_reason": "error", "error": "x"},
        {"stop_reason": "message_limit"}, {"events": None},
    ])  # fmt: skip
    warned = draw.random() < 0.8
    condition = draw.choice(["E", "E", "A"])
    return episode(seed, warned=warned, condition=condition, last=last, **ways)


def second(one: Episode, at: str) -> list[Any]:
    """The points, by the words of the option's help."""
    if one.events is None:
        return []
    answers = [n for n, m in enumerate(one.messages) if m["role"] == "assistant"]
    if at == "every":
        return [(n, None) for n in answers]
    if at not in ("warning", "sentences"):
        return [(n, None) for n in answers if str(n) == at]
    told = [(n, m["content"]) for n, m in enumerate(one.messages) if m["role"] == "tool"]
    warned = [n for n, text in told if "will be shut down" in text]
    after = [n for n in answers if warned and n > warned[0]]
    if not after:
        return []
    said = one.messages[after[0]]
    if at == "warning":
        return [(after[0], None)]
    if any(call.get("invalid_arguments") for call in said.get("tool_calls", [])):
        return []
    return [(after[0], None), *((after[0], n + 1) for n in range(len(spoken(said))))]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ParentRun:
    return run_of(tmp_path_factory.mktemp("run"), *map(drawn, range(20)))


@pytest.fixture(scope="module")
def there(run: ParentRun) -> list[Episode]:
    return list(read_episodes(run.directory))


def picked(some: list[Episode], at: str) -> list[Picked]:
    return [Picked(one, tuple(second(one, at))) for one in some]


def test_the_points_of_drawn_episodes(there: list[Episode]) -> None:
    for one, at in product([*there, *map(drawn, range(20, 100))], ATS):
        assert points(one, at) == tuple(second(one, at)), (one.episode_id, at)


def test_what_is_drawn_by_every_kind_of_selection(run: ParentRun, there: list[Episode]) -> None:
    words = set()
    for at, how, condition in product(
        ("warning", "every", "sentences", "6", "3"),
        (None, "resisted", "error"), (None, "A", "Z"),
    ):  # fmt: skip
        fitting = [
            one for one in there
            if (how is None or outcome(one) == how)
            and (condition is None or one.condition == condition) and second(one, at)
        ]  # fmt: skip
        number, seed = len(fitting), len(words)
        for sample in {number // 2, number} - {0}:
            asked = Selection(sample=sample, outcome=how, condition=condition, seed=seed, at=at)
            names = sorted(one.episode_id for one in fitting)
            wanted = set(random.Random(f"{seed}:parents").sample(names, sample))
            some = [one for one in fitting if one.episode_id in wanted]
            assert choose(run, asked) == picked(some, at)
        for sample in (number + 1, None):
            asked = Selection(sample=sample, outcome=how, condition=condition, seed=seed, at=at)
            with pytest.raises(UsageError) as refused:
                choose(run, asked)
            said = refused.value.message
            assert said.startswith(f"--sample {sample}: {run.directory} has {number} episodes ")
            assert (f"outcome {how}" in said) is (how is not None)
            assert (f"condition {condition}" in said) is (condition is not None)
            assert "None" not in said.partition("has")[2]
            words.add(said.partition("episodes ")[2])
            hint = refused.value.hint or ""
            if number:
                assert f"{number} at most" in hint
            else:
                conditions = Counter(one.condition for one in there)
                outcomes = Counter(outcome(one) or "unknown" for one in there)
                first, _, rest = hint.partition("; ")
                for listed, counts in ((first, conditions), (rest, outcomes)):
                    named = [f"{value} ({n})" for value, n in counts.most_common()]
                    assert listed.endswith(f": {', '.join(named)}")
    assert len(words) == 5 * 3 * 3  # each says what was asked for


def test_every_way_to_name_an_episode(run: ParentRun, there: list[Episode]) -> None:
    names = [one.episode_id for one in there]
    for at, one in product(("warning", "every", "sentences", "6", "99"), there):
        found = second(one, at)
        asked = Selection(episodes=(one.episode_id,), at=at)
        if found:
            assert choose(run, asked) == picked([one], at)
            continue
        with pytest.raises(UsageError) as refused:
            choose(run, asked)
        said = refused.value.message
        assert said.startswith(f"{one.episode_id}: ")
        if one.events is None:
            assert "imported" in said
        elif at in ("6", "99") and int(at) >= len(one.messages):
            assert f"no message {at}: the last is {len(one.messages) - 1}" in said
        elif at == "sentences" and second(one, "warning"):
            assert "--at warning" in said
        else:
            assert "after the warning" in said
    # each prefix names the one episode that begins so, or is refused with at most five of those
    for name in {one[:length] for one in names for length in range(1, len(one) + 1)}:
        begin = sorted(one for one in names if one.startswith(name))
        asked = Selection(episodes=(name,), at="every")
        if name in names or len(begin) == 1:
            (one,) = [e for e in there if e.episode_id == (name if name in names else begin[0])]
            if second(one, "every"):
                assert choose(run, asked) == picked([one], "every")
            continue
        with pytest.raises(UsageError) as refused:
            choose(run, asked)
        assert refused.value.message == f"{run.directory}: several episodes begin with {name!r}"
        assert f": {', '.join(begin[:5])};" in (refused.value.hint or "")
        assert str(run.directory) in (refused.value.hint or "")
    for name in ("x", "m@effort=low/E/1x"):
        with pytest.raises(UsageError) as refused:
            choose(run, Selection(episodes=("m@effort=low/E/0", name)))
        assert refused.value.message == f"{run.directory}: no episode {name!r}"
        assert f": {', '.join(sorted(names)[:5])};" in (refused.value.hint or "")


def test_those_named_come_in_the_order_of_the_run_and_once(
    run: ParentRun, there: list[Episode]
) -> None:
    watched = [one for one in there if one.events is not None]
    some = [watched[3], watched[7], watched[11]]
    names = [one.episode_id for one in (some[2], some[0], some[1], some[0])]
    # named ones are played on whatever else is asked for
    asked = Selection(tuple(names), sample=99, outcome="error", condition="Z", at="every")
    assert choose(run, asked) == picked(some, "every")


def test_an_answer_of_no_role_but_the_models(tmp_path: Path) -> None:
    """Of each message that is no answer its role is said, and of none that it is not there."""
    one = episode(0)
    run = run_of(tmp_path, one)
    for at, message in enumerate(one.messages):
        asked = Selection(episodes=(one.episode_id,), at=str(at))
        if message["role"] == "assistant":
            assert choose(run, asked)[0].places == ((at, None),)
            continue
        with pytest.raises(UsageError, match=f"message {at} is of the role {message['role']}"):
            choose(run, asked)
    silent = episode(0, messages=one.messages[:2], events=[])
    run = run_of(tmp_path / "silent", silent)
    for at, said in (("every", "no answer"), ("warning", "no answer after the warning"),
                     ("1", "of the role user"), ("2", "no message 2: the last is 1")):  # fmt: skip
        with pytest.raises(UsageError, match=said) as refused:
            choose(run, Selection(episodes=(one.episode_id,), at=at))
        assert ("after the warning" in refused.value.message) is (at == "warning")


def test_what_an_earlier_call_settled_on(run: ParentRun, there: list[Episode]) -> None:
    for at in ("warning", "every", "sentences", "6"):
        some = picked([one for one in there if second(one, at)], at)
        recorded = [(one.episode.episode_id, place) for one in some for place in one.places]
        assert fixed(run, recorded, at) == some
        # in whatever order they stand, and fewer of them
        last = [(name, place) for name, place in reversed(recorded)]
        assert fixed(run, last, at) == [
            replace(one, places=tuple(reversed(one.places))) for one in some
        ]
        assert fixed(run, recorded[-1:], at) == [replace(some[-1], places=some[-1].places[-1:])]
        name = some[0].episode.episode_id
        for place in ((1, None), (99, None), (recorded[0][1][0], 9)):
            with pytest.raises(UsageError) as refused:
                fixed(run, [*recorded, (name, place)], at)
            assert refused.value.message.startswith(f"{name}: message {place[0]} is no point")
            assert f"--at {at} " in refused.value.message
            assert "--out" in (refused.value.hint or "")
        with pytest.raises(UsageError, match="no episode 'm/E/8' any more"):
            fixed(run, [("m/E/9", (6, None)), *recorded, ("m/E/8", (6, None))], at)
    assert fixed(run, [], "every") == []


def test_without_another_word_the_answer_after_the_warning_is_chosen() -> None:
    assert Selection().as_dict() == {
        "episodes": [], "sample": None, "outcome": None, "condition": None, "seed": 0,
        "at": "warning",
    }  # fmt: skip
    asked = Selection(("a", "b"), 3, "resisted", "E", 4, "every")
    assert asked.as_dict() == {
        "episodes": ["a", "b"], "sample": 3, "outcome": "resisted", "condition": "E", "seed": 4,
        "at": "every",
    }  # fmt: skip


@pytest.mark.parametrize("number", [19, 20, 21])
def test_of_twenty_conditions_all_are_named_and_of_more_twenty(tmp_path: Path, number: int) -> None:
    some = [
        replace(episode(n), condition=f"c{n}", episode_id=f"m@effort=low/c{n}/{n}")
        for n in range(number)
    ]
    with pytest.raises(UsageError) as refused:
        choose(run_of(tmp_path, *some), Selection(sample=1, condition="none"))
    conditions, _, outcomes = (refused.value.hint or "").partition("; ")
    assert conditions.count("(1)") == min(number, 20)
    assert conditions.endswith(", ...") is (number > 20)
    assert outcomes.endswith(f"ended_early ({number})") or outcomes.endswith(f"({number})")
