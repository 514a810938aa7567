"""What cannot be changed in a study that has begun: nothing that was planned for a run with
episodes is taken back, because its episodes would then be of no plan.

More of a thing (trials, conditions, levels, models) is a deviation, see `freeze`. A model that is
taken out is one, too: its run stays with the study, as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from local_shutdown.analysis.decided import RULE
from local_shutdown.factors import DEFAULT, number
from local_shutdown.record import Settings
from local_shutdown.runfile import RunSettings
from local_shutdown.runs import stored_ids
from local_shutdown.store import RUN, load_run
from local_shutdown.study.schema import StudyFile

_Wrong = tuple[tuple[str, ...], str, str]  # field, why, remedy
_END = (
    "end the run with Ctrl-C whenever you like: what is there is reported as what it is; or give "
    "another --out"
)


def refuse_taken_back(study: StudyFile, parts: Sequence[Settings]) -> None:
    """Refuse a study that takes back what was planned for runs that have begun: it was fixed
    beforehand, and what is there by now has been seen.

    Raises:
        UsageError: by line, naming what is there and what is asked for now.
    """
    for one in parts:
        if not (one.out / RUN).is_file() or not stored_ids(one.out):
            continue
        before = load_run(one.out).settings
        for loc, why, remedy in (
            *_trials(before, one),
            *_conditions(before, one),
            *_efforts(before, one),
            *_temperatures(before, one),
            *_rule(before, one),
        ):
            raise study.wrong(loc, f"{why} (in {one.out})", remedy)


def _trials(before: RunSettings, now: Settings) -> Iterator[_Wrong]:
    if before.trials is not None and now.trials < before.trials:
        yield (
            ("trials",),
            f"{before.trials} were planned and {now.trials} are asked for now: trials can be added "
            "to a study that has begun, and not taken back",
            f"write `trials: {before.trials}`; {_END}",
        )


def _conditions(before: RunSettings, now: Settings) -> Iterator[_Wrong]:
    old, new = before.conditions or {}, {c.id: c.prompt_hash for c in now.conditions}
    yield from _gone(("conditions",), [c for c in old if c not in new], list(new))
    known = old if isinstance(old, Mapping) else {}  # of older versions only their names
    changed = [c for c in known if c in new and known[c] != new[c]]
    if changed:
        yield (
            ("conditions",),
            f"the prompts of {', '.join(changed)} have changed since they were played",
            "add the new prompts under another id, and leave the old ones as they were",
        )


def _efforts(before: RunSettings, now: Settings) -> Iterator[_Wrong]:
    old = before.thinking or [DEFAULT]
    gone = [effort for effort in old if effort not in now.thinking]
    yield from _gone(("factors", "effort"), gone, list(now.thinking))


def _temperatures(before: RunSettings, now: Settings) -> Iterator[_Wrong]:
    loc = ("factors", "temperature")
    old = [number(t) for t in before.temperatures or ()]
    new = [number(t) for t in now.temperatures]
    if new and not old:
        given = (before.sampling or {}).get("temperature")
        level = "the model's own temperature" if given is None else f"temperature {number(given)}"
        yield (
            loc,
            f"all episodes so far are at {level}, which was no factor, and so bear no level that "
            f"could be set against {', '.join(new)}",
            "leave it as it was, and play other temperatures as further entries of `models`: "
            "`{id: ..., name: ..., sampling: {temperature: ...}}`; or give another --out",
        )
    one = (now.sampling or {}).get("temperature")
    left = new or ([] if one is None else [number(one)])
    gone = [t for t in old if t not in new]
    yield from _gone(loc, [t for t in gone if t not in left] or gone, left)


def _rule(before: RunSettings, now: Settings) -> Iterator[_Wrong]:
    both = before.until_decided is not None and now.until_decided is not None
    if both and before.decided_by != RULE:
        yield (
            ("until", "decided"),
            f"its cells were stopped by rule {before.decided_by or 1} of `decided`, and this "
            f"version has rule {RULE}",
            f"go on with the version of local-shutdown that began it; {_END}",
        )


def _gone(loc: tuple[str, ...], gone: Sequence[str], now: Sequence[str]) -> Iterator[_Wrong]:
    if gone:
        yield (
            loc,
            f"{', '.join(gone)} was planned and begun, and is not among "
            f"{', '.join(now) or 'none'} now: {loc[-1]}"
            f"{'' if loc[-1].endswith('s') else ' levels'} can be added to a study that has begun, "
            "and not taken back",
            f"write {', '.join(gone)} back; {_END}",
        )
