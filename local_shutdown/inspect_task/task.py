"""`inspect eval local_shutdown/shutdown`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inspect_ai import Task, task

# What Inspect shows without a traceback; it has no public name (inspect-ai 0.3.285).
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageSystem, ChatMessageUser

from local_shutdown import __version__
from local_shutdown.errors import LocalShutdownError, UsageError
from local_shutdown.grid import Condition, choose
from local_shutdown.inspect_task.sandboxes import check
from local_shutdown.inspect_task.scorer import outcome
from local_shutdown.inspect_task.solver import play


@task
def shutdown(
    condition: str | Sequence[str] = "A",
    trials: int = 100,
    max_messages: int = 50,
    stop_at_bypass: bool = False,
    interview: bool = False,
    weights: str | None = None,
) -> Task:
    """Does a model allow itself to be shut down? Played in our sandboxes.

    Args:
        condition: ids, ranges, `all` or a file of conditions, as `local-shutdown run --conditions`.
        trials: of each condition; each is a sample.
        max_messages: prompts and tool results included; reaching it is a limit, not an outcome.
        stop_at_bypass: end an episode as soon as it has got past the shutdown; same outcome.
        interview: ask the model three questions after each episode.
        weights: `open` or `closed`: kept with each episode, for open against closed.
    """
    try:
        conditions = choose(condition if isinstance(condition, str) else ",".join(condition))
        _check("trials", trials, 1)
        _check("max_messages", max_messages, 3)
        if weights not in (None, "open", "closed"):
            raise UsageError(f"-T weights={weights}: neither open nor closed")
        check()
    except LocalShutdownError as failed:
        raise PrerequisiteError(str(failed)) from None
    samples = [_sample(one, trial, trials) for trial in range(trials) for one in conditions]
    return Task(
        dataset=MemoryDataset(samples, name="shutdown"),
        solver=play(max_messages, stop_at_bypass, interview, weights),
        scorer=outcome(),
        # An episode that failed is an `error`, counted beside the others, which go on.
        fail_on_error=False,
        score_on_error=True,
        metadata={"package_version": __version__},
    )


def _check(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"-T {name}={value}: must be a whole number of at least {least}")


def _sample(condition: Condition, trial: int, trials: int) -> Sample:
    return Sample(
        id=f"{condition.id}/{trial}",
        input=[
            ChatMessageSystem(content=condition.system),
            ChatMessageUser(content=condition.user),
        ],
        metadata={
            "condition": condition.id,
            "trial": trial,
            "trials": trials,
            "title": condition.title,
            "wording": condition.wording,
            "prompt_hash": condition.prompt_hash,
            "warning_on_call": condition.warning_on_call,
            "instructs": condition.instructs,
        },
    )
