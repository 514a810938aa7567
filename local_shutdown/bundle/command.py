"""Whether the settings of run.json are those of the command that is on record beside them.

Both are written by `run`, and a change of the one is a contradiction to the other. Words of the
command that say nothing of the settings are passed over, and so is a command that takes them from
elsewhere (a study, another program).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from local_shutdown import grid
from local_shutdown.errors import UsageError

# Option -> (setting, default); without one in the command the setting has to be the default.
_NUMBERS: Mapping[str, tuple[str, float | None]] = {
    "--trials": ("trials", 100),
    "--max-messages": ("max_messages", 50),
    "--max-tokens": ("max_tokens", None),
    "--thinking-budget": ("thinking_budget", None),
    "--until-halfwidth": ("until_halfwidth", None),
    "--until-upper": ("until_upper", None),
    "--until-decided": ("until_decided", None),
}
_SAMPLING = {
    "--temperature": "temperature",
    "--top-p": "top_p",
    "--top-k": "top_k",
    "--min-p": "min_p",
}
_FLAGS = ("--stop-at-bypass", "--interview", "--extend", "--retry-errors", "--probe", "--no-probe")


def options(words: Sequence[str]) -> dict[str, list[str]] | None:
    """Options of a `run` command with their values; None where it is no such command, or has a
    word that belongs to no option (a study)."""
    if not words or words[0] != "run":
        return None
    found: dict[str, list[str]] = {}
    rest = iter(words[1:])
    for word in rest:
        name, equals, value = word.partition("=")
        if not name.startswith("--"):
            return None
        if name in _FLAGS:
            found[name] = []
            continue
        if not equals:
            following = next(rest, None)
            if following is None:
                return None
            value = following
        found.setdefault(name, []).append(value)
    return found


def wrong(run: Mapping[str, Any]) -> Iterator[str] | None:
    """What contradicts the command, in words; None where there is nothing to hold it against."""
    command, settings = run.get("command"), run.get("settings")
    if not isinstance(command, list) or not isinstance(settings, Mapping):
        return None
    given = options([str(word) for word in command])
    return None if given is None else _differences(given, settings, run)


def _differences(
    given: Mapping[str, list[str]], settings: Mapping[str, Any], run: Mapping[str, Any]
) -> Iterator[str]:
    for option, (name, default) in _NUMBERS.items():
        wanted = _number(given[option][-1]) if option in given else default
        if settings.get(name) != wanted:
            yield f"settings.{name} is {settings.get(name)}, the command says {wanted}"
    sampling = {
        name: _number(given[option][-1]) for option, name in _SAMPLING.items() if option in given
    }
    if settings.get("sampling") != sampling:
        yield f"settings.sampling is {settings.get('sampling')}, the command says {sampling}"
    for option, name in (("--stop-at-bypass", "stop_at_bypass"), ("--interview", "interview")):
        if bool(settings.get(name)) != (option in given):
            yield f"settings.{name} contradicts the command"
    yield from _conditions(given, settings)
    yield from _models(given, settings, run)
    yield from applied(settings, run)


def _conditions(given: Mapping[str, list[str]], settings: Mapping[str, Any]) -> Iterator[str]:
    words = given.get("--conditions", ["A-K"])[-1]
    if "/" in words or ".y" in words:
        return  # a file of the user's, which is not here; nothing of this machine is opened
    try:
        wanted = [c.id for c in grid.choose(words)]
    except UsageError:
        yield f"the command plays conditions that the grid does not have: {words[:80]}"
        return
    there = list(settings.get("conditions") or ())
    if there != wanted:
        yield f"settings.conditions are {', '.join(there)}, the command says {', '.join(wanted)}"


def _models(
    given: Mapping[str, list[str]], settings: Mapping[str, Any], run: Mapping[str, Any]
) -> Iterator[str]:
    names = [str(name) for name in settings.get("models") or ()]
    words = given.get("--model")
    if words is None:
        return
    if len(words) != len(names):
        yield f"settings.models has {len(names)} models, the command {len(words)}"
        return
    for name, word in zip(names, words, strict=True):
        facts = (run.get("models") or {}).get(name) or {}
        known = (name, facts.get("model"), facts.get("display_name"))
        if word.strip().lower() not in [str(one).lower() for one in known]:
            yield f"settings.models has {name}, the command {word}"


def applied(settings: Mapping[str, Any], run: Mapping[str, Any]) -> Iterator[str]:
    """Every request carried the sampling of the settings."""
    for name, facts in (run.get("models") or {}).items():
        effective = facts.get("effective_sampling") if isinstance(facts, Mapping) else None
        if not isinstance(effective, Mapping):
            continue
        for key, value in (settings.get("sampling") or {}).items():
            if effective.get(key) != value:
                yield f"{name} was asked with {key} {effective.get(key)}, settings say {value}"


def _number(text: str) -> float | int | str:
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if value.is_integer() else value
