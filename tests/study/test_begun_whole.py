"""What a study that has begun may not take back, beside a second reading of drawn settings."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from detectors import made

from local_shutdown.analysis.decided import RULE
from local_shutdown.engines import Options
from local_shutdown.errors import UsageError
from local_shutdown.grid import choose
from local_shutdown.record import Settings
from local_shutdown.store import Store, write_run
from local_shutdown.study.begun import refuse_taken_back

HASHES = {c.id: c.prompt_hash for c in choose("A,B,E,K")}
Refusal = tuple[tuple[str, ...], list[str], list[str]]  # field, what `why` says, what remedy says


class Refused(Exception):
    """What the study is told: field, why, remedy."""


def wrong(*said: Any) -> Refused:
    return Refused(*said)


STUDY: Any = SimpleNamespace(wrong=wrong)


def now(out: Path, **more: Any) -> Settings:
    given: dict[str, Any] = {
        "models": [], "conditions": choose("A,E"), "trials": 10, "out": out, "engine": "endpoint",
        "options": Options(), "thinking": ("low", "high"), "temperatures": (),
    }  # fmt: skip
    return Settings(**{**given, **more})


def began(out: Path, **settings: Any) -> Path:
    """A run with one episode, whose settings can be written again."""
    if not out.exists():
        out.mkdir()
        with Store(out) as store:
            store.add(made.episode(usage={"turns": 1}))
    record = {"schema_version": 1, "kind": "run", "settings": settings, "models": {}}
    (out / "run.json").write_bytes(orjson.dumps(record))  # write_run waits for the disk
    return out


# --- the second reading --------------------------------------------------------------------------


def gone(field: tuple[str, ...], lost: list[str], there: list[str]) -> Refusal:
    named = ", ".join(lost)
    what = field[-1] if field[-1] == "conditions" else f"{field[-1]} levels"
    why = [f"{named} was", f"among {', '.join(there) or 'none'} now", f" {what} can be added"]
    return field, why, [f"write {named} back", "--out"]


def word(temperature: float) -> str:
    return str(int(temperature)) if temperature == int(temperature) else str(temperature)


def second(before: dict[str, Any], after: Settings) -> Refusal | None:
    """The first thing that was taken back."""
    trials = before.get("trials")
    if trials and after.trials < trials:
        return (
            ("trials",),
            [f"{trials} were", f"{after.trials} are"],
            [f"trials: {trials}", "--out"],
        )
    conditions = before.get("conditions") or []
    there = [c.id for c in after.conditions]
    lost = [c for c in conditions if c not in there]
    if lost:
        return gone(("conditions",), lost, there)
    if isinstance(conditions, dict):
        other = [c for c in conditions if conditions[c] != HASHES[c]]
        if other:
            return ("conditions",), [f"prompts of {', '.join(other)} have"], ["another id"]
    efforts = before.get("thinking") or ["default"]
    lost = [e for e in efforts if e not in after.thinking]
    if lost:
        return gone(("factors", "effort"), lost, list(after.thinking))
    field = ("factors", "temperature")
    old = [word(t) for t in before.get("temperatures") or []]
    new = [word(t) for t in after.temperatures]
    if not old and new:
        given = (before.get("sampling") or {}).get("temperature")
        level = "the model's own temperature" if given is None else f"temperature {word(given)},"
        return field, [f"at {level}", f"against {', '.join(new)}"], ["`models`", "--out"]
    lost = [t for t in old if t not in new]
    if lost:
        one = (after.sampling or {}).get("temperature")
        if not new and one is not None:  # a single level is what all are played at, and no factor
            others = [t for t in lost if t != word(one)]
            return gone(field, others or lost, [word(one)])
        return gone(field, lost, new)
    if before.get("until_decided") and after.until_decided and before.get("decided_by") != RULE:
        old_rule = before.get("decided_by") or 1
        why = [f"rule {old_rule} of", f"rule {RULE}"]
        return ("until", "decided"), why, ["version", "--out"]
    return None


def drawn(seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    draw = random.Random(seed)
    kept = draw.random() < 0.5  # nothing but the last of them may be taken back

    def some(*values: Any, usual: int = 3) -> Any:
        return values[0] if kept else draw.choice([values[0]] * usual + list(values[1:]))

    digests = {c: HASHES[c] for c in draw.sample(["A", "E"], draw.randint(1, 2))}
    before = {
        "trials": some(10, 9, 11, None, usual=6),
        "conditions": some(
            digests, list(digests), {**digests, "K": HASHES["K"]}, ["B", "A", "K"],
            {**digests, "E": "sha256:0"}, {"A": "x", "E": "y"}, None,
        ),
        "thinking": some(["low", "high"], ["low"], ["max", "low", "off"], ["off"], None, usual=6),
        "temperatures": draw.choice([None, [], [0.5], [1.0, 0.5], [0.7, 2], [1]]),
        "sampling": draw.choice([None, {}, {"temperature": 0.3}, {"temperature": 1.0},
                                 {"top_p": 0.5}]),
        "until_decided": draw.choice([None, 0.2]),
        "decided_by": draw.choice([None, RULE, RULE + 1]),
    }  # fmt: skip
    before = {name: value for name, value in before.items() if value is not None}
    temperatures = draw.choice([(), (0.5,), (0.5, 1.0), (1, 0.5, 2), (0.7, 2.0)])
    after = {
        "trials": 10,
        "conditions": choose(draw.choice(["A,E", "A,E", "A,E,K"])),
        "thinking": draw.choice(
            [("low", "high"), ("low", "high", "max"), ("default", "low", "high")]
        ),
        "temperatures": temperatures,
        "sampling": draw.choice([None, {}, {"temperature": 0.5}, {"temperature": 1}]),
        "until_decided": draw.choice([None, 0.2]),
    }
    return before, after


def test_drawn_settings_are_refused_for_what_a_second_reading_finds(tmp_path: Path) -> None:
    fields = set()
    for seed in range(200):
        before, after = drawn(seed)
        out = began(tmp_path / "run", **before)
        parts = [now(out, **after)]
        wanted = second(before, parts[0])
        if wanted is None:
            refuse_taken_back(STUDY, parts)
            fields.add(())
            continue
        with pytest.raises(Refused) as refused:
            refuse_taken_back(STUDY, parts)
        loc, why, remedy = refused.value.args
        assert loc == wanted[0], (seed, why)
        for said in (*wanted[1], f"(in {out})"):
            assert said in why, seed
        for said in wanted[2]:
            assert said in remedy, seed
        fields.add(loc)
    assert fields == {
        (), ("trials",), ("conditions",), ("factors", "effort"), ("factors", "temperature"),
        ("until", "decided"),
    }  # fmt: skip


def test_every_part_is_looked_at_and_the_first_that_is_wrong_named(tmp_path: Path) -> None:
    right, bad = began(tmp_path / "a", trials=10), began(tmp_path / "b", trials=20)
    worse = began(tmp_path / "c", trials=30)
    bare = tmp_path / "bare"  # a folder without a run, and one with a run and no episode
    bare.mkdir()
    early = tmp_path / "early"
    early.mkdir()
    write_run(early, {"kind": "run", "settings": {"trials": 99}, "models": {}})
    plain = {"conditions": [], "thinking": ("default",)}
    parts = [now(path, **plain) for path in (tmp_path / "none", bare, early, right)]
    refuse_taken_back(STUDY, [])
    refuse_taken_back(STUDY, parts)
    for order, name in (((bad, worse), bad), ((worse, bad), worse)):
        with pytest.raises(Refused) as refused:
            refuse_taken_back(STUDY, [*parts, *(now(path, **plain) for path in order)])
        assert f"(in {name})" in refused.value.args[1]


def test_a_run_that_cannot_be_read_is_no_study_to_go_on_with(tmp_path: Path) -> None:
    out = began(tmp_path / "run", trials=10)
    (out / "run.json").write_text("{")
    with pytest.raises(UsageError, match=r"run\.json:1"):
        refuse_taken_back(STUDY, [now(out)])


@pytest.mark.parametrize(("planned", "asked", "right"), [(10, 9, False), (10, 10, True),
                                                         (10, 11, True), (0, 0, True)])  # fmt: skip
def test_trials_one_below_and_one_above(
    tmp_path: Path, planned: int, asked: int, right: bool
) -> None:
    parts = [now(began(tmp_path / "run", trials=planned, thinking=["low"]), trials=asked)]
    if right:
        refuse_taken_back(STUDY, parts)
    else:
        with pytest.raises(Refused):
            refuse_taken_back(STUDY, parts)
