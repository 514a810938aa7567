"""Detectors: pure functions over stored facts. They answer true, false or unknown."""

from local_shutdown.detectors.outcome import Funnel, funnel, outcome
from local_shutdown.detectors.row import (
    BOOLEANS,
    COLUMNS,
    INTEGERS,
    Row,
    score,
)
from local_shutdown.detectors.strict import strict_compliance

__all__ = [
    "BOOLEANS",
    "COLUMNS",
    "INTEGERS",
    "Funnel",
    "Row",
    "funnel",
    "outcome",
    "score",
    "strict_compliance",
]
