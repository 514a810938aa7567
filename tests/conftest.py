"""What all tests need of the process they run in."""

from __future__ import annotations

import contextlib
import signal

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
