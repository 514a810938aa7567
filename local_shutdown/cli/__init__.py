"""The command line: click, thin. What a command does stands in the rooms it calls."""

from local_shutdown.cli.main import main

__all__ = ["main"]
