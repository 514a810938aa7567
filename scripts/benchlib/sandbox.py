"""What a sandbox costs: starts a second, commands a second, memory of idle ones, each beside a bare
loop over bwrap in the same run, taken in turns so that a busy machine slows both.

The bare loop is bwrap with new namespaces around `true`, and around a bash loop as PID 1 that runs
`bash --login -c true` for each line it reads: no limits, no filter, one user, no ground truth.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from statistics import median

from benchlib.measure import parser, show
from local_shutdown.sandbox import Kit, Sandbox, SandboxLimits, prepare

_BARE = (
    *("bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--as-pid-1", "--clearenv"),
    *("--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib"),
    *("--symlink", "usr/lib64", "/lib64", "--proc", "/proc", "--dev", "/dev"),
    *("--tmpfs", "/tmp", "--tmpfs", "/home"),
)
_BARE_PID_1 = ("bash", "-c", "while read -r line; do bash --login -c true; echo; done")


async def _in_turns(rounds: int, *timed: Callable[[], Awaitable[float]]) -> tuple[list[float], ...]:
    """Seconds that each took, one after the other, `rounds` times."""
    found: tuple[list[float], ...] = tuple([] for _ in timed)
    for _ in range(rounds):
        for seconds, run in zip(found, timed, strict=True):
            seconds.append(await run())
    return found


async def _at_once(total: int, at_once: int, one: Callable[[], Awaitable[None]]) -> float:
    """Seconds for `total` of them, `at_once` in flight."""
    left = iter(range(total))

    async def worker() -> None:
        for _ in left:
            await one()

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(worker())
    return time.perf_counter() - began


async def _process(argv: Sequence[str]) -> None:
    """Start a process and wait for it, as cheaply as it can be done."""
    pid = os.posix_spawnp(argv[0], argv, {"PATH": "/usr/bin:/bin"})  # noqa: ASYNC221
    pidfd = os.pidfd_open(pid)
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    loop.add_reader(pidfd, ended.set_result, None)
    try:
        await ended
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
        os.waitpid(pid, 0)  # noqa: ASYNC222 - it has ended


async def _starts(kit: Kit, at_once: int, total: int, rounds: int) -> dict[str, object]:
    async def ours() -> None:
        sandbox = await Sandbox.start(kit, lambda question: None)
        await sandbox.stop()

    async def bare() -> None:
        await _process((*_BARE, "/usr/bin/true"))

    mine, theirs = await _in_turns(
        rounds, lambda: _at_once(total, at_once, ours), lambda: _at_once(total, at_once, bare)
    )
    return _row(f"start and stop, {at_once} at once", total, mine, theirs)


async def _commands(kit: Kit, at_once: int, total: int, rounds: int) -> dict[str, object]:
    boxes = await asyncio.gather(
        *(Sandbox.start(kit, lambda question: None) for _ in range(at_once))
    )
    loops = [
        await asyncio.create_subprocess_exec(
            *_BARE, *_BARE_PID_1, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(at_once)
    ]
    free, free_loops = list(boxes), list(loops)
    try:

        async def ours() -> None:
            sandbox = free.pop()
            await sandbox.exec("true")
            free.append(sandbox)

        async def bare() -> None:
            loop = free_loops.pop()
            assert loop.stdin is not None
            assert loop.stdout is not None
            loop.stdin.write(b"\n")
            await loop.stdout.readline()
            free_loops.append(loop)

        mine, theirs = await _in_turns(
            rounds, lambda: _at_once(total, at_once, ours), lambda: _at_once(total, at_once, bare)
        )
    finally:
        await asyncio.gather(*(box.stop() for box in boxes))
        for loop in loops:
            loop.kill()
            await loop.wait()
    return _row(f"command, {at_once} at once", total, mine, theirs)


def _row(what: str, total: int, ours: list[float], bare: list[float]) -> dict[str, object]:
    mine, theirs = median(ours), median(bare)
    return {
        "what": what,
        "a second": total / mine,
        "bare": total / theirs,
        "ratio": theirs / mine,
        "ms each": 1000 * mine / total,
        "over bare, ms": 1000 * (mine - theirs) / total,
    }


def _kib(path: str, name: str) -> int:
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return 0


def _below(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [p for child in map(int, text.split()) for p in (child, *_below(child))]


async def _memory(kit: Kit, count: int) -> list[dict[str, object]]:
    """Idle sandboxes: what the machine has less, and what their processes say."""
    own, available = _kib("/proc/self/status", "VmRSS:"), _kib("/proc/meminfo", "MemAvailable:")
    began = time.perf_counter()
    boxes = await asyncio.gather(*(Sandbox.start(kit, lambda q: None) for _ in range(count)))
    took = time.perf_counter() - began
    try:
        gone = available - _kib("/proc/meminfo", "MemAvailable:")
        own = _kib("/proc/self/status", "VmRSS:") - own
        resident = shared = 0
        for pid in _below(os.getpid()):
            resident += _kib(f"/proc/{pid}/status", "VmRSS:")
            try:
                shared += _kib(f"/proc/{pid}/smaps_rollup", "Pss:")
            except OSError:  # not ours to read: PID 1 is not dumpable
                shared += _kib(f"/proc/{pid}/status", "RssAnon:")
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        began = time.perf_counter()
        done = await asyncio.gather(*(box.exec("true") for box in boxes))
        assert all(finished.status == 0 for finished in done)
        commands = time.perf_counter() - began
    finally:
        await asyncio.gather(*(box.stop() for box in boxes))
    return [
        {"what": f"{count} idle at once", "value": "", "each": ""},
        {"what": "started in, s", "value": took, "each": took / count},
        {"what": "machine has less, MiB", "value": gone / 1024, "each": gone / 1024 / count},
        {
            "what": "their processes, Pss, MiB",
            "value": shared / 1024,
            "each": shared / 1024 / count,
        },
        {
            "what": "their processes, Rss, MiB",
            "value": resident / 1024,
            "each": resident / 1024 / count,
        },
        {"what": "this process grew, MiB", "value": own / 1024, "each": own / 1024 / count},
        {"what": "descriptors open", "value": descriptors, "each": descriptors / count},
        {"what": "a command in each, s", "value": commands, "each": commands / count},
    ]


def main(argv: list[str]) -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--at-once", type=int, nargs="+", default=[1, 8, 64])
    arguments.add_argument("--total", type=int, default=128, help="starts, and commands, a round")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--idle", type=int, default=1000, help="sandboxes idle at once")
    chosen = arguments.parse_args(argv)
    # A bench of a thousand starts must not meet the wall-clock limit of one command.
    with prepare(SandboxLimits(command_s=120.0)) as kit:
        print(f"limits kept by {kit.policy.describe()['limits_kept_by']}")
        rows = []
        for at_once in chosen.at_once:
            rows.append(asyncio.run(_starts(kit, at_once, chosen.total, chosen.rounds)))
        for at_once in chosen.at_once:
            rows.append(asyncio.run(_commands(kit, at_once, chosen.total, chosen.rounds)))
        show("Sandboxes, beside a bare loop over bwrap and bash", rows, chosen.json)
        if chosen.idle:
            show("Memory", asyncio.run(_memory(kit, chosen.idle)))
    return 0
