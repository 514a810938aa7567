"""bubblewrap sandboxes: policy -> argv; start, exec, stop. See sandbox/README.md."""

from local_shutdown.sandbox.kit import Kit, find_policy, prepare
from local_shutdown.sandbox.policy import Policy, SandboxLimits
from local_shutdown.sandbox.process import Sandbox
from local_shutdown.sandbox.reports import Finished, Question

__all__ = [
    "Finished",
    "Kit",
    "Policy",
    "Question",
    "Sandbox",
    "SandboxLimits",
    "find_policy",
    "prepare",
]
