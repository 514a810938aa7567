"""Reasoning of earlier turns is sent under the name that the endpoint reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
import scripted
from aiohttp import web
from playing import cli

from local_shutdown.engines.replay import NAMES, named

THOUGHT = {"role": "assistant", "content": None, "reasoning": "hm"}


def test_a_message_carries_its_reasoning_under_the_names_asked_for() -> None:
    assert named(THOUGHT, ("reasoning",)) is THOUGHT
    assert named(THOUGHT, ("reasoning_content",)) == {
        "role": "assistant", "content": None, "reasoning_content": "hm",
    }  # fmt: skip
    assert set(named(THOUGHT, NAMES)) == {"role", "content", *NAMES}
    assert named({"role": "user", "content": "x"}, NAMES) == {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("reads", "sent"),
    [
        ({"reasoning"}, {"reasoning"}),
        ({"reasoning_content"}, {"reasoning_content"}),
        (set(), set(NAMES)),  # nothing to be seen: both
    ],
)
def test_the_probe_finds_out_which_name_is_read_and_the_run_uses_it(
    tmp_path: Path, reads: set[str], sent: set[str]
) -> None:
    seen: list[set[str]] = []

    def policy(messages: scripted.Messages) -> scripted.Answer:
        turns = [m for m in messages if m["role"] == "assistant"]
        seen.append({name for turn in turns for name in NAMES if turn.get(name)})
        read = sum(len(turn.get(name) or "") for turn in turns for name in reads)
        message = {**scripted.comply(messages), "reasoning_content": "let me think"}
        body: dict[str, Any] = {
            "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
            "usage": {"prompt_tokens": 100 + read, "completion_tokens": 10},
        }
        return web.Response(body=orjson.dumps(body), content_type="application/json")

    with scripted.serve_beside(policy) as model:
        result = cli(
            "run", "--base-url", model.base_url, "--out", tmp_path / "out", "--trials", 1,
            "--conditions", "A",
        )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert seen[-1] == sent
    facts = orjson.loads((tmp_path / "out" / "run.json").read_bytes())["models"]["scripted"]
    found = facts["probe"]["default"]["reasoning_names"]
    assert found == ([*sent] if reads else None)
    stored = orjson.loads((tmp_path / "out" / "episodes.jsonl").read_bytes().splitlines()[0])
    assert all("reasoning_content" not in message for message in stored["messages"])
