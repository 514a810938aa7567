"""Which GPUs are seen and which are chosen; nvidia-smi is the only thing that is played here."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from local_shutdown.engines import hardware
from local_shutdown.errors import CannotRunError, UsageError

FOUR = """\
0, 81559, 80000, GPU-aaaa-0, NVIDIA H100 80GB HBM3
1, 81559, 1000, GPU-bbbb-1, NVIDIA H100 80GB HBM3
2, 81559, 81000, GPU-cccc-2, NVIDIA H100 80GB HBM3
3, [N/A], [N/A], GPU-dddd-3, NVIDIA H100 80GB HBM3
"""


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def says(text: str, status: int = 0) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\ncat <<'E'\n{text}E\nexit {status}\n")
        program.chmod(0o755)

    return says


def seen() -> list[int]:
    return [gpu.index for gpu in hardware.gpus()]


def test_cards_are_read_with_their_memory(smi: Callable[..., None]) -> None:
    smi(FOUR)
    first = hardware.gpus()[0]
    assert (first.name, round(first.memory_gib), round(first.free_gib)) == (
        "NVIDIA H100 80GB HBM3",
        80,
        78,
    )
    assert seen() == [0, 1, 2]  # one that does not say how much it has cannot be planned for


@pytest.mark.parametrize(
    ("visible", "expected"),
    [("0,2", [0, 2]), ("", []), ("2", [2]), ("GPU-bbbb", [1]), ("GPU-cccc-2,GPU-aaaa-0", [0, 2])],
)
def test_only_visible_cards_are_used(
    smi: Callable[..., None], monkeypatch: pytest.MonkeyPatch, visible: str, expected: list[int]
) -> None:
    smi(FOUR)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert seen() == expected


@pytest.mark.parametrize("said", ["No devices were found\n", "", "\n", "x, y\n"])
def test_a_driver_without_cards_has_none(smi: Callable[..., None], said: str) -> None:
    smi(said)
    assert seen() == []


def test_a_broken_driver_has_none(smi: Callable[..., None]) -> None:
    smi("Failed to initialize NVML: Driver/library version mismatch\n", 18)
    assert seen() == []


def test_all_are_taken_unless_a_number_is_given(smi: Callable[..., None]) -> None:
    smi(FOUR)
    assert [gpu.index for gpu in hardware.choose_gpus(None)] == [0, 1, 2]
    assert hardware.choose_gpus(0) == []


def test_fewer_are_the_freest(smi: Callable[..., None]) -> None:
    smi(FOUR)
    assert [gpu.index for gpu in hardware.choose_gpus(2)] == [0, 2]


def test_more_than_there_are_is_refused_by_number(smi: Callable[..., None]) -> None:
    smi(FOUR)
    with pytest.raises(CannotRunError, match="--gpus 8: 3 visible here"):
        hardware.choose_gpus(8)
    with pytest.raises(UsageError, match="--gpus -1"):
        hardware.choose_gpus(-1)


def test_a_card_that_is_too_full_is_named(smi: Callable[..., None]) -> None:
    smi(FOUR)
    (said,) = hardware.too_full({0: 70.0, 1: 70.0})
    assert said == "GPU 1: 1.0 of 79.6 GiB are free, 70.0 are needed"


def test_a_run_does_not_publish_the_name_of_the_host() -> None:
    import socket

    assert socket.gethostname() not in str(hardware.describe())


def test_free_memory_is_no_more_than_there_is() -> None:
    free = hardware.free_ram_gib()
    assert free is not None
    assert 0 < free <= hardware.ram_gib()
