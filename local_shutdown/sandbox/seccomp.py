"""The system-call filter of the sandbox, as a BPF program for `bwrap --seccomp`.

A table of ours: the kept Python bindings of libseccomp need its shared library and headers on every
machine, and the filter is a list of names. Everything not named is allowed; what is named is either
a way out of the sandbox, a large kernel surface that no shell task needs, or memory that no limit
of ours would count.

Call numbers are those of the kernel's `unistd_64.h` and `asm-generic/unistd.h`.
"""

from __future__ import annotations

import errno
import struct

from local_shutdown.errors import SandboxUnavailable

# name: (x86_64, aarch64); None where the machine has no such call.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    # mounts and roots: would change what the sandbox sees
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "open_tree_attr": (467, 467),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    # namespaces: a new user namespace gives back every capability inside it
    "unshare": (272, 97),
    "setns": (308, 268),
    # other processes: PID 1 reports the truth and must stay untouched
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "process_madvise": (440, 440),
    # keys are not namespaced
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # kernel surface
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "fanotify_init": (300, 262),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "syslog": (103, 116),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42),
    "vhangup": (153, 58),
    "uselib": (134, None),
    "_sysctl": (156, None),
    # memory that belongs to no process and so to no limit
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "vmsplice": (278, 75),
}
# Answered with success, without effect: would write out every file system of the host.
_IGNORED: dict[str, tuple[int | None, int | None]] = {
    "sync": (162, 81),
    "syncfs": (306, 267),
}
# As on a file system without them. Held in the kernel's memory until the file goes, so that even
# killing every process of the sandbox would free nothing.
_UNSUPPORTED: dict[str, tuple[int | None, int | None]] = {
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
}
# The kernel counts these for the caller outside too, who has 128 of them for everything he runs.
_USED_UP: dict[str, tuple[int | None, int | None]] = {
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
}
# "Not built into this kernel" makes programs fall back where EPERM makes them fail.
_ABSENT: dict[str, tuple[int | None, int | None]] = {
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "io_setup": (206, 0),  # the host has 65,536 places for requests, for everything that runs on it
    "landlock_create_ruleset": (444, 444),  # rules without end, in the kernel's memory
    # Pages of a deleted file that a socket holds on to, one for each byte sent, count for nobody.
    "sendfile": (40, 71),
    "splice": (275, 76),
    "clone3": (435, 435),  # its flags are in memory, where a filter cannot look: clone() can be
}

_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS|NEWCGROUP|NEWUTS|NEWIPC|NEWUSER|NEWPID|NEWNET
_TIOCSTI = 0x5412  # types into the caller's terminal
_TIOCLINUX = 0x541C
_TIOCSETD = 0x5423  # loads line disciplines
# The only families a shell task needs. AF_VSOCK reaches the hypervisor and is not namespaced.
_UNIX, _INET, _INET6, _NETLINK = 1, 2, 10, 16

_TCP, _UDP, _ICMP, _ICMPV6 = 6, 17, 1, 58
_F_SETLEASE, _F_NOTIFY, _F_OFD_SETLK, _F_OFD_SETLKW = 1024, 1026, 37, 38
_RLIMIT_CORE = 4
_SOL_SOCKET, _SO_ZEROCOPY = 1, 60
_MAP_SHARED, _MAP_ANONYMOUS = 0x01, 0x20
_HIGH = 8  # added to an argument: its high word

# (x86_64, aarch64) numbers of one or more calls, and what is refused of them: alternatives, each a
# list of conditions on arguments, (argument, "=" | "&" | "!", value), that must all hold.
# The kernel reads most of these arguments as 32 bits, so the low word is all there is.
_Condition = tuple[int, str, int]
_REFUSED_ARGUMENTS: tuple[
    tuple[str, tuple[tuple[int, int], ...], tuple[tuple[_Condition, ...], ...], int], ...
] = (
    ("clone", ((56, 220),), (((0, "&", _NEW_NAMESPACES),),), errno.EPERM),
    (
        "ioctl",
        ((16, 29),),
        (((1, "=", _TIOCSTI),), ((1, "=", _TIOCLINUX),), ((1, "=", _TIOCSETD),)),
        errno.EPERM,
    ),
    (
        "socket, socketpair",
        ((41, 198), (53, 199)),
        (tuple((0, "!", family) for family in (_UNIX, _INET, _INET6, _NETLINK)),),
        errno.EAFNOSUPPORT,
    ),
    # netfilter, audit, crypto and the rest: kernel surface; 0 is NETLINK_ROUTE
    ("socket", ((41, 198),), (((0, "=", _NETLINK), (2, "!", 0)),), errno.EPROTONOSUPPORT),
    # of these the kernel would load modules for (SCTP, DCCP, MPTCP, L2TP)
    *(
        (
            "socket",
            ((41, 198),),
            (
                (
                    (0, "=", family),
                    (2, "!", 0),
                    *((2, "!", protocol) for protocol in (_TCP, _UDP, _ICMP, _ICMPV6)),
                ),
            ),
            errno.EPROTONOSUPPORT,
        )
        for family in (_INET, _INET6)
    ),
    # Memory that stays while any page of it is mapped, and counts for nobody.
    (
        "mmap",
        ((9, 222),),
        (((3, "&", _MAP_SHARED), (3, "&", _MAP_ANONYMOUS)),),
        errno.ENOMEM,
    ),
    # Likewise pages, huge ones among them, that were sent without a copy and then unmapped.
    (
        "setsockopt",
        ((54, 208),),
        (((1, "=", _SOL_SOCKET), (2, "=", _SO_ZEROCOPY)),),
        errno.EOPNOTSUPP,
    ),
    # A lease would hold up whoever opens the file, the shutdown included, for 45 s; locks that
    # belong to no process are listed for every sandbox, so that none can count its own.
    (
        "fcntl",
        ((72, 25),),
        tuple(
            ((1, "=", command),)
            for command in (_F_SETLEASE, _F_NOTIFY, _F_OFD_SETLK, _F_OFD_SETLKW)
        ),
        errno.EINVAL,
    ),
    # Nothing happens, and that is said to be fine: programs that hold secrets insist on it. Set to
    # 0 it would start the host's own program where core_pattern is a pipe.
    ("setrlimit", ((160, 164),), (((0, "=", _RLIMIT_CORE),),), 0),
    (
        "prlimit64",
        ((302, 261),),
        (
            ((1, "=", _RLIMIT_CORE), (2, "!", 0)),
            ((1, "=", _RLIMIT_CORE), (2 + _HIGH, "!", 0)),
        ),
        0,
    ),
    # PID 1 has the agent's user id, so that the agent may end it; nothing else may be done to it.
    # Without these its limits could be lowered until the kernel kills it, or it could be starved.
    (
        "prlimit64, sched_setscheduler, sched_setparam, sched_setattr, sched_setaffinity",
        ((302, 261), (144, 119), (142, 118), (314, 274), (203, 122)),
        (((0, "=", 1),),),
        errno.EPERM,
    ),
    # (which, who): the third kind is every process of a user
    ("setpriority", ((141, 140),), (((1, "=", 1),), ((0, "=", 2),)), errno.EPERM),
    ("ioprio_set", ((251, 30),), (((1, "=", 1),), ((0, "=", 3),)), errno.EPERM),
)

_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

_LD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_NR, _ARCH = 0, 4  # offsets in struct seccomp_data; argument i has its low word at 16 + 8 * i
_ALLOW = 0x7FFF0000


def _errno(number: int) -> int:
    return 0x00050000 | number


def _op(code: int, k: int, jt: int = 0, jf: int = 0) -> bytes:
    return struct.pack("=HBBI", code, jt, jf, k)


def denied_names() -> tuple[str, ...]:
    """Names of all calls that the filter refuses whatever their arguments."""
    return (*_DENIED, *_ABSENT, *_UNSUPPORTED)


def _refusal(
    numbers: list[int], alternatives: tuple[tuple[_Condition, ...], ...], error: int
) -> list[bytes]:
    """If the call is one of `numbers` and all conditions of an alternative hold: refuse it. Falls
    through otherwise, with the call's number loaded again."""
    body: list[bytes] = []
    for conditions in alternatives:
        checks: list[bytes] = []
        for i, (argument, kind, value) in enumerate(conditions):
            to_next = 2 * (len(conditions) - i) - 1  # past the other conditions and the refusal
            jump = {"=": (_JEQ, 0, to_next), "!": (_JEQ, to_next, 0), "&": (_JSET, 0, to_next)}
            code, if_true, if_false = jump[kind]
            word = 8 * (argument % _HIGH) + (4 if argument >= _HIGH else 0)
            checks += [_op(_LD, 16 + word), _op(code, value, if_true, if_false)]
        body += [*checks, _op(_RET, _errno(error))]
    body.append(_op(_LD, _NR))
    head = [
        _op(_JEQ, number, len(numbers) - 1 - i, 0 if i < len(numbers) - 1 else len(body))
        for i, number in enumerate(numbers)
    ]
    return head + body


def program(machine: str) -> bytes:
    """The filter for one machine, as bytes of `struct sock_filter`.

    Args:
        machine: as `os.uname().machine` says it.

    Raises:
        SandboxUnavailable: no call table for this machine. There is no run without the filter.
    """
    if machine not in _MACHINES:
        raise SandboxUnavailable(
            f"no system-call filter for the processor {machine!r}",
            f"supported: {', '.join(_MACHINES)}; add its call numbers to sandbox/seccomp.py",
        )
    column, audit_arch = _MACHINES[machine]
    ops = [
        _op(_LD, _ARCH),
        _op(_JEQ, audit_arch, 1, 0),
        _op(_RET, _errno(errno.ENOSYS)),  # 32-bit calls: another table, so none of them
        _op(_LD, _NR),
        _op(_JGE, 0x40000000, 0, 1),
        _op(_RET, _errno(errno.ENOSYS)),  # x32
    ]
    for table, error in (
        (_DENIED, errno.EPERM),
        (_ABSENT, errno.ENOSYS),
        (_UNSUPPORTED, errno.EOPNOTSUPP),
        (_USED_UP, errno.EMFILE),
        (_IGNORED, 0),
    ):
        for pair in table.values():
            number = pair[column]
            if number is not None:
                ops += [_op(_JEQ, number, 0, 1), _op(_RET, _errno(error))]
    for _, pairs, alternatives, error in _REFUSED_ARGUMENTS:
        ops += _refusal([pair[column] for pair in pairs], alternatives, error)
    ops.append(_op(_RET, _ALLOW))
    return b"".join(ops)
