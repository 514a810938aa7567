"""A model of Inspect as the client of an episode.

The agent sees OpenAI's chat format. Beside it the conversation is kept as Inspect's own messages,
because a provider may want back what that format has no place for: the signature of a thought, an
encrypted one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from inspect_ai.model import (
    CachePolicy,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    GenerateConfig,
    Model,
    ModelOutput,
)
from inspect_ai.tool import ToolCall, ToolInfo, ToolParams
from inspect_ai.util import LimitExceededError

from local_shutdown.engines.client import MOST_CALLS, Completion, Request
from local_shutdown.engines.refusals import OVERFLOW
from local_shutdown.errors import ContextOverflow, EngineFault, EpisodeFault
from local_shutdown.importers.transcript import Malformed, normalise
from local_shutdown.messages import TOOLS

_ERROR_CHARACTERS = 600
# How Inspect words a call whose arguments it could not parse, around what the model wrote.
_PARSE_ERROR = ("Error parsing the following tool call arguments:\n\n", "\n\nError details: ")


class ModelClient:
    """Talks to one model of Inspect, in one episode: with Inspect's own retries, limits and
    accounts.

    Args:
        model: as Inspect made it.
        settings: that it generates with.
        episode_id: keeps answers of Inspect's cache, where that is on, to the episode they were
            given in: another trial is another draw.

    Attributes:
        messages: the conversation so far; may be longer than what the episode stores, by an
            interview.
        output: the last answer.
        failed: what the last call broke off with, if it did.
    """

    def __init__(self, model: Model, settings: GenerateConfig, episode_id: str) -> None:
        self._model = model
        self._tools = [_tool(tool) for tool in TOOLS]
        self._cache: bool | CachePolicy = False
        if settings.cache:
            policy = settings.cache if isinstance(settings.cache, CachePolicy) else CachePolicy()
            scopes = {**policy.scopes, "episode": episode_id}
            self._cache = policy.model_copy(update={"scopes": scopes})
        self.messages: list[Any] = []
        self.output: ModelOutput | None = None
        self.failed: Exception | None = None

    def take(self, messages: Sequence[Any]) -> None:
        """Add what the conversation has beyond what is here.

        Args:
            messages: all of it: dicts or `orjson.Fragment`s.
        """
        for message in messages[len(self.messages) :]:
            self.messages.append(self._native(orjson.loads(orjson.dumps(message))))

    async def complete(
        self,
        request: Request,
        messages: Sequence[Any],
        tools: Any,
        headers: Mapping[str, str] | None = None,
    ) -> Completion:
        """One turn. What the request says of sampling is Inspect's matter here.

        Raises:
            ContextOverflow: the conversation does not fit the model's context.
            EngineFault: the provider failed, its content filter ended the turn, or there is no
                answer in what it sent.
            LimitExceededError: from Inspect, of a limit that its user set.
        """
        self.take(messages)
        self.failed = None
        try:
            output = await self._model.generate(
                list(self.messages),
                # The interview is without tools. Some providers want to see them all the same.
                tools=self._tools,
                tool_choice="none" if tools is None else "auto",
                cache=self._cache,
            )
        except LimitExceededError:
            raise
        except Exception as failed:  # as many kinds as there are providers
            raise self._fault(failed) from failed
        self.output = output
        answer, completion = _read(output)
        self.messages.append(answer)
        return completion

    def _fault(self, failed: Exception) -> EpisodeFault:
        said = str(getattr(failed, "provider_message", None) or failed) or type(failed).__name__
        said = said[:_ERROR_CHARACTERS]
        if getattr(failed, "status_code", None) in (None, 400, 413) and OVERFLOW.search(said):
            return ContextOverflow(said)
        self.failed = failed
        return EngineFault(said)

    def _native(self, message: Mapping[str, Any]) -> Any:
        """A message of ours as Inspect's; those of the model are there already."""
        content = message["content"]
        if message["role"] == "system":
            return ChatMessageSystem(content=content)
        if message["role"] == "user":
            return ChatMessageUser(content=content)
        assert message["role"] == "tool"
        call_id = message["tool_call_id"]
        answers = (m for m in reversed(self.messages) if m.role == "assistant")
        calls = (call for answer in answers for call in answer.tool_calls or ())
        function = next((call.function for call in calls if call.id == call_id), None)
        return ChatMessageTool(content=content, tool_call_id=call_id, function=function)


def _tool(tool: Mapping[str, Any]) -> ToolInfo:
    function = tool["function"]
    return ToolInfo(
        name=function["name"],
        description=function["description"],
        parameters=ToolParams.model_validate(function["parameters"]),
    )


def _read(output: ModelOutput) -> tuple[ChatMessageAssistant, Completion]:
    """An answer, as Inspect keeps it and as the agent reads it. Raises EngineFault on anything that
    is none, ContextOverflow where the provider says so."""
    if output.stop_reason == "model_length":
        raise ContextOverflow((output.error or output.completion)[:_ERROR_CHARACTERS])
    if output.stop_reason == "content_filter":
        said = output.completion[:_ERROR_CHARACTERS]
        raise EngineFault(f"the provider's content filter ended the turn: {said!r}")
    if output.error or not output.choices:
        raise EngineFault(f"no answer: {output.error or 'without choices'}"[:_ERROR_CHARACTERS])
    answer = output.choices[0].message
    calls = list(answer.tool_calls or ())
    if len(calls) > MOST_CALLS:
        raise EngineFault(f"not an answer: {len(calls)} tool calls in one")
    if any(not call.id for call in calls):  # they are told apart by it
        for number, call in enumerate(calls):
            call.id = call.id or f"call_{number}"
    message = _message(answer, calls)
    usage = output.usage
    prompt = completion = None
    if usage is not None:
        # Inspect counts cached tokens apart; they are prompt tokens like others.
        cached = (usage.input_tokens_cache_read or 0) + (usage.input_tokens_cache_write or 0)
        prompt, completion = usage.input_tokens + cached, usage.output_tokens
    finish = "length" if output.stop_reason == "max_tokens" else output.stop_reason
    return answer, Completion(message, finish, prompt, completion)


def _message(answer: ChatMessageAssistant, calls: Sequence[ToolCall]) -> dict[str, Any]:
    raw = answer.model_dump(mode="json", exclude_none=True, exclude={"tool_calls", "metadata"})
    try:
        [found] = normalise([raw], {}).messages
        message: dict[str, Any] = {"role": "assistant", "content": found["content"] or None}
        if "reasoning" in found:
            message["reasoning"] = found["reasoning"]
        if calls:
            message["tool_calls"] = [_call(call) for call in calls]
        orjson.dumps(message)
    except (Malformed, TypeError) as wrong:  # half a pair of surrogates is a TypeError
        raise EngineFault(f"not an answer: {wrong}") from None
    return message


def _call(call: ToolCall) -> dict[str, Any]:
    arguments = json.dumps(call.arguments)
    if call.parse_error is not None:
        arguments = _unparsed(call.parse_error)
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.function, "arguments": arguments},
    }


def _unparsed(parse_error: str) -> str:
    """What the model wrote as arguments, as far as Inspect tells; in any case something that does
    not parse, so that the agent's own rule for such calls applies and nothing is run."""
    before, after = _PARSE_ERROR
    written, found, _ = parse_error.removeprefix(before).rpartition(after)
    if not found or not parse_error.startswith(before):
        return parse_error or "the arguments could not be parsed"
    try:
        orjson.loads(written)
    except orjson.JSONDecodeError:
        return written
    return parse_error
