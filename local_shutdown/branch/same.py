"""Is what plays the continuations what played the parent? By what run.json says of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What decides what a model says. Of these, what is on record on both sides must be the same.
_DECIDING = (
    *("engine", "revision", "weights_digest", "served_name", "tool_parser", "reasoning_parser"),
    *("decoding_constrained", "max_model_len", "effective_sampling"),
)
# A newer version of the engine draws from the same distribution, or should: said, not refused.
_TOLD = ("engine_version", "torch_version", "base_url")


def differences(recorded: Mapping[str, Any], now: Mapping[str, Any], mode: str) -> list[str]:
    """What differs, each as `field: THEN then, NOW now`.

    Args:
        recorded, now: what run.json says of the model there and here.
        mode: reasoning mode whose requests are compared.
    """
    names = list(_DECIDING)
    if not (recorded.get("weights_digest") and now.get("weights_digest")):
        names.insert(0, "model")  # a folder may have been moved: its weights are the same
    found = _differing(names, recorded, now)
    then = _of(recorded.get("requests"), mode)
    found += _differing(sorted({*then, *_of(now.get("requests"), mode)}), then or None,
                        _of(now.get("requests"), mode))  # fmt: skip
    return found


def remarks(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs and is no reason to refuse, in the same form."""
    return _differing(_TOLD, recorded, now)


def _differing(names: Any, recorded: Mapping[str, Any] | None, now: Mapping[str, Any]) -> list[str]:
    if recorded is None:
        return []
    found = []
    for name in names:
        if name not in recorded and name not in now:
            continue
        then, today = recorded.get(name), now.get(name)
        if then != today:
            found.append(f"{name}: {_word(then)} then, {_word(today)} now")
    return found


def _of(requests: Any, mode: str) -> Mapping[str, Any]:
    found = requests.get(mode) if isinstance(requests, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _word(value: Any) -> str:
    if value is None or value == {}:
        return "not set"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {one}" for key, one in value.items())
    return str(value)
