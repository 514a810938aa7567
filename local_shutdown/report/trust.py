"""What a reader needs to trust a run, to repeat it and to cite it: from run.json, no more than it
says. What was not recorded is called so."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from local_shutdown import __version__
from local_shutdown.report.data import ReportData
from local_shutdown.runfile import NOT_RECORDED, Hardware, ModelFacts, RunFile

# The options behind settings of run.json that a command needs where they are not the default.
_OPTIONS = (
    ("max_tokens", "--max-tokens", None),
    ("max_messages", "--max-messages", 50),
    ("thinking_budget", "--thinking-budget", None),
    ("until_halfwidth", "--until-halfwidth", None),
    ("until_upper", "--until-upper", None),
    ("until_decided", "--until-decided", None),
    ("shard", "--shard", None),
)
CITATIONS = (
    (
        "The paper whose experiment this is",
        """@article{schlatter2025shutdown,
  title   = {Shutdown Resistance in Large Language Models},
  author  = {Schlatter, Jeremy and Weinstein-Raun, Benjamin and Ladish, Jeffrey},
  journal = {arXiv preprint arXiv:2509.14260},
  year    = {2025}
}""",
    ),
    (
        "This software",
        f"""@software{{local_shutdown,
  title   = {{local-shutdown: shutdown resistance of open-weight models, measured locally}},
  version = {{{__version__}}},
  year    = {{2026}}
}}""",
    ),
)


@dataclass(frozen=True, slots=True)
class Card:
    """One directory.

    Attributes:
        name: of the directory.
        groups: (title, facts as (label, value)); the first one is open in the page.
        warnings: what the run warned of.
    """

    name: str
    groups: Sequence[tuple[str, Sequence[tuple[str, str]]]]
    warnings: Sequence[str]


def cards(data: ReportData) -> list[Card]:
    """One for each directory, in their order."""
    return [_card(name, run, data) for name, (_, run) in zip(data.sources, data.runs, strict=True)]


def _card(name: str, run: RunFile, data: ReportData) -> Card:
    episodes = int((data.episodes["source"] == name).sum())
    head = "What was run" if run.played else "What was imported"
    groups = [(head, _what(run, episodes))]
    for model, facts in run.models.items():
        if facts.model_fields_set:
            groups.append((facts.display_name or model, list(_model(facts, run))))
    prompts = run.settings.conditions
    if isinstance(prompts, Mapping) and prompts:
        said = "  ".join(f"{condition} {digest}" for condition, digest in prompts.items())
        groups.append(("Prompts", [("digests", said)]))
    if run.played:
        groups.append(("Machine and sandbox", list(_machine(run))))
    warnings = [warning for facts in run.models.values() for warning in facts.warnings]
    verdict = calibration(name, data)
    if verdict:
        groups.append(("Calibration", [("verdict", verdict)]))
    kept = [(title, [(k, v) for k, v in pairs if v]) for title, pairs in groups]
    return Card(name, [(title, pairs) for title, pairs in kept if pairs], warnings)


def _what(run: RunFile, episodes: int) -> list[tuple[str, str]]:
    pairs = []
    if run.played:
        if run.command:
            pairs.append(("command", shlex.join(["local-shutdown", *run.command])))
        else:
            pairs.append(("command, from the recorded settings", command(run)))
        pairs.append(("trials per condition", str(run.settings.trials or "")))
        pairs.append(("merged from", f"{run.merged.shards} shards" if run.merged else ""))
    for source in run.sources:
        said = f"{source.name} ({source.format}), sha256 {source.sha256}"
        pairs.append(("file", said))
    return [
        *pairs,
        ("episodes", f"{episodes:,}"),
        ("version", f"local-shutdown {run.package_version or NOT_RECORDED}"),
        ("time", _times(run)),
    ]


def command(run: RunFile) -> str:
    """The command that plays a run with the settings of run.json, into a new folder."""
    settings = run.settings
    words = ["local-shutdown", "run"]
    for name in settings.models or ():
        words += ["--model", name]
    if isinstance(settings.conditions, Mapping) and settings.conditions:
        words += ["--conditions", ",".join(settings.conditions)]
    for name, option in (("trials", "--trials"), ("engine", "--engine")):
        if getattr(settings, name):
            words += [option, str(getattr(settings, name))]
    for name, option, default in _OPTIONS:
        if getattr(settings, name) not in (None, default):
            words += [option, str(getattr(settings, name))]
    for name, value in (settings.sampling or {}).items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    efforts = settings.thinking or []
    if any(one != "default" for one in efforts):
        words += ["--reasoning-effort", ",".join(efforts)]
    if settings.stop_at_bypass:
        words.append("--stop-at-bypass")
    if settings.interview:
        words.append("--interview")
    if settings.engine == "endpoint":
        words += ["--base-url", "URL"]
    return shlex.join(words)


def _model(facts: ModelFacts, run: RunFile) -> Iterator[tuple[str, str]]:
    yield "weights", facts.model or NOT_RECORDED
    yield "revision", facts.revision or ""
    unknown = "" if facts.revision else NOT_RECORDED
    yield "digest of the weights", facts.weights_digest or unknown
    engine = (facts.engine or run.settings.engine, facts.engine_version)
    yield "engine", " ".join(part for part in engine if part) or NOT_RECORDED
    yield "torch", facts.torch_version or ""
    for server in facts.servers[:1]:
        words = server.command
        if words:
            yield "arguments", shlex.join(["python", *words[1:]] if "python" in words[0] else words)
    yield "sampling", _pairs(facts.effective_sampling) or NOT_RECORDED
    yield "sampling not applied", ", ".join(facts.generation_config_not_applied)
    yield "reasoning", ", ".join(facts.requests)
    parsers = (facts.tool_parser, facts.reasoning_parser)
    yield "parsers (tools, reasoning)", ", ".join(one or "none" for one in parsers)
    yield "constrained decoding", facts.constrained


def _machine(run: RunFile) -> Iterator[tuple[str, str]]:
    yield "GPUs", _gpus(run.hardware)
    yield "processor", run.hardware.cpu or ""
    yield "episode limits", _pairs(run.limits)
    yield "sandbox limits", _pairs(run.sandbox.limits) or NOT_RECORDED
    yield "limits kept by", run.sandbox.limits_kept_by or ""


def calibration(source: str, data: ReportData) -> str:
    """What `calibrate` would say of a directory; empty when it has no calibration model."""
    cells = [
        cell
        for series in data.series
        if series.source == source and series.look == "synthetic" and not series.factor
        for cell in series.cells.values()
    ]
    if not cells:
        return ""
    from local_shutdown.calibration import assigned, check

    found = check.check(cells, assigned.read())
    tested = len(found.rows) - len(found.untested)
    if found.passed is None:
        return "nothing could be tested"
    trials = sum(row.n for row in found.rows)
    if found.passed:
        return (
            f"passed: {tested} measured rates agree with the model’s own probabilities "
            f"({trials:,} trials, Holm at 0.01)"
        )
    return f"failed under {', '.join(found.failed)}: do not trust rates of this machine"


def _gpus(hardware: Hardware) -> str:
    if hardware.gpus is None:
        return ""
    names = (gpu.get("name") if isinstance(gpu, Mapping) else gpu for gpu in hardware.gpus)
    return ", ".join(f"{n} × {name}" for name, n in Counter(map(str, names)).items()) or "none"


def _times(run: RunFile) -> str:
    said = [t.replace("T", " ")[:16] for t in (run.started_at, run.ended_at) if t]
    if len(said) == 2 and said[0][:10] == said[1][:10]:
        said[1] = said[1][11:]
    return " to ".join(said)


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(_said(name, value) for name, value in values.items() if value is not None)


def _said(name: str, value: Any) -> str:
    """`memory 512 MiB` for memory_bytes, `command 15 s` for command_s."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and name.endswith("_bytes"):
        for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
            if value >= size:
                return f"{name.removesuffix('_bytes')} {value / size:.4g} {unit}"
        return f"{name.removesuffix('_bytes')} {value} bytes"
    if number and name.endswith("_s"):
        return f"{name.removesuffix('_s')} {value:g} s"
    return f"{name} {value:g}" if number else f"{name} {value}"
