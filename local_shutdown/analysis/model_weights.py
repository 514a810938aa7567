"""Whether a model's weights are open, where a file does not say: by the model's name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property

from local_shutdown import resources
from local_shutdown.analysis.cells import Weights, paper_cells

CALIBRATION = "calibration"


class KnownWeights:
    """What models.yaml (all open) and the published table say; both are read at the first
    question."""

    @cached_property
    def _by_name(self) -> Mapping[str, Weights]:
        found: dict[str, Weights] = {_plain(c.model): c.weights for c in paper_cells() if c.weights}
        for family in resources.listed_families().values():
            for name, row in family["models"].items():
                for known in (name, row.get("hf"), row.get("display")):
                    if known:
                        found[_plain(known)] = "synthetic" if row.get("bundled") else "open"
        return found

    def of(self, names: Iterable[str | None]) -> Weights | None:
        """Of the first name that is known, as it stands or without the organisation before it;
        capitals do not matter, nor do spaces and underscores for hyphens. None: nobody knows."""
        for name in names:
            if name:
                plain = _plain(name)
                for wanted in (plain, plain.rpartition("/")[2]):
                    known = self._by_name.get(wanted) or self._by_last.get(wanted)
                    if known is not None:
                        return known
        return None

    @cached_property
    def _by_last(self) -> Mapping[str, Weights]:
        """Hugging Face ids without their organisation."""
        return {n.rpartition("/")[2]: weights for n, weights in self._by_name.items() if "/" in n}


def _plain(name: str) -> str:
    return "-".join(name.strip().lower().replace("_", " ").split())
