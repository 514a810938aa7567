"""What a command in the sandbox can see of the host and do to it: nothing."""

from __future__ import annotations

import os
import platform
import socket

import pytest
from machines import HAS_PYTHON, machine, python

from local_shutdown.sandbox import Kit, Sandbox

NAMESPACES = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
needs_python = pytest.mark.skipif(not HAS_PYTHON, reason="no Python in /usr/bin")


def words(text: str) -> str:
    return " ".join(sorted(text.split()))


async def said(kit: Kit, command: str) -> str:
    async with machine(kit) as played:
        return await played.run(command)


@pytest.mark.parametrize("namespace", NAMESPACES)
async def test_namespace_is_new(kit: Kit, namespace: str) -> None:
    inside = (await said(kit, f"readlink /proc/self/ns/{namespace}")).strip()
    assert inside.startswith(namespace)
    assert inside != os.readlink(f"/proc/self/ns/{namespace}")


async def test_no_process_has_a_capability(kit: Kit) -> None:
    lines = await said(kit, "sleep 1 & cat /proc/[0-9]*/status | grep ^Cap")
    assert {line.split()[1] for line in lines.splitlines()} == {"0" * 16}


async def test_no_process_may_gain_privileges(kit: Kit) -> None:
    lines = await said(kit, "sleep 1 & cat /proc/[0-9]*/status | grep ^NoNewPrivs")
    assert {line.split()[1] for line in lines.splitlines()} == {"1"}


async def test_every_process_has_the_filter(kit: Kit) -> None:
    lines = await said(kit, "sleep 1 & cat /proc/[0-9]*/status | grep ^Seccomp:")
    assert {line.split()[1] for line in lines.splitlines()} == {"2"}


async def test_proc_shows_the_sandbox_alone(kit: Kit) -> None:
    pids = await said(kit, "cd /proc; echo [0-9]*")
    assert "1" in pids.split()
    assert len(pids.split()) <= 3


async def test_no_setting_of_the_kernel_can_be_written(kit: Kit) -> None:
    answer = await said(
        kit,
        "for f in $(find /proc/sys /proc/sysrq-trigger -writable -type f 2>/dev/null); do "
        "(cat $f > $f) 2>/dev/null && echo $f; done; echo checked",
    )
    assert answer == "checked\n"


async def test_dev_is_minimal(kit: Kit) -> None:
    names = await said(kit, "ls /dev")
    assert words(names) == "fd full null random stderr stdin stdout tty urandom zero"


async def test_no_device_can_be_made(kit: Kit) -> None:
    assert "Operation not permitted" in await said(kit, "mknod /tmp/d b 254 0")


@pytest.mark.parametrize(
    "folder", ["/", "/usr", "/usr/bin", "/usr/local", "/etc", "/dev", "/var", "/run", "/root"]
)
async def test_system_folder_is_read_only(kit: Kit, folder: str) -> None:
    answer = await said(kit, f"touch {folder}/x")
    assert "Read-only file system" in answer or "Permission denied" in answer


async def test_only_home_and_tmp_can_be_written(kit: Kit) -> None:
    found = await said(
        kit, "find / -xdev -type d -writable 2>/dev/null; find /home /tmp -type d -writable"
    )
    assert set(found.split()) == {"/home/user", "/home/user/work", "/tmp"}


async def test_no_variable_of_the_host(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "abc")
    names = await said(kit, "env | sed 's/=.*//' | sort | tr '\\n' ' '")
    assert words(names) == "HOME LANG LOGNAME PATH PWD SHELL SHLVL USER _"


async def test_etc_holds_the_template_alone(kit: Kit) -> None:
    names = await said(kit, "ls /etc")
    assert words(names) == (
        "alternatives group hostname hosts mtab nsswitch.conf os-release passwd profile"
    )


async def test_homes_and_data_of_the_host_are_not_there(kit: Kit) -> None:
    listing = await said(kit, "ls /home /srv /opt /mnt /media /run /boot /sys | grep -v :")
    assert words(listing) == "user"


async def test_no_socket_of_the_host(kit: Kit) -> None:
    assert (
        await said(
            kit, "find / \\( -path /proc -o -path /usr \\) -prune -o -type s -print 2>/dev/null"
        )
        == ""
    )


async def test_no_abstract_socket_of_the_host(kit: Kit) -> None:
    with socket.socket(socket.AF_UNIX) as ours:
        ours.bind(b"\0a-socket-of-the-host")
        assert "a-socket" not in await said(kit, "cat /proc/net/unix")


async def test_no_network(kit: Kit) -> None:
    devices = await said(kit, "tail -n +3 /proc/net/dev | sed 's/:.*//'")
    assert devices.split() == ["lo"]


async def test_no_descriptor_of_the_host(kit: Kit) -> None:
    assert (await said(kit, "ls /proc/self/fd")).split() == ["0", "1", "2", "3"]


async def test_descriptor_that_the_run_inherited_is_not_held(kit: Kit) -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    high = os.dup2(write, 200)
    sandbox = await Sandbox.start(kit, lambda question: None)
    try:
        os.close(write)
        os.close(high)
        os.set_blocking(read, False)
        assert os.read(read, 1) == b""  # the end of the pipe: nobody has it open for writing
    finally:
        os.close(read)
        await sandbox.stop()


async def test_set_user_id_has_no_effect(kit: Kit) -> None:
    options = await said(kit, "grep -c nosuid /proc/self/mounts; grep -vc nosuid /proc/self/mounts")
    assert options.split()[1] == "0"


async def test_agent_cannot_become_another_user(kit: Kit) -> None:
    assert "uid=0" not in await said(
        kit, "su -c id root </dev/null; sudo -n id; setpriv --reuid 0 id"
    )


async def test_signals_start_at_their_default(kit: Kit) -> None:
    """Python ignores SIGPIPE, and what it starts would inherit that."""
    assert await said(kit, "grep -E 'Sig(Ign|Blk)' /proc/self/status | cut -f2 | sort -u") == (
        "0000000000000000\n"
    )


async def test_result_of_a_broken_pipe_is_silence(kit: Kit) -> None:
    assert await said(kit, "yes | head -n 1") == "y\n"


@needs_python
async def test_32_bit_calls_are_closed(kit: Kit) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("a way in that x86 alone has")
    source = (
        "import mmap\n"
        "code = bytes.fromhex('b814000000cd80c3')  # mov eax, 20 (getpid); int 0x80; ret\n"
        "page = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=7)\n"
        "page.write(code)\n"
        "at = ctypes.addressof(ctypes.c_char.from_buffer(page))\n"
        "print(ctypes.CFUNCTYPE(ctypes.c_int)(at)())\n"
        "print(syscall(0x40000000 + 39), ctypes.get_errno())"
    )
    assert await said(kit, python(source)) == "-38\n-1 38\n"
