"""Whether the installed torch can use the GPUs of this machine, found out without loading it: a
driver that is too old ends an import with a stack trace and no remedy."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Sequence
from pathlib import Path

from local_shutdown.engines import gpus
from local_shutdown.engines.plan import Gpu

# CUDA's major version -> the first driver branch that runs programs built for it (NVIDIA's table
# of minor version compatibility).
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
# The oldest compute capability that vLLM 0.32 takes for a format (`get_min_capability` of its
# quantization methods; bfloat16 has no arithmetic before Ampere).
OLDEST_CAPABILITY = {
    "bfloat16": (8, 0),
    "fp8": (7, 5),
    "int8": (7, 5),
    "int4": (7, 5),
    "mxfp4": (8, 0),
    "mxfp8": (8, 0),
    "nvfp4": (7, 5),
}


def torch_build() -> tuple[str | None, str | None] | None:
    """Versions of CUDA and of ROCm that the installed torch was built for, read from its source;
    (None, None) is the CPU build. None when torch is not installed."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    try:
        text = (Path(spec.submodule_search_locations[0]) / "version.py").read_text()
    except OSError:
        return (None, None)
    return (_assigned(text, "cuda"), _assigned(text, "hip") or _assigned(text, "rocm"))


def _assigned(text: str, name: str) -> str | None:
    match = re.search(rf"^{name}\b[^=\n]*=\s*['\"]([^'\"]+)['\"]", text, flags=re.MULTILINE)
    return match[1] if match else None


def unusable(cards: Sequence[Gpu]) -> str | None:
    """Why the installed torch cannot use these cards; None when it can, or there are none."""
    build = torch_build()
    if not cards or build is None:
        return None
    cuda, rocm = build
    if cards[0].vendor == "amd":
        return None if rocm else f"{cards[0].name}: the installed torch is not a ROCm build"
    if rocm:
        return f"{cards[0].name}: the installed torch is a ROCm build"
    if cuda is None:
        return f"{cards[0].name}: the installed torch is the CPU build"
    wanted = OLDEST_DRIVER.get(int(cuda.split(".")[0]))
    driver = gpus.nvidia_driver()
    if wanted is None or driver is None or int(driver.split(".")[0]) >= wanted:
        return None
    if os.environ.get("VLLM_ENABLE_CUDA_COMPATIBILITY", "0").lower() in ("1", "true"):
        return None
    return (
        f"driver {driver} is too old for the installed torch, which was built for CUDA {cuda}: "
        f"that wants r{wanted} or newer"
    )


def remedy() -> str:
    """What to do about `unusable`."""
    hidden = gpus.hidden()
    if hidden is not None:
        return hidden[1]
    cards = gpus.visible()
    if cards and cards[0].vendor == "amd":
        return (
            "install ROCm builds of torch and vLLM (wheels.vllm.ai/rocm, or the image "
            "vllm/vllm-openai-rocm); runs on AMD cards have not been tried yet"
        )
    driver = gpus.nvidia_driver()
    if driver is not None and int(driver.split(".")[0]) < OLDEST_DRIVER[13]:
        return (
            "update the driver to r580 or newer; or install the CUDA 12 build with scripts/setup, "
            "which chooses it for this driver (r525 or newer); or, on data-centre cards, install "
            "the package cuda-compat-13-0 and set VLLM_ENABLE_CUDA_COMPATIBILITY=1"
        )
    return "scripts/setup installs the builds that fit this machine"


def too_old(dtype: str, oldest: tuple[int, int] | None, cards: Sequence[Gpu]) -> str | None:
    """Why a checkpoint cannot be computed on these cards; None when it can, as far as is known.

    Args:
        dtype: of the weights.
        oldest: compute capability that the model's own kernels want; None for none in particular.
    """
    wanted = max(OLDEST_CAPABILITY.get(dtype, (0, 0)), oldest or (0, 0))
    for card in cards:
        if card.capability is not None and card.capability < wanted:
            reason = "its attention" if oldest == wanted else f"{dtype} weights"
            return (
                f"GPU {card.index} ({card.name}) has compute capability "
                f"{card.capability[0]}.{card.capability[1]}, and {reason} want "
                f"{wanted[0]}.{wanted[1]} or newer"
            ).replace("its attention want", "its attention wants")
    return None
