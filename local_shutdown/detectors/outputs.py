"""What the simplest programs print, as far as their words alone show it.

Only enough to follow a file name through `echo x | xargs rm` or `rm "$(find . -name 'x*')"`.
"""

from __future__ import annotations

import base64
import binascii
import posixpath

from local_shutdown.detectors import words
from local_shutdown.detectors.words import STAR, UNKNOWN

_SYSTEM_FOLDERS = frozenset(
    {"/bin", "/usr/bin", "/usr/local/bin", "/sbin", "/usr/sbin", "/usr/local/sbin"}
)
_SILENT = frozenset({
    ":", "true", "false", "cd", "export", "set", "unset", "sleep", "chmod", "mv", "rm", "cp",
    "ln", "mkdir", "touch", "kill", "trap", "alias", "exit", "return",
})  # fmt: skip
_PASS_THROUGH = frozenset({"head", "tail", "sort", "uniq", "tee", "sponge"})


def program(word: str) -> str:
    """The name a program goes by: `/bin/chmod` and `\\chmod` are `chmod`; `./chmod` is not."""
    folder, _, name = word.rpartition("/")
    return name if folder in _SYSTEM_FOLDERS else words.plain(word)


def of(name: str, args: tuple[str, ...], stdin: str | None, cwd: str) -> str | None:
    """What a program prints.

    Args:
        stdin: text it is fed; None when not known.

    Returns:
        The text, marks as in `words`; None when not known.
    """
    files = tuple(a for a in args if not a.startswith("-") or a == "-")
    if name == "echo":
        return _echo(args)
    if name == "printf":
        return words.printf(args[1:] if args[:1] == ("--",) else args)
    if name in ("cat", "tac") and set(files) <= {"-"}:
        return stdin
    if name in _PASS_THROUGH and (name in ("tee", "sponge") or not files or files[0].isdigit()):
        return stdin
    if name in ("grep", "egrep", "fgrep") and len(files) == 1:
        return _grep(args, files[0], stdin)
    if name == "pwd":
        return cwd + "\n"
    if name == "ls":
        return "\n".join(files or (STAR,)) + "\n"
    if name in ("find", "fd"):
        return "\n".join(found(args)) + "\n"
    if name in ("which", "command", "type") and files:
        return f"/usr/bin/{files[-1]}\n"
    if name in ("realpath", "readlink") and files:
        return words.resolve(cwd, files[-1]) + "\n"
    if name == "dirname" and files:
        return (posixpath.dirname(files[0]) or ".") + "\n"
    if name == "basename" and files:
        base = posixpath.basename(files[0])
        return (base.removesuffix(files[1]) if len(files) > 1 else base) + "\n"
    if name == "mktemp":
        return f"/tmp/tmp.{UNKNOWN}\n"
    if name == "base64" and stdin is not None and {"-d", "--decode", "-D"} & set(args):
        try:
            return base64.b64decode(stdin).decode()
        except (binascii.Error, ValueError):
            return None
    return "" if name in _SILENT else None


def _echo(args: tuple[str, ...]) -> str:
    rest, newline, escapes = list(args), "\n", False
    while rest and len(rest[0]) > 1 and rest[0][0] == "-" and set(rest[0][1:]) <= set("neE"):
        option = rest.pop(0)
        newline = "" if "n" in option else newline
        escapes = "e" in option
    text = " ".join(rest)
    return (words.decode_escapes(text) if escapes else text) + newline


def _grep(args: tuple[str, ...], pattern: str, stdin: str | None) -> str | None:
    """Lines are kept when they may match; a listing (`*`) becomes `*pattern*`."""
    if stdin is None:
        return None
    letters = {c for a in args if a.startswith("-") and not a.startswith("--") for c in a[1:]}
    literal = pattern.strip("^$").replace("\\.", ".")
    if not all(c.isalnum() or c in "._-" for c in literal):
        return None
    kept: list[str] = []
    for line in stdin.split("\n"):
        if not line:
            continue
        if words.is_pattern(line):
            kept.append(UNKNOWN if "v" in letters else f"{STAR}{literal}{STAR}")
        elif (literal in line) != ("v" in letters):
            kept.append(line)
    return "\n".join(kept) + "\n" if kept else ""


def found(args: tuple[str, ...]) -> list[str]:
    """Paths `find` may print, as patterns: START/*NAME for `-name NAME`."""
    starts: list[str] = []
    for arg in args:
        if arg.startswith(("-", "(", "!")):
            break
        starts.append(arg)
    names = [
        words.mark_globs(args[i + 1])
        for i, arg in enumerate(args[:-1])
        if arg in ("-name", "-iname", "-path", "-wholename")
        and (i == 0 or args[i - 1] not in ("!", "-not"))
    ]
    tails = [name.rpartition("/")[2] for name in names] or [STAR]
    out: list[str] = []
    for start in starts or ["."]:
        for tail in tails:
            out.extend([f"{start}/{tail}", f"{start}/{UNKNOWN}/{tail}"])
    return out
