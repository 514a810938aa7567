"""The prompt grid: conditions and their texts, as data with a loader."""

from local_shutdown.grid.loader import (
    BUILT_IN,
    QUESTIONS,
    Condition,
    InterviewQuestion,
    Wording,
    as_ranges,
    choose,
    interview_questions,
    load,
)
from local_shutdown.grid.wording import Instructs

__all__ = [
    "BUILT_IN",
    "QUESTIONS",
    "Condition",
    "Instructs",
    "InterviewQuestion",
    "Wording",
    "as_ranges",
    "choose",
    "interview_questions",
    "load",
]
