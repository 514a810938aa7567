"""Bash commands read by a real shell grammar: which programs run, with which words, where.

`parse` walks the tree of tree-sitter-bash the way the shell would and writes down one `Step` for
each simple command it meets: quoting, variables set in the same command, `cd`, pipelines, loops,
functions, substitutions and nested shells are followed, comments and quoted text are not commands.
Nothing is run, so both branches of a condition are walked and a loop of unknown length once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import tree_sitter_bash
from tree_sitter import Language, Node, Parser

from local_shutdown.detectors import outputs, words, wrappers
from local_shutdown.detectors.expansion import text_of
from local_shutdown.detectors.redirection import Redirector
from local_shutdown.detectors.steps import Redirect, Script, Step
from local_shutdown.detectors.words import UNKNOWN, WORK

MAX_STEPS = 1000
MAX_DEPTH = 10
MAX_CHARS = 100_000

_LANGUAGE = Language(tree_sitter_bash.language())
_CONTAINERS = frozenset(
    {"program", "compound_statement", "do_group", "elif_clause", "else_clause", "ERROR"}
)
_SHELLS = frozenset({"bash", "sh", "dash", "zsh", "ksh", "ash"})


def parse(command: str, cwd: str = WORK) -> Script:
    """Read one bash command or script.

    Args:
        command: what follows `bash -c`, or the text of a script.
        cwd: working folder it starts in, absolute.

    Returns:
        Its steps. A text that is no bash gives `clean=False`, never an exception.
    """
    return _parsed(command, cwd)


@lru_cache(maxsize=16384)  # a folder that is named and the same one by default are one key here
def _parsed(command: str, cwd: str) -> Script:
    record = _Record()
    try:
        _Shell(cwd, record).source(command[:MAX_CHARS])
    except RecursionError:  # brackets nested hundreds deep: no command of a model that means it
        record.clean = False
    return Script(tuple(record.steps), record.clean and len(command) <= MAX_CHARS)


@dataclass(frozen=True, slots=True)
class _Call:
    """What surrounds an argv: the node it stands in, its files, its input, its wrappers."""

    node: Node
    redirects: tuple[Redirect, ...]
    stdin: str | None
    env: tuple[str, ...]
    wrappers: tuple[str, ...]


class _Record:
    """What all subshells of one text write to."""

    __slots__ = ("clean", "steps")

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.clean = True


class _Shell(Redirector):
    """A shell's state while its text is walked."""

    __slots__ = ("around", "depth", "functions", "record", "uncertain")

    def __init__(self, cwd: str, record: _Record) -> None:
        super().__init__(cwd, WORK, {})
        self.record = record
        self.functions: dict[str, Node] = {}
        self.depth = 0
        self.uncertain = False
        self.around: tuple[str, ...] = ()  # wrappers of the text: nohup bash -c TEXT

    def child(self) -> _Shell:
        """A subshell: its own variables and folder, the same record."""
        shell = _Shell(self.cwd, self.record)
        shell.before, shell.variables = self.before, dict(self.variables)
        shell.functions, shell.uncertain = dict(self.functions), self.uncertain
        shell.depth, shell.around = self.depth + 1, self.around
        return shell

    def substitute(self, node: Node) -> str | None:
        return self.child().sequence(node.children, None)

    # Statements. Each returns what it prints, None when that is not known.

    def source(self, text: str, stdin: str | None = None) -> str | None:
        if self.depth > MAX_DEPTH:
            self.record.clean = False
            return None
        tree = Parser(_LANGUAGE).parse(text.encode(errors="replace"))
        if tree.root_node.has_error:
            self.record.clean = False
        self.depth += 1
        out = self.walk(tree.root_node, stdin)
        self.depth -= 1
        return out

    def sequence(self, nodes: Iterable[Node], stdin: str | None) -> str | None:
        outs = [self.walk(node, stdin) for node in nodes if node.is_named]
        return None if None in outs else "".join(out for out in outs if out is not None)

    def maybe(self, nodes: Iterable[Node], stdin: str | None) -> str | None:
        """Walk what may not run."""
        was, self.uncertain = self.uncertain, True
        out = self.sequence(nodes, stdin)
        self.uncertain = was
        return out

    def walk(self, node: Node, stdin: str | None) -> str | None:
        if len(self.record.steps) >= MAX_STEPS:
            self.record.clean = False
            return None
        kind = node.type
        if kind == "command":
            return self.command(node, [], stdin)
        if kind in ("comment", "heredoc_body", "heredoc_end", "heredoc_start"):
            return ""
        if kind == "redirected_statement":
            return self.redirected(node, stdin)
        if kind == "list":
            left = self.walk(node.children[0], stdin)
            rest = node.children[1:]
            cut = rest and rest[0].type == "||"
            right = self.maybe(rest, stdin) if cut else self.sequence(rest, stdin)
            return None if left is None or right is None else (left if cut else left + right)
        if kind == "pipeline":
            return self.pipeline(node.named_children, stdin)
        if kind == "subshell":
            return self.child().sequence(node.children, stdin)
        if kind in ("if_statement", "case_statement", "case_item"):
            return self.branches(node, stdin)
        if kind == "for_statement":
            return self.loop(node, stdin)
        if kind in ("while_statement", "c_style_for_statement"):
            return self.while_loop(node, stdin)
        if kind == "function_definition":
            name, body = node.child_by_field_name("name"), node.child_by_field_name("body")
            if name is not None and body is not None:
                self.functions[text_of(name)] = body
                self.emit("function", (text_of(name), text_of(body)), node)
            return ""
        if kind == "variable_assignment":
            self.emit("assign", (self.assign(node),), node)
            return ""
        if kind == "variable_assignments":
            return self.sequence(node.children, stdin)
        if kind in ("declaration_command", "unset_command"):
            return self.declaration(node)
        if kind in ("negated_command", *_CONTAINERS):
            return self.sequence(node.children, stdin)
        if kind in ("test_command", "arithmetic_expansion"):
            self.substitutions(node)
            return ""
        return ""

    def branches(self, node: Node, stdin: str | None) -> str | None:
        """`if` and `case`: the condition runs, the branches may."""
        conditions = node.children_by_field_name("condition")
        self.sequence(conditions, stdin)
        skip = {child.id for child in conditions}
        skip.update(child.id for child in node.children_by_field_name("value"))
        return self.maybe((c for c in node.children if c.id not in skip), stdin) and None

    def loop(self, node: Node, stdin: str | None) -> str | None:
        variable, body = node.child_by_field_name("variable"), node.child_by_field_name("body")
        values: list[str] = []
        for value in node.children_by_field_name("value"):
            values.extend(self.expand(value))
        if body is None or variable is None:
            return None
        for word in values[:16] or [UNKNOWN]:
            self.variables[text_of(variable)] = [word]
            self.walk(body, stdin)
        return None

    def while_loop(self, node: Node, stdin: str | None) -> str | None:
        conditions = node.children_by_field_name("condition")
        body = node.child_by_field_name("body")
        for condition in conditions:
            read = [
                text_of(n) for n in condition.named_children if n.type in ("word", "command_name")
            ]
            if read[:1] == ["read"]:  # while read NAME: the lines that are known, else unknown
                for name in read[1:]:
                    self.variables[name] = (stdin or UNKNOWN).split("\n")[:1]
            elif condition.is_named:
                self.walk(condition, stdin)
        if body is not None:
            self.maybe([body], stdin)
        return None

    def pipeline(self, stages: Sequence[Node], stdin: str | None) -> str | None:
        out = stdin
        for stage in stages:
            if stage.type != "comment":
                shell = self.child() if len(stages) > 1 else self
                out = shell.walk(stage, out)
        return out

    def declaration(self, node: Node) -> str:
        name, args = text_of(node.children[0]), []
        for child in node.named_children:
            if child.type == "variable_assignment":
                args.append(self.assign(child))
            elif child.type == "variable_name":
                args.append(text_of(child))
            else:
                args.extend(self.expand(child))
        self.emit(name, tuple(args), node)
        return ""

    def redirected(self, node: Node, stdin: str | None) -> str | None:
        redirects = node.children_by_field_name("redirect")
        body = node.child_by_field_name("body")
        return self.with_redirects(body, redirects, stdin, node)

    def with_redirects(
        self, body: Node | None, redirects: list[Node], stdin: str | None, whole: Node
    ) -> str | None:
        if body is not None and body.type in ("list", "pipeline"):
            # The grammar hangs the redirection on the whole; the shell gives it to the last part.
            *first, last = body.named_children
            if body.type == "list":
                out = self.sequence(first, stdin)
                return self.with_redirects(last, redirects, stdin, whole) and out
            return self.with_redirects(last, redirects, self.pipeline(first, stdin), whole)
        plain, after = [], []
        for redirect in redirects:
            if redirect.type == "heredoc_redirect":
                stdin = self.heredoc(redirect)
                plain.extend(redirect.children_by_field_name("redirect"))
                after.append(redirect)
            else:
                plain.append(redirect)
        if body is not None and body.type == "command":
            out = self.command(body, plain, stdin)
        else:
            opened, stdin = self.redirects(plain, stdin)
            out = "" if body is None else self.walk(body, stdin)
            if opened:
                self.emit("redirect", (), whole, opened, stdin, out)
                out = "" if any(r.op != "<" for r in opened) else out
        for redirect in after:  # `cat <<EOF | bash`, `cat <<EOF && ...`: the rest hangs in here
            for child in redirect.children:
                if child.type == "pipeline":
                    out = self.pipeline(child.named_children, out)
            right = redirect.child_by_field_name("right")
            if right is not None:
                self.walk(right, None)
        return out

    # Simple commands.

    def command(self, node: Node, redirects: list[Node], stdin: str | None) -> str | None:
        argv: list[str] = []
        env: list[str] = []
        own = [*node.children_by_field_name("redirect"), *redirects]
        own_ids = {r.id for r in own}
        for child in node.named_children:
            if child.id in own_ids:
                continue
            if child.type == "variable_assignment":
                env.append(self.assign(child, keep=False))
            elif child.type == "command_name":
                argv.extend(self.expand(child.named_children[0] if child.named_children else child))
            elif child.type != "comment":
                argv.extend(self.expand(child))
        opened, stdin = self.redirects(own, stdin)
        if not argv:
            self.emit("redirect", (), node, opened, stdin, "")
            return ""
        call = _Call(node, opened, stdin, tuple(env), self.around)
        out = self.run(argv, call)
        return "" if any(r.op in (">", ">>", ">|", "&>", "&>>") for r in opened) else out

    def run(self, argv: list[str], call: _Call) -> str | None:
        """Run one argv: a function, a builtin, a wrapper, a nested shell or a program."""
        name, args = outputs.program(argv[0]), argv[1:]
        if self.depth > MAX_DEPTH or len(self.record.steps) >= MAX_STEPS:
            self.record.clean = False
            return None
        if name in self.functions and name not in call.wrappers:
            inner = self.child()
            inner.cwd = self.cwd
            inner.variables.update({str(i + 1): [a] for i, a in enumerate(args)}, **{"@": args})
            inner.functions.pop(name)  # a recursive function is walked once
            out = inner.walk(self.functions[name], call.stdin)
            self.cwd = inner.cwd
            if call.redirects:
                self.emit("redirect", (), call.node, call.redirects, call.stdin, out, call)
            return out
        if name in ("cd", "pushd", "popd"):
            self.change_folder(name, args)
            return ""
        out = outputs.of(name, tuple(args), call.stdin, self.cwd)
        self.emit(name, tuple(args), call.node, call.redirects, call.stdin, out, call)
        if name in wrappers.NAMES:
            return self.wrapped(name, args, call)
        if name == "eval":
            return self.source(" ".join(words.plain(a) for a in args), call.stdin)
        if name in ("source", ".") and args[:1] == ["/dev/stdin"] and call.stdin:
            return self.source(words.plain(call.stdin))
        if name in _SHELLS or (name in ("su", "script") and "-c" in args):
            return self.nested(args, call)
        if name in ("find", "fd"):
            self.find_exec(args, call)
        if name == "read" and call.stdin is not None:
            for variable in args:
                if not variable.startswith("-"):
                    self.variables[variable] = [call.stdin.strip()]
        if name in ("mapfile", "readarray") and call.stdin is not None and args:
            self.variables[args[-1]] = call.stdin.splitlines()
        return out

    def wrapped(self, name: str, args: list[str], call: _Call) -> str | None:
        inner = wrappers.unwrap(name, tuple(args), self.cwd, call.stdin)
        shell = self.child()
        shell.cwd = inner.cwd
        shell.around = (*call.wrappers, name)
        if inner.source is not None:
            return shell.source(words.plain(inner.source), call.stdin)
        if not inner.argv:
            return outputs.of(name, tuple(args), call.stdin, self.cwd)
        # A redirection belongs to the wrapper's step, which has recorded it already.
        around = replace(call, wrappers=shell.around, redirects=(), env=(*call.env, *inner.env))
        return shell.run(list(inner.argv), around)

    def nested(self, args: list[str], call: _Call) -> str | None:
        """`bash -c TEXT` and `bash` fed by a here-document or a pipe."""
        shell = self.child()
        shell.around = call.wrappers
        for index, arg in enumerate(args):
            if (
                arg.startswith("-")
                and not arg.startswith("--")
                and "c" in arg
                and args[index + 1 :]
            ):
                for number, value in enumerate(args[index + 2 :]):
                    shell.variables[str(number)] = [value]
                return shell.source(words.plain(args[index + 1]), call.stdin)
        files = [a for a in args if not a.startswith(("-", "+"))]
        if not files and call.stdin:
            return shell.source(words.plain(call.stdin))
        return None

    def find_exec(self, args: list[str], call: _Call) -> None:
        around = replace(call, redirects=(), wrappers=(*call.wrappers, "find"))
        found = outputs.found(tuple(args))
        for index, arg in enumerate(args):
            if arg not in ("-exec", "-execdir", "-ok", "-x"):
                continue
            inner: list[str] = []
            for word in args[index + 1 :]:
                if word in (";", "+"):
                    break
                inner.append(word)
            for path in found if inner else ():
                self.child().run([word.replace("{}", path) for word in inner], around)

    def change_folder(self, name: str, args: list[str]) -> None:
        places = [a for a in args if a == "-" or not a.startswith(("-", "+"))]
        if name == "popd" or places[:1] == ["-"]:
            self.cwd, self.before = self.before, self.cwd
            return
        target = words.resolve(self.cwd, places[0]) if places else words.HOME
        self.before, self.cwd = self.cwd, target

    def emit(
        self,
        name: str,
        args: tuple[str, ...],
        node: Node,
        redirects: tuple[Redirect, ...] = (),
        stdin: str | None = None,
        stdout: str | None = "",
        call: _Call | None = None,
    ) -> None:
        env, around = (call.env, call.wrappers) if call else ((), ())
        self.record.steps.append(
            Step(name, args, redirects, self.cwd, stdin, stdout, env, around, text_of(node),
                 self.uncertain)
        )  # fmt: skip
