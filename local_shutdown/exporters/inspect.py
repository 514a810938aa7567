"""A run directory as Inspect logs: one `.eval` file a model, one sample an episode.

`inspect view`, Inspect's dataframes and what builds on them then read our runs. A sample has the
messages (reasoning as Inspect's reasoning content), its model and tool events, our environment
events as info events, error, limit, token usage, and one score for each column of results.csv
that is known. Its metadata holds the facts of the episode under `local_shutdown`, so that importing
the log gives them back; the header's metadata, how their number came about.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

from local_shutdown.detectors import BOOLEANS, Row
from local_shutdown.episode import COUNTED, Episode, Event
from local_shutdown.errors import UsageError
from local_shutdown.exporters.carried import carried
from local_shutdown.exporters.eval_file import EvalFile
from local_shutdown.exporters.scored import Scored, read_scored
from local_shutdown.importers.facts import KEY
from local_shutdown.importers.inspect import inspect_ai
from local_shutdown.importers.transcript import Malformed, normalise
from local_shutdown.runfile import RunFile
from local_shutdown.store import load_run

TASK = "local-shutdown"
LIMIT_TYPES = {
    "message_limit": "message",
    "token_limit": "token",
    "context_limit": "context",
    "time_limit": "time",
}
_OUTPUT_STOPS = {"token_limit": "max_tokens", "context_limit": "model_length", "error": "unknown"}


def export_inspect(directory: str | Path, out: str | Path) -> list[Path]:
    """Write a run directory as Inspect logs.

    Args:
        directory: a run or an import.
        out: a directory for the logs, made where it is missing; or, for a run of one model, the
            `.eval` file. An earlier export of the same run is replaced.

    Returns:
        The files, one a model, in the order the models first appear.

    Raises:
        UsageError: the run cannot be read, has no episodes, or several models for one file.
        CannotRunError: inspect-ai is not installed.
    """
    directory, out = Path(directory), Path(out)
    inspect_ai("log")  # before anything is written
    run = load_run(directory)
    created = _created(directory, run)
    folder = out.parent if out.suffix == ".eval" else out
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, EvalFile] = {}
    try:
        for scored in read_scored(directory):
            model = scored.episode.model
            if model not in files:
                if files and folder is not out:
                    raise UsageError(
                        f"{out}: one log is of one model, but {directory} has several: "
                        f"{next(iter(files))}, {model}",
                        hint="give a folder",
                    )
                name = _stable_id(directory, model)
                path = folder / _file_name(created, model, name) if folder is out else out
                facts = run.model(model).as_json()
                files[model] = EvalFile(path, model, name, created, directory.resolve().name, facts)
            sample = to_sample(scored, f"{directory.resolve().name}/{model}")
            files[model].add(sample, scored.row)
        for model, file in files.items():
            file.finish(carried(directory, run, model, file.ids))
    finally:
        for file in files.values():
            file.close()
    if not files:
        raise UsageError(f"{directory}: has no episodes to export")
    return [file.path for file in files.values()]


def to_sample(scored: Scored, namespace: str) -> Any:
    """One episode as inspect-ai's EvalSample.

    Args:
        scored: the episode and its row.
        namespace: of the run, for a stable sample uuid.
    """
    episode, row = scored.episode, scored.row
    log, model = inspect_ai("log"), inspect_ai("model")
    messages = to_messages(episode)
    usage = _usage(model, row)
    facts = orjson.loads(episode.to_json())
    facts.pop("messages")
    started = _parse(episode.started_at)
    finished = None
    if started is not None and episode.duration_s is not None:
        finished = (started + timedelta(seconds=episode.duration_s)).isoformat()
    first = next((m.text for m in messages if m.role == "user"), "")
    return log.EvalSample(
        id=episode.episode_id,
        epoch=1,
        input=first,
        target="",
        messages=messages,
        output=_output(model, episode, messages, usage),
        scores=_scores(row),
        metadata={
            "condition": episode.condition,
            "trial": episode.trial,
            "stop_reason": episode.stop_reason,
            "methods": _methods(row),
            KEY: facts,
        },
        events=_events(episode, messages, started),
        events_data={"messages": messages, "calls": []},
        model_usage={} if usage is None else {episode.model: usage},
        started_at=None if started is None else started.isoformat(),
        completed_at=finished,
        total_time=episode.duration_s,
        uuid=uuid.uuid5(uuid.NAMESPACE_URL, f"{namespace}/{episode.episode_id}").hex,
        error=_error(episode),
        limit=_limit(log, episode, row),
        turn_count=row.turns,
    )


def to_messages(episode: Episode) -> list[Any]:
    """Messages as inspect-ai's ChatMessages.

    Where Inspect's format cannot say what is stored (arguments the model broke, keys it does not
    know), the message's metadata says what to set and what to drop to have it back.
    """
    names = {
        call.get("id"): (call.get("function") or {}).get("name")
        for message in episode.messages
        for call in message.get("tool_calls") or ()
    }
    messages = [
        _message(message, f"{episode.episode_id}/{at}", episode.model, names)
        for at, message in enumerate(episode.messages)
    ]
    return with_stored(messages, episode.messages)


def with_stored(
    messages: Sequence[Any], episode_messages: Sequence[Mapping[str, Any]]
) -> list[Any]:
    """ChatMessages whose metadata says how to have back what the episode stores.

    Args:
        messages: ChatMessages, one for each stored message; not changed.
        episode_messages: as stored.
    """
    raw = [message.model_dump(mode="json", exclude_none=True) for message in messages]
    back: Sequence[Mapping[str, Any]]
    try:
        back = normalise(raw, {}).messages
    except Malformed:
        back = []
    if len(back) != len(messages):  # one to one by construction; else keep every message whole
        back = [{}] * len(messages)
    noted = []
    for message, stored, found in zip(messages, episode_messages, back, strict=True):
        patch: dict[str, Any] = {}
        differs = {k: v for k, v in stored.items() if k not in found or found[k] != v}
        if differs:
            patch["set"] = differs
        surplus = [key for key in found if key not in stored]
        if surplus:
            patch["drop"] = surplus
        if patch:
            said = {**(message.metadata or {}), KEY: patch}
            message = message.model_copy(update={"metadata": said})
        noted.append(message)
    return noted


def _message(
    message: Mapping[str, Any], name: str, model: str, names: Mapping[Any, str | None]
) -> Any:
    api = inspect_ai("model")
    role = message.get("role")
    text = message.get("content")
    content: Any = text if isinstance(text, str) else []
    if role == "assistant":
        reasoning = message.get("reasoning")
        if isinstance(reasoning, str) and reasoning:
            parts = [api.ContentReasoning(reasoning=reasoning)]
            if isinstance(text, str):
                parts.append(api.ContentText(text=text))
            content = parts
        calls = [_call(call, at) for at, call in enumerate(message.get("tool_calls") or ())]
        return api.ChatMessageAssistant(
            id=name, content=content, tool_calls=calls or None, model=model, source="generate"
        )
    if role == "tool":
        call_id = message.get("tool_call_id")
        return api.ChatMessageTool(
            id=name, content=content, tool_call_id=call_id, function=names.get(call_id)
        )
    if role in ("system", "developer"):
        return api.ChatMessageSystem(id=name, content=content, source="input")
    return api.ChatMessageUser(id=name, content=content, source="input")


def _call(call: Mapping[str, Any], at: int) -> Any:
    function = call.get("function") or {}
    text = function.get("arguments")
    problem = None
    try:
        arguments = orjson.loads(text) if isinstance(text, str) else text
        if not isinstance(arguments, dict):
            problem = "the arguments are not an object"
    except orjson.JSONDecodeError as broken:
        problem = str(broken)
    return inspect_ai("tool").ToolCall(
        id=str(call.get("id") or f"call_{at}"),
        function=str(function.get("name") or "unknown"),
        arguments={"raw": text} if problem else arguments,
        parse_error=problem,
    )


def _methods(row: Row) -> str | None:
    return ";".join(row.methods) if row.methods is not None else None


def _usage(model: Any, row: Row) -> Any:
    prompt, completion = row.prompt_tokens, row.completion_tokens
    if prompt is None or completion is None:
        return None
    return model.ModelUsage(
        input_tokens=prompt, output_tokens=completion, total_tokens=prompt + completion
    )


def _output(model: Any, episode: Episode, messages: Sequence[Any], usage: Any) -> Any:
    last = next((m for m in reversed(messages) if m.role == "assistant"), None)
    if last is None:
        return model.ModelOutput(model=episode.model, error=episode.error)
    stop = _OUTPUT_STOPS.get(episode.stop_reason or "")
    if stop is None:
        stop = "tool_calls" if last.tool_calls else "stop"
    choice = model.ChatCompletionChoice(message=last, stop_reason=stop)
    return model.ModelOutput(
        model=episode.model, choices=[choice], usage=usage, error=episode.error
    )


def _scores(row: Row) -> dict[str, Any]:
    """`outcome` in words, `resisted` as 1 or 0 where it counts, and each column that is known."""
    score = inspect_ai("scorer").Score
    scores: dict[str, Any] = {}
    if row.outcome is not None:
        scores["outcome"] = score(value=row.outcome, explanation=_methods(row))
        if row.outcome in COUNTED:
            scores["resisted"] = score(value=int(row.outcome == "resisted"))
    for name in BOOLEANS:
        value = getattr(row, name)
        if value is not None:
            scores[name] = score(value=int(value))
    return scores


def _events(episode: Episode, messages: Sequence[Any], started: datetime | None) -> list[Any]:
    """The transcript as Inspect tells it: a model event a turn, a tool event a call, and ours.

    Inspect's own dataframe of messages is read from the model events. Of a turn we know when the
    environment first saw something of it, not when it was asked for: that time is used.
    """
    api = inspect_ai("event")
    base = started or datetime(1970, 1, 1, tzinfo=UTC)
    results = {m.tool_call_id: m for m in messages if m.role == "tool"}
    ours: dict[int, list[Event]] = {}
    for event in episode.events or ():
        ours.setdefault(event.message, []).append(event)
    made: list[Any] = []
    now_s = 0.0

    def at(t_s: float) -> dict[str, Any]:
        return {
            "timestamp": base + timedelta(seconds=t_s),
            "working_start": t_s,
            "uuid": f"{episode.episode_id}/event/{len(made)}",
        }

    for index, message in enumerate(messages):
        seen = ours.pop(index, ())
        if message.role == "assistant":
            now_s = max(now_s, seen[0].t_s) if seen else now_s
            made.append(_model_event(episode, index, message, at(now_s)))
            for call in message.tool_calls or ():
                result = results.get(call.id)
                made.append(
                    api.ToolEvent(
                        id=call.id,
                        function=call.function,
                        arguments=call.arguments,
                        result="" if result is None else result.text,
                        message_id=None if result is None else result.id,
                        **at(now_s),
                    )
                )
        for event in seen:
            now_s = max(now_s, event.t_s)
            made.append(api.InfoEvent(source=KEY, data=event.as_dict(), **at(event.t_s)))
    for event in (event for rest in ours.values() for event in rest):
        made.append(api.InfoEvent(source=KEY, data=event.as_dict(), **at(event.t_s)))
    return made


def _model_event(episode: Episode, index: int, message: Any, at: Mapping[str, Any]) -> Any:
    """The call that gave message `index`; its input is a range of the sample's message pool."""
    model = inspect_ai("model")
    stop = "tool_calls" if message.tool_calls else "stop"
    choice = model.ChatCompletionChoice(message=message, stop_reason=stop)
    return inspect_ai("event").ModelEvent(
        model=episode.model,
        input=[],
        input_refs=[(0, index)] if index else None,
        tools=[],
        tool_choice="auto",
        config=model.GenerateConfig(),
        output=model.ModelOutput(model=episode.model, choices=[choice]),
        **at,
    )


def _error(episode: Episode) -> Any:
    if episode.stop_reason != "error":
        return None
    message = episode.error or "the episode ended in an error without a message"
    return inspect_ai("log").EvalError(message=message, traceback=message, traceback_ansi=message)


def _limit(log: Any, episode: Episode, row: Row) -> Any:
    kind = LIMIT_TYPES.get(episode.stop_reason or "")
    if kind is None:
        return None
    reached = {
        "message": len(episode.messages),
        "token": row.completion_tokens,
        "context": row.prompt_tokens,
        "time": episode.duration_s,
    }[kind]
    return log.EvalSampleLimit(
        type=kind,
        limit=float(reached or 0),
        reason=f"{episode.stop_reason}; the value is what the episode had reached",
    )


def _created(directory: Path, run: RunFile) -> datetime:
    found = _parse(run.started_at)
    if found is None:
        found = datetime.fromtimestamp((directory / "run.json").stat().st_mtime, UTC)
    return found.replace(microsecond=0)


def _parse(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def _file_name(created: datetime, model: str, name: str) -> str:
    """As Inspect names its logs: time, task, model, id."""
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", model).strip("-.") or "model"
    return f"{created:%Y-%m-%dT%H-%M-%S+00-00}_{TASK}_{slug}_{name}.eval"


def _stable_id(directory: Path, model: str) -> str:
    """The same for the same run and model, so that a second export replaces the first."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"{directory.resolve().name}/{model}").hex[:22]
