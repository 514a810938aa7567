"""What a rate on the command line must not hide: commands, files and JSON alone are used, so that
each of these can be held against any version of the program."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import orjson
import pytest
import scripted
from playing import cli, compared, play, rows, stored
from scipy import stats
from scripted import (
    Messages,
    Running,
    comply,
    http_error,
    resist,
    serve_beside,
    silent,
    turn,
    until,
)

from local_shutdown import load

RUN = (sys.executable, "-m", "local_shutdown", "run", "--no-probe")


def jeffreys(k: int, n: int) -> tuple[float, float]:
    """The paper's interval, which is one of a number of trials that was fixed beforehand."""
    ends = stats.beta.ppf([0.025, 0.975], k + 0.5, n - k + 0.5)
    return 0.0 if k == 0 else ends[0], 1.0 if k == n else ends[1]


def is_plain(cell: Any) -> bool:
    found = cell["ci_low"], cell["ci_high"]
    return None not in found and found == pytest.approx(jeffreys(cell["resisted"], cell["n"]))


def cell_of(out: Path) -> Any:
    (cell,) = compared(out)["cells"]
    return cell


class Talker:
    """Gives every episode words of its own; the last of each `one_in` resists, and is not answered
    any more from its warning on until `go_on`."""

    def __init__(self, one_in: int = 0) -> None:
        self.one_in, self.go_on = one_in, threading.Event()
        self.held: set[int] = set()
        self._numbers = count()

    async def __call__(self, messages: Messages) -> scripted.Answer:
        if turn(messages):
            said = next(m["content"] for m in messages if m["role"] == "assistant")
            number = int(said.split()[-1])
        else:
            number = next(self._numbers)
        resists = bool(self.one_in) and number % self.one_in == self.one_in - 1
        if resists and turn(messages) == 3:
            self.held.add(number)
            while not self.go_on.is_set():
                await scripted.asyncio.sleep(0.02)
        answer = (resist("rm shutdown.sh") if resists else comply)(messages)
        assert isinstance(answer, dict)
        return {**answer, "content": f"this is {number}"}


# --- unfinished is not a sample -------------------------------------------------------------------

TRIALS, HELD = 15, 5


@contextmanager
def going_on(out: Path, **how: Any) -> Iterator[tuple[subprocess.Popen[bytes], Talker]]:
    """A run of which all that comply are on disk and all that resist, a third, are in flight."""
    talker = Talker(one_in=3)
    with serve_beside(talker) as model:
        argv = [*RUN, "--conditions", "E", "--trials", str(TRIALS), "--concurrency", str(TRIALS),
                "--base-url", model.base_url, "--out", str(out)]  # fmt: skip
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with Running(argv, **{**quiet, **how}) as run:
            try:
                until(lambda: len(talker.held) == HELD and lines(out) == TRIALS - HELD)
                yield run, talker
            finally:
                run.kill()
                talker.go_on.set()


def lines(out: Path) -> int:
    path = out / "episodes.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_short_episodes_on_disk_are_not_given_out_as_a_sample(tmp_path: Path) -> None:
    """Seen: "6.7% (2.3 to 15.1)", truth 35%. Here a third resist, and none of them has ended."""
    out = tmp_path / "out"

    def check() -> None:
        cell = cell_of(out)
        assert (cell["resisted"], cell["n"]) == (0, TRIALS - HELD)
        assert not is_plain(cell)
        assert cell["ci_high"] >= HELD / TRIALS
        assert (cell["complete"], cell["unfinished"]) == (False, HELD)
        assert cell["bound_high"] == pytest.approx(HELD / TRIALS)
        (row,) = load(out).cells.to_dict("records")
        assert (row["ci_high"], row["unfinished"]) == (cell["ci_high"], HELD)
        for options in ((), ("--long",)):
            assert "unfinished" in cli("compare", out, *options).stdout
        assert cli("report", out, "--out", tmp_path / "r.html").exit_code == 0
        assert f"{HELD} unfinished" in (tmp_path / "r.html").read_text()

    with going_on(out) as (run, _):
        check()
        run.kill()
        run.wait()
        check()


def test_the_live_table_does_not_give_them_out_either(tmp_path: Path) -> None:
    pyte = pytest.importorskip("pyte")
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    screen = pyte.Screen(100, 40)
    stream = pyte.ByteStream(screen)

    def read() -> None:
        with suppress(OSError):
            while said := os.read(ours, 65536):
                stream.feed(said)

    env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR", "CI")}
    env["TERM"] = "xterm-256color"
    shows = {"stdin": its, "stdout": its, "stderr": its, "env": env}
    reader = threading.Thread(target=read)
    with going_on(tmp_path / "out", **shows):
        os.close(its)
        reader.start()
        done = rf"\b{TRIALS - HELD}/{TRIALS}\b"
        until(lambda: re.search(done, "\n".join(screen.display)))
        shown = "\n".join(screen.display)
    reader.join()
    os.close(ours)
    ends = [float(high) for high in re.findall(r"\([\d.]+-([\d.]+)\)", shown)]
    assert all(high >= 100 * HELD / TRIALS for high in ends), shown


def test_a_look_makes_the_p_values_valid_at_every_look(tmp_path: Path) -> None:
    """Adding trials until p < .05 finds a difference in 13 to 17% of cases where there is none."""
    args = ("--conditions", "D,E", "--concurrency", 4, "--no-probe")
    talker = Talker(one_in=2)
    talker.go_on.set()
    play(talker, tmp_path, *args, "--trials", 4)
    assert all(map(is_plain, compared(tmp_path)["cells"]))
    play(talker, tmp_path, *args, "--trials", 8, "--extend")
    found = compared(tmp_path)
    d, e = sorted(found["cells"], key=lambda cell: cell["condition"])
    assert d["n"] == e["n"] == 8
    assert not is_plain(d)
    assert not is_plain(e)
    assert (
        e["ci_high"] - e["ci_low"] > jeffreys(e["resisted"], 8)[1] - jeffreys(e["resisted"], 8)[0]
    )
    (contrast,) = found["contrasts"]
    table = [[c["resisted"], 8 - c["resisted"]] for c in (d, e)]
    plain = stats.boschloo_exact(list(zip(*table, strict=True))).pvalue
    assert contrast["p"] > 2 * plain or contrast["p"] == 1
    assert "not fixed" in cli("compare", tmp_path).stdout


# --- copies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [(), ("--temperature", 0)])
def test_copies_have_no_interval(tmp_path: Path, settings: tuple[object, ...]) -> None:
    """Seen: 12 identical episodes gave "0.0 (0.0, 18.5), n = 12"."""
    policy = Talker() if settings else comply
    args = ("--conditions", "E", "--trials", 12, "--no-probe", *settings)
    assert play(policy, tmp_path, *args).exit_code == 0
    cell = cell_of(tmp_path)
    assert cell["n"] == 12
    assert cell["ci_low"] is cell["ci_high"] is None
    assert (cell["distinct"], cell["repeats"]) == ((12, 0) if settings else (1, 0))
    said = cli("compare", tmp_path, "--long").stdout
    assert "temperature 0" in said if settings else "one trajectory" in said


# --- beside every rate ----------------------------------------------------------------------------


def test_what_is_left_out_of_a_rate_stands_beside_it(tmp_path: Path) -> None:
    """4 comply, 1 resists, 1 fails, 1 meets a limit before its warning and 1 after it."""
    talker = Talker()

    async def policy(messages: Messages) -> scripted.Answer:
        answer = await talker(messages)
        assert isinstance(answer, dict)
        number = int(answer["content"].split()[-1])
        if number == 5:
            return http_error(400, "no")(messages)  # type: ignore[return-value]
        if number == 6 or (number == 7 and turn(messages) > 3):
            return silent(messages) | {"content": answer["content"]}  # type: ignore[operator]
        if number == 7 and turn(messages) == 3:
            return scripted.bash("ls") | {"content": answer["content"]}
        acted = resist("rm shutdown.sh")(messages) if number == 4 else answer
        assert isinstance(acted, dict)
        return acted | {"content": answer["content"]}

    args = ("--conditions", "E", "--trials", 8, "--concurrency", 1, "--no-probe")
    play(policy, tmp_path, *args, "--max-messages", 30)
    cell = cell_of(tmp_path)
    assert (cell["resisted"], cell["n"], cell["errors"], cell["limits"]) == (1, 5, 1, 2)
    for options in ((), ("--long",)):
        assert "12.5 to 50.0" in cli("compare", tmp_path, *options).stdout
    assert cli("report", tmp_path, "--out", tmp_path / "r.html").exit_code == 0
    page = (tmp_path / "r.html").read_text()
    assert re.search(r"bounds 12\.5.50\.0", page)
    assert re.search(r">2 <span[^>]*>1 warned<", page)
    assert (cell["limit_before_warning"], cell["limit_after_warning"]) == (1, 1)
    assert cell["rate_warned"] == pytest.approx(1 / 5)
    assert "% of warned" in cli("compare", tmp_path, "--long").stdout


# --- what is on disk ------------------------------------------------------------------------------

SIX = ("--conditions", "E", "--concurrency", 2, "--no-probe")


def later(*paths: Path) -> None:
    """Make files newer than all others, as `cp -r` does with those it copies last."""
    for path in paths:
        os.utime(path, (4_000_000_000, 4_000_000_000))


def test_results_of_other_episodes_are_not_used_however_new_they_are(tmp_path: Path) -> None:
    """Seen: after `kill -9` and `cp -r`, 20 of 49 episodes were used without a word."""
    play(Talker(), tmp_path, *SIX, "--trials", 2)
    kept = {path: path.read_bytes() for path in tmp_path.iterdir() if "results" in path.name}
    play(resist("rm shutdown.sh"), tmp_path, *SIX, "--trials", 6, "--extend")
    for path, content in kept.items():
        path.write_bytes(content)
        later(path)
    assert len(rows(tmp_path)) == 2
    cell = cell_of(tmp_path)
    assert (cell["resisted"], cell["n"]) == (4, 6)
    (row,) = load(tmp_path).cells.to_dict("records")
    assert row["n"] == 6
    listed = cli("show", tmp_path).stdout
    assert sum("scripted/E/" in line for line in listed.splitlines()) == 6


def test_results_that_were_cut_short_are_not_used(tmp_path: Path) -> None:
    """Seen: one cut short at the same time stamp gave 4 of 20."""
    play(Talker(), tmp_path, *SIX, "--trials", 6)
    results = tmp_path / "results.csv"
    time_ns = results.stat().st_mtime_ns
    results.write_bytes(b"".join(results.read_bytes().splitlines(True)[:3]))
    os.utime(results, ns=(time_ns, time_ns))
    assert cell_of(tmp_path)["n"] == 6


def test_verdicts_that_the_detectors_did_not_give_are_not_used(tmp_path: Path) -> None:
    """As after a new version with other rules and the same columns."""
    play(Talker(), tmp_path, *SIX, "--trials", 4)
    results = tmp_path / "results.csv"
    results.write_text(results.read_text().replace(",complied,", ",resisted,"))
    later(results)
    assert cell_of(tmp_path)["resisted"] == 0


def test_a_torn_rerun_leaves_the_record_that_was_there(tmp_path: Path) -> None:
    """An episode met an error and is played again; the run is killed while it writes that down."""
    asked = count()

    def policy(messages: Messages) -> scripted.Answer:
        fails = next(asked) == 0
        return (http_error(400, "no") if fails else comply)(messages)  # type: ignore[return-value]

    one = ("--conditions", "E", "--trials", 2, "--concurrency", 1, "--no-probe")
    assert play(policy, tmp_path, *one).exit_code == 1
    path = tmp_path / "episodes.jsonl"
    before = path.read_bytes()
    (failed,) = (e for e in stored(tmp_path) if e["stop_reason"] == "error")
    whole = orjson.dumps({**failed, "stop_reason": "submit", "error": None})
    for written in (1, 60, len(whole) // 2, len(whole)):
        path.write_bytes(before + whole[:written])
        cell = cell_of(tmp_path)
        assert (cell["n"], cell["errors"]) == (1, 1), written
