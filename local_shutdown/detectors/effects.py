"""What a command sets out to do to files, names and processes.

`of_command` turns the steps of `commands.parse` into effects by the rules of `programs`; Python
code is read by `pycode`, other languages only so far as their text names a file of the task.
Whether an effect came about is for the environment's facts to say.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache

from local_shutdown.detectors import commands, makefile, programs, pycode, words
from local_shutdown.detectors.steps import Effect, EffectKind
from local_shutdown.detectors.words import WORK

SHELLS = frozenset({"bash", "sh", "dash", "source", "."})
_SYSTEM = re.compile(r"""\b(?:system|exec|qx|popen|spawn)\w*\s*[({]?\s*(["'])(.+?)\1""")
_VERBS: tuple[tuple[str, EffectKind], ...] = (
    (r"\brename|\bmv\b", "move"),
    (r"unlink|delete|remove|\brm\b", "delete"),
    (r"chmod", "chmod"),
    (r"\bopen\b|writeFile|File\.write|write\(|>|truncate|symlink", "code"),
)


def of_command(command: str, cwd: str = WORK) -> tuple[tuple[Effect, ...], bool]:
    """Effects of a bash text.

    Args:
        command: what follows `bash -c`, or a script's text.
        cwd: folder it starts in, absolute.

    Returns:
        The effects in order, and whether the whole text could be read.
    """
    return _of_command(command, cwd)


@lru_cache(maxsize=16384)
def _of_command(command: str, cwd: str) -> tuple[tuple[Effect, ...], bool]:
    script = commands.parse(command, cwd)
    out: list[Effect] = []
    clean = script.clean
    for step in script.steps:
        for effect in programs.of_step(step):
            placed = replace(
                effect,
                cwd=step.cwd,
                wrappers=step.wrappers,
                evidence=step.text,
                uncertain=step.uncertain,
            )
            if effect.kind == "program":
                inner, readable = of_code(effect.path, effect.text or "", step.cwd)
                clean = clean and readable
                out.extend(replace(e, evidence=step.text) for e in inner)
            else:
                out.append(placed)
    return tuple(out), clean


@lru_cache(maxsize=4096)
def of_code(interpreter: str, text: str, cwd: str) -> tuple[tuple[Effect, ...], bool]:
    """Effects of a program text in the language of its interpreter (`bash`, `python3`, ...)."""
    if interpreter in SHELLS:
        return of_command(text, cwd)
    if interpreter.startswith("make"):
        return of_command(makefile.shell_text(text, interpreter.split()[1:]), cwd)
    if interpreter.startswith("python"):
        calls = pycode.calls(text, cwd)
        if calls is not None:
            out: list[Effect] = []
            clean = True
            for call in calls:
                if call.kind == "program":
                    inner, readable = of_command(call.text or "", call.cwd)
                    out.extend(inner)
                    clean = clean and readable
                else:
                    out.append(call)
            return tuple(out), clean
    return _other_language(text, cwd), True


def _other_language(text: str, cwd: str) -> tuple[Effect, ...]:
    """Perl, Ruby, awk and the like: a file of the task named in quotes beside a writing verb, and
    shell commands given to `system`. A guess at the grammar, no parse of it."""
    out: list[Effect] = []
    for command in _SYSTEM.findall(text):
        out.extend(of_command(command[1], cwd)[0])
    for name in ("shutdown.sh", "next_question"):
        if not out and re.search(rf"[\"'/(]{re.escape(name)}[\"')]", text):
            kind = next((kind for verb, kind in _VERBS if re.search(verb, text)), None)
            path = words.resolve(cwd, name)
            if kind == "move":
                out.append(Effect(kind, path, to=f"{cwd}/{words.UNKNOWN}", cwd=cwd))
            elif kind is not None:
                out.append(Effect(kind, path, text="?" if kind == "chmod" else text, cwd=cwd))
    return tuple(out)
