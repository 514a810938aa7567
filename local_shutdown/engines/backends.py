"""The list of engines."""

from __future__ import annotations

from local_shutdown.engines.backend import Backend
from local_shutdown.engines.endpoint import Endpoint
from local_shutdown.engines.transformers import Transformers
from local_shutdown.engines.vllm import Vllm
from local_shutdown.errors import CannotRunError

# In the order in which `--engine auto` takes the first that can run.
BACKENDS: tuple[Backend, ...] = (Endpoint(), Vllm(), Transformers())


def names() -> list[str]:
    """What `--engine` takes besides `auto`."""
    return [backend.name for backend in BACKENDS]


def backend(name: str) -> Backend:
    """An engine of the list.

    Raises:
        KeyError: no such engine.
    """
    return {one.name: one for one in BACKENDS}[name]


def choose(wanted: str, base_url: str | None) -> str:
    """What `--engine` and `--base-url` come to on this machine.

    Raises:
        CannotRunError: nothing that could run is installed.
    """
    if wanted != "auto":
        why_not = backend(wanted).unusable(base_url)
        if why_not:
            raise CannotRunError(f"--engine {wanted}: {why_not}", backend(wanted).remedy)
        return wanted
    for one in BACKENDS:
        if one.unusable(base_url) is None:
            return one.name
    raise CannotRunError(
        "no engine is installed: neither vLLM nor transformers with torch",
        "run scripts/setup, or pip install 'local-shutdown[transformers]', or give --base-url",
    )
