"""Memory that the kernel counts for no process, and places that the whole host shares: refused, or
counted by PID 1, so that a sandbox stays within its limit where there is no cgroup."""

from __future__ import annotations

import resource
from dataclasses import replace

import pytest
from machines import HAS_PYTHON, limits, machine, python

from local_shutdown.errors import SandboxFault
from local_shutdown.sandbox import Kit, prepare

needs_python = pytest.mark.skipif(not HAS_PYTHON, reason="no Python in /usr/bin")
LOOPBACK = (
    "server = socket.socket()\n"
    "server.bind(('127.0.0.1', 0))\n"
    "server.listen(64)\n"
    "def connection():\n"
    "    a = socket.socket()\n"
    "    a.connect(server.getsockname())\n"
    "    return a, server.accept()[0]\n"
)
IN_60_PROCESSES = (
    "for _ in range(60):\n    if os.fork() == 0:\n        work()\n        os._exit(0)\n"
)

# name: (the program, what it prints where it is refused at once)
REFUSED = {
    "shared memory without a file": (
        "import mmap\n"
        "try:\n    mmap.mmap(-1, 1 << 20)\nexcept OSError as e:\n    print(e.errno == 12)"
    ),
    "shared memory of /dev/zero": (
        "import mmap\n"
        "f = open('/dev/zero', 'r+b')\n"
        "try:\n    mmap.mmap(f.fileno(), 1 << 20)\nexcept OSError as e:\n    print(e.errno == 19)"
    ),
    "shared memory of a file in memory": (
        "try:\n    os.memfd_create('x')\nexcept OSError as e:\n    print(e.errno == 38)"
    ),
    "attributes of files": (
        "open('/tmp/x', 'w')\n"
        "try:\n    os.setxattr('/tmp/x', 'user.x', b'x' * 60000)\n"
        "except OSError as e:\n    print(e.errno == 95)"
    ),
    "huge pages in a pipe": (
        "r, w = os.pipe()\n"
        "b = ctypes.create_string_buffer(4096)\n"
        "v = (ctypes.c_ulong * 2)(ctypes.addressof(b), 4096)\n"
        "nr = 278 if os.uname().machine == 'x86_64' else 75\n"
        "print(syscall(nr, w, v, 1, 0) == -1)"
    ),
    "huge pages sent without a copy": (
        "try:\n    socket.socket().setsockopt(1, 60, 1)\n"  # SOL_SOCKET, SO_ZEROCOPY
        "except OSError as e:\n    print(e.errno == 95)"
    ),
    "pages of a deleted file in a socket": (
        "a, b = socket.socketpair()\n"
        "f = open('/usr/bin/env', 'rb')\n"
        "try:\n    os.sendfile(a.fileno(), f.fileno(), 0, 1)\n"
        "except OSError as e:\n    print(e.errno == 38)"
    ),
    "pages of a deleted file in a pipe": (
        "r, w = os.pipe()\n"
        "f = open('/usr/bin/env', 'rb')\n"
        "nr = 275 if os.uname().machine == 'x86_64' else 76\n"
        "print(syscall(nr, f.fileno(), None, w, None, 1, 0) == -1)"
    ),
    "places for asynchronous requests": (
        "c = ctypes.c_ulong(0)\n"
        "nr = 206 if os.uname().machine == 'x86_64' else 0\n"
        "print(syscall(nr, 65000, ctypes.byref(c)) == -1)"
    ),
    "real-time priority": (
        "try:\n    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))\n"
        "except OSError as e:\n    print(e.errno == 1)"
    ),
}
# name: (the program, whether it meets the limit)
COUNTED = {
    "30 TCP connections": (
        LOOPBACK + "held = [connection() for _ in range(30)]\ntime.sleep(30)",
        True,
    ),
    "3 TCP connections": (
        LOOPBACK + "held = [connection() for _ in range(3)]\ntime.sleep(1)",
        False,
    ),
    "locks on parts of a file": (
        "f = open('/tmp/l', 'w')\n"
        "for i in range(20000, 0, -1):\n"
        "    fcntl.fcntl(f, fcntl.F_SETLK, struct.pack('hhqqi4x', 1, 0, 2 * i, 1, 0))\n"
        "time.sleep(30)",
        True,
    ),
    "page tables": (
        "import mmap\n"
        "def work():\n"
        "    m = mmap.mmap(-1, 1900 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ)\n"
        "    for i in range(0, 1900 << 20, 2 << 20):\n"
        "        m[i]\n"
        "    time.sleep(30)\n" + IN_60_PROCESSES + "time.sleep(30)",
        True,
    ),
    "memory in many pieces": (
        "libc = ctypes.CDLL(None)\n"
        "libc.mmap.restype = ctypes.c_void_p\n"
        "def work():\n"
        "    at = libc.mmap(None, ctypes.c_size_t(64 << 20), 0, 0x22, -1, 0)\n"
        "    for i in range(0, 2000, 2):\n"
        "        libc.mprotect(ctypes.c_void_p(at + i * 4096), ctypes.c_size_t(4096), 1)\n"
        "    time.sleep(30)\n" + IN_60_PROCESSES + "time.sleep(30)",
        True,
    ),
}


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
