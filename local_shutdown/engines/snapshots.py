"""What lies in the Hugging Face cache here, and the small files that describe a model.

The cache is looked into without huggingface_hub: it comes with an engine and need not be installed,
its import takes 0.4 s of processor time, and it has no look-up of the newest snapshot.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

# Small files that say what a model is; fetched, where allowed, before its weights are.
DESCRIBING_FILES = (
    "config.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
)


def cached_folder(
    hf_id: str, environ: Mapping[str, str] = os.environ, revision: str | None = None
) -> Path | None:
    """The newest snapshot of a model in the Hugging Face cache.

    Args:
        hf_id: org/name.
        environ: where HF_HUB_CACHE, HF_HOME and XDG_CACHE_HOME are looked up.
        revision: the snapshot of this branch, tag or commit, and no other.

    Returns:
        A folder that holds config.json, or None.
    """
    home = environ.get("HF_HOME")
    if home is None:
        home = str(Path(environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface")
    try:
        hub = Path(environ.get("HF_HUB_CACHE", str(Path(home) / "hub"))).expanduser()
    except RuntimeError:
        return None  # ~ of a user who is not there
    model = hub / f"models--{hf_id.replace('/', '--')}"
    if revision is not None:
        ref = model / "refs" / revision
        commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision
        snapshot = model / "snapshots" / commit
        return snapshot if (snapshot / "config.json").is_file() else None
    main = model / "refs" / "main"
    if main.is_file():
        snapshot = model / "snapshots" / main.read_text(encoding="utf-8").strip()
        if (snapshot / "config.json").is_file():
            return snapshot
    found = [p.parent for p in model.glob("snapshots/*/config.json")]
    return max(found, key=lambda p: p.stat().st_mtime, default=None)


def weights_cached(
    hf_id: str, environ: Mapping[str, str] = os.environ, revision: str | None = None
) -> bool:
    """Whether the weights lie in the Hugging Face cache, all shards of them.

    Args:
        hf_id: org/name, or a local folder.
        environ: as for `cached_folder`.
        revision: likewise.
    """
    local = Path(hf_id)
    folder = local if local.is_dir() else cached_folder(hf_id, environ, revision)
    if folder is None:
        return False
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        shards = set(index["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return any(True for end in ("safetensors", "bin", "gguf") for _ in folder.glob(f"*.{end}"))
    return all((folder / shard).is_file() for shard in shards)


def describe_from_hub(hf_id: str) -> Path | None:
    """Fetch the small files that say what a model is; for the `describe` of `resolve`.

    Returns:
        The snapshot's folder, or None: no huggingface_hub here, no network, no such model, or no
        leave to read it. The engine's own download will say which.
    """
    try:
        hub = importlib.import_module("huggingface_hub")
        errors = importlib.import_module("huggingface_hub.errors")
    except ImportError:
        return None
    try:
        return Path(hub.snapshot_download(hf_id, allow_patterns=list(DESCRIBING_FILES)))
    except (OSError, ValueError, errors.HfHubHTTPError):
        return None
