"""A model server of ours: a process on 127.0.0.1 that we start, wait for, watch and stop.

It gets a key of its own and its own process group, so that stopping it leaves no worker that holds
a GPU; its pid is written down, so that one that outlived a killed run is found by the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_shutdown.engines.client import ChatClient
from local_shutdown.errors import EngineDown, EngineFault, EngineUnavailable

API_KEY_VARIABLE = "LOCAL_SHUTDOWN_API_KEY"
POLL_S = 0.25
STOP_GRACE_S = 15.0
REVIVALS = 5
_TAIL_BYTES = 6000


@dataclass(frozen=True, slots=True)
class Launch:
    """How one server is started.

    Attributes:
        name: for messages, `vllm` or `transformers`.
        argv: the command line for a port.
        env: added to ours.
        key_argv: what hands the key to the server on top of `argv`; it is left out of messages.
        start_timeout_s: how long loading may take.
        served_name: what requests call the model.
    """

    name: str
    argv: Callable[[int], Sequence[str]]
    env: Mapping[str, str]
    served_name: str
    start_timeout_s: float = 3600.0


class Server:
    """One server process. Use as an async context manager: starts on entry, is gone on exit.

    Args:
        launch: see `Launch`.
        directory: of the run; gets `<name>-<number>.log` and the pid file.
        number: tells the servers of one run apart.
        say: called with lines for the user.

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
    ) -> None:
        self.launch = launch
        self.generation = 0
        self.max_model_len: int | None = None
        self.log = directory / f"{launch.name}-{number}.log"
        self.api_key = secrets.token_hex(16)
        self._pid_file = directory / f".{launch.name}-{number}.pid"
        self._say = say
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._command: Sequence[str] = ()
        self._lock = asyncio.Lock()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def pid(self) -> int | None:
        """Of the server's main process while it runs."""
        return self._process.pid if self._process else None

    async def __aenter__(self) -> Server:
        end_orphan(self._pid_file, self._say)
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def revive(self, seen: int) -> None:
        """See `batch.Supervisor.revive`. Backs off, and gives up after `REVIVALS` deaths."""
        async with self._lock:
            if self.generation != seen:
                return
            if await self._healthy():
                return  # a connection broke, no more
            if self.generation > REVIVALS:
                raise EngineUnavailable(
                    f"{self.launch.name} died {self.generation} times in this run",
                    f"last lines of {self.log}:\n{self._tail()}",
                )
            self._say(f"{self.launch.name} died; starting it again (log: {self.log})")
            await self.stop()
            await asyncio.sleep(min(2.0**self.generation, 30.0))
            await self._start()

    async def _start(self) -> None:
        self._port = _free_port()
        self._command = list(self.launch.argv(self._port))
        began = time.monotonic()
        with self.log.open("ab") as log:
            log.write(f"$ {shlex.join(self._command)}\n".encode())
            log.flush()
            try:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env={
                        **os.environ,
                        **self.launch.env,
                        API_KEY_VARIABLE: self.api_key,
                        "VLLM_API_KEY": self.api_key,
                    },
                )
            except OSError as failed:
                raise EngineUnavailable(
                    f"{self._command[0]} cannot be started: {failed.strerror}"
                ) from None
        self._pid_file.write_text(f"{self._process.pid} {_start_time(self._process.pid)}\n")
        self._say(f"starting {self.launch.name} (log: {self.log})")
        told = began
        while not await self._healthy():
            if self._process.poll() is not None:
                raise EngineUnavailable(
                    f"{self.launch.name} ended with status {self._process.returncode} while "
                    f"starting: {why_it_died(self._tail())}",
                    f"log: {self.log}\n  command: {shlex.join(self._command)}",
                )
            if time.monotonic() - began > self.launch.start_timeout_s:
                raise EngineUnavailable(
                    f"{self.launch.name} did not answer within "
                    f"{self.launch.start_timeout_s:.0f} s: {self._last_line()}",
                    f"log: {self.log}\n  command: {shlex.join(self._command)}",
                )
            if time.monotonic() - told > 10:
                told = time.monotonic()
                self._say(f"  {told - began:.0f} s: {self._last_line()}")
            await asyncio.sleep(POLL_S)
        self.generation += 1
        self._say(f"{self.launch.name} is up after {time.monotonic() - began:.0f} s")

    async def _healthy(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            return False
        async with ChatClient(self.base_url, self.api_key) as client:
            try:
                await client.get("//health")
                models = await client.get("/models")
            except (EngineDown, EngineFault):
                return False
        with contextlib.suppress(KeyError, TypeError, IndexError):
            self.max_model_len = models["data"][0].get("max_model_len")
        return True

    async def stop(self) -> None:
        """TERM to the whole group, KILL after a grace, and wait until all of it is gone."""
        process, self._process = self._process, None
        if process is None:
            return
        await asyncio.to_thread(end_group, process)
        self._pid_file.unlink(missing_ok=True)

    def _tail(self) -> str:
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
                return log.read().decode(errors="replace")
        except OSError:
            return ""

    def _last_line(self) -> str:
        lines = self._tail().strip().splitlines()
        return lines[-1][:160] if lines else "no output yet"


def end_group(process: subprocess.Popen[bytes], grace_s: float = STOP_GRACE_S) -> None:
    """End a process that leads its own group, and the group."""
    for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(wait_s)
        if process.poll() is not None and not _group_lives(process.pid):
            return


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def end_orphan(pid_file: Path, say: Callable[[str], None]) -> None:
    """End the server of an earlier run that was killed: same pid, same start time, so it is the
    process that was written down and no other."""
    try:
        pid_text, start_time = pid_file.read_text().split()
        pid = int(pid_text)
    except (OSError, ValueError):
        return
    if _start_time(pid) == start_time:
        say(f"ending the server of an earlier run (pid {pid})")
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, number)
            for _ in range(50):
                if not _group_lives(pid):
                    break
                time.sleep(0.1)
    pid_file.unlink(missing_ok=True)


def _start_time(pid: int) -> str:
    """Clock ticks since boot at which a process started; `0` when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "0"
    return stat.rpartition(")")[2].split()[19]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def why_it_died(log_tail: str) -> str:
    """The line of a log that says why, as far as it can be told: the last error of a traceback."""
    causes = (
        "out of memory",
        "No space left on device",
        "address already in use",
        "Address already in use",
        "unrecognized arguments",
        "No module named",
        "not a local folder",
        "couldn't connect",
        "is not a valid model identifier",
        "invalid tool call parser",
        "invalid reasoning parser",
    )
    lines = [line.strip() for line in log_tail.splitlines() if line.strip()]
    for line in reversed(lines):
        if any(cause in line for cause in causes):
            return line[-400:]
    for line in reversed(lines):
        head = line.split("] ")[-1].split(":")[0]
        if head.endswith(("Error", "Exception")) and " " not in head:
            return line[-400:]
    return lines[-1][-400:] if lines else "it printed nothing"


def describe(server: Server) -> dict[str, Any]:
    """What run.json says of a server."""
    return {"command": list(server._command), "log": server.log.name, "starts": server.generation}
