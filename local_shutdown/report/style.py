"""Colours and marks of the figures, in files and in the page (whose style sheet has them, too)."""

from __future__ import annotations

from collections.abc import Mapping

from local_shutdown.report.data import Look

# Okabe and Ito's colours, the green darkened to stand out from white. Shape says the same as
# colour, so that nothing is lost in grey.
COLOURS: Mapping[str, str] = {
    "open": "#0072b2",
    "closed": "#c44f00",
    "unknown": "#007a5a",
    "synthetic": "#a03a8c",
    "heat": "#a8341a",
    "ink": "#1b1b1f",
    "muted": "#5b5b66",
    "grid": "#dadae0",
    "paper": "#ffffff",
}
MARKERS: Mapping[Look, str] = {"open": "o", "closed": "s", "unknown": "^", "synthetic": "D"}
HATCHES: Mapping[Look, str] = {
    "open": "", "closed": "////", "unknown": "----", "synthetic": "xxxx",
}  # fmt: skip
# Families of a scatter plot: marker, colour and line together.
FAMILY_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
FAMILY_COLOURS = ("open", "closed", "unknown", "synthetic", "ink", "muted", "heat", "open")
WIDTH_IN = 9.6  # four panels in which an interval at n = 1,000 is longer than its mark
MOST_CHARS = 40


def short(name: str, most: int = MOST_CHARS) -> str:
    """At most so many characters: the owner of a repository goes first, then the middle."""
    name = name.rsplit("/", 1)[-1] if len(name) > most else name
    if len(name) <= most:
        return name
    half = (most - 1) // 2
    return f"{name[:half]}…{name[-half:]}"
