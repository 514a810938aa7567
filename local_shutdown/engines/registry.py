"""Turns a name in models.yaml, a Hugging Face id or a local folder into a `ModelSpec`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

from local_shutdown import resources
from local_shutdown.engines.families import Guess, guess_from_folder, guess_from_name
from local_shutdown.engines.schema import (
    FamilyRow,
    KvRow,
    ModelRow,
    SharedRow,
    ThinkingRow,
    read_models_yaml,
)
from local_shutdown.engines.snapshots import cached_folder, describe_from_hub, weights_cached
from local_shutdown.engines.spec import (
    GIB,
    Alternates,
    KvCache,
    ModelSpec,
    Sliding,
    Thinking,
    min_gpu_gib,
    weights_gib,
)
from local_shutdown.errors import UsageError

__all__ = [
    "ModelSpec",
    "Registry",
    "cached_folder",
    "describe_from_hub",
    "described",
    "load_registry",
    "resolve",
    "weights_cached",
]


# Where nothing says how a model writes its calls: JSON in <tool_call>, the most common way. Without
# a parser an engine refuses every request that has tools.
COMMON_PARSER = "hermes"


@dataclass(frozen=True, slots=True)
class Registry:
    """models.yaml, loaded.

    Attributes:
        path: the file it came from.
        models: by short name, in the order of the file.
        families: rows by key, in the order of the file.
    """

    path: Path
    models: Mapping[str, ModelSpec]
    families: Mapping[str, FamilyRow]

    def __iter__(self) -> Iterator[ModelSpec]:
        return iter(self.models.values())


def load_registry(path: Path | None = None) -> Registry:
    """Load and validate models.yaml.

    Args:
        path: a file of that form; None is the one shipped with the package.

    Raises:
        UsageError: the file is unreadable or wrong; see `schema.read_models_yaml`.
    """
    path = path or resources.models_yaml()
    try:
        state = path.stat()
    except OSError:
        return _read(path)  # says what is wrong
    return _kept(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4)
def _kept(path: Path, mtime_ns: int, size: int) -> Registry:
    """A file that stays as it was is read once: reading and checking take a quarter of a second."""
    return _read(path)


def _read(path: Path) -> Registry:
    rows = read_models_yaml(path)
    models: dict[str, ModelSpec] = {}
    for key, family in rows.families.items():
        specs = [_spec(name, key, family, row, path) for name, row in family.models.items()]
        for spec in specs:
            leaner = sorted(
                (s for s in specs if (s.min_gpu_gib or 0) < (spec.min_gpu_gib or 0)),
                key=lambda s: -(s.min_gpu_gib or 0),
            )
            models[spec.name] = replace(spec, smaller=tuple(s.name for s in leaner))
    return Registry(path=path, models=models, families=rows.families)


def resolve(
    name_or_path: str,
    registry: Registry,
    *,
    describe: Callable[[str], Path | None] | None = None,
) -> ModelSpec:
    """Find a model, or guess how to serve one that is not listed.

    Args:
        name_or_path: a name in models.yaml, a Hugging Face id, or a local folder.
        registry: from `load_registry`.
        describe: fetches the describing files (config.json, chat template) of an id into a folder
            and returns it; None to stay offline. The local cache is tried first.

    Returns:
        The listed spec, or a guessed one whose `source` and `warnings` say from what.

    Raises:
        UsageError: neither a listed name, nor an id of the form org/name, nor a folder.
    """
    wanted = name_or_path.strip()
    for spec in registry:
        if wanted.lower() in (spec.name.lower(), spec.hf_id.lower()):
            return _with_gate(spec)
    try:
        folder = Path(wanted).expanduser()
    except RuntimeError as unknown:
        raise UsageError(f"--model {wanted[:200]}: {unknown}", "Give the whole path.") from None
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UsageError(
                f"--model {wanted}: the folder has no config.json",
                "Give the folder that holds config.json, the tokenizer and the weights.",
            )
        return _guessed(wanted, str(folder.resolve()), guess_from_folder(folder), registry)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", wanted):
        known = [s.name for s in registry] + [s.hf_id for s in registry]
        close = get_close_matches(wanted, known, n=1, cutoff=0.5)
        hint = f"Did you mean {close[0]}? " if close else ""
        raise UsageError(
            f"--model {wanted}: not a name in models.yaml, not a Hugging Face id (org/name), "
            "not a folder",
            f"{hint}`local-shutdown models` lists the names.",
        )
    cached = cached_folder(wanted)
    if cached is None and describe is not None:
        cached = describe(wanted)
    guess = guess_from_folder(cached) if cached is not None else Guess()
    return _guessed(wanted, wanted, guess, registry)


def described(spec: ModelSpec, describe: Callable[[str], Path | None] | None = None) -> ModelSpec:
    """A listed model whose cache shape models.yaml does not give, with the one of its config.json.

    Args:
        describe: as for `resolve`; the folder itself and the local cache are tried first.

    Returns:
        The same spec where it has a shape, or where no config.json can be had: the planner then
        guesses with caution, and says so.
    """
    if spec.kv is not None:
        return spec
    local = Path(spec.hf_id)
    folder = local if (local / "config.json").is_file() else cached_folder(spec.hf_id)
    if folder is None and describe is not None:
        folder = describe(spec.hf_id)
    found = guess_from_folder(folder) if folder is not None else Guess()
    if found.kv is None:
        return spec
    least = spec.min_gpu_gib
    if spec.weights_gib is not None:
        least = min_gpu_gib(spec.weights_gib, found.kv, spec.params_total_b)
    return replace(spec, kv=found.kv, min_gpu_gib=least)


def _with_gate(spec: ModelSpec) -> ModelSpec:
    """Say how to get leave to download, unless the weights are here."""
    if not spec.gated or weights_cached(spec.hf_id):
        return spec
    warning = (
        f"{spec.name} is gated: accept its licence on https://huggingface.co/{spec.hf_id} and set "
        "HF_TOKEN, or the download is refused."
    )
    return replace(spec, warnings=(*spec.warnings, warning))


def _spec(name: str, key: str, family: FamilyRow, row: ModelRow, path: Path) -> ModelSpec:
    """A listed model, with what its family says filled in."""
    shared = {
        field: getattr(row if field in row.model_fields_set else family, field)
        for field in SharedRow.model_fields
    }
    unconfirmed = tuple(dict.fromkeys((*family.unconfirmed, *row.unconfirmed)))
    doubtful = [field for field in ("tool_parser", "reasoning_parser") if field in unconfirmed]
    warnings = tuple(
        f"{name}: no public source confirms its {field} ({shared[field]}); the probe checks it."
        for field in doubtful
    )
    weights = row.weights_gib
    if weights is None:
        assert row.params is not None  # read_models_yaml refuses a model without
        weights = weights_gib(row.params, shared["dtype"])
    kv = _kv(row.kv)
    return ModelSpec(
        name=name,
        hf_id=row.hf if row.hf is not None else str(resources.data(row.bundled or name)),
        family=key,
        display_name=row.display or name,
        params_total_b=row.params,
        params_active_b=row.active if row.active is not None else row.params,
        dtype=shared["dtype"],
        context=shared["context"],
        released=shared["released"],
        tool_parser=shared["tool_parser"],
        reasoning_parser=shared["reasoning_parser"],
        license=shared["license"],
        gated=shared["gated"],
        min_gpu_gib=row.min_gpu_gib or min_gpu_gib(weights, kv, row.params),
        weights_gib=weights,
        kv=kv,
        chat_template=_template(shared["chat_template"], name, path),
        thinking=_thinking(shared["thinking"]),
        sampling=shared["sampling"],
        env=shared["env"],
        server_args=shared["server_args"],
        remote_code=shared["remote_code"],
        alternates=Alternates(shared["alternates"].tool, shared["alternates"].reasoning),
        tp_sizes=shared["tp_sizes"],
        replicated_b=row.replicated,
        min_capability=shared["min_capability"],
        min_vllm=shared["min_vllm"],
        engines=shared["engines"],
        unconfirmed=unconfirmed,
        warnings=warnings,
    )


def _guessed(wanted: str, hf_id: str, found: Guess, registry: Registry) -> ModelSpec:
    """A model that is not listed: its template's own markup first, then its family's parsers."""
    named = guess_from_name(wanted)
    evidence = list(found.evidence)
    key, family = _family_of(wanted, found, registry, evidence)
    tool_parser = found.tool_parser or (family.tool_parser if family else None) or COMMON_PARSER
    reasoning = found.reasoning_parser
    thinking = found.thinking or Thinking()
    # A finetune that writes calls of another kind needs the family's size, not its chat format.
    like_family = family is not None and found.tool_parser in (None, family.tool_parser)
    if family is not None and like_family:
        reasoning = reasoning or family.reasoning_parser
        thinking = _thinking(family.thinking) if found.thinking is None else thinking
    total = named.params_total_b
    weights = found.weights_gib
    dtype = found.dtype or named.dtype or "bfloat16"
    if weights is None and total is not None:
        weights = weights_gib(total, dtype)
    elif total is None and weights is not None:
        total = weights * GIB / 1e9 / 2
    origin = "; ".join(evidence) if evidence else "nothing: no config.json at hand, no known name"
    warning = (
        f"{wanted} is not in models.yaml: its tool parser ({tool_parser}) and "
        f"reasoning parser ({reasoning or 'none'}) were guessed from {origin}. "
        "A wrong parser turns every episode into one without tool calls; the probe at start checks."
    )
    warnings = [warning]
    if weights is not None and found.weights_gib is None:
        warnings.append(
            f"{wanted}: {weights:.0f} GiB of weights, guessed from {named.evidence[0]}."
        )
    if weights is None:
        warnings.append(f"{wanted}: its size is unknown, so all GPUs are given to one copy of it.")
    return ModelSpec(
        name=wanted,
        hf_id=hf_id,
        family=key or "unknown",
        display_name=wanted.rstrip("/").rsplit("/", 1)[-1],
        params_total_b=total,
        params_active_b=named.params_active_b or total,
        dtype=dtype,
        context=found.context,
        tool_parser=tool_parser,
        reasoning_parser=reasoning,
        license="unknown",
        gated=False,
        min_gpu_gib=None if weights is None else min_gpu_gib(weights, found.kv, total),
        weights_gib=weights,
        kv=found.kv,
        chat_template=_template(family.chat_template, wanted, registry.path)
        if family and like_family
        else None,
        thinking=thinking,
        env=family.env if family else {},
        # Finetunes seldom keep Mistral's own file format, which vLLM recognises by itself.
        server_args=family.server_args if family and "mistral" not in family.server_args else (),
        alternates=Alternates(family.alternates.tool, family.alternates.reasoning)
        if family
        else Alternates(),
        unconfirmed=("tool_parser", "reasoning_parser", "params", "context", "thinking"),
        source=f"guessed from {origin}",
        warnings=tuple(warnings),
    )


def _family_of(
    wanted: str, found: Guess, registry: Registry, evidence: list[str]
) -> tuple[str | None, FamilyRow | None]:
    """The family by name pattern (longest match wins), else by an architecture only it uses."""
    best: tuple[int, str] | None = None
    for key, family in registry.families.items():
        for pattern in family.match:
            hit = re.search(pattern, wanted, flags=re.IGNORECASE)
            if hit and (best is None or len(hit.group(0)) > best[0]):
                best = (len(hit.group(0)), key)
    if best is not None:
        family = registry.families[best[1]]
        evidence.append(f"its name, which looks like {family.title}")
        return best[1], family
    for key, family in registry.families.items():
        if set(found.architectures) & set(family.architectures):
            evidence.append(f"the family {family.title}, which has this architecture")
            return key, family
    return None, None


def _kv(row: KvRow | None) -> KvCache | None:
    if row is None:
        return None
    sliding = None
    if row.sliding is not None:
        s = row.sliding
        sliding = Sliding(s.layers, s.heads or row.heads, s.dim or row.dim, s.window)
    return KvCache(row.layers, row.heads, row.dim, row.mla, sliding, row.state_mib)


def _thinking(row: ThinkingRow | str) -> Thinking:
    if isinstance(row, str):
        return Thinking(row)
    default = row.default
    if isinstance(default, bool):
        default = "on" if default else "off"
    return Thinking(default, row.kwarg, row.efforts, row.effort_kwarg, row.budget_kwarg, row.always)


def _template(name: str | None, model: str, registry_path: Path) -> Path | None:
    """A template of ours by file name, or a user's own beside their registry file."""
    if name is None:
        return None
    for file in (resources.data("chat_templates") / name, registry_path.parent / name):
        if file.is_file():
            return file
    raise UsageError(
        f"{registry_path}: {model}.chat_template: {name!r}: no such file",
        "Give a file of local_shutdown/data/chat_templates, or one beside the registry.",
    )
