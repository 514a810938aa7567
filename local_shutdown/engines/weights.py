"""Where a model's weights are, and fetching them when the machine is online.

Nothing here waits for a network that is not there: a model that is not on the machine is said to be
missing within seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from local_shutdown.engines import registry
from local_shutdown.engines.snapshots import cached_folder, describe_from_hub, weights_cached
from local_shutdown.engines.spec import ModelSpec
from local_shutdown.errors import EngineUnavailable

CONNECT_TIMEOUT_S = 4.0


def locate(spec: ModelSpec) -> Path | None:
    """The folder on this machine that holds all of the weights, or None."""
    if not weights_cached(spec.hf_id, revision=spec.revision):
        return None
    folder = Path(spec.hf_id)
    return folder if folder.is_dir() else cached_folder(spec.hf_id, revision=spec.revision)


def described(spec: ModelSpec) -> ModelSpec:
    """With the shape of its cache, which models.yaml may not give: from config.json alone, here or
    on the hub. Nothing is waited for that is not there."""
    if spec.kv is not None:
        return spec
    found = registry.described(spec)
    if found.kv is None and not Path(spec.hf_id).is_dir() and hub_unreachable() is None:
        found = registry.described(spec, describe_from_hub)
    return found


def ensure(spec: ModelSpec, say: Callable[[str], None], *, fetch: bool = True) -> Path:
    """The folder with the weights, fetched first when they are not here and the hub can be reached.

    Args:
        fetch: False only finds out that they could be fetched, and names where they would be.

    Raises:
        EngineUnavailable: they are neither here nor to be had, with what to do.
    """
    folder = locate(spec)
    if folder is not None:
        return folder
    if Path(spec.hf_id).is_dir():
        raise EngineUnavailable(
            f"--model {spec.hf_id}: the folder holds no weights, or not all of them",
            "it needs *.safetensors with every shard that its index names",
        )
    why = hub_unreachable()
    named, asked = spec.hf_id, ""
    if spec.revision is not None:
        named, asked = f"{named} (revision {spec.revision})", f" --revision {spec.revision}"
    if why:
        raise EngineUnavailable(
            f"the weights of {named} are not on this machine, and cannot be fetched: {why}",
            f"where there is a network: hf download {spec.hf_id}{asked}; then copy the cache "
            "folder here, or give --model the path of a folder with the weights",
        )
    if not fetch:
        return Path(spec.hf_id)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RevisionNotFoundError

    say(f"fetching {named}" + (f" ({spec.weights_gib:.1f} GiB)" if spec.weights_gib else ""))
    leave_out = ["original/*", "*.pth"]
    try:
        return Path(
            snapshot_download(spec.hf_id, revision=spec.revision, ignore_patterns=leave_out)
        )
    except RevisionNotFoundError:
        raise EngineUnavailable(
            f"{spec.hf_id} has no revision {spec.revision}",
            f"its page lists branches and tags: https://huggingface.co/{spec.hf_id}/tree/main",
        ) from None
    except GatedRepoError:
        raise EngineUnavailable(
            f"{spec.hf_id} is gated: its licence has to be accepted on its page",
            "accept it there, then `hf auth login`, then run this again",
        ) from None
    except (HfHubHTTPError, OSError) as failed:
        raise EngineUnavailable(f"{named} could not be fetched: {failed}") from None


async def fetched(spec: ModelSpec, say: Callable[[str], None], *, fetch: bool = True) -> Path:
    """`ensure`, in a thread of its own that nobody waits for when the run is ended: a download
    cannot be called off, and goes on from where it was the next time."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[Path] = loop.create_future()

    def settle(result: Path | Exception) -> None:
        if found.done():
            return
        if isinstance(result, Path):
            found.set_result(result)
        else:
            found.set_exception(result)

    def work() -> None:
        result: Path | Exception
        try:
            result = ensure(spec, say, fetch=fetch)
        except Exception as failed:
            result = failed
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result)

    threading.Thread(target=work, name="weights", daemon=True).start()
    return await found


def hub_unreachable() -> str | None:
    """Why the hub cannot be reached, within seconds; None when it can."""
    try:
        from huggingface_hub import constants
    except ImportError:
        return "huggingface_hub is not installed"
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return "HF_HUB_OFFLINE is set"
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return None  # the library knows the way, we do not
    url = urlsplit(constants.ENDPOINT)
    host = url.hostname or ""
    why: list[str | None] = []

    def knock() -> None:
        try:
            port = url.port or (443 if url.scheme == "https" else 80)
            socket.create_connection((host, port), CONNECT_TIMEOUT_S).close()
            why.append(None)
        except OSError as failed:
            why.append(f"{host}: {failed.strerror or failed}")

    # In a thread, because looking up a name has no time limit of its own.
    asking = threading.Thread(target=knock, name="hub", daemon=True)
    asking.start()
    asking.join(CONNECT_TIMEOUT_S + 1)
    return why[0] if why else f"{host}: no answer within {CONNECT_TIMEOUT_S:g} s"


def generation_config(folder: Path | None) -> dict[str, object]:
    """The sampling defaults that the checkpoint brings and the engine silently applies."""
    if folder is None:
        return {}
    try:
        raw = json.loads((folder / "generation_config.json").read_text())
    except (OSError, ValueError):
        return {}
    names = ("do_sample", "temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    return {name: raw[name] for name in names if name in raw}


_SAMPLES, _SAMPLE_BYTES = 64, 1 << 16


def digest(folder: Path | None) -> str | None:
    """Tells one checkpoint from another in well under a second, whatever its size: SHA-256 over
    config.json and, of each file of weights, its name, its size and 64 evenly spaced blocks of
    64 KiB. Weights that were trained on differ in every block, so they differ in one of these; a
    file in which a few bytes were changed on purpose may not.

    Returns:
        `sampled-sha256:` and 64 hex digits; None without a folder or weights in it.
    """
    if folder is None:
        return None
    try:
        files = sorted(
            path for end in ("safetensors", "bin", "gguf") for path in folder.glob(f"*.{end}")
        )
        if not files:
            return None
        found = hashlib.sha256()
        config = folder / "config.json"
        found.update(config.read_bytes() if config.is_file() else b"")
        for path in files:
            size = path.stat().st_size
            found.update(f"\n{path.name} {size}\n".encode())
            with path.open("rb") as file:
                for number in range(_SAMPLES):
                    file.seek(number * max(size - _SAMPLE_BYTES, 0) // (_SAMPLES - 1))
                    found.update(file.read(_SAMPLE_BYTES))
    except OSError:
        return None
    return f"sampled-sha256:{found.hexdigest()}"


def revision(folder: Path | None) -> str | None:
    """The commit of a snapshot in the Hugging Face cache, else None."""
    if folder is not None and folder.parent.name == "snapshots":
        return folder.name
    return None
