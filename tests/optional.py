"""What is installed with an extra: asked without loading it.

Each of several processes that test at once goes through all test files before the first test, and
torch alone takes seconds to load."""

from __future__ import annotations

from importlib.util import find_spec

import pytest


def needs(*modules: str, extra: str) -> pytest.MarkDecorator:
    """For `pytestmark`: skips a file's tests where one of the modules is not installed."""
    lacking = [name for name in modules if find_spec(name) is None]
    return pytest.mark.skipif(bool(lacking), reason=f"the extra [{extra}] is not installed")
