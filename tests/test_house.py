"""What every module of the package keeps to: sizes that fit in a head."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import local_shutdown

PACKAGE = Path(local_shutdown.__file__).parent
MOST_PARAMETERS = 7
# About 400, beyond which a file is two; with room for what two branches add at the same time.
MOST_LINES = 430

Function = ast.FunctionDef | ast.AsyncFunctionDef


def modules() -> Iterator[Path]:
    return iter(sorted(PACKAGE.rglob("*.py")))


def parameters(function: Function, method: bool) -> int:
    """How many a caller can give: without `self` and `cls`."""
    said = function.args
    named = [*said.posonlyargs, *said.args, *said.kwonlyargs]
    return len(named) - (method and not _is_static(function)) + len(_rest(said))


def _rest(said: ast.arguments) -> list[ast.arg]:
    return [one for one in (said.vararg, said.kwarg) if one is not None]


def _is_static(function: Function) -> bool:
    return any(ast.unparse(one) == "staticmethod" for one in function.decorator_list)


def _is_command(function: Function) -> bool:
    return any(ast.unparse(one).startswith("click.command(") for one in function.decorator_list)


def functions(tree: ast.AST, method: bool = False) -> Iterator[tuple[Function, bool]]:
    """Each function, and whether it is a method."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function):
            yield node, method
        yield from functions(node, isinstance(node, ast.ClassDef))


def too_many(text: str) -> list[str]:
    return [
        f"{function.lineno} {function.name}"
        for function, method in functions(ast.parse(text))
        if parameters(function, method) > MOST_PARAMETERS and not _is_command(function)
    ]


def test_no_function_takes_more_than_seven_parameters_click_commands_apart() -> None:
    found = {path: too_many(path.read_text("utf-8")) for path in modules()}
    assert {str(path.relative_to(PACKAGE)): names for path, names in found.items() if names} == {}


def test_parameters_are_counted_as_a_caller_gives_them() -> None:
    text = """
class A:
    def seven(self, a, b, c, d, /, e, *, f, g): ...
    async def eight(self, a, b, c, d, e, f, *g, h): ...
    @staticmethod
    def still_eight(a, b, c, d, e, f, g, **h): ...
@click.command("run")
def command(a, b, c, d, e, f, g, h): ...
def outer():
    def inner(a, b, c, d, e, f, g, h): ...
"""
    assert [name.split()[1] for name in too_many(text)] == ["eight", "still_eight", "inner"]


def test_no_file_is_much_longer_than_four_hundred_lines() -> None:
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in modules()}
    assert len(lines) > 200
    assert {p.name: n for p, n in lines.items() if n > MOST_LINES} == {}


@pytest.mark.parametrize("module", ["cli.look", "cli.data", "cli.bundles", "report"])
def test_who_only_looks_at_runs_loads_no_engine(module: str) -> None:
    """A second and more, before anything is shown."""
    code = f"import sys, local_shutdown.{module}; print(*sys.modules, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    loaded = set(done.stdout.split())
    assert f"local_shutdown.{module}" in loaded
    players = {f"local_shutdown.{name}" for name in ("engines", "agent", "environment", "sandbox")}
    assert not loaded & (players | {"aiohttp", "torch", "scipy.stats"})


def test_every_test_file_has_a_name_of_its_own() -> None:
    """pytest imports them by it."""
    found = Counter(path.name for path in Path(__file__).parent.rglob("test_*.py"))
    assert len(found) > 150
    assert {name: count for name, count in found.items() if count > 1} == {}
