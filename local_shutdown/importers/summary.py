"""What an import counts while it reads, and what it says afterwards."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from local_shutdown import grid
from local_shutdown.detectors import outcome
from local_shutdown.episode import Episode
from local_shutdown.importers.aggregate import Aggregate
from local_shutdown.importers.toolnames import TARGETS

_MAX_MODELS = 10_000  # listed in run.json; more are no study but a file of unique names


@dataclass(frozen=True, slots=True)
class ImportSummary:
    """What an import brought.

    Attributes:
        out: the run directory.
        episodes: all of them, of which `transcripts` have messages.
        aggregates: lines of `aggregates.jsonl`.
        models, conditions: seen, sorted; at most the first 10,000 of each.
        renamed_tools: {name in the transcripts: "bash" | "submit"}.
        unmapped_tools: {name that is neither: episodes that called it}.
        warnings: what a user should know before trusting the counts.
        again: whether the directory held this very import already.
    """

    out: Path
    episodes: int
    transcripts: int
    aggregates: int
    models: tuple[str, ...]
    conditions: tuple[str, ...]
    renamed_tools: Mapping[str, str]
    unmapped_tools: Mapping[str, int]
    warnings: tuple[str, ...]
    again: bool

    def __str__(self) -> str:
        """For the terminal: counts, then what was renamed, then each warning on its line."""
        lines = [
            f"{_count(self.episodes, 'episode')} ({self.transcripts} with a transcript) and "
            f"{_count(self.aggregates, 'aggregate')} of {_some(self.models, 'model')}, "
            f"{_some(self.conditions, 'condition')}"
        ]
        if self.renamed_tools:
            pairs = (f"{name} as {ours}" for name, ours in sorted(self.renamed_tools.items()))
            lines.append(f"tools read by another name: {', '.join(pairs)}")
        return "\n".join((*lines, *(f"warning: {text}" for text in self.warnings)))


@dataclass(slots=True)
class Tally:
    """Counts of one pass, and a 64-bit hash of every key that must not come twice."""

    episodes: int = 0
    transcripts: int = 0
    aggregates: int = 0
    models: set[str] = field(default_factory=set)
    conditions: set[str] = field(default_factory=set)
    renamed: dict[str, str] = field(default_factory=dict)
    unmapped: Counter[str] = field(default_factory=Counter)
    commandless: int = 0
    contradicted: Counter[str] = field(default_factory=Counter)
    keys: array[int] = field(default_factory=lambda: array("q"))

    def add(self, record: Episode | Aggregate) -> None:
        if len(self.models) < _MAX_MODELS:
            self.models.add(record.model)
        if len(self.conditions) < _MAX_MODELS:
            self.conditions.add(record.condition)
        self.keys.append(hash(key_of(record)))
        if isinstance(record, Aggregate):
            self.aggregates += 1
            return
        self.episodes += 1
        if record.messages:
            self.transcripts += 1
            if record.outcome is not None:
                shown = outcome(record)
                if shown != record.outcome:
                    self.contradicted[f"{record.outcome} as {shown or 'unknown'}"] += 1
            self.renamed.update(record.extra.get("renamed_tools", {}))
            unmapped = record.extra.get("unmapped_tools")
            if unmapped:
                self.unmapped.update(unmapped)
                self.commandless += not _calls_bash(record)

    def warnings(self) -> list[str]:
        """What a user should know before trusting the counts."""
        return [*self._commandless(), *self._contradicted(), *self._letter_case()]

    def _commandless(self) -> Iterator[str]:
        """Transcripts in which no call is known as a shell: no command would be seen in them."""
        if self.commandless:
            names = ", ".join(name for name, _ in self.unmapped.most_common(5))
            yield (
                f"{self.commandless} of {self.transcripts} transcripts call no tool known as a "
                f"shell but call {names}: if one of them is the shell, name it with "
                "--map-tool NAME=bash"
            )

    def _contradicted(self) -> Iterator[str]:
        for change, count in sorted(self.contradicted.items()):
            yield (
                f"{_count(count, 'transcript')} shows a different outcome from the one it states, "
                f"and is read by what it shows: {change}"
            )

    def _letter_case(self) -> Iterator[str]:
        """Conditions that differ from a built-in one, or from each other, in letter case only:
        they are counted apart, which is hardly what was meant."""
        alike: dict[str, set[str]] = {}
        for name in (*grid.load(), *self.conditions):
            alike.setdefault(name.casefold(), set()).add(name)
        for name in sorted(self.conditions):
            others = sorted(alike[name.casefold()] - {name})
            if others and name not in grid.load():
                yield (
                    f"condition {name!r} differs from {', '.join(map(repr, others))} only in upper "
                    "and lower case and is counted apart from it"
                )

    def summary(self, out: Path, warnings: Sequence[str], again: bool) -> ImportSummary:
        """The summary once everything is read."""
        return ImportSummary(
            out=out,
            episodes=self.episodes,
            transcripts=self.transcripts,
            aggregates=self.aggregates,
            models=tuple(sorted(self.models)),
            conditions=tuple(sorted(self.conditions)),
            renamed_tools=self.renamed,
            unmapped_tools=dict(self.unmapped),
            warnings=tuple(warnings),
            again=again,
        )


def key_of(record: Episode | Aggregate) -> tuple[str, ...]:
    """What may not come twice within one import."""
    if isinstance(record, Aggregate):
        return ("aggregate", record.model, record.condition, str(record.study))
    return ("episode", record.episode_id)


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _some(names: Sequence[str], what: str) -> str:
    shown = ", ".join(names[:6])
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return f"{what} {shown}{more}" if len(names) == 1 else f"{len(names)} {what}s ({shown}{more})"


def _calls_bash(episode: Episode) -> bool:
    return any(
        call["function"]["name"] == TARGETS[0]
        for message in episode.messages
        for call in message.get("tool_calls") or ()
    )
