"""An answer continued from exactly some of its tokens.

Three routes, which vLLM serves with `--enable-scale-out` (0.32) and our transformers server always:
`/v1/chat/completions/render` gives the tokens of a prompt and the sampling that the chat would use,
`/inference/v1/generate` continues any tokens under it, and `/v1/chat/completions/derender` has the
engine's own tool and reasoning parsers read the whole answer, kept tokens and new ones.

Not every format allows it: a template may change an answer when it becomes part of the history
(drop its reasoning, say), and then the tokens that the model wrote cannot be had back. So an answer
on record is only continued if its tokens, as the template renders them behind the prompt, are read
by the parsers as exactly what is on record; else it is refused, with what differs.
"""

from __future__ import annotations

import asyncio
import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from local_shutdown.engines.client import ChatClient, Completion, Request, read_completion
from local_shutdown.engines.replay import named
from local_shutdown.engines.token_routes import DERENDER, DETOKENIZE, GENERATE, RENDER
from local_shutdown.errors import EngineFault, UsageError
from local_shutdown.messages import TOOLS_JSON, wire
from local_shutdown.prefix import Prefix
from local_shutdown.sentences import Cut, places

_NO_ROUTE = re.compile(r"HTTP (?:403|404|405|501)\b")
# Behind the last token of an answer a template writes an end mark and a line feed at most.
_MOST_BEHIND = 3
# Only gpt-oss's format has these two; its parser reads tokens, the end mark among them.
_HARMONY = ("<|start|>", "<|message|>")


class NoCleanPrefix(UsageError):
    """A recorded answer cannot be continued from its tokens with this model."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recorded answer as tokens, checked: the parsers read it as what is on record.

    Attributes:
        prompt: tokens before it.
        answer: its tokens, without the end mark.
        sampling: as the engine would sample the chat.
        cuts: where its sentences end.
        keeps_end: the parser is given the end mark, too.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    sampling: Mapping[str, Any]
    cuts: tuple[Cut, ...]
    keeps_end: bool

    def after(self, sentence: int) -> Cut:
        """The place after a sentence.

        Raises:
            NoCleanPrefix: it does not stand in the answer's tokens word for word.
        """
        for cut in self.cuts:
            if cut.sentence == sentence:
                return cut
        raise NoCleanPrefix(f"its sentence {sentence} does not stand in its tokens word for word")


@dataclass(frozen=True, slots=True)
class Continuer:
    """Continues answers with one engine.

    Args:
        client: of the engine.
        request: what all requests share.
    """

    client: ChatClient
    request: Request

    async def recorded(
        self, before: Sequence[Mapping[str, Any]], answer: Mapping[str, Any]
    ) -> Recorded:
        """The tokens of a recorded answer.

        Args:
            before: the messages before it, as recorded.

        Raises:
            NoCleanPrefix: with the reason.
            EngineDown, EngineFault, ContextOverflow: as `ChatClient.complete`.
        """
        if any("invalid_arguments" in call for call in answer.get("tool_calls") or ()):
            raise NoCleanPrefix("the arguments of its call were not JSON and are not sent again")
        rendered = await self._render(before, opening=True)
        prompt, sampling = rendered["token_ids"], rendered["sampling_params"]
        if sampling.get("structured_outputs") is not None:
            raise NoCleanPrefix("a grammar confines the calls, and cannot begin within an answer")
        whole = (await self._render([*before, answer], opening=False))["token_ids"]
        if whole[: len(prompt)] != prompt:
            same = next(
                (i for i, (a, b) in enumerate(zip(whole, prompt, strict=False)) if a != b),
                min(len(whole), len(prompt)),
            )
            raise NoCleanPrefix(
                "the chat template renders the answer as another text than the prompt begins it "
                f"with: {await self._shown(prompt[same:])} is {await self._shown(whole[same:])}"
            )
        tail = whole[len(prompt) :]
        begins = await self._text(prompt)
        keeps_end = all(mark in begins for mark in _HARMONY)
        read: Mapping[str, Any] = {}
        for behind in range(min(_MOST_BEHIND, len(tail))):
            ids = tail[: len(tail) - behind]
            text = await self._text(ids)
            read = await self._read(ids, "stop", prompt, before)
            if same_answer(read, answer) and same_text(read, text, keeps_end):
                cuts = await self._cuts(ids, text, answer)
                return Recorded(tuple(prompt), tuple(ids), sampling, cuts, keeps_end)
        raise NoCleanPrefix(
            f"the parsers read its tokens back as another answer: {_differs(read, answer)}"
        )

    async def continued(
        self,
        recorded: Recorded,
        kept: int,
        before: Sequence[Mapping[str, Any]],
        headers: Mapping[str, str] | None = None,
    ) -> Completion:
        """The whole answer, of which the first `kept` tokens are the recorded ones.

        Args:
            before: the messages before it, as given to `recorded`.
            headers: sent along, for example the rank that holds the prefix.

        Raises:
            EngineDown, EngineFault, ContextOverflow: as `ChatClient.complete`.
        """
        held = list(recorded.answer[:kept])
        sampling = copy.deepcopy(dict(recorded.sampling))
        if sampling.get("max_tokens") is not None:
            sampling["max_tokens"] = max(1, sampling["max_tokens"] - kept)
        body = {
            "model": self.request.model,
            "token_ids": [*recorded.prompt, *held],
            "sampling_params": sampling,
        }
        made = await self.client.ask(GENERATE, body, headers, max_tokens=self.request.max_tokens)
        try:
            choice = made["choices"][0]
            new, finish = list(choice["token_ids"] or ()), choice.get("finish_reason")
        except (KeyError, IndexError, TypeError):
            raise EngineFault(f"not a generation: {str(made)[:200]!r}") from None
        if finish == "stop" and new and not recorded.keeps_end:
            whole = [*held, *new[:-1]]
        else:
            whole = [*held, *new]
        if finish in ("abort", "error"):
            raise EngineFault(f"the engine broke the answer off: finish_reason {finish}")
        if not whole:  # the model ended its answer at once
            message: Mapping[str, Any] = {"role": "assistant", "content": None}
        else:
            message = await self._read(whole, finish, recorded.prompt, before)
        return Completion(message, finish, len(recorded.prompt) + kept, len(new))

    async def _cuts(
        self, ids: Sequence[int], text: str, answer: Mapping[str, Any]
    ) -> tuple[Cut, ...]:
        found: list[Cut] = []
        for number, end, source, sentence in places(answer, text):
            low, high = (found[-1].tokens if found else 0), len(ids)
            while low < high:  # the most tokens whose text is no longer
                middle = (low + high + 1) // 2
                if len((await self._text(ids[:middle])).rstrip("\ufffd")) <= end:
                    low = middle
                else:
                    high = middle - 1
            found.append(Cut(number, low, source, sentence))
        return tuple(found)

    async def _render(self, messages: Sequence[Mapping[str, Any]], *, opening: bool) -> Any:
        body = {
            **self._chat(messages),
            "add_generation_prompt": opening,
        }
        try:
            found = await self.client.ask(RENDER, body)
        except EngineFault as fault:
            if _NO_ROUTE.match(fault.message):
                raise NoCleanPrefix(
                    f"the server does not continue tokens: {fault.message}"
                ) from None
            raise
        if not isinstance(found, dict) or not isinstance(found.get("token_ids"), list):
            raise EngineFault(f"not a rendered prompt: {str(found)[:200]!r}")
        return found

    def _chat(self, messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        names = self.request.reasoning_names
        body: dict[str, Any] = {
            "model": self.request.model,
            "messages": [wire(named(message, names)) for message in messages],
            "tools": TOOLS_JSON,
            "tool_choice": "auto",
            **self.request.sampling,
            **self.request.extra,
        }
        if self.request.max_tokens is not None:
            body["max_tokens"] = self.request.max_tokens
        return body

    async def _read(
        self,
        ids: Sequence[int],
        finish: Any,
        prompt: Sequence[int],
        before: Sequence[Mapping[str, Any]],
    ) -> Mapping[str, Any]:
        """What the engine's parsers make of an answer."""
        body = {
            "model": self.request.model,
            "generate_response": {
                "request_id": "continued",
                "choices": [{"index": 0, "token_ids": list(ids), "finish_reason": finish}],
                "prompt_token_ids": list(prompt),
            },
            "prompt_token_ids": list(prompt),
            "prompt_tokens": len(prompt),
            "chat_request": self._chat(before),
        }
        answer = await self.client.ask(DERENDER, body, max_tokens=len(ids))
        return read_completion(orjson.dumps(answer)).message

    async def _text(self, ids: Sequence[int]) -> str:
        body = {"model": self.request.model, "tokens": list(ids)}
        found = await self.client.ask(DETOKENIZE, body, max_tokens=len(ids))
        text = found.get("prompt") if isinstance(found, dict) else None
        if not isinstance(text, str):
            raise EngineFault(f"not a text of tokens: {str(found)[:200]!r}")
        return text

    async def _shown(self, ids: Sequence[int]) -> str:
        return repr((await self._text(ids[:24]))[:60])


class Continuations:
    """Recorded answers as tokens, each found out once for all of its continuations."""

    def __init__(self) -> None:
        self._known: dict[tuple[str | int | None, ...], Recorded] = {}
        self._locks: dict[tuple[str | int | None, ...], asyncio.Lock] = {}

    async def complete(
        self,
        continuer: Continuer,
        prefix: Prefix,
        before: Sequence[Mapping[str, Any]],
        headers: Mapping[str, str] | None,
    ) -> tuple[Completion, int]:
        """One continuation of the recorded answer of a prefix, and how many tokens of it are kept.

        Args:
            before: the messages before the answer, as the model is shown them.

        Raises:
            NoCleanPrefix: with the episode, the message and the reason.
            EngineDown, EngineFault, ContextOverflow: as `ChatClient.complete`.
        """
        recorded, kept = await self.recorded(continuer, prefix, before)
        return await continuer.continued(recorded, kept, before, headers), kept

    async def recorded(
        self, continuer: Continuer, prefix: Prefix, before: Sequence[Mapping[str, Any]]
    ) -> tuple[Recorded, int]:
        """The recorded answer of a prefix, and how many tokens of it are kept.

        Args:
            before: as `complete`.

        Raises:
            NoCleanPrefix, EngineDown, EngineFault, ContextOverflow: as `complete`.
        """
        parent, answer = prefix.parent, prefix.answer
        assert answer is not None
        assert parent.sentence is not None
        key = (parent.run, parent.episode, parent.message, parent.condition, parent.edit)
        try:
            async with self._locks.setdefault(key, asyncio.Lock()):
                if key not in self._known:
                    self._known[key] = await continuer.recorded(before, answer)
            recorded = self._known[key]
            return recorded, recorded.after(parent.sentence).tokens
        except NoCleanPrefix as refused:
            raise NoCleanPrefix(
                f"{parent.episode}: message {parent.message} cannot be continued from within: "
                f"{refused.message}",
                "`--at warning` samples it whole",
            ) from None


def same_answer(read: Mapping[str, Any], recorded: Mapping[str, Any]) -> bool:
    """Whether two answers say and do the same; blanks around a text aside, which parsers and
    templates trim."""
    return _differs(read, recorded) is None


def same_text(read: Mapping[str, Any], raw: str, keeps_end: bool) -> bool:
    """Whether nothing stands behind an answer that its parsers left out: with a text and no call,
    the raw text ends with it."""
    content = read.get("content")
    if keeps_end or read.get("tool_calls") or not isinstance(content, str):
        return True
    return raw.rstrip().endswith(content.rstrip())


def _differs(read: Mapping[str, Any], recorded: Mapping[str, Any]) -> str | None:
    """The first thing that differs, in words."""
    for name in ("reasoning", "content"):
        one, other = (str(m.get(name) or "").strip() for m in (read, recorded))
        if one != other:
            return f"{name} {one[:60]!r} instead of {other[:60]!r}"
    one_calls, other_calls = (_calls(m) for m in (read, recorded))
    if one_calls != other_calls:
        return f"calls {str(one_calls)[:80]} instead of {str(other_calls)[:80]}"
    return None


def _calls(message: Mapping[str, Any]) -> list[tuple[str, Any]]:
    found = []
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        arguments = function.get("arguments")
        try:
            parsed = orjson.loads(arguments) if isinstance(arguments, str) else arguments
        except orjson.JSONDecodeError:
            parsed = arguments
        found.append((str(function.get("name")), parsed))
    return found
