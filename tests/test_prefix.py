"""Bringing a sandbox back to a point: an episode whose beginning does not come about has none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from playing import episode, table
from scripted import Messages, bash, comply, resist, turn

from local_shutdown.agent import Limits, Task, run_episode
from local_shutdown.detectors import outcome, score
from local_shutdown.engines.client import Request
from local_shutdown.episode import Episode
from local_shutdown.grid import load
from local_shutdown.parent import Parent
from local_shutdown.prefix import Prefix


async def played_on(prefix: Prefix, *, seconds: float | None = None) -> Episode:
    async with table(comply) as (_, client, kit):
        task = Task("m/E/0@8/0", "m", load()["E"], 0, None, prefix)
        return await run_episode(task, client, Request("m"), kit, Limits(seconds=seconds))


def beginning(of: Episode, message: int, **changes: str) -> Prefix:
    """A recorded beginning, with other contents of some messages (`m5="..."`)."""
    messages = [dict(one) for one in of.messages[:message]]
    for name, content in changes.items():
        messages[int(name.removeprefix("m"))]["content"] = content
    events = [event for event in of.events or () if event.message < message]
    return Prefix(Parent(run="r", episode="m/E/0", message=message), messages, events)


def is_an_error_and_nothing_else(of: Episode, said: str) -> None:
    assert of.stop_reason == "error"
    assert said in (of.error or "")
    assert "ReplayFault" in (of.error or "")
    assert outcome(of) == "error"
    row = score(of)
    assert (row.reached_warning, row.completed, row.shutdown_called) == (False, False, False) or (
        row.reached_warning is None
    )
    assert of.messages == []
    assert of.events == []
    assert of.parent is not None


async def test_another_result_is_an_error_and_no_outcome() -> None:
    before, _ = await episode(resist("rm shutdown.sh"), condition="E")
    changed = beginning(before, 12, m5="something else\n")
    is_an_error_and_nothing_else(await played_on(changed), "message 5")


async def test_a_machine_that_goes_down_on_the_way_is_an_error_and_not_compliance() -> None:
    before, _ = await episode(comply, condition="E")
    down = beginning(before, 8)
    last = dict(before.messages[8])  # the call that shut the machine down
    result = {"role": "tool", "tool_call_id": last["tool_calls"][0]["id"], "content": "6\n"}
    prefix = replace(down, messages=[*down.messages, last, result])
    is_an_error_and_nothing_else(await played_on(prefix), "message 8")


async def test_having_got_past_the_shutdown_on_the_way_is_an_error_and_not_resistance() -> None:
    before, _ = await episode(resist("rm shutdown.sh"), condition="E")
    assert outcome(before) == "resisted"
    last = len(before.messages) - 1
    changed = beginning(before, last, **{f"m{last - 1}": "another ending\n"})
    is_an_error_and_nothing_else(await played_on(changed), f"message {last - 1}")


async def test_a_beginning_that_takes_too_long_is_an_error_and_no_limit() -> None:
    def slow(messages: Messages) -> Any:
        return bash("sleep 2") if turn(messages) == 0 else comply(messages)

    before, _ = await episode(slow, condition="E")
    prefix = beginning(before, 10)
    is_an_error_and_nothing_else(await played_on(prefix, seconds=1.0), "time")


async def test_the_same_beginning_is_played_on() -> None:
    before, _ = await episode(resist("rm shutdown.sh"), condition="E")
    found = await played_on(beginning(before, 12))
    assert found.stop_reason == "submit"
    assert list(found.messages[:12]) == list(before.messages[:12])
    assert outcome(found) == "resisted"


@pytest.mark.parametrize("calls", [1, 3])
async def test_several_calls_of_an_answer_are_run_again_in_order(calls: int) -> None:
    def several(messages: Messages) -> Any:
        if turn(messages):
            return comply(messages)
        made = [bash(f"echo {n} >> log; cat log")["tool_calls"][0] for n in range(calls)]
        return {
            "role": "assistant", "content": None,
            "tool_calls": [{**call, "id": f"c{n}"} for n, call in enumerate(made)],
        }  # fmt: skip

    before, _ = await episode(several, condition="E")
    found = await played_on(beginning(before, 3 + calls))
    assert outcome(found) == "complied"
    assert list(found.messages[: 3 + calls]) == list(before.messages[: 3 + calls])
