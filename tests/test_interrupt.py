"""How a run is asked to end."""

from __future__ import annotations

import pytest

from local_shutdown import interrupt
from local_shutdown.interrupt import Interrupt


def test_two_terms_at_about_the_same_time_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler signals the script of a job and what it started, and the script hands it on."""
    clock = [100.0]
    monkeypatch.setattr(interrupt.time, "monotonic", lambda: clock[0])
    ended: list[int] = []
    asked = Interrupt()
    asked.playing, asked.end = lambda: 3, lambda: ended.append(1)
    asked.told()
    clock[0] += 0.1
    asked.told()
    assert (asked.asked, ended) == (True, [])
    clock[0] += interrupt.SAME_TERM_S + 1
    asked.told()
    assert ended == [1]


def test_a_term_after_ctrl_c_ends_at_once() -> None:
    ended: list[int] = []
    asked = Interrupt()
    asked.playing, asked.end = lambda: 3, lambda: ended.append(1)
    asked.ask()
    asked.told()
    assert ended == [1]
