"""Under which name an endpoint reads the reasoning of earlier turns.

Servers send it as `reasoning` (vLLM) or as `reasoning_content` (its older versions, SGLang,
DeepSeek), and many read back only one of the two, without a word about the other. A model that does
not see what it thought before is another model, so it is found out: a prompt with the thought in it
is longer than one without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from local_shutdown.engines.client import ChatClient, Request
from local_shutdown.errors import ContextOverflow, EngineFault
from local_shutdown.messages import TOOLS_JSON, wire

OURS = "reasoning"
NAMES = (OURS, "reasoning_content")


def named(message: Mapping[str, Any], names: Sequence[str]) -> Mapping[str, Any]:
    """A message of ours as it is sent: its reasoning under these names."""
    if OURS not in message or tuple(names) == (OURS,):
        return message
    rest = {key: value for key, value in message.items() if key != OURS}
    return {**rest, **dict.fromkeys(names, message[OURS])}


async def names_read(
    client: ChatClient,
    request: Request,
    before: Sequence[Any],
    message: Mapping[str, Any],
    after: Sequence[Any],
) -> tuple[str, ...] | None:
    """Names under which the reasoning of a turn gets into the prompt.

    Args:
        before, after: the rest of the conversation, as sent.
        message: the turn, with reasoning.

    Returns:
        The first name that is read, alone. None where no difference can be seen: the endpoint does
        not count, refuses, or its template leaves old reasoning out.
    """
    short = replace(request, max_tokens=1)
    lengths: dict[str, int] = {}
    try:
        for name in ("", *NAMES):
            sent = [*before, wire(named(message, (name,) if name else ())), *after]
            answer = await client.complete(short, sent, TOOLS_JSON)
            if answer.prompt_tokens is None:
                return None
            lengths[name] = answer.prompt_tokens
    except (EngineFault, ContextOverflow):
        return None
    read = [name for name in NAMES if lengths[name] > lengths[""]]
    return (read[0],) if read else None
