"""What was asked for, and the record of it in the run directory."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from local_shutdown import __version__, engines
from local_shutdown.agent import Limits
from local_shutdown.analysis.stop_rule import StopRule
from local_shutdown.detectors import Row, count_csv, score, write_csv
from local_shutdown.engines import hardware, starts
from local_shutdown.engines.spec import ModelSpec
from local_shutdown.errors import CannotRunError, UsageError
from local_shutdown.grid import Condition
from local_shutdown.store import (
    EPISODES,
    RESULTS,
    RUN,
    STARTED,
    read_episodes,
    read_run,
    write_run,
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user asked for.

    Attributes:
        trials: per model and condition.
        sampling: request fields that override the engine's defaults.
        thinking: reasoning modes or efforts, see `engines.spec.Thinking`; each is played, and told
            apart as a factor unless it is the default.
        until_halfwidth: a cell stops once its interval is this narrow, see `analysis.stop_rule`.
        until_upper: a cell stops once its interval ends this low.
        seed: of the run, see `engines.starts`; None draws one, or takes that of the directory.
        extend: more trials, models or conditions may be added to an existing directory.
        retry_errors: episodes whose outcome is `error` are played again.
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
    stop_at_bypass: bool = False
    interview: Sequence[str] = ()
    probe: bool = True
    until_halfwidth: float | None = None
    until_upper: float | None = None
    seed: int | None = None
    extend: bool = False
    retry_errors: bool = False

    def identity(self) -> dict[str, Any]:
        """What must be the same for two calls to be one run. How fast it is played is not in it."""
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
            "interview": list(self.interview),
            "until_halfwidth": self.until_halfwidth,
            "until_upper": self.until_upper,
        }

    @property
    def stop_rule(self) -> StopRule | None:
        """When a cell has seen enough; None where all its trials are played."""
        if self.until_halfwidth is None and self.until_upper is None:
            return None
        return StopRule(self.until_halfwidth, self.until_upper)


def open_record(settings: Settings) -> dict[str, Any]:
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
                f"--out {settings.out}: the folder holds something else than a run",
                "give a new folder",
            )
        return record
    old = read_run(settings.out)
    if old.get("kind") != "run":
        raise UsageError(f"--out {settings.out}: holds {old.get('kind')!r}, not a run")
    if not _size(settings.out / EPISODES):  # a run that never got to its first episode
        return _taken_over(old, record, settings) if old["settings"] == wanted else record
    differs = [name for name in wanted if old["settings"].get(name) != wanted[name]]
    if settings.extend:
        differs = [name for name in differs if not _extends(name, old["settings"], wanted)]
    said = [f"{n}: {old['settings'].get(n)!r} there, {wanted[n]!r} now" for n in differs]
    if settings.seed is not None and settings.seed != old.get("run_seed", settings.seed):
        said.append(f"seed: {old['run_seed']} there, {settings.seed} now")
    if said:
        raise UsageError(
            f"--out {settings.out} belongs to a run with other settings: {'; '.join(said)}",
            "give another --out, or the old settings"
            + ("" if settings.extend else "; --extend adds trials, models or conditions"),
        )
    models = {**record["models"], **old["models"]}
    old.pop("ended_at", None)
    record = {**old, "settings": wanted, "models": models, "conditions": record["conditions"]}
    record = _taken_over(old, record, settings)
    if wanted["trials"] > old["settings"]["trials"]:
        look = {"at": now(), "trials": old["settings"]["trials"]}
        record["looks"] = [*record["looks"], look]
    return record


def _taken_over(
    old: Mapping[str, Any], record: Mapping[str, Any], settings: Settings
) -> dict[str, Any]:
    """The record with what every call on a directory hands on to the next."""
    seed = settings.seed if settings.seed is not None else old.get("run_seed")
    return {
        **record,
        "run_seed": record.get("run_seed", starts.new_seed()) if seed is None else seed,
        # Of an older version: it did not count, and this is not its first call.
        "session": old.get("session", 1) + 1,
        "server_starts": dict(old.get("server_starts", {})),
        "looks": list(old.get("looks", ())),
    }


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _extends(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    if name == "trials":
        return bool(new["trials"] >= old["trials"])
    if name in ("models", "thinking"):
        return set(old[name]) <= set(new[name])
    return name == "conditions" and set(old["conditions"].items()) <= set(new["conditions"].items())


def _new_record(settings: Settings, identity: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kind": "run",
        "package_version": __version__,
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
            }
            for c in settings.conditions
        },
        "limits": asdict(settings.limits),
        "run_seed": starts.new_seed() if settings.seed is None else settings.seed,
        "session": 1,
        "server_starts": {},
        "looks": [],
        "hardware": hardware.describe(),
        "started_at": now(),
    }


def close_record(directory: Path, record: Mapping[str, Any]) -> bool:
    """Bring results.csv and run.json up to what is on disk; whether an episode ended in `error`.

    Raises:
        CannotRunError: they cannot be written.
    """
    failed = _failed_already(directory)
    if failed is None:
        failed = write_results(directory)
    write_run(directory, {**record, "ended_at": now()})
    return failed


def _failed_already(directory: Path) -> bool | None:
    """Whether an episode ended in `error`, where results.csv is of the very episodes on disk: a
    finished run that is called again need not be scored again. None where it is not."""
    episodes, results = directory / EPISODES, directory / RESULTS
    if not results.exists() or results.stat().st_mtime_ns != episodes.stat().st_mtime_ns:
        return None
    try:
        counted = count_csv(results, ("outcome", "stop_reason"))
    except (KeyError, ValueError, IndexError):
        return None  # of another version
    return any(result == "error" for result, _ in counted)


def write_results(directory: Path) -> bool:
    """(Re)make results.csv from the stored episodes; returns whether one ended in `error`."""
    failed = False

    def rows() -> Iterator[Row]:
        nonlocal failed
        for episode in read_episodes(directory):
            row = score(episode)
            failed |= row.outcome == "error"
            yield row

    episodes, results = directory / EPISODES, directory / RESULTS
    beside = directory / f".{RESULTS}.{os.getpid()}"
    try:
        as_of = episodes.stat().st_mtime_ns if episodes.exists() else time.time_ns()
        write_csv(rows(), beside)
        # As old as what it was made from: a run that goes on meanwhile makes it outdated.
        os.utime(beside, ns=(as_of, as_of))
        beside.replace(results)
    except OSError as unwritable:
        raise CannotRunError(f"{results}: cannot be written: {unwritable.strerror}") from None
    finally:
        beside.unlink(missing_ok=True)
    return failed


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


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
    at_once = asked or min(most, engines.MOST_IN_FLIGHT, int(64 * hardware.ram_gib()))
    needed = 512 + 16 * at_once
    if soft != resource.RLIM_INFINITY and soft < needed:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return at_once
