"""The system-call filter, against the running kernel."""

from __future__ import annotations

import errno
import json
import platform
import re
import struct
from pathlib import Path

import pytest
from machines import HAS_PYTHON, machine, python

from local_shutdown.errors import SandboxUnavailable
from local_shutdown.sandbox import Kit, seccomp

pytestmark = pytest.mark.skipif(not HAS_PYTHON, reason="no Python in /usr/bin")
COLUMN = 0 if platform.machine() == "x86_64" else 1
# What must be refused, written down apart from the filter: (number on x86_64, on aarch64, the errno
# it must meet). A call that is taken out of the filter's own table still stands here.
REFUSED: dict[str, tuple[int | None, int | None, int]] = {
    "mount": (165, 40, errno.EPERM),
    "umount2": (166, 39, errno.EPERM),
    "pivot_root": (155, 41, errno.EPERM),
    "chroot": (161, 51, errno.EPERM),
    "open_tree": (428, 428, errno.EPERM),
    "move_mount": (429, 429, errno.EPERM),
    "fsopen": (430, 430, errno.EPERM),
    "fsconfig": (431, 431, errno.EPERM),
    "fsmount": (432, 432, errno.EPERM),
    "fspick": (433, 433, errno.EPERM),
    "open_tree_attr": (467, 467, errno.EPERM),
    "mount_setattr": (442, 442, errno.EPERM),
    "open_by_handle_at": (304, 265, errno.EPERM),
    "name_to_handle_at": (303, 264, errno.EPERM),
    "unshare": (272, 97, errno.EPERM),
    "setns": (308, 268, errno.EPERM),
    "ptrace": (101, 117, errno.EPERM),
    "process_vm_readv": (310, 270, errno.EPERM),
    "process_vm_writev": (311, 271, errno.EPERM),
    "pidfd_getfd": (438, 438, errno.EPERM),
    "kcmp": (312, 272, errno.EPERM),
    "process_madvise": (440, 440, errno.EPERM),
    "add_key": (248, 217, errno.EPERM),
    "request_key": (249, 218, errno.EPERM),
    "keyctl": (250, 219, errno.EPERM),
    "bpf": (321, 280, errno.EPERM),
    "userfaultfd": (323, 282, errno.EPERM),
    "perf_event_open": (298, 241, errno.EPERM),
    "fanotify_init": (300, 262, errno.EPERM),
    "kexec_load": (246, 104, errno.EPERM),
    "kexec_file_load": (320, 294, errno.EPERM),
    "init_module": (175, 105, errno.EPERM),
    "finit_module": (313, 273, errno.EPERM),
    "delete_module": (176, 106, errno.EPERM),
    "swapon": (167, 224, errno.EPERM),
    "swapoff": (168, 225, errno.EPERM),
    "reboot": (169, 142, errno.EPERM),
    "syslog": (103, 116, errno.EPERM),
    "acct": (163, 89, errno.EPERM),
    "quotactl": (179, 60, errno.EPERM),
    "quotactl_fd": (443, 443, errno.EPERM),
    "settimeofday": (164, 170, errno.EPERM),
    "clock_settime": (227, 112, errno.EPERM),
    "clock_adjtime": (305, 266, errno.EPERM),
    "adjtimex": (159, 171, errno.EPERM),
    "iopl": (172, None, errno.EPERM),
    "ioperm": (173, None, errno.EPERM),
    "modify_ldt": (154, None, errno.EPERM),
    "lookup_dcookie": (212, 18, errno.EPERM),
    "nfsservctl": (180, 42, errno.EPERM),
    "vhangup": (153, 58, errno.EPERM),
    "uselib": (134, None, errno.EPERM),
    "_sysctl": (156, None, errno.EPERM),
    "shmget": (29, 194, errno.EPERM),
    "msgget": (68, 186, errno.EPERM),
    "semget": (64, 190, errno.EPERM),
    "mq_open": (240, 180, errno.EPERM),
    "vmsplice": (278, 75, errno.EPERM),
    "io_uring_setup": (425, 425, errno.ENOSYS),
    "io_uring_enter": (426, 426, errno.ENOSYS),
    "io_uring_register": (427, 427, errno.ENOSYS),
    "memfd_create": (319, 279, errno.ENOSYS),
    "memfd_secret": (447, 447, errno.ENOSYS),
    "io_setup": (206, 0, errno.ENOSYS),
    "landlock_create_ruleset": (444, 444, errno.ENOSYS),
    "clone3": (435, 435, errno.ENOSYS),
    "sendfile": (40, 71, errno.ENOSYS),
    "splice": (275, 76, errno.ENOSYS),
    "setxattr": (188, 5, errno.EOPNOTSUPP),
    "lsetxattr": (189, 6, errno.EOPNOTSUPP),
    "fsetxattr": (190, 7, errno.EOPNOTSUPP),
    "setxattrat": (463, 463, errno.EOPNOTSUPP),
    "inotify_init": (253, None, errno.EMFILE),
    "inotify_init1": (294, 26, errno.EMFILE),
    "sync": (162, 81, 0),
    "syncfs": (306, 267, 0),
}
HERE = {name: (row[COLUMN], row[2]) for name, row in REFUSED.items() if row[COLUMN] is not None}
# Those of which only some arguments are refused.
NUMBERS = {
    "clone": (56, 220),
    "ioctl": (16, 29),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "mmap": (9, 222),
    "fcntl": (72, 25),
    "setsockopt": (54, 208),
    "setrlimit": (160, 164),
    "prlimit64": (302, 261),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "sched_setaffinity": (203, 122),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
}
# (call, arguments, the errno it must meet)
ARGUMENTS = {
    "clone, new user namespace": ("clone", (0x10000000 | 17, 0, 0, 0, 0), errno.EPERM),
    **{
        f"clone, new {kind} namespace": ("clone", (flag | 17, 0, 0, 0, 0), errno.EPERM)
        for kind, flag in {
            "mount": 0x0002_0000,
            "cgroup": 0x0200_0000,
            "host name": 0x0400_0000,
            "ipc": 0x0800_0000,
            "pid": 0x2000_0000,
            "network": 0x4000_0000,
        }.items()
    },
    "TIOCSTI": ("ioctl", (1, 0x5412, 0), errno.EPERM),
    "TIOCSTI with a high bit": ("ioctl", (1, 0x1_0000_5412, 0), errno.EPERM),
    "TIOCLINUX": ("ioctl", (1, 0x541C, 0), errno.EPERM),
    "TIOCSETD": ("ioctl", (1, 0x5423, 0), errno.EPERM),
    "vsock": ("socket", (40, 1, 0), errno.EAFNOSUPPORT),
    "packet socket": ("socket", (17, 3, 0), errno.EAFNOSUPPORT),
    "crypto socket": ("socket", (38, 5, 0), errno.EAFNOSUPPORT),
    "netfilter socket": ("socket", (16, 3, 12), errno.EPROTONOSUPPORT),
    "vsock pair": ("socketpair", (40, 1, 0, 0), errno.EAFNOSUPPORT),
    "audit socket": ("socket", (16, 3, 9), errno.EPROTONOSUPPORT),
    "SCTP": ("socket", (2, 1, 132), errno.EPROTONOSUPPORT),
    "DCCP": ("socket", (2, 6, 33), errno.EPROTONOSUPPORT),
    "MPTCP": ("socket", (2, 1, 262), errno.EPROTONOSUPPORT),
    "L2TP over IPv6": ("socket", (10, 2, 115), errno.EPROTONOSUPPORT),
    "shared anonymous memory": ("mmap", (0, 4096, 3, 0x21, -1, 0), errno.ENOMEM),
    "shared anonymous memory, the other way": ("mmap", (0, 4096, 3, 0x23, -1, 0), errno.ENOMEM),
    "sending without a copy": ("setsockopt", (0, 1, 60, 0, 4), errno.EOPNOTSUPP),
    "a lease": ("fcntl", (1, 1024, 1), errno.EINVAL),
    "a lock of no process": ("fcntl", (1, 37, 0), errno.EINVAL),
    "a lock of no process, waited for": ("fcntl", (1, 38, 0), errno.EINVAL),
    "news of a folder": ("fcntl", (1, 1026, 1), errno.EINVAL),
    "limits of PID 1": ("prlimit64", (1, 0, 0, 0), errno.EPERM),
    "class of PID 1": ("sched_setscheduler", (1, 0, 0), errno.EPERM),
    "parameters of PID 1": ("sched_setparam", (1, 0), errno.EPERM),
    "attributes of PID 1": ("sched_setattr", (1, 0, 0), errno.EPERM),
    "processors of PID 1": ("sched_setaffinity", (1, 0, 0), errno.EPERM),
    "priority of PID 1": ("setpriority", (0, 1, 19), errno.EPERM),
    "priority of all": ("setpriority", (2, 1000, 19), errno.EPERM),
    "disk priority of all": ("ioprio_set", (3, 1000, 0), errno.EPERM),
    "disk priority of PID 1": ("ioprio_set", (1, 1, 0), errno.EPERM),
}
ALLOWED = {
    "Unix socket": ("socket", (1, 1, 0)),
    "Internet socket": ("socket", (2, 1, 0)),
    "route socket": ("socket", (16, 3, 0)),
    "own limits": ("prlimit64", (0, 7, 0, 0)),
    "own priority": ("setpriority", (0, 0, 19)),
    "a process": ("clone", (17, 0, 0, 0, 0)),
    "a descriptor's flags": ("fcntl", (1, 3, 0)),
    "TCP": ("socket", (2, 1, 6)),
    "UDP over IPv6": ("socket", (10, 2, 17)),
    "netlink pair": ("socketpair", (16, 3, 0, 0)),
    "ICMP": ("socket", (2, 2, 1)),
    "ICMP over IPv6": ("socket", (10, 2, 58)),
    "limits of another": ("prlimit64", (0, 7, 0, 0)),
    "shared memory of a file": ("mmap", (0, 4096, 1, 0x01, 3, 0)),
    "private memory": ("mmap", (0, 4096, 3, 0x22, -1, 0)),
    "own core limit, read": ("prlimit64", (0, 4, 0, 0)),
    "own core limit, set": ("setrlimit", (4, 0)),
    "own core limit, set through a low address": ("prlimit64", (0, 4, 1, 0)),
    "own core limit, set through a high address": ("prlimit64", (0, 4, 1 << 32, 0)),
}


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


async def test_calls_are_refused(kit: Kit) -> None:
    got = await called(kit, {name: (number, (0,) * 6) for name, (number, _) in HERE.items()})
    assert got == {name: error for name, (_, error) in HERE.items()}


def test_the_filter_and_this_list_name_the_same_calls() -> None:
    """One that is new in the filter belongs into this list, too."""
    tables = (
        seccomp._DENIED,
        seccomp._ABSENT,
        seccomp._UNSUPPORTED,
        seccomp._USED_UP,
        seccomp._IGNORED,
    )
    assert {name: pair for table in tables for name, pair in table.items()} == {
        name: row[:2] for name, row in REFUSED.items()
    }
    named = {n for names, _, _, _ in seccomp._REFUSED_ARGUMENTS for n in names.split(", ")}
    assert named == set(NUMBERS)


ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, REFUSE = 0x7FFF0000, 0x00050000


def verdict(machine_name: str, number: int, arguments: tuple[int, ...], arch: int = 0) -> int:
    """What the filter says of a call: runs its program as the kernel would."""
    data = struct.pack(
        "=IIQ6Q",
        number,
        arch or ARCHITECTURES[machine_name],
        0,
        *(a & 0xFFFF_FFFF_FFFF_FFFF for a in (*arguments, *(0,) * 6)[:6]),
    )
    program, at, value = list(struct.iter_unpack("=HBBI", seccomp.program(machine_name))), 0, 0
    while True:
        code, if_true, if_false, k = program[at]
        at += 1
        if code == 0x06:
            return int(k)
        if code == 0x20:
            (value,) = struct.unpack_from("=I", data, k)
        else:
            holds = {0x15: value == k, 0x35: value >= k, 0x45: bool(value & k)}[code]
            at += if_true if holds else if_false


@pytest.mark.parametrize(("column", "machine_name"), [(0, "x86_64"), (1, "aarch64")])
class TestProgram:
    """The filter for both machines, whichever this is: the kernel may refuse some calls itself."""

    def test_calls_of_the_list_are_refused_and_all_others_are_not(
        self, column: int, machine_name: str
    ) -> None:
        refused = {row[column]: row[2] for row in REFUSED.values() if row[column] is not None}
        for number in range(600):
            expected = REFUSE | refused[number] if number in refused else ALLOW
            if number not in [pair[column] for pair in NUMBERS.values()]:
                assert verdict(machine_name, number, ()) == expected, number

    def test_calls_with_these_arguments_are_refused(self, column: int, machine_name: str) -> None:
        for what, (name, arguments, error) in ARGUMENTS.items():
            got = verdict(machine_name, NUMBERS[name][column], arguments)
            assert got == REFUSE | error, what

    def test_other_arguments_are_not(self, column: int, machine_name: str) -> None:
        for what, (name, arguments) in ALLOWED.items():
            got = verdict(machine_name, NUMBERS[name][column], arguments)
            without_effect = "core limit, set" in what
            assert got == (REFUSE if without_effect else ALLOW), what

    def test_32_bit_calls_are_closed(self, column: int, machine_name: str) -> None:
        closed = REFUSE | errno.ENOSYS
        assert verdict(machine_name, 0, (), arch=0x40000003) == closed
        assert verdict(machine_name, 0x4000_0000, ()) == closed
        assert verdict(machine_name, 0x4000_0027, ()) == closed
        assert verdict(machine_name, 0x3FFF_FFFF, ()) == ALLOW


@pytest.mark.parametrize("what", ARGUMENTS)
async def test_call_with_these_arguments_is_refused(kit: Kit, what: str) -> None:
    name, arguments, error = ARGUMENTS[what]
    assert (await called(kit, {what: (NUMBERS[name][COLUMN], arguments)}))[what] == error


# Of these the kernel itself may think otherwise: no such file, nobody to pair with.
NEEDS_MORE = ("netlink pair", "ICMP", "ICMP over IPv6", "shared memory of a file")


@pytest.mark.parametrize("what", [what for what in ALLOWED if what not in NEEDS_MORE])
async def test_ordinary_call_works(kit: Kit, what: str) -> None:
    name, arguments = ALLOWED[what]
    assert (await called(kit, {what: (NUMBERS[name][COLUMN], arguments)}))[what] == 0


async def test_other_options_of_sockets_reach_the_kernel(kit: Kit) -> None:
    """Which answers that this is none; the refused one shares its number with one of another
    level, and its bits with its neighbours."""
    options = {
        f"{level}, {option}": (NUMBERS["setsockopt"][COLUMN], (0, level, option, 0, 4))
        for level, option in ((1, 4), (1, 6), (1, 7), (1, 9), (1, 20), (1, 61), (41, 60), (0, 60))
    }
    assert await called(kit, options) == dict.fromkeys(options, errno.ENOTSOCK)


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
    ours = {name: row[column] for name, row in (REFUSED | NUMBERS).items()}
    wrong = {n: (v, known[n]) for n, v in ours.items() if n in known and known[n] != v}
    assert wrong == {}


def test_no_filter_for_an_unknown_processor() -> None:
    with pytest.raises(SandboxUnavailable, match="riscv64") as refused:
        seccomp.program("riscv64")
    assert "x86_64, aarch64;" in str(refused.value.hint)
