"""Flags of vLLM's server: the user's --engine-arg values, and how they win over ours."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence

from local_shutdown.engines.spec import ModelSpec
from local_shutdown.errors import UsageError

ALIASES = {
    "-tp": "--tensor-parallel-size",
    "-pp": "--pipeline-parallel-size",
    "-dp": "--data-parallel-size",
    "-q": "--quantization",
    "-ep": "--enable-expert-parallel",
}
OURS = ("--model", "--host", "--port", "--uds", "--served-model-name", "--api-key", "--config")


def split_engine_args(engine_args: Sequence[str]) -> list[str]:
    """Words of the user's --engine-arg values: each may hold a flag, a value, or both.

    Raises:
        UsageError: unbalanced quotes, or a flag that the run itself sets.
    """
    words: list[str] = []
    for arg in engine_args:
        try:
            # A value such as '{"a": 1}' is one word; only what starts with a dash is split.
            words += shlex.split(arg) if arg.startswith("-") else [arg]
        except ValueError as wrong:
            raise UsageError(f"--engine-arg {arg!r}: {wrong}", "Check the quotes.") from None
    for name in options(words):
        if name == "--seed":
            raise UsageError(
                "--engine-arg --seed: each start of each server gets a seed of its own, so that "
                "trials are different draws",
                "Give the run's own --seed instead: those of the servers follow from it.",
            )
        if name in OURS:
            raise UsageError(
                f"--engine-arg {name}: the run sets this itself",
                "Use --engine endpoint --base-url for a server of your own.",
            )
    return words


def options(words: Sequence[str]) -> dict[str, str]:
    """Flag -> value (empty for a switch), names in their long dashed form; the last one wins."""
    found: dict[str, str] = {}
    for position, word in enumerate(words):
        if not word.startswith("-") or word[1:2].isdigit():
            continue
        name, _, value = word.partition("=")
        name = ALIASES.get(name, name.replace("_", "-") if name.startswith("--") else name)
        if "=" not in word and position + 1 < len(words):
            following = words[position + 1]
            value = following if not following.startswith("-") else ""
        found[name] = value
    return found


def number(given: Mapping[str, str], name: str) -> int | None:
    """A flag's value as a positive whole number; None when the flag is not given.

    Raises:
        UsageError: another value.
    """
    if name not in given:
        return None
    try:
        value = int(given[name])
    except ValueError:
        value = 0
    if value < 1:
        raise UsageError(
            f"--engine-arg {name} {given[name]}: not a positive whole number",
            f"Give for example --engine-arg '{name} 2'.",
        )
    return value


def server_flags(spec: ModelSpec, planned: Sequence[str], user: Sequence[str]) -> tuple[str, ...]:
    """Flags of the server; a flag the user gives replaces ours of the same name."""
    groups: list[list[str]] = []
    ours = ["--disable-uvicorn-access-log", *planned]
    if spec.tool_parser is not None:
        ours += ["--enable-auto-tool-choice", "--tool-call-parser", spec.tool_parser]
    if spec.reasoning_parser is not None:
        ours += ["--reasoning-parser", spec.reasoning_parser]
    if spec.chat_template is not None:
        ours += ["--chat-template", os.fspath(spec.chat_template)]
    if spec.remote_code:
        ours.append("--trust-remote-code")
    for word in (*ours, *spec.server_args):
        if word.startswith("--"):
            groups.append([word])
        else:
            groups[-1].append(word)
    replaced = set(options(user))
    kept = [word for group in groups if group[0] not in replaced for word in group]
    return (*kept, *user)
