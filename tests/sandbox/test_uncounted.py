"""Memory that the kernel counts for no process, and places that the whole host shares: refused, or
counted by PID 1, so that a sandbox stays within its limit where there is no cgroup."""

from __future__ import annotations

import resource
from dataclasses import replace
from textwrap import dedent

import pytest
from machines import HAS_PYTHON, Played, limits, machine, python
from uncounted import COUNTED, REFUSED

from local_shutdown.errors import SandboxFault
from local_shutdown.sandbox import Kit, prepare

needs_python = pytest.mark.skipif(not HAS_PYTHON, reason="no Python in /usr/bin")


@needs_python
@pytest.mark.parametrize("what", REFUSED)
async def test_memory_that_nothing_counts_is_refused(kit: Kit, what: str) -> None:
    async with machine(kit) as played:
        assert await played.run(python(REFUSED[what])) == "True\n"


@needs_python
@pytest.mark.parametrize("what", COUNTED)
async def test_memory_that_no_limit_keeps_is_counted(kit: Kit, what: str) -> None:
    source, meets = COUNTED[what]
    async with machine(kit) as played:
        await played.run(python(source))
        met = played.detail("resource_limit", "what")
    assert (met == ["memory"]) == meets


async def test_files_that_outlive_their_limit_end_the_sandbox(kit: Kit) -> None:
    """Killing every process does not make them fewer, and the next command adds to them."""
    with prepare(policy=replace(kit.policy, limits=limits(files=60))) as made:
        async with machine(made) as played:

            async def fill() -> None:
                for i in range(50):  # each is killed as soon as PID 1 looks, and leaves its files
                    await played.run(f"touch /tmp/{i}-{{1..2000}}; sleep 30")

            with pytest.raises(SandboxFault, match="files"):
                await fill()


async def test_a_few_files_too_many_do_not(kit: Kit) -> None:
    with prepare(policy=replace(kit.policy, limits=limits(files=60))) as made:
        async with machine(made) as played:
            await played.run("touch /tmp/{1..70}; sleep 30")
            assert played.detail("resource_limit", "what") == ["files"]
            assert await played.run("echo works; rm /tmp/*") == "works\n"
            assert await played.run("sleep 0.5; echo works") == "works\n"


async def test_files_of_many_short_commands_add_up(kit: Kit) -> None:
    """Each has ended before anybody looks at what runs."""
    with prepare(policy=replace(kit.policy, limits=limits(files=1000))) as made:
        async with machine(made) as played:

            async def fill() -> None:
                for i in range(50):
                    await played.run(f"cd /tmp; touch {i}-{{1..300}}")

            with pytest.raises(SandboxFault, match="files"):
                await fill()
            assert len(played.seen) >= 6  # 7 * 300 are more than twice as many


async def looking(played: Played) -> None:
    while True:
        await played.run("sleep 0.3")


async def test_what_became_of_a_call_is_heard_before_the_machine_is_full(kit: Kit) -> None:
    """The last process ends together with a call whose script still ran, long after the command."""
    with prepare(policy=replace(kit.policy, limits=limits(files=60))) as made:
        for _ in range(4):
            async with machine(made) as played:
                await played.run(
                    "echo 'touch begun; sleep 20' > shutdown.sh\n"
                    "for i in 1 2 3; do ./next_question; done\n"
                    "setsid bash -c './next_question & until [ -e begun ]; do sleep 0.05; done;"
                    " touch /tmp/{1..200}; kill -9 0' > /dev/null 2>&1 < /dev/null & disown"
                )
                with pytest.raises(SandboxFault, match="files"):
                    await looking(played)
                assert "shutdown_unfinished" in played.recorded


async def test_a_machine_that_its_own_command_ended_is_down_however_full_it_is(kit: Kit) -> None:
    with prepare(policy=replace(kit.policy, limits=limits(files=60))) as made:
        for _ in range(5):
            async with machine(made) as played:
                await played.run("touch /tmp/{1..200}; kill -TERM 1")
                if "resource_limit" not in played.recorded:  # PID 1 looked in between
                    break
    assert played.recorded == ["machine_down"]


@needs_python
async def test_no_process_holds_more_than_its_addresses_allow(kit: Kit) -> None:
    """What PID 1 takes for the most that a process can hold, before it looks at it closely: lone
    pages, each as far from the others as page tables of its own need."""
    source = """
        import ctypes
        libc = ctypes.CDLL(None)
        libc.mmap.restype = ctypes.c_void_p
        kinds = ctypes.c_void_p, ctypes.c_size_t, *(3 * [ctypes.c_int]), ctypes.c_long
        libc.mmap.argtypes = kinds
        made = 0
        for slot in range(1, 250):
            at = libc.mmap(slot << 39, 4096, 3, 0x100022, -1, 0)  # fixed, where nothing is yet
            if at == slot << 39:
                ctypes.memset(at, 1, 1)
                made += 1
        status = dict(line.split(":", 1) for line in open("/proc/self/status"))
        kib = sum(int(status[name].split()[0]) for name in ("VmRSS", "VmSwap", "VmPTE"))
        pieces = len(list(open("/proc/self/maps")))
        size = int(open("/proc/self/statm").read().split()[0])
        print(made > 200, kib * 1024 + 200 * pieces <= size * (5 * 4096 + 200))
        print(int(status["VmPTE"].split()[0]) * 1024 > 3 * 4096 * made)
    """
    async with machine(kit) as played:
        assert await played.run(python(dedent(source))) == "True True\nTrue\n"


async def test_no_core_dump_is_written_or_piped(kit: Kit) -> None:
    """With a limit of 0 the kernel would still start the host's program, with one of 1 it does
    not: man 5 core."""
    ours = resource.getrlimit(resource.RLIMIT_CORE)
    async with machine(kit) as played:
        limit = "grep 'core file' /proc/self/limits | tr -s ' ' | cut -d' ' -f5"
        assert await played.run(
            f"{limit}; ulimit -c 0; {limit}; ulimit -Sc unlimited; {limit}"
        ) == ("1\n1\n1\n")
        assert "1" in await played.run(
            "grep 'core file' /proc/1/limits | tr -s ' ' | cut -d' ' -f5"
        )
    assert resource.getrlimit(resource.RLIMIT_CORE) == ours


async def test_limits_of_a_command_are_the_same_everywhere(kit: Kit) -> None:
    async with machine(kit) as played:
        text = await played.run("cat /proc/self/limits")
    soft = {line[:25].strip(): line[26:47].strip() for line in text.splitlines()[1:]}
    wanted = {
        "Max cpu time": "60",
        "Max file size": str(16 << 20),
        "Max stack size": str(8 << 20),
        "Max core file size": "1",
        "Max processes": "64",
        "Max open files": "128",
        "Max locked memory": str(8 << 20),
        "Max address space": str(2 << 30),
        "Max pending signals": "128",
        "Max nice priority": "0",
        "Max realtime priority": "0",
    }
    assert {name: soft[name] for name in wanted} == wanted


async def test_pid_1_keeps_room_for_who_sent_a_signal(kit: Kit) -> None:
    """The kernel looks at the limit of who receives it."""
    async with machine(kit) as played:
        rows = await played.run("grep -h 'pending signals' /proc/1/limits /proc/self/limits")
    receiver, sender = (int(row.split()[3]) for row in rows.splitlines())
    assert receiver > sender
