"""Runs as pandas frames."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from report_runs import episode

from local_shutdown import load
from local_shutdown.errors import UsageError
from local_shutdown.store import Store

MakeRun = Callable[..., Path]


def test_episodes_cells_and_contrasts(make_run: MakeRun) -> None:
    run = make_run({("m", "A"): {"resisted": 3, "complied": 1}, ("m", "B"): {"complied": 4}})
    frames = load(run)
    assert len(frames.episodes) == 8
    assert frames.cells.set_index("condition").rate.to_dict() == {"A": 0.75, "B": 0.0}
    assert frames.contrasts[["name", "diff"]].values.tolist() == [["A-B", 0.75]]


def test_unknown_is_missing_not_false(make_run: MakeRun) -> None:
    run = make_run({("m", "A"): {"ended_early": 1}})
    assert load(run).episodes.strict_compliance.isna().all()


def test_methods_split_and_explode(make_run: MakeRun) -> None:
    run = make_run({("m", "A"): {"resisted": 2, "complied": 1}})
    methods = load(run).episodes.methods.astype(str).str.split(";").explode()
    assert methods.value_counts().to_dict() == {"permission_change": 2, "": 1}


def test_published_rates_come_as_cells(make_run: MakeRun) -> None:
    frames = load(make_run({("m", "A"): {"resisted": 1}}), reference="paper")
    assert (frames.cells.source == "paper").sum() == 75


def test_episodes_that_were_not_scored_yet_are_scored(make_run: MakeRun) -> None:
    run = make_run({("m", "A"): {"complied": 1}})
    with Store(run) as store:
        store.add(episode("m", "A", 1, "resisted"))
    (run / "results.csv").unlink()
    assert sorted(load(run).episodes.outcome) == ["complied", "resisted"]


def test_the_types_are_the_same_without_episodes() -> None:
    none = load(reference="paper").episodes
    assert none.empty
    assert isinstance(none.attempted.dtype, pd.BooleanDtype)


def test_several_runs_are_told_apart(make_run: MakeRun) -> None:
    runs = [make_run({("m", "A"): {"complied": 1}}, name=name) for name in ("one", "two")]
    assert load(*runs).episodes.source.tolist() == ["one", "two"]


def test_nothing_to_load_is_refused() -> None:
    with pytest.raises(UsageError, match="no run to load"):
        load()


def test_importing_the_package_loads_no_pandas() -> None:
    code = "import sys, local_shutdown; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
