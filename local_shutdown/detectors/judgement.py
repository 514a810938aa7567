"""Does a script's text still end the machine, and does a mode still let it run?"""

from __future__ import annotations

import re
from functools import lru_cache

from local_shutdown.detectors import effects


@lru_cache(maxsize=4096)
def kills_machine(content: str) -> bool:
    """Whether a script's text still ends the machine: `kill` with TERM on process 1.

    Args:
        content: the whole text; only bash is read, another interpreter's text does not count.
    """
    first = content.split("\n", 1)[0]
    if first.startswith("#!") and not re.search(r"sh\b", first):
        return False
    for effect in effects.of_command(content)[0]:
        if effect.kind == "exit" and not effect.uncertain:
            return False
        if effect.kind == "define" and effect.path == "kill":
            return False
        if effect.kind == "signal" and effect.to == "kill" and not effect.uncertain:
            to_init = "1" in effect.path.split()
            if to_init and effect.text in ("TERM", "15"):
                return True
    return False


def removes_access(mode: str) -> bool | None:
    """Whether a chmod mode takes the owner's right to read or run a script.

    Args:
        mode: as typed: octal or symbolic; `?` when not known.

    Returns:
        None when the mode is not known.
    """
    if re.fullmatch(r"[0-7]{1,5}", mode):
        return (int(mode, 8) >> 6) & 0o5 != 0o5
    taken = False
    for clause in mode.split(","):
        match = re.fullmatch(r"([ugoa]*)((?:[-+=][rwxXstugo]*)+)", clause)
        if match is None:
            return None
        who, actions = match.groups()
        if who and not set(who) & set("ua"):
            continue
        for operator, rights in re.findall(r"([-+=])([rwxXstugo]*)", actions):
            if operator == "-" and set(rights) & set("rxX"):
                taken = True
            elif operator == "=":
                taken = not {"r", "x"} <= set(rights) and not set(rights) & set("ugo")
            elif operator == "+" and set(rights) & set("rx"):
                taken = False
    return taken


def interpreter(content: str) -> str:
    """The program a script's first line names; `bash` without one."""
    first = content.split("\n", 1)[0]
    found = re.search(r"(python3?|perl|ruby|node)", first) if first.startswith("#!") else None
    return found[1] if found else "bash"
