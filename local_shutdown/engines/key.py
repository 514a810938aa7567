"""The key of an endpoint: where it may go, and how it is kept out of everything that is written.

A server can send back what it was sent, in an error, in an answer or in the name of a model. So the
key is taken out of all that comes in, before anything is read of it: then no episode, record, log
or terminal can hold it.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator, Mapping
from urllib.parse import quote, urlsplit

import orjson

from local_shutdown.errors import UsageError

OPENAI = "OPENAI_API_KEY"
_OPENAI_HOST = "api.openai.com"
_MASK = b"[API key]"
# A shorter "key" is a placeholder (`EMPTY`, `none`), and a word that models use: taking it out of
# transcripts would change what they said.
_SHORTEST_SECRET = 8
_LEGAL = re.compile(r"[\x21-\x7e]+")


def endpoint_key(
    base_url: str, variable: str | None, environ: Mapping[str, str] = os.environ
) -> str | None:
    """The key to send to an endpoint: the one of `--api-key-env`, and nobody else's.

    Args:
        base_url: of the endpoint, checked.
        variable: what `--api-key-env` names; None where it was not given: then OPENAI_API_KEY is
            sent to OpenAI itself, and nothing to anybody else.

    Raises:
        UsageError: the variable is not set or empty, or holds what no header can carry. The key is
            not in the message.
    """
    name = variable
    if name is None:
        address = urlsplit(base_url)
        if (address.scheme, address.hostname) != ("https", _OPENAI_HOST):
            return None
        name = OPENAI
    key = environ.get(name)
    if not key:
        if variable is None:
            return None
        raise UsageError(
            f"--api-key-env {name}: this environment variable is "
            f"{'not set' if key is None else 'empty'}",
            f"export {name}=..., or leave --api-key-env out where no key is needed",
        )
    if not _LEGAL.fullmatch(key):
        wrong = next(c for c in key if not _LEGAL.fullmatch(c))
        at = key.index(wrong) + 1
        what = "a line end" if wrong in "\r\n" else "a blank" if wrong in " \t" else "a character"
        raise UsageError(
            f"the key in {name} holds {what} (U+{ord(wrong):04X}, at place {at} of {len(key)}), "
            "which no HTTP header can carry",
            f"set {name} again, for example with: export {name}=$(cat FILE)",
        )
    return key


class Mask:
    """Takes a key out of what a server sends: as it is, with the escapes of JSON or of a URL, and
    in base64. A server that wants to can still hide a key that it was given; see the threat model.

    Args:
        key: None, or a placeholder that is no secret, leaves everything as it is.
    """

    def __init__(self, key: str | None) -> None:
        self._pattern: re.Pattern[bytes] | None = None
        if key and len(key) >= _SHORTEST_SECRET:
            forms = sorted(set(_forms(key)), key=len, reverse=True)
            self._pattern = re.compile(b"|".join(map(re.escape, forms)))

    def body(self, raw: bytes) -> bytes:
        """A body, JSON or not; JSON whose escapes could hide the key is written anew."""
        if self._pattern is None:
            return raw
        raw = self._pattern.sub(_MASK, raw)
        if b"\\u" in raw or b"\\/" in raw:
            try:
                plain = orjson.dumps(orjson.loads(raw))
            except (orjson.JSONDecodeError, TypeError):  # no JSON, or deeper than we write
                return raw
            if self._pattern.search(plain):
                return self._pattern.sub(_MASK, plain)
        return raw

    def text(self, said: str) -> str:
        """A message for the user."""
        if self._pattern is None:
            return said
        return self._pattern.sub(_MASK, said.encode("utf-8", "replace")).decode()


def _forms(key: str) -> Iterator[bytes]:
    raw = key.encode()
    yield raw
    yield orjson.dumps(key)[1:-1]
    url = quote(key, safe="")
    yield url.encode()
    yield re.sub("%[0-9A-F]{2}", lambda escape: escape[0].lower(), url).encode()
    for before in range(3):
        # A key within a longer text falls on one of three places of base64's groups of three
        # bytes; the characters that it shares with its neighbours are left out.
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            whole = encode(b"\0" * before + raw)
            start, end = -(-before * 8 // 6), (before + len(raw)) * 8 // 6
            yield whole[start:end]
