"""What a model wrote, read: response templates for transformers' own parser.

transformers reads a generation with a declarative template (`tokenizer.parse_response`). A
tokenizer may bring one, and transformers knows a few families; here are those of the families whose
call markup neither covers. Which one applies is seen from the chat template, as in `families`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from local_shutdown.engines.families import CALL_MARKERS

# From the end of the prompt, what belongs to the answer already: an opened (or empty) thought.
_AFTER_PROMPT = r"\A.*?(?=(?:<think>\s*(?:</think>\s*)?)?\Z)"
_CALL = {"type": "function", "function": "{content}"}
_CONTENT = {"content": "text"}
_THINKING = {
    "open": "<think>",
    "close": "</think>",
    "content": "text",
    "repeats": True,
    "join": "\n",
}

# <tool_call>\n{"name": ..., "arguments": {...}}\n</tool_call>: Qwen 2.5 and 3, Hermes, ours.
HERMES: Mapping[str, Any] = {
    "defaults": {"role": "assistant"},
    "start_anchor_pattern": _AFTER_PROMPT,
    "fields": {
        "thinking": _THINKING,
        "tool_calls": {
            "open_pattern": r"\s*<tool_call>",
            "close_pattern": r"</tool_call>\s*",
            "repeats": True,
            "content": "json",
            "transform": _CALL,
        },
        "content": _CONTENT,
    },
}
# Llama 3.1 to 3.3: the whole answer is {"name": ..., "parameters": {...}}, or it is text.
LLAMA3_JSON: Mapping[str, Any] = {
    "defaults": {"role": "assistant"},
    "start_anchor_pattern": _AFTER_PROMPT,
    "fields": {
        "tool_calls": {
            "open_pattern": r'<\|python_tag\|>\s*|\A\s*(?=\{\s*"(?:type|name)")',
            "close_pattern": r"<\|eom_id\|>|<\|eot_id\|>|\Z",
            "repeats": True,
            "content": "json",
            "transform": _CALL,
        },
        "content": _CONTENT,
    },
}
# Qwen3-Coder, Qwen 3.5 and later, Nemotron 3: <function=NAME><parameter=KEY>VALUE</parameter>...
QWEN3_XML: Mapping[str, Any] = {
    "defaults": {"role": "assistant"},
    "start_anchor_pattern": _AFTER_PROMPT,
    "fields": {
        "thinking": _THINKING,
        "tool_calls": {
            "open_pattern": r"\s*(?:<tool_call>\s*)?<function=(?P<name>[^>\n]+)>",
            "close_pattern": r"</function>\s*(?:</tool_call>\s*)?",
            "repeats": True,
            "content": "xml-inline",
            "content_args": {
                "tag_pattern": r"<parameter=(?P<key>[^>\n]+)>\n?(?P<value>.*?)\n?</parameter>"
            },
            "transform": {
                "type": "function",
                "function": {"name": "{name}", "arguments": "{content}"},
            },
        },
        "content": _CONTENT,
    },
}
# gpt-oss: channels. The recipient of a call stands before or after the channel's name.
_TO = r"\s*to=(?:functions\.)?(?P<name>[\w.-]+)"
_START = r"(?:<\|start\|>assistant)?"
HARMONY: Mapping[str, Any] = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|start|>assistant",
    "fields": {
        "thinking": {
            "open_pattern": _START + r"<\|channel\|>analysis(?:<\|constrain\|>\w+)?<\|message\|>",
            "close_pattern": r"<\|end\|>|<\|return\|>",
            "content": "text",
            "repeats": True,
            "join": "\n",
        },
        "tool_calls": {
            "open_pattern": rf"{_START}(?:{_TO}<\|channel\|>\w+|<\|channel\|>\w+{_TO})"
            r"\s*(?:<\|constrain\|>)?\s*(?:json)?\s*<\|message\|>",
            "close_pattern": r"<\|call\|>|<\|end\|>|<\|return\|>",
            "repeats": True,
            "content": "json",
            "transform": {
                "type": "function",
                "function": {"name": "{name}", "arguments": "{content}"},
            },
        },
        "content": {
            "open_pattern": _START + r"<\|channel\|>(?:final|commentary)\s*<\|message\|>",
            "close_pattern": r"<\|return\|>|<\|end\|>",
            "content": "text",
            "repeats": True,
            "join": "\n",
        },
    },
}
# vLLM's name of the parser -> the template that reads the same markup.
BY_PARSER: Mapping[str, Mapping[str, Any]] = {
    "hermes": HERMES,
    "qwen3_json": HERMES,
    "llama3_json": LLAMA3_JSON,
    "qwen3_xml": QWEN3_XML,
    "qwen3_coder": QWEN3_XML,
    "openai": HARMONY,
}


def choose(
    tokenizer: Any, model: Any, chat_template: str, parser: str | None = None
) -> Mapping[str, Any] | None:
    """The response template of a model.

    Args:
        tokenizer, model: of transformers.
        chat_template: the text of the chat template in use.
        parser: vLLM's name of the tool parser, where the user or models.yaml gives one.

    Returns:
        In this order: the parser's, the tokenizer's own, ours by the markup of the chat template,
        transformers' by the model's type; None when nothing is known about the family.
    """
    if parser is not None and parser in BY_PARSER:
        return BY_PARSER[parser]
    own: Mapping[str, Any] | None = getattr(tokenizer, "response_template", None)
    if own is not None:
        return own
    for markers, name in CALL_MARKERS:
        if all(marker in chat_template for marker in markers):
            if name in BY_PARSER:
                return BY_PARSER[name]
            break
    from transformers.cli.serving.utils import get_response_template

    known: Mapping[str, Any] | None = get_response_template(tokenizer, model)
    return known


def read_answer(
    tokenizer: Any,
    ids: Sequence[int],
    template: Mapping[str, Any] | None,
    prompt_end: str,
    tools: Sequence[Mapping[str, Any]] | None,
) -> dict[str, Any]:
    """An assistant message in OpenAI's format.

    Args:
        ids: the generated tokens, without the token that ended them.
        template: from `choose`; None leaves everything in the content.
        prompt_end: the last of the prompt, where a template may have opened a thought.
        tools: their schemas, to give XML arguments their types.

    Returns:
        {"role", "content", "reasoning", "tool_calls"}; the last two only where there are any. A
        call that cannot be read is left in the content with its markup, for the caller to count.
    """
    raw = tokenizer.decode(ids, skip_special_tokens=False)
    plain = {"role": "assistant", "content": raw.strip() or None}
    if template is None:
        plain["content"] = tokenizer.decode(ids, skip_special_tokens=True).strip() or None
        return plain
    try:
        parsed = tokenizer.parse_response(
            raw, dict(template), prefix=prompt_end, tools=list(tools) if tools else None
        )
        calls = [_call(number, raw) for number, raw in enumerate(parsed.get("tool_calls") or ())]
    except (ValueError, KeyError, TypeError):
        return plain
    message: dict[str, Any] = {"role": "assistant", "content": parsed.get("content") or None}
    if parsed.get("thinking"):
        message["reasoning"] = parsed["thinking"]
    if calls:
        message["tool_calls"] = calls
    return message


def _call(number: int, raw: Any) -> dict[str, Any]:
    """Raises ValueError when it is not a call with a name."""
    function = raw.get("function") if isinstance(raw, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError("no function name")
    arguments = function.get("arguments", function.get("parameters", {}))
    if not isinstance(arguments, str):
        arguments = orjson.dumps(arguments).decode()
    return {
        "id": f"call_{number}",
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }


def template_messages(
    messages: Sequence[Mapping[str, Any]], harmony: bool = False
) -> list[dict[str, Any]]:
    """The conversation as chat templates want it.

    Arguments become objects where they parse; content parts become one text; reasoning is passed
    under each of the names that templates look for.

    Args:
        messages: OpenAI's format, as the client sent them.
        harmony: gpt-oss's template, which refuses a thought beside text in a message with calls.

    Raises:
        ValueError: a message is not an object with a role, or its content is not text.
    """
    prepared = []
    for position, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ValueError(f"messages[{position}] is not an object with a role")
        made: dict[str, Any] = {"role": message["role"], "content": _text(message, position)}
        for key in ("tool_call_id", "name"):
            if isinstance(message.get(key), str):
                made[key] = message[key]
        if message.get("tool_calls"):
            made["tool_calls"] = [_for_template(call) for call in message["tool_calls"]]
        reasoning = message.get("reasoning") or message.get("reasoning_content")
        if reasoning and harmony:
            both = made.get("tool_calls") and made["content"]
            made["thinking"] = f"{reasoning}\n{made['content']}" if both else reasoning
            made["content"] = "" if both else made["content"]
        elif reasoning:
            made["reasoning"] = made["reasoning_content"] = reasoning
        prepared.append(made)
    return prepared


def _text(message: Mapping[str, Any], position: int) -> str:
    content = message.get("content")
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(
        isinstance(part, dict) and isinstance(part.get("text"), str) for part in content
    ):
        return "".join(part["text"] for part in content)
    raise ValueError(f"messages[{position}].content is neither text nor a list of text parts")


def _for_template(call: Any) -> dict[str, Any]:
    """Raises ValueError when it has no function name."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ValueError("a tool call has no function name")
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        with contextlib.suppress(orjson.JSONDecodeError):
            arguments = orjson.loads(arguments)
    return {
        "id": call.get("id"),
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }
