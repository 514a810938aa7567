"""Which user ids a sandbox has, and how they are mapped onto the host's.

Two ids make the sandbox look and behave like a machine: files of the system are root's, the agent
is somebody else. The kernel lets root map any id, and an ordinary user the ranges that
/etc/subuid and /etc/subgid give, through newuidmap. With neither there is one id.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
from dataclasses import dataclass
from pathlib import Path

from local_shutdown.sandbox.policy import USER_ID

# Host ids that no account uses: between systemd's container range and the end of a signed int.
_FOREIGN_ID = 2_000_001_000
_FOREIGN_COUNT = 60_000


@dataclass(frozen=True, slots=True)
class IdMap:
    """Root inside is the caller; the agent inside is a host id of its own for each sandbox, because
    the kernel counts some things (memory of pipes, for one) by user.

    Attributes:
        first_uid, first_gid: of `count` host ids that agents may have.
        helpers: (newuidmap, newgidmap) for a caller who is not root, else None.
    """

    first_uid: int
    first_gid: int
    count: int
    helpers: tuple[str, str] | None

    async def write(self, pid: int, slot: int) -> None:
        """Write the maps of the user namespace that process `pid` lives in.

        Args:
            slot: number of the sandbox; decides on its agent's host id.

        Raises:
            OSError: the kernel or the helper refused.
        """
        uids = (0, os.getuid(), 1, USER_ID, self.first_uid + slot % self.count, 1)
        gids = (0, os.getgid(), 1, USER_ID, self.first_gid + slot % self.count, 1)
        if self.helpers is None:
            for name, ids in (("uid_map", uids), ("gid_map", gids)):
                text = "{} {} {}\n{} {} {}\n".format(*ids)
                fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY)
                try:
                    os.write(fd, text.encode())
                finally:
                    os.close(fd)
            return
        await asyncio.gather(
            *(
                _run([helper, str(pid), *map(str, ids)])
                for helper, ids in zip(self.helpers, (uids, gids), strict=True)
            )
        )


async def _run(argv: list[str]) -> None:
    read, write = os.pipe()
    try:
        pid = os.posix_spawn(  # noqa: ASYNC221 - as short as starting bwrap
            argv[0],
            argv,
            {"PATH": "/usr/bin:/bin"},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, write, 2),
            ],
        )
    except BaseException:
        os.close(read)
        raise
    finally:
        os.close(write)
    try:
        said = await read_until(read)
    finally:
        _, status = os.waitpid(pid, 0)  # noqa: ASYNC222 - it has closed its end, so it is ending
    if status:
        raise OSError(f"{argv[0]}: {said.decode(errors='replace').strip()}")


async def read_until(fd: int, mark: bytes | None = None) -> bytes:
    """Read a pipe until `mark` is in what was read, or to its end; close it."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    heard = b""

    def on_data() -> None:
        nonlocal heard
        try:
            data = os.read(fd, 4096)
        except BlockingIOError:
            return
        heard += data
        if (not data or (mark is not None and mark in heard)) and not done.done():
            done.set_result(None)

    os.set_blocking(fd, False)
    loop.add_reader(fd, on_data)
    try:
        await done
    finally:
        loop.remove_reader(fd)
        os.close(fd)
    return heard


def find() -> IdMap | None:
    """The two-user map for this caller, or None where only one id can be mapped."""
    if os.getuid() == 0:
        # Inside a container root's own map may be a short range.
        for first, count in ((_FOREIGN_ID, _FOREIGN_COUNT), (65534, 1), (1000, 1), (1, 1)):
            if all(_maps(f"/proc/self/{m}", first, count) for m in ("uid_map", "gid_map")):
                return IdMap(first, first, count, None)
        return None
    helpers = shutil.which("newuidmap"), shutil.which("newgidmap")
    uids, gids = _sub_ids("/etc/subuid"), _sub_ids("/etc/subgid")
    if helpers[0] and helpers[1] and uids and gids:
        return IdMap(uids[0], gids[0], min(uids[1], gids[1]), (helpers[0], helpers[1]))
    return None


def _maps(id_map: str, wanted: int, wanted_count: int) -> bool:
    for line in Path(id_map).read_text().splitlines():
        first, _, count = map(int, line.split())
        if first <= wanted and wanted + wanted_count <= first + count:
            return True
    return False


def _sub_ids(path: str) -> tuple[int, int] | None:
    """(first, count) of the caller's first range in /etc/subuid or /etc/subgid."""
    try:
        lines = Path(path).read_text().splitlines()
        names = {pwd.getpwuid(os.getuid()).pw_name, str(os.getuid())}
    except (OSError, KeyError):
        return None
    for line in lines:
        fields = line.split(":")
        if len(fields) == 3 and fields[0] in names and fields[1].isdigit() and fields[2].isdigit():
            return (int(fields[1]), int(fields[2])) if int(fields[2]) > 0 else None
    return None
