"""The system-call filter, against the running kernel."""

from __future__ import annotations

import errno
import json
import platform
import re
from pathlib import Path

import pytest
from machines import HAS_PYTHON, machine, python

from local_shutdown.errors import SandboxUnavailable
from local_shutdown.sandbox import Kit, seccomp

pytestmark = pytest.mark.skipif(not HAS_PYTHON, reason="no Python in /usr/bin")
COLUMN = 0 if platform.machine() == "x86_64" else 1
TABLES = {
    errno.EPERM: seccomp._DENIED,
    errno.ENOSYS: seccomp._ABSENT,
    errno.EMFILE: seccomp._USED_UP,
    0: seccomp._IGNORED,
}
EXPECTED = {
    name: error for error, table in TABLES.items() for name, pair in table.items() if pair[COLUMN]
}
# (call, arguments, the errno it must meet)
ARGUMENTS = {
    "clone, new user namespace": ("clone", (0x10000000 | 17, 0, 0, 0, 0), errno.EPERM),
    "clone, new pid namespace": ("clone", (0x20000000 | 17, 0, 0, 0, 0), errno.EPERM),
    "TIOCSTI": ("ioctl", (1, 0x5412, 0), errno.EPERM),
    "TIOCSTI with a high bit": ("ioctl", (1, 0x1_0000_5412, 0), errno.EPERM),
    "TIOCLINUX": ("ioctl", (1, 0x541C, 0), errno.EPERM),
    "TIOCSETD": ("ioctl", (1, 0x5423, 0), errno.EPERM),
    "vsock": ("socket", (40, 1, 0), errno.EAFNOSUPPORT),
    "packet socket": ("socket", (17, 3, 0), errno.EAFNOSUPPORT),
    "crypto socket": ("socket", (38, 5, 0), errno.EAFNOSUPPORT),
    "netfilter socket": ("socket", (16, 3, 12), errno.EPROTONOSUPPORT),
    "limits of PID 1": ("prlimit64", (1, 0, 0, 0), errno.EPERM),
    "class of PID 1": ("sched_setscheduler", (1, 0, 0), errno.EPERM),
    "processors of PID 1": ("sched_setaffinity", (1, 0, 0), errno.EPERM),
    "priority of PID 1": ("setpriority", (0, 1, 19), errno.EPERM),
    "priority of all": ("setpriority", (2, 1000, 19), errno.EPERM),
    "disk priority of PID 1": ("ioprio_set", (1, 1, 0), errno.EPERM),
}
ALLOWED = {
    "Unix socket": ("socket", (1, 1, 0)),
    "Internet socket": ("socket", (2, 1, 0)),
    "route socket": ("socket", (16, 3, 0)),
    "own limits": ("prlimit64", (0, 7, 0, 0)),
    "own priority": ("setpriority", (0, 0, 19)),
    "a process": ("clone", (17, 0, 0, 0, 0)),
}


def number(name: str) -> int:
    for table in TABLES.values():
        if name in table:
            found = table[name][COLUMN]
            assert found is not None
            return found
    for names, pairs, _, _ in seccomp._REFUSED_ARGUMENTS:
        if name in names.split(", "):
            return pairs[names.split(", ").index(name)][COLUMN]
    raise KeyError(name)


async def called(kit: Kit, calls: dict[str, tuple[int, tuple[int, ...]]]) -> dict[str, int]:
    """errno of each call, 0 where it succeeded."""
    source = (
        "import json\n"
        f"calls = {calls!r}\n"
        "out = {}\n"
        "for name, (number, arguments) in calls.items():\n"
        "    ctypes.set_errno(0)\n"
        "    result = syscall(number, *map(ctypes.c_ulong, arguments))\n"
        "    if result == 0 and number in (56, 220):\n"
        "        os._exit(0)\n"
        "    out[name] = ctypes.get_errno() if result == -1 else 0\n"
        "print(json.dumps(out))"
    )
    async with machine(kit) as played:
        result: dict[str, int] = json.loads(await played.run(python(source)))
        return result


@pytest.mark.parametrize("name", EXPECTED)
async def test_call_is_refused(kit: Kit, name: str) -> None:
    got = await called(kit, {name: (number(name), (0, 0, 0, 0, 0, 0))})
    assert got[name] == EXPECTED[name]


@pytest.mark.parametrize("what", ARGUMENTS)
async def test_call_with_these_arguments_is_refused(kit: Kit, what: str) -> None:
    name, arguments, error = ARGUMENTS[what]
    assert (await called(kit, {what: (number(name), arguments)}))[what] == error


@pytest.mark.parametrize("what", ALLOWED)
async def test_ordinary_call_works(kit: Kit, what: str) -> None:
    name, arguments = ALLOWED[what]
    assert (await called(kit, {what: (number(name), arguments)}))[what] == 0


def headers(machine_name: str) -> dict[str, int]:
    """Numbers in the kernel's headers, where they are installed."""
    own = Path(f"/usr/include/{platform.machine()}-linux-gnu/asm/unistd_64.h")
    path = own if machine_name == "x86_64" else Path("/usr/include/asm-generic/unistd.h")
    if not path.exists():
        pytest.skip(f"no {path} here")
    return {
        name: int(value)
        for name, value in re.findall(
            r"^#define __NR(?:3264)?_(\w+) (\d+)", path.read_text(), re.MULTILINE
        )
    }


@pytest.mark.parametrize(("column", "machine_name"), [(0, "x86_64"), (1, "aarch64")])
def test_numbers_are_those_of_the_kernel_headers(column: int, machine_name: str) -> None:
    known = headers(machine_name)
    ours = {name: pair[column] for table in TABLES.values() for name, pair in table.items()}
    for names, pairs, _, _ in seccomp._REFUSED_ARGUMENTS:
        ours |= {n: pair[column] for n, pair in zip(names.split(", "), pairs, strict=True)}
    wrong = {n: (v, known[n]) for n, v in ours.items() if n in known and known[n] != v}
    assert wrong == {}


def test_no_filter_for_an_unknown_processor() -> None:
    with pytest.raises(SandboxUnavailable, match="riscv64"):
        seccomp.program("riscv64")
