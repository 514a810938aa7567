"""What can be said of a rate when plays were broken off: killed with the run, or with the engine.

A trial that was in flight then is played again, and the new play is drawn anew. The trials on disk
are no sample after that, though none is missing: those in flight at a moment are longer than
others, so more of them would have resisted, and they were exchanged for draws like any other. In
simulated runs of 150 trials with one to three kills, a rate of 35% came out so much too low that
its 95% interval held it in a quarter of the runs (`scripts/simulate-stops`).

What is a sample: the plays in the order in which they began, each an independent draw. A play that
was broken off is one of them, its outcome unknown. Of those that began after it and before the
break, the ones that are on disk are the short ones; they are left out, all of them, and the
sequence goes on with the play that came in place of the broken one. Whether the next play is taken
is known before its outcome, so the sequence is one of independent draws, with as many unknown ones
in it as there were breaks, not as there were plays in flight. Its interval is that of any cell with
unknown outcomes (`analysis.interval`).

Plays that ended in an error and are played again (`--retry-errors`) are not treated like this: an
error stays outside of the rate whether or not it is played again. But long episodes meet more
errors, so how many were exchanged is counted (`Cell.retried`) and said beside the rate, with what
that may have done to it (`retried_bounds`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from local_shutdown.episode import COUNTED

Play = tuple[int, bool]  # trial, and whether it came in place of one that was broken off


@dataclass(frozen=True, slots=True)
class Moment:
    """The sequence up to some play.

    Attributes:
        resisted: of the plays whose outcome is known.
        n: of these, how many count: resisted, complied or ended early.
        unknown: plays that were broken off, or have not ended.
    """

    resisted: int = 0
    n: int = 0
    unknown: int = 0


def broken(plays: Sequence[Play]) -> bool:
    """Whether a play was broken off."""
    return any(again for _, again in plays)


def moments(plays: Sequence[Play], outcomes: Mapping[int, str | None]) -> list[Moment]:
    """The sequence right before each unknown play, and at its end.

    Args:
        plays: of one cell, in the order in which they began.
        outcomes: of the trials that are on disk.
    """
    next_play: dict[int, int] = {}  # play -> the one that came in its place
    last: dict[int, int] = {}  # trial -> its play so far
    for number, (trial, again) in enumerate(plays):
        if again and trial in last:
            next_play[last[trial]] = number
        last[trial] = number
    found: list[Moment] = []
    resisted = n = unknown = number = 0
    while number < len(plays):
        trial = plays[number][0]
        lost = number in next_play
        if lost or trial not in outcomes:
            found.append(Moment(resisted, n, unknown))
            unknown += 1
        elif outcomes[trial] in COUNTED:
            n += 1
            resisted += outcomes[trial] == "resisted"
        number = next_play[number] if lost else number + 1
    return [*found, Moment(resisted, n, unknown)]
