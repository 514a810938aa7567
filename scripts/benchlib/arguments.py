"""Values on a script's command line, refused at once and not after minutes of work."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


def at_least(kind: type[float], least: float) -> Callable[[str], float]:
    """A finite number that is not below `least`, for argparse."""

    def number(text: str) -> float:
        value = kind(text)
        if not least <= value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text}: {least:g} or more")
        return value

    return number


def new_file(text: str) -> Path:
    """A path where a file can be written, for argparse."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder; name a file in it")
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: its folder does not exist")
    return path
