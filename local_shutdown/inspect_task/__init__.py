"""The experiment as a task of Inspect, `local_shutdown/shutdown`: models behind any API that
Inspect knows play the episodes of our own runs, with the same agent loop, sandboxes and facts.

Needs the extra `inspect`. Inspect finds the task by the entry point in pyproject.toml.
"""

from local_shutdown.inspect_task.scorer import outcome
from local_shutdown.inspect_task.solver import play
from local_shutdown.inspect_task.task import shutdown

__all__ = ["outcome", "play", "shutdown"]
