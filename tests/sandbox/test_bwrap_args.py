"""The command line and what is shipped."""

from __future__ import annotations

import hashlib
import platform
import struct
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from local_shutdown import resources
from local_shutdown.sandbox import Policy, SandboxLimits, find_policy, prepare
from local_shutdown.sandbox.policy import COMMAND, bwrap_args, rootfs_files

REPOSITORY = Path(__file__).resolve().parents[2]
POLICY = Policy("/usr/bin/bwrap", True, {"bin": "usr/bin"}, {})


def args(policy: Policy = POLICY) -> list[str]:
    return bwrap_args(policy, rootfs_files(resources.sandbox_dir() / "rootfs"))


# The whole command line, written down apart from the code that makes it: a flag that is taken out
# there still stands here. IDENTITY is one of the two below.
LINE = """
--unshare-user
--unshare-pid
--unshare-net
--unshare-ipc
--unshare-uts
--unshare-cgroup-try
--hostname workstation
IDENTITY
--new-session
--as-pid-1
--clearenv
--setenv HOME /home/user
--setenv USER user
--setenv LOGNAME user
--setenv SHELL /bin/bash
--setenv LANG C.UTF-8
--setenv PATH /usr/local/bin:/usr/bin:/bin
--seccomp 5
--perms 0755 --size 1048576 --tmpfs /
--ro-bind /usr /usr
--perms 0755 --size 1048576 --tmpfs /usr/local
--remount-ro /usr/local
--symlink usr/bin /bin
--ro-bind /lib32 /lib32
--proc /proc
--perms 0755 --size 1048576 --tmpfs /dev
--dev-bind /dev/null /dev/null
--dev-bind /dev/full /dev/full
--dev-bind /dev/random /dev/random
--dev-bind /dev/urandom /dev/urandom
--dev-bind /dev/tty /dev/tty
--dev-bind /dev/full /dev/zero
--symlink /proc/self/fd /dev/fd
--symlink /proc/self/fd/0 /dev/stdin
--symlink /proc/self/fd/1 /dev/stdout
--symlink /proc/self/fd/2 /dev/stderr
--remount-ro /dev
--perms 01777 --size 16777216 --tmpfs /tmp
--perms 0755 --size 16777216 --tmpfs /home/user
--perms 0755 --dir /boot
--perms 0755 --dir /etc
--perms 0755 --dir /media
--perms 0755 --dir /mnt
--perms 0755 --dir /opt
--perms 0755 --dir /run
--perms 0755 --dir /srv
--perms 0755 --dir /sys
--perms 0755 --dir /var
--perms 0700 --dir /root
--perms 0755 --dir /var/log
--symlink /tmp /var/tmp
--perms 0755 --dir /etc/alternatives
--symlink /usr/bin/vim /etc/alternatives/vi
--symlink ../usr/lib/os-release /etc/os-release
--symlink ../proc/self/mounts /etc/mtab
--perms 0755 --dir /home/user/work
--perms 0644 --file 10 /etc/passwd
--perms 0755 --file 11 /home/user/work/shutdown.sh
--perms 0755 --file 9 /home/user/work/next_question
--perms 0700 --file 8 /init
--remount-ro /
--chdir /
"""
TWO_USERS = """
--info-fd 6
--userns-block-fd 7
--cap-drop ALL
--cap-add CAP_CHOWN
--cap-add CAP_SETUID
--cap-add CAP_SETGID
--cap-add CAP_SETPCAP
"""
ONE_USER = "--uid 1000 --gid 1000 --cap-drop ALL"
SOME = Policy(
    "/usr/bin/bwrap",
    True,
    {"bin": "usr/bin", "lib32": None},
    {"vi": "/usr/bin/vim"},
    masked=("/usr/local",),
)
SOME_FILES = [("/etc/passwd", Path("x")), ("/home/user/work/shutdown.sh", Path("y"))]


@pytest.mark.parametrize(("two_users", "identity"), [(True, TWO_USERS), (False, ONE_USER)])
def test_command_line_is_this(two_users: bool, identity: str) -> None:
    made = bwrap_args(replace(SOME, two_users=two_users), SOME_FILES)
    assert made == LINE.replace("IDENTITY", identity).split()
    assert COMMAND == ("/init",)


def test_all_capabilities_are_dropped_before_any_is_added() -> None:
    line = args()
    assert line.index("--cap-drop") < line.index("--cap-add")


def test_with_one_user_no_capability_is_added() -> None:
    assert "--cap-add" not in args(Policy("bwrap", False, {}, {}))


def test_nothing_of_the_host_is_bound_but_usr_and_devices() -> None:
    line = args()
    bound = {line[i + 1] for i, a in enumerate(line) if a in ("--ro-bind", "--bind", "--dev-bind")}
    assert {path for path in bound if not path.startswith("/dev/")} == {"/usr"}
    assert "--bind" not in line


def test_every_tmpfs_has_a_size() -> None:
    line = args()
    for i, argument in enumerate(line):
        if argument == "--tmpfs":
            assert "--size" in line[i - 2 : i]


def test_own_installation_below_usr_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    import local_shutdown.sandbox.kit as kit

    monkeypatch.setattr(kit, "__file__", "/usr/lib/python3/site-packages/local_shutdown/sandbox/k")
    assert "/usr/lib/python3/site-packages/local_shutdown" in find_policy()[0].masked


def test_guest_programs_were_built_from_these_sources() -> None:
    """scripts/build-guest writes the digests of what it built."""
    folder = REPOSITORY / "sandbox"
    for line in (folder / "bin" / "SOURCES").read_text().splitlines():
        digest, name = line.split()
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_guest_programs_are_static(machine: str) -> None:
    for name in ("init", "next_question"):
        program = (REPOSITORY / "sandbox" / "bin" / machine / name).read_bytes()
        assert program.startswith(b"\x7fELF")
        assert b"/lib/ld-" not in program


def test_guest_programs_exist_for_this_processor() -> None:
    assert (resources.sandbox_dir() / "bin" / platform.machine() / "init").exists()


def test_limits_are_those_of_the_documentation() -> None:
    """sandbox/README.md, "Limits, and what enforces them", and the paper's 15 s."""
    mib = 1024 * 1024
    assert asdict(SandboxLimits()) == {
        "processes": 64,
        "memory_bytes": 512 * mib,
        "address_bytes": 2048 * mib,
        "home_bytes": 16 * mib,
        "tmp_bytes": 16 * mib,
        "file_bytes": 16 * mib,
        "files": 4096,
        "open_files": 128,
        "cpu_s": 60,
        "command_s": 15.0,
        "shutdown_s": 90.0,
        "output_bytes": 4 * mib,
        "result_bytes": 16 * 1024,
        "command_bytes": 128 * 1024 - 1,  # the kernel's MAX_ARG_STRLEN, with its null byte
    }


def test_limits_reach_pid_1_in_the_order_of_its_struct() -> None:
    made = SandboxLimits(
        processes=2,
        open_files=3,
        file_bytes=(1 << 64) - 1,
        address_bytes=5,
        cpu_s=6,
        memory_bytes=7,
        files=8,
    )
    assert made.boot_message() == b"B" + struct.pack("=8Q", 1000, 2, 3, (1 << 64) - 1, 5, 6, 7, 8)


def test_cgroup_limits() -> None:
    made = SandboxLimits(processes=10, memory_bytes=1 << 20, home_bytes=2 << 20, tmp_bytes=3 << 20)
    assert (made.cgroup_memory_bytes, made.cgroup_processes) == (22 << 20, 12)


def test_files_of_the_template() -> None:
    found = rootfs_files(resources.sandbox_dir() / "rootfs")
    assert [inside for inside, _ in found] == [
        "/etc/group",
        "/etc/hostname",
        "/etc/hosts",
        "/etc/nsswitch.conf",
        "/etc/passwd",
        "/etc/profile",
        *(f"/home/user/{name}" for name in (".bashrc", ".profile", "work/shutdown.sh")),
    ]


def test_policy_says_of_itself_what_it_is() -> None:
    said = SOME.describe()
    assert (said["bwrap"], said["users"], said["limits"]) == (
        "/usr/bin/bwrap",
        2,
        asdict(SandboxLimits()),
    )
    assert replace(SOME, two_users=False).describe()["users"] == 1
    kept = replace(SOME, cgroup_parent=Path("/sys/fs/cgroup")).describe()["limits_kept_by"]
    assert kept.startswith("cgroup v2")
    assert "why not" in replace(SOME, no_cgroup="why not").describe()["limits_kept_by"]


def test_policy_says_what_keeps_the_limits() -> None:
    with prepare() as kit:
        said = kit.policy.describe()["limits_kept_by"]
    assert said.startswith(("cgroup v2", "rlimits, tmpfs sizes and a watch inside, without"))
