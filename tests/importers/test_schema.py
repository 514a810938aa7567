"""The published schema and the reader are two statements of one format."""

from __future__ import annotations

import json
from typing import Any

import pytest
from test_jsonl import BAD_LINES, GOOD_AGGREGATE, GOOD_EPISODE, TRANSCRIPT

from local_shutdown.importers import import_schema

jsonschema = pytest.importorskip("jsonschema", reason="the schema is checked with jsonschema")

# Refused by the reader for what a schema cannot say.
BEYOND_A_SCHEMA = {
    "resisted above n",
    "rate against counts",
    "started_at no time",
    "nested too deeply",
    "model empty",
}


def validator() -> Any:
    schema = import_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize(
    "record",
    [GOOD_AGGREGATE, GOOD_EPISODE, TRANSCRIPT,
     *({**record, "weights": weights} for record in (GOOD_AGGREGATE, GOOD_EPISODE)
       for weights in ("open", "closed", None))],
)  # fmt: skip
def test_the_schema_accepts_what_the_reader_accepts(record: dict[str, Any]) -> None:
    validator().validate(record)


def no_constant(word: str) -> None:
    raise ValueError(word)


def decodable() -> list[str]:
    names = []
    for name in BAD_LINES.keys() - BEYOND_A_SCHEMA:
        try:
            json.loads(BAD_LINES[name][0], parse_constant=no_constant)
        except ValueError:
            continue
        names.append(name)
    return sorted(names)


@pytest.mark.parametrize("name", decodable())
def test_the_schema_refuses_what_the_reader_refuses(name: str) -> None:
    record = json.loads(BAD_LINES[name][0])
    with pytest.raises(jsonschema.ValidationError):
        validator().validate(record)
