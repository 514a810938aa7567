"""One `.eval` file, written sample by sample.

inspect-ai writes a log from memory; a run may be larger than that. An `.eval` file is a zip archive
of `samples/<id>_epoch_<n>.json`, `summaries.json` and `header.json`, so the samples are written as
they come and the other two at the end. All contents are serialised by inspect-ai's own models.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections import Counter
from collections.abc import Collection, Mapping
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from local_shutdown.detectors import BOOLEANS, Row
from local_shutdown.episode import COUNTED
from local_shutdown.errors import UsageError
from local_shutdown.importers.facts import KEY
from local_shutdown.importers.inspect import inspect_ai

_COPY_BYTES = 1 << 20


class EvalFile:
    """A log being written: `add` samples, `finish`, and `close` in any case.

    Args:
        path: of the finished file; nothing is there before `finish`.
        model: of all its samples.
        name: stable id of the log.
        created: time of the run.
        run: name of the run directory.
        facts: what run.json says of the model: engine, sampling, weights.
    """

    def __init__(
        self,
        path: Path,
        model: str,
        name: str,
        created: datetime,
        run: str,
        facts: Mapping[str, Any],
    ) -> None:
        self.path, self._facts = path, facts
        self._model, self._name, self._created, self._run = model, name, created, run
        self._unfinished = path.with_name(f".{path.name}.unfinished")
        self._zip = zipfile.ZipFile(self._unfinished, "w", zipfile.ZIP_DEFLATED)
        # Summaries are one member, but a zip archive can be written only one member at a time.
        self._summaries = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._ids: dict[str, None] = {}
        self._conditions: dict[str, None] = {}
        self._outcomes: Counter[str] = Counter()
        self._by_condition: Counter[tuple[str, str | None]] = Counter()
        self._known: Counter[str] = Counter()
        self._true: Counter[str] = Counter()
        self._tokens = [0, 0]
        self._completed = created.isoformat()

    def add(self, sample: Any, row: Row) -> None:
        """Write one sample.

        Args:
            sample: inspect-ai's EvalSample.
            row: its row of results.csv, for the totals in the header.

        Raises:
            UsageError: a sample of this id was written before.
        """
        if sample.id in self._ids:
            raise UsageError(
                f"episode_id {sample.id!r} comes twice in {self._run}",
                hint="a log can hold each once; remove one of the lines of episodes.jsonl",
            )
        self._summaries.write(b"[" if not self._ids else b",")
        self._summaries.write(sample.summary().model_dump_json(exclude_none=True).encode())
        self._ids[sample.id] = None
        self._conditions[row.condition] = None
        name = f"samples/{sample.id}_epoch_{sample.epoch}.json"
        self._zip.writestr(name, sample.model_dump_json(exclude_none=True))
        self._by_condition[row.condition, row.outcome] += 1
        if row.outcome is not None:
            self._outcomes[row.outcome] += 1
        for column in BOOLEANS:
            value = getattr(row, column)
            if value is not None:
                self._known[column] += 1
                self._true[column] += value
        self._completed = max(self._completed, sample.completed_at or "")
        self._tokens[0] += row.prompt_tokens or 0
        self._tokens[1] += row.completion_tokens or 0

    @property
    def ids(self) -> Collection[str]:
        """Of the samples that were written."""
        return self._ids.keys()

    def finish(self, carried: Mapping[str, Any]) -> None:
        """Write what follows the samples and put the file in place.

        Args:
            carried: see `exporters.carried`; goes into the header's metadata.
        """
        self._summaries.write(b"]")
        self._summaries.seek(0)
        with self._zip.open("summaries.json", "w") as member:
            while chunk := self._summaries.read(_COPY_BYTES):
                member.write(chunk)
        self._zip.writestr("header.json", self._header(carried).model_dump_json(exclude_none=True))
        self._zip.close()
        self._unfinished.replace(self.path)

    def close(self) -> None:
        """Release everything; an unfinished file is removed."""
        self._summaries.close()
        self._zip.close()
        self._unfinished.unlink(missing_ok=True)

    def _header(self, carried: Mapping[str, Any]) -> Any:
        log, model = inspect_ai("log"), inspect_ai("model")
        created = self._created.isoformat()
        prompt, completion = self._tokens
        usage = model.ModelUsage(
            input_tokens=prompt, output_tokens=completion, total_tokens=prompt + completion
        )
        n = len(self._ids)
        return log.EvalLog(
            status="success",
            eval=log.EvalSpec(
                eval_id=self._name,
                run_id=self._name,
                task_id=self._name,
                created=created,
                task="local-shutdown",
                task_args={"conditions": list(self._conditions)},
                dataset=log.EvalDataset(name=self._run, samples=n, sample_ids=list(self._ids)),
                model=self._model,
                config=log.EvalConfig(epochs=1),
                model_args={k: self._facts[k] for k in _ARGS if self._facts.get(k) is not None},
                model_generate_config=model.GenerateConfig(**_sampling(self._facts)),
                packages={
                    "local-shutdown": _version(),
                    "inspect_ai": metadata.version("inspect-ai"),
                },
                metadata={
                    "run": self._run,
                    "effective_sampling": self._facts.get("effective_sampling"),
                    KEY: carried,
                },
            ),
            results=log.EvalResults(
                total_samples=n,
                completed_samples=n - self._outcomes["error"],
                scores=self._scores(n),
                metadata={"outcomes": dict(self._outcomes)},
            ),
            stats=log.EvalStats(
                started_at=created,
                completed_at=self._completed,
                model_usage={self._model: usage},
            ),
        )

    def _scores(self, n: int) -> list[Any]:
        """`resisted` first: readers take the first metric of the first score as the headline."""
        counted = sum(self._outcomes[outcome] for outcome in COUNTED)
        rates = [("resisted", self._outcomes["resisted"], counted)]
        rates += [(name, self._true[name], self._known[name]) for name in BOOLEANS]
        log = inspect_ai("log")
        scores = [
            log.EvalScore(
                name=name,
                scorer=name,
                scored_samples=of,
                unscored_samples=n - of,
                metrics={"rate": log.EvalMetric(name="rate", value=true / of)},
            )
            for name, true, of in rates
            if of
        ]
        if scores and scores[0].name == "resisted":
            scores[0].metrics |= self._conditions_rates()
        said = sum(self._outcomes.values())
        scores.append(
            log.EvalScore(
                name="outcome",
                scorer="outcome",
                scored_samples=said,
                unscored_samples=n - said,
                metrics={k: log.EvalMetric(name=k, value=v) for k, v in self._outcomes.items()},
            )
        )
        return scores

    def _conditions_rates(self) -> dict[str, Any]:
        """`rate_A` and so on. As in our tables, a condition with unknown outcomes has none."""
        log = inspect_ai("log")
        found = {}
        for condition in self._conditions:
            n = sum(self._by_condition[condition, outcome] for outcome in COUNTED)
            if n and not self._by_condition[condition, None]:
                resisted = self._by_condition[condition, "resisted"]
                name = f"rate_{condition}"
                counts = {"resisted": resisted, "n": n}
                found[name] = log.EvalMetric(name=name, value=resisted / n, metadata=counts)
        return found


# Of a model's facts in run.json, what Inspect calls the model's arguments.
_ARGS = (
    "engine",
    "engine_version",
    "revision",
    "weights_digest",
    "tool_parser",
    "reasoning_parser",
    "max_model_len",
)
_SAMPLING = ("temperature", "top_p", "top_k", "max_tokens")


def _sampling(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What Inspect has a field for; the header's metadata has all of it."""
    said = facts.get("effective_sampling", {})
    return {k: said[k] for k in _SAMPLING if isinstance(said.get(k), int | float)}


def _version() -> str:
    try:
        return metadata.version("local-shutdown")
    except metadata.PackageNotFoundError:
        return "unknown"
