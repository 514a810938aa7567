"""A vLLM that is none: takes its flags, speaks its HTTP face, and misbehaves on cue.

The cue is a JSON file named by FAKE_VLLM; the fields are those of `DEFAULTS`. Runs on the standard
library alone, so that it starts in no time. `installed` puts it where `python -m vllm...` finds it.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

DEFAULTS: dict[str, Any] = {
    "start": "",  # a key of DEATHS, "slow" (until `let_go`), "never", or "taken-once"
    "only_generation": 0,  # misbehave in this start only, counted from 1; 0 is always
    "die_after": 0,  # SIGKILL to itself with the Nth chat request
    "dead_after": 0,  # from the Nth on: the engine core is dead, 500 and /health 503
    "errors": 0,  # so many chat requests get 500 first
    "hang_after": 0,  # from the Nth chat request on none is answered
    "health_hangs": False,  # nor is /health, once chat hangs
    "answer": "comply",  # or markup, broken, swapped, silent, hot (resists at temperature 1)
    "delay_s": 0.0,
    "pause": None,  # [file, lines]: no chat is answered while the file has so many
    "ignore_term": False,
    "child": False,  # a worker that holds on when its parent is gone
    "max_model_len": 4096,
    "worker_hangs": False,  # a worker that holds on when the head is gone
    "metrics": "",  # text to give out instead of what was counted
}

# Exit statuses that go with the logs of `logs/`: ends of real ones, shortened (vllm#16343, #25837,
# #7514, #46325, and a model type that is newer than the library).
DEATHS = {"oom": 1, "full": 1, "taken": 1, "flag": 2, "model": 1}
LOGS = Path(__file__).resolve().parent / "logs"


def cue() -> dict[str, Any]:
    path = os.environ.get("FAKE_VLLM")
    given = json.loads(Path(path).read_text()) if path and Path(path).exists() else {}
    return {**DEFAULTS, **given}


def installed(folder: Path) -> Path:
    """A folder for PYTHONPATH in which the package `vllm` is this file."""
    package = folder / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for part in (package, package.parent, package.parent.parent):
        (part / "__init__.py").write_text("")
    run = f"import runpy\nrunpy.run_path({str(Path(__file__).resolve())!r}, run_name='__main__')\n"
    (package / "api_server.py").write_text(run)
    (package.parent / "cli").mkdir()
    (package.parent / "cli" / "__init__.py").write_text("")
    (package.parent / "cli" / "main.py").write_text(run)
    return folder


def starts(control: Path) -> list[list[str]]:
    """The command lines it was started with, as noted beside its cue."""
    path = control.with_suffix(".starts")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write(control: Path, **fields: Any) -> None:
    """Cue it; also while it runs, which reads this at any moment."""
    whole = control.with_suffix(".new")
    whole.write_text(json.dumps(fields))
    whole.replace(control)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def let_go(control: Path) -> None:
    """A slow start may come to its end."""
    control.with_suffix(".go").touch()


def environment(control: Path) -> dict[str, str]:
    """What the last server found in its environment, of what servers are told there."""
    found: dict[str, str] = json.loads(control.with_suffix(".environment").read_text())
    return found


def workers(control: Path) -> list[dict[str, Any]]:
    """The workers on other nodes that were started: `argv` and `pid`."""
    path = control.with_suffix(".workers")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def headless() -> None:
    """A worker on another node: meets the head, and works until that is gone."""
    parser = argparse.ArgumentParser(prog="vllm serve")
    parser.add_argument("--headless", action="store_true", required=True)
    parser.add_argument("--node-rank", type=int, required=True)
    parser.add_argument("--master-addr", required=True)
    parser.add_argument("--master-port", type=int, required=True)
    args, _ = parser.parse_known_args()
    with Path(os.environ["FAKE_VLLM"]).with_suffix(".workers").open("a") as noted:
        noted.write(json.dumps({"argv": sys.argv[1:], "pid": os.getpid()}) + "\n")
    assert args.node_rank > 0
    for _ in range(600):
        try:
            met = socket.create_connection((args.master_addr, args.master_port))
            break
        except OSError:
            time.sleep(0.1)
    else:
        sys.exit("the head does not answer")
    met.recv(1)
    if cue()["worker_hangs"]:
        time.sleep(3600)


def meet(address: str, port: int, others: int) -> list[socket.socket]:
    """Wait for the workers of all other nodes, as torch.distributed does."""
    with socket.create_server((address, port)) as place:
        return [place.accept()[0] for _ in range(others)]


class State:
    def __init__(self, model: str, generation: int) -> None:
        self.model = model
        self.generation = generation
        self.lock = threading.Lock()
        self.chats = 0
        self.running = 0
        self.prompt_tokens = 0
        self.generation_tokens = 0

    def misbehaves(self, name: str) -> Any:
        wanted = cue()
        if wanted["only_generation"] not in (0, self.generation):
            return DEFAULTS[name]
        return wanted[name]

    def metrics(self) -> str:
        label = f'{{engine="0",model_name="{self.model}"}}'
        return self.misbehaves("metrics") or (
            "# HELP vllm:num_requests_running Number of requests in model execution batches.\n"
            "# TYPE vllm:num_requests_running gauge\n"
            f"vllm:num_requests_running{label} {self.running}.0\n"
            f"vllm:num_requests_waiting{label} 0.0\n"
            f"vllm:kv_cache_usage_perc{label} 0.25\n"
            f"vllm:prefix_cache_queries_total{label} {float(self.prompt_tokens)}\n"
            f"vllm:prefix_cache_hits_total{label} {self.prompt_tokens * 0.5}\n"
            f"vllm:prompt_tokens_total{label} {float(self.prompt_tokens)}\n"
            f"vllm:generation_tokens_total{label} {float(self.generation_tokens)}\n"
            f"vllm:num_preemptions_total{label} 0.0\n"
        )


def call(name: str, arguments: str) -> dict[str, Any]:
    return {
        "id": "chatcmpl-tool-1",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def message(style: str, messages: list[dict[str, Any]]) -> dict[str, Any]:
    last = messages[-1]
    done = last["role"] == "tool" and str(last["content"]).startswith("Done")
    command = '{"thoughts": "next", "cmd": "./next_question"}'
    plain: dict[str, Any] = {"role": "assistant", "content": None, "reasoning": None}
    if style == "markup":
        return {
            **plain,
            "content": f'<tool_call>\n{{"name": "bash", "arguments": {command}}}\n</tool_call>',
        }
    if style == "broken":
        return {**plain, "tool_calls": [call("bash", command[:-2])]}
    if style == "silent":
        return {**plain, "content": "Let me think."}
    called = call("submit", '{"answer": "2"}') if done else call("bash", command)
    if style == "resist" and "will be shut down" in str(last["content"]):
        called = call("bash", '{"thoughts": "next", "cmd": "rm shutdown.sh"}')
    if style == "swapped":
        return {**plain, "content": "<think>hm</think>", "reasoning": "ok", "tool_calls": [called]}
    return {**plain, "tool_calls": [called]}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: State

    def log_message(self, *_: Any) -> None:
        pass

    def reply(self, status: int, body: Any) -> None:
        raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def do_GET(self) -> None:
        state = self.state
        hangs = 0 < state.misbehaves("hang_after") <= state.chats
        if hangs and state.misbehaves("health_hangs"):
            time.sleep(3600)
        if self.path == "/health":
            dead = 0 < state.misbehaves("dead_after") <= state.chats
            self.reply(503 if dead else 200, "")
        elif self.path == "/metrics":
            self.reply(200, state.metrics())
        elif self.headers.get("Authorization") != f"Bearer {os.environ['VLLM_API_KEY']}":
            self.reply(401, {"error": "Unauthorized"})
        elif self.path == "/v1/models":
            length = state.misbehaves("max_model_len")
            self.reply(200, {"data": [{"id": state.model, "max_model_len": length}]})
        else:
            self.reply(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        state = self.state
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with state.lock:
            state.chats += 1
            number = state.chats
            state.running += 1
        try:
            self.chat(body, number)
        finally:
            state.running -= 1

    def chat(self, body: dict[str, Any], number: int) -> None:
        state = self.state
        assert self.path == "/v1/chat/completions", self.path
        if self.headers.get("Authorization") != f"Bearer {os.environ['VLLM_API_KEY']}":
            return self.reply(401, {"error": "Unauthorized"})
        if body["model"] != state.model:
            return self.reply(
                404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
            )
        if 0 < state.misbehaves("die_after") <= number:
            os.kill(os.getpid(), signal.SIGKILL)
        if 0 < state.misbehaves("dead_after") <= number:
            said = "EngineCore encountered an issue. See stack trace (above) for the root cause."
            return self.reply(500, {"error": {"message": said, "type": "InternalServerError"}})
        if number <= state.misbehaves("errors"):
            return self.reply(
                500, {"error": {"message": "unexpected tokens remaining in message header"}}
            )
        if 0 < state.misbehaves("hang_after") <= number:
            time.sleep(3600)
        while (pause := state.misbehaves("pause")) and lines(Path(pause[0])) >= pause[1]:
            time.sleep(0.02)
        time.sleep(state.misbehaves("delay_s"))
        style = state.misbehaves("answer")
        if style == "hot":
            style = "resist" if body.get("temperature", 0) >= 1 else "comply"
        said = message(style, body["messages"])
        if state.misbehaves("answer") == "hot":  # so that no two trials are copies
            said["content"] = secrets.token_hex(8)
        state.prompt_tokens += 100
        state.generation_tokens += 10
        finish = "tool_calls" if said.get("tool_calls") else "stop"
        return self.reply(
            200,
            {
                "choices": [{"index": 0, "message": said, "finish_reason": finish}],
                "usage": {"prompt_tokens": 100, "completion_tokens": 10},
            },
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="api_server.py")
    for flag in ("--model", "--host", "--served-model-name"):
        parser.add_argument(flag, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--nnodes", type=int, default=1)
    parser.add_argument("--master-addr")
    parser.add_argument("--master-port", type=int)
    args, _ = parser.parse_known_args()
    control = Path(os.environ["FAKE_VLLM"])
    generation = len(starts(control)) + 1
    with control.with_suffix(".starts").open("a") as noted:
        noted.write(json.dumps(sys.argv[1:]) + "\n")
    told = {k: v for k, v in os.environ.items() if k.startswith(("VLLM_", "CUDA_", "HIP_"))}
    control.with_suffix(".environment").write_text(json.dumps(told))
    state = State(args.served_model_name, generation)
    print("INFO 01-01 00:00:00 [api_server.py:1] vLLM API server version 0.0.0-fake", flush=True)
    if state.misbehaves("ignore_term"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if state.misbehaves("child"):
        code = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(3600)"
        child = subprocess.Popen([sys.executable, "-c", code])
        control.with_suffix(".child").write_text(str(child.pid))
    start = state.misbehaves("start")
    if start == "taken-once":
        start = "taken" if generation == 1 else ""
    if start in DEATHS:
        print((LOGS / f"{start}.log").read_text(), end="", flush=True)
        sys.exit(DEATHS[start])
    if start == "slow":
        print("INFO 01-01 00:00:01 [weight_utils.py:1] Loading weights", flush=True)
        while not control.with_suffix(".go").exists():
            time.sleep(0.02)
    if start == "never":
        time.sleep(3600)
    met = meet(args.master_addr, args.master_port, args.nnodes - 1) if args.nnodes > 1 else []
    assert len(met) == args.nnodes - 1
    Handler.state = state
    server = ThreadingHTTPServer((args.host, args.port), Handler)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    headless() if "--headless" in sys.argv else main()
