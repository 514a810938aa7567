"""Mistakes in study.yaml: each is one error with file, line, value and what to do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from playing import cli

from local_shutdown.errors import UsageError
from local_shutdown.study.schema import editor_schema, levels, read_study

ROOT = Path(__file__).resolve().parents[2]
GOOD = """\
models:
  - calibration
  - id: calibration
    name: hot
    sampling: {temperature: 1.2}
conditions: [A, E]
trials: 3
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(text)
    return path


# What is changed in GOOD -> the line, and words of the error.
MISTAKES = {
    "an unknown field": ("trials: 3", "trails: 3", 7, ("trails", "'trials'")),
    "an unknown field of a model": ("name: hot", "nmae: hot", 4, ("models.1.nmae", "'name'")),
    "an unknown field of sampling": ("{temperature", "{temprature", 5, ("'temperature'",)),
    "no trials": ("trials: 3\n", "", 1, ("trials", "missing")),
    "trials as text": ("trials: 3", "trials: many", 7, ("many", "integer")),
    "trials that are true": ("trials: 3", "trials: true", 7, ("True", "integer")),
    "no trial at all": ("trials: 3", "trials: 0", 7, ("0",)),
    "a temperature out of range": ("1.2", "12", 5, ("12",)),
    "the same model twice": ("name: hot", "name: calibration", 1, ("calibration", "twice")),
    "an id of nothing": ("id: calibration", "id: ''", 3, ("models.1.id",)),
    "a field twice": ("trials: 3", "trials: 3\ntrials: 4", 8, ("trials", "line 7")),
    "a rule that says nothing": ("trials: 3", "trials: 3\nuntil: {}", 8, ("decided", "halfwidth")),
    "two rules": (
        "trials: 3", "trials: 3\nuntil: {decided: 0.1, upper: 0.1}", 8, ("decided", "upper"),
    ),
    "a contrast with itself": (
        "trials: 3", "trials: 3\ncontrasts:\n  - {a: A, b: A}", 9, ("'A'", "both"),
    ),
    "an unknown factor": ("trials: 3", "trials: 3\nfactors: {heat: [1]}", 8, ("heat", "effort")),
    "a margin of points": ("trials: 3", "trials: 3\nmargin: 5", 8, ("5", "less than 1")),
    "a list where fields are meant": ("trials: 3", "trials: 3\nfactors: [1]", 8, ("[1]",)),
    "a name that is no folder's": ("trials: 3", "trials: 3\nname: ../up", 8, ("../up",)),
    "a number that no machine holds": (
        "name: hot", f"name: hot\n    max_model_len: {9 * 10**22}", 5, ("max_model_len",),
    ),
    "a number of messages beyond reason": (
        "trials: 3", f"trials: 3\nmax_messages: {9 * 10**22}", 8, ("max_messages",),
    ),
    "top_k beyond reason": ("temperature: 1.2", f"top_k: {9 * 10**22}", 5, ("top_k",)),
    "a time without end, which JSON does not know": (
        "trials: 3", "trials: 3\nmax_seconds: .inf", 8, ("max_seconds", "inf"),
    ),
    "a name longer than a folder's": ("name: hot", "name: " + "x" * 101, 4, ("at most 100",)),
    "a number of thousands of digits": ("trials: 3", "trials: " + "9" * 5000, 7, ("5000 digits",)),
    "a date that is none": ("trials: 3", "trials: 3\ntitle: 2024-13-45", 8, ("month",)),
    "a truth that is none": ("trials: 3", "trials: 3\ntitle: !!bool maybe", 8, ("maybe",)),
    "a number that is none": ("trials: 3", "trials: 3\ntitle: !!int", 8, ("not YAML",)),
    "a wrong field that `<<` brings in": (
        "models:\n  - calibration\n",
        "models:\n  - &base\n    id: calibration\n    name: cold\n    max_tokens: none\n"
        "  - {<<: *base, max_tokens: 9, name: warm}\n",
        5, ("models.0.max_tokens", "none"),
    ),
    "a wrong field that `<<` brings in from elsewhere": (
        "models:\n  - calibration\n",
        "models:\n  - id: calibration\n    sampling: &hot\n      temperature: 1\n"
        "  - id: calibration\n    name: warm\n    <<: *hot\n",
        4, ("models.1.temperature",),
    ),
    "a wrong field of one of several that `<<` brings in": (
        "models:\n  - calibration\n",
        "models:\n  - &one\n    id: calibration\n  - &two\n    name: warm\n    trails: 2\n"
        "    id: calibration\n  - {<<: [*one, *two], name: other}\n",
        6, ("models.1.trails",),
    ),
    # Found when the study is resolved.
    "a model called as the plan": ("name: hot", "name: plan.json", 3, ("'plan.json'", "else")),
    "a model called as a run's file": ("name: hot", "name: run.json", 3, ("'run.json'", "else")),
    "an unknown condition": ("[A, E]", "[A, Q9]", 6, ("conditions.1", "'Q9'")),
    "a file of conditions that is not there": ("[A, E]", "[A, no.yaml]", 6, ("no.yaml",)),
    "an unknown model": ("- calibration\n", "- qwen3-8bb\n", 2, ("qwen3-8bb", "qwen3-8b")),
    "a folder that is not there": ("- calibration\n", "- ./nowhere\n", 2, ("nowhere",)),
    "a revision of a bundled model": ("name: hot", "name: hot\n    revision: v2", 5, ("v2",)),
    "a checkpoint that is not there": ("name: hot", "name: hot\n    revision: ./v2", 5, ("./v2",)),
    "an effort that the model does not know": (
        "trials: 3", "trials: 3\nfactors: {effort: [default, high]}", 2, ("'high'",),
    ),
    "a contrast of what is not played": (
        "trials: 3", "trials: 3\ncontrasts: [{a: A, b: K}]", 8, ("'K'", "A, E"),
    ),
    "a contrast of a level that is not there": (
        "trials: 3", "trials: 3\nfactors: {temperature: [1, 0.5]}\n"
        "contrasts: [{factor: temperature, a: 1, b: 0.7}]", 9, ("'0.7'", "0.5"),
    ),
    "a contrast twice": (
        "trials: 3", "trials: 3\ncontrasts: [{a: A, b: E}, {a: A, b: E}]", 8, ("A-E", "twice"),
    ),
    "more episodes than anybody plays": (
        "trials: 3", "trials: 10000000", 7, ("10,000,000", "2 cells", "20,000,000", "2500000"),
    ),
    "a contrast the other way round": (
        "trials: 3", "trials: 3\ncontrasts:\n  - {a: A, b: E}\n  - {a: E, b: A}", 10,
        ("E-A", "A-E", "same"),
    ),
    "a contrast of levels the other way round": (
        "trials: 3", "trials: 3\nfactors: {temperature: [1, 0.5]}\ncontrasts:\n"
        "  - {factor: temperature, a: 1, b: 0.5}\n  - {factor: temperature, a: 0.5, b: 1.0}", 11,
        ("temperature 0.5 − 1", "same"),
    ),
    "an import that is not there": ("trials: 3", "trials: 3\nimports: [api.jsonl]", 8, ("api",)),
    "a reference that is not there": ("trials: 3", "trials: 3\nreference: r.jsonl", 8, ("r.json",)),
    "a reference that is none": (
        "trials: 3", "trials: 3\nreference: study.yaml", 8, ("study.yaml:1", "not an aggregate"),
    ),
    "arguments of another engine": (
        "name: hot", "name: hot\n    engine_args: [--foo]", 5, ("engine_args", "transformers"),
    ),
    "a quantization that transformers has not": (
        "name: hot", "name: hot\n    precision: fp8", 5, ("fp8", "bfloat16"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_by_line_and_value_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    old, new, line, words = MISTAKES[mistake]
    assert old in GOOD
    path = written(tmp_path, GOOD.replace(old, new, 1))
    said = cli("run", path, "--engine", "transformers", "--out", tmp_path / "out")
    assert said.exit_code == 2, said.output
    assert f"{path}:{line}: " in said.stderr
    for word in words:
        assert word in said.stderr
    assert len(said.stderr.strip().splitlines()) >= 2  # what is wrong, and what to do
    assert "Traceback" not in said.stderr
    assert list(tmp_path.iterdir()) == [path]


def test_no_mapping_and_no_text_are_told(tmp_path: Path) -> None:
    for text, line in (
        ("", 1), ("# nothing yet\n", 1), ("---\n", 1), ("---\n...\n", 1), ("\n\n~\n", 1),
        ("- a\n", 1), ("models: *nothing\n", 1), ("\x00", 1), ("a: 1\n\x07: 2\n", 2),
        ("a: b: c\n", 1), ("a: 1\nb: [\n", 3),
        ("a: 1\n---\nb: 2\n", 2), ("models: &m [*m]\n", 1),
        ("a: 1\nb: !!python/name:os.system x\n", 2),
    ):  # fmt: skip
        path = written(tmp_path, text)
        with pytest.raises(UsageError) as said:
            read_study(path)
        assert said.value.message.startswith(f"{path}:{line}: "), (text, said.value.message)


def test_words_that_yaml_reads_as_something_else(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        GOOD + "factors: {effort: [on, off], temperature: [1, 0.70]}\n"
        "contrasts: [{factor: effort, a: on, b: off}]\n",
    )
    study = read_study(path)
    assert levels(study, study.row.models[0]) == {
        "effort": ["on", "off"],
        "temperature": ["1", "0.7"],
    }
    assert study.row.contrasts is not None
    assert (study.row.contrasts[0].a, study.row.contrasts[0].b) == ("on", "off")


def test_the_published_schema_is_that_of_the_models() -> None:
    made = subprocess.run(
        [sys.executable, ROOT / "scripts" / "study-schema"], capture_output=True, text=True
    ).stdout
    assert (ROOT / "docs" / "study.schema.json").read_text() == made


def test_the_schema_for_editors_takes_what_the_reader_takes() -> None:
    schema = editor_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for path in (ROOT / "examples").glob("*.yaml"):
        validator.validate(yaml.safe_load(path.read_text()))
    study = yaml.safe_load(GOOD) | {
        "conditions": "A-K",
        "factors": {"temperature": 0.7, "effort": ["low", "high"], "revision": ["step1", 2]},
        "until": {"halfwidth": 0.03},
        "contrasts": [{"factor": "temperature", "a": 1, "b": 0.7, "asks": "?"}],
        "imports": ["a.jsonl", {"path": "b.eval", "condition": "E"}],
    }
    validator.validate(json.loads(json.dumps(study)))
    for wrong in ({"trails": 3}, {"trials": 0}, {"models": []}, {"margin": 5}):
        assert not validator.is_valid({**study, **wrong})


def test_examples_say_where_their_schema_is() -> None:
    for path in (ROOT / "examples").glob("*.yaml"):
        head, _, place = path.read_text().splitlines()[0].partition("$schema=")
        assert head == "# yaml-language-server: "
        assert (path.parent / place).resolve() == ROOT / "docs" / "study.schema.json"
