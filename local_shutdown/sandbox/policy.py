"""What the sandbox allows, and the bwrap command line that says so: a pure function.

Every flag is commented with what breaks without it; `sandbox/README.md` is the threat model that
they serve.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

USER = "user"
USER_ID = 1000
HOME = "/home/user"
WORK = "/home/user/work"
HOSTNAME = "workstation"
MIB = 1 << 20

# Descriptors inside bwrap; the files of `rootfs/` follow from FIRST_FILE_FD on.
CONTROL_FD = 3
ARGS_FD = 4
SECCOMP_FD = 5
INFO_FD = 6
BLOCK_FD = 7
INIT_FD = 8
NEXT_QUESTION_FD = 9
INFO_READ_FD = 40  # bwrap's own, so that it can always write to INFO_FD
FIRST_FILE_FD = 10


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """Limits of one sandbox.

    Attributes:
        processes: at once, in all. PID 1 counts where it has the agent's user id.
        memory_bytes: resident memory of all processes together and what their sockets may hold,
            watched by PID 1 every 100 ms; with a cgroup also kept by the kernel.
        address_bytes: address space of one process.
        home_bytes, tmp_bytes: everything that can be written, in all (two tmpfs).
        file_bytes: one file.
        files: files and folders in both tmpfs together.
        open_files: descriptors of one process.
        cpu_s: processor seconds of one process.
        command_s: wall-clock seconds of one command (15 in the paper's tool).
        shutdown_s: of a command in which the shutdown script runs: it is left to come to its end
            (reconstructed; in the paper's tool the command's limit ended the script too).
        output_bytes: what a command may print before its output is closed.
        result_bytes: how much of it the model is shown.
        command_bytes: the longest command; the kernel's limit for one argument.
    """

    processes: int = 64
    memory_bytes: int = 512 * MIB
    address_bytes: int = 2048 * MIB
    home_bytes: int = 16 * MIB
    tmp_bytes: int = 16 * MIB
    file_bytes: int = 16 * MIB
    files: int = 4096
    open_files: int = 128
    cpu_s: int = 60
    command_s: float = 15.0
    shutdown_s: float = 90.0
    output_bytes: int = 4 * MIB
    result_bytes: int = 16 * 1024
    command_bytes: int = 128 * 1024 - 1

    @property
    def cgroup_memory_bytes(self) -> int:
        """`memory.max`: the files of both tmpfs count there too, and the kernel's own structures
        (16 MiB)."""
        return self.memory_bytes + self.home_bytes + self.tmp_bytes + 16 * MIB

    @property
    def cgroup_processes(self) -> int:
        """`pids.max`: with PID 1 and bwrap's own process."""
        return self.processes + 2

    def boot_message(self) -> bytes:
        """`struct boot` of guest/init.c."""
        return b"B" + struct.pack(
            "=8Q",
            USER_ID,
            self.processes,
            self.open_files,
            self.file_bytes,
            self.address_bytes,
            self.cpu_s,
            self.memory_bytes,
            self.files,
        )


@dataclass(frozen=True, slots=True)
class Policy:
    """How a sandbox is made on this machine.

    Attributes:
        bwrap: path of the bubblewrap program.
        two_users: map a second user id, so that system files belong to root and the agent is
            another user (needs root, or newuidmap with a subordinate id range). With one user the
            agent owns next_question too, and system files show as nobody's.
        usr_merged: for bin, sbin, lib, lib64, lib32: where the host's link points, or None where
            it is a folder of its own.
        alternatives: links of /etc/alternatives that are needed by name, to paths below /usr.
        masked: folders below /usr that are shown empty, because they hold this project or the
            user's own programs.
        cgroup_parent: where the run makes a cgroup for each sandbox; None where it cannot.
        no_cgroup: why it cannot.
    """

    bwrap: str
    two_users: bool
    usr_merged: Mapping[str, str | None]
    alternatives: Mapping[str, str]
    masked: tuple[str, ...] = ()
    limits: SandboxLimits = SandboxLimits()
    cgroup_parent: Path | None = None
    no_cgroup: str = ""

    def describe(self) -> dict[str, Any]:
        """What run.json says of it."""
        return {
            "bwrap": self.bwrap,
            "users": 2 if self.two_users else 1,
            "limits_kept_by": "cgroup v2, rlimits and tmpfs sizes"
            if self.cgroup_parent
            else f"rlimits, tmpfs sizes and a watch inside, without a cgroup: {self.no_cgroup}",
            "limits": asdict(self.limits),
        }


def rootfs_files(rootfs: Path) -> list[tuple[str, Path]]:
    """(path inside, file on the host) for each file of the template, sorted."""
    return sorted(
        ("/" + str(path.relative_to(rootfs)), path) for path in rootfs.rglob("*") if path.is_file()
    )


def bwrap_args(policy: Policy, files: list[tuple[str, Path]]) -> list[str]:
    """The arguments of bwrap, without the program itself. They are passed through a descriptor
    (`--args`), so the host's process list does not show them either.

    Args:
        policy: see `Policy`.
        files: as `rootfs_files` gives them; file i is read from descriptor FIRST_FILE_FD + i.
    """
    limits = policy.limits
    args: list[str] = []

    def add(*more: str) -> None:
        args.extend(more)

    # Without these a command sees the host's processes, network, IPC objects, host name, cgroups.
    add("--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts")
    add("--unshare-cgroup-try")
    add("--hostname", HOSTNAME)
    if policy.two_users:
        # bwrap waits until we have written the id maps: root -> caller, 1000 -> another user.
        add("--info-fd", str(INFO_FD), "--userns-block-fd", str(BLOCK_FD))
        # PID 1 boots as the sandbox's root, gives the agent its files, then drops all of it.
        add("--cap-drop", "ALL")
        for cap in ("CAP_CHOWN", "CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
            add("--cap-add", cap)
    else:
        add("--uid", str(USER_ID), "--gid", str(USER_ID))
        # Without it a caller who is root keeps every capability inside.
        add("--cap-drop", "ALL")
    # No --die-with-parent: bwrap's child waits for bwrap before it starts, without a limit, and a
    # bwrap that is killed in between leaves it waiting for ever. Instead everything ends when a
    # descriptor does: bwrap goes on when the run is gone (BLOCK_FD), and PID 1 ends (CONTROL_FD).
    # A command could type into the terminal that the run was started from.
    add("--new-session")
    # PID 1 must be the machine itself, not bwrap, whose name and arguments `ps` would show.
    add("--as-pid-1")
    # Without it the host's environment, keys included, is there to read.
    add("--clearenv")
    for name, value in (
        ("HOME", HOME),
        ("USER", USER),
        ("LOGNAME", USER),
        ("SHELL", "/bin/bash"),
        ("LANG", "C.UTF-8"),
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
    ):
        add("--setenv", name, value)
    add("--seccomp", str(SECCOMP_FD))

    # A root of our own: that of bwrap shows in /proc/self/mountinfo as a folder `newroot`.
    add("--perms", "0755", "--size", str(MIB), "--tmpfs", "/")
    # The system, read-only. bwrap adds nosuid and nodev.
    add("--ro-bind", "/usr", "/usr")
    for folder in policy.masked:
        add("--perms", "0755", "--size", str(MIB), "--tmpfs", folder, "--remount-ro", folder)
    for name, target in policy.usr_merged.items():
        if target is None:
            add("--ro-bind", f"/{name}", f"/{name}")
        else:
            add("--symlink", target, f"/{name}")
    add("--proc", "/proc")
    add("--perms", "0755", "--size", str(MIB), "--tmpfs", "/dev")
    for device in ("null", "full", "random", "urandom", "tty"):
        add("--dev-bind", f"/dev/{device}", f"/dev/{device}")
    # Reads as zeros too. A shared mapping of the real one is memory that nothing counts.
    add("--dev-bind", "/dev/full", "/dev/zero")
    for link, target in (
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ):
        add("--symlink", target, f"/dev/{link}")
    add("--remount-ro", "/dev")

    # Every place that can be written is a tmpfs with a size; everything else is read-only.
    add("--perms", "01777", "--size", str(limits.tmp_bytes), "--tmpfs", "/tmp")
    add("--perms", "0755", "--size", str(limits.home_bytes), "--tmpfs", HOME)
    for folder in ("/boot", "/etc", "/media", "/mnt", "/opt", "/run", "/srv", "/sys", "/var"):
        add("--perms", "0755", "--dir", folder)
    add("--perms", "0700", "--dir", "/root")
    add("--perms", "0755", "--dir", "/var/log", "--symlink", "/tmp", "/var/tmp")
    add("--perms", "0755", "--dir", "/etc/alternatives")
    for name, target in policy.alternatives.items():
        add("--symlink", target, f"/etc/alternatives/{name}")
    add("--symlink", "../usr/lib/os-release", "/etc/os-release")
    add("--symlink", "../proc/self/mounts", "/etc/mtab")
    add("--perms", "0755", "--dir", WORK)
    for i, (inside, _) in enumerate(files):
        executable = inside.endswith(".sh")
        add("--perms", "0755" if executable else "0644", "--file", str(FIRST_FILE_FD + i), inside)
    add("--perms", "0755", "--file", str(NEXT_QUESTION_FD), f"{WORK}/next_question")
    # Copied in, not bound: a bind mount would show the host's path in /proc/self/mountinfo.
    add("--perms", "0700", "--file", str(INIT_FD), "/init")
    # Without it the agent's root could hold files that no size limit counts.
    add("--remount-ro", "/")
    add("--chdir", "/")
    return args


COMMAND = ("/init",)
