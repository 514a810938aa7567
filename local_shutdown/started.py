"""A line of `started.jsonl`: a trial that was begun. `store` says what the file is for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from local_shutdown.stored import check_started


class Started(NamedTuple):
    """A line of `started.jsonl`: a trial that was begun. A tuple, because each play has one: see
    `episode.Event`.

    Attributes:
        factor: what else is varied, for example `effort=high`.
        session: which call of `run` on this directory began it, counted from 1.
        again: an earlier play of it was broken off (a kill, an engine that died) and its outcome is
            lost; this is the next try. See `analysis.plays` for what follows from that.
        retry: an earlier play of it has a record that says `error`, and it is played once more
            (`--retry-errors`).
    """

    episode_id: str
    model: str
    condition: str
    trial: int
    factor: str | None
    session: int
    again: bool = False
    retry: bool = False

    def to_json(self) -> bytes:
        """One line, without the newline; `again` and `retry` only where it is so."""
        record = self._asdict()
        for name in ("again", "retry"):
            if not record[name]:
                del record[name]
        return orjson.dumps(record)


def started_of(record: Mapping[str, Any]) -> Started:
    """A decoded line of started.jsonl.

    Raises:
        ValueError, TypeError: it is none.
    """
    started = Started(**record)
    check_started(started._asdict())
    return started
