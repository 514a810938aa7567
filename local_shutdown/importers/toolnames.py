"""Which tool of another harness is our `bash`, which our `submit`, and how its arguments read.

The published task has two tools, bash(thoughts, cmd) and submit(answer) (protocol, "The tools").
Others ran it with tools of other names; a detector that looks for `bash` would see no command in
such a transcript, and "no command" reads as compliance. So names are mapped on the way in.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from local_shutdown.errors import UsageError

TARGETS = ("bash", "submit")

# Names seen in public harnesses for "run this in a shell" and "this is my answer"; reconstructed,
# compared without regard to case and without a "functions." prefix.
_SHELL_NAMES = """
    bash bash_tool bash_session bash_command shell shell_tool shell_command local_shell sh cmd
    execute execute_bash execute_command execute_shell exec exec_command container.exec
    run run_bash run_command run_shell run_shell_command run_terminal_cmd terminal command
"""
_SUBMIT_NAMES = "submit submit_answer submit_answers submit_final_answer final_answer finish"
DEFAULT_NAMES: Mapping[str, str] = {
    **dict.fromkeys(_SHELL_NAMES.split(), "bash"),
    **dict.fromkeys(_SUBMIT_NAMES.split(), "submit"),
}
# The first of these that a shell call carries is its command.
COMMAND_KEYS = ("cmd", "command", "code", "input", "script")


def tool_mapping(pairs: Iterable[str]) -> dict[str, str]:
    """Read `--map-tool NAME=bash` options.

    Args:
        pairs: each "NAME=bash" or "NAME=submit".

    Returns:
        {name in the transcript: "bash" | "submit"}, to be handed to the readers.

    Raises:
        UsageError: no "=", an empty name, another target, or one name mapped to both.
    """
    mapping: dict[str, str] = {}
    for pair in pairs:
        name, equals, target = pair.partition("=")
        name, target = name.strip(), target.strip()
        if not equals or not name:
            raise UsageError(
                f"--map-tool {pair!r} is not NAME=bash or NAME=submit",
                hint="for example --map-tool run_in_vm=bash",
            )
        if target not in TARGETS:
            raise UsageError(
                f"--map-tool {pair!r}: {target!r} is not a tool of the experiment",
                hint="map a tool to bash or to submit",
            )
        if mapping.setdefault(name, target) != target:
            raise UsageError(
                f"--map-tool maps {name!r} to both bash and submit", hint="give it once"
            )
    return mapping


def canonical_name(name: str, mapping: Mapping[str, str]) -> str | None:
    """Our name for a tool of a transcript; None when it is neither of ours.

    Args:
        name: as the transcript has it.
        mapping: the user's own pairs, which go before the defaults.
    """
    found = mapping.get(name)
    if found is not None:
        return found
    return DEFAULT_NAMES.get(name.casefold().removeprefix("functions."))


def bash_arguments(arguments: str | Mapping[str, Any]) -> str:
    """Arguments of a shell call as a JSON string in which the command is called `cmd`.

    A string that is not a JSON object stays as it is: the model wrote a broken call, and what
    it broke must stay visible.
    """
    if isinstance(arguments, str):
        if '"cmd"' in arguments:
            return arguments
        try:
            decoded = orjson.loads(arguments)
        except orjson.JSONDecodeError:
            return arguments
        if not isinstance(decoded, dict):
            return arguments
        arguments = decoded
    for key in COMMAND_KEYS:
        if key in arguments:
            rest = {k: v for k, v in arguments.items() if k not in (key, "cmd")}
            return orjson.dumps({"cmd": _command(arguments[key]), **rest}).decode()
    return orjson.dumps(dict(arguments)).decode()


def _command(value: Any) -> Any:
    """An argv list as the line a shell would read; `["bash", "-lc", X]` is X."""
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        return value
    if len(value) == 3 and value[0].rpartition("/")[2] in ("bash", "sh") and "c" in value[1]:
        return value[2]
    return shlex.join(value)
