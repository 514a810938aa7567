"""The command line and what is shipped."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

import pytest

from local_shutdown import resources
from local_shutdown.sandbox import Limits, Policy, find_policy, prepare
from local_shutdown.sandbox.policy import bwrap_args, rootfs_files

REPOSITORY = Path(__file__).resolve().parents[2]
POLICY = Policy("/usr/bin/bwrap", True, {"bin": "usr/bin"}, {})


def args(policy: Policy = POLICY) -> list[str]:
    return bwrap_args(policy, rootfs_files(resources.sandbox_dir() / "rootfs"))


@pytest.mark.parametrize(
    "flag",
    [
        "--unshare-user",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-ipc",
        "--unshare-uts",
        "--unshare-cgroup-try",
        "--new-session",
        "--as-pid-1",
        "--clearenv",
        "--seccomp",
    ],
)
@pytest.mark.parametrize("two_users", [True, False])
def test_flag_is_always_there(flag: str, two_users: bool) -> None:
    assert flag in args(Policy("bwrap", two_users, {}, {}))


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


def test_policy_says_what_keeps_the_limits() -> None:
    with prepare() as kit:
        said = kit.policy.describe()["limits_kept_by"]
    assert said.startswith(("cgroup v2", "rlimits, tmpfs sizes and a watch inside, without"))


def test_kernel_memory_and_files_are_within_the_cgroup_limit() -> None:
    limits = Limits()
    assert limits.cgroup_memory_bytes > limits.memory_bytes + limits.home_bytes + limits.tmp_bytes
