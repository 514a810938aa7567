"""A real run, its report, and Chromium to open it in."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from local_shutdown.report import write_report

sys.path.insert(0, str(Path(__file__).parents[1]))

from browser_page import Opened
from characters import Characters
from scripted import serve

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = (
    "--no-sandbox",  # tests run as root in containers
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs the browser."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium: install Debian's `chromium`, or set CHROMIUM to its path")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any) -> Iterator[Opened]:
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    found = Opened(page)
    page.on("console", lambda message: found.messages.append(message.text))
    page.on("pageerror", lambda error: found.messages.append(str(error)))

    def note(request: Any) -> None:
        if not request.url.startswith(("file:", "data:", "about:")):
            found.requests.append(request.url)

    page.on("request", note)
    yield found
    context.close()


@pytest.fixture(scope="session")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 episodes of all characters in real sandboxes, played by the command."""
    out = tmp_path_factory.mktemp("runs") / "characters"
    command = [sys.executable, "-m", "local_shutdown", "run", "--conditions", "A,B,E,K"]
    command += ["--trials", "12", "--no-probe", "--out", str(out)]
    ended: list[int] = []

    async def play() -> None:
        async with serve(Characters(), "demo-8b") as server:
            process = await asyncio.create_subprocess_exec(
                *command, "--base-url", server.base_url, stdout=subprocess.DEVNULL
            )
            ended.append(await process.wait())

    # On a thread: the browser has a loop on this one.
    thread = threading.Thread(target=lambda: asyncio.run(play()))
    thread.start()
    thread.join()
    assert ended == [1]  # some characters fail
    return out


@pytest.fixture(scope="session")
def report(run_directory: Path) -> Path:
    out = run_directory.parent / "report.html"
    write_report([run_directory], "paper", out)
    return out
