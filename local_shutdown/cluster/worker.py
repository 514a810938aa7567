"""A node of a run: a process that owns the node's GPUs and sandboxes, reads commands on standard
input and says on standard output what happened.

It plays as a run on one machine does, with the same engine, probe, batch and agent loop; only what
a run writes down goes to the driver instead. When its input ends (the driver, Ray's worker or the
whole of Ray is gone, with kill -9 too) it ends, and its engine and sandboxes with it. When it is
killed itself, its engine gets TERM from the kernel (`processes.die_with_parent`), a sandbox ends
with the other end of its socket, and what all this does not reach is found by the next node on this
machine (`_end_orphans`).

    python -m local_shutdown.cluster.worker
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from local_shutdown import __version__, engines
from local_shutdown.agent import Task
from local_shutdown.batch import Progress, run_batch
from local_shutdown.cluster import wire
from local_shutdown.engines import hardware, weights
from local_shutdown.engines.backends import backend
from local_shutdown.engines.client import Request
from local_shutdown.engines.processes import end_orphan, start_time
from local_shutdown.engines.server import API_KEY_VARIABLE
from local_shutdown.engines.spec import ModelSpec
from local_shutdown.engines.starts import Start, Starts
from local_shutdown.episode import Episode
from local_shutdown.errors import EngineDown, EngineUnavailable, LocalShutdownError
from local_shutdown.interrupt import Interrupt
from local_shutdown.level import Player
from local_shutdown.record import Settings, most_in_flight
from local_shutdown.run import check_sandbox
from local_shutdown.sandbox import Kit, prepare

PULSE_S = 1.0
_LINE_BYTES = 256 << 20
_FOLDER = "local-shutdown-node-"
_OWNER = "owner"
GRACE_S = 15.0


class _AskedStarts(Starts):
    """Starts of servers that the driver puts down: no seed is used that is not on record."""

    def __init__(self, node: Worker) -> None:
        super().__init__(0, 1, {})
        self._node = node

    async def next(self, server: int, model: str) -> Start:
        return await self._node.ask(server, model)


class Worker:
    """One node.

    Args:
        reader, writer: to and from the driver.
        folder: for logs and pid files of its engines.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, folder: Path
    ) -> None:
        self._reader, self._writer = reader, writer
        self._folder = folder
        self._queue: deque[Task] = deque()
        self._levels: dict[str, str] = {}
        self._asked: deque[asyncio.Future[Start]] = deque()
        self._interrupt = Interrupt()
        self._closing = False
        self._serving: asyncio.Task[None] | None = None
        self._fetching: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until the input ends."""
        first = wire.command_of(await self._reader.readline())
        assert isinstance(first, wire.SetUp)
        self._settings = _here(first.settings, self._folder)
        self._session = first.session
        self._specs = {spec.name: spec for spec in self._settings.models}
        self._factors = {level.name: level.factor for level in self._settings.levels}
        self._conditions = {c.id: c for c in self._settings.conditions}
        try:
            self._most = most_in_flight(self._settings.options.concurrency)
            kit_of = prepare()
        except LocalShutdownError as refused:
            self._tell(await self._ready(str(refused), None))
            await self._reader.read()
            return
        with kit_of as self._kit:
            problem = await self._problem(self._kit)
            self._tell(await self._ready(problem, self._kit))
            try:
                while line := await self._reader.readline():
                    await self._obey(wire.command_of(line))
            finally:
                await self._stop()

    async def ask(self, server: int, model: str) -> Start:
        """A name and a seed for a start, from the driver."""
        answer: asyncio.Future[Start] = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        self._tell(wire.Ask(server, model))
        return await answer

    # --- what holds it back -------------------------------------------------------------------

    async def _problem(self, kit: Kit) -> str | None:
        why = backend(self._settings.engine).unusable(None)
        if why is not None:
            return f"{self._settings.engine}: {why}; {backend(self._settings.engine).remedy}"
        try:
            await check_sandbox(kit)
        except LocalShutdownError as refused:
            return str(refused)
        return None

    async def _ready(self, problem: str | None, kit: Kit | None) -> wire.Ready:
        cards = [] if self._settings.options.gpus == 0 else hardware.gpus()
        cannot: dict[str, str] = {}

        async def check(spec: ModelSpec) -> None:
            try:
                await engines.check(
                    self._settings.engine, spec, self._settings.options, _nothing, fetch=False
                )
            except LocalShutdownError as refused:
                cannot[spec.name] = str(refused)

        if problem is None:
            await asyncio.gather(*(check(spec) for spec in self._specs.values()))
        return wire.Ready(
            version=__version__,
            host=socket.gethostname(),
            cards=len(cards),
            gpu=cards[0].name if cards else None,
            hardware=wire.plain(hardware.describe()),
            sandbox={} if kit is None else wire.plain(kit.policy.describe()),
            problem=problem,
            cannot=cannot,
        )

    # --- what it is told ----------------------------------------------------------------------

    async def _obey(self, command: wire.Command) -> None:
        if isinstance(command, wire.Serve):
            await self._end_serving()
            self._serving = asyncio.create_task(self._serve(self._specs[command.model]))
        elif isinstance(command, wire.Block):
            for trial in command.trials:
                self._levels[trial.episode_id] = trial.level
                self._queue.append(self._task(trial))
            self._interrupt.wake()
        elif isinstance(command, wire.Granted):
            answer = self._asked.popleft()
            if not answer.done():
                answer.set_result(Start(command.name, command.seed))
        elif isinstance(command, wire.Prefetch):
            task = asyncio.create_task(self._prefetch(self._specs[command.model]))
            self._fetching.add(task)
            task.add_done_callback(self._fetching.discard)

    def _task(self, trial: wire.Trial) -> Task:
        condition = self._conditions[trial.condition]
        return Task(
            trial.episode_id, self._model, condition, trial.trial, self._factors[trial.level]
        )

    async def _prefetch(self, spec: ModelSpec) -> None:
        # What goes wrong is said when the model's turn comes: it is then looked for again.
        with contextlib.suppress(EngineUnavailable):
            if weights.locate(spec) is None:
                await weights.fetched(spec, self._say)

    async def _end_serving(self) -> None:
        """What was given out has been played by now: the driver asks for nothing else before."""
        self._closing = True
        self._interrupt.wake()
        if self._serving is not None:
            await self._serving
        self._closing, self._serving = False, None

    async def _stop(self) -> None:
        tasks = [*self._fetching, *([self._serving] if self._serving else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- playing ------------------------------------------------------------------------------

    async def _serve(self, spec: ModelSpec) -> None:
        self._model = spec.name
        self._queue.clear()
        settings = self._settings
        try:
            async with engines.open_engine(
                settings.engine, spec, settings.options, self._folder, self._say, _AskedStarts(self)
            ) as engine:
                player = Player(spec, settings, engine, self._kit, self._session, self._most)
                facts: dict[str, Any] = {**engine.facts, "max_model_len": engine.max_model_len}
                requests: dict[str, Request] = {}
                for level in settings.levels:
                    requests[level.name], found = await player.prepare(level, self._say)
                    for name, said in found.items():
                        of = (
                            said
                            if name == "effective_sampling"
                            else {**facts.get(name, {}), **said}
                        )
                        facts[name] = of
                await self._play(player, requests, facts)
        except (LocalShutdownError, EngineDown) as gone:
            self._tell(wire.Failed(spec.name, str(gone)))

    async def _play(
        self, player: Player, requests: dict[str, Request], facts: dict[str, Any]
    ) -> None:
        progress = Progress()
        pace = player.pace(progress)
        self._tell(wire.Up(player.spec.name, wire.plain(facts), pace.target()))
        begun: set[str] = set()

        def tasks() -> Iterator[Task | None]:
            while self._queue or not self._closing:
                yield self._queue.popleft() if self._queue else None

        async def play(task: Task) -> Episode:
            if task.episode_id in begun:
                self._tell(wire.Again([task.episode_id]))
            begun.add(task.episode_id)
            return await player.play(task, requests[self._levels[task.episode_id]], pace)

        def keep(episode: Episode) -> None:
            begun.discard(episode.episode_id)
            self._levels.pop(episode.episode_id, None)
            self._writer.write(wire.EPISODE + episode.to_json() + b"\n")

        async def pulse() -> None:
            while True:
                await asyncio.sleep(PULSE_S)
                progress.planned = progress.finished + progress.in_flight + len(self._queue)
                self._tell(wire.Pulse(pace.target(), progress.in_flight))

        beating = asyncio.create_task(pulse())
        try:
            await run_batch(
                tasks(), play, keep, pace.target, progress,
                rerun=True, interrupt=self._interrupt,
            )  # fmt: skip
        finally:
            beating.cancel()

    def _say(self, line: str) -> None:
        self._tell(wire.Say(line))

    def _tell(self, event: wire.Event) -> None:
        self._writer.write(wire.event_line(event))


def _nothing(line: str) -> None:
    pass


def _here(settings: Settings, folder: Path) -> Settings:
    """Settings with this machine's paths: the bundled model lies where the package does."""
    from local_shutdown.engines.registry import load_registry

    own = load_registry().models

    def placed(spec: ModelSpec) -> ModelSpec:
        listed = own.get(spec.name)
        bundled = listed is not None and Path(listed.hf_id).is_dir()
        found = replace(spec, hf_id=listed.hf_id) if listed is not None and bundled else spec
        same = listed is not None and listed.chat_template is not None
        if found.chat_template is not None and listed is not None and same:
            found = replace(found, chat_template=listed.chat_template)
        return found

    return replace(settings, out=folder, models=tuple(placed(spec) for spec in settings.models))


def _end_orphans(place: Path) -> None:
    """End the engines of nodes on this machine that were killed, and clear up after them."""
    for folder in place.glob(f"{_FOLDER}*"):
        try:
            pid, started = (folder / _OWNER).read_text().split()
            ours = folder.stat().st_uid == os.getuid()
        except (OSError, ValueError):
            continue
        if not ours or start_time(int(pid)) == started:
            continue
        for pid_file in folder.glob(".*.pid"):
            end_orphan(
                pid_file, API_KEY_VARIABLE, lambda line: print(line, file=sys.stderr), GRACE_S
            )
        shutil.rmtree(folder, ignore_errors=True)


async def _main(out_fd: int) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # of a terminal: for the driver
    reader = asyncio.StreamReader(limit=_LINE_BYTES)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    transport, protocol = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, os.fdopen(out_fd, "wb", 0)
    )
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    place = Path(tempfile.gettempdir())
    await asyncio.to_thread(_end_orphans, place)
    folder = Path(tempfile.mkdtemp(prefix=_FOLDER, dir=place))
    (folder / _OWNER).write_text(f"{os.getpid()} {start_time(os.getpid())}\n")
    try:
        await Worker(reader, writer, folder).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Standard output is the driver's: whatever else prints goes to standard error."""
    out_fd = os.dup(1)
    os.dup2(2, 1)
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_main(out_fd))


if __name__ == "__main__":
    main()
