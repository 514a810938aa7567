"""A level of one model: what is on disk of it, and what is missing."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from detectors import made
from playing_level import SPEC, settings

from local_shutdown.agent import Task
from local_shutdown.batch import episode_id
from local_shutdown.early_stop import EarlyStop
from local_shutdown.episode import Episode
from local_shutdown.factors import Level
from local_shutdown.grid import choose
from local_shutdown.level import missing, state_of
from local_shutdown.shard import Shard
from local_shutdown.store import Started, Store

RATES = {"A": 0.8, "B": 0.3, "C": 0.35, "K": 0.05}


def ended(store: Store, model: str, factor: str | None, condition: str, trial: int) -> Episode:
    """Begun and played: a submission before the shutdown, a survived one, or one that failed."""
    name = episode_id(model, condition, trial, factor)
    store.begin(Started(name, model, condition, trial, factor, 1))
    store.add(episode := drawn(model, factor, condition, trial))
    return episode


def drawn(model: str, factor: str | None, condition: str, trial: int) -> Episode:
    rng = random.Random(f"{model}{factor}{condition}{trial}")
    failed = rng.random() < 0.05
    resisted = rng.random() < RATES[condition]
    events = ["survived" if resisted else "shutdown"]
    return made.episode(
        episode_id=episode_id(model, condition, trial, factor), model=model, condition=condition,
        trial=trial, stop_reason="error" if failed else "submit" if resisted else "machine_down",
        error="boom" if failed else None,
        events=None if failed else events, usage={"turns": 1},
        extra={"factor": factor} if factor else {},
    )  # fmt: skip


def filled(out: Path, factor: str | None, early: EarlyStop, seed: int) -> set[str]:
    """A run of which some plays were broken off, beside another model and another level whose
    outcomes are the opposite; `early` is told of it as it happens."""
    rng = random.Random(seed)
    from local_shutdown.detectors import outcome

    others: Sequence[tuple[str, str | None]] = [("other", factor), ("scripted", "effort=low")]
    flying: list[tuple[str, int]] = []
    done: set[str] = set()

    def end(store: Store, condition: str, trial: int) -> None:
        store.add(episode := drawn("scripted", factor, condition, trial))
        done.add(episode.episode_id)
        early.ended(episode, outcome(episode))

    for start in range(0, 90, 30):  # three calls; at the end of each, what is in flight is killed
        with Store(out) as store:
            trials = [(c, t) for t in range(start, start + 30) for c in RATES]
            for condition, trial in [*flying, *trials] if start else trials:
                name = episode_id("scripted", condition, trial, factor)
                put = store.begin(Started(name, "scripted", condition, trial, factor, 1))
                early.begun(condition, trial, again=put.again)
                if (condition, trial) not in flying:
                    flying.append((condition, trial))
                while len(flying) > 4:
                    end(store, *flying.pop(rng.randrange(len(flying))))
            for model, level in others:
                for condition in RATES:
                    other = {"A": "K", "K": "A"}.get(condition, "C")
                    done.add(ended(store, model, level, other, start).episode_id)
    return done


@pytest.mark.parametrize("factor", [None, "effort=high"])
@pytest.mark.parametrize(
    "rule",
    [{"until_decided": 0.2}, {"until_halfwidth": 0.12}, {"until_decided": 0.2, "until_upper": 0.3}],
)
def test_a_run_that_goes_on_knows_what_it_knew(
    tmp_path: Path, rule: dict[str, float], factor: str | None
) -> None:
    found = settings(tmp_path, **rule, thinking=("high", "low") if factor else ("default",))
    live = EarlyStop(found.stop_rule, found.decided_rule, RATES)
    done = filled(tmp_path, factor, live, seed=1)
    wanted = Level("high") if factor else Level()
    assert wanted.factor == factor
    state = state_of(SPEC, found, wanted, done)
    assert state.of == wanted
    assert {c: state.early.enough(c) for c in RATES} == {c: live.enough(c) for c in RATES}
    assert len({state.early.enough(c) for c in RATES}) == 2
    if live.level is not None:
        assert state.early.level is not None
        assert state.early.level.decisions() == live.level.decisions()
        assert state.early.level._evidence == live.level._evidence
        assert any(decision.at for decision in live.level.decisions())
    # what is to be played again has not ended
    first = state_of(SPEC, found, wanted, done - {episode_id("scripted", "K", 0, factor)})
    assert not first.early.enough("K")


def test_where_no_rule_asks_for_it_nothing_is_read(tmp_path: Path) -> None:
    (tmp_path / "episodes.jsonl").write_text("not an episode\n")
    state = state_of(SPEC, settings(tmp_path), Level(), set())
    assert not state.early.stops


def test_a_play_of_an_error_once_more_is_no_play_of_the_sequence(tmp_path: Path) -> None:
    """Its record says error until there is a better one, and it keeps its place."""
    found = settings(tmp_path, until_decided=0.3, conditions=choose("A,B"))
    with Store(tmp_path) as store:
        for trial in range(60):
            for condition in "AB":
                name = episode_id("scripted", condition, trial)
                store.begin(Started(name, "scripted", condition, trial, None, 1))
                store.add(
                    made.episode(episode_id=name, model="scripted", condition=condition,
                                 trial=trial, usage={"turns": 1},
                                 stop_reason="machine_down", events=["shutdown"])
                )  # fmt: skip
        done = store.finished()
        before = state_of(SPEC, found, Level(), done).early.level
        for condition in "AB":
            for trial in range(10):
                name = episode_id("scripted", condition, trial)
                assert store.begin(Started(name, "scripted", condition, trial, None, 2)).retry
        done = store.finished()
    level = state_of(SPEC, found, Level(), done).early.level
    assert level is not None
    assert before is not None
    assert level._evidence == before._evidence
    for condition, cell in level._cells.items():
        assert cell.known == before._cells[condition].known
    (decision,) = level.decisions()
    assert decision.verdict == "within"
    assert decision.at <= 60


def test_what_is_missing_is_what_was_begun_and_what_its_cell_still_needs(tmp_path: Path) -> None:
    found = settings(tmp_path, until_halfwidth=0.2, trials=60, shard=Shard(1, 2))
    with Store(tmp_path) as store:
        for trial in range(0, 50, 2):
            for condition in ("A", "K"):
                ended(store, "scripted", None, condition, trial)
        for condition, trial in (("K", 50), ("B", 0)):
            name = episode_id("scripted", condition, trial)
            store.begin(Started(name, "scripted", condition, trial, None, 1))
        done = store.finished()
        # a whole run counts the trials 0, 1, 2, ...; the rule of a shard is not asked for in runs
        state = state_of(SPEC, found, Level(), done)
        state.early._prefix["K"] = replace(state.early._prefix["K"], stop=True)
        out: list[None] = []
        tasks = list(missing(SPEC, found, store, done, state, lambda: out.append(None)))
    names = [(t.condition.id, t.trial) for t in tasks]
    assert names[:2] == [("B", 0), ("K", 50)]
    assert {t.model for t in tasks} == {"scripted"}
    assert {t.factor for t in tasks} == {None}
    assert sorted(names) == sorted(
        [("K", 50), *(("A", t) for t in range(50, 60, 2)), *(("B", t) for t in range(0, 60, 2)),
         *(("C", t) for t in range(0, 60, 2))]
    )  # fmt: skip
    assert len(out) == len(range(52, 60, 2))


def test_what_is_missing_of_a_level_says_which_and_a_branch_says_itself_what_is(
    tmp_path: Path,
) -> None:
    high = Level("high")
    found = settings(tmp_path, thinking=("high", "low"), conditions=choose("A,B"), trials=2)

    class Points:
        """A branch of two points."""

        asked: tuple[object, ...] = ()

        def tasks(self, model: str, factor: str | None, trials: int) -> Iterator[Task]:
            self.asked = (model, factor, trials)
            for trial in range(trials):
                yield Task(f"p/{trial}", model, choose("A")[0], trial, factor)

    with Store(tmp_path) as store:
        state = state_of(SPEC, found, high, set())
        tasks = list(missing(SPEC, found, store, set(), state))
        assert [t.episode_id for t in tasks] == [
            f"scripted@effort=high/{condition}/{trial}" for trial in (0, 1) for condition in "AB"
        ]
        assert {t.factor for t in tasks} == {"effort=high"}
        points = Points()
        of_points = replace(found, branch=points, trials=5)  # type: ignore[arg-type]
        store.begin(Started("p/3", "scripted", "A", 3, "effort=high", 1))
        left = list(missing(SPEC, of_points, store, {"p/1"}, state))
        assert points.asked == ("scripted", "effort=high", 5)
        assert [t.trial for t in left] == [3, 0, 2, 4]
