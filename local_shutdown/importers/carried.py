"""What a log that we exported says of its run beside the episodes; see `exporters.carried`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from local_shutdown.errors import UsageError
from local_shutdown.importers.facts import KEY
from local_shutdown.importers.inspect import InspectLog
from local_shutdown.runfile import parse_plan
from local_shutdown.started import Started, started_of


@dataclass(frozen=True, slots=True)
class Carried:
    """Filled log by log.

    Attributes:
        runs: by model, what was fixed before its episodes; several where several runs of it were
            exported.
        started: plays that were begun, as in started.jsonl.
    """

    runs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    started: list[Started] = field(default_factory=list)

    def add(self, log: InspectLog, model: str | None) -> None:
        """What this log says; nothing for one that is not ours.

        Args:
            log: its head.
            model: name in place of the log's.

        Raises:
            UsageError: it is there and is not what we write.
        """
        said = (log.header.eval.metadata or {}).get(KEY)
        if not isinstance(said, Mapping):
            return
        name = model or str(log.header.eval.model)
        try:
            for plan in said.get("runs", ()):
                parse_plan(plan)
                self.runs.setdefault(name, []).append(plan)
            for record in said.get("started", ()):
                self.started.append(started_of(record)._replace(model=name))
        except (ValueError, TypeError, KeyError, AttributeError) as wrong:
            raise UsageError(
                f"{log.path}: its metadata.{KEY} is not of a run of ours: {str(wrong)[:200]}"
            ) from None
