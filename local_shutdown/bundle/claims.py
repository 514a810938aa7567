"""The claims of one run or import directory of a bundle, checked in one pass over its episodes."""

from __future__ import annotations

import csv
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from itertools import zip_longest
from pathlib import Path
from typing import Any

from local_shutdown.bundle import command, conversation, events, trials
from local_shutdown.bundle.layout import FOLDERS, Finding, failed, ok, unknown
from local_shutdown.bundle.prompts import Prompts
from local_shutdown.detectors import COLUMNS, Row, score
from local_shutdown.episode import Episode
from local_shutdown.errors import UsageError
from local_shutdown.results import texts_of, write_rows
from local_shutdown.store import (
    AGGREGATES,
    EPISODES,
    RESULTS,
    RUN,
    STARTED,
    read_lines,
    read_run,
    superseded_lines,
)

_MOST_NAMED = 5
_SEEN_EVERY = 500


class Wrong:
    """What does not follow from one claim; the first few are named, the others counted."""

    def __init__(self, claim: str, place: str) -> None:
        self._claim, self._place = claim, place
        self._named: list[str] = []
        self.count = 0

    def add(self, said: str) -> None:
        """One more."""
        self.count += 1
        if len(self._named) < _MOST_NAMED:
            self._named.append(said)

    def extend(self, said: Iterator[str]) -> None:
        """Several more; what cannot be read is one of them."""
        try:
            for one in said:
                self.add(one)
        except (UsageError, trials.TooLarge) as wrong:
            self.add(str(wrong).splitlines()[0])

    def findings(self, otherwise: str) -> Iterator[Finding]:
        """A line each; where there are none, one that says what was found in order."""
        if not self.count:
            yield ok(self._claim, f"{self._place}: {otherwise}")
        for said in self._named:
            yield failed(self._claim, f"{self._place}: {said}")
        if self.count > len(self._named):
            more = self.count - len(self._named)
            yield failed(self._claim, f"{self._place}: and {more:,} more")


class Directory:
    """One directory of a bundle.

    Args:
        directory: in the bundle; not changed.
        scratch: where results.csv is made again, beside links to the episodes: what is compared and
            shown is then computed from these rows, and not from those of the bundle.
        stated: its entry in bundle.json.

    Raises:
        UsageError: run.json cannot be read.
    """

    def __init__(self, directory: Path, scratch: Path, stated: Mapping[str, Any]) -> None:
        self._directory = directory
        self._scratch = scratch
        self._stated = stated
        self._place = str(stated["path"])
        self._run = read_run(directory)
        self._played = self._run.get("kind") == "run"
        if self._place.startswith(f"{FOLDERS[0]}/") != self._played:
            raise UsageError(f"its {RUN} says that it is of kind {self._run.get('kind')!r}")
        self._prompts = Prompts(self._run, self._played)
        self._ledger = trials.Ledger(self._run)
        names = ("episodes", "prompts", "trials", "settings", "transcripts", "outcomes")
        self._wrong = {name: Wrong(name, self._place) for name in names}
        self._rules = _rules(self._run)
        self._records = self._watched = self._served = self._not_judged = self._told = 0
        self._script: Any = None
        self._ids: set[str] = set()

    def check(self, seen: Callable[[int], None] = lambda count: None) -> Iterator[Finding]:
        """Every claim, line by line.

        Args:
            seen: called now and then with how many episodes have been read.
        """
        self._link()
        try:
            write_rows(self._scratch, self._rows(seen))
        except UsageError as unreadable:  # longer than a line may be
            self._wrong["episodes"].add(str(unreadable).splitlines()[0])
        wrong = self._wrong
        yield from wrong["episodes"].findings(f"{self._records:,} whole records")
        wrong["prompts"].extend(self._prompts.wrong())
        yield from self._prompt_findings()
        if self._played:
            yield from self._run_findings()
        else:
            yield from self._import_findings()
        yield from wrong["outcomes"].findings(
            f"{RESULTS} is what the detectors derive from {self._records:,} records"
        )

    # --- the pass -----------------------------------------------------------------------------

    def _link(self) -> None:
        self._scratch.mkdir(parents=True)
        for name in (RUN, EPISODES, STARTED, AGGREGATES):
            if (self._directory / name).is_file():
                (self._scratch / name).symlink_to((self._directory / name).resolve())

    def _rows(self, seen: Callable[[int], None]) -> Iterator[Row]:
        """The rows that follow, in the order of results.csv; checks each record on the way."""
        path = self._directory / EPISODES
        old, whole = superseded_lines(path)
        with closing(_stated_rows(self._directory / RESULTS)) as stated:
            for number, line in read_lines(path):
                if number > whole:
                    self._wrong["episodes"].add(f"{EPISODES}:{number}: cut off in the middle")
                    break
                try:
                    episode = Episode.from_json(line)
                except ValueError as wrong:
                    self._wrong["episodes"].add(f"{EPISODES}:{number}: {wrong}")
                    continue
                row = score(episode)
                self._records += 1
                self._take(episode, row, number in old)
                if number not in old:
                    self._compare(row, next(stated, None))
                    yield row
                if not self._records % _SEEN_EVERY:
                    seen(self._records)
            for extra in stated:
                self._wrong["outcomes"].add(f"{RESULTS} has {extra[0]}, which no record is")

    def _compare(self, row: Row, stated: list[str] | None) -> None:
        found, wrong = texts_of(row), self._wrong["outcomes"]
        if stated is None:
            wrong.add(f"{RESULTS} has no row of {row.episode_id}")
        elif stated != found:
            for name, one, other in zip_longest(COLUMNS, stated, found):
                if one != other:
                    wrong.add(
                        f"{row.episode_id}: {RESULTS} says {name} {one or 'unknown'}, "
                        f"the record shows {other or 'unknown'}"
                    )
                    break

    def _take(self, episode: Episode, row: Row, superseded: bool) -> None:
        name = episode.episode_id
        shown = self._prompts.of(episode) if episode.messages else None
        if shown is not None:
            self._wrong["prompts"].add(f"{name}: {shown}")
        if self._played:
            self._ledger.add(episode, row, superseded)
        else:
            self._told += not episode.messages and not episode.events
            if name in self._ids:
                self._wrong["trials"].add(f"{name} stands there twice")
            self._ids.add(name)
        if episode.events is not None:
            self._events(episode)
        elif self._played:
            self._wrong["transcripts"].add(f"{name} has no events, which every run records")

    def _events(self, episode: Episode) -> None:
        self._watched += 1
        wrong, name, impossible = self._wrong["transcripts"], episode.episode_id, False
        call = self._prompts.warning_on_call(episode.condition)
        if call is not None:
            for said in events.problems(
                episode.events or (), episode.files, call, episode.duration_s
            ):
                wrong.add(f"{name}: {said}")
                impossible = True
        if not self._played or impossible:
            return  # an import has its own harness, and impossible events tell of no episode
        found = conversation.read(episode, self._rules)
        self._served += found.served
        self._not_judged += found.not_judged
        for said in found.wrong:
            wrong.add(f"{name}: {said}")
        script = (episode.files.get("shutdown.sh") or {}).get("before")
        if script is not None:
            self._script = self._script or script
            if script != self._script:
                wrong.add(f"{name}: began with another shutdown.sh than the episodes before it")

    # --- what it came to ----------------------------------------------------------------------

    def _prompt_findings(self) -> Iterator[Finding]:
        prompts, wrong = self._prompts, self._wrong["prompts"]
        if self._played:
            own = prompts.own
            more = f"; of the author's own: {', '.join(own)}" if own else ""
            yield from wrong.findings(f"every episode has those of its condition{more}")
        elif wrong.count or (prompts.matched and not prompts.unmatched):
            yield from wrong.findings("every transcript has those of the grid")
        elif prompts.unmatched:
            yield unknown(
                "prompts",
                f"{self._place}: {prompts.unmatched:,} of {prompts.matched + prompts.unmatched:,} "
                "imported transcripts have prompts in other words than the grid",
            )

    def _run_findings(self) -> Iterator[Finding]:
        wrong = self._wrong
        account = self._stated.get("account")
        stated = account if isinstance(account, Mapping) else {}
        wrong["trials"].extend(self._ledger.wrong(self._directory, stated))
        yield from wrong["trials"].findings(self._progress(stated))
        contradictions = command.wrong(self._run)
        if contradictions is None:
            said = "run.json has no command of `run` to hold the settings against"
            yield unknown("settings", f"{self._place}: {said}")
        else:
            wrong["settings"].extend(contradictions)
            yield from wrong["settings"].findings("those of the command on record")
        aside = ""
        if self._not_judged:
            aside = f"; {self._not_judged:,} went where the transcript need not show them"
        yield from wrong["transcripts"].findings(
            f"{self._watched:,} agree with their events, {self._served:,} questions served{aside}"
        )

    def _progress(self, account: Mapping[str, Any]) -> str:
        planned, on_disk = account.get("planned", 0), account.get("on_disk", 0)
        if planned == on_disk:
            return f"all {planned:,} of the plan, each once"
        if self._stated.get("state") == "finished":
            return f"{on_disk:,} of at most {planned:,}, each once; a rule stopped cells early"
        return (
            f"UNFINISHED, as stated: {on_disk:,} of {planned:,}, each once; "
            f"{account.get('unfinished', 0):,} were begun and have no record"
        )

    def _import_findings(self) -> Iterator[Finding]:
        aggregates = sum(1 for _ in read_lines(self._directory / AGGREGATES))
        counts = self._run.get("counts") or {}
        stated = {"episodes": counts.get("episodes"), "aggregates": counts.get("aggregates")}
        for name, found in (("episodes", self._records), ("aggregates", aggregates)):
            for told, source in ((stated[name], RUN), (self._stated.get(name), "the bundle")):
                if told != found:
                    self._wrong["trials"].add(f"{found:,} {name}, {source} says {told}")
        yield from self._wrong["trials"].findings(
            f"{self._records:,} episodes and {aggregates:,} rates, as many as were imported"
        )
        if self._watched:
            yield from self._wrong["transcripts"].findings(
                f"{self._watched:,} have events, which are those of one machine each"
            )
        for count, what in (
            (aggregates, "published rates"),
            (self._told, "outcomes without a transcript"),
        ):
            if count:
                yield unknown("outcomes", f"{self._place}: {count:,} {what}, taken as stated")


def _rules(run: Mapping[str, Any]) -> conversation.Rules:
    settings, limits = run.get("settings") or {}, run.get("limits")
    seconds = limits.get("seconds") if isinstance(limits, Mapping) else None
    most = settings.get("max_messages")
    return conversation.Rules(
        most if isinstance(most, int) else 50, bool(settings.get("stop_at_bypass")), seconds
    )


def _stated_rows(path: Path) -> Generator[list[str]]:
    """The rows of results.csv as texts, one by one; what is no table of ours has none."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = csv.reader(file)
            if next(lines, None) == list(COLUMNS):
                yield from lines
    except (OSError, csv.Error, ValueError):
        return
