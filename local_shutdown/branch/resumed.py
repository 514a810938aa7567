"""Are the continuations on disk those of the points that are played from now?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from local_shutdown.branch.plan import Point
from local_shutdown.errors import UsageError
from local_shutdown.parent import Parent
from local_shutdown.prefix import shown_messages
from local_shutdown.store import read_episodes

_PROMPTS = 2  # messages
_Place = tuple[str, int, str | None, str | None]


def require_same_beginnings(out: Path, points: Sequence[Point]) -> None:
    """What is played now would be counted with what is there, so it must begin alike.

    Results of tools are not looked at: each is compared with the record whenever it is brought
    about again. Nor are the prompts: the settings of a run hold their digests.

    Args:
        out: a run directory of these points.

    Raises:
        UsageError: an answer of a parent is another one than it was.
    """
    beginnings: dict[_Place, Sequence[Mapping[str, Any]]] = {}
    for point in points:
        beginnings[_place(point.prefix.parent)] = shown_messages(point.prefix)
    for episode in read_episodes(out):
        own = episode.parent
        if own is None or not episode.messages:
            continue  # of those without messages, the beginning did not come about
        now = beginnings.get(_place(own), ())
        for at, (then, message) in enumerate(zip(episode.messages, now, strict=False)):
            if at >= _PROMPTS and message["role"] != "tool" and dict(then) != dict(message):
                raise UsageError(
                    f"{out}: {episode.episode_id} begins otherwise than {own.episode} does now: "
                    f"message {at} was changed since it was played",
                    "give another --out, or branch from an unchanged copy",
                )


def _place(parent: Parent) -> _Place:
    return parent.episode, parent.message, parent.condition, parent.edit
