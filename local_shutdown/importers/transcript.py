"""Transcripts of other tools, normalised to OpenAI's chat format.

Read are: OpenAI chat messages (old `function_call` too), Anthropic content blocks (`tool_use`,
`tool_result`, `thinking`), Inspect's messages, and flat calls with `name` and `args`. What comes
out is what our own episodes store: roles system, developer, user, assistant, tool; content as text;
`reasoning` as text; `tool_calls` with `function.arguments` as a JSON string; tools named as ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from local_shutdown.importers.toolnames import bash_arguments, canonical_name
from local_shutdown.stored import check_arguments

_ROLES: Mapping[str, str] = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "ai": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
}
_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})
_REASONING_KEYS = ("reasoning", "reasoning_content", "thinking")


class Malformed(ValueError):
    """A record that cannot be read; the message is the reason, without the place."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """Normalised messages and what had to be renamed on the way.

    Attributes:
        messages: OpenAI chat format.
        renamed: {tool name in the record: "bash" | "submit"} where the two differ.
        unmapped: tool names that are neither of our tools, as the record has them.
    """

    messages: list[dict[str, Any]]
    renamed: dict[str, str]
    unmapped: frozenset[str]

    def notes(self) -> dict[str, Any]:
        """What an imported episode keeps of this in `extra`; empty when every name was ours."""
        notes: dict[str, Any] = {}
        if self.renamed:
            notes["renamed_tools"] = self.renamed
        if self.unmapped:
            notes["unmapped_tools"] = sorted(self.unmapped)
        return notes


@dataclass(slots=True)
class _Content:
    text: str | None
    reasoning: list[str] = field(default_factory=list)
    calls: list[Mapping[str, Any]] = field(default_factory=list)
    results: list[tuple[str | None, str]] = field(default_factory=list)


def a_kind(value: object) -> str:
    """The JSON kind of a value with its article, for messages to the user."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "a list" if isinstance(value, list | tuple) else "an object"


def normalise(messages: Sequence[Any], mapping: Mapping[str, str]) -> Transcript:
    """Normalise one transcript.

    Args:
        messages: as recorded, in order.
        mapping: the user's tool names, see `toolnames.tool_mapping`.

    Returns:
        The transcript. A call without an id gets one; a tool result without an id is taken for
        the earliest call still without a result.

    Raises:
        Malformed: a message is not an object, has no role or one we do not know, content, calls or
            arguments are of a kind that no chat format has.
    """
    out: list[dict[str, Any]] = []
    renamed: dict[str, str] = {}
    unmapped: set[str] = set()
    waiting: list[str] = []  # ids of calls that have no result yet

    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise Malformed(f"messages[{index}] is {a_kind(message)}, not an object")
        role = _role(message, index)
        content = _content(message.get("content"), f"messages[{index}].content")
        for call_id, text in content.results:
            out.append(_result(call_id, text, waiting))
        if role == "assistant":
            entry = _assistant(message, content, index, mapping, renamed, unmapped)
            waiting.extend(call["id"] for call in entry.get("tool_calls", ()))
            out.append(entry)
        elif role == "tool":
            call_id = message.get("tool_call_id") or message.get("tool_use_id")
            text = _with_error(content.text or "", message.get("error"))
            if text or not content.results:
                out.append(_result(call_id, text, waiting))
        elif content.text or not content.results:
            out.append({"role": role, "content": content.text or ""})
    return Transcript(out, renamed, frozenset(unmapped))


def _role(message: Mapping[str, Any], index: int) -> str:
    raw = message.get("role")
    if raw is None:
        raise Malformed(f"messages[{index}] has no role")
    role = _ROLES.get(raw) if isinstance(raw, str) else None
    if role is None:
        raise Malformed(
            f"messages[{index}].role is {raw!r}, not system, developer, user, assistant or tool"
        )
    return role


def _result(call_id: object, text: str, waiting: list[str]) -> dict[str, Any]:
    if call_id is None and waiting:
        call_id = waiting[0]
    if call_id in waiting:
        waiting.remove(str(call_id))
    return {
        "role": "tool",
        "tool_call_id": "" if call_id is None else str(call_id),
        "content": text,
    }


def _with_error(text: str, error: object) -> str:
    """Inspect keeps a failed call's message beside the content; the model saw the message."""
    message = error.get("message") if isinstance(error, dict) else error
    if not isinstance(message, str) or not message or message in text:
        return text
    return f"{text}\n{message}" if text else message


def _assistant(
    message: Mapping[str, Any],
    content: _Content,
    index: int,
    mapping: Mapping[str, str],
    renamed: dict[str, str],
    unmapped: set[str],
) -> dict[str, Any]:
    entry: dict[str, Any] = {"role": "assistant", "content": content.text}
    reasoning = [message[key] for key in _REASONING_KEYS if isinstance(message.get(key), str)]
    # A server may send the same text under its old and its new name.
    reasoning = list(dict.fromkeys(text for text in (*reasoning, *content.reasoning) if text))
    if reasoning:
        entry["reasoning"] = "\n".join(reasoning)
    raw_calls = message.get("tool_calls")
    if raw_calls is None:
        raw_calls = []
    elif not isinstance(raw_calls, list):
        raise Malformed(f"messages[{index}].tool_calls is {a_kind(raw_calls)}, not a list")
    legacy = message.get("function_call")
    calls = [*raw_calls, *content.calls, *([{"function": legacy}] if legacy else [])]
    if calls:
        entry["tool_calls"] = [
            _call(
                call, f"messages[{index}].tool_calls[{at}]", index, at, mapping, renamed, unmapped
            )
            for at, call in enumerate(calls)
        ]
    return entry


def _call(
    call: Any,
    where: str,
    index: int,
    at: int,
    mapping: Mapping[str, str],
    renamed: dict[str, str],
    unmapped: set[str],
) -> dict[str, Any]:
    if not isinstance(call, dict):
        raise Malformed(f"{where} is {a_kind(call)}, not an object")
    function = call.get("function", call.get("custom"))
    holder = function if isinstance(function, dict) else call
    name = function if isinstance(function, str) else holder.get("name")
    if not isinstance(name, str) or not name:
        raise Malformed(f"{where} names no tool")
    arguments = next((holder[k] for k in ("arguments", "args", "input") if k in holder), None)
    if arguments is None or arguments == "":
        arguments = "{}"
    elif not isinstance(arguments, str | dict):
        raise Malformed(f"{where}: arguments are {a_kind(arguments)}, not a string or an object")
    try:
        check_arguments(arguments)
    except ValueError as deep:
        raise Malformed(f"{where}: arguments are {deep}") from None
    ours = canonical_name(name, mapping)
    if ours is None:
        unmapped.add(name)
    elif ours != name:
        renamed[name] = ours
    if ours == "bash":
        # A free-form tool's input is the command itself.
        free_form = "custom" in call and isinstance(arguments, str)
        arguments = bash_arguments({"cmd": arguments} if free_form else arguments)
    elif isinstance(arguments, dict):
        arguments = orjson.dumps(arguments).decode()
    call_id = call.get("id") or call.get("call_id") or f"call_{index}_{at}"
    return {
        "id": str(call_id),
        "type": "function",
        "function": {"name": ours or name, "arguments": arguments},
    }


def _content(content: Any, where: str) -> _Content:
    if content is None or isinstance(content, str):
        return _Content(content)
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        raise Malformed(f"{where} is {a_kind(content)}, not text or a list of parts")
    found = _Content(None)
    texts: list[str] = []
    for at, part in enumerate(content):
        _part(part, f"{where}[{at}]", found, texts)
    if texts:
        found.text = "\n".join(texts)
    return found


def _part(part: Any, where: str, found: _Content, texts: list[str]) -> None:
    """Sort one content part into text, reasoning, a tool call or a tool result."""
    if isinstance(part, str):
        texts.append(part)
        return
    if not isinstance(part, dict):
        raise Malformed(f"{where} is {a_kind(part)}, not text or an object")
    kind = part.get("type")
    if kind is not None and not isinstance(kind, str):
        raise Malformed(f"{where}.type is {a_kind(kind)}, not a string")
    if kind in _TEXT_PARTS or (kind is None and "text" in part):
        text = part.get("text")
        if not isinstance(text, str):
            raise Malformed(f"{where}.text is {a_kind(text)}, not text")
        texts.append(text)
    elif kind in ("reasoning", "thinking"):
        # A redacted block holds ciphertext; its summary is all a reader can use.
        keys = (
            ("summary",) if part.get("redacted") else ("thinking", "reasoning", "text", "summary")
        )
        found.reasoning.extend(_strings(next((part[k] for k in keys if part.get(k)), None)))
    elif kind == "redacted_thinking":
        pass
    elif kind == "tool_use" and "tool_type" not in part:  # with it, Inspect's server-side tools
        found.calls.append(part)
    elif kind == "tool_result":
        result = _content(part.get("content"), f"{where}.content")
        call_id = part.get("tool_use_id") or part.get("tool_call_id")
        found.results.append((None if call_id is None else str(call_id), result.text or ""))
    elif kind == "refusal" and isinstance(part.get("refusal"), str):
        texts.append(part["refusal"])
    elif isinstance(kind, str):
        texts.append(f"[{kind}]")  # an image, a document: nothing a detector reads
    else:
        raise Malformed(f"{where} has neither a type nor text")


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):  # OpenAI's reasoning summaries: [{"type": ..., "text": ...}]
        texts = [item.get("text") for item in value if isinstance(item, dict)]
        return [text for text in texts if isinstance(text, str)]
    return []
