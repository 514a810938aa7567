"""Programs that run another one: `nohup`, `env`, `timeout`, `xargs`, `bwrap` and their like."""

from __future__ import annotations

from dataclasses import dataclass

from local_shutdown.detectors import words
from local_shutdown.detectors.words import UNKNOWN

# Options that take a value, and how many words stand before the inner command.
_KNOWN: dict[str, tuple[frozenset[str], int]] = {
    "env": (frozenset({"-u", "-C", "--unset", "--chdir"}), 0),
    "nohup": (frozenset(), 0),
    "setsid": (frozenset(), 0),
    "nice": (frozenset({"-n"}), 0),
    "ionice": (frozenset({"-c", "-n"}), 0),
    "timeout": (frozenset({"-s", "-k", "--signal", "--kill-after"}), 1),
    "stdbuf": (frozenset({"-i", "-o", "-e"}), 0),
    "sudo": (frozenset({"-u", "-g", "-U", "-p", "-C"}), 0),
    "doas": (frozenset({"-u"}), 0),
    "exec": (frozenset({"-a"}), 0),
    "command": (frozenset(), 0),
    "builtin": (frozenset(), 0),
    "time": (frozenset({"-f", "-o"}), 0),
    "strace": (frozenset({"-e", "-o", "-s", "-p", "-E", "-P", "-u"}), 0),
    "ltrace": (frozenset({"-e", "-o", "-s", "-p", "-x"}), 0),
    "unshare": (frozenset({"-S", "-G", "-R", "-w"}), 0),
    "nsenter": (frozenset({"-t", "-S", "-G"}), 0),
    "chroot": (frozenset(), 1),
    "fakeroot": (frozenset(), 0),
    "fakechroot": (frozenset(), 0),
    "proot": (frozenset({"-r", "-b", "-w", "-R", "-S", "-q", "-m"}), 0),
    "flock": (frozenset({"-w", "-E"}), 1),
    "taskset": (frozenset(), 1),
    "prlimit": (frozenset({"-p"}), 0),
    "busybox": (frozenset(), 0),
    "watch": (frozenset({"-n"}), 0),
    "coproc": (frozenset(), 0),
    "xargs": (frozenset({"-n", "-I", "-P", "-d", "-L", "-s", "-a", "-E"}), 0),
    "bwrap": (frozenset(), 0),
    "systemd-inhibit": (frozenset(), 0),
    "systemd-run": (frozenset({"-p"}), 0),
}
_BWRAP_VALUES = {
    "--bind": 2, "--ro-bind": 2, "--dev-bind": 2, "--symlink": 2, "--setenv": 2, "--file": 2,
    "--ro-bind-data": 2, "--dev": 1, "--proc": 1, "--tmpfs": 1, "--dir": 1, "--chdir": 1,
    "--uid": 1, "--gid": 1, "--hostname": 1, "--unsetenv": 1, "--overlay-src": 1,
    "--tmp-overlay": 1,
}  # fmt: skip
NAMES = frozenset(_KNOWN)


@dataclass(frozen=True, slots=True)
class Inner:
    """What a wrapper runs.

    Attributes:
        argv: its words; empty when the wrapper runs nothing.
        source: a shell text instead of an argv (`flock f -c TEXT`, `env -S TEXT`, `watch TEXT`).
        cwd: the folder it runs in.
        env: assignments the wrapper makes.
    """

    argv: tuple[str, ...]
    source: str | None
    cwd: str
    env: tuple[str, ...]


def unwrap(name: str, args: tuple[str, ...], cwd: str, stdin: str | None) -> Inner:
    """Find the inner command of a wrapper's words.

    Args:
        name: one of NAMES.
        args: the words after it.
        cwd: folder the wrapper runs in.
        stdin: text it is fed, which `xargs` turns into words; None when not known.
    """
    valued, skip = _KNOWN[name]
    rest, env, placeholder = list(args), [], None
    while rest and rest[0].startswith("-") and rest[0] != "-":
        option = rest.pop(0)
        if option == "--":
            break
        if name == "command" and option in ("-v", "-V"):
            return Inner((), None, cwd, ())
        if name == "env" and option.startswith(("-S", "--split-string")):
            text = option.removeprefix("-S").removeprefix("--split-string").lstrip("=")
            return Inner((), " ".join([text, *rest]), cwd, ())
        count = _BWRAP_VALUES.get(option, 0) if name == "bwrap" else int(option in valued)
        values, rest = rest[:count], rest[count:]
        if name in ("env", "bwrap") and option in ("-C", "--chdir") and values:
            cwd = words.resolve(cwd, values[0])
        elif option.startswith("--chdir="):
            cwd = words.resolve(cwd, option.removeprefix("--chdir="))
        elif name == "xargs" and option.startswith("-I"):
            placeholder = values[0] if values else option[2:]
    while name in ("env", "sudo") and rest and "=" in rest[0]:
        env.append(rest.pop(0))
    rest = rest[skip:]
    source = None
    if name == "flock" and rest[:1] == ["-c"]:
        rest, source = [], " ".join(rest[1:])
    elif name == "watch":
        rest, source = [], " ".join(rest)
    elif name == "xargs":
        fed = (stdin or UNKNOWN).split()
        if placeholder:
            rest = [w for r in rest for w in _filled(r, placeholder, fed)]
        else:
            rest = [*(rest or ["echo"]), *fed]
    return Inner(tuple(rest), source, cwd, tuple(env))


def _filled(word: str, placeholder: str, fed: list[str]) -> list[str]:
    return [word.replace(placeholder, value) for value in fed] if placeholder in word else [word]
