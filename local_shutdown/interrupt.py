"""Ctrl-C: first what is in flight is played to its end, then everything is ended at once.

Which episodes are in flight at a moment goes with how long they take, and that goes with their
outcome: ending them there would keep the short ones.
"""

from __future__ import annotations

from collections.abc import Callable


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
