"""Small runs, written as runs are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report_runs import Outcomes, episode

from local_shutdown.results import write_results
from local_shutdown.store import Store, write_run


def _maker(folder: Path) -> Callable[..., Path]:
    def make(outcomes: Outcomes, name: str = "run", factor: str | None = None, **run: Any) -> Path:
        directory = folder / name
        with Store(directory) as store:
            for (model, condition), counts in outcomes.items():
                results = [outcome for outcome, count in counts.items() for _ in range(count)]
                for trial, outcome in enumerate(results):
                    store.add(episode(model, condition, trial, outcome, factor=factor))
        models = {model: {"display_name": model} for model, _ in outcomes}
        described = {"kind": "run", "models": models, "settings": {"engine": "vllm"}}
        write_run(directory, {**described, **run})
        write_results(directory)
        return directory

    return make


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Write a run: {(model, condition): {outcome: how many}}."""
    return _maker(tmp_path)


@pytest.fixture(scope="module")
def make_run_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The same, for runs that the tests of a module share and do not change."""
    return _maker(tmp_path_factory.mktemp("runs"))
