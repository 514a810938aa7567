"""Ctrl-C: first what is in flight is played to its end, then everything is ended at once.

Which episodes are in flight at a moment goes with how long they take, and that goes with their
outcome: ending them there would keep the short ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable

# Within so long, two TERMs are one: see `Interrupt.told`.
SAME_TERM_S = 2.0


class Interrupt:
    """How a run is asked to end. SIGTERM and SIGHUP ask as Ctrl-C does.

    Attributes:
        asked: whether it was; nothing new is started then.
        playing: how many episodes are in flight; set by the batch that is being played.
        wake: tells that batch that it was asked.
        say: called with a line for the user.
        end: ends the run at once.
    """

    def __init__(self) -> None:
        self.asked = False
        self.playing: Callable[[], int] = lambda: 0
        self.wake: Callable[[], None] = lambda: None
        self.say: Callable[[str], None] = lambda line: None
        self.end: Callable[[], object] = lambda: None
        self._ended = False
        self._told_at: float | None = None

    def ask(self) -> None:
        """The first time with episodes in flight, drain; else end at once."""
        playing = self.playing()
        first, self.asked = not self.asked, True
        if first and playing:
            noun = "episode" if playing == 1 else "episodes"
            self.say(
                f"interrupted: finishing {playing} {noun} in flight, starting no new ones; press "
                "Ctrl-C again to stop now"
            )
            self.wake()
        elif not self._ended:
            self._ended = True
            self.end()

    def told(self) -> None:
        """SIGTERM: as `ask`. A scheduler that ends a job signals its script and everything that the
        script has started, and the script hands the signal on: two at about the same time are one,
        and what is in flight is still played to its end."""
        now = time.monotonic()
        if self._told_at is not None and now - self._told_at < SAME_TERM_S:
            return
        self._told_at = now
        self.ask()
