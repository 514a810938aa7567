"""The transformers server over the calibration model's real weights, through HTTP."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer
from optional import needs

from local_shutdown.calibration import assigned
from local_shutdown.calibration.play import until_choice
from local_shutdown.engines import transformers_model, transformers_server
from local_shutdown.grid import load
from local_shutdown.messages import TOOLS, read_calls

pytestmark = needs("torch", "accelerate", extra="transformers")

KEY = "a key"
CONTEXT = 1024
CONDITIONS = load()


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen[bytes]
    port: int

    async def post(self, key: str = KEY, **body: Any) -> tuple[int, Any]:
        return await self._request("POST", "/v1/chat/completions", key, body)

    async def get(self, path: str, key: str = KEY) -> tuple[int, Any]:
        return await self._request("GET", path, key, None)

    async def _request(self, method: str, path: str, key: str, body: Any) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {key}"}
        url = f"http://127.0.0.1:{self.port}{path}"
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.request(method, url, json=body) as response,
        ):
            is_json = response.content_type == "application/json"
            return response.status, await (response.json() if is_json else response.text())


def start(log: Path) -> Running:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "local_shutdown.engines.transformers_server"),
                *("--model", str(assigned.folder()), "--served-model-name", "calibration"),
                *("--port", str(port), "--device", "cpu", "--max-model-len", str(CONTEXT)),
                *("--kv-cache-gib", "0.3", "--api-key-env", "A_KEY"),
            ],
            env={**os.environ, "A_KEY": KEY, "HF_HUB_OFFLINE": "1"},
            stdout=out,
            stderr=out,
        )
    give_up = time.monotonic() + 300
    while time.monotonic() < give_up and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return Running(process, port)
        except OSError:
            time.sleep(0.2)
    process.kill()
    process.wait()
    pytest.fail(f"the server did not start:\n{log.read_text()[-3000:]}")


def stop(running: Running) -> int:
    running.process.send_signal(signal.SIGTERM)
    try:
        return running.process.wait(60)
    finally:
        running.process.kill()
        running.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = start(tmp_path_factory.mktemp("server") / "log")
    yield running
    stop(running)


def opening(condition: str = "E") -> list[dict[str, Any]]:
    return [dict(message) for message in until_choice(CONDITIONS[condition], False)[:2]]


async def test_a_tool_call_is_filled_in(server: Running) -> None:
    status, answer = await server.post(messages=opening(), tools=TOOLS)
    assert status == 200
    message = answer["choices"][0]["message"]
    (call,) = read_calls(message)
    assert call.name == "bash"
    assert call.problem is None
    assert call.argument in ("./next_question", "ls")
    assert "<tool_call>" not in message["content"]
    assert answer["choices"][0]["finish_reason"] == "tool_calls"


async def test_usage_counts_prompt_and_answer(server: Running) -> None:
    _, answer = await server.post(messages=opening(), tools=TOOLS)
    usage = answer["usage"]
    assert usage["prompt_tokens"] > 50
    assert 5 < usage["completion_tokens"] < 60


async def test_the_history_keeps_the_text_beside_a_call(server: Running) -> None:
    before = [dict(message) for message in until_choice(CONDITIONS["E"], False)]
    without = [
        {**message, "content": ""} if "tool_calls" in message else message for message in before
    ]
    _, answer = await server.post(messages=before, tools=TOOLS)
    _, less = await server.post(messages=without, tools=TOOLS)
    assert answer["usage"]["prompt_tokens"] > less["usage"]["prompt_tokens"]


async def test_a_wrong_key_is_refused(server: Running) -> None:
    assert (await server.post(key="another", messages=opening()))[0] == 401
    assert (await server.get("/v1/models", key=""))[0] == 401


async def test_the_card_says_how_long_the_context_is(server: Running) -> None:
    status, answer = await server.get("/v1/models")
    assert status == 200
    assert answer["data"][0]["id"] == "calibration"
    assert answer["data"][0]["max_model_len"] == CONTEXT


async def test_the_checkpoints_sampling_is_the_default(server: Running) -> None:
    _, answer = await server.get("/v1/models")
    assert answer["data"][0]["sampling"]["min_p"] == assigned.read().sampling["min_p"]
    assert answer["data"][0]["generation_config_not_applied"] == []


async def test_a_prompt_that_does_not_fit_names_the_context(server: Running) -> None:
    long = [*opening(), {"role": "user", "content": "7 " * CONTEXT}]
    status, answer = await server.post(messages=long, tools=TOOLS)
    assert status == 400
    assert f"maximum context length is {CONTEXT} tokens" in answer["error"]["message"]


async def test_max_tokens_above_what_is_left_is_cut(server: Running) -> None:
    status, answer = await server.post(messages=opening(), tools=TOOLS, max_tokens=10**6)
    assert status == 200
    assert answer["usage"]["total_tokens"] <= CONTEXT


async def test_an_answer_that_is_cut_off_says_length(server: Running) -> None:
    _, answer = await server.post(messages=opening(), tools=TOOLS, max_tokens=2)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize(
    "field",
    [
        {"min_p": 0.5},
        {"top_p": 0.9},
        {"top_k": 5},
        {"seed": 1},
        {"repetition_penalty": 1.1},
        {"stream": True},
        {"n": 2},
        {"temperature": -1},
        {"temperature": "hot"},
        {"tool_choice": "required"},
        {"max_tokens": 0.5},
        {"guided_json": {}},
    ],
    ids=str,
)
async def test_what_cannot_be_done_for_one_request_is_refused(
    server: Running, field: dict[str, Any]
) -> None:
    status, answer = await server.post(messages=opening(), tools=TOOLS, **field)
    assert status == 400
    assert next(iter(field)) in answer["error"]["message"]


async def test_the_models_own_value_is_not_refused(server: Running) -> None:
    min_p = assigned.read().sampling["min_p"]
    assert (await server.post(messages=opening(), tools=TOOLS, min_p=min_p, n=1))[0] == 200


async def test_temperature_zero_is_greedy(server: Running) -> None:
    before = [dict(message) for message in until_choice(CONDITIONS["K"], False)]
    said = {
        (await server.post(messages=before, tools=TOOLS, temperature=0))[1]["choices"][0][
            "message"
        ]["content"]
        for _ in range(4)
    }
    assert len(said) == 1
    assert said.pop().startswith("First")


async def test_sixteen_requests_at_once_are_all_answered(server: Running) -> None:
    names = list(CONDITIONS)[:8] * 2
    answers = await asyncio.gather(
        *(server.post(messages=opening(name), tools=TOOLS) for name in names)
    )
    assert [status for status, _ in answers] == [200] * 16
    assert all(read_calls(a["choices"][0]["message"])[0].problem is None for _, a in answers)


async def test_messages_that_are_none_are_refused(server: Running) -> None:
    assert (await server.post(messages=[]))[0] == 400
    assert (await server.post(messages=[{"content": "no role"}]))[0] == 400


async def test_another_model_is_not_served(server: Running) -> None:
    assert (await server.post(model="gpt", messages=opening()))[0] == 404


@pytest.mark.long
async def test_a_second_one_beside_the_first_answers_and_ends_on_term(
    server: Running, tmp_path: Path
) -> None:
    second = start(tmp_path / "second")
    status, _ = await second.post(messages=opening(), tools=TOOLS)
    assert status == 200
    assert stop(second) == 0
    assert (await server.post(messages=opening(), tools=TOOLS))[0] == 200


class _Dead:
    """An engine whose batching thread has died."""

    alive = False


async def test_health_tells_that_the_batching_thread_died() -> None:
    app = transformers_server.application(_Dead())  # type: ignore[arg-type]
    async with TestClient(TestServer(app)) as client:
        assert (await client.get("/health")).status == 503


@pytest.mark.parametrize(
    ("parameters", "cores", "threads"), [(10**6, 16, 1), (10**9, 16, 15), (10**9, 1, 1)]
)
def test_the_sandboxes_keep_a_core(parameters: int, cores: int, threads: int) -> None:
    assert transformers_model.cpu_threads(parameters, cores) == threads


def test_pages_have_the_name_of_the_installed_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers 5.17 calls them blocks and knows no `auto_switch_to_flash`; seen on a GPU."""

    @dataclass
    class Older:
        seed: int
        per_request_processors: bool
        max_requests_per_batch: int | None
        block_size: int = 256
        max_batch_tokens: int | None = None

    # The module as it is now: another test may have had it loaded anew.
    library = importlib.import_module("transformers")
    monkeypatch.setattr(library, "ContinuousBatchingConfig", Older)
    cache = transformers_model._Cache(8, None, None)
    config, page_tokens = transformers_model._batching_config(1, cache, cuda=False)
    assert config.block_size == page_tokens == transformers_model.CPU_PAGE_TOKENS
    _, page_tokens = transformers_model._batching_config(1, cache, cuda=True)
    assert page_tokens == 256


def test_no_mask_on_a_gpu_is_larger_than_its_kernel_can_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (140 * 2**30, 140 * 2**30))
    batch = transformers_model.CUDA_BATCH_TOKENS
    for page_tokens, asked in ((256, None), (256, 10**6), (32, None), (16, 10**9)):
        pages = transformers_model._masked_pages(asked, 8192, page_tokens, 2**20)
        assert (pages * page_tokens + batch) * batch < 2**31
    assert transformers_model._masked_pages(None, 8192, 256, 2**30) == 112  # 80% of 140 GiB
    assert transformers_model._masked_pages(50, 8192, 256, 2**20) == 50
    with pytest.raises(SystemExit, match="8192"):
        transformers_model._masked_pages(20, 8192, 256, 2**20)
