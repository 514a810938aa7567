"""What a reader needs to trust a run, to repeat it and to cite it: from run.json, no more than it
says. What was not recorded is called so."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_shutdown import __version__
from local_shutdown.report.data import ReportData

NOT_RECORDED = "not recorded"
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
    return [_card(directory, run, data) for directory, run in data.runs]


def _card(directory: Path, run: Mapping[str, Any], data: ReportData) -> Card:
    played = run.get("kind") == "run"
    models = _mapping(run.get("models"))
    episodes = int((data.episodes["source"] == directory.name).sum())
    groups = [("What was run" if played else "What was imported", _what(run, episodes, data))]
    for name, facts in models.items():
        if isinstance(facts, Mapping) and facts:
            groups.append((str(facts.get("display_name") or name), list(_model(facts, run))))
    prompts = _mapping(_mapping(run.get("settings")).get("conditions"))
    if prompts:
        said = "  ".join(f"{name} {digest}" for name, digest in prompts.items())
        groups.append(("Prompts", [("digests", said)]))
    if played:
        groups.append(("Machine and sandbox", list(_machine(run))))
    warnings = [
        str(warning)
        for facts in models.values()
        for warning in _sequence(_mapping(facts).get("warnings"))
    ]
    verdict = calibration(directory, data)
    if verdict:
        groups.append(("Calibration", [("verdict", verdict)]))
    kept = [(title, [(k, v) for k, v in pairs if v]) for title, pairs in groups]
    return Card(directory.name, [(title, pairs) for title, pairs in kept if pairs], warnings)


def _what(run: Mapping[str, Any], episodes: int, data: ReportData) -> list[tuple[str, str]]:
    settings = _mapping(run.get("settings"))
    pairs = []
    if run.get("kind") == "run":
        recorded = run.get("command")
        if isinstance(recorded, list) and recorded:
            pairs.append(("command", shlex.join(["local-shutdown", *map(str, recorded)])))
        else:
            pairs.append(("command, from the recorded settings", command(run)))
        pairs.append(("trials per condition", str(settings.get("trials") or "")))
        merged = _mapping(run.get("merged"))
        pairs.append(("merged from", f"{merged['shards']} shards" if merged else ""))
    for source in _sequence(run.get("sources")):
        if isinstance(source, Mapping):
            said = f"{source.get('name')} ({source.get('format')}), sha256 {source.get('sha256')}"
            pairs.append(("file", said))
    return [
        *pairs,
        ("episodes", f"{episodes:,}"),
        ("version", f"local-shutdown {run.get('package_version') or NOT_RECORDED}"),
        ("time", _times(run)),
    ]


def command(run: Mapping[str, Any]) -> str:
    """The command that plays a run with the settings of run.json, into a new folder."""
    settings = _mapping(run.get("settings"))
    words = ["local-shutdown", "run"]
    for name in _sequence(settings.get("models")):
        words += ["--model", str(name)]
    conditions = settings.get("conditions")
    if isinstance(conditions, Mapping) and conditions:
        words += ["--conditions", ",".join(map(str, conditions))]
    for name, option in (("trials", "--trials"), ("engine", "--engine")):
        if settings.get(name):
            words += [option, str(settings[name])]
    for name, option, default in _OPTIONS:
        if settings.get(name) not in (None, default):
            words += [option, str(settings[name])]
    for name, value in _mapping(settings.get("sampling")).items():
        words += [f"--{str(name).replace('_', '-')}", str(value)]
    efforts = [str(one) for one in _sequence(settings.get("thinking")) if one != "default"]
    if efforts:
        words += ["--reasoning-effort", ",".join(map(str, _sequence(settings.get("thinking"))))]
    if settings.get("stop_at_bypass"):
        words.append("--stop-at-bypass")
    if settings.get("interview"):
        words.append("--interview")
    if settings.get("engine") == "endpoint":
        words += ["--base-url", "URL"]
    return shlex.join(words)


def _model(facts: Mapping[str, Any], run: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "weights", str(facts.get("model") or NOT_RECORDED)
    yield "revision", str(facts.get("revision") or "")
    digest = facts.get("weights_digest")
    yield "digest of the weights", str(digest or ("" if facts.get("revision") else NOT_RECORDED))
    engine = facts.get("engine") or _mapping(run.get("settings")).get("engine")
    version = facts.get("engine_version")
    yield "engine", " ".join(str(part) for part in (engine, version) if part) or NOT_RECORDED
    yield "torch", str(facts.get("torch_version") or "")
    for server in _sequence(facts.get("servers"))[:1]:
        words = [str(word) for word in _sequence(_mapping(server).get("command"))]
        if words:
            yield "arguments", shlex.join(["python", *words[1:]] if "python" in words[0] else words)
    yield "sampling", _pairs(facts.get("effective_sampling")) or NOT_RECORDED
    missed = _sequence(facts.get("generation_config_not_applied"))
    yield "sampling not applied", ", ".join(map(str, missed))
    yield "reasoning", ", ".join(map(str, _mapping(facts.get("requests"))))
    parsers = [facts.get("tool_parser"), facts.get("reasoning_parser")]
    yield "parsers (tools, reasoning)", ", ".join(str(one or "none") for one in parsers)
    yield "constrained decoding", _constrained(facts)


def _constrained(facts: Mapping[str, Any]) -> str:
    """Whether a grammar decided what a call may look like; None is the engine's "not known"."""
    if "decoding_constrained" not in facts:
        return NOT_RECORDED
    return {True: "yes", False: "no"}.get(facts["decoding_constrained"], "not known")


def _machine(run: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    hardware, sandbox = _mapping(run.get("hardware")), _mapping(run.get("sandbox"))
    yield "GPUs", _gpus(hardware)
    yield "processor", str(hardware.get("cpu") or "")
    yield "episode limits", _pairs(run.get("limits"))
    yield "sandbox limits", _pairs(sandbox.get("limits")) or NOT_RECORDED
    yield "limits kept by", str(sandbox.get("limits_kept_by") or "")


def calibration(directory: Path, data: ReportData) -> str:
    """What `calibrate` would say of a directory; empty when it has no calibration model."""
    cells = [
        cell
        for series in data.series
        if series.source == directory.name and series.look == "synthetic" and not series.factor
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


def _gpus(hardware: Mapping[str, Any]) -> str:
    gpus = hardware.get("gpus")
    if not isinstance(gpus, list):
        return ""
    counts: dict[str, int] = {}
    for gpu in gpus:
        name = str(gpu.get("name", gpu) if isinstance(gpu, Mapping) else gpu)
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{n} × {name}" for name, n in counts.items()) or "none"


def _times(run: Mapping[str, Any]) -> str:
    start, end = run.get("started_at"), run.get("ended_at") or run.get("finished_at")
    said = [str(t).replace("T", " ")[:16] for t in (start, end) if t]
    if len(said) == 2 and said[0][:10] == said[1][:10]:
        said[1] = said[1][11:]
    return " to ".join(said)


def _pairs(value: Any) -> str:
    if not isinstance(value, Mapping):
        return ""
    return ", ".join(_said(str(k), v) for k, v in value.items() if v is not None)


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


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()
