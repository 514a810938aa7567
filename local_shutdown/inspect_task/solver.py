"""One sample is one episode, played by the agent loop of our own runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import anyio
import orjson
from inspect_ai.log import transcript
from inspect_ai.model import GenerateConfig, get_model

# No public name of what the user set on the command line (inspect-ai 0.3.285).
from inspect_ai.model._generate_config import active_generate_config
from inspect_ai.solver import Generate, Solver, TaskState, solver
from inspect_ai.util import LimitExceededError

from local_shutdown.agent import Limits, Observer, Task, run_episode
from local_shutdown.batch import episode_id
from local_shutdown.engines.client import Request
from local_shutdown.episode import Episode, Event
from local_shutdown.errors import UsageError
from local_shutdown.exporters.inspect import LIMIT_TYPES, with_stored
from local_shutdown.grid import Condition, interview_questions
from local_shutdown.importers.facts import KEY
from local_shutdown.inspect_task.client import ModelClient
from local_shutdown.inspect_task.sandboxes import Sandboxes


@solver
def play(
    max_messages: int = 50,
    stop_at_bypass: bool = False,
    interview: bool = False,
    weights: str | None = None,
) -> Solver:
    """Play the episode of a sample in a sandbox of ours.

    Args:
        max_messages: see `agent.Limits`.
        stop_at_bypass: end an episode as soon as it has got past the shutdown.
        interview: put three questions to the model after the episode.
        weights: `open` or `closed`, for the record.
    """
    sandboxes = Sandboxes()
    questions = interview_questions() if interview else ()

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        model = get_model()
        settings = model.config.merge(active_generate_config())
        task = replace(_task(state, settings), stop_at_bypass=stop_at_bypass, interview=questions)
        client = ModelClient(model, settings, task.episode_id)
        keeper = _Keeper(state, client, weights)
        with sandboxes.kit() as kit:
            try:
                await _apart(
                    run_episode(
                        task,
                        client,
                        Request(task.model),
                        kit,
                        Limits(messages=max_messages),
                        observer=keeper,
                    )
                )
            finally:
                # Where Inspect has ended it, by a limit or for its user, its log says why.
                keeper.keep()
        _tell(keeper.kept, client, max_messages)
        return state

    return solve


class _Keeper(Observer):
    """Writes an episode into the sample that it is played in."""

    def __init__(self, state: TaskState, client: ModelClient, weights: str | None) -> None:
        self._state, self._client, self._weights = state, client, weights
        self._record: Callable[[], Episode] | None = None
        self.kept: Episode | None = None

    def saw(self, event: Event) -> None:
        transcript().info(event.as_dict(), source=KEY)

    def began(self, record: Callable[[], Episode]) -> None:
        self._record = record

    def keep(self) -> None:
        """Messages as Inspect's, the facts beside them: `import` makes the episode of both."""
        if self._record is None:
            return  # cancelled before it began
        self.kept = episode = self._record()
        if self._weights:
            episode = replace(episode, extra={**episode.extra, "weights": self._weights})
        state, client = self._state, self._client
        client.take(episode.messages)
        # A list of more messages than Inspect's limit, when that is what ended the episode, is
        # refused as long as the limit stands.
        limit, state.message_limit = state.message_limit, None
        state.messages = with_stored(client.messages[: len(episode.messages)], episode.messages)
        with contextlib.suppress(LimitExceededError):
            state.message_limit = limit
        if client.output is not None:
            state.output = client.output
        facts = orjson.loads(episode.to_json())
        del facts["messages"]
        state.metadata = {**state.metadata, "stop_reason": episode.stop_reason, KEY: facts}


def _task(state: TaskState, settings: GenerateConfig) -> Task:
    """What to play, from the sample.

    Raises:
        UsageError: the model would see other prompts than those of the condition.
    """
    said = state.metadata
    system, user = state.input if isinstance(state.input, list) else (None, None)
    condition = Condition(
        said["condition"],
        said["title"],
        said["wording"],
        getattr(system, "text", ""),
        getattr(user, "text", ""),
        said["warning_on_call"],
        said["instructs"],
    )
    if condition.prompt_hash != said["prompt_hash"]:
        raise UsageError(f"sample {state.sample_id}: not the prompts of {condition.id}")
    if settings.system_message:
        raise UsageError(
            "a system message beside that of the condition would change the experiment",
            "leave --system-message out",
        )
    # With --epochs a sample is played several times, each a trial.
    trial = said["trial"] + (state.epoch - 1) * said["trials"]
    effort = settings.reasoning_effort
    factor = f"effort={effort}" if effort else None
    model = str(state.model)
    return Task(episode_id(model, condition.id, trial, factor), model, condition, trial, factor)


async def _apart(episode: Coroutine[Any, Any, Episode]) -> Episode:
    """Play an episode as a task of its own. Inspect's limits cancel what runs below them again and
    again, its clean-up too; ours is cancelled once, and waited for until its sandbox is gone."""
    playing = asyncio.ensure_future(episode)
    try:
        return await asyncio.shield(playing)
    except asyncio.CancelledError:
        playing.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([playing])
        if not playing.cancelled():
            playing.exception()  # seen; what counts is that we were cancelled
        raise


def _tell(episode: Episode | None, client: ModelClient, max_messages: int) -> None:
    """Let Inspect know how the episode ended: by an error, or by a limit, as it calls them."""
    assert episode is not None
    if episode.stop_reason == "error":
        raise client.failed or RuntimeError(episode.error)
    kind = LIMIT_TYPES.get(episode.stop_reason or "")
    if kind is None:
        return
    limit = max_messages if kind == "message" else episode.usage["prompt_tokens"]
    raise LimitExceededError(kind, value=limit, limit=limit, message=f"{episode.stop_reason}")
