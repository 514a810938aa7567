"""Engines: vllm, transformers, or somebody's endpoint, behind one client."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from local_shutdown.engines.backends import backend, names
from local_shutdown.engines.backends import choose as choose_kind
from local_shutdown.engines.endpoint import endpoint_url
from local_shutdown.engines.engine import (
    DEFAULT_IN_FLIGHT,
    MOST_IN_FLIGHT,
    Engine,
    Kind,
    Options,
    Seat,
    version,
)
from local_shutdown.engines.key import endpoint_key
from local_shutdown.engines.spec import ModelSpec
from local_shutdown.engines.starts import Starts

__all__ = [
    "DEFAULT_IN_FLIGHT",
    "MOST_IN_FLIGHT",
    "Engine",
    "Kind",
    "Options",
    "Seat",
    "check",
    "choose_kind",
    "endpoint_key",
    "endpoint_url",
    "names",
    "open_engine",
    "version",
]


def open_engine(
    kind: Kind,
    spec: ModelSpec,
    options: Options,
    directory: Path,
    say: Callable[[str], None],
    starts: Starts | None = None,
) -> AbstractAsyncContextManager[Engine]:
    """Serve a model, and stop serving it at the end, whatever happens in between; see
    `backend.Backend.open`."""
    return backend(kind).open(spec, options, directory, say, starts)


async def check(
    kind: Kind,
    spec: ModelSpec,
    options: Options,
    say: Callable[[str], None],
    *,
    fetch: bool = True,
    planned: Callable[[str], None] = lambda line: None,
) -> None:
    """What `open_engine` would refuse, before anything is started or written; see
    `backend.Backend.check`."""
    await backend(kind).check(spec, options, say, fetch=fetch, planned=planned)
