"""The plan of a study in a bundle: what was frozen, whether what was played is that, and whether
every change of it is on the list of deviations.

In the bag the study's folder is `data/`: plan.json, with its runs and imports where the bag has
them. `plan` itself, and so its digest, is untouched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson

from local_shutdown import frozen_plan
from local_shutdown.bundle import command, redact
from local_shutdown.bundle.layout import PLAN, REFERENCE, Finding, failed, ok, unknown
from local_shutdown.errors import UsageError
from local_shutdown.frozen_plan import Deviation, PlanFile, read_plan
from local_shutdown.store import AGGREGATES, EPISODES, read_lines, read_run
from local_shutdown.study.contrasts import slug
from local_shutdown.study.freeze import changes
from local_shutdown.study.parts import seed_of_run, stop_rule
from local_shutdown.study.schema import UntilRow

_MOST_NAMED = 5


def placed(plan: PlanFile, places: Mapping[str, str]) -> PlanFile:
    """The plan as the bag has it.

    Args:
        places: path in the bag of each run and import, by its path beside plan.json; what has not
            been played yet is not in it.
    """
    reference = plan.reference if plan.reference in (None, "paper") else REFERENCE
    return plan.model_copy(
        update={
            "runs": [places.get(name, f"runs/{name}") for name in plan.runs],
            "imports": [places.get(name, name) for name in plan.imports],
            "reference": reference,
        }
    )


def stated(plan: PlanFile) -> dict[str, Any]:
    """What bundle.json says of it."""
    return {"name": plan.name, "digest": plan.digest, "deviations": len(plan.deviations)}


def check(data: Path, told: Mapping[str, Any]) -> Iterator[Finding]:
    """The claim `plan`, where there is one.

    Args:
        data: of the bag.
        told: bundle.json.
    """
    if not (data / PLAN).is_file():
        if told.get("study") is not None:
            yield failed("plan", f"bundle.json states a study, and there is no {PLAN}")
        return
    try:
        plan = read_plan(data)
    except UsageError as wrong:
        yield failed("plan", wrong.message.splitlines()[0].replace(f"{data}/", ""))
        return
    checked = _Plan(data, plan, told)
    try:
        wrong_lines = list(checked.wrong())
    except UsageError as wrong:
        wrong_lines = [wrong.message.splitlines()[0].replace(f"{data}/", "")]
    except (KeyError, TypeError, ValueError, AttributeError) as damaged:
        wrong_lines = [f"{PLAN}: damaged: {damaged!r}"[:200]]
    for said in wrong_lines[:_MOST_NAMED]:
        yield failed("plan", said)
    if len(wrong_lines) > _MOST_NAMED:
        yield failed("plan", f"and {len(wrong_lines) - _MOST_NAMED} more")
    if wrong_lines:
        return
    there, runs = checked.there, plan.runs
    missing = "" if there == len(runs) else f"; UNFINISHED: {there} of {len(runs)} runs are there"
    yield ok("plan", f"{plan.digest}, frozen {plan.frozen_at}: what was played is that{missing}")
    for deviation in plan.deviations:
        yield ok("plan", f"deviation listed, {deviation.at[:10]}: {deviation.said}")
    yield unknown("plan", "when it was frozen: publish the digest beforehand to show that")


class _Plan:
    """A plan against the directories beside it.

    Attributes:
        there: runs of the plan that are in the bundle.
    """

    def __init__(self, data: Path, plan: PlanFile, told: Mapping[str, Any]) -> None:
        self._data = data
        self._plan = plan
        self._told = told
        self.there = 0

    def wrong(self) -> Iterator[str]:
        """What does not follow, in words."""
        plan, told = self._plan, self._told
        if told.get("study") != stated(plan):
            yield f"bundle.json states the study {told.get('study')}, {PLAN} is {stated(plan)}"
        yield from self._deviations()
        if told.get("margin") != plan.margin:
            yield f"bundle.json has the margin {told.get('margin')}, the plan {plan.margin}"
        by_plan = {"run": set(plan.runs), "import": set(plan.imports)}
        there = {entry["path"] for entry in told["directories"]}
        for entry in told["directories"]:
            if entry["path"] not in by_plan[str(entry.get("kind"))]:
                yield f"{entry['path']} is not of the plan"
        runs = {Path(name).name for name in plan.runs}
        for model in plan.in_force["models"]:
            if not any(run.partition("@")[0] == slug(model) for run in runs):
                yield f"{model} is planned, and no run of it is on the list"
        for name in plan.runs:
            if name in there:
                self.there += 1
                for said in self._run(name, read_run(self._data / name)):
                    yield f"{name}: {said}"
        imports = dict(zip(plan.imports, plan.in_force["imports"], strict=True))
        for name, row in imports.items():
            if name in there:
                yield from self._import(name, row)
            else:
                yield f"{name}: planned as an import, and not in the bundle"

    # --- what was changed ---------------------------------------------------------------------

    def _deviations(self) -> Iterator[str]:
        """The plan in force is the frozen one with what the list says; the list goes forward."""
        plan = self._plan
        chains: dict[str, list[Deviation]] = {}
        at = _moment(plan.frozen_at)
        for deviation in plan.deviations:
            if _moment(deviation.at) < at:
                yield f"the deviation {deviation.what} is dated before what came before it"
            at = max(at, _moment(deviation.at))
            chains.setdefault(deviation.what, []).append(deviation)
        found = {what: (before, after) for what, before, after in changes(plan.plan, plan.in_force)}
        for what, chain in chains.items():
            if any(one.now != later.planned for one, later in pairwise(chain)):
                yield f"the deviations of {what} do not go on from each other"
            if what.startswith("weights.") or _nested(what, chains):
                continue
            first, last = chain[0].planned, chain[-1].now
            if found.get(what, (first, first)) != (first, last) and not _nested(what, found):
                yield f"the deviation {what} is not what was changed"
        for what in found:
            if what not in chains and not _nested(what, chains):
                yield f"{what} is not as it was frozen, and no deviation says so"

    def _versions(self, what: str) -> list[Any]:
        """What a field of the plan has been, in time."""
        plan = self._plan
        found: list[Any] = [_at(plan.plan, what), _at(plan.in_force, what)]
        for deviation in plan.deviations:
            if deviation.what == what:
                found += [deviation.planned, deviation.now]
        return found

    # --- what was played ----------------------------------------------------------------------

    def _run(self, name: str, run: Mapping[str, Any]) -> Iterator[str]:
        plan, settings = self._plan, run["settings"]
        of = run.get("study") or {}
        if (of.get("name"), of.get("digest")) != (plan.name, plan.digest):
            yield f"was played as a part of {of.get('name')}, {of.get('digest')}"
        yield from self._not_before(name, run)
        (model,) = settings["models"]
        known = {**plan.plan["models"], **plan.in_force["models"]}
        if model not in known:
            yield f"plays {model}, which is not in the plan"
            return
        yield from self._weights(name, model, known[model], run)
        yield from self._conditions(settings["conditions"])
        fields = {
            "max_messages": settings.get("max_messages"),
            "max_seconds": (run.get("limits") or {}).get("seconds"),
            "stop_at_bypass": settings.get("stop_at_bypass"),
            "interview": settings.get("interview"),
            "trials": settings.get("trials"),
            "factors.effort": settings.get("thinking"),
            "decided_by": settings.get("decided_by"),
        }
        for what, value in fields.items():
            if value not in self._versions(what):
                yield f"{what} is {value}, planned {self._versions(what)[0]}"
        yield from self._sampling(settings, known[model])
        yield from self._serving(settings, known[model])
        yield from command.applied(settings, run)
        yield from self._more_trials(name, run)
        rules = [self._rule(until) for until in self._versions("until")]
        rule = {key: settings.get(key) for key in rules[0]}
        if rule not in rules:
            yield f"stops by {rule}, planned {rules[0]}"
        seed = plan.plan["seed"]
        if seed is not None and run.get("run_seed") != seed_of_run(seed, Path(name).name):
            yield f"its seed is {run.get('run_seed')}, which is not that of seed {seed} of the plan"

    def _serving(self, settings: Mapping[str, Any], planned: Mapping[str, Any]) -> Iterator[str]:
        serving = settings.get("serving") or {}
        for name in ("engine_args", "max_model_len"):
            # As the run has them: without keys and paths, and without what was not asked for.
            found, wanted = serving.get(name), redact.cleaned(planned.get(name)) or None
            if found != wanted:
                yield f"{name} is {found}, planned {wanted}"
        precision, levels = serving.get("precision"), list(planned.get("precision") or ())
        if (precision not in levels) if levels else (precision is not None):
            yield f"precision is {precision}, planned {', '.join(levels) or 'none'}"

    def _not_before(self, name: str, run: Mapping[str, Any]) -> Iterator[str]:
        frozen = _moment(self._plan.frozen_at)
        began = [("the run", run.get("started_at"))]
        for _, line in read_lines(self._data / name / EPISODES):
            record = orjson.loads(line)
            began.append((str(record.get("episode_id")), record.get("started_at")))
            break
        for what, moment in began:
            if moment is not None and _moment(moment) < frozen:
                yield f"{what} began at {moment}, before the plan was frozen ({frozen})"

    def _more_trials(self, name: str, run: Mapping[str, Any]) -> Iterator[str]:
        """Trials that were added later were begun after that is dated, and those before them had
        been seen: a look, which their intervals pay for."""
        added = [
            (one.planned, one.now, _moment(one.at))
            for one in self._plan.deviations
            if one.what == "trials" and type(one.planned) is int and type(one.now) is int
        ]
        if not added:
            return
        seen = later = False
        for _, line in read_lines(self._data / name / EPISODES):
            record = orjson.loads(line)
            trial, began = record.get("trial"), record.get("started_at")
            if type(trial) is not int or began is None:
                continue
            for planned, now, at in added:
                if planned <= trial < now and _moment(began) < at:
                    yield (
                        f"{record.get('episode_id')} began at {began}; that there are more trials "
                        f"than {planned} is a deviation dated after that, {at}"
                    )
                    return
            seen = seen or (trial < added[0][0] and _moment(began) < added[0][2])
            later = later or trial >= added[0][0]
        if seen and later and not run.get("looks"):
            yield f"trials were added after {added[0][0]} had been seen, and run.json has no look"

    def _weights(
        self, name: str, model: str, planned: Mapping[str, Any], run: Mapping[str, Any]
    ) -> Iterator[str]:
        facts = (run.get("models") or {}).get(model) or {}
        digest, commit = facts.get("weights_digest"), facts.get("revision")
        fixed = (run["settings"].get("fixed") or {}).get("revision")
        digests = {
            one["weights_digest"]
            for one in planned["checkpoints"]
            if one["weights_digest"] and fixed in (None, one["revision"])
        }
        run_name = Path(name).name
        known = [self._plan.resolved.get(run_name)]
        for deviation in self._plan.deviations:
            if deviation.what == f"weights.{run_name}":
                known += [deviation.planned, deviation.now]
        digests |= {
            str(one["weights_digest"]) for one in known if one and one.get("weights_digest")
        }
        commits = {str(one["revision"]) for one in known if one and one.get("revision")}
        if digest and digests and digest not in digests:
            yield f"its weights are {digest}, planned {', '.join(sorted(digests))}"
        if commit and commits and commit not in commits:
            yield f"its revision is {commit}, planned {', '.join(sorted(commits))}"

    def _conditions(self, played: Mapping[str, str]) -> Iterator[str]:
        plan = self._plan
        planned: dict[str, set[str]] = {}
        for version in (plan.plan["conditions"], plan.in_force["conditions"]):
            for condition, digest in version.items():
                planned.setdefault(condition, set()).add(digest)
        for deviation in plan.deviations:
            field, _, condition = deviation.what.partition(".")
            if field == "conditions" and condition:
                planned.setdefault(condition, set()).update(
                    one for one in (deviation.planned, deviation.now) if one
                )
        for condition, digest in played.items():
            if condition not in planned:
                yield f"plays the condition {condition}, which is not in the plan"
            elif digest not in planned[condition]:
                yield f"condition {condition} has other prompts ({digest}) than planned"
        changed = any(d.what.startswith("conditions") for d in plan.deviations)
        for condition in plan.plan["conditions"]:
            if condition not in played and not changed:
                yield f"does not play the condition {condition}, which was planned"

    def _sampling(self, settings: Mapping[str, Any], planned: Mapping[str, Any]) -> Iterator[str]:
        for name in ("max_tokens", "thinking_budget"):
            if settings.get(name) != planned.get(name):
                yield f"{name} is {settings.get(name)}, planned {planned.get(name)}"
        found = []
        for levels in self._versions("factors.temperature"):
            temperatures = [float(level) for level in levels or ()]
            one = {"temperature": temperatures[0]} if len(temperatures) == 1 else {}
            several = temperatures if len(temperatures) > 1 else []
            found.append(({**planned["sampling"], **one}, several))
        played = (settings.get("sampling"), settings.get("temperatures") or [])
        if played not in found:
            yield f"sampling is {played[0]} at temperatures {played[1]}, planned {found[0]}"

    def _rule(self, until: Any) -> dict[str, Any]:
        row = None if until is None else UntilRow.model_validate(until)
        names = ("until_decided", "deciding", "until_halfwidth", "until_upper")
        return {**dict.fromkeys(names), **stop_rule(row, self._plan)}

    # --- what was imported --------------------------------------------------------------------

    def _import(self, name: str, row: Mapping[str, Any]) -> Iterator[str]:
        directory = self._data / name
        run = read_run(directory)
        sources = [one.get("sha256") for one in run.get("sources") or ()]
        if row["sha256"] not in sources and row["sha256"] != _contents(directory):
            yield f"{name}: is not of the file that was planned (sha256 {row['sha256']})"
        settings = run.get("settings") or {}
        for what in ("model", "condition"):
            if row["sha256"] in sources and settings.get(what) != row.get(what):
                yield f"{name}: imported as {what} {settings.get(what)}, planned {row.get(what)}"


def _nested(what: str, among: Mapping[str, Any] | Sequence[str]) -> bool:
    """Whether a part of a field, or what it is a part of, is among others."""
    return any(
        other != what and (other.startswith(f"{what}.") or what.startswith(f"{other}."))
        for other in among
    )


def _at(plan: Mapping[str, Any], what: str) -> Any:
    value: Any = plan
    for part in what.split("."):
        value = value.get(part)
    return value


def _moment(text: Any) -> datetime:
    return datetime.fromisoformat(text)


def _contents(directory: Path) -> str:
    """Of an import that was a folder already, see `study.plan`."""
    digests = {
        name: hashlib.sha256((directory / name).read_bytes()).hexdigest()
        for name in (EPISODES, AGGREGATES)
        if (directory / name).is_file()
    }
    return frozen_plan.digest(digests).removeprefix("sha256:")
