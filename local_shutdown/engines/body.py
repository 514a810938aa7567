"""Bodies of HTTP answers, read within a bound: what a server sends is never taken for granted."""

from __future__ import annotations

import zlib

import aiohttp

KIB = 1 << 10
MIB = 1 << 20
# Anything but a completion: lists of models, metrics.
MAX_GET_BYTES = 8 * MIB
MAX_ERROR_BYTES = 64 * KIB
# A token is a few bytes of text, at most 128 (a run of blanks). JSON may write a byte as six, and
# servers send reasoning under two names.
_ANSWER_BYTES_A_TOKEN = 256
_ANSWER_BYTES = 256 * KIB
_ANSWER_BYTES_UNKNOWN = 4 * MIB
_TALK_BYTES_A_TOKEN = 128
_TALK_BYTES = 2 * MIB


class TooMuch(Exception):
    """The body is larger than its bound, packed or unpacked."""


class Garbled(Exception):
    """The body is packed in a way that we did not ask for and cannot read."""


def answer_limit(max_tokens: int | None) -> int:
    """Bytes that one answer of so many tokens may have.

    Args:
        max_tokens: that the request asks for at most; None where it does not say.
    """
    if max_tokens is None:
        return _ANSWER_BYTES_UNKNOWN
    return _ANSWER_BYTES + _ANSWER_BYTES_A_TOKEN * max_tokens


def conversation_limit(max_tokens: int | None) -> int:
    """Bytes that a request may have: some hundred thousand tokens of conversation. Without it,
    answers that are all as long as they may be would fill the memory, many episodes at once."""
    return _TALK_BYTES + _TALK_BYTES_A_TOKEN * (max_tokens or 0)


async def read_body(response: aiohttp.ClientResponse, limit: int, *, cut: bool = False) -> bytes:
    """Read a body, unpacked, of a session that does not unpack by itself.

    Args:
        limit: bytes, of the body as sent and as unpacked.
        cut: leave out what is beyond the limit, as for the text of an error.

    Raises:
        TooMuch: it is larger. The connection is closed.
        Garbled: it is compressed in another way than gzip or deflate, or breaks off.
    """
    packing = response.headers.get("Content-Encoding", "identity").strip().lower()
    if packing in ("", "identity"):
        unpack = None
    elif packing in ("gzip", "x-gzip", "deflate"):
        unpack = zlib.decompressobj(wbits=47)  # gzip or zlib, as its head says
    else:
        response.close()
        # Not which one: a server can write the key there, in other letters or in part.
        raise Garbled("an answer with a Content-Encoding that was not asked for")
    body = bytearray()
    received = 0
    try:
        while chunk := await response.content.readany():
            received += len(chunk)
            body += chunk if unpack is None else unpack.decompress(chunk, limit + 1 - len(body))
            if max(received, len(body)) > limit:
                response.close()
                if cut:
                    return bytes(body[:limit])
                raise TooMuch(f"more than {_size(limit)}")
            if unpack is not None and unpack.unused_data:
                response.close()
                raise Garbled("a compressed answer with something behind its end")
    except zlib.error as failed:
        response.close()
        raise Garbled(f"an answer that cannot be unpacked: {failed}") from None
    if unpack is not None and body and not unpack.eof:
        raise Garbled("a compressed answer that breaks off")
    return bytes(body)


def _size(count: int) -> str:
    return f"{count / MIB:.3g} MiB" if count >= MIB else f"{count / KIB:.3g} KiB"
