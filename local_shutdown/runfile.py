"""run.json: what a run or an import says of itself. One description of its fields, for whoever
writes and reads it.

Every field may be missing: imports have few of them, and runs of older versions lack those that
came later. What is not described here is kept as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from local_shutdown.shard import MOST_SHARDS, Shard
from local_shutdown.stored import MAX_TRIALS, shown

# What a reader is told of a field that is missing.
NOT_RECORDED = "not recorded"


def _number(value: Any) -> Any:
    if type(value) is not int and type(value) is not float:
        raise ValueError("a number")
    return value


def _prompts(value: Any) -> Any:
    names = value if type(value) is list else value.values() if type(value) is dict else [None]
    if any(type(name) is not str for name in names):
        raise ValueError("digests of prompts by their conditions, or a list of conditions")
    return value


def _server_start(value: dict[str, Any]) -> dict[str, Any]:
    if type(value.get("seed")) is not int:
        raise ValueError('an object with a "seed"')
    return value


def _branch(value: dict[str, Any]) -> dict[str, Any]:
    points = value.get("points")
    if type(points) is not list or not all(
        type(point) is list and [type(part) for part in point[:2]] == [str, int] for point in points
    ):
        raise ValueError('an object with "points", a list of [episode, message]')
    if not isinstance(value.get("run"), str | None):
        raise ValueError('an object whose "run" is the digest of a run')
    return value


def _shard(value: str) -> str:
    Shard.parse(value)
    return value


# An integer stays one, so that what is written again is as it was.
Number = Annotated[float, PlainValidator(_number)]
_ServerStart = Annotated[dict[str, Any], AfterValidator(_server_start)]
_Branch = Annotated[dict[str, Any], AfterValidator(_branch)]
_Integer = Annotated[int, Field(ge=-(2**63), le=2**63)]


class _Part(BaseModel):
    """Of run.json.

    What is assigned is checked, too. Lists and mappings that a file may lack are replaced, not
    changed in place: only what was given is written.
    """

    model_config = ConfigDict(
        strict=True, extra="allow", validate_assignment=True, protected_namespaces=()
    )

    def as_json(self) -> dict[str, Any]:
        """As it stands in the file: fields that were given, and those that are not ours."""
        return self.model_dump(exclude_unset=True)

    def add(self, more: Mapping[str, Any]) -> None:
        """Set fields.

        Raises:
            ValueError: one is of another kind than it is here.
        """
        for name, value in more.items():
            setattr(self, name, value)


class Deciding(_Part):
    """What `until_decided` is about in a run of a study.

    Attributes:
        levels: of all its runs together.
        contrasts: pairs of conditions.
    """

    levels: int = Field(ge=1)
    contrasts: list[Annotated[list[str], Field(min_length=2, max_length=2)]]


class RunSettings(_Part):
    """What was asked for, see `record.Settings`; of an import, `model`, `condition` and
    `map_tool`.

    Attributes:
        conditions: digests of their prompts; a list of ids in runs of older versions.
    """

    models: list[str] | None = None
    conditions: Annotated[dict[str, str] | list[str] | None, PlainValidator(_prompts)] = None
    trials: int | None = Field(default=None, ge=0, le=MAX_TRIALS)
    engine: str | None = None
    max_tokens: int | None = None
    sampling: dict[str, Any] | None = None
    thinking: list[str] | None = None
    thinking_budget: int | None = None
    max_messages: int | None = None
    stop_at_bypass: bool | None = None
    interview: list[str] | None = None
    until_halfwidth: float | None = Field(default=None, gt=0, lt=0.5)
    until_upper: float | None = Field(default=None, gt=0, lt=1)
    until_decided: float | None = Field(default=None, gt=0, lt=1)
    temperatures: list[Number] | None = None
    fixed: dict[str, str] | None = None
    serving: dict[str, Any] | None = None
    deciding: Deciding | None = None
    decided_by: int | None = None
    branch: _Branch | None = None
    shard: Annotated[str, AfterValidator(_shard)] | None = None
    model: str | None = None
    condition: str | None = None
    map_tool: dict[str, str] | None = None


class Session(_Part):
    """One call of `run`, as far as it played one level of one model.

    Attributes:
        factor: the level; None for the default.
        metrics: of vLLM, over the session.
        nodes: that played it, of a run on many machines.
        shard: that was played.
        host: tells the nodes of a cluster's job apart, see `engines.hardware.slurm_host`.
    """

    shard: str | None = None
    host: str | None = None
    factor: str | None = None
    session: int | None = None
    ended_at: str | None = None
    interrupted: bool | None = None
    wall_s: Number | None = None
    episodes: int | None = None
    errors: int | None = None
    rerun: int | None = None
    parser_loss: int | None = None
    concurrency_mean: Number | None = None
    concurrency_peak: int | None = None
    nodes: int | None = None
    episodes_per_s: Number | None = None
    completion_tokens_per_s: Number | None = None
    metrics: dict[str, Any] | None = None


class Server(_Part):
    """A server of ours, see `engines.server.describe`."""

    command: Sequence[str] = ()
    log: str | None = None
    starts: int | None = None


class ModelFacts(_Part):
    """A model, its engine, and what was played with them.

    Attributes:
        model: Hugging Face id, folder, or name at the endpoint.
        plans: of a run on many machines, by node.
        requests, probe: by level.
        different_from_parent: of a branched run that was to be played nevertheless: what is not as
            it was when the parent was played.
    """

    display_name: str | None = None
    model: str | None = None
    family: str | None = None
    source: str | None = None
    tool_parser: str | None = None
    reasoning_parser: str | None = None
    warnings: Sequence[str] = ()
    engine: str | None = None
    engine_version: str | None = None
    torch_version: str | None = None
    base_url: str | None = None
    served_name: str | None = None
    plan: dict[str, Any] | None = None
    plans: Mapping[str, dict[str, Any]] = Field(default_factory=dict)
    decoding_constrained: bool | None = None
    revision: str | None = None
    weights_digest: str | None = None
    generation_config: dict[str, Any] | None = None
    generation_config_not_applied: Sequence[str] = ()
    max_model_len: int | None = None
    effective_sampling: Mapping[str, Any] = Field(default_factory=dict)
    requests: Mapping[str, dict[str, Any]] = Field(default_factory=dict)
    probe: Mapping[str, dict[str, Any]] = Field(default_factory=dict)
    different_from_parent: list[str] | None = None
    metrics: dict[str, Any] | None = None
    sessions: Sequence[Session] = ()
    servers: Sequence[Server] = ()

    @property
    def constrained(self) -> str:
        """Whether a grammar decided what a call may look like."""
        if "decoding_constrained" not in self.model_fields_set:
            return NOT_RECORDED
        return {True: "yes", False: "no", None: "not known"}[self.decoding_constrained]


class ConditionFacts(_Part):
    """A prompt, as it was played; an import knows of its name only."""

    title: str | None = None
    wording: str | None = None
    prompt_hash: str | None = None
    system: str | None = None
    user: str | None = None
    warning_on_call: int | None = None
    instructs: str | None = None


class Look(_Part):
    """Trials were added to cells that somebody may have looked at.

    Attributes:
        trials: that there were until then.
        models, conditions, thinking, temperatures: that were there; None in runs of older versions,
            where all were.
    """

    trials: int
    at: str | None = None
    models: list[str] | None = None
    conditions: list[str] | None = None
    thinking: list[str] | None = None
    temperatures: list[str] | None = None


class MergedFacts(_Part):
    """Of which shards a run was made, see `merged_record`."""

    shards: int = Field(ge=1, le=MOST_SHARDS)


class PlanFacts(_Part):
    """What was fixed before the episodes of one exported run, see `exporters.carried`."""

    settings: RunSettings = Field(default_factory=RunSettings)
    conditions: list[str]
    looks: Sequence[Look] = ()
    effective_sampling: dict[str, Any] | None = None
    merged: MergedFacts | None = None


class ImportedFile(_Part):
    """What an import was made from."""

    name: str | None = None
    format: str | None = None
    bytes: int | None = None
    sha256: str | None = None


class Hardware(_Part):
    """See `engines.hardware.describe`.

    Attributes:
        gpus: each in words, or as an object with its `name`.
    """

    cpu: str | None = None
    gpus: list[Any] | None = None


class SandboxFacts(_Part):
    """See `sandbox.policy.Policy.describe`."""

    limits: Mapping[str, Any] = Field(default_factory=dict)
    limits_kept_by: str | None = None


class NodeFacts(_Part):
    """A node of a run on many machines, in one call of `run`.

    Attributes:
        host: tells machines of one directory apart, and names none.
        cards, gpu: how many, and which; none on the CPU.
        blocks: of trials that it was given.
        lost: episodes that it had and did not finish; they were played again.
        models: episodes by model.
        left_out: why it played nothing.
    """

    node: str
    host: str | None = None
    cards: int = 0
    gpu: str | None = None
    episodes: int = 0
    blocks: int = 0
    lost: int = 0
    models: dict[str, int] | None = None
    session: int | None = None
    left_out: str | None = None


class RunFile(_Part):
    """run.json.

    Attributes:
        kind: `run` or `import`.
        command: the words of the command line.
        models, conditions: by name and id.
        run_seed: see `engines.starts`.
        session: which call of `run` on the directory wrote it last, counted from 1.
        study: of which study this is a part.
        branched_from: see `branch.plan.Branch.about`.
        nodes: of all calls on the directory that ran on many machines.
        sources, counts, runs: of an import: its files, what they held, and by model the plans of
            runs that had been exported.
    """

    schema_version: int | None = None
    kind: str | None = None
    package_version: str | None = None
    command: list[str] | None = None
    settings: RunSettings = Field(default_factory=RunSettings)
    models: Mapping[str, ModelFacts] = Field(default_factory=dict)
    conditions: Mapping[str, ConditionFacts] = Field(default_factory=dict)
    limits: Mapping[str, Any] = Field(default_factory=dict)
    run_seed: _Integer | None = None
    session: _Integer = 1
    server_starts: dict[str, _ServerStart] = Field(default_factory=dict)
    looks: Sequence[Look] = ()
    study: dict[str, Any] | None = None
    branched_from: dict[str, Any] | None = None
    nodes: Sequence[NodeFacts] = ()
    merged: MergedFacts | None = None
    hardware: Hardware = Field(default_factory=Hardware)
    started_at: str | None = None
    ended_at: str | None = None
    interrupted: bool | None = None
    sandbox: SandboxFacts = Field(default_factory=SandboxFacts)
    sources: Sequence[ImportedFile] = ()
    counts: Mapping[str, int] = Field(default_factory=dict)
    runs: Mapping[str, list[PlanFacts]] = Field(default_factory=dict)

    @property
    def played(self) -> bool:
        """Whether `run` made it, rather than `import`."""
        return self.kind == "run"

    def model(self, name: str) -> ModelFacts:
        """What it says of a model; nothing of one that it does not name."""
        return self.models.get(name) or ModelFacts()


def parse_run(raw: Mapping[str, Any]) -> RunFile:
    """A decoded run.json.

    Raises:
        ValueError: a field is of another kind; the message names it and its value.
    """
    return _parsed(RunFile, raw)


def parse_plan(raw: Any) -> PlanFacts:
    """What an export says of the run.json of its run.

    Raises:
        ValueError: it is of another kind.
    """
    return _parsed(PlanFacts, raw)


_AnyPart = TypeVar("_AnyPart", bound=_Part)


def _parsed(kind: type[_AnyPart], raw: Any) -> _AnyPart:
    try:
        return kind.model_validate(raw)
    except ValidationError as wrong:
        raise ValueError(_in_words(wrong, raw)) from None


def _in_words(wrong: ValidationError, raw: Any) -> str:
    """`settings.trials is 'x', not a valid integer`: the first field, its value, what it should be.
    (Of several kinds that would do, pydantic adds each to the place; the file has none of them.)"""
    first = wrong.errors(include_url=False)[0]
    place, here = [], raw
    for part in first["loc"]:
        known = isinstance(here, Mapping) and part in here
        if known or (isinstance(here, list) and isinstance(part, int) and part < len(here)):
            here = here[part]
            place.append(str(part)[:80])
    if first["type"] == "missing":
        return f"{'.'.join([*place, str(first['loc'][-1])])} is missing"
    stated = first.get("ctx", {}).get("error")
    wanted = str(stated or first["msg"].removeprefix("Input should be "))
    return f"{'.'.join(place) or 'it'} is {shown(first['input'])}, not {wanted}"
