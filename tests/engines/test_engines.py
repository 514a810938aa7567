"""Which engine, at which address, and which copy of the model an episode stays with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pytest

from local_shutdown.engines import Engine, Seat, choose_kind, endpoint_url, transformers, vllm
from local_shutdown.engines.client import ChatClient
from local_shutdown.engines.metrics import Reading, Series
from local_shutdown.engines.server import Server
from local_shutdown.errors import CannotRunError, UsageError


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("https://api.example.org/openai/v1/", "https://api.example.org/openai/v1"),
    ],
)
def test_an_address_is_taken_with_or_without_its_version(given: str, used: str) -> None:
    assert endpoint_url(given) == used


@pytest.mark.parametrize("given", ["", None, "localhost:8000", "ftp://x", "http://", "https:///"])
def test_what_is_no_address_is_refused(given: str | None) -> None:
    with pytest.raises(UsageError, match="not an http address"):
        endpoint_url(given)


def test_an_address_means_an_endpoint() -> None:
    assert choose_kind("auto", "http://x/v1") == "endpoint"


def test_vllm_that_is_asked_for_and_cannot_run_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vllm, "unusable", lambda: "vLLM is not installed")
    with pytest.raises(CannotRunError, match="--engine vllm: vLLM is not installed"):
        choose_kind("vllm", None)


def test_auto_prefers_vllm_where_it_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "unusable", lambda: None)
    assert choose_kind("auto", None) == "vllm"


def test_without_any_engine_the_user_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vllm, "unusable", lambda: "no")
    monkeypatch.setattr(transformers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CannotRunError, match="no engine is installed"):
        choose_kind("auto", None)


def engine(copies: int) -> Engine:
    client = ChatClient("http://x/v1")
    return Engine("vllm", "m", None, [Seat(client, None, None) for _ in range(copies)])


def test_episodes_are_spread_evenly_over_the_copies() -> None:
    served = engine(4)
    for _ in range(10):
        served.take_seat()
    assert sorted(seat.load for seat in served.seats) == [2, 2, 3, 3]


def test_a_place_that_falls_free_is_taken_again() -> None:
    served = engine(2)
    first = served.take_seat()
    served.take_seat()
    served.leave(first)
    assert served.take_seat() is first


def test_a_copy_that_is_being_started_again_gets_no_more_episodes_meanwhile() -> None:
    @dataclass
    class Down:
        settled: bool = False

    served = engine(2)
    down = Down()
    served.seats[0].server = cast(Server, down)
    assert [served.take_seat() for _ in range(3)] == [served.seats[1]] * 3
    down.settled = True
    assert [served.take_seat() for _ in range(3)] == [served.seats[0]] * 3


def test_readings_are_whole_or_unknown() -> None:
    served = engine(1)
    served.series = [Series(), Series()]
    assert served.reading is None
    served.series[0].add(Reading(running=1), 0.0)
    assert served.reading is None
    served.series[1].add(Reading(running=2), 0.0)
    assert served.reading == Reading(running=3)
