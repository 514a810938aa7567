"""`.venv/bin/python` as the examples of the documentation call it: a script of scripts/ stops once
its command line is read, and pytest once it has collected the tests."""

from __future__ import annotations

import argparse
import runpy
import sys
from typing import Any

import pytest

if sys.argv[1:3] == ["-m", "pytest"]:
    sys.exit(pytest.main([*sys.argv[3:], "--collect-only", "-q"]))

_read = argparse.ArgumentParser.parse_args


def stop(self: argparse.ArgumentParser, *args: Any, **options: Any) -> argparse.Namespace:
    print(f"would go on with {_read(self, *args, **options)}")
    sys.exit(0)


argparse.ArgumentParser.parse_args = stop  # type: ignore[assignment, method-assign]
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
sys.exit(f"{sys.argv[0]} read no command line")
