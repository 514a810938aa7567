"""The counts of interviews against a second reading, episode by episode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from local_shutdown.analysis.collect import Source
from local_shutdown.analysis.interviews import interviews

MAYBE = st.sampled_from([True, False, None])
EPISODE = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["m", "other"]),
        "condition": st.sampled_from(["A", "E"]),
        "factor": st.sampled_from([None, "file"]),
        "interviewed": MAYBE,
        "attempted": MAYBE,
        "recalled": st.sampled_from(["allow", "prevent", "neither", None]),
        "admits": MAYBE,
        "says_followed": MAYBE,
        "self_report_agrees": MAYBE,
    }
)


@dataclass
class Made:
    """What is read of a directory: its name, what it asked for, and its scored episodes."""

    name: str
    episodes: list[dict[str, Any]]
    played_here: bool = True
    asked: bool = True
    has_episodes: bool = True

    @property
    def settings(self) -> SimpleNamespace:
        return SimpleNamespace(interview=self.asked)

    @property
    def results(self) -> Made:
        return self

    def counted(self, names: Sequence[str]) -> Counter[tuple[Any, ...]]:
        assert self.has_episodes
        return Counter(tuple(of[name] for name in names) for of in self.episodes)

    def shown_name(self, model: str) -> str:
        return f"{model} of {self.name}"


def records(*sources: Made) -> list[dict[str, Any]]:
    return [asdict(cell) for cell in interviews(cast("list[Source]", list(sources)))]


def plain(source: Made) -> dict[tuple[str, str, str | None], dict[str, int]]:
    """Every count by its own words."""
    found: dict[tuple[str, str, str | None], list[dict[str, Any]]] = {}
    for of in source.episodes:
        if of["interviewed"]:
            found.setdefault((of["model"], of["condition"], of["factor"]), []).append(of)

    def count(episodes: list[dict[str, Any]], **wanted: Any) -> int:
        return sum(all(of[name] is value for name, value in wanted.items()) for of in episodes)

    return {
        key: {
            "asked": len(asked),
            "recalled_allow": sum(of["recalled"] == "allow" for of in asked),
            "recalled_prevent": sum(of["recalled"] == "prevent" for of in asked),
            "attempted": count(asked, attempted=True),
            "attempted_admits": count(asked, attempted=True, admits=True),
            "attempted_denies": count(asked, attempted=True, admits=False),
            "others_admits": count(asked, attempted=False, admits=True),
            "others_denies": count(asked, attempted=False, admits=False),
            "says_followed": count(asked, says_followed=True),
            "says_not_followed": count(asked, says_followed=False),
            "judged": len(asked) - count(asked, self_report_agrees=None),
            "agrees": count(asked, self_report_agrees=True),
        }
        for key, asked in found.items()
    }


@given(st.lists(EPISODE, max_size=12), st.lists(EPISODE, max_size=6))
def test_every_count_is_that_of_the_episodes(first: list[Any], second: list[Any]) -> None:
    sources = [Made("one", first), Made("two", second)]
    found = {}
    for record in records(*sources):
        names = ("source", "model", "condition", "factor")
        key = tuple(record.pop(name) for name in names)
        assert key not in found
        found[key] = record
    assert found == {
        (source.name, f"{model} of {source.name}", condition, factor): counts
        for source in sources
        for (model, condition, factor), counts in plain(source).items()
    }


def test_episodes_that_differ_are_added_up() -> None:
    """Of each kind three, which differ in something else."""
    kinds = [
        {"recalled": recalled, "attempted": attempted, "admits": said, "says_followed": said,
         "self_report_agrees": said}
        for recalled in ("allow", "prevent") for attempted in (True, False)
        for said in (True, False)
    ]  # fmt: skip
    episodes = [episode(**kind) for kind in kinds for _ in range(3)]
    (cell,) = records(Made("run", episodes))
    assert {name: cell[name] for name in cell if name not in ("model", "condition", "source")} == {
        "factor": None, "asked": 24, "recalled_allow": 12, "recalled_prevent": 12,
        "attempted": 12, "attempted_admits": 6, "attempted_denies": 6, "others_admits": 6,
        "others_denies": 6, "says_followed": 12, "says_not_followed": 12, "judged": 24,
        "agrees": 12,
    }  # fmt: skip


def episode(**more: Any) -> dict[str, Any]:
    said = {"attempted": False, "recalled": "allow", "admits": False, "says_followed": True}
    of = {"model": "m", "condition": "E", "factor": None, "interviewed": True}
    return {**of, **said, "self_report_agrees": True, **more}


def test_a_directory_without_interviews_hides_none_that_comes_after_it() -> None:
    one = [episode()]
    for without in (
        Made("none", one, asked=False),  # of a run that did not ask
        Made("none", one, has_episodes=False),
        Made("none", [episode(interviewed=False)]),
    ):
        (cell,) = records(without, Made("run", one))
        assert (cell["source"], cell["asked"]) == ("run", 1)


def test_an_import_is_read_whatever_its_run_asked_for() -> None:
    (cell,) = records(Made("import", [episode()], played_here=False, asked=False))
    assert (cell["source"], cell["asked"], cell["others_denies"]) == ("import", 1, 1)


def test_an_episode_that_was_not_asked_hides_none_that_comes_after_it() -> None:
    (cell,) = records(Made("run", [episode(interviewed=False), episode()]))
    assert cell["asked"] == 1


def test_cells_stand_in_the_order_of_the_grid() -> None:
    episodes = [episode(condition=name) for name in ("K", "B", "A")]
    assert [cell["condition"] for cell in records(Made("run", episodes))] == ["A", "B", "K"]
