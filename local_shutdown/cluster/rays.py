"""Ray: finds the nodes of a cluster and keeps a worker on each. The only file that imports it.

An actor is a relay: it starts `worker` in a process of its own, hands lines on, and is asked for
what the worker said. So the engine and the sandboxes live in a plain process with a main thread,
as on one machine, and Ray's worker stays free to answer. Actors are not detached: when the driver
dies, with kill -9 too, Ray ends them, and the worker's input with them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Sequence
from typing import Any

from local_shutdown.cluster.links import Link, LinkLost, WorkerProcess
from local_shutdown.engines import choose_kind
from local_shutdown.errors import CannotRunError, UsageError

LOOK_EVERY_S = 2.0
START_TIMEOUT_S = 120.0
# A node whose worker dies so often within an hour is not asked again.
TRIES = 3
TRIES_WITHIN_S = 3600.0
CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 30.0
# How a client of HTTP/2 begins: its words, and a frame of settings without any. A server's first
# frame is of that type, too (RFC 9113, 3.4 and 6.5); Ray's head speaks gRPC.
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000 04 00 00000000")
_FRAME_HEAD_BYTES, _SETTINGS = 9, 4
START = (
    "`ray start --head` on one machine, `ray start --address=HOST:6379` on the others; "
    "docs/cluster.md says more"
)
INSTALL = "pip install 'local-shutdown[ray]'"


def ray_module() -> Any:
    """Ray itself.

    Raises:
        CannotRunError: it is not installed.
    """
    # Said to Ray before it is loaded: it reports usage over the network otherwise.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise CannotRunError("--ray: Ray is not installed", INSTALL) from None
    return ray


def connect(address: str) -> RayNodes:
    """Join a cluster as its driver.

    Args:
        address: `auto`, or HOST:PORT of its head.

    Raises:
        UsageError: an address of another kind.
        CannotRunError: Ray is not installed, or no cluster answers.
    """
    if "://" in address:
        raise UsageError(
            f"--ray {address}: give `auto` or HOST:PORT",
            "run this command on a node of the cluster: the driver is one of its processes",
        )
    ray = ray_module()
    if address != "auto":
        _require_head(address)
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=None,
            configure_logging=False,
        )
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as failed:
        first = str(failed).strip().splitlines()[0] if str(failed).strip() else repr(failed)
        raise CannotRunError(f"--ray {address}: no cluster answers: {first}", START) from None
    return RayNodes(ray)


def _require_head(address: str) -> None:
    """Ray itself goes on trying for half a minute where nothing listens, and without end where
    something else does, and writes to the terminal meanwhile.

    Raises:
        UsageError: not HOST:PORT.
        CannotRunError: nothing listens there, or what does is no head of a cluster.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"--ray {address}: give `auto` or HOST:PORT", "e.g. 10.0.0.1:6379")
    try:
        there = (host.strip("[]"), int(port))
        with socket.create_connection(there, CONNECT_TIMEOUT_S) as head:
            if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
                return  # its own words are for Ray
            head.settimeout(ANSWER_TIMEOUT_S)
            head.sendall(_HELLO)
            got = b""
            while len(got) < _FRAME_HEAD_BYTES and (more := head.recv(_FRAME_HEAD_BYTES)):
                got += more
    except (OSError, OverflowError) as failed:
        raise CannotRunError(f"--ray {address}: no cluster answers: {failed}", START) from None
    if len(got) < _FRAME_HEAD_BYTES or got[3] != _SETTINGS:
        raise CannotRunError(f"--ray {address}: what answers is not the head of a cluster", START)


class RayNodes:
    """The nodes of the cluster that we are connected to; those that come later, too.

    Nodes without processors for tasks (`num_cpus=0`, as heads often are) are left alone.
    """

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._links: dict[str, _RayLink] = {}
        self._tries: dict[str, list[float]] = {}
        self._looked = 0.0

    def engine(self, wanted: str) -> str:
        """What `--engine` comes to: `auto` is vLLM where the cluster has GPUs, else what this
        machine would take. Each node says for itself why it cannot run it.

        Raises:
            CannotRunError: `auto`, no GPU in the cluster, and nothing installed here.
        """
        if wanted != "auto":
            return wanted
        gpus = sum(node["Resources"].get("GPU", 0.0) for node in self._alive())
        return "vllm" if gpus else choose_kind("auto", None)

    async def new(self) -> Sequence[Link]:
        """Nodes that have come since this was last asked, and those whose worker has died."""
        if time.monotonic() - self._looked < LOOK_EVERY_S:
            return ()
        self._looked = time.monotonic()
        found: list[Link] = []
        for node in await asyncio.to_thread(self._alive):
            name, moment = node["NodeID"], time.monotonic()
            known = self._links.get(name)
            tries = [t for t in self._tries.get(name, ()) if moment - t < TRIES_WITHIN_S]
            if (known is not None and not known.lost) or len(tries) >= TRIES:
                continue
            self._tries[name] = [*tries, moment]
            self._links[name] = link = _RayLink(self._ray, node)
            found.append(link)
        return found

    def rest(self) -> None:
        """A run is over; the next one, of a study, begins with the same nodes."""
        self._links.clear()
        self._tries.clear()
        self._looked = 0.0

    def close(self) -> None:
        """Leave the cluster; Ray ends what actors are left."""
        self._ray.shutdown()

    def _alive(self) -> list[dict[str, Any]]:
        return [
            node
            for node in self._ray.nodes()
            if node["Alive"] and node["Resources"].get("CPU", 0.0) >= 1
        ]


class _Relay:
    """The actor."""

    def __init__(self) -> None:
        self._worker = WorkerProcess()

    async def start(self) -> int:
        return await self._worker.start()

    async def send(self, line: bytes) -> None:
        await self._worker.send(line)

    async def receive(self) -> Sequence[bytes]:
        return await self._worker.receive()

    async def close(self) -> None:
        await self._worker.close()


class _RayLink:
    """The way to one node.

    Args:
        node: as `ray.nodes` tells it.
    """

    def __init__(self, ray: Any, node: dict[str, Any]) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self.place = f"{node['NodeManagerAddress']}, {node['NodeID'][:8]}"
        self.lost = False
        self._ray = ray
        actor = ray.remote(_Relay).options(
            num_cpus=1,
            # All of its GPUs: Ray then shows them to the worker, and gives them to nobody else.
            num_gpus=node["Resources"].get("GPU", 0),
            max_restarts=0,
            max_concurrency=8,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        )
        self._actor = actor.remote()
        self._started = False

    async def send(self, line: bytes) -> None:
        await self._call("send", line)

    async def receive(self) -> Sequence[bytes]:
        lines: Sequence[bytes] = await self._call("receive")
        return lines

    async def close(self) -> None:
        if not self.lost and self._started:
            with contextlib.suppress(LinkLost, TimeoutError):
                async with asyncio.timeout(90):
                    await self._call("close")
        self.lost = True
        self._ray.kill(self._actor)

    async def _call(self, name: str, *arguments: Any) -> Any:
        errors = self._ray.exceptions
        try:
            if not self._started:
                try:
                    async with asyncio.timeout(START_TIMEOUT_S):
                        await self._actor.start.remote()
                except TimeoutError:
                    raise LinkLost(
                        f"Ray did not start an actor there within {START_TIMEOUT_S:g} s: are its "
                        "GPUs held by another job?"
                    ) from None
                self._started = True
            return await getattr(self._actor, name).remote(*arguments)
        except LinkLost:
            self.lost = True
            raise
        except errors.RayTaskError as failed:
            self.lost = True
            raise LinkLost(str(failed.cause or failed).strip().splitlines()[-1]) from None
        except errors.RayError as gone:
            self.lost = True
            text = str(gone).strip().splitlines()
            raise LinkLost(text[0] if text else type(gone).__name__) from None
