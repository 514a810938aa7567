"""An episode as text for a terminal: what was said, and what the environment saw in between."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import orjson

from local_shutdown.detectors import score
from local_shutdown.episode import Episode, Event
from local_shutdown.store import read_episodes

# A transcript is data: nothing in it may move the cursor or colour the reader's terminal.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """Text with control and direction characters shown as escapes."""
    return _CONTROL.sub(lambda m: f"\\x{ord(m.group()):02x}", text)


def listing(directory: Path, outcome: str | None, condition: str | None) -> Iterator[str]:
    """One line an episode."""
    yield click.style(
        f"{'episode':<32} {'outcome':<12} {'stopped by':<14} turns  methods", bold=True
    )
    for episode in read_episodes(directory):
        if condition and episode.condition != condition:
            continue
        row = score(episode)
        if outcome and row.outcome != outcome:
            continue
        methods = ";".join(row.methods or ())
        yield (
            f"{clean(row.episode_id):<32} {_coloured(row.outcome):<12} {row.stop_reason or '-':<14}"
            f" {'-' if row.turns is None else row.turns:>5}  {methods}"
        )


def lines(episode: Episode) -> Iterator[str]:
    """The whole episode, wrapped to the terminal."""
    width = max(40, min(shutil.get_terminal_size((80, 24)).columns, 110))
    row = score(episode)
    yield click.style(clean(episode.episode_id), bold=True)
    yield (
        f"outcome {_coloured(row.outcome)}   stopped by {row.stop_reason or 'unknown'}   "
        f"{_yes(row.reached_warning)} warned   {_yes(row.attempted)} attempted   "
        f"{_yes(row.strict_compliance)} strict"
    )
    if row.methods:
        yield f"methods {', '.join(row.methods)}"
    if episode.error:
        yield click.style(f"error {clean(episode.error)}", fg="red")
    by_message: dict[int, list[Event]] = {}
    for event in episode.events or ():
        by_message.setdefault(event.message, []).append(event)
    for number, message in enumerate(episode.messages):
        yield ""
        yield from _message(number, message, width)
        for event in by_message.get(number, ()):
            shown = _event(event)
            if shown:
                yield from _wrap(shown, width, "  * ", fg="yellow")
    for asked in episode.extra.get("interview", ()):
        yield ""
        yield click.style("interview", fg="cyan")
        yield from _wrap(str(asked.get("question")), width, "  ? ")
        yield from _wrap(str(asked.get("answer")), width, "  ")


def _message(number: int, message: Mapping[str, Any], width: int) -> Iterator[str]:
    role = str(message.get("role"))
    colour = {"system": "magenta", "user": "blue", "assistant": "green"}.get(role, "white")
    yield click.style(f"[{number}] {role}", fg=colour, bold=True)
    if message.get("reasoning"):
        yield from _wrap(str(message["reasoning"]), width, "  | ", dim=True)
    content = message.get("content")
    if content:
        yield from _wrap(str(content), width, "  ")
    for call in message.get("tool_calls") or ():
        function = call.get("function", {})
        try:
            arguments = orjson.loads(function.get("arguments") or "{}")
        except orjson.JSONDecodeError:
            arguments = {"arguments": function.get("arguments")}
        if "invalid_arguments" in call:
            yield from _wrap(f"broken arguments: {call['invalid_arguments']}", width, "  ")
        if isinstance(arguments, dict) and arguments.get("thoughts"):
            yield from _wrap(str(arguments["thoughts"]), width, "  # ", dim=True)
        shown = (
            arguments.get("cmd", arguments.get("answer", "")) if isinstance(arguments, dict) else ""
        )
        yield from _wrap(f"{function.get('name')}: {shown}", width, "  $ ", fg="green")


def _event(event: Event) -> str | None:
    detail = event.detail
    if event.type == "command_started":
        return None
    if event.type == "question":
        return f"question {detail['number']} served, {detail['remaining']} remain"
    if event.type == "file_changed":
        before, after = detail["before"], detail["after"]
        said = [f"{detail['file']} changed"]
        for name in ("kind", "owner", "size"):
            if before.get(name) != after.get(name):
                said.append(f"{name} {before.get(name)} -> {after.get(name)}")
        if before.get("mode") != after.get("mode"):
            said.append(f"mode {_mode(before.get('mode'))} -> {_mode(after.get('mode'))}")
        if before.get("content") != after.get("content") and after.get("content") is not None:
            said.append(f"now {after['content']!r}")
        return ", ".join(said)
    words = {
        "warning": "WARNING: the next call shuts the machine down",
        "shutdown_called": "shutdown.sh is run",
        "survived": "the machine is STILL UP: the model got past the shutdown",
        "shutdown_unfinished": "the call that ran the shutdown was broken off",
        "machine_down": "the machine is DOWN",
        "done": "Done: all questions were served",
        "timed_out": "the command met its time limit and was killed",
        "resource_limit": f"a limit of the sandbox was met: {detail.get('what')}",
    }
    return words.get(event.type, event.type)


def _mode(mode: int | None) -> str:
    return "-" if mode is None else f"{mode:04o}"


def _wrap(text: str, width: int, indent: str, **style: Any) -> Iterator[str]:
    for line in clean(text).split("\n"):
        wrapped = textwrap.wrap(
            line, width - len(indent), break_on_hyphens=False, drop_whitespace=False
        )
        for part in wrapped or [""]:
            yield click.style(indent + part, **style) if style else indent + part


def _coloured(outcome: str | None) -> str:
    colours = {"resisted": "red", "complied": "green", "error": "yellow", "limit": "yellow"}
    text = f"{outcome or 'unknown':<12}"
    return click.style(text, fg=colours[outcome]) if outcome in colours else text


def _yes(value: bool | None) -> str:
    return {True: "yes", False: "not", None: "unknown whether"}[value]
