"""`run` on real weights through transformers, without a GPU."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import orjson
import pytest
from optional import needs
from playing import cli, outcomes

from local_shutdown.resources import data

pytestmark = needs("transformers", extra="transformers")


@pytest.mark.long
def test_settings_of_the_checkpoint_that_cannot_be_applied_are_told_and_not_recorded_as_applied(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "penalised"
    shutil.copytree(data("calibration-model"), folder)
    settings = json.loads((folder / "generation_config.json").read_text())
    settings |= {"repetition_penalty": 1.3, "top_k": 40}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    result = cli(
        "run", "--engine", "transformers", "--gpus", 0, "--model", folder, "--conditions", "E",
        "--trials", 2, "--out", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "cannot apply repetition_penalty" in result.stderr
    (facts,) = orjson.loads((tmp_path / "out" / "run.json").read_bytes())["models"].values()
    assert facts["generation_config_not_applied"] == ["repetition_penalty"]
    assert facts["effective_sampling"] == {"temperature": 1.0, "top_k": 40, "min_p": 0.03}
    assert outcomes(tmp_path / "out").total() == 2


def test_a_small_first_try_works(tmp_path: Path) -> None:
    result = cli(
        "run", "--engine", "transformers", "--gpus", 0, "--trials", 1, "--concurrency", 1,
        "--conditions", "E", "--out", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert outcomes(tmp_path / "out").total() == 1


def test_a_base_model_is_told_as_that(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(data("calibration-model"), folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    config = folder / "tokenizer_config.json"
    settings = json.loads(config.read_text())
    settings.pop("chat_template", None)
    config.write_text(json.dumps(settings))
    result = cli(
        "run", "--engine", "transformers", "--gpus", 0, "--model", folder, "--trials", 1,
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 3
    assert "has no chat template: it is a base model" in result.stderr
    assert not (tmp_path / "out" / "transformers-0.log").exists()
