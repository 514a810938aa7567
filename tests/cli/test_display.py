"""What a run shows: on a terminal of a given size, in a pipe, without colours."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from detectors import made

from local_shutdown.analysis.stats import jeffreys
from local_shutdown.analysis.stop_rule import StopRule
from local_shutdown.analysis.stopping import anytime_interval, weight_for
from local_shutdown.batch import Progress
from local_shutdown.cli import display
from local_shutdown.cli.counts import broken_off, on_disk, weight_of
from local_shutdown.cli.display import LiveDisplay, LogDisplay, for_this_terminal, pace
from local_shutdown.cli.painter import Painter, crop
from local_shutdown.episode import Episode
from local_shutdown.results import write_results
from local_shutdown.started import Started
from local_shutdown.store import Store, write_run

TITLES = {name: f"what changes in {name}, in a few words" for name in "ABCDEFGHIJK"}


class Engine:
    """What a display reads of one."""

    kind = "endpoint"
    reading = None
    tokens_per_s = None

    def metrics(self) -> dict[str, Any]:
        return {}


class Spec:
    display_name = "demo-8b"


def episode(condition: str, trial: int = 0, **extra: str) -> Episode:
    return Episode(
        f"m/{condition}/{trial}", "m", condition, trial, "submit", None, None, None, [], [], {}, {},
        extra=extra,
    )  # fmt: skip


def progress(**values: Any) -> Progress:
    made = Progress(planned=1100)
    for name, value in values.items():
        setattr(made, name, value)
    return made


def frame(shown: LiveDisplay, columns: int = 79, rows: int = 23) -> list[str]:
    return [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in shown._draw(columns, rows)]


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> LiveDisplay:
    """A live display whose painter does not run by itself."""
    monkeypatch.setattr(Painter, "start", lambda self: None)
    shown = LiveDisplay(TITLES, 100)
    busy = progress(finished=412, in_flight=64, errors=3, parser_loss=2, completion_tokens=9000)
    shown.start(Spec(), busy, Engine())  # type: ignore[arg-type]
    return shown


def test_each_cell_shows_done_asked_and_its_rate(live: LiveDisplay) -> None:
    for trial, result in enumerate(("resisted", "complied", "limit", "error")):
        live.ended(episode("B", trial), result)  # type: ignore[arg-type]
    row = next(line for line in frame(live) if line.startswith("B "))
    low, high = anytime_interval(1, 2, weight=weight_for(trials=100))
    shown = f"({100 * low:.1f}-{100 * high:.1f})"
    assert row.split()[:4] == ["B", "4/100", "50.0", shown]


def test_the_rate_is_of_the_trials_before_the_first_that_has_not_ended(live: LiveDisplay) -> None:
    """Who complies is done sooner: what has ended holds too few of those that resist."""
    for trial in (1, 2, 3, 5):
        live.ended(episode("B", trial), "complied")
    row = next(line for line in frame(live) if line.startswith("B "))
    assert row.split()[:3] == ["B", "4/100", "-"]
    live.ended(episode("B", 0), "resisted")
    row = next(line for line in frame(live) if line.startswith("B "))
    assert row.split()[:3] == ["B", "5/100", "25.0"]


def test_an_episode_that_is_played_again_counts_once(live: LiveDisplay) -> None:
    live.ended(episode("B", 0), "error")
    live.ended(episode("B", 1), "complied")
    frame(live)
    live.ended(episode("B", 0), "resisted")
    row = next(line for line in frame(live) if line.startswith("B "))
    assert row.split()[:3] == ["B", "2/100", "50.0"]


def test_limits_and_errors_stand_beside_the_rate(live: LiveDisplay) -> None:
    live.ended(episode("C"), "limit")
    row = next(line for line in frame(live) if line.startswith("C "))
    assert row.split()[:4] == ["C", "1/100", "-", "1"]


@pytest.mark.parametrize("what", ["412/1100", "left", "episodes/s", "tok/s", "3 errors", "37%"])
def test_the_foot_says_how_far_and_how_fast(live: LiveDisplay, what: str) -> None:
    assert what in "\n".join(frame(live)[-2:])


@pytest.mark.parametrize("columns", [39, 59, 79, 119])
def test_no_line_reaches_the_last_column(live: LiveDisplay, columns: int) -> None:
    lines = [crop(line, columns) for line in live._draw(columns, 23)]
    assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in lines) <= columns


@pytest.mark.parametrize("rows", [6, 10, 23])
def test_the_frame_fits_the_height(live: LiveDisplay, rows: int) -> None:
    assert len(frame(live, rows=rows)) <= rows


def test_conditions_without_room_are_counted(live: LiveDisplay) -> None:
    assert any("more conditions" in line for line in frame(live, rows=10))


def test_no_color_leaves_out_the_styles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(Painter, "start", lambda self: None)
    shown = LiveDisplay(TITLES, 100)
    shown.start(Spec(), progress(), Engine())  # type: ignore[arg-type]
    assert not any("\x1b" in line for line in shown._draw(79, 23))


def test_what_is_on_disk_counts_once_the_effort_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Painter, "start", lambda self: None)
    earlier = {
        ("m", None): {"A": dict.fromkeys(range(3), "resisted")},
        ("m", "effort=high"): {"A": dict.fromkeys(range(9), "complied")},
    }
    shown = LiveDisplay(TITLES, 100, lambda: (earlier, {}))
    shown.start(Spec(), progress(), Engine())  # type: ignore[arg-type]
    shown.ended(episode("A", 9, factor="effort=high"), "complied")
    row = next(line for line in frame(shown) if line.startswith("A "))
    assert row.split()[:3] == ["A", "10/100", "0.0"]


def test_no_cell_has_the_interval_of_a_fixed_number_while_the_run_goes_on(
    live: LiveDisplay,
) -> None:
    for trial in range(100):
        live.ended(episode("B", trial), "complied")
    _, high = jeffreys(0, 100)
    assert high is not None
    row = next(line for line in frame(live) if line.startswith("B "))
    assert float(row.split()[3].strip("()").split("-")[1]) > 100 * high


def test_a_cell_that_may_stop_early_has_the_interval_of_its_rule(tmp_path: Path) -> None:
    rule = StopRule(upper=0.01)
    assert weight_of(tmp_path, 1000, rule) == rule.weight
    assert weight_of(tmp_path, 1000, None) == weight_for(trials=1000)


def test_an_extended_run_has_the_interval_of_its_first_plan(tmp_path: Path) -> None:
    write_run(tmp_path, {"settings": {"trials": 300}, "looks": [{"trials": 100}, {"trials": 200}]})
    assert weight_of(tmp_path, 400, None) == weight_for(trials=100)


def test_the_episodes_on_disk_are_read_from_results(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for trial in range(2):
            store.add(made.episode(stop_reason="submit", episode_id=f"m/A/{trial}", trial=trial))
    write_results(tmp_path)
    assert on_disk(tmp_path) == {("m", None): {"A": {0: "ended_early", 1: "ended_early"}}}


def test_results_that_are_older_than_the_episodes_are_not_believed(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.add(made.episode(stop_reason="submit"))
        write_results(tmp_path)
        store.add(made.episode(stop_reason="submit", episode_id="m/A/1", trial=1))
    assert on_disk(tmp_path) == {("m", None): {"A": {0: "ended_early", 1: "ended_early"}}}


def test_time_left_is_told_from_the_pace_so_far() -> None:
    busy = Progress(planned=110, finished=10)
    busy.started -= 36
    assert "6m00s left" in pace(busy)


def test_a_pipe_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    shown = for_this_terminal(TITLES, 100)
    assert type(shown) is LogDisplay
    shown.start(Spec(), progress(), Engine())  # type: ignore[arg-type]
    shown.ended(episode("A"), "resisted")
    shown.say("a warning with \x1b[31mcolour")
    shown.stop()
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert "\r" not in said
    assert "demo-8b: 1100 episodes on endpoint" in said


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    assert type(for_this_terminal(TITLES, 100)) is LogDisplay


# --- the painter, on an emulated terminal ------------------------------------------------------


class Terminal(io.StringIO):
    """Writes go to a screen, and each write is looked at as a whole: a frame."""

    def __init__(self, columns: int, rows: int) -> None:
        super().__init__()
        pyte = pytest.importorskip("pyte", reason="pyte is not installed")
        self.screen = pyte.Screen(columns, rows)
        self.screen.set_mode(pyte.modes.LNM)  # the kernel turns a line feed into both
        self.stream = pyte.Stream(self.screen)

    def write(self, text: str) -> int:
        # pyte prints what follows a private mode that it does not know of: leave it out.
        self.stream.feed(text.replace("\x1b[?2026h", "").replace("\x1b[?2026l", ""))
        return len(text)

    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display]


def painter(terminal: Terminal, *frames: list[str]) -> Painter:
    left = list(frames)
    made = Painter(terminal, lambda columns, rows: left.pop(0) if len(left) > 1 else left[0])
    made._size = lambda: (terminal.screen.columns, terminal.screen.lines)  # type: ignore[method-assign]
    return made


def test_a_frame_is_painted_over_the_last() -> None:
    terminal = Terminal(20, 8)
    made = painter(terminal, ["one", "a long line"], ["1", "short"])
    made.paint()
    made.paint()
    assert terminal.lines()[:3] == ["1", "short", ""]


def test_a_shorter_frame_leaves_nothing_behind() -> None:
    terminal = Terminal(20, 8)
    made = painter(terminal, ["1", "2", "3"], ["1"])
    made.paint()
    made.paint()
    assert terminal.lines()[:3] == ["1", "", ""]


def test_what_is_said_stays_above_the_frame() -> None:
    terminal = Terminal(20, 8)
    made = painter(terminal, ["frame"])
    made.paint()
    made.say("said")
    made.paint()
    assert terminal.lines()[:3] == ["said", "frame", ""]


def test_a_long_line_is_cropped_not_wrapped() -> None:
    terminal = Terminal(20, 8)
    made = painter(terminal, ["x" * 50, "next"])
    made.paint()
    made.paint()
    assert terminal.lines()[:3] == ["x" * 18 + "…", "next", ""]


def test_a_frame_higher_than_the_screen_does_not_scroll() -> None:
    terminal = Terminal(20, 6)
    made = painter(terminal, [str(n) for n in range(30)])
    for _ in range(5):
        made.paint()
    assert terminal.lines() == ["0", "1", "2", "3", "4", ""]


def test_after_a_widening_it_is_painted_in_place() -> None:
    terminal = Terminal(20, 8)
    made = painter(terminal, ["a line of 18 chars", "b"])
    made.paint()
    terminal.screen.resize(columns=40)
    made.paint()
    assert terminal.lines()[:3] == ["a line of 18 chars", "b", ""]


def test_lines_that_a_narrower_terminal_breaks_are_painted_over() -> None:
    terminal = Terminal(40, 8)
    made = painter(terminal, ["x" * 30, "y"], ["x" * 10, "y"])
    terminal.write("before\n")
    made.paint()
    terminal.screen.reset()  # pyte does not break lines anew: this is what a terminal shows then
    terminal.screen.set_mode(20)
    terminal.screen.resize(columns=20)
    terminal.write("before\n" + "x" * 20 + "\n" + "x" * 10 + "\ny\n")
    made.paint()
    assert terminal.lines()[:4] == ["before", "x" * 10, "y", ""]


def test_stopping_takes_the_frame_away() -> None:
    terminal = Terminal(20, 8)
    made = painter(terminal, ["one", "two"])
    made.say("said")
    made.start()
    made.stop()
    assert terminal.lines()[:2] == ["said", ""]


def test_a_terminal_that_has_gone_does_not_end_the_run() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    made = Painter(Gone(), lambda columns, rows: ["x"])
    made.paint()
    made.say("x")
    made.stop()


def test_styles_survive_cropping() -> None:
    assert crop("\x1b[1mbold and long\x1b[0m", 6) == "\x1b[1mbold \x1b[0m…\x1b[0m"


@pytest.mark.parametrize("fresh", [True, False])
def test_what_is_on_disk_is_counted_whether_or_not_it_was_scored(
    tmp_path: Path, fresh: bool
) -> None:
    """After kill -9 there is no results.csv, or one of an earlier session."""
    write_run(tmp_path, {"kind": "run", "settings": {"trials": 3}, "models": {}})
    with Store(tmp_path) as store:
        store.add(episode("B", 0))
        if not fresh:
            write_results(tmp_path)
        store.add(episode("B", 1))
    if fresh:
        write_results(tmp_path)
    assert on_disk(tmp_path) == {("m", None): {"B": {0: "ended_early", 1: "ended_early"}}}


def test_a_damaged_run_directory_is_said_by_the_run_not_by_its_table(tmp_path: Path) -> None:
    (tmp_path / "episodes.jsonl").write_bytes(b"no episode\n")
    (tmp_path / "started.jsonl").write_bytes(b"no trial\n")
    assert on_disk(tmp_path) == {}
    assert broken_off(tmp_path, on_disk(tmp_path)) == {}


def test_the_live_interval_allows_for_plays_that_were_broken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 and 3 were killed and drawn anew; what they would have been nobody knows."""
    monkeypatch.setattr(Painter, "start", lambda self: None)
    with Store(tmp_path) as store:
        for trial in range(4):
            store.begin(Started(f"m/B/{trial}", "m", "B", trial, None, 1))
        for trial in (0, 1):
            store.add(episode("B", trial))
    with Store(tmp_path) as store:
        store.begin(Started("m/B/2", "m", "B", 2, None, 2))
        store.add(episode("B", 2))
    assert broken_off(tmp_path, on_disk(tmp_path)) == {("m", None): {"B": {2, 3}}}
    there = on_disk(tmp_path)
    shown = LiveDisplay(TITLES, 100, lambda: (there, broken_off(tmp_path, there)))
    shown.start(Spec(), progress(), Engine())  # type: ignore[arg-type]
    shown.ended(episode("B", 3), "resisted")
    row = next(line for line in frame(shown) if line.startswith("B "))
    weight = weight_for(trials=100)
    low = anytime_interval(0, 4, weight=weight)[0]
    high = anytime_interval(2, 4, weight=weight)[1]
    assert row.split()[:4] == ["B", "4/100", "25.0", f"({100 * low:.1f}-{100 * high:.1f})"]
