"""`python -m local_shutdown`, and the command `local-shutdown`."""

from __future__ import annotations

import sys


def start() -> None:
    """Load the command line and run it. Ctrl-C ends it in order while it loads, too, which takes
    some tenths of a second."""
    try:
        from local_shutdown.cli import main

        main(prog_name="local-shutdown")
    except KeyboardInterrupt:
        from local_shutdown.terminal import echo

        echo("interrupted before anything was begun", err=True)
        sys.exit(130)


if __name__ == "__main__":
    start()
