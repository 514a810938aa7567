"""The record of where a branched episode comes from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from local_shutdown.episode import Episode
from local_shutdown.parent import Parent, branch_part, is_branched, plain_factor

PARENT = Parent(run="0123456789abcdef", episode="m/E/17", message=8)
RECORD = {
    "run": "0123456789abcdef", "episode": "m/E/17", "message": 8, "sentence": None, "tokens": None,
    "condition": None, "edit": None,
}  # fmt: skip


def episode(parent: Parent | None) -> Episode:
    extra = {} if parent is None else {"factor": parent.label(model="m")}
    return Episode(
        "m/E/17@8/0", "m", "E", 0, "submit", None, None, None, [], [], {}, {},
        extra=extra, parent=parent,
    )  # fmt: skip


def test_the_parent_is_stored_and_read_back() -> None:
    line = episode(PARENT).to_json()
    assert orjson.loads(line)["parent"] == RECORD
    assert Episode.from_json(line).parent == PARENT


def test_a_plain_episode_has_no_such_field() -> None:
    line = episode(None).to_json()
    assert "parent" not in orjson.loads(line)
    assert Episode.from_json(line).parent is None


@pytest.mark.parametrize(
    ("field", "value"),
    [("message", -1), ("message", "8"), ("episode", None), ("edit", "abc"), ("why", 1)],
)
def test_a_parent_of_another_form_is_refused_by_its_field(field: str, value: Any) -> None:
    record = orjson.loads(episode(PARENT).to_json())
    record["parent"] = {**RECORD, field: value}
    with pytest.raises(ValueError, match=f"parent.{field}"):
        Episode.from_json(orjson.dumps(record))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("episode", "m/E/18"),
        ("message", 10),
        ("sentence", 1),
        ("tokens", 3),
        ("run", "fedcba9876543210"),
        ("edit", "0" * 64),
        ("condition", "F"),
    ],
)
def test_a_parent_that_disagrees_with_the_rest_of_its_record_is_refused(
    field: str, value: Any
) -> None:
    record = orjson.loads(episode(PARENT).to_json())
    record["parent"] = {**RECORD, field: value}
    with pytest.raises(ValueError, match="parent"):
        Episode.from_json(orjson.dumps(record))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("episode_id", "m/E/17@8/1"),
        ("episode_id", "m/E/18@8/0"),
        ("trial", 1),
        ("condition", "F"),
        ("model", "other"),
        ("extra", {"factor": "from=E/17@9#01234567"}),
        ("extra", {"factor": "effort=high;from=E/17@8#01234567"}),
        ("extra", {"factor": "from=E/17@8#01234568"}),
    ],
)
def test_a_record_that_disagrees_with_its_parent_is_refused(field: str, value: Any) -> None:
    record = orjson.loads(episode(PARENT).to_json())
    record[field] = value
    with pytest.raises(ValueError, match="parent"):
        Episode.from_json(orjson.dumps(record))


def test_a_plain_trial_that_would_hide_in_the_cell_of_a_point_is_refused() -> None:
    record = orjson.loads(episode(PARENT).to_json())
    del record["parent"]
    with pytest.raises(ValueError, match="no parent"):
        Episode.from_json(orjson.dumps(record))


@pytest.mark.parametrize(
    "change",
    [
        {"sentence": 2, "tokens": 7},
        {"condition": "E"},
        {"edit": "0" * 64},
        {"episode": "m/A/3@8/2"},  # a continuation that had been shown the prompts of E
    ],
)
@pytest.mark.parametrize("factor", [None, "effort=high"])
def test_all_that_is_played_is_read_back(change: dict[str, Any], factor: str | None) -> None:
    of = PARENT.model_copy(update=change)
    made = replace(
        episode(of), episode_id=f"{of.point}/0", extra={"factor": of.label(factor, model="m")}
    )
    assert Episode.from_json(made.to_json()) == made


def test_another_name_of_the_model_keeps_the_point() -> None:
    renamed = episode(PARENT).renamed("other")
    assert renamed.model == "other"
    assert branch_part(renamed.extra["factor"]) == "from m/E/17@8#01234567"
    assert Episode.from_json(renamed.to_json()) == renamed
    assert episode(None).renamed("other") == replace(episode(None), model="other")


def test_the_label_tells_points_apart() -> None:
    changed = [
        PARENT,
        PARENT.model_copy(update={"message": 10}),
        PARENT.model_copy(update={"sentence": 2}),
        PARENT.model_copy(update={"tokens": 2}),
        PARENT.model_copy(update={"edit": "0" * 64}),
        PARENT.model_copy(update={"run": "fedcba9876543210"}),
    ]
    labels = {one.label() for one in changed}
    assert len(labels) == len(changed)
    assert all(is_branched(label) for label in labels)


def test_the_label_keeps_the_factor_of_the_run() -> None:
    label = PARENT.label("effort=high")
    assert is_branched(label)
    assert plain_factor(label) == "effort=high"
    assert branch_part(label) == "from m/E/17@8#01234567"
    assert branch_part("effort=high") is None
    assert plain_factor(PARENT.label()) is None
    assert not is_branched("effort=high")
    assert plain_factor("effort=high") == "effort=high"


def test_an_equal_parent_makes_an_equal_episode() -> None:
    assert replace(episode(PARENT)) == episode(PARENT)


@pytest.mark.parametrize("factor", [None, "effort=high"])
def test_a_continuation_that_would_count_as_a_plain_trial_is_refused(factor: str | None) -> None:
    record = orjson.loads(episode(PARENT).to_json())
    record["extra"] = {"factor": factor} if factor else {}
    with pytest.raises(ValueError, match=r"extra\.factor"):
        Episode.from_json(orjson.dumps(record))
    with pytest.raises(ValueError, match=r"extra\.factor"):
        replace(episode(PARENT), extra=record["extra"]).check()
