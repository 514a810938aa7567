"""run.json for strangers: without keys and without paths of the machine that played it.

Kept is all that the numbers depend on. Prompts are stimuli and stay to the letter. A local folder
that is given by an absolute path names its model by that path, in every episode too: there the
folder's own name takes its place.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import orjson

KEY = "[key]"
PATH = "[path]"
HOST = "private-host"
# Forms of keys that are issued: OpenAI, Anthropic, Hugging Face, GitHub, Google, AWS, Slack, JWT.
_KEYS = (
    r"sk-[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|AIza[A-Za-z0-9_-]{30,}|AKIA[A-Z0-9]{12,}|xox[a-z]-[A-Za-z0-9-]{10,}|gsk_[A-Za-z0-9]{20,}"
    r"|eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"
)
_KEY = re.compile(_KEYS)
_KEY_BYTES = re.compile(_KEYS.encode())
_NAMED = re.compile(
    r"(?i)((?:api[-_]?keys?|[-_]token(?!s)|secrets?|passw(?:or)?d|credentials?)\s*[=:]\s*)"
    r"(?!env\b)[^\s,;&]+|(bearer\s+)[A-Za-z0-9._~+/=-]{8,}"
)
# An option whose next word is a key; --api-key-env names a variable, --max-tokens is a number.
_KEY_OPTION = re.compile(r"(?i)--?[\w-]*(?:api[-_]key|[-_]token|secret|password|credentials?)")
_ABSOLUTE = re.compile(
    r"(?<![\w:/.\]<])(?:~[\w.-]*)?/(?:[^\s/\"',:;=()\[\]{}<>]+/)+[^\s\"',:;=()<>]*"
)
_SHORT = re.compile(
    r"(?<![\w:/.\]<])~/[^\s\"',:;=()<>]+|(?<![\w:/.\]<])/(?:home|root|mnt|data|srv)\b\S*"
)
# Passes a word on to the server, of which two in a row may be an option and its value.
_WRAPPER = "--engine-arg="
_PROMPTS = ("system", "user")


@dataclass(frozen=True, slots=True)
class Renamed:
    """Models whose names are paths of the machine, by that name."""

    names: Mapping[str, str]

    def of(self, name: str) -> str:
        return self.names.get(name, name)

    def in_id(self, episode_id: str, model: str) -> str:
        """An id begins with the model's name."""
        new = self.of(model)
        return new + episode_id[len(model) :] if episode_id.startswith(model) else episode_id


def renamed(run: Mapping[str, Any]) -> Renamed:
    """The models of a run that are named by an absolute path, with a name for each."""
    settings = run.get("settings") or {}
    names = [str(name) for name in settings.get("models") or ()] if _played(run) else []
    taken = {name for name in names if not _is_path(name)}
    found: dict[str, str] = {}
    for name in filter(_is_path, names):
        base = PurePosixPath(name.rstrip("/")).name or "model"
        new, number = base, 2
        while new in taken:
            new, number = f"{base}-{number}", number + 1
        taken.add(new)
        found[name] = new
    return Renamed(found)


def _played(run: Mapping[str, Any]) -> bool:
    return run.get("kind") == "run"


def _is_path(name: str) -> bool:
    return name.startswith(("/", "~"))


def redacted(run: Mapping[str, Any], models: Renamed) -> dict[str, Any]:
    """run.json without keys and paths.

    Args:
        models: see `renamed`.
    """
    conditions = run.get("conditions")
    kept = {key: _value(value, models) for key, value in run.items() if key != "conditions"}
    if isinstance(conditions, Mapping):
        kept["conditions"] = {
            name: {
                key: value if key in _PROMPTS else _value(value, models)
                for key, value in said.items()
            }
            if isinstance(said, Mapping)
            else said
            for name, said in conditions.items()
        }
    return {key: kept[key] for key in run if key in kept}


def told(value: Any, field: str = "") -> Iterator[str]:
    """The fields that hold a key or a path, where nothing may be taken out; no value is told."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from told(one, f"{field}.{key}" if field else str(key))
    elif cleaned(value) != value:
        yield field


def cleaned(value: Any) -> Any:
    """A JSON value as it stands in a bundled run.json, but for the names of models."""
    return _value(value, Renamed({}))


def _value(value: Any, models: Renamed) -> Any:
    if isinstance(value, str):
        return text(value, models)
    if isinstance(value, Mapping):
        return {text(str(key), models): _value(one, models) for key, one in value.items()}
    if isinstance(value, list):
        return list(_words(value, models))
    return value


def _words(values: Iterable[Any], models: Renamed) -> Iterator[Any]:
    """A list, which may be a command line: the word after an option for a key is one."""
    secret = False
    for value in values:
        word = value if isinstance(value, str) else ""
        wrapped = word.startswith(_WRAPPER)
        if secret and word == _WRAPPER[:-1]:
            yield value  # what it passes on comes next
            continue
        if secret and (wrapped or not word.startswith("--")):
            yield _WRAPPER + KEY if wrapped else KEY
            secret = False
            continue
        yield _value(value, models)
        secret = _KEY_OPTION.fullmatch(word.removeprefix(_WRAPPER)) is not None


def text(value: str, models: Renamed | None = None) -> str:
    """One string without keys and paths; the last part of a path stays."""
    if models is not None and value in models.names:
        return models.of(value)
    for name, new in models.names.items() if models is not None else ():
        value = value.replace(name, new)
    if re.match(r"https?://\S+\Z", value):
        return _address(value)
    value = _KEY.sub(KEY, value)
    value = _NAMED.sub(lambda found: f"{found[1] or found[2]}{KEY}", value)
    if value.startswith(("/", "~/")) and "\n" not in value and len(value.split("/")) > 2:
        return f"{PATH}/{PurePosixPath(value).name}"  # the whole of it, blanks included
    value = _ABSOLUTE.sub(_last_part, value)
    return _SHORT.sub(_last_part, value)


def _last_part(found: re.Match[str]) -> str:
    return f"{PATH}/{PurePosixPath(found[0]).name}"


def _address(url: str) -> str:
    """An endpoint: its name where that is public or this machine's own, its path always."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return HOST
    path = _KEY.sub(KEY, parts.path)
    if _is_public(host):
        return f"{parts.scheme}://{host}{f':{port}' if port else ''}{path}"
    return f"{parts.scheme}://{HOST}{path}"


def _is_public(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        private = (".local", ".lan", ".internal", ".intranet", ".corp", ".home", ".cluster")
        return "." in host and not host.endswith(private)
    return address.is_loopback


def key_in(line: bytes, known: Iterable[bytes]) -> bool:
    """Whether a stored line holds a key: one of the user's own, or one of an issued form.

    A model may have made up something of that form; `bundle` then asks the user to look.

    Args:
        known: values of the variables that hold keys here.
    """
    return any(key in line for key in known) or _KEY_BYTES.search(line) is not None


def line(raw: bytes, models: Renamed) -> bytes:
    """A line of episodes.jsonl or started.jsonl with the models' new names; the same line where
    there are none."""
    if not models.names:
        return raw
    record = orjson.loads(raw)
    if record.get("model") in models.names:
        record["episode_id"] = models.in_id(record["episode_id"], record["model"])
        record["model"] = models.of(record["model"])
    return orjson.dumps(record) + b"\n"
