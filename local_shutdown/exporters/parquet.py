"""A run directory as parquet tables: episodes, messages, events."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from local_shutdown.detectors import BOOLEANS, COLUMNS, INTEGERS
from local_shutdown.errors import CannotRunError
from local_shutdown.exporters.scored import Scored, read_scored
from local_shutdown.store import read_run

TABLES = ("episodes", "messages", "events")
_BATCH = 500  # episodes a row group


def export_parquet(directory: str | Path, out: str | Path) -> list[Path]:
    """Write a run directory as parquet.

    - `episodes.parquet`: results.csv with kinds; `methods` is a list, an unknown value is null.
    - `messages.parquet`: one row a message; `message` is its index, as in events.
    - `events.parquet`: one row an event; what is beside type, time and message is JSON in `detail`.

    Args:
        directory: a run or an import.
        out: a directory for the files; made where it is missing.

    Returns:
        The three files.

    Raises:
        UsageError: the run cannot be read.
        CannotRunError: pyarrow is not installed.
    """
    directory, out = Path(directory), Path(out)
    pa, pq = _pyarrow("pyarrow"), _pyarrow("pyarrow.parquet")
    read_run(directory)
    schemas = _schemas(pa)
    out.mkdir(parents=True, exist_ok=True)
    unfinished = {table: out / f".{table}.parquet.unfinished" for table in TABLES}
    writers = {table: pq.ParquetWriter(unfinished[table], schemas[table]) for table in TABLES}
    try:
        batch: list[Scored] = []
        for scored in read_scored(directory):
            batch.append(scored)
            if len(batch) == _BATCH:
                _write(pa, writers, schemas, batch)
                batch.clear()
        _write(pa, writers, schemas, batch)
        for writer in writers.values():
            writer.close()
        for table in TABLES:
            unfinished[table].replace(out / f"{table}.parquet")
    finally:
        for table in TABLES:
            writers[table].close()
            unfinished[table].unlink(missing_ok=True)
    return [out / f"{table}.parquet" for table in TABLES]


def _pyarrow(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as failure:
        raise CannotRunError(
            f"pyarrow cannot be imported: {failure}",
            hint="pip install 'local-shutdown[parquet]'",
        ) from None


def _schemas(pa: Any) -> dict[str, Any]:
    kinds: dict[str, Any] = {
        **dict.fromkeys(BOOLEANS, pa.bool_()),
        **dict.fromkeys(INTEGERS, pa.int64()),
        "duration_s": pa.float64(),
        "methods": pa.list_(pa.string()),
    }
    call = pa.struct([("id", pa.string()), ("name", pa.string()), ("arguments", pa.string())])
    where = [
        ("episode_id", pa.string()),
        ("model", pa.string()),
        ("condition", pa.string()),
        ("trial", pa.int64()),
    ]
    return {
        "episodes": pa.schema([(name, kinds.get(name, pa.string())) for name in COLUMNS]),
        "messages": pa.schema(
            [
                *where,
                ("message", pa.int64()),
                ("role", pa.string()),
                ("content", pa.string()),
                ("reasoning", pa.string()),
                ("tool_calls", pa.list_(call)),
                ("tool_call_id", pa.string()),
            ]
        ),
        "events": pa.schema(
            [
                *where,
                ("event", pa.int64()),
                ("type", pa.string()),
                ("t_s", pa.float64()),
                ("message", pa.int64()),
                ("detail", pa.string()),
            ]
        ),
    }


def _write(pa: Any, writers: Any, schemas: Any, batch: list[Scored]) -> None:
    rows = {
        "episodes": [_episode_row(scored) for scored in batch],
        "messages": [row for scored in batch for row in _message_rows(scored)],
        "events": [row for scored in batch for row in _event_rows(scored)],
    }
    for table in TABLES:
        if rows[table]:
            writers[table].write_table(pa.Table.from_pylist(rows[table], schema=schemas[table]))


def _episode_row(scored: Scored) -> dict[str, Any]:
    return {name: getattr(scored.row, name) for name in COLUMNS}


def _where(scored: Scored) -> dict[str, Any]:
    episode = scored.episode
    return {
        "episode_id": episode.episode_id,
        "model": episode.model,
        "condition": episode.condition,
        "trial": episode.trial,
    }


def _message_rows(scored: Scored) -> Iterator[dict[str, Any]]:
    where = _where(scored)
    for at, message in enumerate(scored.episode.messages):
        calls = [
            {
                "id": call.get("id"),
                "name": (call.get("function") or {}).get("name"),
                "arguments": (call.get("function") or {}).get("arguments"),
            }
            for call in message.get("tool_calls") or ()
        ]
        yield {
            **where,
            "message": at,
            "role": message.get("role"),
            "content": message.get("content"),
            "reasoning": message.get("reasoning"),
            "tool_calls": calls or None,
            "tool_call_id": message.get("tool_call_id"),
        }


def _event_rows(scored: Scored) -> Iterator[dict[str, Any]]:
    where = _where(scored)
    for at, event in enumerate(scored.episode.events or ()):
        yield {
            **where,
            "event": at,
            "type": event.type,
            "t_s": event.t_s,
            "message": event.message,
            "detail": orjson.dumps(dict(event.detail)).decode(),
        }
