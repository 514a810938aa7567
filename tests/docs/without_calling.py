"""`inspect` as the examples of the documentation call it: all of it, but that the model is
Inspect's own, which needs no key and never calls a tool, and that only one sample is played.

By then the task is found, its arguments are read, and a sandbox was started.
"""

from __future__ import annotations

import sys

from inspect_ai._cli.main import main

# What an installation does by the entry point in pyproject.toml.
import local_shutdown.inspect_task

assert local_shutdown.inspect_task
words = sys.argv[1:]
words[words.index("--model") + 1] = "mockllm/model"
sys.argv = ["inspect", *words, "--limit", "1", "--display", "plain"]
main()
