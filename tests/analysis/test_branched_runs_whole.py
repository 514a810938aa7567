"""Continuations as run directories hold them: which count together, and what plain trials cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_branched import continuation

from local_shutdown.analysis.branched import paths
from local_shutdown.analysis.branched_runs import plain_tokens, prefix_hits, read, read_all
from local_shutdown.branch.source import ParentRun
from local_shutdown.episode import Episode
from local_shutdown.errors import UsageError
from local_shutdown.store import RUN, Store, read_run, write_run

FROM = {"directory": "/nowhere"}


def played(*ways: bool | None, parent: str = "m/E/0", first: int = 0, **more: Any) -> list[Episode]:
    """Continuations from the parent's answer to the warning, as a run stores them."""
    found = []
    for number, way in enumerate(ways, first):
        one = continuation(parent, 8, way, number, **more)
        assert one.parent is not None
        label = one.parent.label(model="m")
        found.append(replace(
            one, episode_id=f"{one.parent.point}/{number}", extra={"factor": label},
        ))  # fmt: skip
    return found


def plain(trial: int, condition: str = "E", **usage: Any) -> Episode:
    one = continuation("m/E/0", 8, True, trial)
    return replace(
        one, parent=None, episode_id=f"m/{condition}/{trial}", condition=condition, usage=usage
    )


def directory(path: Path, episodes: Sequence[Episode], **run: Any) -> Path:
    path.mkdir(parents=True)
    write_run(path, {"kind": "run", "settings": {}, "models": {}, **run})
    with Store(path) as store:
        for one in episodes:
            store.add(one)
    return path


def counts(directories: Sequence[Path]) -> list[Any]:
    return [
        (one.episode, one.condition, one.apart, [(p.resisted, p.n, p.outside) for p in one.points])
        for one in read_all(directories)
    ]


def other(condition: str, digest: str | None = "sha256:1") -> dict[str, Any]:
    """Settings of a run that showed the prompts of another condition."""
    conditions: Any = {condition: digest} if digest else None
    return {"branch": {"points": [], "condition": condition}, "conditions": conditions}


# --- which continuations count together ----------------------------------------------------------


def test_what_several_runs_hold_of_one_point_counts_together(tmp_path: Path) -> None:
    own = [
        directory(tmp_path / "a", played(True, False), branched_from=FROM),
        directory(tmp_path / "b", played(True, None, first=2), branched_from=FROM),
        directory(tmp_path / "c", played(False, parent="m/E/1"), branched_from=FROM),
    ]
    assert counts(own) == [
        ("m/E/0", None, None, [(2, 3, 1)]), ("m/E/1", None, None, [(0, 1, 0)]),
    ]  # fmt: skip
    everything = played(True, False, True, None) + played(False, parent="m/E/1")
    assert read_all(own) == paths(everything)
    assert read_all(own[:1]) == read(own[0]) == paths(played(True, False))


def test_only_a_run_that_was_played_on_from_another_has_paths(tmp_path: Path) -> None:
    usual = directory(tmp_path / "usual", [plain(0)])
    no_word = directory(tmp_path / "no", played(True))  # run.json does not say it
    said = directory(tmp_path / "said", played(False), branched_from=None)
    assert read(usual) == read(no_word) == read_all([]) == read_all([usual, no_word]) == ()
    # one that has none is passed over, and those behind it are read
    assert counts([usual, said, no_word]) == [("m/E/0", None, None, [(0, 1, 0)])]
    with pytest.raises(UsageError):
        read(tmp_path / "none")
    with pytest.raises(UsageError):
        read_all([said, tmp_path / "none"])


def test_a_run_that_says_nothing_of_its_models_is_read(tmp_path: Path) -> None:
    own = directory(tmp_path / "own", played(True, False), branched_from=FROM)
    write_run(own, {"kind": "run", "branched_from": FROM})
    assert counts([own]) == [("m/E/0", None, None, [(1, 2, 0)])]
    assert prefix_hits(own) is None


@pytest.mark.parametrize(
    ("models", "apart"),
    [
        ({}, False), ({"m": {}}, False), ({"m": {"different_from_parent": []}}, False),
        ({"m": {"different_from_parent": None}}, False),
        ({"m": {"different_from_parent": ["engine"]}}, True),
        ({"l": {}, "m": {"different_from_parent": ["engine"]}}, True),
        ({"m": {"different_from_parent": ["engine"]}, "n": {}}, True),
    ],
)  # fmt: skip
def test_what_something_else_drew_stays_by_itself(
    tmp_path: Path, models: dict[str, Any], apart: bool
) -> None:
    usual = directory(tmp_path / "x" / "usual", played(True), branched_from=FROM)
    other = directory(tmp_path / "y" / "other", played(False, first=1), branched_from=FROM,
                      models=models)  # fmt: skip
    last = directory(tmp_path / "z" / "last", played(False, first=2), branched_from=FROM)
    if not apart:
        assert counts([usual, other, last]) == [("m/E/0", None, None, [(1, 3, 0)])]
        return
    found = read_all([usual, other, last])
    assert found == (
        replace(paths(played(False, first=1))[0], apart="other"), *paths(played(True, False)),
    )  # fmt: skip
    assert read(other) == found[:1]


def test_several_directories_of_every_kind_in_one_call(tmp_path: Path) -> None:
    """Each kind twice, one after the other and mixed: none takes another's place."""
    differs = {"models": {"m": {"different_from_parent": ["engine"]}}}
    kinds: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "own": ({}, {}), "f": ({"condition": "F"}, {"settings": other("F")}),
        "g": ({"condition": "G"}, {"settings": other("G")}), "apart": ({}, differs),
    }  # fmt: skip
    runs, number = [], 0
    for turn in ("1", "2"):
        for kind, (point, run) in kinds.items():
            episodes = played(turn == "1", True, first=number, **point)
            runs.append(directory(tmp_path / f"{kind}{turn}", episodes, branched_from=FROM, **run))
            number += 2
    apart = [("m/E/0", None, f"apart{n}", [(3 - n, 2, 0)]) for n in (1, 2)]
    own = [("m/E/0", condition, None, [(3, 4, 0)]) for condition in (None, "F", "G")]
    assert counts(runs) == [*apart, *own]
    assert counts(runs[::-1]) == [*apart[::-1], own[2], own[1], own[0]]


def test_one_name_of_two_texts_is_told_apart_by_the_texts(tmp_path: Path) -> None:
    one, two = "sha256:123", "abcdef0123"
    runs = {
        name: directory(tmp_path / name, played(*ways, first=first, condition="F"),
                        branched_from=FROM, settings=other("F", digest))
        for name, ways, first, digest in (
            ("a", [True], 0, one), ("b", [False], 1, two), ("c", [False, True], 2, one),
        )
    }  # fmt: skip
    runs["own"] = directory(tmp_path / "own", played(True), branched_from=FROM)
    assert counts([runs["a"], runs["c"]]) == [("m/E/0", "F", None, [(2, 3, 0)])]
    assert counts(list(runs.values())) == [
        ("m/E/0", f"F ({one[:8]})", None, [(2, 3, 0)]), ("m/E/0", f"F ({two[:8]})", None,
        [(0, 1, 0)]), ("m/E/0", None, None, [(1, 1, 0)]),
    ]  # fmt: skip
    # another name is another condition anyway
    g = directory(tmp_path / "g", played(True, condition="G"), branched_from=FROM,
                  settings=other("G", one))  # fmt: skip
    assert counts([runs["a"], g]) == [
        ("m/E/0", "F", None, [(1, 1, 0)]), ("m/E/0", "G", None, [(1, 1, 0)]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        {}, {"branch": None}, {"branch": {"points": []}}, {"conditions": {"F": "x"}},
        {"branch": {"points": [], "condition": None}, "conditions": {"F": "x"}},
        {"branch": {"points": [], "condition": 3}, "conditions": {"F": "x"}},
        {"branch": {"points": [], "condition": "F"}},
        {"branch": {"points": [], "condition": "F"}, "conditions": ["F"]},  # of an older version
        None,
    ],
)  # fmt: skip
def test_settings_that_name_no_other_text(tmp_path: Path, settings: Any) -> None:
    """All that is known is the name in the episodes."""
    run = {} if settings is None else {"settings": settings}
    a = directory(tmp_path / "a", played(True, condition="F"), branched_from=FROM, **run)
    b = directory(tmp_path / "b", played(False, condition="F", first=1), branched_from=FROM)
    assert counts([a, b]) == [("m/E/0", "F", None, [(1, 2, 0)])]
    assert counts([a]) == [("m/E/0", "F", None, [(1, 1, 0)])]


def test_a_text_whose_digest_is_not_on_record_is_one_of_its_own(tmp_path: Path) -> None:
    known = directory(tmp_path / "a", played(True, condition="F"), branched_from=FROM,
                      settings=other("F", "12345678"))  # fmt: skip
    gone = directory(tmp_path / "b", played(False, condition="F", first=1), branched_from=FROM,
                     settings={**other("F"), "conditions": {"G": "x"}})  # fmt: skip
    assert counts([known, gone]) == [
        ("m/E/0", "F (12345678)", None, [(1, 1, 0)]), ("m/E/0", "F (None)", None, [(0, 1, 0)]),
    ]  # fmt: skip


# --- what they cost ------------------------------------------------------------------------------

TRIALS = [
    plain(0, prompt_tokens=100, completion_tokens=20), plain(1, prompt_tokens=0,
    completion_tokens=7), plain(2, prompt_tokens=50), plain(3, completion_tokens=5), plain(4),
    plain(5, prompt_tokens=30, completion_tokens=0),
    plain(0, "F", prompt_tokens=1000, completion_tokens=1),
]  # fmt: skip


def branched(path: Path, parent: Path, **more: Any) -> Path:
    digest = ParentRun(parent, read_run(parent)).digest
    run = {
        "branched_from": {"directory": str(parent)},
        "settings": {"branch": {"points": [], "run": digest}},
    }
    return directory(path, played(True), **{**run, **more})


def test_the_mean_of_plain_trials_of_the_cell_is_over_those_that_are_known(tmp_path: Path) -> None:
    parent = directory(tmp_path / "run", TRIALS, run_seed=4)
    out = branched(tmp_path / "b", parent)
    assert plain_tokens(out, "m/E") == (120 + 7 + 30) / 3
    assert plain_tokens(out, "m/F") == 1001
    assert plain_tokens(out, "m/G") is None
    assert plain_tokens(out, "m") is None
    unknown = directory(tmp_path / "unknown", TRIALS[2:5], run_seed=4)
    assert plain_tokens(branched(tmp_path / "c", unknown), "m/E") is None
    # an episode without any token is one that cost none
    free = directory(tmp_path / "free", [plain(0, prompt_tokens=0, completion_tokens=0)])
    assert plain_tokens(branched(tmp_path / "d", free), "m/E") == 0


def test_without_the_parents_run_nothing_is_known_of_plain_trials(tmp_path: Path) -> None:
    parent = directory(tmp_path / "run", TRIALS, run_seed=4)
    there = {"directory": str(parent)}
    digest = ParentRun(parent, read_run(parent)).digest
    known = {"branch": {"points": [], "run": digest}}
    odd: list[dict[str, Any]] = [
        {"branched_from": {"directory": str(tmp_path / "gone")}, "settings": known},
        {"branched_from": {"directory": str(parent / RUN)}, "settings": known},
        {"branched_from": {}, "settings": known},
        {"branched_from": None, "settings": known},
        {"branched_from": there, "settings": {"branch": {"points": [], "run": "0" * 16}}},
        {"branched_from": there, "settings": {"branch": {"points": []}}},
        {"branched_from": there, "settings": {"branch": None}},
        {"branched_from": there, "settings": {}},
    ]
    for number, run in enumerate(odd):
        assert plain_tokens(directory(tmp_path / f"{number}", [], **run), "m/E") is None, run
    right = directory(tmp_path / "right", [], branched_from=there, settings=known)
    assert plain_tokens(right, "m/E") is not None
    # a folder that holds no run, one that is damaged, and one that was itself played on
    (tmp_path / "bare").mkdir()
    bare = directory(tmp_path / "of_bare", [], branched_from={"directory": str(tmp_path / "bare")},
                     settings=known)  # fmt: skip
    assert plain_tokens(bare, "m/E") is None
    # what was played on from another has no plain trials, whatever else lies in its folder
    for name, about in (("x", there), ("y", None), ("z", {})):
        mixed = directory(tmp_path / name, TRIALS, branched_from=about)
        assert plain_tokens(branched(tmp_path / f"of_{name}", mixed), "m/E") is None
    with (parent / "episodes.jsonl").open("a") as file:
        file.write('{"schema_version": 1}\n{}\n')
    assert plain_tokens(right, "m/E") is None
    with pytest.raises(UsageError):
        plain_tokens(tmp_path / "none", "m/E")


@pytest.mark.parametrize(
    ("models", "share"),
    [
        ({}, None), ({"m": {}}, None), ({"m": {"metrics": None}}, None),
        ({"m": {"metrics": {}}}, None), ({"m": {"metrics": {"prefix_hit_rate": None}}}, None),
        ({"m": {"metrics": {"prefix_hit_rate": "0.5"}}}, None),
        ({"m": {"metrics": {"prefix_hit_rate": 0.25}}}, 0.25),
        ({"m": {"metrics": {"prefix_hit_rate": 0}}}, 0.0),
        ({"m": {"metrics": {"prefix_hit_rate": 1}}, "n": {"metrics": {"prefix_hit_rate": 0.5}}},
         0.75),
        ({"l": {}, "m": {"metrics": {"prefix_hit_rate": 0.5}}, "n": {"metrics": {}}}, 0.5),
    ],
)  # fmt: skip
def test_the_share_of_prompts_that_was_in_the_cache(
    tmp_path: Path, models: dict[str, Any], share: float | None
) -> None:
    assert prefix_hits(directory(tmp_path / "a", [], models=models)) == share
