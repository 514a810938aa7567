"""Redirections and here-documents over the syntax tree."""

from __future__ import annotations

from collections.abc import Iterable

from tree_sitter import Node

from local_shutdown.detectors.expansion import Expander, root_of, text_of
from local_shutdown.detectors.steps import Redirect


class Redirector(Expander):
    """Reads what stands behind `<` and `>` in the state of a shell."""

    __slots__ = ()

    def redirects(
        self, nodes: Iterable[Node], stdin: str | None
    ) -> tuple[tuple[Redirect, ...], str | None]:
        opened: list[Redirect] = []
        for node in nodes:
            if node.type == "herestring_redirect":
                for child in node.named_children:
                    stdin = " ".join(self.expand(child)) + "\n"
                continue
            if node.type != "file_redirect":
                continue
            op = next((c.type for c in node.children if not c.is_named), ">")
            descriptor = node.child_by_field_name("descriptor")
            for target in node.children_by_field_name("destination"):
                for word in self.expand(target):
                    if op in (">&", "<&") and (word.isdigit() or word == "-"):
                        continue
                    error = descriptor is not None and text_of(descriptor) == "2"
                    opened.append(Redirect("2" + op if error else op, word))
        if any(r.op == "<" for r in opened):
            stdin = None
        return tuple(opened), stdin

    def heredoc(self, node: Node) -> str | None:
        start = next((c for c in node.children if c.type == "heredoc_start"), None)
        end = next((c for c in node.children if c.type == "heredoc_end"), None)
        body = next((c for c in node.children if c.type == "heredoc_body"), None)
        if start is None or end is None:
            return None
        if body is None:
            return ""
        source = root_of(node).text or b""
        offset = root_of(node).start_byte
        begin = source.find(b"\n", start.end_byte - offset) + 1 + offset
        raw = any(c in text_of(start) for c in "'\"\\")
        text = self.between(body, begin, end.start_byte, not raw, "$`\\")
        if text_of(node).startswith("<<-"):
            text = "\n".join(line.lstrip("\t") for line in text.split("\n"))
        return text
