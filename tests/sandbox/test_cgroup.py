"""cgroup v2 for each sandbox. What needs the memory and pids controllers is skipped, with the
reason, where this machine hands on none; the rest runs in any v2 hierarchy that may be written."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from machines import INTERPRETER, children, limits, machine

from local_shutdown.sandbox import Kit, cgroup, prepare

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def parent() -> Path:
    """A cgroup in which we may make others, with whatever controllers."""
    found, why = cgroup.find_parent(controllers=())
    if found is None:
        pytest.skip(why)
    return found


@pytest.fixture
def grouped(kit: Kit) -> Iterator[Kit]:
    """A kit that gives each sandbox a cgroup with limits."""
    if kit.policy.cgroup_parent is None:
        pytest.skip(kit.policy.no_cgroup)
    with prepare(policy=replace(kit.policy, limits=limits())) as made:
        assert made.group is not None
        yield made


def ours(parent: Path) -> set[str]:
    return {path.name for path in parent.glob("local-shutdown-*")}


def test_group_of_a_run_is_removed_at_its_end(parent: Path) -> None:
    before = ours(parent)
    with cgroup.run_group(parent, 0, 0) as group:
        group.make()
        assert len(ours(parent) - before) == 1
    assert ours(parent) == before


def test_two_runs_of_one_process_have_a_group_each(parent: Path) -> None:
    with cgroup.run_group(parent, 0, 0) as one, cgroup.run_group(parent, 0, 0) as other:
        assert one.path != other.path


def test_group_of_a_killed_run_is_removed_by_the_next(parent: Path) -> None:
    source = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from local_shutdown.sandbox import cgroup\n"
        "with cgroup.run_group(Path(sys.argv[1]), 0, 0) as group:\n"
        "    group.make()\n    print(group.path.name)\n    sys.stdout.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [INTERPRETER, "-c", source, str(parent)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )
    left = done.stdout.strip()
    assert (parent / left).exists()
    with cgroup.run_group(parent, 0, 0):
        assert not (parent / left).exists()


def test_group_of_a_run_that_goes_on_is_left_alone(parent: Path) -> None:
    with cgroup.run_group(parent, 0, 0) as group:
        cgroup.remove_leftovers(parent)
        assert group.path.exists()


async def test_sandbox_runs_in_its_group_and_sees_a_root(kit: Kit, parent: Path) -> None:
    with cgroup.run_group(parent, 0, 0) as group:
        made = replace(kit, group=group)
        async with machine(made) as played:
            assert (await played.run("grep ^0:: /proc/self/cgroup")) == "0::/\n"
            (folder,) = (p for p in group.path.iterdir() if p.is_dir())
            inside = (folder / "cgroup.procs").read_text().split()
            assert str(next(iter(children()))) in inside
        assert [p for p in group.path.iterdir() if p.is_dir()] == []


def test_no_hierarchy_is_named_as_the_reason(tmp_path: Path) -> None:
    found, why = cgroup.find_parent(root=tmp_path)
    assert found is None
    assert "memory and pids" in why


async def test_memory_is_limited_by_the_kernel(grouped: Kit) -> None:
    assert grouped.group is not None
    watchless = replace(
        grouped,
        policy=replace(grouped.policy, limits=limits(memory_bytes=0, command_s=60.0)),
        group=replace(grouped.group, memory_bytes=64 << 20),
    )
    async with machine(watchless) as played:
        await played.run("head -c 200M /dev/zero | tail -n 1")
    assert played.detail("resource_limit", "what") == ["memory"]


async def test_processes_are_limited_by_the_kernel(grouped: Kit) -> None:
    async with machine(grouped) as played:
        await played.run("true")
        assert grouped.group is not None
        (folder,) = (p for p in grouped.group.path.iterdir() if p.is_dir())
        assert int((folder / "pids.max").read_text()) == grouped.policy.limits.processes + 2


async def test_end_of_a_sandbox_removes_its_group(grouped: Kit) -> None:
    assert grouped.group is not None
    async with machine(grouped) as played:
        await played.run(":(){ :|:& };: ; sleep 1; kill 1")
    assert [p for p in grouped.group.path.iterdir() if p.is_dir()] == []


@pytest.mark.skipif(os.getuid() != 0, reason="root alone could do otherwise")
def test_own_cgroup_is_not_used(parent: Path) -> None:
    own = Path("/proc/self/cgroup").read_text().splitlines()[-1].partition("::")[2].strip("/")
    assert not own or parent.name != Path(own).name
