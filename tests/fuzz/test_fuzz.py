"""Fuzzing, the same few hundred inputs each time; `scripts/fuzz` draws as many others as wanted."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
from fuzz.targets import TARGETS, Target
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = [
    # inspect-ai and a server that hangs up leave streams of their own unclosed.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_result_or_one_clear_error(target: Target) -> None:
    if target.name == "Inspect logs" and importlib.util.find_spec("inspect_ai") is None:
        pytest.skip("needs inspect-ai, the extra [inspect]")

    @settings(
        max_examples=target.quick,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def check(data: Any) -> None:
        target.check(data.draw(target.strategy()))

    check()
