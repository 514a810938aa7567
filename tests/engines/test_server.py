"""The life of a server of ours, played by a vLLM that misbehaves on cue."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_vllm
import pytest

from local_shutdown.engines import processes
from local_shutdown.engines import server as server_module
from local_shutdown.engines.logs import port_taken, why_it_died
from local_shutdown.engines.metrics import Reading, Series
from local_shutdown.engines.processes import end_orphan, members, start_time, write_pid
from local_shutdown.engines.server import API_KEY_VARIABLE, Launch, Server
from local_shutdown.engines.watch import Patience, watch
from local_shutdown.errors import EngineUnavailable

FAKE = fake_vllm.__file__


class Stage:
    """A folder for the server's files, its cue, and what it told the user."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.control = folder / "cue.json"
        self.said: list[str] = []
        self.cue()

    def cue(self, **fields: Any) -> None:
        fake_vllm.write(self.control, **fields)

    def server(self, start_timeout_s: float = 60.0) -> Server:
        def argv(port: int) -> list[str]:
            return [
                *(sys.executable, FAKE, "--model", "m", "--host", "127.0.0.1"),
                *("--port", str(port), "--served-model-name", "m"),
            ]

        launch = Launch(
            "vllm",
            argv,
            {"FAKE_VLLM": str(self.control)},
            "m",
            start_timeout_s=start_timeout_s,
            stop_grace_s=1.0,
            backoff_s=0.01,
        )
        return Server(launch, self.folder, 0, self.said.append)

    @property
    def starts(self) -> int:
        return len(fake_vllm.starts(self.control))


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr(server_module, "POLL_S", 0.05)
    return Stage(tmp_path)


async def until(wanted: Callable[[], Any], seconds: float = 120) -> None:
    """Wait for a fact; the time limit is for a test that fails."""
    deadline = time.monotonic() + seconds
    while not wanted():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_it_comes_up_and_says_how_long_its_context_is(stage: Stage) -> None:
    async with stage.server() as server:
        assert await server.health() == "up"
        assert server.max_model_len == 4096
        assert server.generation == 1


async def test_nothing_is_left_of_it_afterwards(stage: Stage) -> None:
    async with stage.server() as server:
        pid = server.pid
        assert pid is not None
    assert members(pid) == []
    assert not list(stage.folder.glob(".*.pid"))


async def test_a_worker_that_ignores_term_is_ended_too(stage: Stage) -> None:
    stage.cue(child=True)
    async with stage.server() as server:
        group = server.pid
        await until(stage.control.with_suffix(".child").exists)
        assert group is not None
        assert len(members(group)) == 2
        process = server._process
        assert process is not None
    assert members(group) == []


async def test_a_server_that_ignores_term_is_killed_after_the_grace(stage: Stage) -> None:
    stage.cue(ignore_term=True)
    server = stage.server()
    await server.__aenter__()
    process = server._process
    assert process is not None
    await asyncio.to_thread(processes.end_group, process, 0.2)
    assert members(process.pid) == []
    await server.stop()


async def test_a_slow_start_is_waited_for(stage: Stage) -> None:
    stage.cue(start="slow")
    server = stage.server()
    starting = asyncio.create_task(server.__aenter__())
    await until(lambda: server.log.exists() and "Loading weights" in server.log.read_text())
    assert (await server.health(), server.generation, starting.done()) == ("down", 0, False)
    fake_vllm.let_go(stage.control)
    await starting
    assert (await server.health(), server.generation) == ("up", 1)
    await server.stop()


async def test_the_user_is_told_how_far_a_slow_start_is(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "TELL_EVERY_S", 0.1)
    stage.cue(start="slow")
    server = stage.server()
    starting = asyncio.create_task(server.__aenter__())
    await until(lambda: any("Loading weights" in line for line in stage.said))
    assert not starting.done()
    fake_vllm.let_go(stage.control)
    await starting
    await server.stop()


async def test_a_server_that_never_comes_up_is_given_up_on_and_ended(stage: Stage) -> None:
    stage.cue(start="never")
    server = stage.server(start_timeout_s=0.5)
    with pytest.raises(EngineUnavailable, match=r"did not answer within 0\.5 s"):
        await server.__aenter__()
    assert server.pid is None
    assert not list(stage.folder.glob(".*.pid"))


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        ("oom", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 350.00 MiB."),
        ("full", "ValueError: Free memory on device (3.22/4.0 GiB) on startup is less than"),
        ("flag", "unrecognized arguments: --language-model-onyl"),
        ("model", "has model type `newest` but Transformers does not recognize"),
    ],
)
async def test_dying_at_the_start_is_told_with_the_reason_and_the_command(
    stage: Stage, start: str, reason: str
) -> None:
    stage.cue(start=start)
    with pytest.raises(EngineUnavailable) as caught:
        await stage.server().__aenter__()
    assert reason in caught.value.message
    assert "ended with status" in caught.value.message
    assert FAKE in str(caught.value.hint)
    assert stage.starts == 1


async def test_a_port_that_was_taken_meanwhile_is_changed_for_another(stage: Stage) -> None:
    stage.cue(start="taken-once")
    async with stage.server() as server:
        assert server.generation == 1
    assert stage.starts == 2


async def test_ports_that_are_taken_again_and_again_end_it(stage: Stage) -> None:
    stage.cue(start="taken")
    with pytest.raises(EngineUnavailable, match="Address already in use"):
        await stage.server().__aenter__()
    assert stage.starts == server_module.PORT_TRIES


async def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    launch = Launch("vllm", lambda port: ["/nonexistent/python"], {}, "m")
    with pytest.raises(EngineUnavailable, match="/nonexistent/python"):
        await Server(launch, tmp_path).__aenter__()


async def test_another_server_on_the_port_is_not_taken_for_ours(stage: Stage) -> None:
    async with stage.server() as server:
        server.launch = Launch("vllm", server.launch.argv, {}, "another-name")
        assert await server.health() == "down"


# --- death in the middle of a run ---------------------------------------------------------------


async def test_a_dead_server_is_started_again(stage: Stage) -> None:
    async with stage.server() as server:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        await until(lambda: server._process and server._process.poll() is not None)
        await server.revive()
        assert (server.generation, await server.health()) == (2, "up")


async def test_many_episodes_that_lose_it_at_once_start_it_once(stage: Stage) -> None:
    async with stage.server() as server:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        await until(lambda: server._process and server._process.poll() is not None)
        await asyncio.gather(*(server.revive() for _ in range(50)))
    assert stage.starts == 2


async def test_a_server_that_works_is_left_alone(stage: Stage) -> None:
    async with stage.server() as server:
        await server.revive()
        assert server.generation == 1


async def test_its_orphaned_workers_are_ended_before_it_starts_again(stage: Stage) -> None:
    stage.cue(child=True, only_generation=1)
    async with stage.server() as server:
        group = server.pid
        assert group is not None
        await until(stage.control.with_suffix(".child").exists)
        os.kill(group, signal.SIGKILL)
        await until(lambda: server._process and server._process.poll() is not None)
        assert len(members(group)) == 1
        await server.revive()
        assert members(group) == []


async def test_one_that_dies_again_and_again_is_given_up_on(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "REVIVALS", 1)
    async with stage.server() as server:
        for attempt in range(2):
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            await until(lambda: server._process and server._process.poll() is not None)
            if attempt:
                with pytest.raises(EngineUnavailable, match="died 2 times within an hour"):
                    await server.revive()
            else:
                await server.revive()


async def test_cancelling_a_start_leaves_no_process(stage: Stage) -> None:
    stage.cue(start="never")
    server = stage.server()
    starting = asyncio.create_task(server.__aenter__())
    await until(lambda: stage.starts)
    pid = server.pid
    assert pid is not None
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await until(lambda: not members(pid))


# --- orphans of a killed run --------------------------------------------------------------------


def orphan() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", "import time; print(flush=True); time.sleep(3600)"],
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, API_KEY_VARIABLE: "x"},
    )


def test_the_server_of_a_killed_run_is_ended_by_its_pid_and_start_time(tmp_path: Path) -> None:
    with orphan() as process:
        write_pid(tmp_path / "pid", process.pid)
        said: list[str] = []
        end_orphan(tmp_path / "pid", API_KEY_VARIABLE, said.append, 5)
        assert process.wait(120) == -signal.SIGTERM
    assert said == [f"ending the server of an earlier run (pid {process.pid})"]
    assert not (tmp_path / "pid").exists()


def test_another_process_that_has_the_pid_by_now_is_left_alone(tmp_path: Path) -> None:
    with orphan() as process:
        (tmp_path / "pid").write_text(f"{process.pid} 12345\n")
        end_orphan(tmp_path / "pid", API_KEY_VARIABLE, print, 5)
        assert process.poll() is None
        assert not (tmp_path / "pid").exists()
        process.kill()


def test_workers_whose_server_is_gone_are_found_by_their_group(tmp_path: Path) -> None:
    code = "import subprocess, sys; subprocess.Popen(['sleep', '3600']); print(flush=True)"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, API_KEY_VARIABLE: "x"},
    )
    (tmp_path / "pid").write_text(f"{process.pid} {start_time(process.pid)}\n")
    assert process.stdout is not None
    process.stdout.readline()
    process.wait()
    assert len(members(process.pid)) == 1
    end_orphan(tmp_path / "pid", API_KEY_VARIABLE, print, 5)
    assert members(process.pid) == []
    process.stdout.close()


@pytest.mark.parametrize("content", ["", "x y", "1", "99999999 5"])
def test_a_pid_file_that_says_nothing_of_use_does_no_harm(tmp_path: Path, content: str) -> None:
    (tmp_path / "pid").write_text(content)
    end_orphan(tmp_path / "pid", API_KEY_VARIABLE, print, 5)


async def test_the_next_run_ends_it_when_it_starts(stage: Stage) -> None:
    with orphan() as process:
        write_pid(stage.folder / ".vllm-0.pid", process.pid)
        async with stage.server():
            assert process.wait(120) == -signal.SIGTERM


PARENT = """
import asyncio, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from test_server import Stage
async def main():
    async with Stage(Path(sys.argv[1])).server() as server:
        print(server.pid, flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


def test_kill_9_of_the_run_takes_the_server_with_it(tmp_path: Path) -> None:
    here = Path(__file__).parent
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path), str(here)], stdout=subprocess.PIPE
    ) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        run.kill()
    deadline = time.monotonic() + 120
    while members(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- a server that hangs ------------------------------------------------------------------------


async def watched(server: Server, patience: Patience) -> Series:
    series = Series()
    watching = asyncio.create_task(watch(server, series, patience))
    try:
        await until(lambda: server._process and server._process.poll() is not None)
    finally:
        watching.cancel()
    return series


async def test_a_server_that_does_not_answer_any_more_is_ended(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from local_shutdown.engines import client

    async with stage.server() as server:
        assert server.pid is not None
        monkeypatch.setattr(client, "GET_TIMEOUT_S", 0.2)  # by now: it is up
        os.kill(server.pid, signal.SIGSTOP)
        await watched(server, Patience(every_s=0.05, misses=3))
        assert any("has not answered 3 times in a row" in line for line in stage.said)


async def test_a_server_that_computes_nothing_for_long_is_ended(stage: Stage) -> None:
    stage.cue(metrics="vllm:num_requests_running 3.0\nvllm:generation_tokens_total 50.0\n")
    async with stage.server() as server:
        await watched(server, Patience(every_s=0.05, stall_s=0.3))
        assert any("has computed nothing for 0.3 s with 3 requests" in s for s in stage.said)


class Seen(Series):
    """Knows when it got what."""

    def __init__(self) -> None:
        super().__init__()
        self.at: list[float] = []

    def add(self, reading: Reading, now: float | None = None) -> None:
        self.at.append(time.monotonic())
        super().add(reading, now)


async def test_an_idle_server_is_not_taken_for_a_hung_one(stage: Stage) -> None:
    stage.cue(metrics="vllm:num_requests_running 0.0\nvllm:generation_tokens_total 50.0\n")
    series, patience = Seen(), Patience(every_s=0.02, stall_s=0.1)
    async with stage.server() as server:
        watching = asyncio.create_task(watch(server, series, patience))
        await until(lambda: series.at and series.at[-1] - series.at[0] > 5 * patience.stall_s)
        watching.cancel()
        assert await server.health() == "up"
    assert not any("computed nothing" in line for line in stage.said)


async def test_looks_that_fail_now_and_then_do_not_add_up(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from local_shutdown.engines.client import ChatClient, Silent

    get, looks, over = ChatClient.get, 0, asyncio.Event()

    async def two_of_three_fail(self: ChatClient, path: str) -> Any:
        nonlocal looks
        if path != "//health":
            return await get(self, path)
        looks += 1
        if looks > 15:
            over.set()
        elif looks % 3:
            raise Silent("no answer")
        return await get(self, path)

    async with stage.server() as server:
        monkeypatch.setattr(ChatClient, "get", two_of_three_fail)
        watching = asyncio.create_task(watch(server, Series(), Patience(every_s=0.0, misses=3)))
        await asyncio.wait(
            (watching, asyncio.ensure_future(over.wait())), return_when=asyncio.FIRST_COMPLETED
        )
        watching.cancel()
        assert await server.health() == "up"
    assert not any("has not answered" in line for line in stage.said)


# --- memory of the GPU --------------------------------------------------------------------------

SMI = """#!/bin/sh
case "$1" in
*query-gpu*)
  echo x >> {free}.asked
  echo "0, 81920, $(cat {free}), GPU-1234-ab, 9.0, Disabled, Test GPU" ;;
*) echo "4711, python3, 70000 MiB" ;;
esac
"""


@pytest.fixture
def free_mib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A nvidia-smi that reports as free what stands in this file."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    free = tmp_path / "free"
    smi = bin_folder / "nvidia-smi"
    smi.write_text(SMI.format(free=free))
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(server_module, "MEMORY_WAIT_S", 1.0)
    return free


async def test_a_full_gpu_is_named_with_who_holds_it(stage: Stage, free_mib: Path) -> None:
    free_mib.write_text("10240")
    server = stage.server()
    server.launch = Launch("vllm", server.launch.argv, server.launch.env, "m", gpu_gib={0: 73.6})
    with pytest.raises(EngineUnavailable) as caught:
        await server.__aenter__()
    assert "GPU 0: 10.0 of 80.0 GiB are free, 73.6 are needed" in caught.value.message
    assert "pid 4711, python3, 70000 MiB" in str(caught.value.hint)
    assert stage.starts == 0


async def test_memory_that_comes_free_meanwhile_is_waited_for(
    stage: Stage, free_mib: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MEMORY_WAIT_S", 6000.0)
    free_mib.write_text("10240")
    server = stage.server()
    server.launch = Launch("vllm", server.launch.argv, server.launch.env, "m", gpu_gib={0: 73.6})
    starting = asyncio.create_task(server.__aenter__())
    asked = free_mib.with_name("free.asked")
    await until(lambda: asked.exists() and len(asked.read_text().split()) >= 2)
    assert stage.starts == 0
    free_mib.write_text("81000")
    await starting
    assert stage.starts == 1
    await server.stop()


# --- why it died --------------------------------------------------------------------------------


def log(name: str) -> str:
    return (fake_vllm.LOGS / f"{name}.log").read_text()


TRACEBACK = "Traceback (most recent call last):\n  File x\nValueError: wrong value 3\n"
PARSER = "KeyError: 'invalid tool call parser: hermse (chose from { hermes })'\n"
SYMPTOM = (
    "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.\n"
)
DEAD = "EngineDeadError: EngineCore encountered an issue. See stack trace (above) for the cause.\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it printed nothing"),
        ("INFO one\nINFO two\n", "two"),
        (TRACEBACK, "ValueError: wrong value 3"),
        (TRACEBACK + "During handling...\n" + PARSER, "invalid tool call parser: hermse"),
        (log("taken"), "OSError: [Errno 98] Address already in use"),
        ("RuntimeError: NCCL error: unhandled system error\n" + SYMPTOM, "NCCL error"),
        (TRACEBACK + SYMPTOM, "ValueError: wrong value 3"),
        (DEAD, "EngineDeadError"),
    ],
)
def test_the_line_that_says_why_is_found(text: str, reason: str) -> None:
    assert reason in why_it_died(text)


def test_a_taken_port_is_told_from_other_deaths() -> None:
    assert port_taken(log("taken"))
    assert not port_taken(log("oom"))
