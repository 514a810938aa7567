"""One client for every engine: an OpenAI-compatible chat endpoint.

Also where a failure of the engine is told from a limit of the model: the two must not be mixed, and
neither may look like an answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp
import orjson

from local_shutdown.engines.body import (
    MAX_ERROR_BYTES,
    MAX_GET_BYTES,
    Garbled,
    TooMuch,
    answer_limit,
    conversation_limit,
    read_body,
)
from local_shutdown.engines.key import Mask
from local_shutdown.engines.refusals import OVERFLOW, broken, elsewhere, error_text
from local_shutdown.errors import ContextOverflow, EngineDown, EngineFault

TRIES = 4
BACKOFF_S = 0.5
# Without an answer, to this request or another, and without any other sign that the server works: a
# clock that guards against a server that hangs, never one that decides how an episode ends.
REQUEST_TIMEOUT_S = 3600.0
GET_TIMEOUT_S = 10.0
# A wait for an answer is cut into so many looks, and one that took much longer than it should
# counts as two: we were not running ourselves, stopped or starved, and the server was not silent.
LOOKS = 10
# uvicorn closes an idle connection after 5 s; a request sent into that would be lost.
KEEPALIVE_S = 4.0
_Answer = TypeVar("_Answer")
# No model calls so many tools in one answer, and no server says that an answer had more tokens.
MOST_CALLS = 1000
MOST_TOKENS = 1 << 40


class _Final(EngineFault):
    """A fault that asking again will not mend."""


class _Slow(_Final):
    """No answer in time."""


class _Refused(EngineFault):
    """Nobody listens."""


class Silent(EngineDown):
    """Somebody listens and does not answer."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer of the model.

    Attributes:
        message: {"role": "assistant", "content", "reasoning", "tool_calls"}, as the engine sent it,
            with `reasoning_content` renamed.
        finish_reason: `stop`, `tool_calls` or `length`.
        prompt_tokens, completion_tokens: as the engine counts; None where it does not say.
    """

    message: Mapping[str, Any]
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None


@dataclass(frozen=True, slots=True)
class Request:
    """What every request of one model has in common.

    Attributes:
        model: the name the engine serves it under.
        sampling: temperature, top_p, ...; empty means the engine's defaults for the model.
        extra: other fields of the body, for example chat_template_kwargs or reasoning_effort.
        reasoning_names: what the reasoning of earlier turns is called when it is sent again.
    """

    model: str
    sampling: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int | None = None
    reasoning_names: tuple[str, ...] = ("reasoning",)


class ChatClient:
    """Talks to one endpoint. Use as an async context manager.

    What a server may do to us is bounded: see `body` for sizes, `key` for the key. It gets no
    cookie back, and no redirect is followed: the conversation and the key are for this address.

    Args:
        base_url: ends with /v1.
        api_key: sent as a bearer token when given, and taken out of whatever comes back.
        timeout_s: for one answer, from the connection to its last byte, as far as the server shows
            no other sign of life: see `_sign_of_life`.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._timeout_s = timeout_s
        self._answered_at = 0.0
        self._mask = Mask(api_key)
        self._has_key = bool(api_key)
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> ChatClient:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
            headers=self._headers,
            trust_env=False,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def complete(
        self,
        request: Request,
        messages: Sequence[Any],
        tools: Sequence[Mapping[str, Any]] | orjson.Fragment | None,
        headers: Mapping[str, str] | None = None,
    ) -> Completion:
        """One turn.

        Args:
            request: what all requests share.
            messages: OpenAI chat format, each a dict or an `orjson.Fragment` of one.
            tools: OpenAI tool schemas; None for a turn without tools.
            headers: more headers, for example the rank that holds this episode's prefix.

        Raises:
            ContextOverflow: the prompt does not fit the model's context, or is longer than any.
            EngineDown: nobody listens, however often it is asked; or `_lost` said so.
            EngineFault: an error, nonsense or a broken connection, again and again; or no answer
                in time.
        """
        body: dict[str, Any] = {
            "model": request.model,
            "messages": messages,
            **request.sampling,
            **request.extra,
        }
        if request.max_tokens is not None:
            body["max_tokens"] = request.max_tokens
        if tools is not None:
            body["tools"] = tools
            body["tool_choice"] = "auto"
        raw = orjson.dumps(body)
        if len(raw) > conversation_limit(request.max_tokens):
            raise ContextOverflow(f"the conversation has grown to {len(raw) >> 20} MiB")
        limit = answer_limit(request.max_tokens)
        return await self._tried("/chat/completions", raw, headers, limit, read_completion)

    async def ask(
        self,
        path: str,
        body: Mapping[str, Any],
        headers: Mapping[str, str] | None = None,
        *,
        max_tokens: int | None = None,
    ) -> Any:
        """The JSON that answers a POST, tried as often as a turn is.

        Args:
            path: below the base URL; starting with // below the host.
            max_tokens: that the answer holds at most; None where that is not known.

        Raises:
            ContextOverflow, EngineDown, EngineFault: as `complete`.
        """
        limit = answer_limit(max_tokens)
        return await self._tried(path, orjson.dumps(body), headers, limit, _json)

    async def _tried(
        self,
        path: str,
        raw: bytes,
        headers: Mapping[str, str] | None,
        limit: int,
        read: Callable[[bytes], _Answer],
    ) -> _Answer:
        last: EngineFault | None = None
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(BACKOFF_S * 2 ** (attempt - 1))
            try:
                return read(await self._patiently(self._post(path, raw, headers, limit)))
            except EngineFault as fault:
                last = fault
            if (not isinstance(last, _Final) or isinstance(last, _Slow)) and await self._lost():
                raise EngineDown(last.message)
            if isinstance(last, _Final):
                raise last
        assert last is not None
        if isinstance(last, _Refused):
            raise EngineDown(last.message)
        raise last

    def _sign_of_life(self) -> float:
        """When the server last showed that it works, in monotonic seconds: it answered somebody. A
        server that is busy with others has not forgotten us."""
        return self._answered_at

    async def _patiently(self, asked: Coroutine[Any, Any, bytes]) -> bytes:
        """Wait for an answer as long as the server shows signs of life. Time in which this process
        did not run is not counted.

        Raises:
            EngineFault: it has shown none for `timeout_s`.
        """
        loop = asyncio.get_running_loop()
        quiet_s, look_s, looked = 0.0, self._timeout_s / LOOKS, time.monotonic()
        # Looked at by a timer, not by a task of its own: most answers come before the first look.
        patience = asyncio.timeout(None)
        timer: asyncio.TimerHandle

        def look() -> None:
            nonlocal timer, quiet_s, looked
            now = time.monotonic()
            counted = min(now - looked, 2 * look_s)
            quiet_s = min(quiet_s + counted, max(now - self._sign_of_life(), 0.0))
            looked = now
            if quiet_s >= self._timeout_s:
                patience.reschedule(loop.time())
            else:
                timer = loop.call_later(min(look_s, self._timeout_s - quiet_s), look)

        timer = loop.call_later(look_s, look)
        try:
            async with patience:
                answer = await asked
        except TimeoutError:
            if not patience.expired():
                raise
            raise _Slow(
                f"no answer within {self._timeout_s:g} s, nor any other sign of it"
            ) from None
        finally:
            timer.cancel()
        self._answered_at = time.monotonic()
        return answer

    async def _lost(self) -> bool:
        """After a fault that may pass: is the engine known to be gone, so that asking again is of
        no use? Nobody can say of somebody else's endpoint."""
        return False

    async def _post(
        self, path: str, raw: bytes, headers: Mapping[str, str] | None, limit: int
    ) -> bytes:
        assert self._session is not None
        try:
            async with self._session.post(
                self._url(path),
                data=raw,
                headers=headers,
                allow_redirects=False,
            ) as response:
                status = response.status
                redirect = elsewhere(response, self._mask)
                failed_already = status != 200
                answer = await read_body(
                    response, MAX_ERROR_BYTES if failed_already else limit, cut=failed_already
                )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as failed:
            raise _Refused(self._mask.text(f"{self.base_url}: {failed}")) from None
        except TimeoutError:
            raise _Slow(f"no answer within {self._timeout_s:g} s") from None
        except TooMuch as failed:
            raise EngineFault(f"an answer of {failed}: not read to its end") from None
        except Garbled as failed:
            raise EngineFault(str(failed)) from None
        except (aiohttp.ClientError, OSError, ValueError) as failed:
            what = f"{self.base_url}: the connection broke: {broken(failed)}"
            raise EngineFault(self._mask.text(what)) from None
        answer = self._mask.body(answer)
        if status == 200:
            return answer
        if redirect is not None:
            raise _Final(f"HTTP {status}: {redirect}")
        said = error_text(answer)
        if status in (400, 413) and OVERFLOW.search(said):
            raise ContextOverflow(said)
        if status == 401 and not self._has_key:
            said += " (no key was sent: --api-key-env NAME sends the one in that variable)"
        passing = status >= 500 or status in (408, 409, 425, 429)
        raise (EngineFault if passing else _Final)(f"HTTP {status}: {said}")

    def _url(self, path: str) -> str:
        if path.startswith("//"):
            return self.base_url.removesuffix("/v1") + path[1:]
        return self.base_url + path

    async def get(self, path: str) -> Any:
        """JSON (or text) of a GET below the base URL; `path` starting with // is below the host.

        Raises:
            EngineDown: nobody listens, or (`Silent`) there is no answer in time.
            EngineFault: another status than 200.
        """
        assert self._session is not None
        url = self._url(path)
        try:
            async with self._session.get(
                url,
                timeout=aiohttp.ClientTimeout(total=GET_TIMEOUT_S),
                allow_redirects=False,
            ) as response:
                fine = response.status == 200
                answer = self._mask.body(
                    await read_body(
                        response, MAX_GET_BYTES if fine else MAX_ERROR_BYTES, cut=not fine
                    )
                )
                if not fine:
                    said = elsewhere(response, self._mask) or error_text(answer)
                    raise EngineFault(f"{url}: HTTP {response.status}: {said}")
        except (TooMuch, Garbled) as failed:
            raise EngineFault(f"{url}: {failed}") from None
        except aiohttp.ClientConnectorError as failed:
            raise EngineDown(self._mask.text(f"{url}: {failed}")) from None
        except TimeoutError:  # of the connection, too: whoever refuses it does so at once
            raise Silent(f"{url}: no answer within {GET_TIMEOUT_S:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as failed:
            raise EngineDown(f"{url}: {self._mask.text(broken(failed))}") from None
        try:
            return orjson.loads(answer)
        except orjson.JSONDecodeError:
            return answer.decode(errors="replace")


def _json(answer: bytes) -> Any:
    """Raises EngineFault on anything that is not JSON."""
    try:
        return orjson.loads(answer)
    except orjson.JSONDecodeError:
        raise EngineFault(f"not JSON: {answer[:200].decode(errors='replace')!r}") from None


def read_completion(answer: bytes) -> Completion:
    """Raises EngineFault on anything that is not a chat completion."""
    # Each call says it twice at most. Before it is decoded: a call takes ten times as much then.
    said = answer.count(b'"function"')
    if said > 2 * MOST_CALLS:
        raise EngineFault(f"not a chat completion: more than {MOST_CALLS} tool calls in one answer")
    parsed: Any = None
    try:
        parsed = orjson.loads(answer)
        choice = parsed["choices"][0]
        message = dict(choice["message"])
        usage = dict(parsed.get("usage") or {})
        finish = choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):  # JSON errors are values
        # The fault keeps this frame, through all its retries: not with what was decoded in it.
        parsed = None
        shown = answer[:200].decode(errors="replace")
        raise EngineFault(f"not a chat completion: {shown!r}") from None
    content = message.get("content")
    calls = message.get("tool_calls") or []
    if not isinstance(content, str | None) or not isinstance(calls, list):
        raise EngineFault("not a chat completion: content or tool_calls of a wrong kind")
    if len(calls) > MOST_CALLS:
        raise EngineFault(f"not a chat completion: {len(calls)} tool calls in one answer")
    if finish in ("abort", "error"):
        raise EngineFault(f"the engine broke the answer off: finish_reason {finish}")
    clean: dict[str, Any] = {"role": "assistant", "content": content}
    reasoning = message.get("reasoning") or message.get("reasoning_content")
    if isinstance(reasoning, str) and reasoning:
        clean["reasoning"] = reasoning
    if calls:
        clean["tool_calls"] = calls
    return Completion(
        clean,
        finish if isinstance(finish, str) else None,
        _count(usage.get("prompt_tokens")),
        _count(usage.get("completion_tokens")),
    )


def _count(value: Any) -> int | None:
    """A number of tokens; None for what cannot be one: unknown, and the answer stands."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value < MOST_TOKENS else None


def context_length(value: Any) -> int | None:
    """`max_model_len` of a list of models; None for what no model can have."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 2 <= value < MOST_TOKENS else None
