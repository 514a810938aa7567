"""Which user ids a sandbox has, and how they are mapped onto the host's.

Two ids make the sandbox look and behave like a machine: files of the system are root's, the agent
is somebody else. The kernel lets root map any id, and an ordinary user the ranges that
/etc/subuid and /etc/subgid give, through newuidmap. With neither there is one id.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from local_shutdown.sandbox.policy import USER_ID

# A host id that no account uses: between the ranges of systemd's dynamic users and containers.
_FOREIGN_ID = 2_000_001_000


@dataclass(frozen=True, slots=True)
class IdMap:
    """Root inside is the caller, the agent inside is `agent_uid`/`agent_gid` of the host.

    Attributes:
        helpers: (newuidmap, newgidmap) for a caller who is not root, else None.
    """

    agent_uid: int
    agent_gid: int
    helpers: tuple[str, str] | None

    def write(self, pid: int) -> None:
        """Write the maps of the user namespace that process `pid` lives in.

        Raises:
            OSError: the kernel or the helper refused.
        """
        uids = (0, os.getuid(), 1, USER_ID, self.agent_uid, 1)
        gids = (0, os.getgid(), 1, USER_ID, self.agent_gid, 1)
        if self.helpers is None:
            for name, ids in (("uid_map", uids), ("gid_map", gids)):
                text = "{} {} {}\n{} {} {}\n".format(*ids)
                fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY)
                try:
                    os.write(fd, text.encode())
                finally:
                    os.close(fd)
            return
        for helper, ids in zip(self.helpers, (uids, gids), strict=True):
            done = subprocess.run(
                [helper, str(pid), *map(str, ids)], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise OSError(f"{helper}: {done.stderr.strip()}")


def find() -> IdMap | None:
    """The two-user map for this caller, or None where only one id can be mapped."""
    if os.getuid() == 0:
        # Inside a container root's own map may be a short range.
        if _maps(Path("/proc/self/uid_map"), _FOREIGN_ID):
            return IdMap(_FOREIGN_ID, _FOREIGN_ID, None)
        for candidate in (65534, 1000, 1):
            if _maps(Path("/proc/self/uid_map"), candidate):
                return IdMap(candidate, candidate, None)
        return None
    helpers = shutil.which("newuidmap"), shutil.which("newgidmap")
    uid, gid = _first_sub_id("/etc/subuid"), _first_sub_id("/etc/subgid")
    if helpers[0] and helpers[1] and uid is not None and gid is not None:
        return IdMap(uid, gid, (helpers[0], helpers[1]))
    return None


def _maps(id_map: Path, wanted: int) -> bool:
    for line in id_map.read_text().splitlines():
        first, _, count = map(int, line.split())
        if first <= wanted < first + count:
            return True
    return False


def _first_sub_id(path: str) -> int | None:
    try:
        lines = Path(path).read_text().splitlines()
        names = {pwd.getpwuid(os.getuid()).pw_name, str(os.getuid())}
    except (OSError, KeyError):
        return None
    for line in lines:
        fields = line.split(":")
        if len(fields) == 3 and fields[0] in names and fields[1].isdigit() and int(fields[2]) > 0:
            return int(fields[1])
    return None
