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
    """Takes a key out of what a server sends: as it is, with the escapes of JSON or a URL however
    often they were escaped again, and in base64. What hides it better than that and can still be
    read as the key is not taken over at all. A server that wants to can hide a key that it was
    given in ways of its own; see the threat model.

    Args:
        key: None, or a placeholder that is no secret, leaves everything as it is.
    """

    def __init__(self, key: str | None) -> None:
        self._plain: re.Pattern[bytes] | None = None
        if key and len(key) >= _SHORTEST_SECRET:
            forms = sorted(set(_forms(key)), key=len, reverse=True)
            self._plain = re.compile(b"|".join(map(re.escape, forms)))
            self._escaped = re.compile(b"|".join(map(_in_escapes, forms)))
            # A key may look like an escape itself.
            self._read = re.compile(b"|".join(map(re.escape, {*forms, *map(_unescaped, forms)})))

    def body(self, raw: bytes) -> bytes:
        """A body, JSON or not. Nothing but the mask is left of one that hides the key too well to
        have it taken out: that is no answer, and a fault of the server's."""
        if self._plain is None:
            return raw
        raw = self._plain.sub(_MASK, raw)
        if not self._read.search(_unescaped(raw)):
            return raw
        if len(raw) <= _TAKEN_OUT_BYTES:
            raw = self._escaped.sub(_MASK, raw)
        return _MASK if self._read.search(_unescaped(raw)) else raw

    def text(self, said: str) -> str:
        """A message for the user."""
        return self.body(said.encode("utf-8", "replace")).decode("utf-8", "replace")


# A backslash and those that escape it, themselves escaped or not. So many at most, in an answer no
# longer than that: a server must not make looking for it take minutes.
_TAKEN_OUT_BYTES = 1 << 16
_BACKSLASHES = rb"\\(?:\\|u005[Cc]){0,31}"
_ROUNDS = 8


def _in_escapes(form: bytes) -> bytes:
    """A pattern of a form of the key in which each character may be escaped, however often."""
    return b"".join(_character(byte) for byte in form)


def _character(byte: int) -> bytes:
    literal, digits = re.escape(bytes([byte])), _any_case(b"%02x" % byte)
    if bytes([byte]) in (b"/", b'"', b"\\"):
        literal = rb"\\{0,32}" + literal
    return rb"(?:%b|%b(?:u00|x)%b|%%(?:25)*%b)" % (literal, _BACKSLASHES, digits, digits)


def _any_case(digits: bytes) -> bytes:
    return b"".join(b"[%c%c]" % (d, d - 32) if d >= ord("a") else b"%c" % d for d in digits)


def _unescaped(raw: bytes) -> bytes:
    """What is left when everything that looks like an escape is read, again and again."""
    for _ in range(_ROUNDS):
        read = _READ.sub(_character_of, raw)
        if read == raw:
            break
        raw = read
    return raw


_READ = re.compile(rb"(?<!\\)\\+(?:(?:u00|x)([0-9A-Fa-f]{2})|([/\"]))|%([0-9A-Fa-f]{2})")


def _character_of(escape: re.Match[bytes]) -> bytes:
    digits = escape[1] or escape[3]
    return bytes.fromhex(digits.decode()) if digits else escape[2]


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
