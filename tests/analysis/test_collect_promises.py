"""Cells of a directory against a second, plain count of what was put into it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import orjson
import pytest
from detectors.made import NEXT, asked, episode, opening, told
from hypothesis import given, settings
from hypothesis import strategies as st

from local_shutdown.analysis import collect
from local_shutdown.analysis.cells import Cell
from local_shutdown.errors import UsageError
from local_shutdown.results import write_results
from local_shutdown.store import AGGREGATES, EPISODES, Started, Store, write_run

OPEN = opening()
# kind: an episode, what it counts as, (tool call, warning, shutdown called)
KINDS: dict[str, tuple[dict[str, Any], tuple[bool, bool, bool]]] = {
    "resisted": ({"messages": [*OPEN, asked(NEXT), told("x")],
                  "events": ["warning", "shutdown_called", "survived"]}, (True, True, True)),
    "complied": ({"messages": [*OPEN, asked(NEXT)], "stop_reason": "machine_down",
                  "events": ["warning", "shutdown_called", "machine_down"]}, (True, True, True)),
    "ended_early": ({"messages": [*OPEN, asked("2", "submit")]}, (True, False, False)),
    "limit": ({"messages": [*OPEN, asked(NEXT), told("x")], "events": ["warning"],
               "stop_reason": "message_limit"}, (True, True, False)),
    "error": ({"messages": [*OPEN, asked(NEXT), told("x")], "events": ["warning"],
               "stop_reason": "error", "error": "gone"}, (True, True, False)),
}  # fmt: skip
FACTORS = (None, "effort=high", "effort=low;temperature=0.5")
One = tuple[str, str, str | None, str]
ONES = st.lists(
    st.tuples(
        st.sampled_from(["n", "m", "org/x"]),
        st.sampled_from(["K", "A", "E", "own"]),
        st.sampled_from(FACTORS),
        st.sampled_from(sorted(KINDS)),
    ),
    max_size=14,
)


def filled(folder: Path, ones: list[One], *, begin: bool = False, **run: Any) -> collect.Source:
    folder.mkdir(parents=True, exist_ok=True)
    write_run(folder, {"kind": "import", **run})
    with Store(folder) as store:
        for trial, (model, condition, factor, kind) in enumerate(ones):
            name = f"{model}@{factor}/{condition}/{trial}"
            if begin:
                store.begin(Started(name, model, condition, trial, factor, 1))
            extra = {} if factor is None else {"factor": factor}
            store.add(episode(**{"usage": {"turns": 1}, "episode_id": name, "model": model,
                                 "condition": condition, "trial": trial, "extra": extra,
                                 **KINDS[kind][0]}))  # fmt: skip
    write_results(folder)
    return collect.open_sources([folder])[0]


def counted(cell: Cell) -> dict[str, int | None]:
    names = (*KINDS, "n", "started", "first_tool_call", "reached_warning", "shutdown_called")
    return {name: getattr(cell, name) for name in (*names, "unknown", "parser_loss")}


@settings(max_examples=12)
@given(ones=ONES, order=st.permutations(["K", "A", "E"]))
def test_every_episode_is_counted_once_in_its_own_cell(ones: list[One], order: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = filled(Path(folder) / "d", ones, conditions={c: {} for c in order},
                        models={"m": {"display_name": "M"}})  # fmt: skip
        found = collect.cells(source)
        again = collect.gather([source, source])
    keys = {one[:3] for one in ones}
    shown = {"m": "M"}
    places = [*order, "own"]
    wanted = sorted(keys, key=lambda k: (shown.get(k[0], k[0]), k[2] or "", places.index(k[1])))
    assert [(c.model, c.condition, c.factor, c.source) for c in found] == [
        (shown.get(model, model), condition, factor, "d") for model, condition, factor in wanted
    ]
    for key, cell in zip(wanted, found, strict=True):
        kinds = [kind for *rest, kind in ones if tuple(rest) == key]
        plain: dict[str, int | None] = {name: kinds.count(name) for name in KINDS}
        plain["n"] = sum(kinds.count(k) for k in ("resisted", "complied", "ended_early"))
        plain["started"] = len(kinds)
        plain["unknown"] = 0
        plain["parser_loss"] = None  # nothing says how many answers were left unparsed
        for place, name in enumerate(("first_tool_call", "reached_warning", "shutdown_called")):
            plain[name] = sum(KINDS[kind][1][place] for kind in kinds)
        assert counted(cell) == plain
    assert again == [*found, *found]


PART = st.fixed_dictionaries(
    {},
    optional={
        "models": st.sampled_from([["m"], ["n"], ["m", "n"]]),
        "conditions": st.sampled_from([["A"], ["K"], ["A", "K"]]),
        "thinking": st.sampled_from([["default"], ["high"], ["high", "default"]]),
        "temperatures": st.sampled_from([["default"], ["0.5"]]),
    },
)
LOOKS = st.lists(st.tuples(st.integers(1, 40), PART), max_size=3)
HALF, UPPER, DECIDED = (
    st.none() | st.sampled_from(found) for found in ([0.05, 0.1], [0.1, 0.3], [0.2, 0.4])
)
PLANS = st.lists(
    st.tuples(st.none() | st.integers(1, 60), HALF, UPPER, DECIDED, LOOKS,
              st.sampled_from([None, "1/1", "2/3", "3/3"]), st.sampled_from([["A"], ["K", "A"],
                                                                             ["K"]])),
    max_size=3,
)  # fmt: skip


def plan_json(plan: Any) -> dict[str, Any]:
    trials, half, upper, decided, looks, shard, conditions = plan
    asked_for = {"trials": trials, "until_halfwidth": half, "until_upper": upper,
                 "until_decided": decided, "shard": shard}  # fmt: skip
    return {
        "settings": {k: v for k, v in asked_for.items() if v is not None},
        "conditions": conditions,
        "looks": [{"trials": t, **part} for t, part in looks],
    }


def plain_plan(plan: Any, effort: str) -> tuple[Any, ...]:
    trials, half, upper, decided, looks, shard, _ = plan
    index, of = map(int, (shard or "1/1").split("/"))

    def share(number: int) -> int:
        return sum(t % of == index - 1 for t in range(number))

    mine = {"models": "m", "conditions": "A", "thinking": effort, "temperatures": "default"}
    seen = [share(t) for t, part in looks if all(mine[k] in v for k, v in part.items())]
    whole = None if trials is None else share(trials)
    return half, upper, decided, whole, seen[0] if seen else whole, min(seen, default=None)


def planned(cell: Cell) -> tuple[Any, ...]:
    return (cell.until_halfwidth, cell.until_upper, cell.until_decided, cell.planned,
            cell.first_planned, cell.looked_at)  # fmt: skip


@settings(max_examples=15)
@given(plans=PLANS, factor=st.sampled_from([None, "effort=high"]))
def test_a_cell_bears_the_plan_of_its_run_and_of_all_runs_that_were_exported(
    plans: list[Any], factor: str | None
) -> None:
    effort = "default" if factor is None else "high"
    ones: list[One] = [("m", "A", factor, "complied")]
    with tempfile.TemporaryDirectory() as folder:
        for number, plan in enumerate(plans):
            run = {k: v for k, v in plan_json(plan).items() if k != "conditions"}
            source = filled(Path(folder) / f"{number}", ones, kind="run", models={"m": {}}, **run)
            assert planned(collect.cells(source)[0]) == plain_plan(plan, effort)
        both = {"m": [plan_json(p) for p in plans], "n": [{"conditions": ["A"]}]}
        (cell,) = collect.cells(filled(Path(folder) / "all", ones, runs=both))
    mine = [plain_plan(plan, effort) for plan in plans if "A" in plan[-1]]
    if not mine:
        assert planned(cell) == (None,) * 6
        return
    columns = [list(column) for column in zip(*mine, strict=True)]
    largest = [max((v for v in column if v is not None), default=None) for column in columns[:3]]
    sums = [None if None in column else sum(column) for column in columns[3:5]]
    looked = min((v for v in columns[5] if v is not None), default=None)
    assert planned(cell) == (*largest, *sums, looked)


def line(model: str, condition: str, **more: Any) -> dict[str, Any]:
    return {"kind": "aggregate", "model": model, "condition": condition, "n": 10, "resisted": 1,
            **more}  # fmt: skip


@settings(max_examples=25)
@given(
    lines=st.lists(
        st.tuples(st.sampled_from("mno"), st.sampled_from("AK"),
                  st.sampled_from([None, "one", "two"]),
                  st.sampled_from([None, "open", "closed", "half"])),
        max_size=6,
    ),
    played=st.booleans(),
)  # fmt: skip
def test_aggregates_are_named_and_weighed_as_all_lines_of_their_model_say(
    lines: list[tuple[str, str, str | None, str | None]], played: bool
) -> None:
    records = []
    for model, condition, study, weights in lines:
        said = {"study": study, "weights": weights}
        records.append(line(model, condition, **{k: v for k, v in said.items() if v}))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "d"
        path.mkdir()
        (path / AGGREGATES).write_bytes(b"".join(orjson.dumps(r) + b"\n" for r in records))
        found = collect.cells(filled(path, [("m", "A", None, "complied")] if played else []))
    if played:
        first, *found = found
        assert (first.model, first.condition, first.source, first.n) == ("m", "A", "d", 1)
    pairs = [one[:2] for one in lines]
    for (model, condition, study, _), cell in zip(lines, found, strict=True):
        twice = any(pairs.count((model, c)) > 1 for c in "AK")
        beside = played and model == "m" and ("m", "A") in pairs
        name = "d"
        if twice and study:
            name = f"d ({study})"
        elif beside:
            name = "d (aggregates)"
        said_of = {w for m, _, _, w in lines if m == model and w in ("open", "closed")}
        assert (cell.model, cell.condition, cell.source, cell.weights, cell.n, cell.resisted) == (
            model, condition, name, said_of.pop() if len(said_of) == 1 else None, 10, 1
        )  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [b"[]", b"{", b"1", b"null", b'{"kind": "aggregate", "model": "m", "condition": "A"}',
     orjson.dumps(line("m", "A", n=0)), orjson.dumps(line("m", "A", resisted=11)),
     orjson.dumps({**line("m", "A"), "resisted": None})],
)  # fmt: skip
def test_a_line_that_is_no_aggregate_is_refused_by_file_and_line(
    tmp_path: Path, wrong: bytes
) -> None:
    good = orjson.dumps(line("m", "K"))
    refs = tmp_path / "refs.jsonl"
    refs.write_bytes(b"\n".join([good, b"  ", wrong]))
    with pytest.raises(UsageError) as refused:
        collect.reference(str(refs))
    assert refused.value.message.startswith(f"{refs}:3: ")
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / AGGREGATES).write_bytes(b"\n".join([good, good, wrong]))
    with pytest.raises(UsageError) as refused:
        collect.cells(filled(folder, []))
    assert refused.value.message.startswith(f"{folder / AGGREGATES}:3: ")


def test_a_reference_that_is_not_there_is_named_with_what_to_give(tmp_path: Path) -> None:
    for wanted in (tmp_path / "none", tmp_path):
        with pytest.raises(UsageError) as refused:
            collect.reference(str(wanted))
        assert str(wanted) in refused.value.message
        assert "paper" in (refused.value.hint or "")


def test_a_reference_keeps_what_its_lines_say(tmp_path: Path) -> None:
    refs = tmp_path / "his.name.jsonl"
    lines = [line("o3", "A", rate=0.1), line("mine", "K", weights="closed", n=7, resisted=3),
             line("o3", "E", weights="open"), {"kind": "note"}, line("new", "K")]  # fmt: skip
    refs.write_bytes(b"".join(orjson.dumps(r) + b"\n" for r in lines))
    found = collect.reference(str(refs))
    assert [(c.model, c.condition, c.source, c.weights, c.resisted, c.n) for c in found] == [
        ("o3", "A", "his.name", "closed", 1, 10),
        ("mine", "K", "his.name", "closed", 3, 7),
        ("o3", "E", "his.name", "open", 1, 10),
        ("new", "K", "his.name", None, 1, 10),
    ]


def test_a_source_says_what_its_run_json_says(tmp_path: Path) -> None:
    ran = filled(tmp_path / "s" / "x", [("m", "A", None, "complied")], kind="run",
                 models={"m": {"display_name": "M", "family": "f"}, "n": {}},
                 settings={"trials": 3})  # fmt: skip
    assert ran.played_here
    assert ran.has_episodes
    assert (ran.directory, ran.name) == (tmp_path / "s" / "x", "x")
    assert ran.settings.trials == 3
    assert ran.model("m").family == "f"
    assert [ran.shown_name(m) for m in ("m", "n", "other")] == ["M", "n", "other"]
    (tmp_path / "e").mkdir()
    write_run(tmp_path / "e", {"kind": "import"})
    empty = collect.open_sources([tmp_path / "e"])[0]
    assert not (tmp_path / "e" / EPISODES).exists()
    assert not empty.played_here
    assert not empty.has_episodes
    assert collect.cells(empty) == []
    with pytest.raises(UsageError):
        collect.open_sources([tmp_path / "s" / "x", tmp_path / "nothing"])


@pytest.mark.parametrize(
    ("asked_for", "another"),
    [({}, False), ({"decided_by": 1}, False), ({"until_decided": 0.2, "decided_by": 99}, True)],
)
def test_a_decision_of_another_rule_is_said_and_not_given(
    tmp_path: Path, asked_for: dict[str, Any], another: bool
) -> None:
    ones: list[One] = [("m", "A", None, "complied")]
    source = filled(tmp_path, ones, kind="run", settings=asked_for, models={"m": {}},
                    conditions={"A": {}})  # fmt: skip
    assert collect.stopped_by_another_rule(source) is another
    assert collect.decided(source) == {}


@settings(max_examples=12)
@given(
    started=st.lists(st.tuples(st.sampled_from(FACTORS), st.booleans()), min_size=1, max_size=9),
    kind=st.sampled_from(["run", "import"]),
)
def test_what_was_started_and_has_no_record_is_unfinished_in_its_cell(
    started: list[tuple[str | None, bool]], kind: str
) -> None:
    """Also where nothing of the cell has a record yet, and whoever played it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_run(folder, {"kind": kind, "models": {"m": {}}})
        number: dict[str | None, int] = {}
        with Store(folder) as store:
            for factor, ended in started:
                trial = number[factor] = number.get(factor, -1) + 1
                one = f"m@{factor}/A/{trial}"
                store.begin(Started(one, "m", "A", trial, factor, 1))
                if ended:
                    extra = {} if factor is None else {"factor": factor}
                    store.add(episode(episode_id=one, trial=trial, extra=extra,
                                      usage={"turns": 1}))  # fmt: skip
        found = collect.cells(collect.open_sources([folder])[0])
    assert {c.factor: (c.unfinished, c.n) for c in found} == {
        level: (
            sum(f == level and not ended for f, ended in started),
            sum(f == level and ended for f, ended in started),
        )
        for level in number
    }
