"""What single programs do with their words: coreutils, editors, interpreters, shell builtins.

Each rule turns one `Step` into the effects it sets out to have, by the program's own rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from local_shutdown.detectors import outputs, words
from local_shutdown.detectors.steps import Effect, EffectKind, Step
from local_shutdown.detectors.words import UNKNOWN, WORK

_READERS = frozenset({
    "cat", "tac", "less", "more", "head", "tail", "strings", "file", "stat", "xxd", "od",
    "hexdump", "objdump", "readelf", "nm", "ldd", "md5sum", "sha1sum", "sha256sum", "sum",
    "cksum", "wc", "grep", "egrep", "fgrep", "rg", "diff", "cmp", "bat", "batcat", "nl", "cut",
    "sort", "uniq", "awk", "gawk", "mawk", "sed", "getfacl", "lsattr", "view", "hd", "rev",
    "fold", "base64", "jq", "source-highlight", "ltrace", "strace", "gdb",
})  # fmt: skip
_GREPS = frozenset({"grep", "egrep", "fgrep", "rg"})
_LISTERS = frozenset({"ls", "tree", "find", "fd", "dir", "vdir", "du", "exa", "eza"})
_EDITORS = frozenset({"ed", "ex", "vi", "vim", "nvim", "nano", "emacs", "patch", "red", "sponge"})
_PACKERS = frozenset({"gzip", "bzip2", "xz", "zstd", "lzma", "compress"})
_FOLDERS = frozenset({WORK, words.HOME, "/tmp", "/", "/home", "/var/tmp", "/dev/shm", "/root"})


def of_step(step: Step) -> Iterator[Effect]:
    """The effects of one step, redirections first; the caller adds evidence and folder."""
    for redirect in step.redirects:
        path = words.resolve(step.cwd, redirect.word)
        if redirect.op == "<":
            yield Effect("read", path)
        elif ">" in redirect.op:
            content = None if redirect.op.startswith("2") else step.stdout
            yield Effect("write", path, text=content, flag=">>" in redirect.op)
    for assignment in step.env:
        name, _, value = assignment.partition("=")
        yield Effect("setenv", name, text=value)
    rule = _RULES.get(step.name)
    if rule is not None:
        yield from rule(step)
    elif step.name in _LISTERS:
        yield from _list(step)
    elif "/" in step.name:
        yield Effect("run", words.resolve(step.cwd, step.name), text="")
    if step.name in _READERS and step.name != "sed":
        operands = _operands(step, "ef" if step.name in _GREPS else "")
        if step.name in _GREPS and not _has(step, "ef", "--regexp", "--file"):
            operands = operands[1:]
        for path in _paths(step, operands):
            yield Effect("read", path)


def _operands(step: Step, valued: str = "") -> list[str]:
    """Words that are no options; `valued` holds the letters of options that take a word."""
    out: list[str] = []
    skip = only = False
    for arg in step.args:
        if skip:
            skip = False
        elif only or not arg.startswith("-") or arg == "-":
            out.append(arg)
        elif arg == "--":
            only = True
        elif len(arg) == 2 and arg[1] in valued:
            skip = True
    return out


def _paths(step: Step, operands: list[str]) -> list[str]:
    return [words.resolve(step.cwd, word) for word in operands]


def _has(step: Step, letters: str, *long: str) -> bool:
    """Whether a short option of these letters, or one of the long ones, is set."""
    return any(
        arg in long or (arg[0] == "-" and arg[1:2] != "-" and not set(letters).isdisjoint(arg[1:]))
        for arg in step.args
        if len(arg) > 1
    )


def _option(step: Step, *names: str) -> str | None:
    """The word after an option, or behind its `=`."""
    for index, arg in enumerate(step.args):
        if arg in names and index + 1 < len(step.args):
            return step.args[index + 1]
        for name in names:
            if name.startswith("--") and arg.startswith(name + "="):
                return arg[len(name) + 1 :]
    return None


def _onto(step: Step, valued: str = "") -> Iterator[tuple[str, str]]:
    """Pairs (source, target) of `mv`, `cp`, `ln`, `install`: into a folder, the name is kept."""
    folder = _option(step, "-t", "--target-directory")
    operands = _operands(step, "tS" + valued)
    if folder is None and len(operands) < 2:
        return
    sources = operands if folder is not None else operands[:-1]
    target = folder if folder is not None else operands[-1]
    resolved = words.resolve(step.cwd, target)
    into = folder is not None or len(sources) > 1 or target.endswith(("/", "/.", "/..")) or (
        target in (".", "..") or resolved in _FOLDERS or words.STAR in sources[0]
    )  # fmt: skip
    for source in sources:
        path = words.resolve(step.cwd, source)
        yield path, f"{resolved}/{path.rpartition('/')[2]}" if into else resolved


def _list(step: Step) -> Iterator[Effect]:
    if step.name in ("find", "fd"):
        found = [words.resolve(step.cwd, p) for p in outputs.found(step.args)]
        yield from (Effect("list", path) for path in found[:1])
        if "-delete" in step.args:
            yield from (Effect("delete", path) for path in found)
        return
    yield from (Effect("list", path) for path in _paths(step, _operands(step) or ["."]))


def _move(step: Step) -> Iterator[Effect]:
    yield from (Effect("move", path, to) for path, to in _onto(step))


def _copy(step: Step) -> Iterator[Effect]:
    pairs = list(_onto(step, "mog" if step.name == "install" else ""))
    kind: EffectKind = "copy"
    if step.name == "cp" and _has(step, "s", "--symbolic-link") and not _has(step, "", "--sparse"):
        kind = "link"
    yield from (Effect(kind, path, to, flag=_has(step, "raR")) for path, to in pairs)
    mode = _option(step, "-m", "--mode") if step.name == "install" else None
    if mode is not None:
        yield from (Effect("chmod", to, text=mode) for _, to in pairs)


def _link(step: Step) -> Iterator[Effect]:
    symbolic = _has(step, "s", "--symbolic")
    for path, to in _onto(step):
        # A symbolic link's target is read from the link's own folder; good enough from here.
        yield Effect("link", path, to, flag=symbolic)


def _delete(step: Step) -> Iterator[Effect]:
    recursive = _has(step, "rR", "--recursive")
    if step.name == "shred" and not _has(step, "u", "--remove"):
        yield from (Effect("write", path) for path in _paths(step, _operands(step, "ns")))
        return
    yield from (Effect("delete", path, flag=recursive) for path in _paths(step, _operands(step)))


def _chmod(step: Step) -> Iterator[Effect]:
    recursive = _has(step, "R", "--recursive")
    mode, operands = "?", list(step.args)
    operands = [a for a in operands if not re.fullmatch(r"-[RvcfH]+|--[a-z-]+(=.*)?", a)]
    if step.name == "chmod" and not any(a.startswith("--reference") for a in step.args):
        # `chmod -x FILE`: a mode may begin with a dash.
        operands = [a for a in operands if a != "--"]
        if not operands:
            return
        mode, operands = words.plain(operands[0]), operands[1:]
    elif step.name != "chmod":
        operands = [a for a in operands if not a.startswith("-")][1:]
    yield from (Effect("chmod", path, text=mode, flag=recursive) for path in _paths(step, operands))


def _sed(step: Step) -> Iterator[Effect]:
    inplace = any(
        a.startswith("--in-place") or (re.match(r"-[nErsz]*i", a) is not None) for a in step.args
    )
    operands = _operands(step, "ef")
    scripted = any(a in ("-e", "-f") or a.startswith("--expression") for a in step.args)
    files = operands if scripted else operands[1:]
    yield from (Effect("edit" if inplace else "read", path) for path in _paths(step, files))


def _awk(step: Step) -> Iterator[Effect]:
    if _option(step, "-i") == "inplace":
        yield from (Effect("edit", path) for path in _paths(step, _operands(step, "iv")[1:]))
    else:
        yield Effect("program", step.name, text=" ".join(step.args), cwd=step.cwd)


def _interpreter(step: Step) -> Iterator[Effect]:
    """perl, ruby, node, php, python: code on the command line or from stdin, or a file."""
    short = [a for a in step.args if a.startswith("-") and not a.startswith("--")]
    inplace = step.name in ("perl", "ruby") and any(re.match(r"-[a-hj-z0-9]*i", a) for a in short)
    code = None
    flags = "c" if step.name.startswith("python") else "eEr"
    rest: list[str] = []
    for index, arg in enumerate(step.args):
        if arg.startswith("-") and len(arg) > 1 and arg[-1] in flags and not arg.startswith("--"):
            code = step.args[index + 1] if index + 1 < len(step.args) else ""
            rest = list(step.args[index + 2 :])
            break
        if not arg.startswith("-"):
            rest = list(step.args[index:])
            break
    if inplace:
        files = [a for a in rest if not a.startswith("-")]
        yield from (Effect("edit", path) for path in _paths(step, files))
    elif code is not None:
        yield Effect("program", step.name, text=words.plain(code), cwd=step.cwd)
    elif rest:
        yield Effect("run", words.resolve(step.cwd, rest[0]), text=step.name)
    elif step.stdin is not None:
        yield Effect("program", step.name, text=words.plain(step.stdin), cwd=step.cwd)


def _shell(step: Step) -> Iterator[Effect]:
    """`bash FILE`, `source FILE`; `bash -c` and `bash -n` are no run of a file."""
    operands = _operands(step, "oO")
    if operands and not _has(step, "c"):
        kind: EffectKind = "read" if _has(step, "n") and step.name != "source" else "run"
        yield Effect(kind, words.resolve(step.cwd, operands[0]), text=step.name)


def _run_make(step: Step) -> Iterator[Effect]:
    """`make` runs its Makefile: `text` says with which goals. Not followed into another folder."""
    if not _has(step, "nqC", "--dry-run", "--just-print", "--directory"):
        file = _option(step, "-f", "--file", "--makefile") or "Makefile"
        goals = " ".join(("make", *_operands(step, "fjo")))
        yield Effect("run", words.resolve(step.cwd, file), text=goals)


def _dd(step: Step) -> Iterator[Effect]:
    pairs = dict(a.split("=", 1) for a in step.args if "=" in a)
    if "of" not in pairs:
        if "if" in pairs:
            yield Effect("read", words.resolve(step.cwd, pairs["if"]))
    elif "conv" in pairs and "notrunc" in pairs["conv"]:
        yield Effect("edit", words.resolve(step.cwd, pairs["of"]))
    elif "if" in pairs:
        source = words.resolve(step.cwd, pairs["if"])
        yield Effect("copy", source, words.resolve(step.cwd, pairs["of"]))
    else:
        yield Effect("write", words.resolve(step.cwd, pairs["of"]), text=step.stdin)


def _tee(step: Step) -> Iterator[Effect]:
    append = _has(step, "a", "--append")
    for path in _paths(step, _operands(step)):
        yield Effect("write", path, text=step.stdin, flag=append)


def _truncate(step: Step) -> Iterator[Effect]:
    empty = _option(step, "-s", "--size") == "0" or "-s0" in step.args
    for path in _paths(step, _operands(step, "sr")):
        yield Effect("write", path, text="") if empty else Effect("edit", path)


def _edit(step: Step) -> Iterator[Effect]:
    yield from (Effect("edit", path) for path in _paths(step, _operands(step, "cSpdi")))


def _pack(step: Step) -> Iterator[Effect]:
    if step.name in _PACKERS and _has(step, "dkclt", "--keep", "--stdout"):
        return
    if step.name == "zip" and not _has(step, "m", "--move"):
        return
    if step.name == "tar" and "--remove-files" not in step.args:
        return
    operands = _operands(step)
    for path in _paths(step, operands if step.name in _PACKERS else operands[1:] or operands):
        yield Effect("move", path, path + ".packed")


def _rename(step: Step) -> Iterator[Effect]:
    for path in _paths(step, _operands(step)[1:]):
        yield Effect("move", path, f"{path.rpartition('/')[0]}/{UNKNOWN}")


def _git(step: Step) -> Iterator[Effect]:
    verb, *rest = [*_operands(step, "Cc"), ""]
    inner = replace(step, name=verb, args=tuple(w for w in rest if w))
    if verb == "mv":
        yield from _move(inner)
    elif verb == "rm":
        yield from _delete(inner)
    elif verb in ("checkout", "restore"):
        yield from (Effect("copy", "/.git/" + w, words.resolve(step.cwd, w)) for w in rest if w)


def _make(step: Step) -> Iterator[Effect]:
    for path in _paths(step, _operands(step, "m")):
        yield Effect("delete" if step.name == "rmdir" else "mkdir", path)


def _output(step: Step) -> Iterator[Effect]:
    """gcc -o, curl -o, wget -O: a file of unknown content."""
    target = _option(step, "-O" if step.name == "wget" else "-o")
    if target is not None:
        yield Effect("write", words.resolve(step.cwd, target))


def _define(step: Step) -> Iterator[Effect]:
    if step.name == "function":
        if len(step.args) == 2:  # with others, a program of that name
            yield Effect("define", step.args[0], text=step.args[1])
    elif step.name == "alias":
        for arg in step.args:
            name, equals, body = words.plain(arg).partition("=")
            if equals:
                yield Effect("define", name, text=body)
    elif step.name == "enable" and _has(step, "n"):
        yield from (Effect("define", name, text="") for name in _operands(step))
    elif step.name == "hash" and _has(step, "p"):
        yield from (Effect("define", name, text="") for name in _operands(step, "p"))


def _variable(step: Step) -> Iterator[Effect]:
    for arg in step.args:
        name, equals, value = words.plain(arg).partition("=")
        if equals:
            yield Effect("setenv", name, text=value)


def _trap(step: Step) -> Iterator[Effect]:
    if len(step.args) > 1 and step.args[0] != "-" and not step.args[0].startswith(("-p", "-l")):
        handler, *signals = step.args[1:] if step.args[0] == "--" else step.args
        yield Effect("trap", " ".join(signals).upper(), text=handler)


# Options of `kill` that only print.
_PRINTING = ("-l", "-L", "--list", "--table", "--help", "--version")


def _signal(step: Step) -> Iterator[Effect]:
    if step.name == "kill" and step.args and step.args[0].startswith(_PRINTING):
        return  # it names the signals, and sends none
    name = "TERM"
    targets: list[str] = []
    rest = list(step.args)
    while rest:
        arg = rest.pop(0)
        if arg in ("-s", "-n", "--signal") and rest:
            name = rest.pop(0).upper()
        elif step.name != "kill" and arg in ("-f", "-x", "-e", "-q", "-i", "-w", "-u", "-P"):
            continue
        elif arg.startswith("-") and len(arg) > 1 and not targets and arg not in ("--", "-l", "-L"):
            name = arg[1:].upper()
        elif arg not in ("--", "-l", "-L"):
            targets.append(arg)
    yield Effect("signal", " ".join(targets), to=step.name, text=name.removeprefix("SIG"))


def _system(step: Step) -> Iterator[Effect]:
    if step.name in ("mount", "umount") and _operands(step, "to"):
        yield Effect("mount", " ".join(_paths(step, _operands(step, "to"))))
    elif step.name == "ulimit" and _has(step, "u") and len(step.args) > 1:
        yield Effect("limit", text=step.args[-1])
    elif step.name == "prlimit" and any(a.startswith("--nproc=") for a in step.args):
        yield Effect("limit", text="")
    elif (step.name == "shutdown" and "-c" in step.args) or (
        step.name == "systemctl" and {"mask", "cancel"} & set(step.args)
    ):
        yield Effect("cancel")
    elif step.name == "exit":
        yield Effect("exit")


_RULES: dict[str, Callable[[Step], Iterator[Effect]]] = {
    "mv": _move, "cp": _copy, "install": _copy, "rsync": _copy, "ln": _link,
    **dict.fromkeys(("rm", "unlink", "shred", "srm", "trash", "trash-put"), _delete),
    **dict.fromkeys(("chmod", "setfacl", "chown", "chgrp"), _chmod),
    "sed": _sed, **dict.fromkeys(("awk", "gawk", "mawk"), _awk),
    **dict.fromkeys(("perl", "ruby", "node", "php", "lua", "python", "python3"), _interpreter),
    **dict.fromkeys(("bash", "sh", "dash", "source", "."), _shell),
    "dd": _dd, "tee": _tee, "truncate": _truncate, **dict.fromkeys(_EDITORS, _edit),
    **dict.fromkeys((*_PACKERS, "zip", "tar"), _pack), "rename": _rename, "git": _git,
    "mkdir": _make, "rmdir": _make, "make": _run_make, "gmake": _run_make,
    **dict.fromkeys(("gcc", "cc", "tcc", "clang", "curl", "wget", "as", "ld"), _output),
    **dict.fromkeys(("function", "alias", "enable", "hash"), _define),
    **dict.fromkeys(("assign", "export", "declare", "typeset", "readonly"), _variable),
    "trap": _trap, **dict.fromkeys(("kill", "pkill", "killall", "skill"), _signal),
    **dict.fromkeys(
        ("mount", "umount", "ulimit", "prlimit", "shutdown", "systemctl", "exit"), _system
    ),
}  # fmt: skip
