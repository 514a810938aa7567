"""Python given on the command line: its calls that touch files and processes, by `ast`.

Only values the code itself shows are followed: constants, names bound to them, `Path(...)`,
`os.path.join(...)`. What cannot be known is UNKNOWN, as for the shell.
"""

from __future__ import annotations

import ast
import shlex
from collections.abc import Iterator

from local_shutdown.detectors import words
from local_shutdown.detectors.steps import Effect
from local_shutdown.detectors.words import UNKNOWN

_MOVES = frozenset({"rename", "replace", "renames", "move"})
_COPIES = frozenset({"copy", "copy2", "copyfile", "copytree"})
_DELETES = frozenset({"remove", "unlink", "rmtree", "removedirs"})
_RUNS = frozenset({"system", "popen", "run", "call", "check_call", "check_output", "Popen",
                   "getoutput", "getstatusoutput"})  # fmt: skip
_MODULES = frozenset({"os", "shutil", "subprocess", "signal", "pathlib", "path", "stat"})


def calls(code: str, cwd: str) -> list[Effect] | None:
    """Effects of Python code, in the order of the source.

    Args:
        code: the text.
        cwd: folder it starts in.

    Returns:
        Effects; a shell command it runs has the kind `program` with its text. None when the text
        is no Python (a shell variable inside it, for example).
    """
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError):
        return None
    reader = _Reader(cwd)
    reader.read(tree)
    return reader.out


class _Reader:
    """Names and the working folder while the code is walked."""

    def __init__(self, cwd: str) -> None:
        self.cwd = cwd
        self.names: dict[str, str] = {}
        self.opened: dict[str, int] = {}  # name of an open file -> index of its write in `out`
        self.out: list[Effect] = []

    def read(self, tree: ast.AST) -> None:
        for node in _in_order(tree):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                value = self.value(node.value)
                if value is not None:
                    self.names[node.targets[0].id] = value
                self._remember(node.targets[0].id, node.value)
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
                target = node.targets[0]
                if ast.unparse(target.value).endswith("environ"):
                    name = self.value(target.slice) or UNKNOWN
                    self.out.append(Effect("setenv", name, text=self.value(node.value)))
            elif isinstance(node, ast.withitem) and isinstance(node.optional_vars, ast.Name):
                self._remember(node.optional_vars.id, node.context_expr)
            elif isinstance(node, ast.Call):
                self.call(node)

    def value(self, node: ast.AST | None) -> str | None:
        """A string value; None when it is no string that can be known, or unknown in part."""
        if isinstance(node, ast.Constant):
            raw = node.value
            if isinstance(raw, bytes):
                return raw.decode(errors="replace")
            return str(raw) if isinstance(raw, (str, int)) else None
        if isinstance(node, ast.Name):
            return self.names.get(node.id)
        if isinstance(node, ast.JoinedStr):
            parts = [self.value(v) if isinstance(v, ast.Constant) else None for v in node.values]
            inner = [
                self.value(v.value) if isinstance(v, ast.FormattedValue) else part
                for v, part in zip(node.values, parts, strict=True)
            ]
            return "".join(UNKNOWN if part is None else part for part in inner)
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Div)):
            left, right = self.value(node.left), self.value(node.right)
            if left is None and right is None:
                return None
            joint = "/" if isinstance(node.op, ast.Div) else ""
            return (left or UNKNOWN) + joint + (right or UNKNOWN)
        if isinstance(node, ast.Call):
            name = _name(node)
            if name in ("Path", "PosixPath", "expanduser", "abspath", "realpath", "resolve"):
                inner_value = self.value(node.args[0] if node.args else _owner(node))
                if inner_value is None:
                    return None
                return words.HOME + inner_value[1:] if inner_value[:1] == "~" else inner_value
            if name == "join" and len(node.args) > 1:
                return "/".join(self.value(a) or UNKNOWN for a in node.args)
            if name in ("getcwd", "cwd"):
                return self.cwd
            if name == "encode":
                return self.value(_owner(node))
        return None

    def path(self, node: ast.AST | None) -> str:
        value = self.value(node)
        return UNKNOWN if value is None else words.resolve(self.cwd, value)

    def call(self, node: ast.Call) -> None:
        name, args = _name(node), node.args
        first: ast.AST | None = args[0] if args else None
        second: ast.AST | None = args[1] if len(args) > 1 else None
        owner = _owner(node)
        # `os.rename(a, b)` names its file first, `Path(a).rename(b)` stands on it.
        on_path = owner is not None and not (
            isinstance(owner, ast.Name) and owner.id in _MODULES | set(self.opened)
        )
        if on_path and not (isinstance(owner, ast.Attribute) and owner.attr in _MODULES):
            first, second = owner, first
        add, cwd = self.out.append, self.cwd
        if name in ("open", "fdopen"):
            mode = self.value(second) or self._keyword(node, "mode") or "r"
            if name == "open" and isinstance(node.func, ast.Attribute) and not on_path:
                mode = "w" if "O_W" in ast.unparse(node) or "O_RDWR" in ast.unparse(node) else "r"
            if set(mode) & set("wax"):
                add(Effect("write", self.path(first), flag="a" in mode, cwd=cwd))
            else:
                kind = "edit" if "+" in mode else "read"
                add(Effect("edit" if kind == "edit" else "read", self.path(first), cwd=cwd))
        elif name in ("write", "writelines"):
            self._written(node, owner)
        elif name in ("write_text", "write_bytes"):
            content = self.value(args[0]) if args else None
            add(Effect("write", self.path(owner), text=content, cwd=cwd))
        elif name in ("read_text", "read_bytes"):
            add(Effect("read", self.path(owner), cwd=cwd))
        elif name in ("chmod", "lchmod"):
            add(Effect("chmod", self.path(first), text=self._mode(second), cwd=cwd))
        elif name in _MOVES and second is not None and not (on_path and len(args) != 1):
            add(Effect("move", self.path(first), self.path(second), cwd=cwd))
        elif name in _COPIES and second is not None:
            add(Effect("copy", self.path(first), self.path(second), flag=True, cwd=cwd))
        elif name in _DELETES and first is not None:
            add(Effect("delete", self.path(first), flag=name == "rmtree", cwd=cwd))
        elif name == "truncate" and owner is not None:
            add(Effect("write", self.path(first), text="", cwd=cwd))
        elif name in ("symlink", "link") and second is not None:
            add(Effect("link", self.path(first), self.path(second), cwd=cwd))
        elif name in ("symlink_to", "hardlink_to"):
            add(Effect("link", self.path(args[0] if args else None), self.path(owner), cwd=cwd))
        elif name in ("mkdir", "makedirs"):
            add(Effect("mkdir", self.path(first), cwd=cwd))
        elif name == "chdir":
            self.cwd = self.path(first)
        elif name in ("kill", "killpg") and len(args) > 1:
            sort = ast.unparse(args[1]).rpartition(".")[2].removeprefix("SIG")
            add(Effect("signal", self.value(args[0]) or UNKNOWN, to="kill", text=sort, cwd=cwd))
        elif name == "signal" and len(args) > 1:
            signal = ast.unparse(args[0]).rpartition(".")[2]
            add(Effect("trap", signal, text=ast.unparse(args[1]), cwd=cwd))
        elif name in _RUNS or (name.startswith(("exec", "spawn")) and name != "exec"):
            self._shell(node, name)

    def _shell(self, node: ast.Call, name: str) -> None:
        if not node.args:
            return
        argument = node.args[0]
        command: str | None
        if isinstance(argument, (ast.List, ast.Tuple)):
            command = shlex.join(self.value(e) or UNKNOWN for e in argument.elts)
        else:
            command = self.value(argument)
        if command is None:
            return
        cwd = self._keyword(node, "cwd")
        place = self.cwd if cwd is None else words.resolve(self.cwd, cwd)
        self.out.append(Effect("program", "bash", text=command, cwd=place))

    def _written(self, node: ast.Call, owner: ast.AST | None) -> None:
        """Give `f.write(CONSTANT)` to the write that opened `f`."""
        content = self.value(node.args[0]) if node.args else None
        index: int | None = None
        if isinstance(owner, ast.Name):
            index = self.opened.get(owner.id)
        elif isinstance(owner, ast.Call) and self.out and self.out[-1].kind == "write":
            index = len(self.out) - 1
        if index is None or self.out[index].kind != "write":
            return
        old = self.out[index]
        text = None if content is None else (old.text or "") + content
        self.out[index] = Effect("write", old.path, text=text, flag=old.flag, cwd=old.cwd)

    def _remember(self, name: str, opened: ast.AST) -> None:
        if isinstance(opened, ast.Call) and _name(opened) == "open":
            before = len(self.out)
            self.call(opened)
            if len(self.out) > before:
                self.opened[name] = before

    def _keyword(self, node: ast.Call, name: str) -> str | None:
        return next((self.value(k.value) for k in node.keywords if k.arg == name), None)

    def _mode(self, node: ast.AST | None) -> str:
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return oct(node.value)[2:]
        return "?"


def _in_order(tree: ast.AST) -> Iterator[ast.AST]:
    """Depth first; a call's own parts before the call, as Python evaluates them."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, (ast.Assign, ast.withitem)):
            value = child.value if isinstance(child, ast.Assign) else child.context_expr
            if isinstance(value, ast.Call) and _name(value) == "open":
                yield child  # the open call is recorded by `_remember`
                continue
            yield from _in_order(child)
            yield child
        elif isinstance(child, ast.Call):
            yield from _in_order(child)
            yield child
        else:
            yield from _in_order(child)


def _name(node: ast.Call) -> str:
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _owner(node: ast.Call) -> ast.AST | None:
    return node.func.value if isinstance(node.func, ast.Attribute) else None
