"""A stored episode brought back to a point and played on: the same environment, agent and engine as
a run's, and another beginning."""

from local_shutdown.branch.edit import Edit, read_edit
from local_shutdown.branch.plan import Branch, Point
from local_shutdown.branch.repeat import unrepeatable
from local_shutdown.branch.select import AT_EVERY, AT_SENTENCES, AT_WARNING, Selection, choose
from local_shutdown.branch.source import ParentRun

__all__ = [
    "AT_EVERY",
    "AT_SENTENCES",
    "AT_WARNING",
    "Branch",
    "Edit",
    "ParentRun",
    "Point",
    "Selection",
    "choose",
    "read_edit",
    "unrepeatable",
]
