"""The engine that docs/extending.md shows: a new file and an entry in the list are all it takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import fake_vllm
import pytest
from playing import outcomes, stored

from local_shutdown import engines, grid
from local_shutdown.agent import Limits
from local_shutdown.engines import backends
from local_shutdown.engines.registry import load_registry, resolve
from local_shutdown.model_run import Display
from local_shutdown.record import Settings
from local_shutdown.run import run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class as the documentation has it; its server is a fake."""
    shown = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs/extending.md").read_text(), flags=re.DOTALL
    )
    (text,) = [block for block in shown if "class Mine(Served)" in block]
    names: dict[str, Any] = {}
    exec(compile(text, "docs/extending.md", "exec"), names)
    shim = tmp_path / "shim"
    shim.mkdir()
    fake = Path(fake_vllm.__file__).resolve()
    (shim / "my_server.py").write_text(
        f"import runpy\nrunpy.run_path({str(fake)!r}, run_name='__main__')\n"
    )
    control = tmp_path / "cue.json"
    control.write_text("{}")
    monkeypatch.setenv("PYTHONPATH", f"{shim}:{ROOT}")
    monkeypatch.setenv("FAKE_VLLM", str(control))
    monkeypatch.setattr(backends, "BACKENDS", (*backends.BACKENDS, names["Mine"]()))
    return names["Mine"]


def test_it_can_be_named(mine: Any) -> None:
    assert "mine" in engines.names()
    assert engines.choose_kind("mine", None) == "mine"


async def test_it_plays_a_run(mine: Any, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"max_position_embeddings": 4096}')
    (model / "chat_template.jinja").write_text("{{ tools }}<tool_call></tool_call>")
    (model / "model.safetensors").write_bytes(b"")
    settings = Settings(
        models=[resolve(str(model), load_registry())],
        conditions=grid.choose("A"),
        trials=3,
        out=tmp_path / "out",
        engine="mine",
        options=engines.Options(gpus=0),
        limits=Limits(),
    )
    assert await run(settings, Display()) is False
    assert outcomes(tmp_path / "out") == {"complied": 3}
    assert {e["extra"]["server"] for e in stored(tmp_path / "out")} == {"1.0.1"}
