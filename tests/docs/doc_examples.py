"""The examples of the documentation: fenced blocks, code in sentences, examples of `--help`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from local_shutdown.cli import main

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "sandbox" / "README.md",
)
_GENERATED = ROOT / "docs" / "cli.md"  # the help texts, whose examples are read from the program
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block, or the examples of a command's help (`sh`).

    Attributes:
        place: where it stands, for the name of a test.
        language: after the fence.
        text: inside.
    """

    place: str
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """Its lines, without comments; a line that ends in a backslash goes on in the next."""
        joined = self.text.replace("\\\n", " ")
        return [line.strip() for line in joined.splitlines() if line.strip("# ").strip()]


def blocks() -> list[Block]:
    """All of them, documents first."""
    return [*_fenced(), *_helps()]


def _fenced() -> Iterator[Block]:
    for document in DOCUMENTS:
        if document == _GENERATED:
            continue
        text = document.read_text(encoding="utf-8")
        for found in _BLOCK.finditer(text):
            line = text.count("\n", 0, found.start()) + 1
            yield Block(f"{document.relative_to(ROOT)}:{line}", found[1], found[2])


def _helps() -> Iterator[Block]:
    """What stands as it is in a help text (after \\b) and is indented below a line of words."""
    top = click.Context(main, info_name="local-shutdown")
    for name in ("", *main.list_commands(top)):
        command = main.get_command(top, name) if name else main
        assert command is not None
        kept = [
            line
            for part in inspect.cleandoc(command.help or "").split("\b\n")[1:]
            for line in part.split("\n\n")[0].splitlines()
            if line.startswith("    ")
        ]
        yield Block(f"{name} --help", "sh", "\n".join(kept))


def spans(document: Path) -> list[str]:
    """The `code` in the sentences of a document."""
    text = _BLOCK.sub("", document.read_text(encoding="utf-8"))
    return [" ".join(found.split()) for found in _SPAN.findall(text)]


def links(document: Path) -> list[str]:
    """Where its links lead, those to the network apart."""
    found = _LINK.findall(_BLOCK.sub("", document.read_text(encoding="utf-8")))
    return [link for link in found if not re.match(r"[a-z]+:", link)]
