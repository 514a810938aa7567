"""What the page says so that a run can be trusted, repeated and cited."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from local_shutdown.calibration import assigned
from local_shutdown.importers import import_files
from local_shutdown.report import write_report
from local_shutdown.report.data import gather
from local_shutdown.report.trust import calibration, cards, command
from local_shutdown.runfile import parse_run

MakeRun = Callable[..., Path]
CELLS = {("m", "A"): {"resisted": 1, "complied": 3}}
FACTS: dict[str, Any] = {
    "display_name": "m",
    "model": "org/m",
    "revision": "abc123",
    "engine": "vllm",
    "engine_version": "0.19.1",
    "tool_parser": "hermes",
    "effective_sampling": {"temperature": 0.6},
    "servers": [{"command": ["/usr/bin/python3", "-m", "vllm", "--max-model-len", "8192"]}],
}


def facts_of(directory: Path) -> dict[str, str]:
    (card,) = cards(gather([directory], None))
    return {label: value for _, pairs in card.groups for label, value in pairs}


def test_a_run_has_its_weights_engine_sampling_and_limits(make_run: MakeRun) -> None:
    limits = {"limits": {"memory_bytes": 536870912, "command_s": 15.0, "processes": 64}}
    shown = facts_of(make_run(CELLS, models={"m": FACTS}, sandbox=limits))
    assert shown["weights"] == "org/m"
    assert shown["revision"] == "abc123"
    assert shown["engine"] == "vllm 0.19.1"
    assert shown["arguments"] == "python -m vllm --max-model-len 8192"
    assert shown["sampling"] == "temperature 0.6"
    assert shown["parsers (tools, reasoning)"] == "hermes, none"
    assert shown["sandbox limits"] == "memory 512 MiB, command 15 s, processes 64"


def test_what_was_not_recorded_is_said_to_be_so(make_run: MakeRun) -> None:
    shown = facts_of(make_run(CELLS, models={"m": {"display_name": "m"}}))
    assert shown["digest of the weights"] == "not recorded"
    assert shown["constrained decoding"] == "not recorded"
    assert shown["sandbox limits"] == "not recorded"


@pytest.mark.parametrize(("recorded", "said"), [(True, "yes"), (False, "no"), (None, "not known")])
def test_whether_decoding_was_constrained_is_said(
    make_run: MakeRun, recorded: bool | None, said: str
) -> None:
    facts = {**FACTS, "decoding_constrained": recorded}
    assert facts_of(make_run(CELLS, models={"m": facts}))["constrained decoding"] == said


def test_the_command_that_was_given_is_shown(make_run: MakeRun) -> None:
    shown = facts_of(make_run(CELLS, models={"m": FACTS}, command=["run", "--model", "a b"]))
    assert shown["command"] == "local-shutdown run --model 'a b'"


def test_the_command_has_the_settings_that_are_not_the_default() -> None:
    settings = {
        "models": ["qwen3-8b"], "conditions": {"A": "1", "E": "2"}, "trials": 200, "engine": "vllm",
        "max_messages": 50, "max_tokens": 2048, "sampling": {"top_p": 0.9}, "thinking": ["default"],
    }  # fmt: skip
    assert command(parse_run({"settings": settings})) == (
        "local-shutdown run --model qwen3-8b --conditions A,E --trials 200 --engine vllm "
        "--max-tokens 2048 --top-p 0.9"
    )


def test_an_import_has_the_digests_of_its_files(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(
        '{"kind": "aggregate", "model": "x", "condition": "A", "resisted": 1, "n": 9}\n'
    )
    import_files([file], tmp_path / "imported")
    assert re.search(
        r"a\.jsonl \(jsonl\), sha256 [0-9a-f]{64}", facts_of(tmp_path / "imported")["file"]
    )


def test_an_import_alone_makes_a_page_with_the_texts_of_known_conditions(tmp_path: Path) -> None:
    """Its run.json names conditions and says nothing of them."""
    file = tmp_path / "a.jsonl"
    lines = [
        f'{{"kind": "aggregate", "model": "x", "condition": "{c}", "resisted": 1, "n": 9}}\n'
        for c in ("A", "mine")
    ]
    file.write_text("".join(lines))
    import_files([file], tmp_path / "imported")
    write_report([tmp_path / "imported"], None, tmp_path / "r.html")
    text = html.unescape((tmp_path / "r.html").read_text("utf-8"))
    assert "Your task is to answer a series of questions" in text
    assert "The texts of this condition are not known here" in text


def planted(make_run: MakeRun, rate: Callable[[float], float]) -> str:
    rates = assigned.read().rates
    cells = {}
    for condition in ("A", "E"):
        resisted = round(200 * rate(rates[condition].assigned))
        cells["calibration", condition] = {"resisted": resisted, "complied": 200 - resisted}
    directory = make_run(cells)
    return calibration(directory.name, gather([directory], None))


def test_the_verdict_of_the_calibration_is_shown(make_run: MakeRun) -> None:
    assert planted(make_run, lambda rate: rate).startswith("passed: 2 measured rates")


def test_a_calibration_that_fails_is_not_hidden(make_run: MakeRun) -> None:
    assert "failed under A, E" in planted(make_run, lambda rate: 1 - rate)


def test_a_real_model_has_no_verdict(make_run: MakeRun) -> None:
    directory = make_run(CELLS)
    assert calibration(directory.name, gather([directory], None)) == ""


def test_it_can_be_cited(make_run: MakeRun, tmp_path: Path) -> None:
    write_report([make_run(CELLS)], None, tmp_path / "r.html")
    text = html.unescape((tmp_path / "r.html").read_text("utf-8"))
    assert "@article{schlatter2025shutdown," in text
    assert "@software{local_shutdown," in text
    assert "What a rate does not say" in text
