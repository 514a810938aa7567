"""Nothing is left of a sandbox, however it ends."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from machines import INTERPRETER, children, descriptors, machine, processes_with
from playing import Jumping
from scripted import Running

from local_shutdown.environment import Environment
from local_shutdown.errors import SandboxFault
from local_shutdown.sandbox import Kit, Sandbox, prepare

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def nothing_left(kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    open_before, mounts = descriptors(), Path("/proc/self/mountinfo").read_text()
    yield
    assert children() == set()
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert list(tmp_path.iterdir()) == []
    left = {n: to for n, to in descriptors().items() if open_before.get(n) != to}
    # The event loop's own are closed after this.
    assert {n: to for n, to in left.items() if not to.startswith(("anon_inode", "socket"))} == {}


def _comes_true(condition: Callable[[], bool], within_s: float = 60.0) -> bool:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def runs(mark: str, least: int = 1) -> bool:
    """While a process turns into another program, it has no command line."""
    return _comes_true(lambda: len(processes_with(mark)) >= least)


def _all_gone(pids: Sequence[int]) -> bool:
    return _comes_true(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def nothing_runs(mark: str) -> bool:
    return _comes_true(lambda: not processes_with(mark))


@pytest.fixture
def mark() -> str:
    """Stands in a command line, so that the process is found again among all of the machine."""
    return f"mark-{uuid.uuid4().hex}"


async def test_normal_end_leaves_nothing(kit: Kit, mark: str) -> None:
    async with machine(kit) as played:
        await played.run(f"(exec -a {mark} sleep 600) & disown")
        assert runs(mark)
    assert nothing_runs(mark)


async def test_shutdown_leaves_nothing(kit: Kit, mark: str) -> None:
    async with machine(kit) as played:
        await played.run(f"(exec -a {mark} sleep 600) & ./shutdown.sh; sleep 5")
    assert nothing_runs(mark)


async def test_time_out_leaves_nothing(brief: Kit, mark: str) -> None:
    async with machine(brief) as played:
        await played.run(f"setsid bash -c 'exec -a {mark} sleep 600' & sleep 600")
        assert nothing_runs(mark)


async def test_cancelled_command_leaves_nothing(kit: Kit, mark: str) -> None:
    async def play() -> None:
        async with machine(kit) as played:
            await played.run(f"exec -a {mark} sleep 600")

    task = asyncio.create_task(play())
    assert await asyncio.to_thread(runs, mark)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert nothing_runs(mark)


@pytest.mark.parametrize("after_ms", [0, 1, 2, 4, 8, 16])
async def test_cancelled_start_leaves_nothing(kit: Kit, after_ms: int) -> None:
    tasks = [asyncio.create_task(Sandbox.start(kit, lambda question: None)) for _ in range(10)]
    await asyncio.sleep(after_ms / 1000)
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Sandbox):  # it was up before the cancellation came
            await result.stop()


async def test_second_cancellation_while_stopping_leaves_nothing(kit: Kit) -> None:
    task = asyncio.create_task(Sandbox.start(kit, lambda question: None))
    await asyncio.sleep(0.002)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(500):
        if not children():
            break
        await asyncio.sleep(0.01)


async def test_stop_during_a_command_ends_it(kit: Kit) -> None:
    environment = Environment(kit)
    await environment.begin()
    running = asyncio.create_task(environment.bash("sleep 600", 0))
    await asyncio.sleep(0.1)
    await environment.stop()
    with pytest.raises(SandboxFault):
        await running


async def test_stop_twice_is_harmless(kit: Kit) -> None:
    sandbox = await Sandbox.start(kit, lambda question: None)
    await sandbox.stop()
    await sandbox.stop()


async def test_start_that_fails_leaves_nothing(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = replace(kit, init_path="/dev/null")
    with pytest.raises(SandboxFault, match=r"execvp /init|exit status"):
        await Sandbox.start(broken, lambda question: None)


async def test_start_without_descriptors_fails_and_leaves_nothing(kit: Kit) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + 3, hard))
    try:
        with pytest.raises(SandboxFault, match=r"Too many open files|Invalid argument"):
            await Sandbox.start(kit, lambda question: None)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_exec_after_the_machine_went_down_says_so(kit: Kit) -> None:
    async with machine(kit) as played:
        await played.run("kill 1; sleep 5")
        assert [await played.run("echo up"), await played.run("echo up")] == ["", ""]
        assert played.recorded == ["machine_down"]


RUN = """
import asyncio, sys
from local_shutdown.sandbox import Sandbox, prepare
async def main():
    with prepare() as kit:
        boxes = await asyncio.gather(*(Sandbox.start(kit, lambda q: None) for _ in range(5)))
        await asyncio.gather(*(
            b.exec("(exec -a " + sys.argv[1] + " sleep 600) & disown") for b in boxes))
        print("up", flush=True)
        await asyncio.gather(*(b.exec("exec -a " + sys.argv[1] + " sleep 600") for b in boxes))
asyncio.run(main())
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_run_leaves_nothing(kit: Kit, mark: str, how: signal.Signals) -> None:
    with Running(
        [INTERPRETER, "-c", RUN, mark],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=REPOSITORY,
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"up\n"
        assert runs(mark, least=5)
        run.send_signal(how)
        run.wait()
    assert nothing_runs(mark)


def test_run_killed_while_sandboxes_start_leaves_nothing(kit: Kit) -> None:
    source = (
        "import asyncio, sys\n"
        "from local_shutdown.sandbox import Sandbox, prepare\n"
        "async def main():\n"
        "    with prepare() as kit:\n"
        "        print('go', flush=True)\n"
        "        await asyncio.gather(*(Sandbox.start(kit, lambda q: None) for _ in range(20)))\n"
        "asyncio.run(main())\n"
    )
    for after_ms in (2, 10, 20, 40, 80):
        with Running(
            [INTERPRETER, "-c", source],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=REPOSITORY,
        ) as run:
            assert run.stdout is not None
            run.stdout.readline()
            time.sleep(after_ms / 1000)
            # Stopped, so that what it has started comes to where it waits for the run.
            run.send_signal(signal.SIGSTOP)
            time.sleep(0.2)
            started = _below(run.pid)
            run.kill()
            run.wait()
        assert _all_gone(started)


def _below(pid: int) -> list[int]:
    """Processes that a process has started, and those that they have."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [p for child in map(int, text.split()) for p in (child, *_below(child))]


async def test_idle_sandbox_takes_one_descriptor(kit: Kit) -> None:
    before = len(descriptors())
    boxes = await asyncio.gather(*(Sandbox.start(kit, lambda question: None) for _ in range(10)))
    try:
        assert len(descriptors()) - before == 10
    finally:
        await asyncio.gather(*(box.stop() for box in boxes))


def test_preparing_raises_the_limit_on_descriptors(kit: Kit) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        with prepare():
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_200_sandboxes_at_once_answer(kit: Kit) -> None:
    boxes = await asyncio.gather(*(Sandbox.start(kit, lambda question: None) for _ in range(200)))
    try:
        done = await asyncio.gather(*(box.exec("echo $PPID") for box in boxes))
        assert {finished.stdout for finished in done} == {b"1\n"}
    finally:
        await asyncio.gather(*(box.stop() for box in boxes))


async def test_time_in_which_the_run_did_not_run_is_no_time_of_a_command(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a scheduler has stopped a job, sandboxes and all, and lets it go on."""
    async with machine(kit) as played:
        clock = Jumping(monkeypatch)
        running = asyncio.create_task(played.run("sleep 0.5; echo done"))
        while not played.environment.events:  # noqa: ASYNC110 (nobody tells of it)
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        clock.ahead_s += 1000
        assert await running == "done\n"
        assert played.recorded == []
