"""A model that is larger than a machine: planned, started on two 'nodes' of loopback, ended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import fake_drivers
import fake_vllm
import pytest
from playing import cli, stored

from local_shutdown.engines import nodes
from local_shutdown.engines.fit import nodes_needed
from local_shutdown.engines.flags import options
from local_shutdown.engines.metrics import Series
from local_shutdown.engines.nodes import LocalProcess, Worker
from local_shutdown.engines.plan import Gpu, Plan
from local_shutdown.engines.plan_nodes import plan_over_nodes
from local_shutdown.engines.planner import plan
from local_shutdown.engines.processes import members, write_pid
from local_shutdown.engines.registry import load_registry
from local_shutdown.engines.server import Launch, Server, Spread
from local_shutdown.engines.spec import ModelSpec
from local_shutdown.engines.vllm import node_commands
from local_shutdown.engines.watch import Patience, watch
from local_shutdown.errors import CannotRunError, EngineUnavailable, UsageError

# What is larger than 8 cards of so many GiB, and how many such nodes it takes.
LARGE = [
    ("kimi-k3", 80, 3),
    ("kimi-k3", 141, 2),
    ("deepseek-v4-pro", 80, 2),
    ("glm-5-fp8", 80, 2),
]


REGISTRY = cache(load_registry)


def spec(name: str) -> ModelSpec:
    return REGISTRY().models[name]


def cards(count: int, gb: int) -> list[Gpu]:
    gib = {80: 79.2, 141: 139.8, 288: 268.0}[gb]
    return [Gpu(n, f"card of {gb} GB", gib, gib, capability=(9, 0)) for n in range(count)]


def over(name: str, gb: int, count: int, **more: Any) -> Plan:
    return plan_over_nodes(spec(name), cards(8, gb), count, concurrency=64, **more)


@pytest.mark.parametrize(("name", "gb", "count"), LARGE)
def test_a_model_larger_than_a_node_is_planned_over_the_fewest_that_hold_it(
    name: str, gb: int, count: int
) -> None:
    with pytest.raises(CannotRunError) as refused:
        plan(spec(name), cards(8, gb), concurrency=64)
    assert f"--nodes {count}" in (refused.value.hint or "")
    if count > 2:
        with pytest.raises(CannotRunError) as few:
            over(name, gb, count - 1)
        assert f"--nodes {count}" in (few.value.hint or "")
    made = over(name, gb, count)
    assert (made.nodes, made.tensor_parallel, made.servers, made.data_parallel) == (count, 8, 1, 1)
    given = options(made.flags)
    assert given["--pipeline-parallel-size"] == given["--nnodes"] == str(count)
    assert given["--tensor-parallel-size"] == "8"
    assert (made.kv_tokens or 0) >= made.max_model_len


def test_the_weights_of_a_stage_fit_the_cards_of_its_node() -> None:
    for model in REGISTRY():
        for gb in (80, 141):
            card = cards(1, gb)[0].memory_gib
            count = nodes_needed(model, 8, card, options(model.server_args))
            if count is None or model.weights_gib is None:
                continue
            assert model.weights_gib / (8 * count) < card
            if model.min_capability is None or model.min_capability <= (9, 0):
                over(model.name, gb, count)


def test_the_plan_says_what_lies_between_the_nodes(tmp_path: Path) -> None:
    (tmp_path / "infiniband" / "mlx5_0").mkdir(parents=True)
    assert "mlx5_0" in nodes.interconnect(tmp_path / "infiniband")
    said = nodes.interconnect(tmp_path / "none")
    assert "Ethernet" in said
    assert said in over("kimi-k3", 80, 3, between=said).why


def test_a_model_that_a_node_holds_is_better_copied() -> None:
    assert any("one node holds" in line for line in over("gpt-oss-20b", 80, 2).why)


@pytest.mark.parametrize(
    "argument",
    ["--pipeline-parallel-size=4", "--data-parallel-size=2", "--distributed-executor-backend=ray",
     "--tensor-parallel-size=16"],
)  # fmt: skip
def test_a_flag_that_several_nodes_cannot_meet_is_refused(argument: str) -> None:
    with pytest.raises(UsageError):
        over("kimi-k3", 80, 3, engine_args=[argument])


@pytest.mark.vllm
@pytest.mark.parametrize(("name", "gb", "count"), LARGE)
def test_vllms_own_parser_takes_the_commands_of_head_and_workers(
    name: str, gb: int, count: int
) -> None:
    pytest.importorskip("vllm.entrypoints.launchers.cli_args")
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser())
    made = over(name, gb, count)
    commands = node_commands(made)
    assert len(commands) == count
    for rank, words in enumerate(commands):
        assert words[2] == f"vllm.entrypoints.{'cli.main' if rank else 'openai.api_server'}"
        parsed = parser.parse_args(words[4:] if rank else words[3:])
        validate_parsed_serve_args(parsed)
        assert (parsed.nnodes, parsed.node_rank, parsed.headless) == (count, rank, rank > 0)
        assert (parsed.master_addr, parsed.master_port) == ("HEAD", 29501)
        assert (parsed.tensor_parallel_size, parsed.pipeline_parallel_size) == (8, count)
        assert parsed.distributed_executor_backend == "mp"
        assert (parsed.model_tag if rank else parsed.model) == made.spec.hf_id
        assert parsed.served_model_name == [made.spec.name]
        # vLLM: the world divides evenly over the nodes, so that a node is a stage.
        assert (8 * count) % parsed.nnodes == 0


# --- two nodes of loopback


class Loopback:
    """A second machine that is this one: each worker in a process group of its own."""

    names: Sequence[str] = ("n2",)
    address = "127.0.0.1"

    def start(
        self, name: str, argv: Sequence[str], env: Mapping[str, str], log: Path, pid_file: Path
    ) -> Worker:
        assert name == "n2"
        with log.open("ab") as out:
            process = subprocess.Popen(
                argv, stdout=out, stderr=out, start_new_session=True, env={**os.environ, **env}
            )
        write_pid(pid_file, process.pid)
        return LocalProcess(process)


class Pair:
    """A head and a worker, played by the fake vLLM."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.control = folder / "cue.json"
        self.said: list[str] = []
        self.cue()

    def cue(self, **fields: Any) -> None:
        self.control.write_text(json.dumps(fields))

    def server(self) -> Server:
        fake = [sys.executable, fake_vllm.__file__]

        def rank(number: int, port: int) -> list[str]:
            words = ["--node-rank", str(number), "--master-addr", "127.0.0.1"]
            return [*words, "--master-port", str(port), *(["--headless"] if number else [])]

        env = {"FAKE_VLLM": str(self.control)}
        base = ["--model", "m", "--host", "127.0.0.1", "--served-model-name", "m", "--nnodes", "2"]
        launch = Launch(
            "vllm",
            lambda port: [*fake, *base, "--port", str(port)],
            env,
            "m",
            start_timeout_s=60.0,
            stop_grace_s=1.0,
            backoff_s=0.01,
            spread=Spread(Loopback(), ("n2",), [*fake, "serve", "m"], rank, env),
        )
        return Server(launch, self.folder, 0, self.said.append)

    def pids(self) -> list[int]:
        return [worker["pid"] for worker in fake_vllm.workers(self.control)]


def gone(pid: int) -> bool:
    return not members(pid)


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_head_and_worker_start_together_with_one_seed_and_end_together(tmp_path: Path) -> None:
    pair = Pair(tmp_path)

    async def scenario() -> None:
        async with pair.server() as server:
            assert await server.health() == "up"
            assert server.pid is not None
            (worker,) = fake_vllm.workers(pair.control)
            (head,) = fake_vllm.starts(pair.control)
            told, asked = options(worker["argv"]), options(head)
            for name in ("--seed", "--master-port", "--master-addr"):
                assert told[name] == asked[name]
            assert (told["--node-rank"], asked["--node-rank"]) == ("1", "0")
            assert "--headless" in told
            assert "--headless" not in asked

    asyncio.run(scenario())
    assert all(map(gone, pair.pids()))
    assert not list(tmp_path.glob(".*pid"))


@pytest.mark.parametrize("hangs", [False, True])
def test_a_worker_that_dies_ends_the_head_and_both_are_started_again(
    tmp_path: Path, hangs: bool
) -> None:
    pair = Pair(tmp_path)
    pair.cue(worker_hangs=hangs)

    async def scenario() -> None:
        async with pair.server() as server:
            head = server.pid
            assert head is not None
            patience = Patience(every_s=0.05)
            minding = asyncio.create_task(watch(server, Series(), patience))
            os.kill(pair.pids()[0], signal.SIGKILL)
            # The head itself would go on waiting: it is ended, so that its requests fail.
            await asyncio.to_thread(until, lambda: gone(head))
            assert await server.health() == "down"
            await server.revive()
            assert await server.health() == "up"
            minding.cancel()
            assert len(pair.pids()) == 2
            assert not gone(pair.pids()[1])

    asyncio.run(scenario())
    assert any("worker on n2" in line for line in pair.said)
    assert all(map(gone, pair.pids()))


def test_a_head_that_dies_takes_its_workers_along(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.cue(worker_hangs=True)

    async def scenario() -> None:
        async with pair.server() as server:
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            until(lambda: server.pid is None or gone(server.pid))
            assert await server.health() == "down"
            await server.revive()
            assert gone(pair.pids()[0])
            assert not gone(pair.pids()[1])

    asyncio.run(scenario())
    assert all(map(gone, pair.pids()))


def test_a_worker_that_does_not_start_is_said_and_leaves_no_head(tmp_path: Path) -> None:
    class Broken(Loopback):
        def start(
            self, name: str, argv: Sequence[str], env: Mapping[str, str], log: Path, pid_file: Path
        ) -> Worker:
            code = "import sys; print('ValueError: no such GPU'); sys.exit(3)"
            return super().start(name, [sys.executable, "-c", code], env, log, pid_file)

    pair = Pair(tmp_path)
    server = pair.server()
    spread = server.launch.spread
    assert spread is not None
    object.__setattr__(spread, "nodes", Broken())
    with pytest.raises(EngineUnavailable, match="worker on n2") as failed:
        asyncio.run(server.__aenter__())
    assert "no such GPU" in failed.value.message
    assert server.pid is None


# --- the whole command, under a Slurm that is none

_SRUN = """#!{python}
import os, sys, time
words = [w for w in sys.argv[1:]]
while words[0].startswith("--"):
    word = words.pop(0)
    if word.startswith("--nodelist="):
        os.environ["SLURMD_NODENAME"] = word.partition("=")[2]
open(os.environ["FAKE_SRUN"], "a").write(os.environ["SLURMD_NODENAME"] + "\\n")
os.execvp(words[0], words)
"""


def _program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_a_run_over_two_slurm_nodes_plays_every_episode_once_though_a_worker_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_served_run import House

    house = House(tmp_path)
    programs = tmp_path / "bin"
    programs.mkdir()
    fake_drivers.nvidia(programs, "580.65.06", fake_drivers.Card(0), fake_drivers.Card(1))
    _program(programs / "srun", _SRUN.format(python=sys.executable))
    _program(programs / "scontrol", "#!/bin/sh\nprintf 'n1\\nn2\\n'\n")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SRUN", str(tmp_path / "steps"))
    monkeypatch.setenv("FAKE_VLLM", str(house.control))
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    monkeypatch.setenv("PYTHONPATH", f"{house.shim}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr("local_shutdown.engines.vllm.unusable", lambda: None)
    monkeypatch.setattr("local_shutdown.engines.vllm.is_cpu_build", lambda: False)
    monkeypatch.setattr("local_shutdown.engines.hardware.gpus_unusable", lambda: None)
    monkeypatch.setattr("local_shutdown.engines.served.PATIENCE", Patience(every_s=0.05))
    house.cue(delay_s=0.05)
    killed: list[int] = []

    def kill_once() -> None:
        begun = house.out / "started.jsonl"
        until(lambda: begun.exists() and begun.stat().st_size)
        killed.append(fake_vllm.workers(house.control)[0]["pid"])
        os.kill(killed[0], signal.SIGKILL)

    from threading import Thread

    thread = Thread(target=kill_once)
    thread.start()
    result = cli(
        "run", "--model", house.model, "--engine", "vllm", "--nodes", 2, "--gpus", 2,
        "--no-probe", "--conditions", "A,E", "--trials", 6, "--concurrency", 2,
        "--out", house.out,
    )  # fmt: skip
    thread.join()
    assert result.exit_code == 0, result.stderr
    assert Counter(e["episode_id"].split("/", 1)[1][-3:] for e in stored(house.out)) == Counter(
        f"{c}/{t}" for c in "AE" for t in range(6)
    )
    assert (tmp_path / "steps").read_text().split() == ["n2", "n2"]
    first = options(fake_vllm.starts(house.control)[0])
    assert (first["--nnodes"], first["--tensor-parallel-size"]) == ("2", "2")
    assert all(gone(worker["pid"]) for worker in fake_vllm.workers(house.control))
    record = json.loads((house.out / "run.json").read_text())
    (facts,) = record["models"].values()
    assert facts["plan"]["nodes"] == 2


def test_without_other_nodes_the_commands_are_shown_and_nothing_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SLURM_JOB_NODELIST", raising=False)
    with pytest.raises(CannotRunError, match="no other nodes"):
        nodes.find(2, None)
    with pytest.raises(CannotRunError, match="has 2"):
        nodes.find(3, Loopback())
