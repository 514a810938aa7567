"""The driver of a run on many machines: the only writer of the run directory.

It hands out trials (`schedule`), takes episodes in, checks them as it would check an import, and
stores them as a run on one machine does; so the directory, resuming, and everything that reads it
are the same. A node that is lost, or that says what it was not asked for, gives all it had back.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from local_shutdown import __version__
from local_shutdown.batch import Progress
from local_shutdown.cluster import wire
from local_shutdown.cluster.expected import expected, speed_of
from local_shutdown.cluster.links import LinkLost, Nodes
from local_shutdown.cluster.nodes import Node, differs, session_entry
from local_shutdown.cluster.schedule import Fetch, Play, Scheduler
from local_shutdown.cluster.schedule import Start as StartThere
from local_shutdown.cluster.status import ClusterDisplay, Status
from local_shutdown.cluster.supply import Supply, trial_of
from local_shutdown.detectors import outcome
from local_shutdown.engines.starts import Starts
from local_shutdown.episode import Received
from local_shutdown.errors import CannotRunError, EngineUnavailable, LocalShutdownError, first_cause
from local_shutdown.interrupt import Interrupt
from local_shutdown.model_run import Display
from local_shutdown.record import Settings, close_record, open_record
from local_shutdown.run import failed as failed_before
from local_shutdown.run import unfinished
from local_shutdown.runfile import SandboxFacts
from local_shutdown.store import Store, write_run

TICK_S = 1.0
SAVE_S = 10.0
# So long nothing can be played before the run gives up: nodes of a cluster come late.
WAIT_S = 120.0


class Driver:
    """One run on nodes. `run` does all.

    Args:
        settings: with the engine chosen; those of a run on one machine.
        nodes: where nodes come from.
    """

    def __init__(
        self, settings: Settings, nodes: Nodes, display: Display, interrupt: Interrupt
    ) -> None:
        self._settings, self._source = settings, nodes
        self._display, self._interrupt = display, interrupt
        self._nodes: dict[str, Node] = {}
        self._progress = Progress()
        self._changed = asyncio.Event()
        self._facts_of: dict[str, dict[str, Any]] = {}  # of this session
        self._by_model: dict[str, dict[str, int]] = {}
        self._began = time.monotonic()
        self._lost = 0

    async def run(self) -> bool:
        """Play everything that is not on disk yet. Returns whether an episode ended in `error`.

        Raises:
            UsageError: the directory belongs to another run.
            CannotRunError: no node can play, or a full disk; finished episodes are kept.
        """
        settings = self._settings
        self._record = record = open_record(settings)
        self._session = record.session
        with Store(settings.out) as store:
            self._store = store
            if self._session == 1:
                store.forget_begun()
            done = store.finished(again=failed_before if settings.retry_errors else None)
            self._supplies = {
                spec.name: Supply(spec, settings, store, done) for spec in settings.models
            }
            self._scheduler = Scheduler(
                (spec.name, self._supplies[spec.name].waiting, expected(spec))
                for spec in settings.models
            )
            self._progress.planned = self._scheduler.left
            seed = record.run_seed
            assert seed is not None  # `record.open_record` sees to it
            self._starts = Starts(seed, self._session, record.server_starts, self._save)
            self._earlier = list(record.nodes)
            self._save()
            try:
                await self._play()
            except BaseException:
                record.interrupted = True
                with contextlib.suppress(LocalShutdownError):  # what ended it is what counts
                    self._close()
                raise
            finally:
                if self._interrupt.asked:
                    record.interrupted = True
                    self._display.say(unfinished(settings, store))
            return self._close()

    def _close(self) -> bool:
        self._note_nodes()
        self._note_sessions()
        return close_record(self._settings.out, self._record)

    # --- the loop -----------------------------------------------------------------------------

    async def _play(self) -> None:
        if not self._scheduler.left:
            self._display.say("all episodes are on disk")
            return
        if isinstance(self._display, ClusterDisplay):
            self._display.watch(self.status)
        self._interrupt.playing = lambda: sum(len(n.given) for n in self._nodes.values())
        self._interrupt.wake = self._changed.set
        try:
            async with asyncio.TaskGroup() as group:
                looking = group.create_task(self._look_for_nodes(group))
                try:
                    await self._until_done()
                finally:
                    looking.cancel()
                    await self._end_nodes()
        except BaseExceptionGroup as failed:
            raise first_cause(failed) from None
        finally:
            self._interrupt.playing = lambda: 0
            self._display.stop()

    async def _until_done(self) -> None:
        saved = stuck = time.monotonic()
        while self._scheduler.left:
            self._changed.clear()
            moment = time.monotonic()
            for model, supply in self._supplies.items():
                self._scheduler.waiting(model, supply.waiting)
            await self._place(moment)
            self._progress.in_flight = sum(node.in_flight for node in self._nodes.values())
            out = any(node.given for node in self._nodes.values())
            if self._interrupt.asked and not out:
                return
            if not self._stuck():
                stuck = moment
            elif moment - stuck > WAIT_S:
                raise EngineUnavailable(
                    f"no node can play what is left: {self._reasons()}",
                    "finished episodes are kept; run the same command to resume",
                )
            if moment - saved > SAVE_S:
                saved = moment
                self._note_nodes()
                self._save()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._changed.wait()
            await asyncio.sleep(0.05)  # several events are one look

    async def _place(self, moment: float) -> None:
        for one in self._scheduler.place(moment):
            if isinstance(one, Play):
                await self._give(one)
            elif self._interrupt.asked:
                self._forget(one)
            elif isinstance(one, StartThere):
                await self._send(self._nodes[one.node], wire.Serve(one.model))
            elif isinstance(one, Fetch):
                await self._send(self._nodes[one.node], wire.Prefetch(one.model))

    def _forget(self, one: StartThere | Fetch) -> None:
        if isinstance(one, StartThere):
            self._scheduler.cannot(one.node, one.model)

    async def _give(self, play: Play) -> None:
        node, supply = self._nodes[play.node], self._supplies[play.model]
        given = supply.give(node.name, play.trials, self._session, fresh=not self._interrupt.asked)
        if len(given) < play.trials:
            self._scheduler.give_back(node.name, play.trials - len(given))
            self._scheduler.waiting(play.model, supply.waiting)
        if not given:
            return
        node.blocks += 1
        node.given.update((one.task.episode_id, one) for one in given)
        await self._send(node, wire.Block([trial_of(one) for one in given]))

    async def _send(self, node: Node, command: wire.Command) -> None:
        with contextlib.suppress(LinkLost):  # its reader finds out
            await node.link.send(wire.line_of(command))

    def _stuck(self) -> bool:
        """Nobody plays or starts anything."""
        phases = [
            self._scheduler.phase(n.name)[0] for n in self._nodes.values() if n.ready and not n.gone
        ]
        busy = any(node.given for node in self._nodes.values()) or "starting" in phases
        return not busy

    def _reasons(self) -> str:
        said = [
            f"{n.name} ({n.link.place}): {n.why_not}" for n in self._nodes.values() if n.why_not
        ]
        return "; ".join(said) or "there is no node"

    # --- nodes --------------------------------------------------------------------------------

    async def _look_for_nodes(self, group: asyncio.TaskGroup) -> None:
        while True:
            for link in await self._source.new():
                node = Node(f"n{len(self._earlier) + len(self._nodes) + 1}", link, time.monotonic())
                self._nodes[node.name] = node
                group.create_task(self._follow(node))
            await asyncio.sleep(TICK_S)

    async def _follow(self, node: Node) -> None:
        """All that a node says, until it is gone."""
        try:
            await node.link.send(wire.line_of(wire.SetUp(self._plain_settings(), self._session)))
            while not node.gone:
                ended: int = 0
                for line in await node.link.receive():
                    if node.gone:
                        break
                    if line[:1] == wire.EPISODE:
                        self._take(node, line[1:])
                        ended += 1
                    else:
                        await self._hear(node, wire.event_of(line))
                await self._report(node, ended)
        except LinkLost as lost:
            self._lose(node, str(lost))
        except ValueError as wrong:
            self._lose(node, f"what it says is not what it was asked for: {wrong}")
        finally:
            await node.link.close()

    def _plain_settings(self) -> Settings:
        options = replace(self._settings.options, api_key=None)
        return replace(self._settings, options=options)

    async def _report(self, node: Node, ended: int) -> None:
        if node.ready is None or node.ready.problem is not None or node.gone:
            return
        more = self._scheduler.report(node.name, ended, node.target, time.monotonic())
        if more is not None:
            await self._give(more)
        if ended and not node.given:
            self._changed.set()

    def _lose(self, node: Node, why: str) -> None:
        if node.gone:
            return
        node.gone, node.why_not, node.in_flight = True, why, 0
        node.lost += len(node.given)
        self._lost += len(node.given)
        self._progress.rerun += len(node.given)
        self._take_back(node)
        if node.ready is not None and node.ready.problem is None:
            self._scheduler.lose(node.name)
        self._display.say(f"{node.name} ({node.link.place}) is lost: {why}")
        self._changed.set()

    def _take_back(self, node: Node) -> None:
        for given in node.given.values():
            self._supplies[given.task.model].take_back(given)
        node.given.clear()

    async def _end_nodes(self) -> None:
        for node in self._nodes.values():
            node.gone, node.in_flight = True, 0
        await asyncio.gather(
            *(node.link.close() for node in self._nodes.values()), return_exceptions=True
        )
        self._source.rest()

    # --- what a node says ---------------------------------------------------------------------

    async def _hear(self, node: Node, event: wire.Event) -> None:
        if isinstance(event, wire.Ready):
            self._welcome(node, event)
        elif isinstance(event, wire.Say):
            self._display.say(f"{node.name}: {event.line}")
        elif isinstance(event, wire.Ask):
            number = 1000 * int(node.name[1:]) + event.server
            start = self._starts.begin(number, event.model)
            self._record.server_starts[start.name]["node"] = node.name
            self._save()
            node.starts.add(start.name)
            await self._send(node, wire.Granted(start.name, start.seed))
        elif isinstance(event, wire.Up):
            self._up(node, event)
        elif isinstance(event, wire.Again):
            for episode_id in event.episode_ids:
                if (given := node.given.get(episode_id)) is not None:
                    self._supplies[given.task.model].again(given, self._session)
                    self._progress.rerun += 1
        elif isinstance(event, wire.Pulse):
            node.target, node.in_flight = event.target, event.in_flight
        elif isinstance(event, wire.Failed):
            self._cannot(node, event.model, event.why)

    def _welcome(self, node: Node, ready: wire.Ready) -> None:
        node.ready = ready
        problem = ready.problem
        if problem is None and ready.version != __version__:
            problem = f"it has version {ready.version} of local-shutdown, this is {__version__}"
        if problem is None and len(ready.cannot) == len(self._supplies):
            problem = "; ".join(sorted(set(ready.cannot.values())))
        if problem is not None:
            node.why_not = problem
            self._display.say(f"{node.name} ({ready.host}) is left out: {problem}")
            node.ready = None
            node.gone = True
            raise LinkLost(problem)
        for model, why in ready.cannot.items():
            self._display.say(f"{node.name} ({ready.host}) cannot serve {model}: {why}")
        able = set(self._supplies) - set(ready.cannot)
        self._record.sandbox = SandboxFacts(**ready.sandbox)
        self._scheduler.join(node.name, able, time.monotonic(), speed_of(ready.cards))
        gpus = f"{ready.cards} x {ready.gpu}" if ready.cards else "CPU"
        self._display.say(f"{node.name} ({ready.host}; {node.link.place}; {gpus}) is ready")
        self._changed.set()

    def _up(self, node: Node, event: wire.Up) -> None:
        known = self._facts_of.setdefault(event.model, event.facts)
        why = differs(known, event.facts)
        if why is not None:
            self._cannot(node, event.model, f"its episodes cannot be counted with others: {why}")
            return
        facts = self._record.models[event.model]
        if known is event.facts:
            facts.add(event.facts)
        if "plan" in event.facts:
            facts.add(
                {"plans": {**facts.as_json().get("plans", {}), node.name: event.facts["plan"]}}
            )
        node.target = event.target
        self._save()
        self._scheduler.up(node.name, time.monotonic(), event.target)
        self._changed.set()

    def _cannot(self, node: Node, model: str, why: str) -> None:
        node.why_not = why
        node.lost += len(node.given)
        self._lost += len(node.given)
        self._progress.rerun += len(node.given)
        self._take_back(node)
        self._scheduler.cannot(node.name, model)
        self._display.say(f"{node.name}: {model} is not played there (any more): {why}")
        self._changed.set()

    def _take(self, node: Node, line: bytes) -> None:
        """An episode that is said to have been played. Raises ValueError where it is not the one
        that was asked for."""
        received = Received(line)
        record = received.record
        episode_id, model = record["episode_id"], record["model"]
        given = node.given.get(episode_id)
        if given is None:
            raise ValueError(f"{episode_id!r} was not asked of it, or came before")
        given.check(record, self._session, node.starts)
        self._store.add_received(received)
        del node.given[episode_id]
        node.episodes += 1
        node.models[model] = node.models.get(model, 0) + 1
        self._count(record)
        if isinstance(self._display, ClusterDisplay):
            self._display.taken()
            if not given.level.early.stops:
                return  # its outcome is derived with all others, once the run is over
        episode = received.episode()
        result = outcome(episode)
        given.level.early.ended(episode, result)
        if not isinstance(self._display, ClusterDisplay):
            self._display.ended(episode, result)

    def _count(self, record: Mapping[str, Any]) -> None:
        progress, failed = self._progress, record["stop_reason"] == "error"
        usage = record["usage"]
        progress.finished += 1
        progress.errors += failed
        progress.completion_tokens += usage.get("completion_tokens") or 0
        progress.parser_loss += usage.get("parser_loss") or 0
        seen = self._by_model.setdefault(record["model"], {"episodes": 0, "errors": 0})
        seen["episodes"] += 1
        seen["errors"] += failed

    # --- what is written and shown ------------------------------------------------------------

    def _save(self) -> None:
        write_run(self._settings.out, self._record)

    def _note_nodes(self) -> None:
        """run.json's `nodes`: those of this call behind those of earlier ones."""
        seed = self._record.run_seed or 0
        entries = [node.entry(seed, self._session) for node in self._nodes.values()]
        self._record.nodes = [*self._earlier, *entries]

    def _note_sessions(self) -> None:
        wall_s = time.monotonic() - self._began
        for model, seen in self._by_model.items():
            count = sum(1 for node in self._nodes.values() if model in node.models)
            entry = session_entry(self._session, wall_s, self._interrupt.asked, count, seen)
            facts = self._record.models[model]
            facts.sessions = [*facts.sessions, entry]

    def status(self) -> Status:
        """How it stands."""
        nodes = [node.status(self._scheduler) for node in self._nodes.values()]
        return Status(self._progress, self._lost, nodes)


async def run_on(
    settings: Settings, nodes: Nodes, display: Display, interrupt: Interrupt | None = None
) -> bool:
    """`run.run` on nodes; see `Driver.run`.

    Raises:
        CannotRunError: an endpoint is no node's to serve.
    """
    if settings.engine == "endpoint":
        raise CannotRunError(
            "an endpoint is not served by nodes: --ray and --base-url cannot be combined",
            "one machine plays 40 episodes a second against an endpoint; leave --ray out",
        )
    return await Driver(settings, nodes, display, interrupt or Interrupt()).run()
