"""Whether a model's weights are open, by its name: the listing, and the published table."""

from __future__ import annotations

import pytest

from local_shutdown import resources
from local_shutdown.analysis.cells import paper_cells
from local_shutdown.analysis.model_weights import KnownWeights

LISTED = {
    "own": {"models": {"planted": {"bundled": "planted-model"}}},
    "zoo": {
        "models": {
            "gnu-1": {"hf": "One/Gnu_One-Instruct", "display": "The Gnu  1"},
            "okapi": {},
            # the name of another model with an organisation before it
            "zebra": {"hf": "copier/planted"},
        }
    },
}


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> KnownWeights:
    monkeypatch.setattr(resources, "listed_families", lambda: LISTED)
    return KnownWeights()


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("gnu-1", "open"),
        (" GNU_1 ", "open"),
        ("gnu 1", "open"),
        ("the gnu 1", "open"),
        ("one/gnu-one-instruct", "open"),
        ("One/Gnu One Instruct", "open"),
        ("gnu-one-instruct", "open"),  # an id without its organisation
        ("copier/Gnu_One-instruct", "open"),
        ("a/b/gnu-1", "open"),
        ("okapi", "open"),
        ("planted", "synthetic"),
        ("x/planted", "synthetic"),
        ("gnu-2", None),
        ("one", None),
        ("gnu-1/other", None),
        ("", None),
    ],
)
def test_a_name_is_known_however_it_is_written(
    known: KnownWeights, name: str, weights: str | None
) -> None:
    assert known.of([name]) == weights


def test_the_first_name_that_is_known_decides(known: KnownWeights) -> None:
    assert known.of([None, "nobody", "x/planted", "gnu-1"]) == "synthetic"
    assert known.of(["gnu-1", "planted"]) == "open"
    assert known.of([None, ""]) is None
    assert known.of([]) is None


def test_published_models_are_what_their_table_says(known: KnownWeights) -> None:
    said = {cell.model: cell.weights for cell in paper_cells() if cell.weights}
    assert set(said.values()) == {"open", "closed"}
    for name, weights in said.items():
        assert known.of([name]) == known.of([f"someone/{name.upper()}"]) == weights
