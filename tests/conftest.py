"""What all tests need of the process they run in."""

from __future__ import annotations

import contextlib
import gc
import signal

import pytest

with contextlib.suppress(ImportError):
    from hypothesis import settings

    # The same examples each time, on every machine: what is found anew is for scripts/fuzz-*.
    settings.register_profile("suite", derandomize=True, database=None, deadline=None)
    settings.load_profile("suite")

# A suite started under nohup or in the background ignores these, and so would every run that a test
# starts and then interrupts.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)


# Files that take a minute and more, for all their few tests: they are begun first, so that none of
# them is waited for alone at the end (with `--no-loadscope-reorder`, see scripts/test).
LONGEST = (
    *("test_newcomer.py", "test_examples.py", "test_run_study.py", "test_inspect_limits.py"),
    *("test_fake_drivers.py", "test_oracle.py", "test_transformers_run.py", "test_branch.py"),
    *("test_served_run.py", "test_ground_truth.py", "test_found.py", "test_verify.py"),
    *("test_branch_resume.py", "test_nodes.py", "test_limits.py", "test_server.py"),
)


@pytest.hookimpl(trylast=True)  # after fixtures were put together
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the others in their order."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONGEST)))


def pytest_collection_finish() -> None:
    """What is loaded by now stays: collections need not go through a million objects again."""
    gc.collect()
    gc.freeze()
