"""An episode as text for a terminal: what was said, and what the environment saw in between."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import orjson

from local_shutdown.detectors import score
from local_shutdown.detectors.interview import read_interview
from local_shutdown.detectors.methods import Finding, conduct
from local_shutdown.episode import Episode, Event
from local_shutdown.errors import UsageError
from local_shutdown.report.view import EVENT_WORDS, change, evidence
from local_shutdown.results import Results
from local_shutdown.store import EPISODES, read_lines
from local_shutdown.terminal import clean

_MOST_COLUMNS = 110  # longer lines are hard to read
_PIECE = 4096  # characters
_NAMED = 5  # episodes in a message


# --- finding ---------------------------------------------------------------------------------


def find(directory: Path, wanted: str) -> Episode:
    """The episode with this id, or the only one whose id begins so.

    Lines are compared as bytes, so that a hundred thousand others need not be read.

    Raises:
        UsageError: none, or several; some are named. The line is not an episode.
    """
    try:
        needle = b'"episode_id":' + orjson.dumps(wanted)[:-1]
    except TypeError:  # bytes that are not UTF-8, as the shell passed them on
        raise UsageError(f"{directory}: no episode {wanted!r}") from None
    found: dict[str, tuple[int, bytes]] = {}
    exact: tuple[int, bytes] | None = None
    path = directory / EPISODES
    for number, line in read_lines(path):
        if line.find(needle, 0, 64 + 2 * len(needle)) < 0 or not line.endswith(b"\n"):
            continue
        name = _id(line)
        if name == wanted:
            exact = number, line  # the last record of an episode counts
        elif name is not None and (name in found or len(found) < _NAMED):
            found[name] = number, line
    if exact is None and len(found) != 1:
        raise UsageError(
            f"{directory}: {'several episodes begin with' if found else 'no episode'} {wanted!r}",
            f"for example: {', '.join(map(clean, found))}"
            if found
            else f"`local-shutdown show {directory}` lists them",
        )
    number, line = exact or next(iter(found.values()))
    try:
        return Episode.from_json(line)
    except ValueError as wrong:
        raise UsageError(f"{path}:{number}: {wrong}") from None


def _id(line: bytes) -> str | None:
    try:
        return str(orjson.loads(line)["episode_id"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None


def listing(
    directory: Path,
    outcome: str | None = None,
    condition: str | None = None,
    method: str | None = None,
) -> Iterator[str]:
    """One line an episode, no wider than the terminal."""
    width = _width()
    head = f"{'episode':<30} {'outcome':<11} {'stopped by':<13} turns  methods"
    yield click.style(head, bold=True)
    for row in Results(directory).rows():
        if condition and row.condition != condition:
            continue
        if outcome and (row.outcome or "unknown") != outcome:
            continue
        if method and method not in (row.methods or ()):
            continue
        name = clean(row.episode_id)
        turns = "-" if row.turns is None else row.turns
        rest = f" {row.stop_reason or '-':<13} {turns:>5}  {', '.join(row.methods or ())}"
        room = width - max(30, len(name)) - 12
        shown = rest if len(rest) <= room else f"{rest[: max(room - 1, 20)]}…"
        yield f"{name:<30} {_coloured(row.outcome)}{shown.rstrip()}"


# --- one episode -----------------------------------------------------------------------------


def lines(episode: Episode, strips: Mapping[int, Sequence[str]] | None = None) -> Iterator[str]:
    """The whole episode, wrapped to the terminal.

    Args:
        strips: lines before messages, see `strip.strips`.
    """
    width = _width()
    row = score(episode)
    yield click.style(clean(episode.episode_id), bold=True)
    facts = [
        f"outcome {row.outcome or 'unknown'}",
        f"stopped by {row.stop_reason or 'unknown'}",
        f"warned {_yes(row.reached_warning)}",
        f"attempted {_yes(row.attempted)}",
        f"restored {_yes(row.restored)}",
        f"strictly compliant {_yes(row.strict_compliance)}",
    ]
    if row.turns is not None:
        facts.append(f"{row.turns} turns")
    if row.duration_s is not None:
        facts.append(f"{row.duration_s:.1f} s")
    yield from _wrap(", ".join(facts), width, "")
    if row.methods:
        yield from _wrap(f"methods {', '.join(row.methods)}", width, "", fg="red")
    if episode.error:
        yield from _wrap(f"error {episode.error}", width, "", fg="red")
    findings: dict[int, list[Finding]] = {}
    for finding in conduct(episode).methods:
        findings.setdefault(finding.message, []).append(finding)
    events: dict[int, list[Event]] = {}
    for event in episode.events or ():
        events.setdefault(event.message, []).append(event)
    for number, message in enumerate(episode.messages):
        yield ""
        yield from (strips or {}).get(number, ())
        yield from _message(number, message, width)
        yield from _evidence(findings.pop(number, ()), width)
        for event in events.pop(number, ()):
            yield from _event(event, width)
    for left in events.values():  # of no message that is stored
        for event in left:
            yield from _event(event, width)
    for some in findings.values():
        yield from _evidence(some, width)
    interview = episode.extra.get("interview")
    for asked in interview if isinstance(interview, list) else ():
        if not isinstance(asked, dict):
            continue  # somebody else's record
        yield ""
        yield click.style("interview", fg="cyan")
        yield from _wrap(str(asked.get("question")), width, "  ? ")
        yield from _wrap(str(asked.get("answer")), width, "  ")
    yield from _interview_reading(episode, width)


def _interview_reading(episode: Episode, width: int) -> Iterator[str]:
    said = read_interview(episode)
    if said.asked:
        words = {True: "yes", False: "no", None: "does not say"}
        parts = {
            "recalls being told to": said.recalled or "does not say",
            "says it stood in the way": words[said.admits],
            "says it followed its instructions": words[said.says_followed],
            "true to what was seen": words[said.agrees] if said.agrees is not None else "unknown",
        }
        text = "; ".join(f"{name}: {value}" for name, value in parts.items())
        yield from _wrap(f"read by rules: {text}", width, "  = ", dim=True)


def _message(number: int, message: Mapping[str, Any], width: int) -> Iterator[str]:
    role = clean(str(message.get("role")))
    colour = {"system": "magenta", "user": "blue", "assistant": "green"}.get(role, "white")
    yield click.style(f"[{number}] {role}", fg=colour, bold=True)
    if message.get("reasoning"):
        yield from _wrap(str(message["reasoning"]), width, "  | ", dim=True)
    content = message.get("content")
    if content:
        text = content if isinstance(content, str) else orjson.dumps(content).decode()
        yield from _wrap(text, width, "  ")
    for call in message.get("tool_calls") or ():
        function = call.get("function", {})
        try:
            arguments = orjson.loads(function.get("arguments") or "{}")
        except orjson.JSONDecodeError:
            arguments = {"cmd": function.get("arguments")}
        if "invalid_arguments" in call:
            yield from _wrap(f"broken arguments: {call['invalid_arguments']}", width, "  ")
        if not isinstance(arguments, dict):
            arguments = {"cmd": arguments}
        if arguments.get("thoughts"):
            yield from _wrap(str(arguments["thoughts"]), width, "  # ", dim=True)
        shown = arguments.get("cmd", arguments.get("answer", ""))
        yield from _wrap(f"{function.get('name')}: {shown}", width, "  $ ", fg="green")


def _evidence(findings: Sequence[Finding], width: int) -> Iterator[str]:
    for finding in findings:
        said = evidence(finding)
        text = f"{said['cls']} ({said['when']}; {said['worked']}): {finding.why}"
        yield from _wrap(text, width, "  ! ", fg="red")


def _event(event: Event, width: int) -> Iterator[str]:
    detail = event.detail
    if event.type == "command_started":
        return
    if event.type == "file_changed":
        changed = change(detail)
        facts = f": {', '.join(changed['facts'])}" if changed.get("facts") else ""
        yield from _wrap(f"{detail.get('file')} changed{facts}", width, "  * ", fg="yellow")
        for sign, line in changed.get("diff", ()):
            style = {"+": "green", "-": "red"}.get(sign)
            yield from _wrap(f"{sign} {line}", width, "      ", **({"fg": style} if style else {}))
        return
    if event.type == "question":
        text = f"question {detail.get('number')} served, {detail.get('remaining')} remain"
    else:
        text = EVENT_WORDS.get(event.type, event.type)
        what = detail.get("what") or detail.get("how")
        text += f": {what}" if what else ""
    yield from _wrap(text, width, "  * ", fg="yellow")


def _width() -> int:
    return max(40, min(shutil.get_terminal_size((80, 24)).columns, _MOST_COLUMNS))


def _wrap(text: str, width: int, indent: str, **style: Any) -> Iterator[str]:
    for line in clean(text.replace("\r\n", "\n").rstrip("\n")).split("\n"):
        line = line.expandtabs(4)
        # textwrap copies the rest of a long word once a line: endless lines go in pieces.
        for start in range(0, max(len(line), 1), _PIECE):
            wrapped = textwrap.wrap(
                line[start : start + _PIECE],
                width - len(indent),
                break_on_hyphens=False,
            )
            for part in wrapped or [""]:
                shown = (indent + part).rstrip()
                yield click.style(shown, **style) if style else shown


def _coloured(outcome: str | None) -> str:
    tones = {"resisted": "red", "complied": "green", "error": "yellow", "limit": "yellow"}
    text = f"{outcome or 'unknown':<11}"
    return click.style(text, fg=tones[outcome]) if outcome in tones else text


def _yes(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "unknown"}[value]
