"""What was asked for, and the record of it in the run directory."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from local_shutdown import __version__, engines
from local_shutdown.agent import Limits
from local_shutdown.analysis.decided import RULE, DecidedRule, rule_of
from local_shutdown.analysis.stop_rule import StopRule
from local_shutdown.branch.plan import Branch
from local_shutdown.engines import hardware, memory, starts
from local_shutdown.engines.spec import ModelSpec
from local_shutdown.errors import CannotRunError, UsageError
from local_shutdown.factors import Level, crossed, number
from local_shutdown.grid import Condition, InterviewQuestion, as_ranges
from local_shutdown.results import Results, write_results
from local_shutdown.runfile import Look, RunFile, parse_run
from local_shutdown.shard import WHOLE, Shard
from local_shutdown.store import EPISODES, RUN, STARTED, load_run, write_run


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user asked for.

    Attributes:
        trials: per model and condition.
        sampling: request fields that override the engine's defaults.
        thinking: reasoning modes or efforts, see `engines.spec.Thinking`; each is played, and told
            apart as a factor unless it is the default.
        temperatures: levels of the temperature, each played and told apart as a factor; empty for
            the one of `sampling` or of the checkpoint.
        fixed: levels of factors that are the same for the whole run, such as the revision.
        serving: what is served where the model's name does not say it all: revision, precision,
            arguments. Part of what makes two calls one run.
        deciding: of a study, what `until_decided` is about: `contrasts` (pairs of conditions), and
            the number of `levels` in all of its runs.
        study: of which study this is a part (`name`, `digest` of its plan), for the record.
        until_halfwidth: a cell stops once its interval is this narrow, see `analysis.stop_rule`.
        until_upper: a cell stops once its interval ends this low.
        until_decided: a cell stops once no declared contrast needs it, see `analysis.decided`.
        seed: of the run, see `engines.starts`; None draws one, or takes that of the directory.
        extend: more trials, models or conditions may be added to an existing directory.
        retry_errors: episodes whose outcome is `error` are played again.
        shard: the part of the trials that this run plays; None plays all, and is no shard.
        command: the words of the command line, for the record.
        branch: the points that are played from, where it is not played from the prompts; `trials`
            are then per point, and `conditions` those whose prompts are shown.
    """

    models: Sequence[ModelSpec]
    conditions: Sequence[Condition]
    trials: int
    out: Path
    engine: engines.Kind
    options: engines.Options
    limits: Limits = field(default_factory=Limits)
    max_tokens: int | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    thinking: Sequence[str] = ("default",)
    thinking_budget: int | None = None
    temperatures: Sequence[float] = ()
    fixed: Mapping[str, str] = field(default_factory=dict)
    serving: Mapping[str, Any] = field(default_factory=dict)
    deciding: Mapping[str, Any] = field(default_factory=dict)
    study: Mapping[str, Any] | None = None
    stop_at_bypass: bool = False
    interview: Sequence[InterviewQuestion] = ()
    probe: bool = True
    until_halfwidth: float | None = None
    until_upper: float | None = None
    until_decided: float | None = None
    seed: int | None = None
    extend: bool = False
    retry_errors: bool = False
    shard: Shard | None = None
    command: Sequence[str] = ()
    branch: Branch | None = None

    def identity(self) -> dict[str, Any]:
        """What must be the same for two calls to be one run. How fast it is played is not in it."""
        # Not there where nothing is asked for: as in runs of versions that did not have it.
        more: dict[str, Any] = {
            "temperatures": list(self.temperatures),
            "fixed": dict(self.fixed),
            "serving": dict(self.serving),
            "deciding": dict(self.deciding),
            "decided_by": None if self.until_decided is None else RULE,
            "branch": {} if self.branch is None else self.branch.identity(),
            "shard": "" if self.shard is None else str(self.shard),
        }
        return {
            "models": [spec.name for spec in self.models],
            "conditions": {c.id: c.prompt_hash for c in self.conditions},
            "trials": self.trials,
            "engine": self.engine,
            "max_tokens": self.max_tokens,
            "sampling": dict(self.sampling),
            "thinking": list(self.thinking),
            "thinking_budget": self.thinking_budget,
            "max_messages": self.limits.messages,
            "stop_at_bypass": self.stop_at_bypass,
            "interview": [question.text for question in self.interview],
            "until_halfwidth": self.until_halfwidth,
            "until_upper": self.until_upper,
            "until_decided": self.until_decided,
            **{name: value for name, value in more.items() if value},
        }

    @property
    def cells(self) -> int:
        """How many cells are planned."""
        if self.branch is not None:
            return len(self.branch.points)
        return len(self.models) * len(self.conditions) * len(self.levels)

    @property
    def part(self) -> Shard:
        """The trials of each cell that are played here."""
        return self.shard or WHOLE

    @property
    def place(self) -> str:
        """What the names of sessions and of starts of servers begin with, so that those of all
        shards of a run differ: `2/4:`, or nothing."""
        return "" if self.shard is None else f"{self.shard}:"

    @property
    def levels(self) -> list[Level]:
        """What each model is played at, one after another, by one server."""
        return crossed(self.thinking, self.temperatures, self.fixed)

    @property
    def decided_rule(self) -> DecidedRule | None:
        """When contrasts are decided; None where nobody asked for that."""
        return rule_of(self.identity())

    @property
    def stop_rule(self) -> StopRule | None:
        """When the rate of a cell is known well enough; None where nobody asked for that."""
        if self.until_halfwidth is None and self.until_upper is None:
            return None
        return StopRule(self.until_halfwidth, self.until_upper)


def open_record(settings: Settings) -> RunFile:
    """run.json of the directory, or a new one; with the number of this call, and with a look on
    record where trials are added to cells that somebody may have looked at.

    Raises:
        UsageError: it belongs to another run, naming what differs.
    """
    wanted = settings.identity()
    record = _new_record(settings, wanted)
    if settings.out.exists() and not settings.out.is_dir():
        raise UsageError(f"--out {settings.out}: not a folder", "give a new folder")
    if not (settings.out / RUN).exists():
        strangers = settings.out.is_dir() and any(
            not (
                path.name.startswith(".") or (path.name in (EPISODES, STARTED) and not _size(path))
            )
            for path in settings.out.iterdir()
        )
        if strangers:
            raise UsageError(
                f"--out {settings.out}: the folder is not a run directory",
                "give a new folder",
            )
        return record
    old = load_run(settings.out)
    if not old.played:
        raise UsageError(f"--out {settings.out}: holds {old.kind!r}, not a run")
    for name in ("settings", "models"):
        if name not in old.model_fields_set:
            raise UsageError(
                f"{settings.out / RUN}: {name} is missing, so it is not known which run this is",
                "give another --out",
            )
    there = old.settings.as_json()
    if not _size(settings.out / EPISODES):  # a run that never got to its first episode
        return _taken_over(old, record, settings) if there == wanted else record
    names = [*wanted, *(name for name in _SOMETIMES if name in {*there} - {*wanted})]
    differs = [name for name in names if there.get(name) != wanted.get(name)]
    if settings.extend:
        differs = [name for name in differs if not _extends(name, there, wanted)]
    said = [in_words(n, there.get(n), wanted.get(n)) for n in differs]
    if settings.seed is not None and old.run_seed not in (None, settings.seed):
        said.append(f"seed: {old.run_seed} there, {settings.seed} now")
    if said:
        raise UsageError(
            f"--out {settings.out} belongs to a run with other settings: {'; '.join(said)}",
            "give another --out, or the old settings"
            + ("" if settings.extend else "; --extend adds trials, models or conditions"),
        )
    return _extended(old, record, settings)


def _extended(old: RunFile, record: RunFile, settings: Settings) -> RunFile:
    """The record of a run that goes on, with what is asked for now."""
    ended = {"ended_at", "interrupted"}
    found = parse_run({k: v for k, v in old.as_json().items() if k not in ended})
    found.settings = record.settings
    found.models = {**record.models, **old.models}
    found.add({"command": record.command, "conditions": record.conditions})
    if record.study is not None:
        found.study = record.study
    found = _taken_over(old, found, settings)
    before = old.settings
    if before.trials is not None and settings.trials > before.trials:
        # Those that come in now were not there to be looked at.
        look = Look(
            at=now(),
            trials=before.trials,
            models=list(before.models or ()),
            conditions=list(before.conditions or ()),
            thinking=list(before.thinking or ()),
        )
        if before.temperatures:
            look.temperatures = [number(t) for t in before.temperatures]
        found.looks = [*found.looks, look]
    return found


# Settings that run.json has only where they are asked for.
_SOMETIMES = ("temperatures", "fixed", "serving", "deciding", "decided_by", "branch", "shard")


def in_words(name: str, old: Any, new: Any, places: tuple[str, str] = ("there", "now")) -> str:
    """How a setting of two runs differs, for a reader: prompts by the conditions' names, not by
    their digests.

    Args:
        places: what to call where each of the two stands.
    """
    there, now = places
    if name == "conditions" and isinstance(old, Mapping) and isinstance(new, Mapping):
        if list(old) != list(new):
            return f"conditions {as_ranges(list(old))} {there}, {as_ranges(list(new))} {now}"
        changed = [condition for condition in new if old[condition] != new[condition]]
        return f"the prompts of {', '.join(changed)} have changed"
    if name == "branch":
        return _branches_in_words(old or {}, new or {})
    if name == "interview":
        asked = ("with" if old else "without", "with" if new else "without")
        if asked[0] == asked[1]:
            return "the interview's questions have changed"
        return f"{asked[0]} --interview {there}, {asked[1]} {now}"
    return f"{name.replace('_', ' ')} {_word(old)} {there}, {_word(new)} {now}"


def _branches_in_words(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    if not old or not new:
        kinds = ["branched" if one else "not branched" for one in (old, new)]
        return f"{kinds[0]} there, {kinds[1]} now"
    words = [
        f"{name} {_word(old.get(name))} there, {_word(new[name])} now"
        if name not in ("points", "selection")
        else f"other {'episodes or points' if name == 'points' else 'choice of episodes'}"
        for name in new
        if old.get(name) != new[name]
    ]
    return f"branch: {', '.join(words)}"


def _word(value: Any) -> str:
    if value is None or value == {} or value == []:
        return "not set"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {one}" for key, one in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _taken_over(old: RunFile, record: RunFile, settings: Settings) -> RunFile:
    """The record with what every call on a directory hands on to the next."""
    if settings.seed is not None:
        record.run_seed = settings.seed
    elif old.run_seed is not None:
        record.run_seed = old.run_seed
    elif record.run_seed is None:
        record.run_seed = starts.new_seed()
    # One of an older version did not count, and this is not its first call.
    record.session = old.session + 1
    record.server_starts = dict(old.server_starts)
    record.looks = list(old.looks)
    if old.merged is not None:
        record.merged = old.merged
    return record


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _extends(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    if type(old.get(name)) is not type(new.get(name)):
        return False
    if name == "trials":
        return bool(new["trials"] >= old["trials"])
    if name in ("models", "thinking", "temperatures"):
        return set(old[name]) <= set(new[name])
    return name == "conditions" and set(old["conditions"].items()) <= set(new["conditions"].items())


def _new_record(settings: Settings, identity: Mapping[str, Any]) -> RunFile:
    raw = {
        "kind": "run",
        "package_version": __version__,
        "command": list(settings.command),
        "settings": dict(identity),
        "models": {
            spec.name: {
                "display_name": spec.display_name,
                "model": spec.hf_id,
                "family": spec.family,
                "source": spec.source,
                "tool_parser": spec.tool_parser,
                "reasoning_parser": spec.reasoning_parser,
                "warnings": list(spec.warnings),
            }
            for spec in settings.models
        },
        "conditions": {
            c.id: {
                "title": c.title,
                "wording": c.wording,
                "prompt_hash": c.prompt_hash,
                "system": c.system,
                "user": c.user,
                "warning_on_call": c.warning_on_call,
                "instructs": c.instructs,
            }
            for c in settings.conditions
        },
        **({} if settings.branch is None else {"branched_from": settings.branch.about()}),
        "limits": asdict(settings.limits),
        "run_seed": starts.new_seed() if settings.seed is None else settings.seed,
        "session": 1,
        "server_starts": {},
        "looks": [],
        **({} if settings.study is None else {"study": dict(settings.study)}),
        "hardware": hardware.describe(),
        "started_at": now(),
    }
    return parse_run(raw)


def close_record(directory: Path, record: RunFile) -> bool:
    """Bring results.csv and run.json up to what is on disk; whether an episode ended in `error`.

    Raises:
        CannotRunError: they cannot be written.
    """
    results = Results(directory)
    # A finished run that is called again need not be scored again.
    failed = results.any_error() if results.fresh else write_results(directory)
    record.ended_at = now()
    write_run(directory, record)
    return failed


def now() -> str:
    """As fine as an episode's `started_at`, with which it is compared: what came first must show
    within a second, too."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def most_in_flight(asked: int | None) -> int:
    """How many episodes this machine can have in flight; raises its soft limit on open files.

    Each episode holds about 8 descriptors here and its request one more, and an idle sandbox takes
    a few MiB.

    Raises:
        CannotRunError: `asked` for more than the hard limit on open files has room for.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = hard == resource.RLIM_INFINITY
    most = 1 << 16 if unlimited else max(1, (hard - 512) // 16)
    if asked is not None and asked > most:
        raise CannotRunError(
            f"--concurrency {asked} needs {512 + 16 * asked} open files, the limit here is {hard}",
            f"give --concurrency {most}, or raise `ulimit -n`",
        )
    at_once = asked or min(most, engines.MOST_IN_FLIGHT, int(64 * memory.ram_gib()))
    needed = 512 + 16 * at_once
    if soft != resource.RLIM_INFINITY and soft < needed:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return at_once
