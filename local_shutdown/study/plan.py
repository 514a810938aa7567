"""The plan of a study: study.yaml with everything found that decides which numbers come out.

Nothing of it belongs to a machine, see `frozen_plan`: a model is its id and the revision asked for,
or the digest of its weights where these are a folder; a condition is the hash of its prompts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from local_shutdown import frozen_plan, grid
from local_shutdown.analysis.contrasts import Contrast
from local_shutdown.analysis.decided import RULE
from local_shutdown.analysis.model_weights import CALIBRATION
from local_shutdown.engines import weights
from local_shutdown.engines.spec import ModelSpec
from local_shutdown.errors import UsageError
from local_shutdown.factors import DEFAULT, number
from local_shutdown.grid import Condition
from local_shutdown.runs import MOST_PLANNED
from local_shutdown.store import RUN
from local_shutdown.study.contrasts import declared, planned, slug
from local_shutdown.study.elsewhere import Imported, all_imported, reference_of
from local_shutdown.study.schema import ModelRow, StudyFile

Find = Callable[[str], ModelSpec]
_PATH_LIKE = re.compile(r"[./~]")
# In a study's folder, beside its runs.
_TAKEN = ("imports", "reference", frozen_plan.PLAN, RUN)


@dataclass(frozen=True, slots=True)
class Served:
    """What one server is to serve: a model at a revision and precision; it is one run.

    Attributes:
        name: of the run's folder.
        row: the entry of study.yaml.
        spec: the model, at this revision.
        revision: what a level is called; None where the entry has no revision.
        precision: as asked for; None for the checkpoint's own.
        fixed: levels of factors, as every episode of the run has them.
        weights: digest, where they are a folder of the user's; else None.
    """

    name: str
    row: ModelRow
    spec: ModelSpec
    revision: str | None
    precision: str | None
    fixed: Mapping[str, str]
    weights: str | None


@dataclass(frozen=True, slots=True)
class Resolved:
    """A study, resolved.

    Attributes:
        study: the file.
        conditions: to play.
        served: one for each server, in the order of the file.
        efforts: of the factor; one where it is none.
        temperatures: of the factor; empty where the models' own is taken.
        contrasts: the family of tests.
        imports: in the order of the file.
        reference: `paper`, a file, or None.
        plan: what is frozen.
    """

    study: StudyFile
    conditions: Sequence[Condition]
    served: Sequence[Served]
    efforts: Sequence[str]
    temperatures: Sequence[float]
    contrasts: Sequence[Contrast]
    imports: Sequence[Imported]
    reference: str | None
    plan: dict[str, Any]

    @property
    def digest(self) -> str:
        return frozen_plan.digest(self.plan)

    def known(self) -> dict[str, dict[str, str | None]]:
        """Of each run, revision and digest of weights that are on this machine."""
        found = {}
        for one in self.served:
            folder = weights.locate(one.spec)
            if folder is not None:
                found[one.name] = {
                    "revision": weights.revision(folder),
                    "weights_digest": weights.digest(folder),
                }
        return found


def resolve(study: StudyFile, find: Find) -> Resolved:
    """Find everything that a study names; nothing is written, fetched or started.

    Args:
        find: a model by its id, see `engines.registry.resolve`.

    Raises:
        UsageError: something that does not exist or does not fit, by file and line.
    """
    row = study.row
    conditions = _conditions(study)
    served = [one for number_, _ in enumerate(row.models) for one in _served(study, number_, find)]
    _names_differ(study, served)
    efforts = tuple(dict.fromkeys(row.factors.effort or (DEFAULT,)))
    temperatures = tuple(dict.fromkeys(row.factors.temperature or ()))
    _check_requests(study, served, efforts)
    _check_size(study, len(conditions) * len(efforts) * max(1, len(temperatures)), len(served))
    _no_keys(study)
    levels = {
        "revision": {one.revision for one in served if one.revision},
        "precision": {one.precision for one in served if one.precision},
        "effort": set(efforts),
        "temperature": {number(t) for t in temperatures},
    }
    contrasts = declared(study, [c.id for c in conditions], levels)
    imports = all_imported(study)
    reference, reference_plan = reference_of(study)
    plan = {
        "name": study.name,
        "title": row.title,
        "models": _models(served),
        "conditions": {c.id: c.prompt_hash for c in conditions},
        "factors": {"effort": list(efforts), "temperature": [number(t) for t in temperatures]},
        "engine": row.engine,
        "trials": row.trials,
        "until": row.until.model_dump(exclude_none=True) if row.until else None,
        **({"decided_by": RULE} if row.until and row.until.decided is not None else {}),
        "contrasts": [planned(contrast) for contrast in contrasts],
        "margin": row.margin,
        "imports": [
            {"name": one.path.name, "sha256": one.sha256, "model": one.row.model,
             "condition": one.row.condition}
            for one in imports
        ],
        "reference": reference_plan,
        "seed": row.seed,
        "max_messages": row.max_messages,
        "max_seconds": row.max_seconds,
        "stop_at_bypass": row.stop_at_bypass,
        "interview": [q.text for q in grid.interview_questions()] if row.interview else [],
    }  # fmt: skip
    return Resolved(
        study, conditions, served, efforts, temperatures, contrasts, imports, reference, plan
    )


# --- conditions -----------------------------------------------------------------------------------


def _conditions(study: StudyFile) -> list[Condition]:
    chosen: dict[str, Condition] = {}
    for place, wanted in enumerate(study.row.conditions):
        file = study.beside(wanted)
        named = wanted.endswith((".yaml", ".yml")) or "/" in wanted
        if named and not file.is_file():
            raise study.wrong(("conditions", place), f"{wanted}: no such file")
        try:
            found = grid.load(file).values() if named else grid.choose(wanted)
        except UsageError as wrong:
            said = wrong.message.removeprefix("--conditions: ")
            raise study.wrong(("conditions", place), said, wrong.hint) from None
        for condition in found:
            if chosen.setdefault(condition.id, condition) != condition:
                raise study.wrong(
                    ("conditions", place),
                    f"two different conditions are called {condition.id!r}",
                    "rename the one in your file",
                )
    return list(chosen.values())


# --- models ---------------------------------------------------------------------------------------


def _served(study: StudyFile, place: int, find: Find) -> list[Served]:
    """The servers of one entry: its revisions times its precisions."""
    row = study.row.models[place]
    loc = ("models", place)
    folder = study.beside(row.id)
    local = _PATH_LIKE.match(row.id) is not None or (folder / "config.json").is_file()
    try:
        base = find(str(folder) if local else row.id)
    except UsageError as wrong:
        said = wrong.message.removeprefix("--model ")
        raise study.wrong((*loc, "id"), said, wrong.hint) from None
    name = row.name or (slug(folder.resolve().name) if local else base.name)
    display = row.name or (name if local else base.display_name)
    if base.family == CALIBRATION and "synthetic" not in display:
        display = f"{display} (synthetic)"
    base = replace(base, name=name, display_name=display)
    revisions = list(dict.fromkeys(row.revision or study.row.factors.revision or ()))
    precisions = list(dict.fromkeys(row.precision or study.row.factors.precision or ()))
    found = []
    for number_, revision in enumerate(revisions or [None]):
        where = (*loc, "revision", number_) if row.revision else ("factors", "revision", number_)
        spec, digest = _at_revision(study, where, base, revision)
        if local and digest is None:
            digest = _digest(study, (*loc, "id"), Path(spec.hf_id))
        label = None if revision is None else slug(Path(revision).name if digest else revision)
        wanted: Sequence[str | None] = precisions or (None,)
        for precision in wanted:
            fixed = {}
            if label is not None and len(revisions) > 1:
                fixed["revision"] = label
            if precision is not None and len(precisions) > 1:
                fixed["precision"] = precision
            folder_name = "@".join(slug(part) for part in (name, *fixed.values()))
            found.append(Served(folder_name, row, spec, label, precision, fixed, digest))
    return found


def _at_revision(
    study: StudyFile, where: Sequence[int | str], base: ModelSpec, revision: str | None
) -> tuple[ModelSpec, str | None]:
    """The model at a revision, and the digest of its weights where they are a folder."""
    if revision is None:
        return base, None
    folder = study.beside(revision)
    if (folder / "config.json").is_file():
        return replace(base, hf_id=str(folder.resolve())), _digest(study, where, folder)
    if _PATH_LIKE.match(revision):
        raise study.wrong(where, f"{revision}: no folder with a config.json", "check the path")
    if Path(base.hf_id).is_dir():
        raise study.wrong(
            where,
            f"{revision}: {base.name} is a folder, which has no branches, tags or commits",
            "give folders with the weights of each checkpoint, relative to the study",
        )
    return replace(base, revision=revision), None


def _digest(study: StudyFile, where: Sequence[int | str], folder: Path) -> str:
    found = weights.digest(folder)
    if found is None:
        raise study.wrong(where, f"{folder}: no weights in it", "it needs *.safetensors")
    return found


def _names_differ(study: StudyFile, served: Sequence[Served]) -> None:
    seen: dict[str, ModelRow] = {}
    for one in served:
        if one.name.lower() in _TAKEN:
            raise study.wrong(
                ("models", study.row.models.index(one.row)),
                f"a run cannot be called {one.name!r}: a study's folder has something else there",
                "give the entry another `name`",
            )
        if one.name.lower() in seen:
            raise study.wrong(
                ("models", study.row.models.index(one.row)),
                f"two runs would be called {one.name!r}",
                "give the entry a `name`, or its checkpoints different names",
            )
        seen[one.name.lower()] = one.row


def _check_requests(study: StudyFile, served: Sequence[Served], efforts: Sequence[str]) -> None:
    """Refuse efforts that a model does not know before anything is started."""
    for one in served:
        place = study.row.models.index(one.row)
        for effort in efforts:
            try:
                one.spec.thinking.request(effort, one.row.thinking_budget)
            except UsageError as wrong:
                raise study.wrong(
                    ("models", place, "id"), f"{one.row.id}: {wrong.message}", wrong.hint
                ) from None


def _check_size(study: StudyFile, cells: int, servers: int) -> None:
    """Refuse a number of trials that nobody plays: a digit too many.

    Args:
        cells: of each run.
    """
    trials = study.row.trials
    if trials * cells > MOST_PLANNED:
        raise study.wrong(
            ("trials",),
            f"{trials:,} trials in each of {cells:,} cells are {trials * cells:,} episodes in each "
            f"of {servers:,} runs; a run has at most {MOST_PLANNED:,}",
            f"`trials: {MOST_PLANNED // cells}` is the most here; the paper played 1000",
        )


def _no_keys(study: StudyFile) -> None:
    """The plan is published as it is, and its digest is of every word."""
    for place, row in enumerate(study.row.models):
        for word in row.engine_args:
            if word.partition("=")[0] == "--api-key":
                raise study.wrong(
                    ("models", place, "engine_args"),
                    "--api-key: a plan is published, and a key does not belong into it",
                    "leave it out: each server gets a key of its own",
                )


def _models(served: Sequence[Served]) -> dict[str, Any]:
    """The models of the plan, by name."""
    found: dict[str, Any] = {}
    for one in served:
        folder = Path(one.spec.hf_id).is_dir()
        bundled = folder and one.weights is None
        model = found.setdefault(
            one.spec.name,
            {
                "id": one.row.id if bundled else None if folder else one.spec.hf_id,
                "checkpoints": [],
                "precision": [],
                "engine_args": list(one.row.engine_args),
                "sampling": one.row.sampling.model_dump(exclude_none=True),
                "max_tokens": one.row.max_tokens,
                "max_model_len": one.row.max_model_len,
                "thinking_budget": one.row.thinking_budget,
            },
        )
        digest = weights.digest(Path(one.spec.hf_id)) if bundled else one.weights
        checkpoint = {"revision": one.revision, "weights_digest": digest}
        if checkpoint not in model["checkpoints"]:
            model["checkpoints"].append(checkpoint)
        if one.precision is not None and one.precision not in model["precision"]:
            model["precision"].append(one.precision)
    return found
