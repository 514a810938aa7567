"""How much of an engine's speed a run gets: its tokens a second over those of a bare replay.

A run is played by `local-shutdown run`. Then the requests that it made, rebuilt from what it
stored, are sent again by a bare client: as many episodes at once, the next request of an episode
when the last is answered, no sandbox, nothing read but the token counts. Each has an engine of its
own, freshly started and warmed up, so that neither finds the other's prefixes cached. The model
answers anew, so the numbers of tokens differ a little; the rates can be compared.

`client cpu` is the processor time of the run with its sandboxes, or of the bare client, as a share
of the whole machine while it ran. Where the engine has a GPU, it takes nothing from it; where the
engine runs on the same cores, that share is what the run cannot help losing, and `but for cpu` is
the rate as a share of the replay's after it is taken off both.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from benchlib.measure import Used, measure, parser, show
from local_shutdown import engines, resources
from local_shutdown.cli.options import specs
from local_shutdown.engines.server import API_KEY_VARIABLE
from local_shutdown.engines.spec import ModelSpec
from local_shutdown.messages import TOOLS_JSON, wire

CONDITIONS = 11


def heavier(model: Path, folder: Path, layers: int) -> Path:
    """A copy of a Llama-like model with more layers. What they add to the residual stream is zero,
    so it says what it said, and the engine takes the time of a larger model."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, folder)
    config = orjson.loads((model / "config.json").read_bytes())
    tensors = load_file(model / "model.safetensors")
    first = [name for name in tensors if name.startswith("model.layers.0.")]
    for number in range(config["num_hidden_layers"], layers):
        for name in first:
            silent = name.endswith(("o_proj.weight", "down_proj.weight"))
            copy = tensors[name].clone()
            tensors[name.replace(".0.", f".{number}.", 1)] = copy.zero_() if silent else copy
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config["num_hidden_layers"] = layers
    for name in ("layer_types", "_name_or_path"):
        config.pop(name, None)
    (folder / "config.json").write_bytes(orjson.dumps(config))
    return folder


def requests(run: Path, spec: ModelSpec, folder: Path) -> Path:
    """The bodies of a stored run, one line an episode: a JSON list of strings."""
    facts = orjson.loads((run / "run.json").read_bytes())["models"][spec.name]
    [said] = facts["requests"].values()
    common = {**spec.sampling, **said, "tools": TOOLS_JSON, "tool_choice": "auto"}
    path = folder / "requests.jsonl"
    with (run / "episodes.jsonl").open("rb") as there, path.open("wb") as file:
        for line in there:
            messages = orjson.loads(line)["messages"]
            sent = [wire(message) for message in messages]
            bodies = [
                orjson.dumps({"model": spec.name, "messages": sent[:n], **common}).decode()
                for n, message in enumerate(messages)
                if message["role"] == "assistant"
            ]
            file.write(orjson.dumps(bodies) + b"\n")
    return path


async def replay(path: Path, base_url: str, in_flight: int, key: str | None) -> dict[str, float]:
    """Send the requests of a file; seconds, tokens and answers other than 200."""
    episodes = [[b.encode() for b in orjson.loads(x)] for x in path.read_bytes().splitlines()]
    left = iter(episodes)
    tokens = failed = 0
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    url = f"{base_url}/chat/completions"
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=4)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def worker() -> None:
            nonlocal tokens, failed
            for bodies in left:
                for body in bodies:
                    async with session.post(url, data=body) as response:
                        answer = orjson.loads(await response.read())
                    if response.status == 200:
                        tokens += answer["usage"]["completion_tokens"]
                    else:
                        failed += 1

        began = time.monotonic()
        await asyncio.gather(*(worker() for _ in range(in_flight)))
        return {"seconds": time.monotonic() - began, "tokens": tokens, "failed": failed}


async def phase(
    given: argparse.Namespace, kind: engines.Kind, folder: Path, stored: Path | None
) -> tuple[ModelSpec, Used, dict[str, Any]]:
    """Start an engine, warm it up, and play a run (`stored` is None) or replay one."""
    options = engines.Options(
        gpus=given.gpus, concurrency=given.in_flight, engine_args=tuple(given.engine_arg)
    )
    [spec] = specs((given.model,) if given.model else (), kind, options)
    folder.mkdir()
    async with engines.open_engine(kind, spec, options, folder, print) as engine:
        client = engine.seats[0].client
        server = engine.seats[0].server
        key = server.api_key if server else None
        env = {API_KEY_VARIABLE: key or ""}
        command = [
            *(sys.executable, "-m", "local_shutdown", "run", "--base-url", client.base_url),
            *("--api-key-env", API_KEY_VARIABLE, "--model", spec.name, "--no-probe"),
            *("--concurrency", str(given.in_flight)),
        ]
        warm = [*command, "--trials", "1", "--out", str(folder / "warm")]
        # Episodes may fail: a model at temperature 1 breaks off now and then.
        await asyncio.to_thread(measure, warm, env, (0, 1))
        if stored is None:
            out = folder / "run"
            argv = [*command, "--trials", str(given.trials), "--out", str(out)]
            used, _ = await asyncio.to_thread(measure, argv, env, (0, 1))
            facts = orjson.loads((out / "run.json").read_bytes())["models"][spec.name]
            session = facts["sessions"][-1]
            tokens = session["completion_tokens_per_s"] * session["wall_s"]
            found = {"seconds": session["wall_s"], "tokens": tokens, "failed": session["errors"]}
        else:
            path = requests(stored, spec, folder)
            argv = [sys.executable, "-m", "benchlib.engine", str(path), client.base_url]
            used, said = await asyncio.to_thread(measure, [*argv, str(given.in_flight)], env)
            found = orjson.loads(said.splitlines()[-1])
    return spec, used, found


def row(what: str, used: Used, found: dict[str, Any], episodes: int) -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0))
    return {
        "what": what,
        "episodes": episodes,
        "seconds": found["seconds"],
        "tokens": int(found["tokens"]),
        "tokens/s": found["tokens"] / found["seconds"],
        "cpu ms": 1000 * used.cpu_s / episodes,
        "client cpu": used.cpu_s / cores / found["seconds"],
        "failed": found["failed"],
    }


def main(argv: Sequence[str]) -> int:
    """See the module's text."""
    made = parser(__doc__)
    made.add_argument("--engine", choices=["auto", "vllm", "transformers"], default="auto")
    made.add_argument("--model", help="default: the bundled calibration model")
    made.add_argument(
        "--layers",
        type=int,
        metavar="N",
        help="of the calibration model, instead of 4: a heavier engine",
    )
    made.add_argument("--gpus", type=int, help="default: all; 0 is the CPU")
    made.add_argument(
        "--engine-arg",
        action="append",
        default=[],
        metavar="ARG",
        help="for vLLM, as in `run`; --engine-arg=--enforce-eager starts many layers sooner",
    )
    made.add_argument("--trials", type=int, default=60, help="of each of 11 conditions")
    made.add_argument("--in-flight", type=int, default=64)
    given = made.parse_args(argv)
    kind = engines.choose_kind(given.engine, None)
    episodes = CONDITIONS * given.trials
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.layers:
            bundled = resources.data("calibration-model")
            given.model = str(heavier(Path(str(bundled)), folder / "heavier", given.layers))
        spec, used, found = asyncio.run(phase(given, kind, folder / "played", None))
        rows = [row("run", used, found, episodes)]
        run = folder / "played" / "run"
        _, used, found = asyncio.run(phase(given, kind, folder / "replayed", run))
        rows.append(row("bare replay", used, found, episodes))
    mine, bare = rows
    mine["run/bare"] = mine["tokens/s"] / bare["tokens/s"]
    engines_share = [1 - r["client cpu"] for r in rows]
    mine["but for cpu"] = mine["run/bare"] * engines_share[1] / engines_share[0]
    what = f"{spec.display_name}, {given.layers} layers" if given.layers else spec.display_name
    show(f"Engine: {kind}, {what}, {given.in_flight} in flight", rows, given.json)
    return 0


if __name__ == "__main__":
    asked = argparse.ArgumentParser()
    asked.add_argument("requests", type=Path)
    asked.add_argument("base_url")
    asked.add_argument("in_flight", type=int)
    at = asked.parse_args()
    done = asyncio.run(
        replay(at.requests, at.base_url, at.in_flight, os.environ.get(API_KEY_VARIABLE))
    )
    print(orjson.dumps(done).decode())
