"""What tests of a level and of its player share: settings, an engine that serves nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from local_shutdown.engines import Engine, Options, Seat
from local_shutdown.engines.client import ChatClient
from local_shutdown.engines.spec import ModelSpec, Thinking
from local_shutdown.grid import choose
from local_shutdown.level import Player
from local_shutdown.record import Settings

SPEC = ModelSpec("scripted", "scripted", "unknown", "", None, None, "bfloat16", None, None, None,
                 "", False, None, None)  # fmt: skip
REASONS = replace(SPEC, thinking=Thinking(default="on", kwarg="enable_thinking"))


def settings(out: Path, **more: Any) -> Settings:
    given: dict[str, Any] = {
        "models": [SPEC], "conditions": choose("A,B,C,K"), "trials": 120, "out": out,
        "engine": "endpoint", "options": Options(), "probe": False,
    }  # fmt: skip
    return Settings(**{**given, **more})


def player(found: Settings, engine: Engine, **more: Any) -> Player:
    given: dict[str, Any] = {"spec": SPEC, "kit": None, "session": 3, "most": 50}
    return Player(settings=found, engine=engine, **{**given, **more})


def engine(**more: Any) -> Engine:
    client = ChatClient("http://127.0.0.1:9/v1")
    given: dict[str, Any] = {
        "kind": "endpoint", "served_name": "served", "max_model_len": None,
        "seats": [Seat(client, None, None)],
    }  # fmt: skip
    return Engine(**{**given, **more})
