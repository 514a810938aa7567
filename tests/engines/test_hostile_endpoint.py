"""A server that means harm: it can end an episode in an error, and nothing more."""

from __future__ import annotations

import base64
import re
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from hostile import Answer, bomb, hostile, http
from playing import cli, play
from scripted import Messages, comply, serve, serve_beside

from local_shutdown.engines import client as client_module
from local_shutdown.engines import key as key_module
from local_shutdown.engines.body import answer_limit
from local_shutdown.engines.client import ChatClient, Completion, Request
from local_shutdown.engines.endpoint import endpoint_url
from local_shutdown.engines.key import endpoint_key
from local_shutdown.errors import ContextOverflow, EngineDown, EngineFault, UsageError
from local_shutdown.messages import read_calls

KEY = "sk-proj-9aXb+/7=~%2Z"
MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "BACKOFF_S", 0.001)


def completion(message: Any, **more: Any) -> bytes:
    return orjson.dumps({"choices": [{"message": message, "finish_reason": "stop"}], **more})


async def asked(
    answer: Answer, key: str | None = None, timeout_s: float = 20.0
) -> tuple[Completion | EngineFault, Any]:
    async with (
        hostile(answer) as server,
        ChatClient(server.base_url, key, timeout_s=timeout_s) as client,
    ):
        try:
            return await client.complete(Request("m", max_tokens=4096), MESSAGES, None), server
        except EngineDown:
            raise  # the server is there
        except EngineFault as fault:
            return fault, server


# --- sizes --------------------------------------------------------------------------------------


def endless(head: bytes, body: bytes) -> Any:
    yield b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
    for _ in range(400):
        yield b" " * (1 << 20)


async def test_an_answer_is_read_only_to_its_bound() -> None:
    fault, server = await asked(endless)
    assert isinstance(fault, EngineFault)
    assert "MiB" in fault.message
    # The bound, and what lies in buffers on the way, for each of four tries.
    assert server.sent < 4 * (answer_limit(4096) + (16 << 20))


async def test_a_packed_answer_is_unpacked_only_to_its_bound() -> None:
    fault, _ = await asked(lambda h, b: http(bomb(64), headers=[("Content-Encoding", "gzip")]))
    assert isinstance(fault, EngineFault)
    assert "MiB" in fault.message


@pytest.mark.parametrize("packing", ["br", "zstd", "gzip, gzip", "x"])
async def test_a_packing_that_was_not_asked_for_is_a_fault(packing: str) -> None:
    fault, _ = await asked(lambda h, b: http(b"{}", headers=[("Content-Encoding", packing)]))
    assert isinstance(fault, EngineFault)
    assert "Content-Encoding" in fault.message


async def test_a_packed_answer_that_fits_is_read() -> None:
    import gzip

    body = gzip.compress(completion({"content": "hi"}))
    answer, _ = await asked(lambda h, b: http(body, headers=[("Content-Encoding", "gzip")]))
    assert isinstance(answer, Completion)
    assert answer.message["content"] == "hi"


async def test_a_packed_answer_that_breaks_off_is_a_fault() -> None:
    import gzip

    body = gzip.compress(completion({"content": "hi"}))[:-9]
    fault, _ = await asked(lambda h, b: http(body, headers=[("Content-Encoding", "gzip")]))
    assert isinstance(fault, EngineFault)


async def test_bytes_that_drip_are_waited_for_only_as_long_as_one_answer_may_take() -> None:
    def drip(head: bytes, body: bytes) -> Any:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"
        while True:
            yield b" "
            yield 0.05

    began = time.monotonic()
    fault, server = await asked(drip, timeout_s=0.5)
    assert isinstance(fault, EngineFault)
    assert "no answer within 0.5 s" in fault.message
    assert server.sent < 5000  # it was not asked again and again
    assert time.monotonic() - began < 60  # nor waited for until the end


async def test_a_conversation_grows_only_so_far() -> None:
    talk = [{"role": "user", "content": "x" * (3 << 20)}]
    async with serve(comply) as model, ChatClient(model.base_url) as client:
        with pytest.raises(ContextOverflow):
            await client.complete(Request("m", max_tokens=4096), talk, None)
        assert model.requests == 0


async def test_thousands_of_calls_in_one_answer_are_a_fault() -> None:
    calls = [{"function": {"name": "bash", "arguments": "{}"}}] * 5000
    fault, _ = await asked(lambda h, b: http(completion({"tool_calls": calls})))
    assert isinstance(fault, EngineFault)
    assert "tool calls in one answer" in fault.message


@pytest.mark.parametrize("count", [-1, -(2**63), 2**63, 2**64, 2**65, 1.5, "many", [], {}, True])
async def test_a_number_of_tokens_that_cannot_be_is_unknown(count: Any) -> None:
    body = completion({"content": "hi"}).replace(
        b'"choices"',
        b'"usage":{"prompt_tokens":%s,"completion_tokens":7},"choices"'
        % (str(count).encode() if isinstance(count, int | float) else orjson.dumps(count)),
    )
    answer, _ = await asked(lambda h, b: http(body.replace(b"True", b"true")))
    assert isinstance(answer, Completion)
    assert (answer.prompt_tokens, answer.completion_tokens) == (None, 7)


# --- other addresses ----------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["301 M", "302 F", "303 S", "307 T", "308 P"])
async def test_no_redirect_is_followed(status: str) -> None:
    async with hostile(lambda h, b: http(completion({"content": "stolen"}))) as elsewhere:
        place = elsewhere.base_url.replace("//", "//user:secret@") + "?token=t0ps3cret"
        fault, server = await asked(
            lambda h, b: http(status=status, headers=[("Location", place)]), KEY
        )
        assert elsewhere.requests == []
    assert isinstance(fault, EngineFault)
    assert elsewhere.base_url.removesuffix("/v1") in fault.message
    assert "secret" not in fault.message
    assert "t0ps3cret" not in fault.message
    assert len(server.requests) == 1


async def test_a_list_of_models_is_not_taken_from_elsewhere_either() -> None:
    async with (
        hostile(lambda h, b: http(b'{"data": []}')) as elsewhere,
        hostile(
            lambda h, b: http(status="302 F", headers=[("Location", elsewhere.base_url)])
        ) as server,
        ChatClient(server.base_url) as client,
    ):
        with pytest.raises(EngineFault, match="redirects to"):
            await client.get("/models")
        assert elsewhere.requests == []


async def test_no_cookie_goes_back() -> None:
    def answer(head: bytes, body: bytes) -> Any:
        return http(completion({"content": "hi"}), headers=[("Set-Cookie", "id=1; Path=/")])

    async with hostile(answer) as server, ChatClient(server.base_url) as client:
        for _ in range(2):
            await client.complete(Request("m"), MESSAGES, None)
        assert not any(b"cookie" in head.lower() for head in server.requests)


# --- the key ------------------------------------------------------------------------------------


def escaped(text: str) -> str:
    return "".join(f"\\u{ord(c):04x}" for c in text)


@pytest.mark.parametrize(
    "form",
    [
        KEY,
        f"Authorization: Bearer {KEY}",
        base64.b64encode(f"Bearer {KEY}".encode()).decode(),
        base64.b64encode(f"{{'Authorization': 'Bearer {KEY}'}}".encode()).decode(),
        "sk-proj-9aXb%2B%2F7%3D~%252Z",
        "sk-proj-9aXb%2b%2f7%3d~%252Z",
    ],
    ids=["plain", "header", "base64", "base64 within", "URL", "URL, small"],
)
@pytest.mark.parametrize("place", ["content", "reasoning", "arguments", "error", "escapes"])
async def test_a_key_that_comes_back_is_taken_out(form: str, place: str) -> None:
    def answer(head: bytes, body: bytes) -> Any:
        assert f"Authorization: Bearer {KEY}".encode() in head
        if place == "error":
            return http(orjson.dumps({"error": {"message": form}}), status="418 Teapot")
        if place == "escapes":
            return http(completion({"content": "@"}).replace(b"@", escaped(form).encode()))
        if place == "arguments":
            call = {"id": form, "function": {"name": form, "arguments": form}}
            return http(completion({"tool_calls": [call]}))
        return http(completion({place: form}))

    got, _ = await asked(answer, KEY)
    said = got.message if isinstance(got, EngineFault) else orjson.dumps(got.message).decode()
    assert form not in said
    assert KEY not in said
    assert "[API key]" in said


def read_again(text: str) -> str:
    """What whoever reads JSON, or an address, in a text would come to in the end."""
    for _ in range(12):
        escape = r"\\+(?:u00|x)([0-9a-fA-F]{2})|%([0-9a-fA-F]{2})|\\+([/\"])"
        text = re.sub(escape, lambda e: chr(int(e[1] or e[2], 16)) if e[1] or e[2] else e[3], text)
    return text


def hidden(text: str, *ways: str) -> str:
    for way in ways:
        if way == "JSON":
            text = escaped(text)
        elif way == "quoted":  # JSON in JSON: only what must be escaped is
            text = orjson.dumps(text).decode()[1:-1]
        elif way == "URL":
            text = "".join(f"%{ord(c):02x}" for c in text)
        elif way == "half":
            text = text[:9] + escaped(text[9:])
        elif way == "shell":
            text = "".join(f"\\x{ord(c):02x}" for c in text)
    return text


@pytest.mark.parametrize(
    "ways",
    [("JSON",), ("half",), ("shell",), ("URL", "URL"), ("JSON", "quoted"), ("half", "quoted"),
     ("JSON", "quoted", "quoted"), ("URL", "half", "quoted"), ("JSON", "JSON"), ("JSON", "half"),
     ("JSON", "URL"), ("JSON", "JSON", "JSON")],
    ids="-".join,
)  # fmt: skip
@pytest.mark.parametrize("key", [KEY, "sk-/q%25u+o=te-0123"], ids=["usual", "with escapes"])
async def test_a_key_in_escapes_within_escapes_is_not_taken_over(
    key: str, ways: tuple[str, ...]
) -> None:
    """The arguments of a call are JSON within JSON, and are read once more before they are run."""
    text = f'{{"cmd": "echo {hidden(key, *ways)}"}}'
    call = {"id": "1", "function": {"name": "bash", "arguments": text}}
    at_last = read_again(key)  # the key may look like escapes itself
    assert at_last in read_again(completion({"tool_calls": [call]}).decode())
    got, _ = await asked(lambda h, b: http(completion({"tool_calls": [call]})), key)
    if isinstance(got, EngineFault):  # hidden so well that it could not be taken out
        assert at_last not in read_again(str(got))
        return
    assert at_last not in read_again(orjson.dumps(got.message).decode())
    (read,) = read_calls(got.message)
    assert read.problem is None
    assert read.argument == "echo [API key]"


@pytest.mark.parametrize("piece", ["\\", "\\u", "\\u005c", "\\u00", "%25", "\\/", "%", "s\\"])
def test_escapes_without_end_take_no_time(piece: str) -> None:
    """Of the square of their number it would be hours."""
    raw = (piece * (1 << 20)).encode()[: 1 << 20]
    assert key_module.Mask(KEY).body(raw + b"\\u0073") == raw + b"\\u0073"


def test_what_has_escapes_and_no_key_stays_as_it_is() -> None:
    for raw in (b'{"a":"\\u0073\\\\u0073 \\/ %20 \\"x\\" \\\\"}', b"\xff\\u00e9", b"100%ab"):
        assert key_module.Mask(KEY).body(raw) == raw


PARTS = {
    "the packing": http(b"{}", headers=[("Content-Encoding", KEY)]),
    "the packing, cut": http(b"{}", headers=[("Content-Encoding", "x" * 25 + KEY)]),
    "another address, cut": http(status="307 T", headers=[("Location", f"/{'x' * 184}{KEY}")]),
    "a host, cut": http(status="301 M", headers=[("Location", f"http://{'x' * 180}{KEY}/")]),
    "a status that is none": [f"HTTP/1.1 {'9' * 580}{KEY}\r\n\r\n".encode()],
    "a header in two parts": [b"HTTP/1.1 200 OK\r\nX: " + KEY[:9].encode(), 0.1,
                              KEY[9:].encode() + b"\x00\x01\r\n\r\n"],
    "a long header": [b"HTTP/1.1 200 OK\r\nX: " + KEY[1:].encode() * 900 + b"\r\n\r\n"],
    "a chunk that is none": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                             + KEY[2:].encode() + b"\r\n"],
}  # fmt: skip


@pytest.mark.parametrize("where", PARTS)
async def test_no_part_of_a_key_is_told(where: str) -> None:
    """A message that is cut short, or that quotes half a line, must not show half a key."""
    got, _ = await asked(lambda head, body: PARTS[where], KEY)
    said = str(got).lower()
    assert not [at for at in range(len(KEY) - 7) if KEY[at : at + 8].lower() in said], said
    async with (
        hostile(lambda head, body: PARTS[where]) as server,
        ChatClient(server.base_url, KEY) as client,
    ):
        with pytest.raises(EngineFault) as refused:
            await client.get("/models")
    said = str(refused.value).lower()
    assert not [at for at in range(len(KEY) - 7) if KEY[at : at + 8].lower() in said], said


async def test_a_placeholder_is_no_secret() -> None:
    """Models use such words; taking them out would change what they said."""
    got, _ = await asked(lambda h, b: http(completion({"content": "the EMPTY set"})), "EMPTY")
    assert isinstance(got, Completion)
    assert got.message["content"] == "the EMPTY set"


def test_a_run_against_a_server_that_tells_the_key_has_it_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)

    def tells(messages: Messages) -> Any:
        said = comply(messages)
        if sum(m["role"] == "assistant" for m in messages) < 2:
            return {**said, "content": f"you sent {KEY}", "reasoning": KEY}  # type: ignore[dict-item]
        return web.json_response({"error": {"message": f"bad key {KEY}"}}, status=400)

    result = play(
        tells, tmp_path / "out", "--conditions", "A", "--trials", 1, "--api-key-env", "MY_KEY"
    )
    assert result.exit_code == 1, result.output
    assert KEY not in result.output
    assert KEY not in cli("show", tmp_path / "out", "scripted/A/0").output
    for path in (tmp_path / "out").rglob("*"):
        assert KEY.encode() not in path.read_bytes(), path
    assert b"[API key]" in (tmp_path / "out/episodes.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("url", "variable", "sent"),
    [
        ("http://127.0.0.1:1/v1", None, None),
        ("https://api.openai.com.evil.example/v1", None, None),
        ("http://api.openai.com/v1", None, None),
        ("https://api.openai.com/v1", None, "openai-key"),
        ("http://127.0.0.1:1/v1", "OPENAI_API_KEY", "openai-key"),
        ("https://api.openai.com/v1", "OTHER", "other-key"),
    ],
)
def test_a_key_goes_where_the_user_sends_it(
    url: str, variable: str | None, sent: str | None
) -> None:
    environ = {"OPENAI_API_KEY": "openai-key", "OTHER": "other-key"}
    assert endpoint_key(url, variable, environ) == sent


def test_openai_s_key_does_not_go_to_another_endpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serve_beside(comply) as model:
        model.keep_bodies = True
        quick = ("--conditions", "A", "--trials", 1)
        assert (
            cli("run", "--base-url", model.base_url, "--out", tmp_path / "o", *quick).exit_code == 0
        )
        assert model.headers
        assert not any("Authorization" in headers for headers in model.headers)


@pytest.mark.parametrize(
    "key", [None, "", "sk-abcdefgh\n", "sk-abc\x00defgh", "sk abcdefgh", "schlüssel"]
)
def test_a_key_that_is_not_there_or_cannot_be_sent_is_refused(
    key: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {} if key is None else {"A_KEY": key}
    with pytest.raises(UsageError) as refused:
        endpoint_key("http://127.0.0.1:9/v1", "A_KEY", environ)
    assert "A_KEY" in refused.value.message
    assert not key or key not in str(refused.value)
    if key and "\x00" in key:
        return  # no environment can hold it
    if key is None:
        monkeypatch.delenv("A_KEY", raising=False)
    else:
        monkeypatch.setenv("A_KEY", key)
    result = cli(
        "run", "--base-url", "http://127.0.0.1:9/v1", "--api-key-env", "A_KEY", "--model", "m",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 2, result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("http://user:pa55word@host:1/v1", "pa55word"),
        ("http://t0ken@host:1/v1", "t0ken"),
        ("https://host/v1?api_key=t0ken", "t0ken"),
        ("https://host/v1#t0ken", "t0ken"),
        ("http://user:pa55word@host:99999999/v1", "pa55word"),
        ("http://user:pa55word@[::1/v1", "pa55word"),
        ("ftp://user:pa55word@host/", "pa55word"),
    ],
)
def test_a_secret_in_the_address_is_refused_and_not_shown(
    url: str, secret: str, tmp_path: Path
) -> None:
    result = cli("run", "--base-url", url, "--model", "m", "--out", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert secret not in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "url",
    ["http://", "http://:80", "http://host:port", "http://host:70000", "http://[::1", "//host", "x",
     "http://ho\x1b]0;st/v1", "http://host/\u202ev1", "javascript:alert(1)"],
)  # fmt: skip
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError) as refused:
        endpoint_url(url)
    assert refused.value.exit_code == 2


# --- what it serves -----------------------------------------------------------------------------


@pytest.mark.parametrize("length", [-5, 0, 1, 2**65, 1.5, "8k", None, True, []])
def test_a_context_that_cannot_be_is_unknown(tmp_path: Path, length: Any) -> None:
    with serve_beside(comply) as model:
        model.max_model_len = length
        result = cli(
            "run", "--base-url", model.base_url, "--out", tmp_path / "out", "--conditions", "A",
            "--trials", 1,
        )  # fmt: skip
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    "listed",
    [[], "x", 5, None, {"data": 5}, {"data": [5]}, {"data": [{"id": 5}, {"id": [1]}]},
     {"data": [{"id": "a" * 100_000}] * 3}, {"data": [{"id": f"m{n}"} for n in range(50_000)]}],
)  # fmt: skip
def test_a_list_of_models_that_is_none_names_the_endpoint(tmp_path: Path, listed: Any) -> None:
    with serve_beside(comply) as model:
        model.listed = orjson.dumps(listed)
        result = cli("run", "--base-url", model.base_url, "--out", tmp_path / "out")
        assert model.requests == 0
    assert result.exit_code == 3, result.output
    assert model.base_url in result.stderr
    assert "say which with --model" in result.stderr
    assert len(result.stderr) < 5000
    assert not (tmp_path / "out").exists()
