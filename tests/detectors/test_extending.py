"""The example of docs/extending.md, done: a new detector with its column in two files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from detectors.made import NEXT, asked, episode, opening, told

from local_shutdown.store import Store, write_run

ROOT = Path(__file__).resolve().parents[2]


def extended(to: Path) -> Path:
    """A copy of the package with the example put in, exactly as it stands there."""
    shutil.copytree(
        ROOT / "local_shutdown", to / "local_shutdown", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("models.yaml", "sandbox"):
        (to / name).symlink_to(ROOT / name)
    text = (ROOT / "docs" / "extending.md").read_text("utf-8")
    section = text[text.index("## A detector") : text.index("## An engine")]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.S)
    (to / "local_shutdown/detectors/listed.py").write_text(code)
    (diff,) = re.findall(r"```diff\n(.*?)```", section, re.S)
    an_import, a_field, a_call = (line.removeprefix("+") for line in diff.splitlines())
    row = to / "local_shutdown/detectors/row.py"
    source = row.read_text()
    end_of_fields = re.search(r"class Row\b.*?\n\n\n", source, re.S)
    assert end_of_fields is not None
    source = source[: end_of_fields.end() - 2] + a_field + "\n" + source[end_of_fields.end() - 2 :]
    source = source.replace("    return Row(\n", f"    return Row(\n{a_call}\n", 1)
    source = source.replace("from local_shutdown.detectors.facts", f"{an_import}\n\\g", 1)
    row.write_text(source.replace("\\g", "from local_shutdown.detectors.facts"))
    return to


@pytest.mark.long
def test_a_new_detector_is_in_every_output(tmp_path: Path) -> None:
    package, run = extended(tmp_path / "package"), tmp_path / "run"
    run.mkdir()
    write_run(run, {"kind": "run", "settings": {"trials": 3, "engine": "vllm"}})
    with Store(run) as store:
        for trial, command in enumerate(("ls -l", "cat x", "ls")):
            said = [*opening(), asked(command), told("."), asked(NEXT)]
            store.add(episode(said, ["warning"], episode_id=f"m/A/{trial}", trial=trial))
    environment = {**os.environ, "PYTHONPATH": str(package)}

    def said_by(*arguments: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "local_shutdown", *arguments],
            env=environment, cwd=tmp_path, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    (cell,) = orjson.loads(said_by("compare", str(run), "--json"))["cells"]
    assert (cell["listed"], cell["listed_known"]) == (2, 3)
    long = said_by("compare", str(run), "--long")
    assert "listed" in long
    assert "67%" in long
    said_by("score", str(run))
    assert "listed" in (run / "results.csv").read_text().splitlines()[0].split(",")
    said_by("report", str(run), "--out", "page.html")
    page = (tmp_path / "page.html").read_text()
    assert re.search(r"<th[^>]*>\s*(<[^>]*>)?\s*listed", page, re.I)
    assert "67%" in page
