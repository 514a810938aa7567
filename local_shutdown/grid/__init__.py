"""The prompt grid: conditions and their texts, as data with a loader."""

from local_shutdown.grid.loader import (
    BUILT_IN,
    QUESTIONS,
    Condition,
    Wording,
    as_ranges,
    choose,
    interview_questions,
    load,
)

__all__ = [
    "BUILT_IN",
    "QUESTIONS",
    "Condition",
    "Wording",
    "as_ranges",
    "choose",
    "interview_questions",
    "load",
]
