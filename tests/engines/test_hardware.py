"""Which GPUs are seen, which are chosen, and whether they can be used; the drivers' own programs
are the only thing that is played here."""

from __future__ import annotations

import os
from pathlib import Path

import fake_drivers
import pytest
from fake_drivers import Card

from local_shutdown.engines import drivers, hardware, memory
from local_shutdown.engines.plan import visible_env
from local_shutdown.errors import CannotRunError, UsageError

FOUR = (
    Card(0, free=80000, uuid="GPU-aaaa-0"),
    Card(1, free=1000, uuid="GPU-bbbb-1"),
    Card(2, free=81000, uuid="GPU-cccc-2"),
    Card(3, total="[N/A]", free="[N/A]", uuid="GPU-dddd-3"),
)
SLICED = Card(
    1,
    "NVIDIA A100-SXM4-40GB",
    40960,
    "[N/A]",
    capability="8.0",
    mig="Enabled",
    slices=(("MIG-aa", "3g.20gb"), ("MIG-bb", "3g.20gb")),
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where programs of drivers are found, and no others."""
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def seen() -> list[int]:
    return [gpu.index for gpu in hardware.gpus()]


def built_for(monkeypatch: pytest.MonkeyPatch, cuda: str | None, rocm: str | None = None) -> None:
    monkeypatch.setattr(drivers, "torch_build", lambda: (cuda, rocm))


def test_cards_are_read_with_their_memory(folder: Path) -> None:
    fake_drivers.nvidia(folder, "580.65.06", *FOUR)
    first = hardware.gpus()[0]
    assert (first.name, round(first.memory_gib), round(first.free_gib), first.capability) == (
        "NVIDIA H100 80GB HBM3",
        80,
        78,
        (9, 0),
    )
    assert seen() == [0, 1, 2]  # one that does not say how much it has cannot be planned for


@pytest.mark.parametrize(
    ("visible", "expected"),
    [("0,2", [0, 2]), ("", []), ("2", [2]), ("GPU-bbbb", [1]), ("GPU-cccc-2,GPU-aaaa-0", [0, 2])],
)
def test_only_visible_cards_are_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch, visible: str, expected: list[int]
) -> None:
    fake_drivers.nvidia(folder, "580.65.06", *FOUR)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert seen() == expected


@pytest.mark.parametrize("said", ["No devices were found", "", "x, y"])
def test_a_driver_without_cards_has_none(folder: Path, said: str) -> None:
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\necho '{said}'\n")
    (folder / "nvidia-smi").chmod(0o755)
    assert seen() == []


def test_a_broken_driver_has_none(folder: Path) -> None:
    fake_drivers.nvidia(folder, "580.65.06", *FOUR, status=18)
    assert seen() == []


def test_all_are_taken_unless_a_number_is_given(folder: Path) -> None:
    fake_drivers.nvidia(folder, "580.65.06", *FOUR)
    assert [gpu.index for gpu in hardware.choose_gpus(None)] == [0, 1, 2]
    assert hardware.choose_gpus(0) == []


def test_fewer_are_the_freest(folder: Path) -> None:
    fake_drivers.nvidia(folder, "580.65.06", *FOUR)
    assert [gpu.index for gpu in hardware.choose_gpus(2)] == [0, 2]


def test_more_than_there_are_is_refused_by_number(folder: Path) -> None:
    fake_drivers.nvidia(folder, "580.65.06", *FOUR)
    with pytest.raises(CannotRunError, match="--gpus 8: 3 visible here"):
        hardware.choose_gpus(8)
    with pytest.raises(UsageError, match="--gpus -1"):
        hardware.choose_gpus(-1)


def test_a_card_that_is_too_full_is_named(folder: Path) -> None:
    fake_drivers.nvidia(folder, "580.65.06", *FOUR)
    (said,) = hardware.too_full({0: 70.0, 1: 70.0})
    assert said == "GPU 1: 1.0 of 79.6 GiB are free, 70.0 are needed"


# --- cards that are counted or cut in other ways


def test_servers_are_told_to_count_cards_as_nvidia_smi_does(folder: Path) -> None:
    # CUDA would call the H100 number 0, since it is the fastest.
    fake_drivers.nvidia(folder, "580.65.06", Card(0, "NVIDIA L4", 23034, 22500), Card(1))
    large = [gpu for gpu in hardware.gpus() if "H100" in gpu.name]
    env = visible_env(large)
    assert (env["CUDA_VISIBLE_DEVICES"], env["CUDA_DEVICE_ORDER"]) == ("1", "PCI_BUS_ID")


def test_a_card_that_is_cut_stands_for_its_mig_devices(folder: Path) -> None:
    fake_drivers.nvidia(folder, "580.65.06", Card(0), SLICED)
    found = hardware.gpus()
    assert [(gpu.device, gpu.mig) for gpu in found] == [
        ("0", False), ("MIG-aa", True), ("MIG-bb", True),
    ]  # fmt: skip
    assert 17 < found[1].memory_gib < 19
    assert visible_env(found[1:2])["CUDA_VISIBLE_DEVICES"] == "MIG-aa"


def test_mig_devices_are_chosen_by_uuid_or_by_their_card(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_drivers.nvidia(folder, "580.65.06", Card(0), SLICED)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-bb")
    assert [gpu.device for gpu in hardware.gpus()] == ["MIG-bb"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [gpu.device for gpu in hardware.gpus()] == ["MIG-aa"]


def test_amd_cards_are_seen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_drivers.amd(folder, "AMD Instinct MI300X", "AMD Instinct MI300X")
    found = hardware.gpus()
    assert [(gpu.index, gpu.vendor, round(gpu.memory_gib)) for gpu in found] == [
        (0, "amd", 192), (1, "amd", 192),
    ]  # fmt: skip
    env = visible_env(found[1:])
    assert (env["HIP_VISIBLE_DEVICES"], env["CUDA_VISIBLE_DEVICES"]) == ("1", "1")
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "1")
    assert seen() == [1]


# --- whether they can be used


@pytest.mark.parametrize(
    ("driver", "cuda", "fits"),
    [
        ("580.65.06", "13.0", True),
        ("570.86.15", "13.0", False),
        ("535.104.05", "13.0", False),
        ("570.86.15", "12.9", True),
        ("535.104.05", "12.9", True),
        ("470.57.02", "12.9", False),
    ],
)
def test_a_driver_that_is_too_old_for_torch_is_told_with_what_it_wants(
    folder: Path, monkeypatch: pytest.MonkeyPatch, driver: str, cuda: str, fits: bool
) -> None:
    fake_drivers.nvidia(folder, driver, Card(0))
    built_for(monkeypatch, cuda)
    why = hardware.gpus_unusable()
    assert (why is None) == fits
    if why:
        assert f"driver {driver} is too old" in why
        assert ("r580" if cuda.startswith("13") else "r525") in why


def test_forward_compatibility_is_taken_at_its_word(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_drivers.nvidia(folder, "535.104.05", Card(0))
    built_for(monkeypatch, "13.0")
    monkeypatch.setenv("VLLM_ENABLE_CUDA_COMPATIBILITY", "1")
    assert hardware.gpus_unusable() is None


def test_a_torch_for_other_cards_or_for_none_cannot_use_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_drivers.nvidia(folder, "580.65.06", Card(0))
    built_for(monkeypatch, None)
    assert "the CPU build" in str(hardware.gpus_unusable())
    (folder / "nvidia-smi").unlink()
    fake_drivers.amd(folder, "AMD Instinct MI300X")
    built_for(monkeypatch, "13.0")
    assert "not a ROCm build" in str(hardware.gpus_unusable())
    built_for(monkeypatch, None, "7.0")
    assert hardware.gpus_unusable() is None


def test_the_build_of_the_installed_torch_is_read_without_loading_it() -> None:
    torch = pytest.importorskip("torch")
    assert drivers.torch_build() == (torch.version.cuda, torch.version.hip)


@pytest.mark.parametrize(
    ("capability", "dtype", "oldest", "fits"),
    [
        ("9.0", "bfloat16", None, True),
        ("7.5", "bfloat16", None, False),
        ("7.5", "fp8", None, True),
        ("7.0", "fp8", None, False),
        ("7.5", "mxfp4", None, False),
        ("8.0", "fp8", (9, 0), False),
        ("9.0", "fp8", (9, 0), True),
    ],
)
def test_a_checkpoint_that_a_card_is_too_old_for_is_told(
    folder: Path, capability: str, dtype: str, oldest: tuple[int, int] | None, fits: bool
) -> None:
    fake_drivers.nvidia(folder, "580.65.06", Card(0, capability=capability))
    why = drivers.too_old(dtype, oldest, hardware.gpus())
    assert (why is None) == fits
    if why:
        assert f"compute capability {capability}" in why


# --- the machine


def test_a_run_does_not_publish_the_name_of_the_host() -> None:
    import socket

    assert socket.gethostname() not in str(hardware.describe())


def test_free_memory_is_no_more_than_there_is() -> None:
    free = memory.free_ram_gib()
    assert free is not None
    assert 0 < free <= memory.ram_gib()
