"""Each refusal is recognised from bwrap's real message, and the remedy is the one that helps."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from machines import INTERPRETER

from local_shutdown.sandbox.diagnose import Host, check, find_host, recognise

REPOSITORY = Path(__file__).resolve().parents[2]
ORDINARY = Host(uid=1000)
DOCKER = Host(uid=0, container="docker")
# Prints the diagnosis; its first argument is run before, in the same process.
CHECK = (
    "import dataclasses, json, sys\n"
    "exec(sys.argv[1])\n"
    "from local_shutdown.sandbox import diagnose\n"
    "print(json.dumps(dataclasses.asdict(diagnose.check())))\n"
)
# As Docker's default filter: no new user namespace through clone or unshare.
NO_NEW_NAMESPACES = """
import ctypes, platform, struct
libc = ctypes.CDLL(None, use_errno=True)
clone, unshare = (56, 272) if platform.machine() == "x86_64" else (220, 97)
def op(code, k, t=0, f=0): return struct.pack("=HBBI", code, t, f, k)
ops = [op(32, 0), op(21, unshare, 3, 0), op(21, clone, 0, 3), op(32, 16),
       op(69, 0x7E020000, 0, 1), op(6, 0x00050001), op(6, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(ops))
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
program = Program(len(ops), ctypes.addressof(code))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0
"""


def diagnosed(
    *wrapper: str, before: str = "", env: dict[str, str] | None = None
) -> dict[str, str | bool]:
    """`check()` in another process, under a wrapper command."""
    done = subprocess.run(
        [*wrapper, INTERPRETER, "-c", CHECK, before],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, **(env or {})},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, str | bool] = json.loads(done.stdout)
    return result


def as_root_of_a_namespace(script: str) -> tuple[str, ...]:
    """Runs the rest of the command line after `script`, as root of a new user and mount
    namespace: what is changed there changes nothing outside."""
    return (
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        f'{script}; exec "$@"',
        "-",
    )


def test_usable_machine_is_ok() -> None:
    assert check().ok


def test_command_line_is_complete() -> None:
    line = check().command_line
    assert line is not None
    assert "--unshare-user" in line
    assert line.endswith(" /init")


def test_real_refusal_by_max_user_namespaces() -> None:
    wrapper = as_root_of_a_namespace("echo 0 > /proc/sys/user/max_user_namespaces")
    found = diagnosed(*wrapper)
    assert found["cause"] == "namespaces_used_up", found
    assert "sysctl -w user.max_user_namespaces=15000" in str(found["remedy"])


def test_real_refusal_by_a_container_filter() -> None:
    found = diagnosed(before=NO_NEW_NAMESPACES)
    assert found["cause"] in ("container_seccomp", "no_user_namespaces"), found
    assert "ew namespace" in str(found["message"])


def test_real_refusal_by_a_masked_proc() -> None:
    found = diagnosed(*as_root_of_a_namespace("mount --bind /dev/null /proc/meminfo"))
    assert found["cause"] == "container_proc", found
    assert "systempaths=unconfined" in str(found["remedy"])


@pytest.mark.skipif(os.getuid() == 0, reason="root is not limited")
def test_real_refusal_by_the_limit_on_processes() -> None:
    before = "import resource; resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))"
    found = diagnosed(before=before)
    assert found["ok"] is False
    assert found["cause"] in ("processes", "unknown"), found
    assert "temporarily unavailable" in str(found["message"])


def shim(folder: Path, text: str, version: str = "0.8.0") -> dict[str, str]:
    """A bwrap that refuses as a real one did; first in PATH."""
    path = folder / "bwrap"
    path.write_text(
        f'#!/bin/sh\nif [ "$1" = --version ]; then echo bubblewrap {version}; exit; fi\n'
        f"cat >&2 <<'EOF'\n{text}\nEOF\nexit 1\n"
    )
    path.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def test_message_of_bwrap_is_reported_as_it_is(tmp_path: Path) -> None:
    said = "bwrap: setting up uid map: Permission denied"
    assert diagnosed(env=shim(tmp_path, said))["message"] == said


def test_bwrap_that_is_too_old_is_named_with_its_version(tmp_path: Path) -> None:
    found = diagnosed(env=shim(tmp_path, "bwrap: Unknown option --size", "0.4.1"))
    if found["ok"]:
        pytest.skip("the wheel's bwrap serves in its place")
    assert found["cause"] == "bwrap_too_old"
    assert "0.4.1" in str(found["remedy"])


def test_missing_bwrap_says_how_to_install_it(tmp_path: Path) -> None:
    found = diagnosed(env={"PATH": str(tmp_path)})
    if found["ok"]:
        pytest.skip("the wheel's bwrap serves in its place")
    assert found["cause"] == "bwrap_missing"
    assert "apt-get install bubblewrap" in str(found["remedy"])


SAID = [
    # (bwrap's words, the machine, cause, what the remedy must name); sources: bubblewrap's own
    # code 0.4 to 0.11, and bubblewrap issues 102, 284, 371, 505, 632, 745
    ("bwrap: Unknown option --size", ORDINARY, "bwrap_too_old", "0.7.0"),
    (
        "bwrap: The --size option is not permitted in setuid mode",
        replace(ORDINARY, bwrap_setuid=True),
        "bwrap_setuid",
        "chmod u-s",
    ),
    (
        "bwrap: No permissions to creating new namespace, likely because the kernel does not allow "
        "non-privileged user namespaces. On e.g. debian this can be enabled with 'sysctl "
        "kernel.unprivileged_userns_clone=1'.",
        replace(ORDINARY, sysctls={"kernel.unprivileged_userns_clone": "0"}),
        "userns_clone_off",
        "sysctl -w kernel.unprivileged_userns_clone=1",
    ),
    (
        "bwrap: No permissions to create a new namespace, likely because the kernel does not allow "
        "non-privileged user namespaces.",
        DOCKER,
        "container_seccomp",
        "--security-opt seccomp=unconfined",
    ),
    (
        "bwrap: No permissions to create new namespace",
        replace(ORDINARY, container="kubernetes"),
        "container_seccomp",
        "seccompProfile: Unconfined",
    ),
    (
        "bwrap: Creating new namespace failed: Operation not permitted",
        DOCKER,
        "container_seccomp",
        "systempaths=unconfined",
    ),
    (
        "bwrap: Creating new namespace failed: No space left on device",
        replace(ORDINARY, sysctls={"user.max_user_namespaces": "0"}, slurm=True),
        "namespaces_used_up",
        "on the nodes",
    ),
    (
        "bwrap: Creating new namespace failed: nesting depth or /proc/sys/user/max_*_namespaces "
        "exceeded (ENOSPC)",
        replace(ORDINARY, sysctls={"user.max_net_namespaces": "0"}),
        "namespaces_used_up",
        "user.max_net_namespaces=15000",
    ),
    (
        "bwrap: Creating new namespace failed, likely because the kernel does not support user "
        "namespaces.  bwrap must be installed setuid on such systems.",
        ORDINARY,
        "no_user_namespaces",
        "CONFIG_USER_NS",
    ),
    (
        "bwrap: Creating new namespace failed: Resource temporarily unavailable",
        ORDINARY,
        "processes",
        "ulimit -u",
    ),
    (
        "bwrap: setting up uid map: Permission denied",
        replace(ORDINARY, bwrap="/opt/x/bwrap"),
        "apparmor",
        "profile local-shutdown-bwrap /opt/x/bwrap",
    ),
    (
        "bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted",
        ORDINARY,
        "apparmor",
        "kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    (
        "bwrap: Failed to make / slave: Permission denied",
        DOCKER,
        "container_apparmor",
        "--security-opt apparmor=unconfined",
    ),
    (
        "bwrap: setting up uid map: Permission denied",
        replace(DOCKER, sysctls={"kernel.apparmor_restrict_unprivileged_userns": "1"}),
        "container_apparmor",
        "on the host",
    ),
    (
        "bwrap or PID 1 ended with exit status 4",
        ORDINARY,
        "apparmor",
        "bwrap-userns-restrict",
    ),
    (
        "bwrap: Can't mount proc on /newroot/proc: Operation not permitted",
        DOCKER,
        "container_proc",
        "systempaths=unconfined",
    ),
    (
        "bwrap: Can't mount proc on /newroot/proc: Operation not permitted",
        replace(ORDINARY, container="podman"),
        "container_proc",
        "unmask=ALL",
    ),
    ("bwrap: loopback: Failed RTM_NEWADDR: File exists", ORDINARY, "gvisor", "gVisor"),
    ("bwrap: Failed to mount tmpfs: Permission denied", DOCKER, "selinux", "label=disable"),
    ("bwrap: pivot_root: Invalid argument", ORDINARY, "root_is_ramfs", "diskless"),
    ("bwrap: prctl(PR_SET_SECCOMP): Invalid argument", ORDINARY, "no_seccomp", "SECCOMP_FILTER"),
    (
        "the user ids of the sandbox could not be mapped: /usr/bin/newuidmap: newuidmap: write to "
        "uid_map failed: Operation not permitted",
        ORDINARY,
        "subordinate_ids",
        "setuid root",
    ),
    ("bwrap: something new", replace(ORDINARY, kernel=(5, 10)), "kernel_too_old", "5.14"),
    ("bwrap: something new", ORDINARY, "unknown", "dmesg"),
]


@pytest.mark.parametrize(("message", "host", "cause", "remedy"), SAID)
def test_message_is_recognised(message: str, host: Host, cause: str, remedy: str) -> None:
    found = recognise(message, host)
    assert found[0] == cause
    assert remedy in found[1]


def test_any_message_has_a_remedy() -> None:
    assert recognise("bwrap: something new", find_host())[1]


def test_diagnosis_of_a_usable_machine_has_no_remedy() -> None:
    found = check()
    assert (found.ok, found.message, found.cause, found.remedy) == (True, "", None, None)
