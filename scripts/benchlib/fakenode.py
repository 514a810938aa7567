"""A node that plays nothing: it says at once that it has played what it was asked for, with the
words of one episode that was. For the driver's speed, and for what it must not believe."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from local_shutdown import __version__
from local_shutdown.cluster import wire
from local_shutdown.cluster.links import Link, LinkLost
from local_shutdown.episode import SCHEMA_VERSION

Change = Callable[[dict[str, Any]], Any]


class FakeNode:
    """See above.

    Args:
        episode: a played one, as stored; id, condition and so on are exchanged.
        target: episodes in flight.
        ready: fields of what it says of itself.
        facts: of the engine.
        change: changes each record before it is sent; what it returns is sent beside it, if it is
            bytes.
        lost_after: so many episodes, then it is gone.
        keep: what it is told stays in `told` and `raw`.
    """

    def __init__(
        self,
        episode: dict[str, Any],
        target: int = 64,
        ready: dict[str, Any] | None = None,
        facts: dict[str, Any] | None = None,
        change: Change | None = None,
        lost_after: int | None = None,
        keep: bool = True,
    ) -> None:
        self.place = "fake"
        self.told: list[wire.Command] = []
        self.raw: list[bytes] = []
        self.closed = False
        self._episode, self._target = episode, target
        self._ready, self._facts = ready or {}, facts or {}
        self._change = change
        self._left = lost_after
        self._keep = keep
        self._rest = b""
        # What it has been asked to play is played when somebody listens: a node keeps what it has
        # to say on its own machine, and here it would be counted as the driver's.
        self._says: list[bytes | wire.Trial] = []
        self._woken = asyncio.Event()
        self._server = ""
        self._model = ""
        self._gone = False

    async def send(self, line: bytes) -> None:
        command = wire.command_of(line)
        if self._keep:
            self.raw.append(line)
            self.told.append(command)
        if isinstance(command, wire.SetUp):
            self._session = command.session
            self._instructs = {c.id: c.instructs for c in command.settings.conditions}
            ready = wire.Ready(
                version=__version__, host="fake", cards=0, gpu=None, hardware={}, sandbox={}
            )
            self._tell(dataclasses.replace(ready, **self._ready))
        elif isinstance(command, wire.Serve):
            self._model = command.model
            self._tell(wire.Ask(0, command.model))
        elif isinstance(command, wire.Granted):
            self._server = command.name
            self._tell(wire.Up(self._model, {"engine": "fake", **self._facts}, self._target))
        elif isinstance(command, wire.Block):
            self._says.extend(command.trials)
        self._woken.set()

    async def receive(self) -> Sequence[bytes]:
        if not self._says and self._gone:
            raise LinkLost("killed")
        if not self._says:
            self._woken.clear()
            await asyncio.wait([asyncio.ensure_future(self._woken.wait())], timeout=0.5)
        # As a node does: no more than some MiB at a time.
        now, self._says = self._says[:100], self._says[100:]
        said: list[bytes] = []
        for one in now:
            said += [one] if isinstance(one, bytes) else self._play(one)
        if not said and self._gone:
            raise LinkLost("killed")
        return said

    async def close(self) -> None:
        self.closed = True

    def _play(self, trial: wire.Trial) -> list[bytes]:
        if self._left is not None:
            if self._left == 0:
                self._gone = True
                return []
            self._left -= 1
        own = {
            "schema_version": SCHEMA_VERSION,
            "episode_id": trial.episode_id,
            "model": self._model,
            "condition": trial.condition,
            "trial": trial.trial,
        }
        extra = {
            "instructs": self._instructs[trial.condition],
            "session": self._session,
            "server": self._server,
        }
        if self._change is None:
            # A bench must not measure how long it takes to write the same words again and again.
            if not self._rest:
                known = {*own, "extra"}
                rest = {name: value for name, value in self._episode.items() if name not in known}
                self._rest = b"," + orjson.dumps(rest)[1:-1] + b',"extra":'
            parts = (wire.EPISODE, orjson.dumps(own)[:-1], self._rest, orjson.dumps(extra), b"}")
            return [b"".join(parts)]
        record = {**self._episode, **own, "extra": extra}
        more = self._change(record)
        return [wire.EPISODE + orjson.dumps(record), *([more] if isinstance(more, bytes) else [])]

    def _tell(self, event: wire.Event) -> None:
        self._says.append(wire.event_line(event)[:-1])


class FakeNodes:
    """These nodes, at once; `later` joins when the first is gone."""

    def __init__(self, *nodes: FakeNode, later: Sequence[FakeNode] = ()) -> None:
        self._coming: list[Link] = list(nodes)
        self._first, self._later = nodes[0], list(later)

    async def new(self) -> Sequence[Link]:
        coming, self._coming = self._coming, []
        if self._first.closed:
            coming = [*coming, *self._later]
            self._later = []
        return coming

    def rest(self) -> None:
        pass
