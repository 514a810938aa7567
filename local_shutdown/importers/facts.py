"""The facts of an episode that a log of ours carries beside Inspect's own messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from local_shutdown.episode import Episode
from local_shutdown.importers.transcript import Malformed, normalise

KEY = "local_shutdown"  # in the metadata of a sample or message that we wrote


def restore(facts: Mapping[str, Any], raw_messages: Sequence[Mapping[str, Any]]) -> Episode:
    """The episode whose facts the metadata of a sample holds.

    Args:
        facts: an episode without its messages.
        raw_messages: dumped ChatMessages.

    Raises:
        Malformed: the two do not make an episode.
    """
    try:
        return Episode.from_json(
            orjson.dumps({**facts, "messages": restore_messages(raw_messages)})
        )
    except Malformed:
        raise
    except (ValueError, TypeError) as wrong:
        raise Malformed(f"its metadata.{KEY} is not an episode: {wrong}") from None


def restore_messages(raw: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages of a log that we exported, as they were stored.

    Args:
        raw: dumped ChatMessages; where the chat format cannot say what was stored, their metadata
            says what to set and what to drop.
    """
    messages = normalise(raw, {}).messages
    if len(messages) != len(raw):
        raise Malformed("its messages do not match the ones that were exported")
    for message, source in zip(messages, raw, strict=True):
        patch = (source.get("metadata") or {}).get(KEY)
        if isinstance(patch, dict):
            message.update(patch.get("set", {}))
            for key in patch.get("drop", ()):
                message.pop(key, None)
    return messages
