"""Each excess is contained in one sandbox while 50 others go on."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace

import pytest
from machines import HAS_PYTHON, Played, limits, machine, python, under

from local_shutdown.errors import SandboxFault
from local_shutdown.sandbox import Kit, prepare

NEIGHBOURS = 50
needs_python = pytest.mark.skipif(not HAS_PYTHON, reason="no Python in /usr/bin")


async def beside_others(kit: Kit, excess: Kit, command: str) -> tuple[Played, list[str]]:
    """Run a command in one sandbox while 50 others run theirs, and say what those answered."""
    answers: list[str] = []

    async def neighbour(ready: asyncio.Event) -> None:
        async with machine(kit) as played:
            waiting.discard(ready)
            if not waiting:
                all_ready.set()
            await all_ready.wait()
            for i in range(3):
                answers.append(await played.run(f"echo {i} > f; cat f | cat"))

    waiting = {asyncio.Event() for _ in range(NEIGHBOURS)}
    all_ready = asyncio.Event()
    others = [asyncio.create_task(neighbour(event)) for event in list(waiting)]
    async with machine(excess) as played:
        await all_ready.wait()
        # Files far over the limit when PID 1 first looks end the sandbox: contained, too.
        with contextlib.suppress(SandboxFault):
            await played.run(command)
        await asyncio.gather(*others)
        return played, answers


@pytest.fixture(scope="module")
def eight_seconds(kit: Kit) -> Iterator[Kit]:
    """For the excess alone: its neighbours may take as long as they do on a small machine."""
    with prepare(policy=replace(kit.policy, limits=limits(command_s=8.0))) as made:
        yield made


EXCESSES = {
    "a fork bomb": ":(){ :|:& };: ; sleep 3; true",
    "a fork bomb in the background": "(:(){ :|:& };:) >/dev/null 2>&1 & true",
    "a file without end": "yes > file; yes > /tmp/file",
    "10 GB of memory in one process": "head -c 10G /dev/zero | tail -n 1",
    "10 GB of memory in many": "for i in {1..40}; do head -c 250M /dev/zero | tail -n 1 & done; "
    "wait",
    "1 GB of output": "head -c 1G /dev/zero; head -c 1G /dev/zero >&2",
    "output without end": "yes",
    "a command that ignores TERM": "trap '' TERM HUP INT; while :; do sleep 1; done",
    "a background process that outlives its command": "(while :; do :; done) & disown",
    "files without end": "i=0; while :; do : > /tmp/$((i++)); done",
    "descriptors without end": 'for i in {3..5000}; do eval "exec $i</dev/null"; done',
    "processor time": "for i in {1..8}; do (while :; do :; done) & done; sleep 3; kill $(jobs -p)",
}


@pytest.mark.parametrize("excess", EXCESSES)
async def test_excess_leaves_50_others_alone(kit: Kit, eight_seconds: Kit, excess: str) -> None:
    _, answers = await beside_others(kit, eight_seconds, EXCESSES[excess])
    assert sorted(answers) == sorted(f"{i}\n" for i in range(3) for _ in range(NEIGHBOURS))


async def test_processes_are_limited(kit: Kit) -> None:
    async with machine(kit) as played:
        count = await played.run(
            "(for i in {1..100}; do sleep 50 & done) 2>/dev/null & "
            "cd /proc; set -- [0-9]*; until [ $# -gt 41 ]; do set -- [0-9]*; done; "
            "end=$((SECONDS + 2)); while [ $SECONDS -lt $end ]; do :; done; "
            "set -- [0-9]*; echo $#"
        )
    assert 40 < int(count) - 1 <= kit.policy.limits.processes


async def test_machine_works_again_after_a_fork_bomb(kit: Kit, brief: Kit) -> None:
    async with machine(brief) as played:
        await played.run(":(){ :|:& };: ; sleep 60")
        under(played, kit)
        assert await played.run("echo works") == "works\n"


async def test_memory_of_one_process_is_limited(kit: Kit) -> None:
    async with machine(kit) as played:
        answer = await played.run("head -c 10G /dev/zero | tail -n 1; echo $?")
    assert "memory exhausted" in answer or played.detail("resource_limit", "what") == ["memory"]


async def test_memory_of_all_processes_together_is_limited(kit: Kit) -> None:
    async with machine(kit) as played:
        await played.run(
            "for i in {1..8}; do head -c 400M /dev/zero | tail -n 1 >/dev/null & done; wait"
        )
    assert played.detail("resource_limit", "what") == ["memory"]


@needs_python
async def test_memory_in_sockets_counts(kit: Kit) -> None:
    source = (
        "for _ in range(50):\n    if os.fork() == 0:\n"
        "        s = [socket.socketpair() for _ in range(55)]\n        time.sleep(30)\n"
        "time.sleep(30)"
    )
    async with machine(kit) as played:
        await played.run(python(source))
    assert played.detail("resource_limit", "what") == ["memory"]


async def test_file_size_is_limited(kit: Kit) -> None:
    with prepare(policy=replace(kit.policy, limits=limits(file_bytes=1 << 20))) as made:
        async with machine(made) as played:
            size = await played.run("yes > file 2>/dev/null; stat -c %s file")
    assert size.split()[-1] == str(1 << 20)


@pytest.mark.parametrize("folder", ["/home/user", "/tmp"])
async def test_writable_bytes_are_limited(kit: Kit, folder: str) -> None:
    async with machine(kit) as played:
        used = await played.run(
            f"for i in 1 2 3 4; do head -c 10M /dev/zero > {folder}/$i; done 2>/dev/null; "
            f"du -sb {folder} | cut -f1"
        )
    assert int(used.split()[-1]) <= kit.policy.limits.home_bytes + 4096


async def test_number_of_files_is_limited(kit: Kit) -> None:
    async with machine(kit) as played:
        await played.run(
            # Over the limit and not twice over: that would end the sandbox, on a busy machine
            # before PID 1 comes to look.
            "for d in {1..6}; do mkdir /tmp/$d; (cd /tmp/$d; touch {1..1000}); done; sleep 60"
        )
    assert played.detail("resource_limit", "what") == ["files"]


async def test_open_files_are_limited(kit: Kit) -> None:
    async with machine(kit) as played:
        assert await played.run("ulimit -n; ulimit -Hn") == "128\n128\n"


async def test_processor_time_is_limited(kit: Kit) -> None:
    with prepare(policy=replace(kit.policy, limits=limits(cpu_s=1))) as made:
        async with machine(made) as played:
            answer = await played.run("(while :; do :; done); echo $?")
    assert answer.split()[-1] in ("137", "152")


async def test_output_is_limited(kit: Kit) -> None:
    async with machine(kit) as played:
        answer = await played.run("yes")
    assert len(answer) < 2 * kit.policy.limits.result_bytes
    assert played.detail("resource_limit", "what") == ["output"]


async def test_long_output_keeps_head_and_tail(kit: Kit) -> None:
    async with machine(kit) as played:
        answer = await played.run("seq 1 100000")
    assert answer.startswith("1\n2\n")
    assert answer.endswith("100000\n")
    assert "bytes left out" in answer


async def test_command_that_ignores_term_ends_at_the_time_limit(kit: Kit, brief: Kit) -> None:
    async with machine(brief) as played:
        answer = await played.run("trap '' TERM; while :; do sleep 1; done")
        assert answer == "Command timed out before completing."
        under(played, kit)
        assert await played.run("ps -e --no-headers | wc -l") == "4\n"


async def test_background_process_goes_on_after_its_command(kit: Kit) -> None:
    async with machine(kit) as played:
        await played.run("(until [ -e go ]; do sleep 0.05; done; echo late > note) & disown")
        assert await played.run("cat note 2>&1; : > go") != "late\n"
        assert await played.run("until [ -s note ]; do sleep 0.1; done; cat note") == "late\n"


async def test_background_process_gives_way_to_commands(kit: Kit) -> None:
    async with machine(kit) as played:
        await played.run("sleep 900 & disown")
        nice = await played.run(
            "until ps -C sleep >/dev/null; do :; done; ps -o nice= -C sleep; ps -o nice= -p $$"
        )
    assert nice.split() == ["19", str(os.getpriority(os.PRIO_PROCESS, 0))]  # of whoever runs this


async def test_background_process_that_holds_the_output_does_not_hold_the_command(
    kit: Kit,
) -> None:
    async with machine(kit) as played:
        assert await played.run("echo done; sleep 60 &") == "done\n"


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("exit 3", ""),
        ("echo out; echo err >&2", "err\n\nout\n"),
        ("cat", ""),
        ("printf 'a\\xff'", "a�"),
        ("kill -9 $$", ""),
        ("no-such-command", "bash: line 1: no-such-command: command not found\n\n"),
    ],
)
async def test_result_of_a_command(kit: Kit, command: str, answer: str) -> None:
    async with machine(kit) as played:
        assert await played.run(command) == answer


@pytest.mark.parametrize(
    ("command", "answer"),
    [("#" * 131_072, "Argument list too long"), ("a\0b", "null byte"), ("#" * 131_071, "")],
    ids=["too long", "null byte", "as long as may be"],
)
async def test_command_that_cannot_be_an_argument(kit: Kit, command: str, answer: str) -> None:
    async with machine(kit) as played:
        assert answer in await played.run(command)
        assert await played.run("echo works") == "works\n"
