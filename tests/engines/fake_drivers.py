"""Programs of GPU drivers that are none: nvidia-smi and amd-smi as they print on machines that are
not here. Forms taken from nvidia-smi's manual, and from amd-smi's of ROCm 6.4 and 7.0."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Card:
    """As nvidia-smi counts: by PCI address."""

    index: int
    name: str = "NVIDIA H100 80GB HBM3"
    total: int | str = 81559
    free: int | str = 81000
    uuid: str = ""
    capability: str = "9.0"
    mig: str = "Disabled"
    slices: Sequence[tuple[str, str]] = ()  # UUID, profile


def nvidia(folder: Path, driver: str, *cards: Card, status: int = 0) -> None:
    """An nvidia-smi in this folder, which the caller puts into PATH."""
    rows, listed = [], []
    for card in cards:
        uuid = card.uuid or f"GPU-{card.index}000"
        fields = (card.index, card.total, card.free, uuid, card.capability, card.mig, card.name)
        rows.append(", ".join(map(str, fields)))
        listed.append(f"GPU {card.index}: {card.name} (UUID: {uuid})")
        for number, (part, profile) in enumerate(card.slices):
            listed.append(f"  MIG {profile:<12} Device {number:>2}: (UUID: {part})")
    answers = {
        "--query-gpu=driver_version*": "\n".join(driver for _ in cards),
        "--query-gpu=index*": "\n".join(rows),
        "--query-compute-apps*": "4711, python3, 70000 MiB",
        "-L": "\n".join(listed),
    }
    _program(folder / "nvidia-smi", answers, status)


def amd(folder: Path, *names: str, total: int = 196592, used: int = 300) -> None:
    """An amd-smi in this folder."""
    static = [
        {
            "gpu": n,
            "asic": {"market_name": name},
            "vram": {"size": {"value": total, "unit": "MB"}},
        }
        for n, name in enumerate(names)
    ]
    usage = [
        {"gpu": n, "mem_usage": {"used_vram": {"value": used, "unit": "MB"}}}
        for n in range(len(names))
    ]
    answers = {"static*": json.dumps({"gpu_data": static}), "metric*": json.dumps(usage)}
    _program(folder / "amd-smi", answers, 0)


def _program(path: Path, answers: dict[str, str], status: int) -> None:
    cases = "".join(f"{pattern}) cat <<'E'\n{text}\nE\n;;\n" for pattern, text in answers.items())
    path.write_text(f'#!/bin/sh\ncase "$1" in\n{cases}esac\nexit {status}\n')
    path.chmod(0o755)
