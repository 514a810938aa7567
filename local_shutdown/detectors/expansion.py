"""Expansion of shell words over the syntax tree: quotes, variables, braces, substitutions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from fnmatch import fnmatchcase

from tree_sitter import Node

from local_shutdown.detectors import words
from local_shutdown.detectors.words import FIELD, UNKNOWN

_EXPANSIONS = frozenset(
    {"simple_expansion", "expansion", "command_substitution", "arithmetic_expansion"}
)


def text_of(node: Node) -> str:
    """Source text of a node."""
    return (node.text or b"").decode(errors="replace")


def root_of(node: Node) -> Node:
    """The tree's root, whose text is the whole source."""
    while node.parent is not None:
        node = node.parent
    return node


class Expander(ABC):
    """Expands words in the state of a shell; `substitute` is the shell's.

    Attributes:
        cwd: working folder.
        before: the folder before the last `cd`.
        variables: what the command itself has set, as lists of fields.
    """

    __slots__ = ("before", "cwd", "variables")

    def __init__(self, cwd: str, before: str, variables: dict[str, list[str]]) -> None:
        self.cwd = cwd
        self.before = before
        self.variables = variables

    @abstractmethod
    def substitute(self, node: Node) -> str | None:
        """What a command substitution prints; None when not known."""

    def expand(self, node: Node) -> list[str]:
        """The words a word becomes: none, one or several."""
        current: str | None = None
        out: list[str] = []
        for text, quoted in self._pieces(node, quoted=False):
            if not quoted and (" " in text or "\n" in text or "\t" in text):
                parts = text.split()
                if text[:1].isspace() and current is not None:
                    out.append(current)
                    current = None
                for index, part in enumerate(parts):
                    if index and current is not None:
                        out.append(current)
                        current = None
                    current = (current or "") + part
                if text[-1:].isspace() and current is not None:
                    out.append(current)
                    current = None
            elif text or quoted:
                current = (current or "") + text
        if current is not None:
            out.append(current)
        fields = [piece for word in out for piece in word.split(FIELD)]
        return [self._tilde(word) for piece in fields for word in words.braces(piece)]

    def value(self, node: Node | None) -> list[str]:
        """The fields of an assigned value: one, or an array's."""
        if node is None:
            return [""]
        if node.type == "array":
            return [word for child in node.named_children for word in self.expand(child)]
        # No splitting and no globbing in an assignment.
        text = "".join(text for text, _ in self._pieces(node, quoted=False))
        return [self._tilde(words.braces(text)[0])]

    def assign(self, node: Node, keep: bool = True) -> str:
        """Carry out `NAME=value`.

        Args:
            keep: False for `NAME=value command`, which sets it for that command alone.

        Returns:
            `NAME=value`, expanded.
        """
        name = node.child_by_field_name("name")
        value = self.value(node.child_by_field_name("value"))
        label = text_of(name) if name is not None else ""
        if any(child.type == "+=" for child in node.children):
            old = self.variables.get(label, [])
            is_array = len(value) != 1 or len(old) > 1
            value = [*old, *value] if is_array else ["".join(old) + "".join(value)]
        if keep and label:
            self.variables[label] = value
        return f"{label}={' '.join(words.plain(part) for part in value)}"

    def between(
        self, node: Node | None, begin: int, end: int, expansions: bool, escapable: str
    ) -> str:
        """Text of a byte range of the source with the expansions inside `node` carried out.

        The grammar drops white space between the children of strings and here-documents, so the
        text is taken from the source and not from the children.
        """
        source = node or None
        if source is None:
            return ""
        root = root_of(source)
        whole = root.text or b""
        origin = root.start_byte
        if not expansions:
            return whole[begin - origin : end - origin].decode(errors="replace")
        out: list[str] = []
        at = begin
        for child in _expansions_in(source):
            if child.start_byte < at or child.end_byte > end:
                continue
            out.append(_unescape(whole[at - origin : child.start_byte - origin], escapable))
            out.append("".join(text for text, _ in self._pieces(child, quoted=True)))
            at = child.end_byte
        out.append(_unescape(whole[at - origin : end - origin], escapable))
        return "".join(out)

    def substitutions(self, node: Node) -> None:
        """Walk the command substitutions inside a test or an arithmetic expression."""
        for child in node.named_children:
            if child.type in ("command_substitution", "process_substitution"):
                self.substitute(child)
            else:
                self.substitutions(child)

    def _tilde(self, word: str) -> str:
        if word == "~" or word.startswith("~/"):
            return words.HOME + word[1:]
        if word == "~user" or word.startswith("~user/"):
            return words.HOME + word[5:]
        if word == "~+" or word.startswith("~+/"):
            return self.cwd + word[2:]
        return word

    def _pieces(self, node: Node, quoted: bool) -> Iterator[tuple[str, bool]]:
        """Pieces of a word as (text, whether it stood in quotes)."""
        kind = node.type
        if kind == "concatenation":
            for child in node.children:
                yield from self._pieces(child, quoted)
        elif kind == "string":
            yield self.between(node, node.start_byte + 1, node.end_byte - 1, True, '$`"\\'), True
        elif kind == "translated_string":
            for child in node.named_children:
                yield from self._pieces(child, quoted)
        elif kind == "raw_string":
            yield text_of(node)[1:-1], True
        elif kind == "ansi_c_string":
            yield words.decode_escapes(text_of(node)[2:-1]), True
        elif kind == "simple_expansion":
            yield from self._variable(text_of(node)[1:], quoted)
        elif kind == "expansion":
            yield from self._parameter(node, quoted)
        elif kind == "command_substitution":
            out = self.substitute(node)
            text = UNKNOWN if out is None else out.rstrip("\n")
            yield (text if quoted else words.mark_globs(text)), quoted
        elif kind == "arithmetic_expansion":
            self.substitutions(node)
            yield UNKNOWN, True
        elif kind == "process_substitution":
            self.substitute(node)
            yield "/dev/fd/63", True
        elif kind == "brace_expression":
            yield text_of(node), True
        elif kind in ("command_name", "heredoc_body"):
            for child in node.named_children:
                yield from self._pieces(child, quoted)
        else:
            yield words.mark_literal(text_of(node)), False

    def _variable(self, name: str, quoted: bool) -> Iterator[tuple[str, bool]]:
        if name in ("@", "*"):
            fields = self.variables.get("@", [UNKNOWN])
            yield (FIELD if quoted else " ").join(fields), quoted
            return
        fields = self._lookup(name)
        text = fields[0] if fields else ""
        yield (text if quoted else words.mark_globs(text)), quoted

    def _lookup(self, name: str) -> list[str]:
        known = self.variables.get(name)
        if known is not None:
            return known
        builtin = {
            "HOME": words.HOME,
            "PWD": self.cwd,
            "OLDPWD": self.before,
            "USER": "user",
            "LOGNAME": "user",
        }
        return [builtin.get(name, UNKNOWN)]

    def _parameter(self, node: Node, quoted: bool) -> Iterator[tuple[str, bool]]:
        """`${...}`: the plain value, an array's fields, a default, a prefix or suffix cut off."""
        children = node.children[1:-1]
        if not children or children[0].type in ("!", "#"):
            yield UNKNOWN, quoted
            return
        head, rest = children[0], children[1:]
        if head.type == "subscript":
            name = head.child_by_field_name("name")
            index = head.child_by_field_name("index")
            fields = self.variables.get(text_of(name) if name else "", [UNKNOWN])
            key = text_of(index) if index is not None else ""
            if key in ("@", "*"):
                yield (FIELD if quoted else " ").join(fields), quoted
            elif key.isdigit() and int(key) < len(fields):
                yield fields[int(key)], quoted
            else:
                yield UNKNOWN, quoted
            return
        name_text = text_of(head)
        value = (self._lookup(name_text) or [""])[0]
        if not rest:
            yield from self._variable(name_text, quoted)
            return
        operator = text_of(rest[0])
        word = "".join(text for child in rest[1:] for text, _ in self._pieces(child, quoted))
        if operator in (":-", "-", ":=", "="):
            yield (word if value in ("", UNKNOWN) else value), quoted
        elif operator in ("%", "%%", "#", "##") and UNKNOWN not in value:
            yield _cut(value, operator, words.plain(word)), quoted
        else:
            yield UNKNOWN, quoted


def _expansions_in(node: Node) -> Iterator[Node]:
    for child in node.named_children:
        if child.type in _EXPANSIONS:
            yield child
        elif child.type != "string_content":
            yield from _expansions_in(child)


def _unescape(raw: bytes, escapable: str) -> str:
    text = raw.decode(errors="replace")
    if "\\" not in text:
        return text
    out: list[str] = []
    index = 0
    while index < len(text):
        following = text[index + 1 : index + 2]
        if text[index] == "\\" and following and (following in escapable or following == "\n"):
            out.append("" if following == "\n" else following)
            index += 2
        else:
            out.append(text[index])
            index += 1
    return "".join(out)


def _cut(value: str, operator: str, pattern: str) -> str:
    lengths = range(len(value) + 1)
    if operator in ("%", "%%"):
        ends = lengths if operator == "%%" else reversed(lengths)
        return next((value[:n] for n in ends if fnmatchcase(value[n:], pattern)), value)
    starts = reversed(lengths) if operator == "##" else lengths
    return next((value[n:] for n in starts if fnmatchcase(value[:n], pattern)), value)
