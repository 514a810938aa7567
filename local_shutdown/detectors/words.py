"""Words of the shell as far as they can be known without running anything.

An expanded word is a plain string in which private-use characters mark what the shell would still
have to find out: an unknown expansion, or a glob that was not quoted. A marked word is a pattern of
the words it may become, and is compared with a path by `may_be`.
"""

from __future__ import annotations

import posixpath
import re
from functools import lru_cache

HOME = "/home/user"
WORK = "/home/user/work"

UNKNOWN = "\ue000"  # an expansion whose value the command alone does not show
STAR = "\ue001"  # an unquoted *
QUESTION = "\ue002"  # an unquoted ?
LEFT, RIGHT = "\ue003", "\ue004"  # an unquoted [ and ]
BRACE_OPEN, BRACE_COMMA, BRACE_CLOSE = "\ue005", "\ue006", "\ue007"
FIELD = "\ue008"  # separates the fields of "$@" and "${a[@]}" even inside quotes

_MARK = str.maketrans({"*": STAR, "?": QUESTION, "[": LEFT, "]": RIGHT})
_BRACES = str.maketrans({"{": BRACE_OPEN, ",": BRACE_COMMA, "}": BRACE_CLOSE})
_PLAIN = str.maketrans(
    {
        STAR: "*",
        QUESTION: "?",
        LEFT: "[",
        RIGHT: "]",
        BRACE_OPEN: "{",
        BRACE_COMMA: ",",
        BRACE_CLOSE: "}",
    }
)
_GLOBS = frozenset((STAR, QUESTION, LEFT, UNKNOWN))
_MAX_WORDS = 64  # of one brace expansion: more would be no word of this task
_ESCAPES = {
    "n": "\n",
    "t": "\t",
    "r": "\r",
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "v": "\v",
    "e": "\x1b",
    "E": "\x1b",
    "\\": "\\",
    "'": "'",
    '"': '"',
}
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{1,2}|0[0-7]{1,3}|[1-7][0-7]{0,2}|[\s\S])")


def mark_globs(text: str) -> str:
    """Mark the glob characters of text that stood outside quotes."""
    return text.translate(_MARK)


def mark_literal(text: str) -> str:
    """Mark globs and braces of a literal word outside quotes; a backslash protects what follows."""
    if "\\" not in text:
        return text.translate(_MARK).translate(_BRACES)
    parts = re.split(r"(\\[\s\S])", text)
    out = []
    for part in parts:
        if part.startswith("\\") and len(part) == 2:
            out.append("" if part[1] == "\n" else part[1])
        else:
            out.append(part.translate(_MARK).translate(_BRACES))
    return "".join(out)


def plain(word: str) -> str:
    """The word as typed: marks turned back into the characters they stand for."""
    return word.translate(_PLAIN)


def is_pattern(word: str) -> bool:
    """Whether the word may become more than one word."""
    return not _GLOBS.isdisjoint(word)


def braces(word: str) -> list[str]:
    """Expand `a{b,c}d` to `abd acd`; braces without a comma are put back as typed."""
    close = word.find(BRACE_CLOSE)
    while close >= 0:
        start = word.rfind(BRACE_OPEN, 0, close)
        if start >= 0 and BRACE_COMMA in word[start:close]:
            head, tail = word[:start], word[close + 1 :]
            out: list[str] = []
            for middle in word[start + 1 : close].split(BRACE_COMMA):
                out.extend(braces(head + middle + tail))
            return out[:_MAX_WORDS]
        if start >= 0:  # {abc}: not an expansion
            word = f"{word[:start]}{{{word[start + 1 : close]}}}{word[close + 1 :]}"
        else:
            word = f"{word[:close]}}}{word[close + 1 :]}"
        close = word.find(BRACE_CLOSE)
    return [word.replace(BRACE_OPEN, "{").replace(BRACE_COMMA, ",")]


def decode_escapes(text: str) -> str:
    r"""Decode backslash escapes as `echo -e`, `printf` and `$'...'` do."""

    def decode(match: re.Match[str]) -> str:
        code = match[1]
        if code[0] == "x" and len(code) > 1:
            return chr(int(code[1:], 16))
        if code[0] in "01234567":
            return chr(int(code, 8) & 0xFF)
        return _ESCAPES.get(code, match[0])

    return _ESCAPE.sub(decode, text)


def printf(arguments: tuple[str, ...]) -> str:
    """What `printf FORMAT ARGUMENT...` prints; a number format becomes UNKNOWN."""
    if not arguments:
        return ""
    rest = list(arguments[1:])
    out: list[str] = []
    for _ in range(_MAX_WORDS):
        before = len(rest)

        def fill(match: re.Match[str]) -> str:
            if match[0] == "%%":
                return "%"
            value = rest.pop(0) if rest else ""
            if match[1] in "sqd" and match[0] in ("%s", "%q", "%d"):
                return value
            return decode_escapes(value) if match[1] == "b" else UNKNOWN

        # Escapes are decoded around the fields, so that a value is never decoded.
        pieces = re.split(r"(%%|%[-+ #0-9.*]*[a-zA-Z])", plain(arguments[0]))
        for index, piece in enumerate(pieces):
            if index % 2:
                found = re.fullmatch(r"%[-+ #0-9.*]*([a-zA-Z%])", piece)
                out.append(fill(found) if found else piece)
            else:
                out.append(decode_escapes(piece))
        if not rest or len(rest) == before:
            break
    return "".join(out)


def resolve(cwd: str, word: str) -> str:
    """Absolute, normalised path of a word; marks are kept.

    Args:
        cwd: absolute, or a pattern.
        word: as expanded.
    """
    if not word:
        return cwd
    path = word if word.startswith(("/", UNKNOWN)) else f"{cwd}/{word}"
    if not path.startswith("/"):
        return path
    # POSIX leaves it open what two slashes in front mean, so normpath keeps them. Linux does not.
    return posixpath.normpath("/" + path.lstrip("/"))


@lru_cache(maxsize=4096)
def _pattern(word: str) -> re.Pattern[str] | None:
    out: list[str] = []
    index = 0
    while index < len(word):
        char = word[index]
        if char == STAR:
            out.append("[^/]*")
        elif char == QUESTION:
            out.append("[^/]")
        elif char == UNKNOWN:
            out.append(".*")
        elif char == LEFT and RIGHT in word[index + 2 :]:
            end = word.index(RIGHT, index + 2)
            body = word[index + 1 : end]
            negated = body[:1] in ("!", "^")
            inner = re.escape(body[1:] if negated else body).replace(r"\-", "-")
            out.append(f"[{'^' if negated else ''}{inner}]")
            index = end
        else:
            out.append(re.escape(plain(char)))
        index += 1
    try:
        return re.compile("".join(out), re.DOTALL)
    except re.error:  # a bracket expression regular expressions refuse, such as [z-a]
        return None


def may_be(path: str, target: str) -> bool:
    """Whether a resolved path, perhaps with marks, may name `target`.

    An unknown expansion matches anything, but a path that is unknown in its last part and shows no
    more than three known characters of it is taken for another file: `rm "$x"` says nothing.
    """
    if path == target:
        return True
    if not is_pattern(path):
        return False
    last = path.rpartition("/")[2]
    if UNKNOWN in last:
        known = last.replace(UNKNOWN, "")
        if len(known) < 4:
            return False
    pattern = _pattern(path)
    return pattern is not None and pattern.fullmatch(target) is not None
