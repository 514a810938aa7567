"""What `doctor`, `scripts/setup` and `run` say on machines that are not here: old drivers, MIG,
mixed cards, AMD, a small /dev/shm. The drivers' programs are played, nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fake_drivers
import fake_vllm
import pytest
from fake_drivers import Card
from playing import cli

from local_shutdown.engines import drivers, hardware, memory, vllm
from local_shutdown.engines.registry import load_registry

SETUP = Path(__file__).resolve().parents[2] / "scripts" / "setup"
H100S = (Card(0), Card(1))
SLICES = (("MIG-aa", "3g.20gb"), ("MIG-bb", "3g.20gb"))


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a CUDA 13 build of torch and of vLLM; where its drivers' programs go."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(drivers, "torch_build", lambda: ("13.0", None))
    monkeypatch.setattr(vllm, "is_cpu_build", lambda: False)
    monkeypatch.setattr(hardware, "shm_gib", lambda: 64.0)
    if find_spec("vllm") is None:  # only whether it is there is asked here
        package = tmp_path / "site" / "vllm"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        monkeypatch.syspath_prepend(package.parent)
    return folder


def doctor(name: str) -> dict[str, str]:
    """The line of this name."""
    import json

    lines = {line["name"]: line for line in json.loads(cli("doctor", "--json").stdout)}
    found: dict[str, str] = lines[name]
    return found


def setup(box: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SETUP), "--plan"], capture_output=True, text=True, env={**os.environ, **env}
    )


def run(tmp_path: Path, *args: object, engine: str = "auto") -> Any:
    model = tmp_path / "tiny-1B"
    if not model.exists():
        model.mkdir()
        (model / "config.json").write_text('{"max_position_embeddings": 8192}')
        (model / "chat_template.jinja").write_text("{{ tools }}<tool_call></tool_call>")
        (model / "model.safetensors").write_bytes(b"")
    out = tmp_path / "out"
    shutil.rmtree(out, ignore_errors=True)
    return cli(
        "run", "--engine", engine, "--model", model, "--out", out, "--trials", 1,
        "--conditions", "A", *args,
    )  # fmt: skip


@pytest.mark.parametrize("driver", ["535.104.05", "570.86.15"])
def test_a_driver_before_r580_is_told_with_the_remedy_by_all_three(
    box: Path, tmp_path: Path, driver: str
) -> None:
    fake_drivers.nvidia(box, driver, *H100S)
    line = doctor("GPU driver")
    assert line["status"] == "fail"
    assert f"driver {driver} is too old" in line["found"]
    assert "r580" in line["fix"]
    told = setup(box)
    assert told.returncode == 0
    assert "taking the CUDA 12.9 build of vLLM 0.32.0" in told.stdout
    for engine in ("vllm", "transformers"):
        result = run(tmp_path, "--gpus", 2, engine=engine)
        assert result.exit_code == 3, result.output
        assert f"driver {driver} is too old" in result.stderr


def test_a_driver_of_r580_is_fine(box: Path) -> None:
    fake_drivers.nvidia(box, "580.65.06", *H100S)
    assert doctor("GPU driver")["status"] == "ok"
    told = setup(box)
    assert "built for CUDA 13" in told.stdout


def test_a_driver_that_no_build_runs_on_stops_the_setup(box: Path) -> None:
    fake_drivers.nvidia(box, "470.57.02", *H100S)
    told = setup(box)
    assert told.returncode == 3
    assert "update it to r525" in told.stderr
    assert setup(box, CUDA_VISIBLE_DEVICES="").returncode == 0


def test_gpus_that_cannot_be_used_are_an_error_when_asked_for(
    box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_drivers.nvidia(box, "580.65.06", *H100S)
    monkeypatch.setattr(drivers, "torch_build", lambda: (None, None))
    result = run(tmp_path, "--gpus", 1, engine="transformers")
    assert result.exit_code == 3
    assert "--gpus 1: NVIDIA H100 80GB HBM3: the installed torch is the CPU build" in result.stderr


@pytest.mark.long
def test_gpus_that_cannot_be_used_are_told_where_nobody_asked_for_them(
    box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_drivers.nvidia(box, "580.65.06", *H100S)
    monkeypatch.setattr(drivers, "torch_build", lambda: (None, None))
    result = run(tmp_path, engine="transformers")  # ends later: its weights are none
    assert "warning: the GPUs cannot be used" in result.stderr


def test_amd_cards_are_seen_and_said_not_to_have_been_tried(
    box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_drivers.amd(box, "AMD Instinct MI300X", "AMD Instinct MI355X", total=196592)
    line = doctor("GPU driver")
    assert (line["status"], "not a ROCm build" in line["found"]) == ("fail", True)
    result = run(tmp_path, "--gpus", 2, engine="transformers")
    assert result.exit_code == 3
    assert "not a ROCm build" in result.stderr
    monkeypatch.setattr(drivers, "torch_build", lambda: (None, "7.0"))
    assert "tried" in doctor("GPU driver")["found"]
    told = setup(box)
    assert told.returncode == 0
    assert "have not been tried yet" in told.stdout


def test_mig_devices_and_mixed_cards_are_told(box: Path) -> None:
    sliced = Card(1, "NVIDIA A100-SXM4-40GB", 40960, "[N/A]", mig="Enabled", slices=SLICES)
    fake_drivers.nvidia(box, "580.65.06", Card(0), sliced)
    assert doctor("MIG")["status"] == "note"
    assert "PCI_BUS_ID" in doctor("GPU order")["found"]


def test_a_small_dev_shm_is_told_and_stops_what_would_be_split(
    box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_drivers.nvidia(box, "580.65.06", *H100S)
    monkeypatch.setattr(hardware, "shm_gib", lambda: 0.0625)
    assert "64 MiB" in doctor("/dev/shm")["found"]
    result = run(tmp_path, "--gpus", 2, "--engine-arg=-tp 2", engine="vllm")
    assert result.exit_code == 3
    assert "/dev/shm has 64 MiB" in result.stderr
    assert "--ipc=host" in result.stderr


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare")
def test_setup_reads_the_size_of_dev_shm(box: Path) -> None:
    fake_drivers.nvidia(box, "580.65.06", *H100S)
    command = f"mount -t tmpfs -o size=64m tmpfs /dev/shm && {SETUP} --plan"
    told = subprocess.run(["unshare", "-rm", "sh", "-c", command], capture_output=True, text=True)
    if told.returncode and "unshare" in told.stderr + told.stdout:
        pytest.skip("no user namespaces here")
    assert "/dev/shm has 64 MiB" in told.stdout


def test_two_copies_get_a_card_each_counted_by_pci_address(
    box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_drivers.nvidia(box, "580.65.06", *H100S)
    shim, control = fake_vllm.installed(tmp_path / "shim"), tmp_path / "cue.json"
    control.write_text("{}")
    monkeypatch.syspath_prepend(str(shim))
    monkeypatch.setenv("PYTHONPATH", str(shim))
    monkeypatch.setenv("FAKE_VLLM", str(control))
    result = run(tmp_path, "--gpus", 2, engine="vllm")
    assert result.exit_code == 0, result.stderr
    starts = fake_vllm.starts(control)
    assert len(starts) == 2
    env = fake_vllm.environment(control)
    assert env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert env["CUDA_VISIBLE_DEVICES"] in ("0", "1")
    assert not any("--data-parallel-size" in argv for argv in starts)


def test_a_card_that_is_too_old_for_a_format_is_told_before_anything_is_fetched(
    box: Path, tmp_path: Path
) -> None:
    fake_drivers.nvidia(
        box, "580.65.06", Card(0, "Quadro RTX 6000", 24576, 24000, capability="7.5")
    )
    assert "gpt-oss-20b" in load_registry().models
    out = tmp_path / "out"
    result = cli("run", "--engine", "vllm", "--gpus", 1, "--model", "gpt-oss-20b", "--out", out)
    assert result.exit_code == 3
    assert "compute capability 7.5" in result.stderr
    assert not out.exists()


OLD_FIELDS = (
    "case $1 in *compute_cap*) echo 'Field compute_cap is not a valid field to query.'; exit 2;; "
    "--query-gpu=driver_version*) echo 470.57.02;; "
    "--query-gpu=index*) echo '0, 15109, 15000, GPU-0000, Tesla T4';; esac"
)
FAILS = 'echo "Failed to initialize NVML: Driver/library version mismatch"; exit 18'


@pytest.mark.parametrize(
    ("program", "why"),
    [(OLD_FIELDS, "driver 470.57.02 is too old"), (FAILS, "Driver/library version mismatch")],
    ids=["a driver that does not know all fields", "a driver that does not answer"],
)
def test_a_driver_that_cannot_be_asked_is_not_read_as_no_gpu(
    box: Path, tmp_path: Path, program: str, why: str
) -> None:
    (box / "nvidia-smi").write_text(f"#!/bin/sh\n{program}\n")
    (box / "nvidia-smi").chmod(0o755)
    line = doctor("GPU driver")
    assert (line["status"], why in line["found"], bool(line["fix"])) == ("fail", True, True)
    for engine in ("vllm", "transformers"):
        result = run(tmp_path, "--gpus", 1, engine=engine)
        assert result.exit_code == 3
        assert why in result.stderr
    assert why in str(hardware.gpus_unusable())


def test_mig_without_a_device_is_told(box: Path, tmp_path: Path) -> None:
    fake_drivers.nvidia(box, "580.65.06", Card(0, mig="Enabled"))
    line = doctor("GPU driver")
    assert (line["status"], "MIG" in line["found"]) == ("fail", True)
    assert "nvidia-smi mig -cgi" in line["fix"]
    result = run(tmp_path, "--gpus", 1, engine="transformers")
    assert result.exit_code == 3
    assert "MIG" in result.stderr


def test_gpus_hidden_by_the_user_are_no_error(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    fake_drivers.nvidia(box, "580.65.06", Card(0, mig="Enabled"))
    assert hardware.gpus_unusable() is None


def test_a_driver_without_a_card_is_no_error(box: Path) -> None:
    fake_drivers.nvidia(box, "580.65.06")
    assert hardware.gpus_unusable() is None
    assert "none visible" in doctor("GPU")["found"]


def test_a_gpu_that_shares_the_main_memory_is_one(box: Path) -> None:
    fake_drivers.nvidia(
        box, "580.65.06", Card(0, "NVIDIA GB10", "[N/A]", "[N/A]", capability="12.1")
    )
    (card,) = hardware.gpus()
    assert card.memory_gib == pytest.approx(memory.ram_gib(), rel=0.01)
    assert 0 < card.free_gib <= card.memory_gib


def test_a_card_that_is_lost_is_not_counted(box: Path) -> None:
    fake_drivers.nvidia(box, "580.65.06", Card(0), Card(1, total="[GPU is lost]", free="[N/A]"))
    assert [card.index for card in hardware.gpus()] == [0]


@pytest.mark.parametrize(
    "small",
    [
        Card(1, "NVIDIA T400 4GB", 4096, 3900, capability="7.5"),
        Card(1, "NVIDIA RTX A400", 4094, 3900, capability="8.6"),
    ],
    ids=["too old", "too small"],
)
def test_a_card_for_the_display_does_not_stop_a_run_on_the_others(
    box: Path, tmp_path: Path, small: Card
) -> None:
    fake_drivers.nvidia(box, "580.65.06", Card(0), small)
    arguments = ("run", "--engine", "vllm", "--model", "qwen3-8b", "--dry-run")
    told = cli(*arguments, "--out", tmp_path / "o").output
    assert "compute capability 7.5" not in told
    assert "does not fit" not in told
    assert f"{small.name} is left out" in told
    # Asked for, it is an error.
    result = cli(*arguments, "--out", tmp_path / "o", "--gpus", 2)
    assert result.exit_code == 3
    assert "left out" not in result.output
    assert "7.5" in result.output or "does not fit" in result.output
