"""Every command line and every example in README, docs/ and `--help` works, as it stands there.

Shell lines run in a folder that has what the documentation names: runs, imports, files. What needs
a GPU, a network or minutes is in the tables below, with what is held of it instead; a line that is
not in them is simply run.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml
from doc_examples import DOCUMENTS, ROOT, Block, blocks, links, spans
from playing import cli, compared
from scripted import resist, serve_beside

from local_shutdown import engines, grid, resources
from local_shutdown.cli import main

pytestmark = pytest.mark.long

HERE = Path(__file__).resolve().parent

# Scripts that are not run: they are there, and bash reads them.
NOT_RUN = {
    "scripts/setup": "installs packages from the network",
    "scripts/quickstart": "sets up first; its other lines are run in test_newcomer.py",
    "scripts/test": "runs this suite",
}
# Programs that stop where the long part would begin, see there.
STOPPED = {
    "local-shutdown": "without_playing.py",
    "python": "without_measuring.py",
    "inspect": "without_calling.py",
}
# Commands that say by their exit status what this machine can do: 3 where it cannot.
OF_THIS_MACHINE = re.compile(r"local-shutdown (doctor|run .*--dry-run)")
# Examples that another test carries out as they stand.
ELSEWHERE = {
    "docs/extending.md": {
        "python": "tests/detectors/test_extending.py, tests/engines/test_own_engine.py",
        "diff": "tests/detectors/test_extending.py",
    },
}
# Options of other programs (Docker, vLLM, Inspect, a script's arguments), in tables of what to do.
OTHERS = (
    "--cache",
    "--enable-scale-out",
    "--dtype",
    "--num-cpus",
    "--node-ip-address",
    "--dashboard-host",
    "--disable-usage-stats",
    "--address",
    "--head",
    "--epochs",
    "--retry-on-error",
    "--system-message",
    "--tool-call-parser",
    "--to",
    "--security-opt",
    "--privileged",
    "--ipc",
    "--shm-size",
    "--chat-template",
    "--array",
    "--signal",
    "--batch",
)

# Files that an example tells the reader to write.
TO_BE_WRITTEN = ("local_shutdown/detectors/listed.py",)

EXAMPLES = blocks()


def named(block: Block) -> str:
    return f"{block.place} {block.language}".strip()


def example(document: str, language: str) -> str:
    (found,) = (b for b in EXAMPLES if b.place.startswith(document) and b.language == language)
    return found.text


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs, imports and files that the documentation names."""
    folder = tmp_path_factory.mktemp("documented")
    for name, trials in (("calibration", 18), ("qwen3-8b", 2)):
        with serve_beside(resist("rm shutdown.sh"), name) as model:
            played = cli(
                "run", "--base-url", model.base_url, "--model", name, "--no-probe",
                "--conditions", "A,E", "--trials", trials,
                "--out", folder / "runs" / f"2026-11-24-{name}",
            )  # fmt: skip
        assert played.exit_code == 0, played.output
    records = example("docs/formats.md", "json")
    for name in ("api-results.jsonl", "published.jsonl"):
        (folder / name).write_text(records)
    (folder / "my.yaml").write_text(example("docs/extending.md", "yaml"))
    quickstart = folder / "runs" / "quickstart"
    with serve_beside(resist("rm shutdown.sh"), "calibration") as model:
        done = cli(
            "run", ROOT / "examples" / "quickstart.yaml", "--base-url", model.base_url,
            "--no-probe", "--out", quickstart,
        )  # fmt: skip
    assert done.exit_code == 0, done.output
    # As if it had been played by the engine that the examples would take here.
    record = quickstart / "calibration" / "run.json"
    run = json.loads(record.read_text())
    run["settings"]["engine"] = engines.choose_kind("auto", None)
    record.write_text(json.dumps(run))
    done = cli("import", folder / "published.jsonl", "--out", folder / "imports" / "earlier")
    assert done.exit_code == 0, done.output
    signed(folder)
    for name in (
        "scripts", "tests", "docs", "examples", "models.yaml", "pyproject.toml", "local_shutdown",
    ):  # fmt: skip
        (folder / name).symlink_to(ROOT / name)
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, program in STOPPED.items():
        words = shlex.join([sys.executable, str(HERE / program)])
        (programs / name).write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        (programs / name).chmod(0o755)
    return folder


def signed(folder: Path) -> None:
    """A bundle, and the key that it is signed with."""
    key = folder / ".ssh" / "id_ed25519"
    key.parent.mkdir()
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)]
    subprocess.run(words, check=True)
    shutil.copyfile(f"{key}.pub", folder / "author.pub")
    run = folder / "runs" / "2026-11-24-qwen3-8b"
    done = cli("bundle", run, "--sign", key, "--out", folder / "study.zip")
    assert done.exit_code == 0, done.output


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    """A copy of it, which an example may change."""
    return Path(shutil.copytree(prepared, tmp_path / "folder", symlinks=True))


def with_logs(folder: Path) -> None:
    """Inspect logs, where an example reads some."""
    run = folder / "runs" / "2026-11-24-qwen3-8b"
    done = cli("export", run, "--format", "inspect", "--out", folder / "logs" / "o3.eval")
    assert done.exit_code == 0, done.output


def with_shards(folder: Path) -> None:
    """The shards of a run, where an example merges some."""
    for part in ("1", "2"):
        with serve_beside(resist("rm shutdown.sh"), "m") as model:
            played = cli(
                "run", "--base-url", model.base_url, "--model", "m", "--no-probe", "--trials", 2,
                "--conditions", "E", "--shard", f"{part}/2",
                "--out", folder / "runs" / f"night-shard-{part}-of-2",
            )  # fmt: skip
        assert played.exit_code == 0, played.output


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{folder / '.venv' / 'bin'}:{os.environ['PATH']}"
    home = {"HOME": str(folder)} if "~/.ssh" in command else {}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", **home},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )


def of(language: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "block", [pytest.param(b, id=named(b)) for b in EXAMPLES if b.language == language]
    )


@of("sh")
def test_shell_lines_run(block: Block, folder: Path) -> None:
    assert block.commands
    if "inspect" in block.text:
        pytest.importorskip("inspect_ai", reason="the inspect extra is not installed")
        with_logs(folder)
    if "local-shutdown merge" in block.text:
        with_shards(folder)
    for command in block.commands:
        first = shlex.split(command, comments=True)[0]
        if first in NOT_RUN:
            script = ROOT / first
            assert os.access(script, os.X_OK), command
            subprocess.run(["bash", "-n", str(script)], check=True)
            continue
        if "sbatch " in command:  # tests/slurm submits them
            (job,) = re.findall(r"scripts/slurm/[\w.]+", command)
            subprocess.run(["bash", "-n", str(ROOT / job)], check=True)
            continue
        if "| jq" in command and not shutil.which("jq"):
            command = command.partition("|")[0]
        done = shell(command, folder)
        good = (0, 3) if OF_THIS_MACHINE.search(command) else (0,)
        assert done.returncode in good, f"{command}\n{done.stdout}"
        assert done.stdout.strip(), f"{command}: says nothing"


@of("json")
def test_records_are_imported_compared_reported_and_shown(block: Block, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in block.text.splitlines()]
    assert all("kind" in line for line in lines), "an example of something else: hold it here"
    (tmp_path / "records.jsonl").write_text(block.text)
    out = tmp_path / "imports" / "records"
    for command in (
        ("import", tmp_path / "records.jsonl", "--out", out),
        ("compare", out, "--reference", "paper"),
        ("report", out, "--out", tmp_path / "report.html"),
        ("show", out),
        ("list", out.parent),
        ("score", out),
    ):
        done = cli(*command)
        assert done.exit_code == 0, f"{command}: {done.output}"
    assert {c["model"] for c in compared(out)["cells"]} == {line["model"] for line in lines}


@of("yaml")
def test_conditions_are_played_as_written(block: Block, tmp_path: Path) -> None:
    if "models" in yaml.safe_load(block.text):
        _study_is_planned(block, tmp_path)
        return
    wanted = {condition["id"] for condition in yaml.safe_load(block.text)["conditions"]}
    file = tmp_path / "my.yaml"
    file.write_text(block.text)
    assert {condition.id for condition in grid.choose(str(file))} == wanted
    with serve_beside(resist("rm shutdown.sh")) as model:
        done = cli(
            "run", "--base-url", model.base_url, "--no-probe", "--trials", 1,
            "--conditions", f"E,{file}", "--out", tmp_path / "out",
        )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert {c["condition"] for c in compared(tmp_path / "out")["cells"]} == {"E", *wanted}


def _study_is_planned(block: Block, folder: Path) -> None:
    """With weights in the folders that it names."""
    file = folder / "study.yaml"
    file.write_text(block.text)
    for model in yaml.safe_load(block.text)["models"]:
        for place in {model["id"], *model["revision"]}:
            shutil.copytree(resources.data("calibration-model"), folder / place)
    done = cli("run", file, "--dry-run", "--engine", "transformers", "--gpus", 0, "--out",
               folder / "runs")  # fmt: skip
    assert done.exit_code == 0, done.output


@of("python")
def test_python_runs(block: Block, folder: Path) -> None:
    if block.language in ELSEWHERE.get(block.place.partition(":")[0], {}):
        compile(block.text, block.place, "exec")
        return
    pytest.importorskip("matplotlib", reason="the figures extra is not installed")
    done = subprocess.run(
        [sys.executable, "-c", block.text],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@of("bibtex")
def test_citations_are_whole(block: Block) -> None:
    assert block.text.startswith("@")
    assert block.text.count("{") == block.text.count("}") > 0


def test_no_block_is_left_out() -> None:
    """A block in another language needs a test of its own."""
    held = {"sh", "json", "yaml", "python", "bibtex", ""}  # "": a picture
    for block in EXAMPLES:
        elsewhere = ELSEWHERE.get(block.place.partition(":")[0], {})
        assert block.language in held or block.language in elsewhere, named(block)
    for tests in (test for held in ELSEWHERE.values() for test in held.values()):
        for name in tests.split(", "):
            assert (ROOT / name).is_file()


# --- what stands in sentences ---------------------------------------------------------------------

documents = pytest.mark.parametrize(
    "document", [pytest.param(d, id=str(d.relative_to(ROOT))) for d in DOCUMENTS]
)


def parsed(words: list[str]) -> None:
    """Read a command line as click does; raises what click raises."""
    words = [word for word in words if word != "..."]
    top = click.Context(main, info_name="local-shutdown")
    while words and words[0].startswith("-"):
        assert any(words[0] in option.opts for option in main.get_params(top)), words
        words = words[1:]
    if not words:
        return
    command = main.get_command(top, words[0])
    assert command is not None, words
    known = {opt for param in command.params for opt in (*param.opts, *param.secondary_opts)}
    required = any(isinstance(p, click.Argument) and p.required for p in command.params)
    given = [word for word in words[1:] if word not in known]
    if required and not given:  # `local-shutdown score`: a command by its name
        return
    command.make_context(words[0], words[1:], parent=top, resilient_parsing=False)


def commands(document: Path) -> Iterator[str]:
    for span in spans(document):
        words = span.split()
        while words and (re.fullmatch(r"[A-Z_]+=\S*", words[0]) or words[0] == "$"):
            words = words[1:]
        if words and Path(words[0]).name == "local-shutdown":
            yield " ".join(words)


@documents
def test_commands_in_sentences_exist(document: Path) -> None:
    for command in commands(document):
        try:
            parsed(shlex.split(command)[1:])
        except click.ClickException as wrong:
            raise AssertionError(f"{command}: {wrong.message}") from None


@documents
def test_files_in_sentences_exist(document: Path) -> None:
    places = (ROOT, ROOT / "local_shutdown", document.parent)
    folders = {path.name for place in places for path in place.iterdir() if path.is_dir()}
    for span in spans(document):
        name = span.split()[0]
        if name in TO_BE_WRITTEN or (document.name == "bundle.md" and name.startswith("data/")):
            continue  # the latter is in the bundle
        if re.fullmatch(r"[\w.-]+/[\w./-]*", name) and name.split("/")[0] in folders:
            assert any((place / name).exists() for place in places), span


@documents
def test_links_lead_somewhere(document: Path) -> None:
    for link in links(document):
        name, _, heading = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists(), link
        if heading:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
            assert heading in slugs, link


@documents
def test_options_in_sentences_exist(document: Path) -> None:
    if document.parent.name == "sandbox":
        return  # bwrap's; tests/sandbox/test_bwrap_args.py holds them
    top = click.Context(main)
    known = {
        opt
        for name in main.list_commands(top)
        for param in main.get_command(top, name).get_params(top)  # type: ignore[union-attr]
        for opt in (*param.opts, *param.secondary_opts)
    } | {"--debug", "--version", "--help"}
    scripts = "\n".join(
        path.read_text(encoding="utf-8")
        for path in (ROOT / "scripts").rglob("*")
        if path.is_file() and path.suffix in ("", ".py")
    )
    for span in spans(document):
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", span):
            there = option in known or f'"{option}"' in scripts or f"{option})" in scripts
            assert there or option in OTHERS, span
