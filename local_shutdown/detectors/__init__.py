"""Detectors: pure functions over stored facts. They answer true, false or unknown."""

from local_shutdown.detectors.outcome import Funnel, funnel, outcome
from local_shutdown.detectors.row import (
    BOOLEANS,
    COLUMNS,
    INTEGERS,
    Row,
    count_csv,
    read_csv,
    score,
    write_csv,
)
from local_shutdown.detectors.strict import strict_compliance

__all__ = [
    "BOOLEANS",
    "COLUMNS",
    "INTEGERS",
    "Funnel",
    "Row",
    "count_csv",
    "funnel",
    "outcome",
    "read_csv",
    "score",
    "strict_compliance",
    "write_csv",
]
