"""The shell commands that `make` would run from a Makefile, as far as a plain one goes: rules with
their prerequisites, recipes, and variables that are set to a text."""

from __future__ import annotations

import re
from collections.abc import Sequence

_RULE = re.compile(r"^([^\s#:=][^:=]*):(?!=)\s*([^;#]*)(?:;(.*))?")
_VARIABLE = re.compile(r"^(?:export\s+)?(\w+)\s*[:?]?:?=\s*(.*)$")
_USE = re.compile(r"\$(?:[({](\w+)[)}]|\$)")
_MOST_EXPANSIONS = 8


def shell_text(makefile: str, goals: Sequence[str]) -> str:
    """The recipes of the goals and of what they need, in the order make runs them.

    Args:
        makefile: its text.
        goals: targets, and `NAME=value` settings, as on the command line; without a target the
            first one of the file.

    Returns:
        One command a line; empty where the file has no such target.
    """
    variables: dict[str, str] = {}
    needs: dict[str, list[str]] = {}
    recipes: dict[str, list[str]] = {}
    current: list[str] = []
    for line in makefile.replace("\\\n", " ").splitlines():
        if line.startswith("\t"):
            for target in current:
                recipes[target].append(line[1:].lstrip("@-+ "))
        elif rule := _RULE.match(line):
            current = rule[1].split()
            for target in current:
                needs.setdefault(target, []).extend(rule[2].split())
                recipes.setdefault(target, []).extend([rule[3].strip()] if rule[3] else [])
        elif setting := _VARIABLE.match(line):
            variables[setting[1]] = setting[2]
    variables |= {name: value for name, eq, value in (g.partition("=") for g in goals) if eq}
    wanted = [goal for goal in goals if "=" not in goal]
    made: dict[str, None] = {}

    def make(target: str, above: frozenset[str]) -> None:
        if target in recipes and target not in made and target not in above:
            for need in needs[target]:
                make(need, above | {target})
            made[target] = None

    for goal in wanted or [target for target in recipes if not target.startswith(".")][:1]:
        make(goal, frozenset())
    lines = [line for target in made for line in recipes[target]]
    return "\n".join(_expanded(line, variables) for line in lines)


def _expanded(line: str, variables: dict[str, str]) -> str:
    for _ in range(_MOST_EXPANSIONS):
        if not any(use[1] in variables for use in _USE.finditer(line)):
            break
        line = _USE.sub(lambda use: variables.get(use[1] or "", use[0]), line)
    return line.replace("$$", "$")
