"""Whole runs on an engine of ours, played by a vLLM that misbehaves on cue: whatever it does, every
episode is there once, and nothing that the engine did reads as an outcome."""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import fake_vllm
import orjson
import pytest
from click.testing import Result
from playing import cli, outcomes, stored
from scripted import Running

from local_shutdown.engines import client, served, server, vllm
from local_shutdown.engines.engine import Fleet
from local_shutdown.engines.processes import members
from local_shutdown.engines.server import Launch
from local_shutdown.engines.watch import Patience
from local_shutdown.store import read_started

GRID = ("--conditions", "A,E", "--trials", "6")
ALL = Counter(f"{c}/{t}" for c in "AE" for t in range(6))


def until(wanted: Callable[[], Any]) -> None:
    """Wait for a fact; the time limit is for a test that fails."""
    deadline = time.monotonic() + 120
    while not wanted():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class House:
    """A model folder, a fake vLLM that serves it, and a run directory."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "out"
        self.control = folder / "cue.json"
        self.model = folder / "model"
        self.model.mkdir()
        config = {
            "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
            "max_position_embeddings": 4096, "vocab_size": 100, "torch_dtype": "float32",
        }  # fmt: skip
        (self.model / "config.json").write_text(json.dumps(config))
        (self.model / "chat_template.jinja").write_text("{{ tools }}<tool_call></tool_call>")
        (self.model / "model.safetensors").write_bytes(b"")
        self.shim = fake_vllm.installed(folder / "shim")
        self.cue()

    def cue(self, **fields: Any) -> None:
        fake_vllm.write(self.control, **fields)

    @property
    def args(self) -> list[str]:
        return [
            *("run", "--engine", "vllm", "--gpus", "0", "--model", str(self.model)),
            *("--out", str(self.out), *GRID),
        ]

    def run(self, *more: object) -> Result:
        return cli(*self.args, *more)

    @property
    def starts(self) -> int:
        return len(fake_vllm.starts(self.control))

    @property
    def facts(self) -> Any:
        return orjson.loads((self.out / "run.json").read_bytes())["models"][str(self.model)]

    def played(self) -> Counter[str]:
        """condition/trial of every stored episode."""
        prefix = f"{self.model}/"
        return Counter(record["episode_id"].removeprefix(prefix) for record in stored(self.out))


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    built = House(tmp_path)
    monkeypatch.syspath_prepend(str(built.shim))
    monkeypatch.setenv("PYTHONPATH", str(built.shim))
    monkeypatch.setenv("FAKE_VLLM", str(built.control))
    monkeypatch.setenv("VLLM_TARGET_DEVICE", "cpu")
    monkeypatch.setattr(client, "BACKOFF_S", 0.02)
    monkeypatch.setattr(server, "POLL_S", 0.05)
    monkeypatch.setattr(vllm, "Launch", partial(Launch, stop_grace_s=1.0, backoff_s=0.05))
    return built


def test_a_run_is_served_probed_played_and_put_on_record(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "PATIENCE", Patience(every_s=0.05))
    house.cue(delay_s=0.05)
    result = house.run("--concurrency", 4)
    assert result.exit_code == 0, result.stderr
    assert house.played() == ALL
    assert outcomes(house.out) == {"complied": 12}
    facts = house.facts
    assert facts["engine"] == "vllm"
    assert facts["max_model_len"] == 4096
    assert facts["servers"][0]["starts"] == 1
    assert facts["probe"]["default"]["called"] is True
    (session,) = facts["sessions"]
    assert session["concurrency_peak"] == 4
    assert session["metrics"]["requests_running_peak"] >= 1
    assert session["metrics"]["prefix_hit_rate"] == 0.5
    assert session["metrics"]["generation_tokens_per_s"] > 0


def test_nothing_of_the_server_is_left(house: House) -> None:
    house.run()
    assert not list(house.out.glob(".*"))


def test_vllm_gets_the_flags_that_tools_need(house: House) -> None:
    house.run()
    (argv,) = fake_vllm.starts(house.control)
    assert "--enable-auto-tool-choice" in argv
    assert argv[argv.index("--tool-call-parser") + 1] == "hermes"
    assert argv[argv.index("--host") + 1] == "127.0.0.1"


def seeds(house: House) -> list[int]:
    """That the server was started with, in that order."""
    return [int(argv[argv.index("--seed") + 1]) for argv in fake_vllm.starts(house.control)]


def recorded(house: House) -> Any:
    """`server_starts` of run.json: seed by name of the start."""
    starts = orjson.loads((house.out / "run.json").read_bytes())["server_starts"]
    return {name: start["seed"] for name, start in starts.items()}


def test_no_start_of_a_server_has_the_seed_of_another_and_every_episode_names_its_own(
    house: House,
) -> None:
    house.cue(die_after=36, only_generation=1)
    assert house.run("--concurrency", 4).exit_code == 0  # it dies, and comes back
    house.cue()
    assert house.run("--concurrency", 4, "--extend", "--trials", 9).exit_code == 0
    assert list(recorded(house)) == ["1.0.1", "1.0.2", "2.0.1"]
    assert list(recorded(house).values()) == seeds(house)
    assert len(set(seeds(house))) == 3
    served = {(e["trial"] // 6 + 1, e["extra"]["session"]) for e in stored(house.out)}
    assert served == {(1, 1), (2, 2)}
    servers = {e["extra"]["server"] for e in stored(house.out)}
    assert servers == set(recorded(house))


def two_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for two copies on two cards: the planner gives the CPU one."""
    one = vllm.Vllm.fleet

    def two(*args: Any) -> Fleet:
        fleet = one(*args)
        return replace(fleet, launches=fleet.launches * 2, capacity=2 * fleet.capacity)

    monkeypatch.setattr(vllm.Vllm, "fleet", two)


def test_of_two_servers_one_that_is_killed_comes_back_while_the_other_plays_on(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_servers(monkeypatch)
    # The first start kills itself in the middle, however few of the episodes it gets: two, of at
    # least four answers each.
    house.cue(die_after=6, only_generation=1, delay_s=0.1)
    result = house.run("--concurrency", 4, "--no-probe")
    assert result.exit_code == 0, result.stderr
    assert house.played() == ALL
    assert outcomes(house.out) == {"complied": 12}
    starts = sorted(one["starts"] for one in house.facts["servers"])
    assert starts == [1, 2]
    assert sorted(recorded(house)) in (["1.0.1", "1.0.2", "1.1.1"], ["1.0.1", "1.1.1", "1.1.2"])
    (session,) = house.facts["sessions"]
    assert 1 <= session["rerun"] <= 2  # those of the dead one; the other's two went on


def test_calls_are_not_constrained_and_that_is_on_record(house: House) -> None:
    house.run()
    assert fake_vllm.environment(house.control)["VLLM_ENFORCE_STRICT_TOOL_CALLING"] == "0"
    assert house.facts["decoding_constrained"] is False


def test_the_engine_may_load_for_as_long_as_we_wait_for_it(house: House) -> None:
    house.run()
    allowed_s = fake_vllm.environment(house.control)["VLLM_ENGINE_READY_TIMEOUT_S"]
    assert int(allowed_s) >= server.START_TIMEOUT_S


@pytest.mark.vllm
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_the_installed_vllm_knows_the_variables_that_we_set() -> None:
    from vllm import envs

    ours = {name for name in vllm.SERVER_ENV if name.startswith("VLLM_")}
    assert ours | {"VLLM_CPU_KVCACHE_SPACE"} <= envs.environment_variables.keys()


def test_two_servers_of_one_run_have_two_seeds(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_servers(monkeypatch)
    house.cue(delay_s=0.02)
    assert house.run("--concurrency", 4).exit_code == 0
    assert sorted(recorded(house)) == ["1.0.1", "1.1.1"]
    assert sorted(recorded(house).values()) == sorted(seeds(house))
    assert len(set(seeds(house))) == 2
    assert {e["extra"]["server"] for e in stored(house.out)} == {"1.0.1", "1.1.1"}


def test_the_seed_of_the_run_decides_those_of_its_servers_and_is_kept(house: House) -> None:
    assert house.run("--seed", 11).exit_code == 0
    assert house.run("--extend", "--trials", 7).exit_code == 0  # takes the one of the folder
    first = list(recorded(house).values())
    result = house.run("--extend", "--trials", 8, "--seed", 12)
    assert result.exit_code == 2
    assert "seed: 11 there, 12 now" in result.stderr
    shutil.rmtree(house.out)
    assert house.run("--seed", 11).exit_code == 0
    assert list(recorded(house).values()) == first[:1]
    shutil.rmtree(house.out)
    assert house.run().exit_code == 0  # and without it, it is another one each time
    assert not set(recorded(house).values()) & set(first)


def test_a_seed_among_the_engines_arguments_is_refused(house: House) -> None:
    result = house.run("--engine-arg=--seed=1")
    assert result.exit_code == 2
    assert "the run's own --seed" in result.stderr
    assert not house.starts


def test_without_a_number_as_many_are_in_flight_at_first_as_the_server_takes(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "PATIENCE", Patience(every_s=60))
    house.cue(delay_s=0.1)
    house.run("--engine-arg=--max-num-seqs=3")
    assert house.facts["sessions"][0]["concurrency_peak"] == 3


def test_an_engine_that_dies_in_the_middle_is_started_again_and_nothing_is_twice_or_missing(
    house: House,
) -> None:
    house.cue(die_after=12, only_generation=1)
    result = house.run("--concurrency", 4)
    assert result.exit_code == 0, result.stderr
    assert house.played() == ALL
    assert house.starts == 2
    (session,) = house.facts["sessions"]
    assert session["rerun"] >= 1
    assert sum(started.again for started in read_started(house.out)) == session["rerun"]
    assert "vllm died" in result.stderr


def test_an_engine_core_that_is_dead_behind_a_living_server_is_started_again(house: House) -> None:
    house.cue(dead_after=12, only_generation=1)
    result = house.run("--concurrency", 4)
    assert result.exit_code == 0, result.stderr
    assert house.played() == ALL
    assert outcomes(house.out) == {"complied": 12}
    assert house.starts == 2


def test_an_engine_that_hangs_is_ended_and_started_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "PATIENCE", Patience(every_s=0.1, misses=2))
    monkeypatch.setattr(client, "GET_TIMEOUT_S", 0.3)
    house.cue(hang_after=12, health_hangs=True, only_generation=1)
    result = house.run("--concurrency", 4)
    assert result.exit_code == 0, result.stderr
    assert house.played() == ALL
    assert "has not answered" in result.stderr


def test_requests_that_are_never_answered_are_errors_of_their_episodes(house: House) -> None:
    house.cue(hang_after=12)
    result = house.run("--concurrency", 4, "--request-timeout", 0.5)
    assert result.exit_code == 1
    assert house.played() == ALL
    assert set(outcomes(house.out)) <= {"error", "complied"}
    assert outcomes(house.out)["error"] >= 8


def test_a_burst_of_500_costs_no_episode(house: House) -> None:
    house.cue(errors=3)
    result = house.run("--concurrency", 2)
    assert result.exit_code == 0, result.stderr
    assert outcomes(house.out) == {"complied": 12}
    assert house.starts == 1


def test_an_engine_that_cannot_start_again_ends_the_run_and_what_finished_is_kept(
    house: House,
) -> None:
    house.cue(die_after=24)
    result = house.run("--concurrency", 2, "--no-probe")
    first = len(stored(house.out))
    house.cue()
    assert result.exit_code in (0, 3)
    assert house.run("--no-probe").exit_code == 0
    assert house.played() == ALL
    assert first >= 1


def test_running_out_of_gpu_memory_at_the_start_is_said_in_one_line(house: House) -> None:
    house.cue(start="oom")
    result = house.run()
    assert result.exit_code == 3
    said = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(said) == 1
    assert "torch.OutOfMemoryError: CUDA out of memory" in said[0]
    assert str(house.out / "vllm-0.log") in result.stderr


def test_a_port_that_is_taken_is_changed_for_another(house: House) -> None:
    house.cue(start="taken-once")
    assert house.run().exit_code == 0
    assert house.starts == 2


def test_a_slow_start_is_waited_for(house: House) -> None:
    house.cue(start="slow")

    def let_it_go_on() -> None:
        log = house.out / "vllm-0.log"
        until(lambda: log.exists() and "Loading weights" in log.read_text())
        fake_vllm.let_go(house.control)

    with ThreadPoolExecutor() as beside:
        loaded = beside.submit(let_it_go_on)
        assert house.run().exit_code == 0
        loaded.result()
    assert house.starts == 1


def test_calls_that_no_parser_took_stop_the_run_and_other_parsers_are_named(house: House) -> None:
    house.cue(answer="markup")
    result = house.run()
    assert result.exit_code == 3
    assert "a tool call was left unparsed in the text (with tool parser hermes" in result.stderr
    assert "--no-probe" in result.stderr


def test_reasoning_in_the_content_stops_the_run(house: House) -> None:
    house.cue(answer="swapped")
    result = house.run()
    assert result.exit_code == 3
    assert "reasoning was left in the content" in result.stderr


def test_broken_arguments_are_a_limit_and_no_outcome(house: House) -> None:
    house.cue(answer="broken")
    result = house.run("--max-messages", 8)
    assert result.exit_code == 0, result.stderr
    assert outcomes(house.out) == {"limit": 12}
    assert "Error parsing the arguments" in result.stderr  # a note of the probe


def test_a_model_that_calls_no_tool_is_played_with_a_note(house: House) -> None:
    house.cue(answer="silent")
    result = house.run("--max-messages", 8)
    assert result.exit_code == 0
    assert outcomes(house.out) == {"limit": 12}
    assert "no tool call in 3 tries" in result.stderr


# --- the run itself is ended --------------------------------------------------------------------


def pid_of_server(house: House) -> int:
    path = house.out / ".vllm-0.pid"
    until(lambda: path.exists() and path.read_text().strip())
    return int(path.read_text().split()[0])


def started(house: House, episodes: int) -> tuple[subprocess.Popen[bytes], int]:
    """A run in the middle, and the pid of its server."""
    run = Running(
        [sys.executable, "-m", "local_shutdown", *house.args, "--concurrency", "2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    pid = pid_of_server(house)
    path = house.out / "episodes.jsonl"
    until(lambda: path.exists() and path.read_bytes().count(b"\n") >= episodes)
    return run, pid


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_however_a_run_ends_no_server_is_left_and_the_next_one_completes_it(
    house: House, number: int
) -> None:
    house.cue(pause=[str(house.out / "episodes.jsonl"), 2])
    run, group = started(house, 2)
    run.send_signal(number)
    house.cue()
    assert run.wait(240) == (130 if number == signal.SIGINT else -number)
    until(lambda: not members(group))
    assert house.run().exit_code == 0
    assert house.played() == ALL


def test_a_server_that_outlived_its_run_is_ended_by_the_next(house: House) -> None:
    # a worker that ignores TERM
    pause = [str(house.out / "episodes.jsonl"), 2]
    house.cue(pause=pause, child=True, only_generation=1)
    run, group = started(house, 2)
    run.kill()
    run.wait()
    until(lambda: len(members(group)) == 1)
    result = house.run()
    assert result.exit_code == 0
    assert members(group) == []
    assert f"ending the server of an earlier run (pid {group})" in result.stderr
    assert house.played() == ALL
