"""Hosts of one machine, as root; for a test. Each has a name, an address, processes, shared memory
and a folder /tmp/ray of its own; files are shared, as those of a cluster are.

They are namespaces without a file, below one process: with it they are gone, and so is everything
that runs in them, even if the test is killed.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from process_table import above, command_line, processes

PROGRAMS = ("ip", "unshare", "nsenter", "setpriv")
# For tests of networks (RFC 2544): no route of a real one leads there.
CONTROLLER = "198.18.0.1"
# A process of a host has a number here, one among all hosts, and one on its own.
NUMBERS = 3
ADDRESSES = {"n1": "198.18.0.2", "n2": "198.18.0.3"}

_LAN = """
ip link set lo up
ip link add lan type bridge
ip address add "$1/24" dev lan
ip link set lan up
echo up
while :; do sleep 1000; done # pid 1 of all
"""
_CABLE = """
ip link set lo up
ip link add eth0 type veth peer name "$1" netns 1
ip address add "$2/24" dev eth0
ip link set eth0 up
nsenter --target 1 --net ip link set "$1" master lan up
exec unshare --pid --fork --kill-child --mount-proc --uts bash -euc "$3" host "$1" "$4" "${@:5}"
"""
# pid 1 of a host takes in what has lost its parent, so it is not the program itself.
_HOST = """
hostname "$1"
mount --bind "$2" /etc/hosts
mount -t tmpfs tmpfs /dev/shm
mkdir -p /tmp/ray
mount -t tmpfs tmpfs /tmp/ray
"${@:3}" &
wait
"""


class Hosts:
    """The network that joins them, and what was started in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made = not Path("/tmp/ray").exists()
        self._lan = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL"),
                *("unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"),
                *("bash", "-euc", _LAN, "lan", CONTROLLER),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._lan.stdout is not None
        assert self._lan.stdout.readline() == "up\n"
        children = Path(f"/proc/{self._lan.pid}/task/{self._lan.pid}/children")
        self._inside = ["nsenter", "--target", children.read_text().split()[0], "--net"]
        self._started: list[subprocess.Popen[bytes]] = []
        self._on_hosts: set[int] = set()

    def beside(self, words: Sequence[str]) -> list[str]:
        """The command, in the network and on no host: as a login node."""
        return [*self._inside, *words]

    def start(self, words: Sequence[str], env: Mapping[str, str], host: str | None = None) -> None:
        """A program that runs until `close`, on a host or beside them; it writes to a file of its
        name."""
        inside = [*self._inside, "--pid", "--mount"]
        if host is not None:
            names = self._folder / f"hosts-{host}"
            names.write_text(self._names_on(host))
            inside += ["unshare", "--net", "bash", "-euc", _CABLE, "cable"]
            inside += [host, ADDRESSES[host], _HOST, str(names)]
        with (self._folder / f"{Path(words[0]).name}-{host}.out").open("ab") as out:
            self._started.append(
                subprocess.Popen(
                    [*inside, *words], stdout=out, stderr=out, env=env, start_new_session=True
                )
            )
        if host is not None:
            self._on_hosts.add(self._started[-1].pid)

    def running(self) -> list[str]:
        """What runs on the hosts beside the program that each was started with."""
        alive = processes()
        parents = {one.pid: one.parent for one in alive}
        return [
            f"{one.pid} {one.name} {command_line(one.pid)}"
            for one in alive
            if one.name not in ("nsenter", "unshare", "slurmd")
            and self._on_hosts.intersection(above(one.pid, parents))
            and not _is_first(one.pid)
        ]

    @staticmethod
    def _names_on(host: str) -> str:
        """As Debian writes it: a machine's own name is an address that only it has."""
        others = [f"{address} {name}" for name, address in ADDRESSES.items() if name != host]
        return "\n".join(["127.0.0.1 localhost", f"127.0.1.1 {host}", *others, ""])

    def close(self) -> None:
        self._lan.kill()
        self._lan.wait()
        assert self._lan.stdout is not None
        self._lan.stdout.close()
        for process in self._started:
            process.wait()
        if self._made:
            with suppress(OSError):  # another Ray of this machine has come to use it
                Path("/tmp/ray").rmdir()


def _is_first(pid: int) -> bool:
    """Whether it is pid 1 of a host."""
    try:
        said = re.search(r"^NSpid:(.*)$", Path(f"/proc/{pid}/status").read_text(), re.M)
    except OSError:
        return True  # it has ended
    assert said is not None
    seen = said[1].split()
    return seen[-1] == "1" and len(seen) == NUMBERS


@contextmanager
def hosts(folder: Path) -> Iterator[Hosts]:
    made = Hosts(folder)
    try:
        yield made
    finally:
        made.close()
