"""The GPUs of this machine, as the driver's own program tells them: nvidia-smi or amd-smi.

Not torch: asking it would open a context on every card, and costs seconds.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from local_shutdown.engines.plan import Gpu

TIMEOUT_S = 30
_FIELDS = (
    "index",
    "memory.total",
    "memory.free",
    "uuid",
    "compute_cap",
    "mig.mode.current",
    "name",
)
# `  MIG 1g.10gb     Device  0: (UUID: MIG-0a1b...)`, below the line of its card.
_MIG = re.compile(r"^\s+MIG\s+(?P<profile>\S+)\s+Device\s+\d+:\s+\(UUID:\s+(?P<uuid>MIG-\S+)\)")
_CARD = re.compile(r"^GPU\s+(?P<index>\d+):")
# What nvidia-smi does not know of every driver: left out where it refuses the question.
_NEWER_FIELDS = ("compute_cap", "mig.mode.current")
# GPUs without memory of their own, which name no size: they take the machine's.
_SHARED = re.compile(r"\b(GB10|Thor|Orin)\b")
_PROFILE_GB = re.compile(r"\.(\d+)gb")


def visible() -> list[Gpu]:
    """Cards that programs may use, in the order of their PCI addresses; honours
    CUDA_VISIBLE_DEVICES and HIP_VISIBLE_DEVICES, by number or by UUID. A card that is cut into MIG
    devices stands for each of them."""
    return _chosen(_nvidia(), ("CUDA_VISIBLE_DEVICES",)) or _chosen(
        _amd(), ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
    )


def nvidia_driver() -> str | None:
    """Version of the NVIDIA driver; None where there is none or it does not answer."""
    for line in _run("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"):
        if re.fullmatch(r"\d+(\.\d+)*", line.strip()):
            return line.strip()
    return None


def hidden() -> tuple[str, str] | None:
    """Why a machine with an NVIDIA driver shows no card, and what to do; None when it shows some,
    has none, or the user has hidden them."""
    if shutil.which("nvidia-smi") is None or "CUDA_VISIBLE_DEVICES" in os.environ or visible():
        return None
    cut = [row["index"] for row in _rows() if row.get("mig.mode.current") == "Enabled"]
    if cut:
        return (
            f"GPU {', '.join(cut)}: MIG is on, and no MIG device has been made",
            "nvidia-smi mig -cgi PROFILE -C makes one; nvidia-smi -mig 0 switches MIG off",
        )
    failure = _failure("nvidia-smi", "-L")
    if failure is None or "No devices were found" in failure:
        return None
    return (
        f"nvidia-smi fails: {failure}",
        "after an update of the driver, restart the machine or the container; without a GPU, "
        "--gpus 0",
    )


def _rows() -> list[dict[str, str]]:
    """A row for each card, by names of fields; those that the driver does not know are missing."""
    older = tuple(field for field in _FIELDS if field not in _NEWER_FIELDS)
    for fields in (_FIELDS, older):
        query = f"--query-gpu={','.join(fields)}"
        rows = []
        for line in _run("nvidia-smi", query, "--format=csv,noheader,nounits"):
            parts = [part.strip() for part in line.split(",", len(fields) - 1)]
            if len(parts) == len(fields) and parts[0].isdigit():  # not "No devices were found"
                rows.append(dict(zip(fields, parts, strict=True)))
        if rows:
            return rows
    return []


def _nvidia() -> list[Gpu]:
    found = []
    for row in _rows():
        total, free = _gib(row["memory.total"]), _gib(row["memory.free"])
        if not total and _SHARED.search(row["name"]):
            total, free = _main_memory()
        capability = _capability(row.get("compute_cap", ""))
        card = Gpu(int(row["index"]), row["name"], total, free, row["uuid"], capability)
        found.append((card, row.get("mig.mode.current") == "Enabled"))
    if not any(cut for _, cut in found):
        return [card for card, _ in found if card.memory_gib and card.free_gib is not None]
    slices = _mig_devices()
    cards = []
    for card, cut in found:
        if not cut:
            cards += [card] if card.memory_gib else []
            continue
        for number, (uuid, profile) in enumerate(slices.get(card.index, ())):
            memory = _profile_gib(profile)
            name = f"{card.name} MIG {profile}"
            # What others hold of it, nvidia-smi does not say in this form: all of it is taken for
            # free, and vLLM's own check at the start finds out.
            cards.append(
                Gpu(card.index * 100 + number, name, memory, memory, uuid, card.capability, True)
            )
    return cards


def _mig_devices() -> dict[int, list[tuple[str, str]]]:
    """UUID and profile of the MIG devices of each card."""
    found: dict[int, list[tuple[str, str]]] = {}
    index = -1
    for line in _run("nvidia-smi", "-L"):
        card, device = _CARD.match(line), _MIG.match(line)
        if card:
            index = int(card["index"])
        elif device:
            found.setdefault(index, []).append((device["uuid"], device["profile"]))
    return found


def _profile_gib(profile: str) -> float:
    """Memory of a MIG device: its nominal size, of which a twentieth cannot be used."""
    size = _PROFILE_GB.search(profile)
    return 0.95 * int(size[1]) * 1e9 / 2**30 if size else 0.0


def _amd() -> list[Gpu]:
    """Cards as amd-smi tells them; its JSON has changed its outer form from version to version."""
    static = _amd_json("static", "--asic", "--vram", "--json")
    usage = _amd_json("metric", "--mem-usage", "--json")
    found = []
    for index, entry in sorted(static.items()):
        memory = _mib(_at(entry, "vram", "size")) or _mib(
            _at(usage.get(index), "mem_usage", "total_vram")
        )
        if not memory:
            continue
        used = _mib(_at(usage.get(index), "mem_usage", "used_vram")) or 0.0
        name = str(_at(entry, "asic", "market_name") or "AMD GPU")
        free = (memory - used) / 1024
        found.append(Gpu(index, name, memory / 1024, free, vendor="amd"))
    return found


def _amd_json(*arguments: str) -> dict[int, Any]:
    try:
        said: Any = json.loads("\n".join(_run("amd-smi", *arguments)) or "[]")
    except ValueError:
        return {}
    if isinstance(said, dict):
        said = said.get("gpu_data", [])
    entries = said if isinstance(said, list) else []
    return {e["gpu"]: e for e in entries if isinstance(e, dict) and isinstance(e.get("gpu"), int)}


def _at(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _mib(value: Any) -> float | None:
    """`{"value": 196592, "unit": "MB"}`, or `"196592 MB"`."""
    if isinstance(value, dict):
        value = f"{value.get('value')} {value.get('unit', 'MB')}"
    match = re.match(r"\s*([\d.]+)\s*([GM])i?B", str(value))
    return float(match[1]) * (1024 if match[2] == "G" else 1) if match else None


def _chosen(cards: Sequence[Gpu], variables: Sequence[str]) -> list[Gpu]:
    for variable in variables:
        said = os.environ.get(variable)
        if said is not None:
            wanted = [part.strip() for part in said.split(",")]
            return [card for card in cards if any(_names(part, card) for part in wanted)]
    return list(cards)


def _names(part: str, card: Gpu) -> bool:
    if part.startswith(("GPU-", "MIG-")):
        return card.uuid.startswith(part)
    # A card that is cut is named by its own number; CUDA takes its first device then.
    return part == (
        str(card.index // 100) if card.mig and card.index % 100 == 0 else str(card.index)
    )


def _main_memory() -> tuple[float, float]:
    """All of it and what is free, GiB."""
    page = os.sysconf("SC_PAGE_SIZE") / 2**30
    whole = os.sysconf("SC_PHYS_PAGES") * page
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) / 2**20 for line in lines if line[:13] == "MemAvailable:")
    except (OSError, StopIteration, ValueError, IndexError):
        free = os.sysconf("SC_AVPHYS_PAGES") * page
    return whole, min(free, whole)


def _gib(mib: str) -> float:
    return int(mib) / 1024 if mib.isdigit() else 0.0


def _capability(text: str) -> tuple[int, int] | None:
    match = re.fullmatch(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else None


def _failure(program: str, *arguments: str) -> str | None:
    """What a program that fails says; None when it does not fail."""
    path = shutil.which(program)
    try:
        done = subprocess.run(
            [path or program, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError) as broken:
        return str(broken)
    if done.returncode == 0:
        return None
    said = (done.stdout + done.stderr).strip().splitlines()
    return said[0].strip() if said else f"status {done.returncode}"


def _run(program: str, *arguments: str) -> Iterator[str]:
    """Lines that it prints; none where it is missing or fails."""
    path = shutil.which(program)
    if path is None:
        return iter(())
    try:
        said = subprocess.run(
            [path, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return iter(())
    return iter(said.splitlines())
