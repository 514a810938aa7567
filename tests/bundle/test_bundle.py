"""What `bundle` writes: all of a study, nothing of the machine, whole or not at all."""

from __future__ import annotations

import json
import os
import resource
import secrets
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import bagit
import orjson
import pytest
import yaml
from playing import cli, compared
from signed import Made

from local_shutdown.bundle import redact
from local_shutdown.store import Store, read_run, write_run

ROOT = Path(__file__).resolve().parents[2]


def changed(run: Path, to: Path, **values: object) -> Path:
    """A copy of a run with other fields in run.json."""
    shutil.copytree(run, to)
    record = {**read_run(to), **values}
    write_run(to, {k: v for k, v in record.items() if k != "schema_version"})
    return to


def bundled(*words: object) -> tuple[Path, dict[str, bytes]]:
    """The zip of a `bundle` command that succeeds, and what is in it by path below its folder."""
    done = cli("bundle", *words)
    assert done.exit_code == 0, done.output
    out = Path(str(words[list(words).index("--out") + 1]))
    with zipfile.ZipFile(out) as file:
        return out, {n.partition("/")[2]: file.read(n) for n in file.namelist()}


def test_it_is_a_bag_with_everything_in_it(made: Made) -> None:
    bag = bagit.Bag(str(made.bag))
    assert bag.is_valid()
    there = {p.relative_to(made.bag / "data").as_posix() for p in (made.bag / "data").rglob("*")}
    for name in ("run.json", "episodes.jsonl", "started.jsonl", "results.csv"):
        assert f"runs/played/{name}" in there
    assert {"imports/api/aggregates.jsonl", "report.html", "compare.json", "citation.bib"} <= there
    stored = (made.run / "episodes.jsonl").read_bytes()
    assert (made.bag / "data/runs/played/episodes.jsonl").read_bytes() == stored
    stated = orjson.loads((made.bag / "data/compare.json").read_bytes())
    assert stated == compared(made.bag / "data/runs/played", made.bag / "data/imports/api")


def test_the_card_is_one_that_a_hub_reads(made: Made) -> None:
    text = (made.bag / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    front = yaml.safe_load(head)
    assert (front["license"], front["size_categories"]) == ("unknown", ["n<1K"])
    for config in front["configs"]:
        for name in config["data_files"]:
            assert (made.bag / name).is_file()
    assert "@software{local_shutdown" in body
    assert "arXiv:2509.14260" in body


def test_the_same_study_is_the_same_file(made: Made, tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        words = (made.run, made.imported, "--out", tmp_path / name / "study.zip")
        files.append(bundled(*words, "--sign", made.key)[0].read_bytes())
    assert files[0] == files[1] == made.file.read_bytes()


def test_nothing_of_the_machine_is_in_run_json(made: Made, tmp_path: Path) -> None:
    words = ["run", "--engine-arg=--hf-token", "--engine-arg=hunter2hunter2", "--engine-arg"]
    words += ["--api-key", "--engine-arg", "hunter2hunter2", "--out", "/home/me/runs/x"]
    models = {
        "scripted": read_run(made.run)["models"]["scripted"]
        | {
            "base_url": "http://node17.cluster.internal:8000/v1",
            "servers": [{"command": ["/opt/venv/bin/python", "--api-key", "hunter2hunter2"]}],
            "warnings": ["guessed from /home/me/models/m/config.json"],
        }
    }
    run = changed(made.run, tmp_path / "run", command=words, models=models)
    (run / "server.log").write_text("token=hunter2hunter2 /home/me")
    (run / "episodes.jsonl.lock").write_text("")
    _, files = bundled(run, "--out", tmp_path / "x.zip")
    for name, content in files.items():
        if name != "data/runs/run/episodes.jsonl":
            for secret in (
                b"hunter2",
                b"/home/me",
                b"/opt/venv",
                b"node17",
                str(tmp_path).encode(),
            ):
                assert secret not in content, (name, secret)
    assert not any(name.endswith((".log", ".lock")) for name in files)
    assert b"config.json" in files["data/runs/run/run.json"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1"),
        ("http://10.1.2.3:8000/v1", "http://private-host/v1"),
        ("http://gpu-box/v1", "http://private-host/v1"),
        ("/usr/bin/bwrap", "[path]/bwrap"),
        ("/home/a b/models/m", "[path]/m"),
        ("--download-dir=/scratch/me/hub", "--download-dir=[path]/hub"),
        ("~/models/m", "[path]/m"),
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("runs/2026-11-24-x", "runs/2026-11-24-x"),
        ("see https://huggingface.co/a/b", "see https://huggingface.co/a/b"),
        ("sk-abcdefghijklmnop1234", "[key]"),
        ("api_key=abc123", "api_key=[key]"),
        ("--max-tokens=4096", "--max-tokens=4096"),
        ("--api-key-env=MY_KEY", "--api-key-env=MY_KEY"),
    ],
)
def test_what_is_taken_out_of_a_text(text: str, shown: str) -> None:
    assert redact.text(text) == shown


def test_a_model_that_is_named_by_its_path_gets_its_folders_name(
    made: Made, tmp_path: Path
) -> None:
    path = "/home/me/models/mine"
    run = tmp_path / "run"
    shutil.copytree(made.run, run)
    for name in ("run.json", "episodes.jsonl", "started.jsonl"):
        text = (run / name).read_text()
        text = text.replace('"scripted/', f'"{path}/').replace('"scripted"', f'"{path}"')
        (run / name).write_text(text)
    out, files = bundled(run, "--out", tmp_path / "x.zip")
    assert not [name for name, content in files.items() if b"/home/me" in content]
    assert b'"mine/E/0"' in files["data/runs/run/episodes.jsonl"]
    done = cli("verify", out)
    assert done.exit_code == 0, done.output


def test_a_key_of_ours_in_an_episode_is_not_bundled(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(made.run, run)
    text = (run / "episodes.jsonl").read_text()
    (run / "episodes.jsonl").write_text(
        text.replace("EngineFault:", "EngineFault: hunter2hunter2", 1)
    )
    monkeypatch.setenv("OPENAI_API_KEY", "hunter2hunter2")
    done = cli("bundle", run, "--out", tmp_path / "x.zip")
    assert done.exit_code == 2
    assert "episodes.jsonl:" in done.stderr
    assert "hunter2" not in done.stderr
    assert not (tmp_path / "x.zip").exists()


def test_an_unfinished_run_is_bundled_as_one(made: Made, tmp_path: Path) -> None:
    """Killed: one episode has no record, one is torn, and the session was not put down."""
    run = tmp_path / "run"
    shutil.copytree(made.run, run)
    lines = (run / "episodes.jsonl").read_bytes().splitlines(True)
    (run / "episodes.jsonl").write_bytes(b"".join(lines[:-2]) + lines[-2][:50])
    record = read_run(run)
    del record["ended_at"], record["models"]["scripted"]["sessions"], record["schema_version"]
    write_run(run, record)
    out, files = bundled(run, "--out", tmp_path / "x.zip")
    assert files["data/runs/run/episodes.jsonl"] == b"".join(lines[:-2])
    (entry,) = orjson.loads(files["data/bundle.json"])["directories"]
    assert entry["account"] == {"planned": 8, "on_disk": 6, "unfinished": 2, "not_begun": 0}
    assert b"unfinished: 2 of 8" in files["README.md"]
    done = cli("verify", out)
    assert done.exit_code == 0, done.output
    assert "UNFINISHED" in done.output


def test_a_run_that_is_being_written_is_refused(made: Made, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(made.run, run)
    with Store(run):
        done = cli("bundle", run, "--out", tmp_path / "x.zip")
    assert done.exit_code == 2
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_two_directories_of_one_name_are_told_apart(made: Made, tmp_path: Path) -> None:
    other = tmp_path / "played"
    shutil.copytree(made.run, other)
    out, files = bundled(made.run, other, "--out", tmp_path / "x.zip")
    assert {"data/runs/played/run.json", "data/runs/played-2/run.json"} <= files.keys()
    assert cli("verify", out).exit_code == 0


@pytest.mark.parametrize("most", [20_000, 1_000_000], ids=["at the copy", "at the zip"])
def test_a_full_disk_leaves_nothing(made: Made, tmp_path: Path, most: int) -> None:
    """A limit on the size of a file is met where the disk could be full."""
    runs, to = [tmp_path / name for name in ("one", "two", "three")], tmp_path / "to"
    for run in runs:  # what is random cannot be packed, so that the zip is the largest file
        shutil.copytree(made.run, run)
        with (run / "started.jsonl").open("a") as file:
            one = json.loads((made.run / "started.jsonl").read_text().splitlines()[0])
            for _ in range(3000):
                file.write(json.dumps({**one, "episode_id": secrets.token_urlsafe(190)}) + "\n")
    to.mkdir()
    (to / "x.zip").write_bytes(b"an earlier one")
    words = ["bundle", *map(str, runs), "--out", str(to / "x.zip")]
    done = subprocess.run(
        [sys.executable, "-m", "local_shutdown", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
    )
    assert (done.returncode, "Traceback" in done.stderr) == (3, False), done.stderr
    assert [p.name for p in to.iterdir()] == ["x.zip"]
    assert (to / "x.zip").read_bytes() == b"an earlier one"


def test_what_is_no_run_is_refused(made: Made, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = cli("bundle", tmp_path / "empty", "--out", tmp_path / "x.zip")
    assert (done.exit_code, (tmp_path / "x.zip").exists()) == (2, False)


def test_a_reference_file_goes_along(made: Made, tmp_path: Path) -> None:
    reference = tmp_path / "published.jsonl"
    reference.write_text(
        '{"kind": "aggregate", "model": "o3", "condition": "E", "resisted": 159, "n": 1000}\n'
    )
    words = ("--reference", reference, "--margin", "0.05", "--license", "cc-by-4.0")
    out, files = bundled(made.run, "--out", tmp_path / "x.zip", *words, "--title", "Ours")
    assert files["data/reference.jsonl"] == reference.read_bytes()
    assert b"license: cc-by-4.0" in files["README.md"]
    done = cli("verify", out)
    assert done.exit_code == 0, done.output


def test_a_branched_run_is_refused_by_name(made: Made, tmp_path: Path) -> None:
    settings = {**read_run(made.run)["settings"], "branch": {"points": [["scripted/E/0", 4]]}}
    branched = changed(made.run, tmp_path / "branched", settings=settings)
    done = cli("bundle", branched, "--out", tmp_path / "x.zip")
    assert (done.exit_code, (tmp_path / "x.zip").exists()) == (2, False)
    assert str(branched) in done.stderr
