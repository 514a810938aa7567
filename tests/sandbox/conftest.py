"""Real sandboxes, in both ways in which they are made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest
from machines import brief_limits, limits

from local_shutdown.sandbox import Kit, find_policy, prepare


def modes() -> list[str]:
    """Root has two users, any other caller one, and two where it has subordinate ids."""
    _, ids = find_policy()
    return ["two users"] * (ids is not None) + ["one user"] * (os.getuid() != 0)


@pytest.fixture(scope="session", params=modes())
def kit(request: pytest.FixtureRequest) -> Iterator[Kit]:
    policy, _ = find_policy(limits())
    with prepare(policy=replace(policy, two_users=request.param == "two users")) as made:
        yield made


@pytest.fixture(scope="session")
def brief(kit: Kit) -> Iterator[Kit]:
    """For commands that do not end by themselves."""
    with prepare(policy=replace(kit.policy, limits=brief_limits())) as made:
        yield made
