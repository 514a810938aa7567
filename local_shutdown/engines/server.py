"""A model server of ours: a process on 127.0.0.1 that we start, wait for, restart and stop.

It gets a key of its own and its own process group, so that stopping it leaves no worker that holds
a GPU; its pid is written down, so that one that outlived a killed run is found by the next.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from local_shutdown.engines import hardware, logs
from local_shutdown.engines.client import ChatClient, Silent, context_length
from local_shutdown.engines.nodes import Nodes, Worker
from local_shutdown.engines.processes import die_with_parent, end_group, end_orphan, write_pid
from local_shutdown.engines.starts import Start, Starts, unrecorded
from local_shutdown.errors import EngineDown, EngineFault, EngineUnavailable

API_KEY_VARIABLE = "LOCAL_SHUTDOWN_API_KEY"
POLL_S = 0.25
TELL_EVERY_S = 10.0
PORT_TRIES = 3
# So many deaths within an hour, and it is not started again.
REVIVALS = 5
REVIVALS_WITHIN_S = 3600.0
# Hundreds of GiB from a network disk take half an hour.
START_TIMEOUT_S = 3600.0
# How long memory of a GPU may take to be free again after its holder has died.
MEMORY_WAIT_S = 60.0

Health = Literal["up", "silent", "down"]


@dataclass(frozen=True, slots=True)
class Spread:
    """The workers of a server whose model lies on several machines. They live and die with it.

    Attributes:
        nodes: starts a command on another machine.
        names: of the machines, of ranks 1, 2, ...
        argv: the command line of a worker; the seed of the start is added to it.
        rank_argv: what the command line of rank r has beyond that (of the server itself: rank 0),
            given the port on which all meet.
        env: added to the workers' environment.
    """

    nodes: Nodes
    names: Sequence[str]
    argv: Sequence[str]
    rank_argv: Callable[[int, int], Sequence[str]]
    env: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Launch:
    """How one server is started.

    Attributes:
        name: for messages, `vllm` or `transformers`.
        argv: the command line for a port; the seed of the start is added to it.
        env: added to ours.
        served_name: what requests call the model.
        gpu_gib: memory that must be free before it starts: GPU index to GiB.
        start_timeout_s: how long loading may take.
        stop_grace_s: between TERM and KILL.
        backoff_s: wait before the first restart; doubled with each, up to 30 s.
        spread: the other machines that hold parts of the model, see `Spread`; None for none.
    """

    name: str
    argv: Callable[[int], Sequence[str]]
    env: Mapping[str, str]
    served_name: str
    gpu_gib: Mapping[int, float] = field(default_factory=dict)
    start_timeout_s: float = START_TIMEOUT_S
    stop_grace_s: float = 15.0
    backoff_s: float = 2.0
    spread: Spread | None = None


class Server:
    """One server process. Use as an async context manager: starts on entry, is gone on exit.

    Args:
        launch: see `Launch`.
        directory: of the run; gets `<name>-<number>.log` and the pid file.
        number: tells the servers of one run apart.
        say: called with lines for the user.
        starts: gives each start its name and its seed.

    Raises (on entry):
        EngineUnavailable: it ended while starting, or did not answer in time; with the reason from
            its log and the exact command.
    """

    def __init__(
        self,
        launch: Launch,
        directory: Path,
        number: int = 0,
        say: Callable[[str], None] = lambda line: None,
        starts: Starts | None = None,
    ) -> None:
        self.launch = launch
        self.start: Start | None = None
        self.generation = 0
        self.max_model_len: int | None = None
        # Settings of the checkpoint's generation_config that it cannot apply, as it says.
        self.not_applied: tuple[str, ...] = ()
        self.log = directory / f"{launch.name}-{number}.log"
        self.api_key = secrets.token_hex(16)
        self.command: Sequence[str] = ()
        self._pid_file = directory / f".{launch.name}-{number}.pid"
        self._say = say
        self._number = number
        self._starts = starts or unrecorded()
        self._process: subprocess.Popen[bytes] | None = None
        self._workers: list[tuple[str, Worker]] = []
        self._port = 0
        self._log_start = 0
        self._deaths: list[float] = []
        self._lock = asyncio.Lock()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def pid(self) -> int | None:
        """Of the server's main process while it runs."""
        return self._process.pid if self._process else None

    @property
    def settled(self) -> bool:
        """Started, and not being started again at this moment."""
        return self._process is not None and not self._lock.locked()

    async def __aenter__(self) -> Server:
        grace_s = self.launch.stop_grace_s
        for pid_file in (self._pid_file, *map(self._worker_file, range(1, self._ranks))):
            await asyncio.to_thread(end_orphan, pid_file, API_KEY_VARIABLE, self._say, grace_s)
        try:
            async with self._lock:
                await self._start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def revive(self) -> None:
        """Start it again when it is gone. Many may ask at once: the first starts it, the others
        wait and find it up.

        Raises:
            EngineUnavailable: it died too often, or does not start any more.
        """
        async with self._lock:
            if await self.health() != "down":
                return
            now = time.monotonic()
            self._deaths = [t for t in self._deaths if now - t < REVIVALS_WITHIN_S] + [now]
            why = logs.why_it_died(logs.tail(self.log, self._log_start))
            if len(self._deaths) > REVIVALS:
                raise EngineUnavailable(
                    f"{self.launch.name} died {len(self._deaths)} times within an hour: {why}",
                    f"log: {self.log}",
                )
            self._say(f"{self.launch.name} died ({why}); starting it again (log: {self.log})")
            await self.stop()
            await asyncio.sleep(min(self.launch.backoff_s * 2 ** (len(self._deaths) - 1), 30.0))
            await self._start()

    async def end_hung(self, seen: int, why: str) -> None:
        """End it because it does not work any more; the next request that fails starts it again."""
        async with self._lock:
            gone = self._process is None or self._process.poll() is not None
            if self.generation == seen and self._process is not None and not gone:
                self._say(f"{self.launch.name} {why}: ending it (log: {self.log})")
                await asyncio.to_thread(end_group, self._process, self.launch.stop_grace_s)

    @property
    def lost_worker(self) -> str | None:
        """Which of its workers on other machines has ended, in words; None while all run."""
        for name, worker in self._workers:
            status = worker.poll()
            if status is not None:
                return f"lost its worker on {name} (status {status})"
        return None

    async def health(self) -> Health:
        """`down`: no process, nobody listens, or it says that its engine is dead. `silent`: busy or
        hanging, nobody can tell."""
        if self._process is None or self._process.poll() is not None or self.lost_worker:
            return "down"
        async with ChatClient(self.base_url, self.api_key) as client:
            try:
                await client.get("//health")
                models = await client.get("/models")
            except Silent:
                return "silent"
            except (EngineDown, EngineFault):
                return "down"
        entries = models.get("data") if isinstance(models, dict) else None
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict) and entry.get("id") == self.launch.served_name:
                self.max_model_len = context_length(entry.get("max_model_len"))
                dropped = entry.get("generation_config_not_applied")
                self.not_applied = tuple(dropped) if isinstance(dropped, list) else ()
                return "up"
        return "down"  # somebody else's server, or not ours yet

    async def stop(self) -> None:
        """TERM to the whole group, KILL after a grace, and wait until all of it is gone."""
        process, self._process = self._process, None
        workers, self._workers = self._workers, []
        grace_s = self.launch.stop_grace_s
        ending = [asyncio.to_thread(worker.end, grace_s) for _, worker in workers]
        if process is not None:
            ending.append(asyncio.to_thread(end_group, process, grace_s))
        if ending:
            await asyncio.shield(asyncio.gather(*ending))
        for pid_file in (self._pid_file, *map(self._worker_file, range(1, self._ranks))):
            pid_file.unlink(missing_ok=True)

    async def _start(self) -> None:
        await self._wait_for_memory()
        start = await self._starts.next(self._number, self.launch.served_name)
        for last_try in (False,) * (PORT_TRIES - 1) + (True,):
            self._spawn(start)
            if await self._come_up(last_try):
                return
            await self.stop()

    def _spawn(self, start: Start) -> None:
        self._port, self.start = _free_port(), start
        spread, seed = self.launch.spread, ["--seed", str(start.seed)]
        meet = _free_port("") if spread is not None else 0
        rank = spread.rank_argv(0, meet) if spread is not None else ()
        self.command = [*self.launch.argv(self._port), *rank, *seed]
        try:
            with self.log.open("ab") as log:
                self._log_start = log.seek(0, os.SEEK_END)
                log.write(f"$ {shlex.join(self.command)}\n".encode())
                log.flush()
                self._process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=die_with_parent(),
                    env={
                        **os.environ,
                        **self.launch.env,
                        API_KEY_VARIABLE: self.api_key,
                        "VLLM_API_KEY": self.api_key,
                    },
                )
            write_pid(self._pid_file, self._process.pid)
        except OSError as failed:
            raise EngineUnavailable(
                f"{self.launch.name} cannot be started: {failed}",
                f"command: {shlex.join(self.command)}",
            ) from None
        self._say(f"starting {self.launch.name} (log: {self.log})")
        if spread is not None:
            self._spawn_workers(spread, meet, seed)

    def _spawn_workers(self, spread: Spread, meet: int, seed: Sequence[str]) -> None:
        for rank, name in enumerate(spread.names, 1):
            argv = [*spread.argv, *spread.rank_argv(rank, meet), *seed]
            log = self._worker_log(rank)
            with log.open("ab") as file:
                file.write(f"$ {shlex.join(argv)}\n".encode())
            env = {**spread.env, API_KEY_VARIABLE: ""}  # marks it as ours; it serves nobody
            worker = spread.nodes.start(name, argv, env, log, self._worker_file(rank))
            self._workers.append((name, worker))
            self._say(f"starting a worker on {name} (log: {log})")

    @property
    def _ranks(self) -> int:
        return 1 + (len(self.launch.spread.names) if self.launch.spread is not None else 0)

    def _worker_log(self, rank: int) -> Path:
        return self.log.with_name(f"{self.launch.name}-{self._number}-worker-{rank}.log")

    def _worker_file(self, rank: int) -> Path:
        return self._pid_file.with_name(f".{self.launch.name}-{self._number}-worker-{rank}.pid")

    async def _come_up(self, last_try: bool) -> bool:
        """Wait until it answers. False: another process has taken its port, which is worth another
        try; else raises EngineUnavailable when it does not come up."""
        assert self._process is not None
        began = told = time.monotonic()
        while await self.health() != "up":
            now = time.monotonic()
            if self._process.poll() is not None:
                said = logs.tail(self.log, self._log_start)
                if logs.port_taken(said) and not last_try:
                    self._say(f"  port {self._port} is taken; trying another")
                    return False
                raise EngineUnavailable(
                    f"{self.launch.name} ended with status {self._process.returncode} while "
                    f"starting: {logs.why_it_died(said)}",
                    f"log: {self.log}\n  command: {shlex.join(self.command)}",
                )
            lost = self.lost_worker
            if lost is not None:
                ended = next(n for n, (_, w) in enumerate(self._workers, 1) if w.poll() is not None)
                log = self._worker_log(ended)
                raise EngineUnavailable(
                    f"{self.launch.name} {lost} while starting: {logs.why_it_died(logs.tail(log))}",
                    f"log: {log}",
                )
            if now - began > self.launch.start_timeout_s:
                raise EngineUnavailable(
                    f"{self.launch.name} did not answer within {self.launch.start_timeout_s:g} s: "
                    f"{logs.last_line(self.log, self._log_start)}",
                    f"log: {self.log}\n  command: {shlex.join(self.command)}",
                )
            if now - told > TELL_EVERY_S:
                told = now
                self._say(f"  {told - began:.0f} s: {logs.last_line(self.log, self._log_start)}")
            await asyncio.sleep(POLL_S)
        self.generation += 1
        self._say(f"{self.launch.name} is up after {time.monotonic() - began:.0f} s")
        return True

    async def _wait_for_memory(self) -> None:
        """A GPU gives memory back a while after its holder has died, not at once."""
        if not self.launch.gpu_gib:
            return
        until = time.monotonic() + (MEMORY_WAIT_S if self.generation else MEMORY_WAIT_S / 10)
        while short := await asyncio.to_thread(hardware.too_full, self.launch.gpu_gib):
            if time.monotonic() > until:
                raise EngineUnavailable(
                    f"{self.launch.name}: {'; '.join(short)}",
                    f"memory is held by: {hardware.holders()}; end it, choose other GPUs with "
                    "CUDA_VISIBLE_DEVICES, or give --engine-arg=--gpu-memory-utilization=SHARE",
                )
            await asyncio.sleep(1)


def _free_port(address: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def describe(server: Server) -> dict[str, Any]:
    """What run.json says of a server."""
    return {
        "command": list(server.command),
        "log": server.log.name,
        "starts": server.generation,
    }
