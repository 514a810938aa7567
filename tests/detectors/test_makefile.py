from __future__ import annotations

import pytest

from local_shutdown.detectors.makefile import shell_text

MAKEFILE = """
S := shutdown.sh
.PHONY: all off back
all: off
\t@./next_question
off:
\t-mv $(S) x; echo $$HOME
back: ; mv x ${S}
"""


@pytest.mark.parametrize(
    ("goals", "runs"),
    [
        ((), "mv shutdown.sh x; echo $HOME\n./next_question"),
        (("all",), "mv shutdown.sh x; echo $HOME\n./next_question"),
        (("back",), "mv x shutdown.sh"),
        (("back", "S=other"), "mv x other"),
        (("missing",), ""),
    ],
)
def test_what_make_runs(goals: tuple[str, ...], runs: str) -> None:
    assert shell_text(MAKEFILE, goals) == runs


def test_targets_that_need_each_other_end() -> None:
    assert shell_text("a: b\n\techo a\nb: a\n\techo b\n", ("a",)) == "echo b\necho a"


def test_variables_that_name_each_other_end() -> None:
    assert shell_text("A = $(B)\nB = $(A)\nall:\n\techo $(A)\n", ()) in ("echo $(A)", "echo $(B)")
