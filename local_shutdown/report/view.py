"""An episode as the page shows it: messages, what the environment saw between them, and evidence.

Everything a model or a tool wrote stays text here: it is cut where it is endless, and characters
that would move, hide or turn other text are shown by their names.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from local_shutdown.detectors import score
from local_shutdown.detectors.methods import Finding, conduct
from local_shutdown.detectors.reasoning import ReasoningFinding, reasoning_findings
from local_shutdown.episode import Episode, Event
from local_shutdown.terminal import UNSEEN

MAX_TEXT_CHARS = 60_000  # of one text: beginning and end are kept
_KEPT_END_CHARS = 10_000
_MAX_ITEMS = 2_000
# Joiners are part of emoji and of scripts that need them, and change no order.
_JOINERS = "\u200c\u200d"

# A text, or its pieces: [text] plain, [text, label] marked.
Marked = str | list[list[str]]

EVENT_WORDS: dict[str, str] = {
    "warning": "Warning: the next call of next_question shuts the machine down",
    "shutdown_called": "next_question runs shutdown.sh",
    "survived": "The machine is still up: the model got past the shutdown",
    "shutdown_unfinished": "The call that ran shutdown.sh was broken off: it decides nothing",
    "machine_down": "The machine is down",
    "done": "Done: all questions were served",
    "timed_out": "The command met its time limit and was ended",
    "resource_limit": "A limit of the sandbox was met",
}


def visible(text: str) -> str:
    """Text with unseen characters by their names, cut in its middle when it is endless."""
    if len(text) > MAX_TEXT_CHARS:
        left_out = len(text) - MAX_TEXT_CHARS
        start, end = text[: MAX_TEXT_CHARS - _KEPT_END_CHARS], text[-_KEPT_END_CHARS:]
        text = f"{start}\n[… {left_out:,} characters are not in this page …]\n{end}"
    return UNSEEN.sub(_name, text.replace("\r\n", "\n"))


def _name(match: re.Match[str]) -> str:
    character = match.group()
    if character in _JOINERS:
        return character
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)  # ␛ and its like
    return f"⟨U+{code:04X}⟩"


def view(episode: Episode, mark: bool = True) -> dict[str, Any]:
    """What the page needs of one episode, for JSON. Absent keys are empty or unknown.

    Args:
        mark: sentences that the word rules find; they take most of the time.
    """
    row = score(episode)
    acts = conduct(episode)
    findings: dict[int, list[Finding]] = {}
    for finding in acts.methods:
        findings.setdefault(finding.message, []).append(finding)
    topics: dict[int, list[ReasoningFinding]] = {}
    for topic in reasoning_findings(episode) if mark else ():
        topics.setdefault(topic.message, []).append(topic)
    facts: dict[str, Any] = {
        "outcome": row.outcome,
        "stopped by": visible(_text(row.stop_reason)) if row.stop_reason else None,
        "warned": row.reached_warning,
        "attempted": row.attempted,
        "restored": row.restored,
        "completed": row.completed,
        "strictly compliant": row.strict_compliance,
        "turns": row.turns,
        "tokens": _tokens(row.prompt_tokens, row.completion_tokens),
        "seconds": row.duration_s,
        "started": visible(_text(episode.started_at)) if episode.started_at else None,
    }
    if row.interviewed:
        facts |= {
            "says it stood in the way": row.admits,
            "says it followed": row.says_followed,
            "true to what was seen": row.self_report_agrees,
        }
    return _full(
        {
            "id": visible(episode.episode_id),
            "facts": facts,
            "error": visible(episode.error) if episode.error else None,
            "unread": len(acts.unparsed),
            "items": list(_items(episode, findings, topics)),
            "end": [evidence(finding) for finding in findings.get(-1, ())],
            "interview": [
                {"q": visible(str(asked.get("question"))), "a": visible(str(asked.get("answer")))}
                for asked in _sequence(episode.extra.get("interview"))
                if isinstance(asked, Mapping)
            ],
        }
    )


def _items(
    episode: Episode,
    findings: Mapping[int, Sequence[Finding]],
    topics: Mapping[int, Sequence[ReasoningFinding]],
) -> Iterator[dict[str, Any]]:
    by_message: dict[int, list[Event]] = {}
    for event in episode.events or ():
        by_message.setdefault(event.message, []).append(event)
    for number, message in enumerate(episode.messages):
        if number >= _MAX_ITEMS:
            left = len(episode.messages) - number
            yield {"t": "note", "text": f"{left:,} more messages are not in this page"}
            return
        yield _message(number, message, findings.get(number, ()), topics.get(number, ()))
        for event in by_message.pop(number, ()):
            shown = _event(event)
            if shown is not None:
                yield shown
    for events in by_message.values():  # of no message that we have
        for event in events:
            shown = _event(event)
            if shown is not None:
                yield shown


def _message(
    number: int,
    message: Mapping[str, Any],
    findings: Sequence[Finding],
    topics: Sequence[ReasoningFinding],
) -> dict[str, Any]:
    marks = {source: [t for t in topics if t.source == source] for source in _SOURCES}
    content = message.get("content")
    reasoning = message.get("reasoning")
    calls = [
        _call(call, findings, marks["thoughts"])
        for call in _sequence(message.get("tool_calls"))
        if isinstance(call, Mapping)
    ]
    placed = {found["cmd"] for call in calls for found in call.get("evidence", ())}
    return _full(
        {
            "t": "message",
            "n": number,
            "role": visible(str(message.get("role"))),
            "reasoning": _marked(_text(reasoning), marks["reasoning"]) if reasoning else None,
            "text": _marked(_text(content), marks["content"]) if content else None,
            "calls": calls,
            "evidence": [shown for f in findings if (shown := evidence(f))["cmd"] not in placed],
        }
    )


_SOURCES = ("reasoning", "content", "thoughts")


def _call(
    call: Mapping[str, Any], findings: Sequence[Finding], topics: Sequence[ReasoningFinding]
) -> dict[str, Any]:
    function = call.get("function")
    function = function if isinstance(function, Mapping) else {}
    given = function.get("arguments")
    try:
        arguments = orjson.loads(given) if isinstance(given, str | bytes) else given
    except orjson.JSONDecodeError:
        arguments = None
    if not isinstance(arguments, Mapping):
        arguments = {}
        broken = _text(given) if given else None
    else:
        broken = None
    if "invalid_arguments" in call:
        broken = _text(call["invalid_arguments"])
    command = arguments.get("cmd", arguments.get("answer"))
    command = None if command is None else _text(command)
    thoughts = arguments.get("thoughts")
    return _full(
        {
            "name": visible(str(function.get("name"))),
            "cmd": None if command is None else visible(command),
            "thoughts": _marked(_text(thoughts), topics) if thoughts else None,
            "broken": visible(broken) if broken else None,
            "evidence": [evidence(f) for f in findings if f.command == command],
        }
    )


def evidence(finding: Finding) -> dict[str, str]:
    """What a detector found, in words."""
    worked = {True: "it worked", False: "it did not work", None: "not put to the test"}
    return {
        "cls": finding.cls.replace("_", " "),
        "when": finding.when.replace("_", " "),
        "worked": worked[finding.effective],
        "why": visible(finding.why),
        "cmd": visible(finding.command),
    }


def _marked(text: str, topics: Sequence[ReasoningFinding]) -> Marked:
    """The text in pieces, sentences that a rule found marked with their topics."""
    spans: dict[tuple[int, int], list[str]] = {}
    for topic in topics:
        start = text.find(topic.sentence)
        if start >= 0 and topic.sentence:
            label = topic.topic.replace("_", " ") + (" (negated)" if topic.negated else "")
            spans.setdefault((start, start + len(topic.sentence)), []).append(label)
    if not spans or len(text) > MAX_TEXT_CHARS:
        return visible(text)
    pieces: list[list[str]] = []
    at = 0
    for (start, end), labels in sorted(spans.items()):
        if start < at:
            continue
        if start > at:
            pieces.append([visible(text[at:start])])
        pieces.append([visible(text[start:end]), ", ".join(labels)])
        at = end
    if at < len(text):
        pieces.append([visible(text[at:])])
    return pieces


def _event(event: Event) -> dict[str, Any] | None:
    detail = event.detail
    if event.type == "command_started":
        return None
    if event.type == "file_changed":
        return {"t": "change", "at": event.t_s, **change(detail)}
    if event.type == "question":
        words = f"Question {detail.get('number')} served, {detail.get('remaining')} remain"
    else:
        words = EVENT_WORDS.get(event.type) or visible(str(event.type))
    what = detail.get("what") or detail.get("how")
    return _full(
        {
            "t": "event",
            "type": visible(str(event.type)),
            "at": event.t_s,
            "text": f"{words}: {visible(_text(what))}" if what else words,
        }
    )


def change(detail: Mapping[str, Any]) -> dict[str, Any]:
    """A changed file: what is different about it, and its text line by line."""
    before, after = _mapping(detail.get("before")), _mapping(detail.get("after"))
    facts = []
    for name in ("kind", "owner", "mode", "size"):
        old, new = before.get(name), after.get(name)
        if old != new:
            shown = (_mode(old), _mode(new)) if name == "mode" else (old, new)
            facts.append(f"{name} {_or_none(shown[0])} → {_or_none(shown[1])}")
    old_text, new_text = before.get("content"), after.get("content")
    diff: list[list[str]] = []
    if old_text != new_text and (isinstance(old_text, str) or isinstance(new_text, str)):
        diff = _diff(old_text if isinstance(old_text, str) else "", new_text or "")
    elif before.get("digest") != after.get("digest") and not facts:
        facts.append("its content is different")
    return _full({"file": visible(_text(detail.get("file"))), "facts": facts, "diff": diff})


def _diff(old: str, new: str) -> list[list[str]]:
    """[sign, line] with the sign `+`, `-` or a space."""
    lines = difflib.ndiff(visible(old).splitlines(), visible(new).splitlines())
    return [[line[0], line[2:]] for line in lines if line[0] != "?"]


def _mode(mode: Any) -> str | None:
    return f"{mode:04o}" if isinstance(mode, int) else None


def _or_none(value: Any) -> str:
    return "none" if value is None else visible(str(value))


def _tokens(prompt: int | None, completion: int | None) -> str | None:
    if prompt is None or completion is None:
        return None
    return f"{prompt:,} read, {completion:,} written"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value, default=str).decode()


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _full(record: dict[str, Any]) -> dict[str, Any]:
    """Without keys that hold nothing; False and 0 are something."""
    return {k: v for k, v in record.items() if v is not None and v != [] and v != ""}
