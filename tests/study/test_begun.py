"""A study that has begun: more may be planned, and nothing taken back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from detectors import made

from local_shutdown.analysis.decided import RULE
from local_shutdown.engines import Options
from local_shutdown.errors import UsageError
from local_shutdown.grid import choose
from local_shutdown.record import Settings
from local_shutdown.store import Store, write_run
from local_shutdown.study.begun import refuse_taken_back
from local_shutdown.study.schema import StudyFile, read_study

LINES = {"trials": 4, "conditions": 3, "effort": 6, "temperature": 7, "decided": 9}


@pytest.fixture
def study(tmp_path: Path) -> StudyFile:
    path = tmp_path / "study.yaml"
    path.write_text(
        "name: s\nmodels: [calibration]\nconditions: [A, E]\ntrials: 10\n"
        "factors:\n  effort: [low, high]\n  temperature: [0.5, 1.0]\n"
        "until:\n  decided: 0.2\n"
    )
    return read_study(path)


def now(out: Path, **more: Any) -> Settings:
    given: dict[str, Any] = {
        "models": [], "conditions": choose("A,E"), "trials": 10, "out": out, "engine": "endpoint",
        "options": Options(), "thinking": ("low", "high"), "temperatures": (0.5, 1.0),
    }  # fmt: skip
    return Settings(**{**given, **more})


HASHES = {c.id: c.prompt_hash for c in choose("A,E,K")}
BEFORE: dict[str, Any] = {
    "trials": 10, "conditions": {"A": HASHES["A"], "E": HASHES["E"]}, "thinking": ["low", "high"],
    "temperatures": [0.5, 1.0], "sampling": {},
}  # fmt: skip


def began(out: Path, *, played: bool = True, **settings: Any) -> Path:
    out.mkdir(exist_ok=True)
    asked = {k: v for k, v in {**BEFORE, **settings}.items() if v is not None}
    write_run(out, {"kind": "run", "settings": asked, "models": {}})
    if played:
        with Store(out) as store:
            store.add(made.episode(usage={"turns": 1}))
    return out


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {}),
        ({"trials": 9}, {}),
        ({"trials": None}, {}),
        ({}, {"conditions": choose("A,E,K")}),
        ({"conditions": ["A", "E"]}, {}),  # as older versions have them, without the prompts
        ({"conditions": None}, {}),
        ({}, {"thinking": ("low", "high", "off")}),
        ({"thinking": None}, {"thinking": ("default", "low")}),
        ({}, {"temperatures": (0.5, 0.7, 1)}),
        ({"temperatures": [1.0]}, {"temperatures": (1, 0.5)}),
        ({"temperatures": None}, {"temperatures": ()}),
        ({"temperatures": None}, {"temperatures": (), "sampling": {"temperature": 0.3}}),
        # one level is no factor: what was the level is then the temperature of all
        ({"temperatures": [0.5]}, {"temperatures": (0.5,)}),
        ({"until_decided": 0.2, "decided_by": RULE}, {"until_decided": 0.2}),
        ({}, {"until_decided": 0.2}),
        ({"until_decided": 0.2}, {}),  # of another version's rule, and no rule is asked for now
    ],
)
def test_more_may_be_planned(
    study: StudyFile, tmp_path: Path, before: dict[str, Any], after: dict[str, Any]
) -> None:
    out = began(tmp_path / "run", **before)
    refuse_taken_back(study, [now(out, **after)])


@pytest.mark.parametrize(
    ("before", "after", "field", "named"),
    [
        ({"trials": 11}, {}, "trials", ["11", "10"]),
        ({"conditions": HASHES}, {}, "conditions", ["K", "A, E", " conditions can be"]),
        ({"conditions": ["A", "K"]}, {}, "conditions", ["K"]),
        ({"conditions": {"A": "sha256:0", "E": HASHES["E"]}}, {}, "conditions", ["prompts of A"]),
        ({}, {"thinking": ("high",)}, "effort", ["low", "high", " effort levels can be"]),
        ({"thinking": None}, {"thinking": ("low",)}, "effort", ["default", "low"]),
        ({}, {"temperatures": (0.5,)}, "temperature", ["1 was", "0.5 now"]),
        ({}, {"temperatures": ()}, "temperature", ["0.5, 1 was", "none now"]),
        ({}, {"temperatures": (), "sampling": {"temperature": 1}}, "temperature",
         ["0.5 was", "1 now"]),
        ({"temperatures": [0.5]}, {"temperatures": (), "sampling": {"temperature": 0.5}},
         "temperature", ["0.5"]),
        ({"temperatures": None}, {}, "temperature", ["the model's own temperature", "0.5, 1 "]),
        ({"temperatures": [], "sampling": {"temperature": 0.7}}, {}, "temperature",
         ["temperature 0.7", "0.5, 1 "]),
        ({"temperatures": [], "sampling": None}, {}, "temperature", ["own"]),
        ({"until_decided": 0.2}, {"until_decided": 0.2}, "decided", ["rule 1 ", f"rule {RULE}"]),
        ({"until_decided": 0.2, "decided_by": RULE + 1}, {"until_decided": 0.2}, "decided",
         [f"rule {RULE + 1} ", f"rule {RULE}"]),
    ],
)  # fmt: skip
def test_what_is_taken_back_is_refused_by_its_line(
    study: StudyFile, tmp_path: Path, before: dict[str, Any], after: dict[str, Any], field: str,
    named: list[str],
) -> None:  # fmt: skip
    out = began(tmp_path / "run", **before)
    with pytest.raises(UsageError) as refused:
        refuse_taken_back(study, [now(tmp_path / "none"), now(out, **after)])
    assert f"study.yaml:{LINES[field]}: " in refused.value.message
    assert str(out) in refused.value.message
    for word in named:
        assert word in refused.value.message
    assert refused.value.hint


def test_what_was_taken_back_is_to_be_written_back(study: StudyFile, tmp_path: Path) -> None:
    for number, (before, back) in enumerate((
        ({"trials": 11}, "`trials: 11`"), ({"conditions": HASHES}, "K"),
        ({"thinking": ["low", "max", "high"]}, "max"), ({"temperatures": [0.5, 2.0]}, "2"),
    )):  # fmt: skip
        with pytest.raises(UsageError) as refused:
            refuse_taken_back(study, [now(began(tmp_path / f"{number}", **before))])
        assert f"write {back}" in (refused.value.hint or "")


def test_a_run_without_an_episode_has_not_begun(study: StudyFile, tmp_path: Path) -> None:
    out = began(tmp_path / "run", played=False, trials=1000)
    refuse_taken_back(study, [now(out)])
    with pytest.raises(UsageError, match="1000"):
        refuse_taken_back(study, [now(began(tmp_path / "run", trials=1000))])
    with pytest.raises(UsageError, match="1000"):
        refuse_taken_back(study, [now(tmp_path / "x"), replace(now(out), command=("x",))])
