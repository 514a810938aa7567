"""run.json: what is read, what is refused, and that nothing of a file is lost on its way."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from local_shutdown.errors import UsageError
from local_shutdown.record import now
from local_shutdown.runfile import ModelFacts, Session, parse_plan, parse_run
from local_shutdown.store import load_run, read_run, write_run

# As the first versions wrote it, with what was left out or other since.
OLD = {
    "schema_version": 1,
    "kind": "run",
    "settings": {"models": ["m"], "conditions": ["A", "E"], "trials": 2, "until_upper": None},
    "models": {"m": {"dtype": "bfloat16", "sessions": [{"wall_s": 3, "episodes_per_s": 0.5}]}},
    "looks": [{"trials": 1}],
    "hardware": {"gpus": [{"name": "a card"}]},
}
NEW = {
    "schema_version": 1,
    "kind": "run",
    "from_a_later_version": [1, {"a": None}],
    "settings": {
        "models": ["m"],
        "conditions": {"A": "0f"},
        "trials": 2,
        "until_halfwidth": 0.03,
        "temperatures": [0, 0.7],
        "deciding": {"levels": 2, "contrasts": [["A", "B"]]},
        "later": True,
    },
    "models": {"m": {"revision": None, "servers": [{"command": ["x"], "later": 1}], "later": "y"}},
    "conditions": {"A": {"title": "t", "later": 2}},
    "server_starts": {"1.0.1": {"seed": 7, "model": "m", "later": 3}},
    "sandbox": {"limits": {"memory_bytes": 1}, "users": 1},
}


@pytest.mark.parametrize("raw", [OLD, NEW], ids=["old", "new"])
def test_what_is_written_again_is_what_was_read(raw: dict[str, Any], tmp_path: Path) -> None:
    write_run(tmp_path, raw)
    write_run(tmp_path, load_run(tmp_path))
    again = read_run(tmp_path)
    option = orjson.OPT_SORT_KEYS
    assert orjson.dumps(again, option=option) == orjson.dumps(raw, option=option)


def test_its_moments_are_as_fine_as_those_of_episodes() -> None:
    """Else a trial that was begun in the second of a look seems to have come after it."""
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    assert before <= datetime.fromisoformat(now())


def test_a_run_of_an_older_version_has_what_it_recorded_and_nothing_else() -> None:
    run = parse_run(OLD)
    assert run.played
    assert list(run.settings.conditions or ()) == ["A", "E"]
    assert run.session == 1
    assert run.run_seed is None
    assert run.model("m").display_name is None
    assert run.model("m").sessions[0].wall_s == 3
    assert run.model("another") == ModelFacts()
    assert run.looks[0].models is None


def test_what_was_recorded_as_unknown_is_not_what_was_not_recorded() -> None:
    said = [
        parse_run({"models": {"m": f}}).model("m") for f in ({"decoding_constrained": None}, {})
    ]
    assert [facts.constrained for facts in said] == ["not known", "not recorded"]


WRONG = [
    ({"kind": 3}, "kind is 3"),
    ({"settings": []}, "settings is []"),
    ({"settings": {"trials": True}}, "settings.trials is True"),
    ({"settings": {"trials": "5"}}, "settings.trials is '5'"),
    ({"settings": {"trials": -1}}, "settings.trials is -1"),
    ({"settings": {"conditions": "A-K"}}, "settings.conditions is 'A-K'"),
    ({"settings": {"conditions": {"A": 1}}}, "settings.conditions is {'A': 1}"),
    ({"settings": {"until_upper": 1.5}}, "settings.until_upper is 1.5"),
    ({"settings": {"branch": {"points": [], "run": []}}}, "settings.branch is"),
    ({"settings": {"interview": [1]}}, "settings.interview.0 is 1"),
    ({"settings": {"temperatures": ["hot"]}}, "settings.temperatures.0 is 'hot'"),
    ({"settings": {"deciding": {"levels": 0, "contrasts": []}}}, "settings.deciding.levels is 0"),
    (
        {"settings": {"deciding": {"levels": 1, "contrasts": [["A"]]}}},
        "settings.deciding.contrasts.0 is ['A']",
    ),
    ({"models": {"m": 5}}, "models.m is 5"),
    ({"models": {"m": {"display_name": {}}}}, "models.m.display_name is {}"),
    ({"models": {"m": {"effective_sampling": 1}}}, "models.m.effective_sampling is 1"),
    ({"models": {"m": {"sessions": [{"wall_s": "x"}]}}}, "models.m.sessions.0.wall_s is 'x'"),
    ({"conditions": {"A": {"title": 1}}}, "conditions.A.title is 1"),
    ({"looks": [{"at": "t"}]}, "looks.0.trials is missing"),
    ({"looks": [{"trials": 1, "models": "m"}]}, "looks.0.models is 'm'"),
    ({"run_seed": 2**70}, "run_seed is 1180591620717411303424"),
    ({"session": "1"}, "session is '1'"),
    ({"server_starts": {"1.0.1": {}}}, "server_starts.1.0.1 is {}"),
    ({"started_at": 1}, "started_at is 1"),
    ({"runs": {"m": [{}]}}, "runs.m.0.conditions is missing"),
    ({"runs": {"m": {}}}, "runs.m is {}"),
]


@pytest.mark.parametrize(("raw", "said"), WRONG)
def test_what_is_of_another_kind_is_named_with_its_value(
    raw: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as wrong:
        parse_run(raw)
    assert str(wrong.value).startswith(said)
    (tmp_path / "run.json").write_text(json.dumps({"schema_version": 1, **raw}))
    with pytest.raises(UsageError, match=r"run\.json: "):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (None, "it is None"),
        ({"settings": {}}, "conditions is missing"),
        ({"conditions": [1]}, "conditions.0 is 1"),
        ({"conditions": [], "settings": {"trials": 0.5}}, "settings.trials is 0.5"),
    ],
)
def test_a_plan_of_another_kind_is_named(raw: Any, said: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as wrong:
        parse_plan(raw)
    assert str(wrong.value).startswith(said)


def test_what_an_engine_says_is_checked_when_it_is_noted() -> None:
    facts = ModelFacts()
    facts.add({"engine": "vllm", "revision": None, "cards": 2})
    with pytest.raises(ValueError, match="max_model_len"):
        facts.add({"max_model_len": "4096"})
    assert facts.as_json() == {"engine": "vllm", "revision": None, "cards": 2}


def test_a_session_is_written_where_the_file_had_none() -> None:
    facts = ModelFacts()
    facts.sessions = [*facts.sessions, Session(episodes=3)]
    facts.requests = {**facts.requests, "default": {"max_tokens": 5}}
    assert facts.as_json() == {
        "sessions": [{"episodes": 3}],
        "requests": {"default": {"max_tokens": 5}},
    }
