"""Each mistake: one clear line, the promised exit status, nothing half-written."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from playing import cli, play
from scripted import comply, serve_beside

from local_shutdown import resources
from local_shutdown.store import Store, write_run

QUICK = ("--conditions", "A", "--trials", 1)
NOBODY = "http://127.0.0.1:9/v1"  # the discard port: nothing listens there


def refused(tmp_path: Path, *args: object, status: int, out: Path | None = None) -> str:
    """What it says; fails when it leaves anything in `--out`."""
    out = out or tmp_path / "out"
    before = sorted(out.rglob("*")) if out.exists() else None
    result = cli("run", "--out", out, *args)
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    assert (sorted(out.rglob("*")) if out.exists() else None) == before
    return str(result.stderr)


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("--conditions", "A,Q"), "no condition 'Q'"),
        (("--conditions", "gone.yaml"), "gone.yaml: cannot be read"),
        (("--trials", "0"), "0 is not in the range"),
        (("--trials", "many"), "'many' is not a valid int"),
        (("--engine", "vlm"), "'vlm' is not one of"),
        (("--engine", "endpoint"), "--engine endpoint needs --base-url"),
        (("--base-url", "localhost:8000"), "--base-url 'localhost:8000': not an http address"),
        (("--base-url", "http://"), "not an http address"),
        (("--base-url", NOBODY, "--engine", "vllm"), "--engine vllm"),
        (("--temperature", "9"), "9.0 is not in the range"),
        (("--gpus", "-1", "--engine", "transformers"), "--gpus -1"),
        (("--model", "no such thing"), "no such thing"),
        (("--model", "/nonexistent/folder"), "/nonexistent/folder"),
        (("--trails", "3"), "--trails"),
    ],
)
def test_wrong_usage_is_status_2(tmp_path: Path, args: tuple[str, ...], named: str) -> None:
    assert named in refused(tmp_path, *args, status=2)


@pytest.mark.parametrize("command", [("rnu",), ("compare",), ("show",), ("import", "x")])
def test_a_wrong_command_is_status_2(command: tuple[str, ...]) -> None:
    assert cli(*command).exit_code == 2


def test_a_mistyped_command_is_answered_with_the_right_one() -> None:
    assert "Did you mean 'compare'?" in cli("comapre").stderr


@pytest.mark.parametrize("command", ["compare", "score", "show", "report"])
def test_a_folder_that_is_no_run_is_status_2(tmp_path: Path, command: str) -> None:
    result = cli(command, tmp_path)
    assert result.exit_code == 2
    assert "not a run directory" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_typo_in_models_yaml_is_named_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = tmp_path / "models.yaml"
    text = resources.models_yaml().read_text()
    wrong.write_text(text.replace("tool_parser: hermes", "tool_praser: hermes", 1))
    line = text[: text.index("tool_parser: hermes")].count("\n") + 1
    monkeypatch.setattr(resources, "models_yaml", lambda: wrong)
    said = refused(tmp_path, "--model", "qwen3-8b", *QUICK, status=2)
    assert f"models.yaml:{line}" in said
    assert "tool_praser" in said


def test_a_folder_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter1.tex").write_text("...")
    said = refused(tmp_path, "--base-url", NOBODY, "--model", "m", *QUICK, status=2, out=out)
    assert "not a run directory" in said


def test_a_folder_of_an_import_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "imported"
    out.mkdir()
    write_run(out, {"kind": "import"})
    said = refused(tmp_path, "--base-url", NOBODY, "--model", "m", *QUICK, status=2, out=out)
    assert "holds 'import', not a run" in said


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    result = cli("run", "--out", tmp_path / "out", "--base-url", NOBODY, "--model", "m", *QUICK)
    assert result.exit_code == 2
    assert "not a folder" in result.stderr
    assert (tmp_path / "out").read_text() == "mine"


def test_a_second_run_into_the_same_folder_is_refused(tmp_path: Path) -> None:
    play(comply, tmp_path / "out", *QUICK)
    with Store(tmp_path / "out"):
        result = play(comply, tmp_path / "out", *QUICK)
    assert result.exit_code == 2
    assert "another run is writing there" in result.stderr


def test_an_endpoint_that_is_not_there_is_status_3(tmp_path: Path) -> None:
    said = refused(tmp_path, "--base-url", NOBODY, "--model", "m", *QUICK, status=3)
    assert "does not answer" in said
    assert "is the port right?" in said


def test_a_run_that_never_began_does_not_bind_the_folder(tmp_path: Path) -> None:
    from scripted import http_error

    assert play(http_error(401), tmp_path / "out", *QUICK).exit_code == 3
    result = play(comply, tmp_path / "out", "--conditions", "B", "--trials", 2)
    assert result.exit_code == 0, result.stderr


def test_a_wrong_key_is_named_before_the_first_episode(tmp_path: Path) -> None:
    from scripted import http_error

    result = play(http_error(401, "Incorrect API key provided"), tmp_path / "out", *QUICK)
    assert result.exit_code == 3
    assert "HTTP 401: Incorrect API key provided" in result.stderr


def test_more_at_once_than_files_can_be_open_is_status_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 4096))
    said = refused(
        tmp_path, "--base-url", NOBODY, "--model", "m", *QUICK, "--concurrency", 1000, status=3
    )
    assert "--concurrency 1000 needs 16512 open files, the limit here is 4096" in said
    assert "--concurrency 224" in said


# --- the machine --------------------------------------------------------------------------------


def test_without_bubblewrap_there_is_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from local_shutdown.sandbox import kit

    monkeypatch.setattr(kit, "_bwrap_path", lambda: None)
    with serve_beside(comply) as model:
        said = refused(tmp_path, "--base-url", model.base_url, *QUICK, status=3)
        assert model.requests == 0
    assert "bubblewrap (the program `bwrap`) is not installed" in said


# A sandbox in which no further user namespace can be made: what Docker's seccomp, AppArmor or a
# sysctl do elsewhere.
NO_USERNS = ("--unshare-user", "--disable-userns", "--dev-bind", "/", "/")


@pytest.fixture
def refusing() -> list[str]:
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        pytest.skip("no bwrap")
    tried = subprocess.run([bwrap, *NO_USERNS, "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"cannot refuse user namespaces here: {tried.stderr.strip()}")
    return [bwrap, *NO_USERNS]


def test_where_user_namespaces_are_refused_there_is_no_run(
    tmp_path: Path, refusing: list[str]
) -> None:
    with serve_beside(comply) as model:
        result = subprocess.run(
            [
                *refusing, sys.executable, "-m", "local_shutdown", "run",
                "--base-url", model.base_url, "--out", str(tmp_path / "out"),
                *map(str, QUICK),
            ],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert model.requests == 0
    assert result.returncode == 3, result.stderr
    assert "no sandbox can be started here" in result.stderr
    assert "doctor" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_run_and_doctor_give_the_same_reason_and_remedy(
    tmp_path: Path, refusing: list[str]
) -> None:
    doctor = subprocess.run(
        [*refusing, sys.executable, "-m", "local_shutdown", "doctor", "--json"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert doctor.returncode == 3
    sandbox = orjson.loads(doctor.stdout)[0]
    assert (sandbox["name"], sandbox["status"]) == ("sandbox", "fail")
    reason, command = sandbox["found"].splitlines()
    assert "--unshare-user" in command
    run = subprocess.run(
        [
            *refusing, sys.executable, "-m", "local_shutdown", "run",
            "--base-url", "http://127.0.0.1:9/v1", "--model", "m", "--out", str(tmp_path / "out"),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert run.returncode == 3
    said = " ".join(run.stderr.split())
    assert reason in said
    assert sandbox["fix"] in said


@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)
@pytest.mark.parametrize(
    "environment",
    [
        {"HF_HUB_OFFLINE": "1"},
        {"HF_ENDPOINT": "http://192.0.2.1"},
        {"HF_ENDPOINT": "http://x.invalid"},
    ],
    ids=["offline", "no route", "no such host"],
)
def test_weights_that_are_not_here_and_cannot_be_had_are_named(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.upper().endswith("_PROXY")}
    result = subprocess.run(
        [
            *(sys.executable, "-m", "local_shutdown", "run", "--engine", "transformers"),
            *("--model", "Qwen/Qwen3-8B", "--out", str(tmp_path / "out"), *map(str, QUICK)),
        ],
        capture_output=True, text=True, timeout=120,
        env={**clean, "HF_HOME": str(tmp_path / "hf"), **environment},
    )  # fmt: skip
    assert result.returncode == 3, result.stderr
    assert "the weights of Qwen/Qwen3-8B are not on this machine" in result.stderr
    assert "hf download Qwen/Qwen3-8B" in result.stderr
    assert not (tmp_path / "out").exists()


# --- what doctor and models say -----------------------------------------------------------------


def test_doctor_lists_checks_with_what_to_do() -> None:
    result = cli("doctor", "--json")
    checks = orjson.loads(result.stdout)
    assert {"name", "status", "found", "fix"} == set(checks[0])
    assert {check["status"] for check in checks} <= {"ok", "note", "fail"}
    assert result.exit_code == (3 if any(c["status"] == "fail" for c in checks) else 0)


def test_models_lists_every_model_with_whether_it_fits() -> None:
    listed = orjson.loads(cli("models", "--json").stdout)
    assert len(listed) > 50
    assert {"name", "model", "fits", "why", "weights_here", "tool_parser"} <= set(listed[0])
    assert all(entry["why"] for entry in listed)


def test_a_traceback_is_shown_when_it_is_asked_for(tmp_path: Path) -> None:
    result = cli("--debug", "show", tmp_path)
    assert result.exit_code != 0
    assert result.exception is not None
    assert "not a run directory" in str(result.exception)
