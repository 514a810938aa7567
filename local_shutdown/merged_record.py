"""run.json of what shards were merged to, and whether shards are of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from local_shutdown.errors import UsageError
from local_shutdown.record import in_words, now
from local_shutdown.runs import without_option
from local_shutdown.shard import Shard

# What a model was served with that changes what it does: the same wherever one run plays it.
# Versions of engine and driver may differ from node to node, as between two calls of a run.
_SAME_MODEL = (
    "model",
    "revision",
    "weights_digest",
    "generation_config",
    "effective_sampling",
    "requests",
    "tool_parser",
    "reasoning_parser",
    "decoding_constrained",
)
# A local folder may have another name on another node: the digest says whether it is the same.
_NAMES = frozenset({"model", "revision"})

_Place = tuple[Path, Mapping[str, Any]]


def check_same_run(one: _Place, other: _Place) -> None:
    """Refuse shards that one run would not have.

    Args:
        one, other: directory and run.json.

    Raises:
        UsageError: naming each field that differs, with both values.
    """
    places = f"in {one[0]}", f"in {other[0]}"
    said = [in_words(*found, places) for found in _differences(one[1], other[1])]
    if said:
        raise UsageError(
            f"{other[0]} is not a shard of the same run as {one[0]}: {'; '.join(said)}",
            "merge the shards of one run only",
        )


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    ours, theirs = dict(one["settings"]), dict(other["settings"])
    for settings in (ours, theirs):  # shard 1 of 4 and 2 of 4 differ in nothing
        settings["shards"] = Shard.parse(settings.pop("shard")).of
    found = [
        (name, ours.get(name), theirs.get(name))
        for name in dict.fromkeys([*ours, *theirs])
        if ours.get(name) != theirs.get(name)
    ]
    if one.get("limits") != other.get("limits"):
        found.append(("limits", one.get("limits"), other.get("limits")))
    for model, facts in one.get("models", {}).items():
        others = other.get("models", {}).get(model, {})
        same_weights = "weights_digest" in facts and facts["weights_digest"] == others.get(
            "weights_digest"
        )
        for name in _SAME_MODEL:
            # Not there: this shard has not come to this model yet.
            if name not in facts or name not in others or (same_weights and name in _NAMES):
                continue
            if facts[name] != others[name]:
                found.append((f"{name} of {model}", facts[name], others[name]))
    return found


def merged_record(
    parts: Sequence[tuple[Path, Mapping[str, Any], Shard, int]], missing: Sequence[Shard]
) -> dict[str, Any]:
    """run.json of the whole.

    Args:
        parts: directory, run.json, shard and number of episodes of each, in the order of shards.
        missing: shards that are not there.
    """
    runs = [run for _, run, _, _ in parts]
    first = runs[0]
    command = first.get("command")
    ended = [run["ended_at"] for run in runs if run.get("ended_at")]
    started = [run["started_at"] for run in runs if run.get("started_at")]
    return {
        **{name: value for name, value in first.items() if name not in ("interrupted", "nodes")},
        "command": without_option(map(str, command), "--shard") if command else command,
        "settings": {k: v for k, v in first["settings"].items() if k != "shard"},
        "models": {name: _model(name, runs) for name in first.get("models", {})},
        # A later session of the whole has a number that no shard's had.
        "session": max(int(run.get("session", 1)) for run in runs),
        "server_starts": {k: v for run in runs for k, v in run.get("server_starts", {}).items()},
        "looks": _looks(runs),
        "started_at": min(started, default=None),
        "ended_at": max(ended, default=None),
        "merged": {
            "at": now(),
            "shards": parts[0][2].of,
            "missing": [str(shard) for shard in missing],
            "parts": [
                {
                    "shard": str(shard),
                    "directory": directory.resolve().name,
                    "episodes": episodes,
                    **{
                        name: run.get(name)
                        for name in (
                            *("run_seed", "session", "package_version", "hardware"),
                            *("started_at", "ended_at"),
                        )
                    },
                }
                for directory, run, shard, episodes in parts
            ],
        },
        "nodes": [_node(run, shard, episodes) for _, run, shard, episodes in parts],
    }


def _model(name: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the last shard that played it, with the sessions and servers of all."""
    every = [run.get("models", {}).get(name, {}) for run in runs]
    merged = dict(every[0])
    for facts in every[1:]:
        if facts.get("sessions"):
            merged |= facts
    for listed in ("sessions", "servers", "warnings"):
        entries = [entry for facts in every for entry in facts.get(listed) or ()]
        if listed == "warnings":
            entries = list(dict.fromkeys(entries))
        if entries:
            merged[listed] = entries
    return merged


def _looks(runs: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The looks before an extension: each once, though every shard was extended by itself."""
    found: dict[int, Any] = {}
    for run in runs:
        for look in run.get("looks", ()):
            found.setdefault(look["trials"], look)
    return [found[trials] for trials in sorted(found)]


def _node(run: Mapping[str, Any], shard: Shard, episodes: int) -> dict[str, Any]:
    """What a shard's machine has played, as a run over several nodes says it of each."""
    sessions = [
        session
        for facts in run.get("models", {}).values()
        for session in facts.get("sessions") or ()
        if isinstance(session, Mapping)
    ]
    hosts = list(dict.fromkeys(s["host"] for s in sessions if s.get("host")))
    gpus = (run.get("hardware") or {}).get("gpus") or []
    return {
        "node": f"shard {shard}",
        "host": ", ".join(map(str, hosts)) or None,
        "cards": len(gpus),
        "gpu": ", ".join(dict.fromkeys(map(str, gpus))) or None,
        "episodes": episodes,
        "blocks": len(sessions),
        "lost": sum(int(session.get("rerun") or 0) for session in sessions),
    }
