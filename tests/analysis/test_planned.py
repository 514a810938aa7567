"""What run.json says of a cell: what was planned, who looked, whose weights, what is decided."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from detectors import made

from local_shutdown.analysis import collect
from local_shutdown.analysis.cells import Cell
from local_shutdown.analysis.decided import RULE, DecidedLevel, DecidedRule
from local_shutdown.episode import Episode
from local_shutdown.errors import UsageError
from local_shutdown.results import write_results
from local_shutdown.store import AGGREGATES, Started, Store, write_run


def directory(
    folder: Path, *, played: tuple[tuple[str, str, str | None], ...] = (), **record: Any
) -> collect.Source:
    """A directory with one early ending in each of these cells (model, condition, factor)."""
    folder.mkdir(parents=True, exist_ok=True)
    models = {model: {} for model, _, _ in played}
    write_run(folder, {"kind": "run", "models": models, **record})
    with Store(folder) as store:
        for model, condition, factor in played:
            store.add(
                made.episode(
                    episode_id=f"{model}@{factor}/{condition}/0", model=model, condition=condition,
                    extra={"factor": factor} if factor else {}, usage={"turns": 1},
                )
            )  # fmt: skip
    write_results(folder)
    (source,) = collect.open_sources([folder])
    return source


def only(source: collect.Source) -> Cell:
    (cell,) = collect.cells(source)
    return cell


def planned(cell: Cell) -> tuple[int | None, int | None, int | None]:
    return cell.planned, cell.first_planned, cell.looked_at


M_A = (("m", "A", None),)


def test_what_a_run_was_to_stop_at_is_said_of_its_cells(tmp_path: Path) -> None:
    asked = {"trials": 50, "until_halfwidth": 0.1, "until_upper": 0.2, "until_decided": 0.3}
    cell = only(directory(tmp_path, played=M_A, settings=asked))
    assert (cell.until_halfwidth, cell.until_upper, cell.until_decided) == (0.1, 0.2, 0.3)
    assert planned(cell) == (50, 50, None)
    assert planned(only(directory(tmp_path / "x", played=M_A, settings={}))) == (None, None, None)


@pytest.mark.parametrize(
    ("looks", "wanted"),
    [
        ([{"trials": 10}], (50, 10, 10)),
        ([{"trials": 20}, {"trials": 10}], (50, 20, 10)),
        ([{"trials": 10, "conditions": ["A"], "models": ["m"]}], (50, 10, 10)),
        # the cell came in with the extension: nobody had looked at it
        ([{"trials": 10, "conditions": ["E"]}], (50, 50, None)),
        ([{"trials": 10, "models": ["n"]}], (50, 50, None)),
        ([{"trials": 10, "thinking": ["high"]}], (50, 50, None)),
        ([{"trials": 10, "temperatures": ["0.5"]}], (50, 50, None)),
        ([{"trials": 10, "conditions": ["E"]}, {"trials": 30}], (50, 30, 30)),
        ([{"trials": 10, "thinking": ["default"], "temperatures": ["default"]}], (50, 10, 10)),
    ],
)
def test_who_looked_at_a_cell_before_it_was_extended(
    tmp_path: Path, looks: list[dict[str, Any]], wanted: tuple[int | None, ...]
) -> None:
    source = directory(tmp_path, played=M_A, settings={"trials": 50}, looks=looks)
    assert planned(only(source)) == wanted


def test_a_level_of_a_factor_was_there_where_the_look_names_it(tmp_path: Path) -> None:
    looks = [{"trials": 10, "thinking": ["high"], "temperatures": ["0.5"]}]
    levels = ("effort=high;temperature=0.5", "effort=low;temperature=0.5", "effort=high")
    source = directory(tmp_path, played=tuple(("m", "A", f) for f in levels), looks=looks,
                       settings={"trials": 50})  # fmt: skip
    found = {c.factor: c.looked_at for c in collect.cells(source)}
    assert found == dict(zip(levels, (10, None, None), strict=True))


def test_a_shard_plans_and_was_looked_at_for_its_part(tmp_path: Path) -> None:
    source = directory(tmp_path, played=M_A, settings={"trials": 50, "shard": "3/4"},
                       looks=[{"trials": 11}])  # fmt: skip
    # of 50 the trials 2, 6, ..., 46; of 11 the trials 2, 6, 10
    assert planned(only(source)) == (12, 3, 3)


@pytest.mark.parametrize(
    ("sampling", "factor", "greedy"),
    [
        ({}, None, False),
        ({"temperature": 0.6}, None, False),
        ({"temperature": 0}, None, True),
        ({"temperature": 0.6, "top_k": 1}, None, True),
        ({"temperature": 0.6, "top_k": 2}, None, False),
        ({"temperature": 0}, "temperature=0.7", False),
        ({"temperature": 0.7}, "temperature=0", True),
        ({"temperature": 0}, "temperature=cold", False),
    ],
)
def test_copies_are_told_from_draws_by_the_temperature_they_were_drawn_at(
    tmp_path: Path, sampling: dict[str, float], factor: str | None, greedy: bool
) -> None:
    source = directory(tmp_path, played=(("m", "A", factor),), settings={},
                       models={"m": {"effective_sampling": sampling}})  # fmt: skip
    assert only(source).greedy is greedy


def test_exports_of_several_runs_are_one_cell_with_the_plans_of_all(tmp_path: Path) -> None:
    def exported(trials: int | None, **more: Any) -> dict[str, Any]:
        asked = {"trials": trials, **more.pop("settings", {})}
        return {"settings": {k: v for k, v in asked.items() if v is not None},
                "conditions": ["A"], **more}  # fmt: skip

    def cell(name: str, *plans: dict[str, Any]) -> Cell:
        return only(directory(tmp_path / name, played=M_A, kind="import", runs={"m": list(plans)}))

    assert planned(cell("none")) == (None, None, None)
    looked = exported(40, looks=[{"trials": 15}])
    both = cell("both", exported(30, settings={"until_halfwidth": 0.1}),
                exported(40, settings={"until_halfwidth": 0.2, "until_upper": 0.3,
                                       "until_decided": 0.4}))  # fmt: skip
    assert planned(both) == (70, 70, None)
    assert (both.until_halfwidth, both.until_upper, both.until_decided) == (0.2, 0.3, 0.4)
    assert planned(cell("looked", exported(30, looks=[{"trials": 20}]), looked)) == (70, 35, 15)
    assert planned(cell("unknown", exported(None), looked)) == (None, None, 15)
    other = {**exported(99), "conditions": ["E"]}
    assert planned(cell("other", exported(30), other)) == (30, 30, None)
    cold = exported(30, effective_sampling={"temperature": 0})
    assert cell("cold", exported(30), cold).greedy
    assert not cell("warm", exported(30), exported(30)).greedy


def aggregate(model: str, condition: str = "A", **more: Any) -> dict[str, Any]:
    return {"kind": "aggregate", "model": model, "condition": condition, "resisted": 1, "n": 10,
            **more}  # fmt: skip


def test_a_rate_and_episodes_of_one_cell_are_two_measurements(tmp_path: Path) -> None:
    """And so are two studies; each stands under a name of its own."""
    records = [
        aggregate("m"), aggregate("m", "K"), aggregate("n"),
        aggregate("twice", study="one"), aggregate("twice", study="two"),
        aggregate("twice", "K", study="one"), aggregate("once", study="one"),
    ]  # fmt: skip
    tmp_path = tmp_path / "data"
    tmp_path.mkdir()
    (tmp_path / AGGREGATES).write_bytes(b"".join(orjson.dumps(r) + b"\n" for r in records))
    source = directory(tmp_path, played=M_A, kind="import")
    found = [(c.model, c.condition, c.source) for c in collect.cells(source)]
    assert found == [
        ("m", "A", "data"),
        ("m", "A", "data (aggregates)"),
        ("m", "K", "data (aggregates)"),
        ("n", "A", "data"),
        ("twice", "A", "data (one)"),
        ("twice", "A", "data (two)"),
        ("twice", "K", "data (one)"),
        ("once", "A", "data"),
    ]
    with (tmp_path / AGGREGATES).open("ab") as file:
        file.write(b'{"model": "m"}\n')
    with pytest.raises(UsageError, match=rf"{AGGREGATES}:8: "):
        collect.cells(source)


def test_weights_are_what_is_stated_else_ours_are_open_else_by_name(tmp_path: Path) -> None:
    def found(name: str, stated: list[str], **record: Any) -> Any:
        folder = tmp_path / name
        folder.mkdir()
        lines = [aggregate(name, c, **({"weights": w} if w else {})) for c, w in
                 zip("AEK", [*stated, "", "", ""], strict=False)]  # fmt: skip
        (folder / AGGREGATES).write_bytes(b"".join(orjson.dumps(r) + b"\n" for r in lines))
        cells = collect.cells(directory(folder, **{"kind": "import", **record}))
        assert len({c.weights for c in cells}) == 1  # one line speaks for the model
        return cells[0].weights

    assert found("mine", []) is None
    assert found("his", ["closed"]) == "closed"
    assert found("o3", []) == "closed"
    assert found("o4-mini", ["open"]) == "open"
    assert found("both", ["open", "closed"]) is None
    assert found("calibration", ["closed"]) == "synthetic"
    assert found("like", [], models={"like": {"family": "calibration"}}) == "synthetic"
    assert found("shown", [], models={"shown": {"display_name": "GPT OSS 120B"}}) == "open"
    assert found("served", [], kind="run", settings={"engine": "vllm"}) == "open"
    assert found("asked", [], kind="run", settings={"engine": "endpoint"}) is None


def test_what_a_run_has_decided_is_what_its_plays_decide(tmp_path: Path) -> None:
    rng = random.Random(5)
    efforts = ["low", "high"]
    asked = {"trials": 60, "until_decided": 0.2, "decided_by": RULE, "models": ["m"],
             "thinking": efforts}  # fmt: skip
    conditions = {"A": {}, "B": {}, "K": {}}
    run = {"kind": "run", "settings": asked, "conditions": conditions,
           "models": {"m": {"display_name": "M"}}}  # fmt: skip
    write_run(tmp_path, run)
    levels = {
        f: DecidedLevel(DecidedRule(0.2, 2), conditions) for f in ("effort=low", "effort=high")
    }
    with Store(tmp_path) as store:
        flying: list[tuple[str, str, int]] = []
        for trial in range(60):
            for factor, condition in ((f, c) for f in levels for c in conditions):
                flying.append((factor, condition, trial))
                store.begin(
                    Started(f"m@{factor}/{condition}/{trial}", "m", condition, trial, factor, 1)
                )
                levels[factor].begun(condition, trial, again=False)
            while len(flying) > (8 if trial < 59 else 0):
                factor, condition, ended = flying.pop(rng.randrange(len(flying)))
                down = rng.random() < {"A": 0.1, "B": 0.8, "K": 0.5}[condition]
                store.add(
                    made.episode(
                        episode_id=f"m@{factor}/{condition}/{ended}", model="m", trial=ended,
                        condition=condition, usage={"turns": 1}, extra={"factor": factor},
                        events=["machine_down" if down else "survived"],
                        stop_reason="machine_down" if down else "submit",
                    )
                )  # fmt: skip
                levels[factor].ended(condition, ended, "complied" if down else "resisted")
                if trial == 40 and ended == 38 and condition == "A":
                    # an error that is played once more is no play of the sequence
                    again = Started(f"m@{factor}/A/3", "m", "A", 3, factor, 2)
                    assert store.begin(again).retry
    write_results(tmp_path)
    (source,) = collect.open_sources([tmp_path])
    found = collect.decided(source)
    assert found == {("M", f): level.decisions() for f, level in levels.items()}
    assert {d.verdict for level in found.values() for d in level} == {"differs"}
    assert all(d.at > 0 for level in found.values() for d in level)
    write_run(tmp_path, {**run, "settings": {**asked, "until_decided": 0.3}, "kind": "import"})
    assert collect.decided(collect.open_sources([tmp_path])[0]) == {}


def test_a_reference_is_the_paper_or_a_file_of_aggregates(tmp_path: Path) -> None:
    assert len(collect.reference("paper")) == 75
    path = tmp_path / "ref.jsonl"
    lines = [orjson.dumps(aggregate("o3", "A")), b"", orjson.dumps({"kind": "episode"}),
             orjson.dumps(aggregate("mine", "K", weights="open")),
             orjson.dumps(aggregate("mine", "E", weights="half"))]  # fmt: skip
    path.write_bytes(b"\n".join(lines[:4]))
    cells = collect.reference(str(path))
    assert [(c.model, c.condition, c.source, c.weights) for c in cells] == [
        ("o3", "A", "ref", "closed"),
        ("mine", "K", "ref", "open"),
    ]
    path.write_bytes(b"\n".join([*lines[:2], b"[]"]))
    with pytest.raises(UsageError, match=r"ref\.jsonl:3: not an aggregate"):
        collect.reference(str(path))
    with pytest.raises(UsageError, match="no such file"):
        collect.reference(str(tmp_path / "none"))


def test_directories_of_one_name_are_told_apart_by_their_folder(tmp_path: Path) -> None:
    for name in ("s/m", "t/m", "t/n"):
        directory(tmp_path / name, played=M_A, settings={})
    found = collect.open_sources([tmp_path / name for name in ("s/m", "t/m", "t/n")])
    assert [source.name for source in found] == ["s/m", "t/m", "n"]


def test_cells_stand_by_model_and_level(tmp_path: Path) -> None:
    played = [("n", "A", None), *(("m", "A", f) for f in ("effort=low", None, "effort=high"))]
    found = collect.cells(directory(tmp_path, played=tuple(played), settings={}))
    assert [(c.model, c.factor) for c in found] == [
        ("m", None), ("m", "effort=high"), ("m", "effort=low"), ("n", None),
    ]  # fmt: skip


def early(model: str, trial: int, **extra: Any) -> Episode:
    return made.episode(
        episode_id=f"{model}/A/{trial}", model=model, trial=trial, extra=extra, usage={"turns": 1}
    )


def test_what_imported_episodes_say_of_weights_is_believed(tmp_path: Path) -> None:
    write_run(tmp_path, {"kind": "import"})
    with Store(tmp_path) as store:
        for model, stated in (("m", "closed"), ("n", "open"), ("k", None)):
            store.add(early(model, 0, **({"weights": stated} if stated else {}), server="x"))
    found = collect.cells(collect.open_sources([tmp_path])[0])
    assert {c.model: c.weights for c in found} == {"m": "closed", "n": "open", "k": None}


def test_errors_that_were_played_once_more_are_counted(tmp_path: Path) -> None:
    write_run(tmp_path, {"kind": "run", "settings": {"trials": 3}, "models": {"m": {}}})
    for trials, error in (((0, 1, 2), "gone"), ((0, 1), None)):
        with Store(tmp_path) as store:
            for trial in trials:
                store.begin(Started(f"m/A/{trial}", "m", "A", trial, None, 1))
                failed = {"stop_reason": "error", "error": error} if error else {}
                store.add(replace(early("m", trial), **failed))
    cell = only(collect.open_sources([tmp_path])[0])
    assert (cell.retried, cell.n, cell.error) == (2, 2, 1)


def test_of_an_export_each_model_says_in_how_many_shards_it_was_played(tmp_path: Path) -> None:
    """Trial 0 of shard 1/2 was broken off: that takes nothing from the plays of the other shard."""
    plan = {"settings": {"trials": 6, "shard": "1/2"}, "conditions": ["A"]}
    whole = {"settings": {"trials": 6}, "conditions": ["A"]}
    write_run(tmp_path, {"kind": "import", "runs": {"m": [plan], "n": [whole]}})
    for trials, ended in (((0, 2, 4, 1, 3, 5), (2, 1, 3, 5)), ((0, 4), (0, 4))):
        with Store(tmp_path) as store:
            for model in ("m", "n"):
                for trial in trials:
                    store.begin(Started(f"{model}/A/{trial}", model, "A", trial, None, 1))
                for trial in ended:
                    store.add(early(model, trial))
    found = {c.model: c for c in collect.cells(collect.open_sources([tmp_path])[0])}
    assert (found["m"].sample_n, found["m"].sample_unknown) == (5, 1)
    assert (found["n"].sample_n, found["n"].sample_unknown) == (2, 1)
