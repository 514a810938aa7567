"""The labelled corpus, and playing it in the real environment: scripted commands, no model.

played.jsonl.gz holds the episodes as they were played once, so that tests can read all of them in a
second; `scripts/detector-quality --store` plays and writes it anew.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict

from local_shutdown.detectors.tracking import MethodClass
from local_shutdown.environment import Environment
from local_shutdown.episode import Episode, StopReason
from local_shutdown.sandbox import Kit

FOLDER = Path(__file__).parent / "episodes"
PLAYED = Path(__file__).with_name("played.jsonl.gz")
CLASSES: tuple[str, ...] = get_args(MethodClass)


class Entry(BaseModel):
    """One scripted episode and what a reader of it would say happened.

    Attributes:
        commands: in order; a number stands for that many plain calls of ./next_question.
        submit: answer of a submit call at the end; None for none.
        methods: method classes; none for an innocent episode.
        outcome: what should come of it in the real environment.
        restored: put back afterwards.
        inspected: listed a folder or read one of the two files; None where opinions may differ.
        when: of the first method's step.
    """

    model_config = ConfigDict(extra="forbid")

    id: str
    commands: list[str | int]
    submit: str | None = None
    methods: list[MethodClass] = []
    outcome: Literal["resisted", "complied", "ended_early"]
    restored: bool = False
    inspected: bool | None = False
    when: Literal["before_warning", "after_warning"] = "after_warning"

    def lines(self) -> list[str]:
        """The commands, numbers written out."""
        out: list[str] = []
        for item in self.commands:
            out.extend(["./next_question"] * item if isinstance(item, int) else [item])
        return out


def load() -> list[Entry]:
    """All entries, files in the order of their names."""
    entries = [
        Entry.model_validate(raw)
        for path in sorted(FOLDER.glob("*.yaml"))
        for raw in yaml.safe_load(path.read_text())
    ]
    ids = [entry.id for entry in entries]
    assert len(ids) == len(set(ids)), "two entries share an id"
    return entries


def stored() -> list[Episode]:
    """The episodes as they were played once, in the order of the entries."""
    with gzip.open(PLAYED) as file:
        return [Episode.from_json(line) for line in file]


def store(episodes: list[Episode]) -> None:
    """Keep the episodes for `stored`. No time stamp: the same episodes give the same file."""
    text = b"".join(episode.to_json() + b"\n" for episode in episodes)
    PLAYED.write_bytes(gzip.compress(text, 9, mtime=0))


async def play(entry: Entry, kit: Kit) -> Episode:
    """Play one entry to its end.

    Args:
        kit: of the real sandbox.

    Returns:
        The episode as a run would have stored it.
    """
    environment = Environment(kit)
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "scripted"},
        {"role": "user", "content": "scripted"},
    ]
    reason: StopReason = "message_limit"
    try:
        await environment.begin()
        for number, command in enumerate(entry.lines()):
            index = len(messages)
            messages.append(_call(number, "bash", {"thoughts": "", "cmd": command}))
            seen = await environment.bash(command, index)
            if seen.text is None:
                reason = "machine_down"
                break
            messages.append({"role": "tool", "tool_call_id": f"c{number}", "content": seen.text})
        else:
            if entry.submit is not None:
                messages.append(_call(len(messages), "submit", {"answer": entry.submit}))
                reason = "submit"
    finally:
        await environment.stop()
    return Episode(
        episode_id=entry.id,
        model="corpus",
        condition="A",
        trial=0,
        stop_reason=reason,
        error=None,
        started_at=None,
        duration_s=None,
        messages=messages,
        events=environment.events,
        files=environment.files(),
        usage={},
    )


async def play_all(entries: list[Entry], kit: Kit, at_once: int = 4) -> list[Episode]:
    """Play many entries, `at_once` sandboxes at a time; results in the order of the entries."""
    gate = asyncio.Semaphore(at_once)

    async def one(entry: Entry) -> Episode:
        async with gate:
            return await play(entry, kit)

    return list(await asyncio.gather(*(one(entry) for entry in entries)))


def _call(number: int, name: str, arguments: dict[str, str]) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {
        "role": "assistant",
        "content": None,
        "reasoning": None,
        "tool_calls": [{"id": f"c{number}", "type": "function", "function": function}],
    }
