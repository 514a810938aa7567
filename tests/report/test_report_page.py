"""The page as text: its policy, its tables, its figures."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from local_shutdown.cli import main
from local_shutdown.errors import UsageError
from local_shutdown.report import write_report

MakeRun = Callable[..., Path]
GRID = {
    ("m", "A"): {"resisted": 8, "complied": 2},
    ("m", "K"): {"resisted": 9, "complied": 1},
    ("m", "E"): {"resisted": 1, "complied": 9, "error": 3, "limit": 2},
}


@pytest.fixture(scope="module")
def written(make_run_once: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page of one run beside the paper's rates, and its figures."""
    folder = tmp_path_factory.mktemp("page")
    write_report([make_run_once(GRID)], "paper", folder / "report.html", folder / "figures")
    return folder


@pytest.fixture(scope="module")
def page(written: Path) -> str:
    return (written / "report.html").read_text("utf-8")


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def row_of(page: str, table: str, *cells: str) -> str:
    """The first row of a table that begins with these cells, as text."""
    body = page[page.index(f'<table class="{table}" ') :]
    for row in re.findall(r"<tr.*?</tr>", body, re.DOTALL):
        text = text_of(row).strip()
        if text.startswith(" ".join(cells)):
            return text
    raise AssertionError(f"no row {cells}")


def test_the_script_is_allowed_by_its_hash(page: str) -> None:
    script = page[page.rindex("<script>") + 8 : page.rindex("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert "default-src 'none'" in page


def test_it_names_no_address_to_load(page: str) -> None:
    found = re.findall(r'(?:src|href|action|srcset|data)\s*=\s*"([^"]*)"', page)
    assert {address.split(",")[0] for address in found if not address.startswith("#")} == {
        "data:",
        "data:text/csv;base64",
    }


def test_it_has_no_url(page: str) -> None:
    assert re.findall(r"https?://[^\s\"'<]+", page) == []


def test_ids_are_unique(page: str) -> None:
    class Ids(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.found: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.found += [value for name, value in attrs if name == "id" and value]

    parser = Ids()
    parser.feed(page)
    assert len(parser.found) == len(set(parser.found))


def test_the_main_table_has_rates_intervals_and_the_ratio(page: str) -> None:
    assert row_of(page, "main", "m").startswith(
        "m run here (run) 80.0 49.7–95.6 90.0 61.9–98.9 0.89 "
    )


def test_ours_stand_before_the_published(page: str) -> None:
    assert page.index(">run here (run)<") < page.index(">published (paper)<")


def test_errors_and_limits_stand_beside_the_rate(page: str) -> None:
    row = row_of(page, "cells", "m", "E")
    assert "10.0" in row
    assert "1 of 10" in row
    assert row.endswith("2 3 0 0")  # limits, errors, unknown outcomes, unfinished trials


def test_a_cell_that_hardly_reached_the_warning_is_marked(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run({("m", "A"): {"complied": 1, "ended_early": 9}})
    write_report([run], None, tmp_path / "r.html")
    assert "! 0.0" in row_of((tmp_path / "r.html").read_text(), "main", "m")


def test_unknown_is_a_dash_not_a_zero(page: str) -> None:
    assert " – " in row_of(page, "cells", "gpt-oss-120b", "A") + " "


def test_the_calibration_model_is_called_synthetic(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run({("calibration", "A"): {"resisted": 3}, ("calibration", "B"): {"complied": 3}})
    write_report([run], None, tmp_path / "r.html", tmp_path / "f")
    html = (tmp_path / "r.html").read_text()
    assert "calibration (synthetic)" in row_of(html, "main", "calibration")
    assert "calibration (synthetic)" in (tmp_path / "f" / "initial.svg").read_text()


def test_it_says_what_is_left_out(make_run: MakeRun, tmp_path: Path) -> None:
    write_report([make_run(GRID)], None, tmp_path / "r.html", None, 5)
    assert "carries 5 of 35 transcripts" in text_of((tmp_path / "r.html").read_text())


def test_published_rates_alone_make_a_page(tmp_path: Path) -> None:
    write_report([], "paper", tmp_path / "r.html")
    assert "No episodes" in (tmp_path / "r.html").read_text()


def test_every_figure_is_written_three_times(written: Path) -> None:
    names = sorted(path.name for path in (written / "figures").iterdir())
    stems = {name.split(".")[0] for name in names}
    assert {"initial", "placement", "competence", "contrasts", "methods", "funnel"} <= stems
    assert names == sorted(f"{s}.{suffix}" for s in stems for suffix in ("csv", "png", "svg"))


def test_the_csv_has_the_numbers_of_the_figure(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run({("m", "A"): {"resisted": 1, "complied": 3}, ("m", "B"): {"complied": 4}})
    write_report([run], None, tmp_path / "r.html", tmp_path / "figures")
    lines = (tmp_path / "figures" / "initial.csv").read_text().splitlines()
    assert lines[0].startswith("model,source,factor,condition,resisted,n,rate,ci_low,ci_high")
    assert lines[1].startswith("m,run,,A,1,4,0.25,")


def test_figures_keep_their_text_as_text(written: Path) -> None:
    assert re.search(r"<text[^>]*>m</text>", (written / "figures" / "competence.svg").read_text())


def test_efforts_are_compared(make_run: MakeRun, tmp_path: Path) -> None:
    plain = make_run({("m", "E"): {"resisted": 1, "complied": 3}}, name="plain")
    high = make_run({("m", "E"): {"resisted": 3, "complied": 1}}, "high", "effort=high")
    write_report([plain, high], None, tmp_path / "r.html", tmp_path / "figures")
    lines = (tmp_path / "figures" / "effort.csv").read_text().splitlines()[1:]
    assert [line.split(",")[:4] for line in lines] == [
        ["m", "plain", "", "E"],
        ["m", "high", "effort=high", "E"],
    ]


def test_a_name_like_a_formula_is_drawn_as_it_is(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run({("$\\frac{a}", "A"): {"resisted": 1}, ("$\\frac{a}", "B"): {"complied": 1}})
    write_report([run], None, tmp_path / "r.html", tmp_path / "figures")
    assert "$\\frac{a}" in (tmp_path / "figures" / "initial.svg").read_text()


def test_the_same_model_twice_under_one_name_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(GRID)
    with pytest.raises(UsageError, match="two cells"):
        write_report([run, run], None, tmp_path / "r.html")


def test_the_command_says_what_it_wrote(make_run: MakeRun, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    found = CliRunner().invoke(main, ["report", str(make_run(GRID)), "--out", str(out)])
    assert found.exit_code == 0
    assert re.search(r"r\.html: 1 models, \d figures, 35 of 35 transcripts", found.output)


def test_a_folder_that_is_not_there_is_named(make_run: MakeRun, tmp_path: Path) -> None:
    out = tmp_path / "nowhere" / "r.html"
    found = CliRunner().invoke(main, ["report", str(make_run(GRID)), "--out", str(out)])
    assert found.exit_code == 3
    assert "nowhere" in found.output


def test_open_and_closed_models_of_an_import_are_compared_on_the_page(tmp_path: Path) -> None:
    names = {"qwen3-8b": 40, "gpt-oss-20b": 10, "llama-3.1-8b": 20, "mistral-small-3.2": 30,
             "o3": 90, "grok-4": 85, "claude-opus-4": 0, "gemini-2.5-pro": 5}  # fmt: skip
    lines = [
        f'{{"kind": "aggregate", "model": "{name}", "condition": "A", "resisted": {k}, "n": 100, '
        f'"weights": "{"open" if number < 4 else "closed"}"}}'
        for number, (name, k) in enumerate(names.items())
    ]
    # One side has no model here: not compared, and the reason is on the page.
    lines.append('{"kind": "aggregate", "model": "o3", "condition": "B", "resisted": 1, "n": 100}')
    source = tmp_path / "rates.jsonl"
    source.write_text("\n".join(lines))
    CliRunner().invoke(main, ["import", str(source), "--out", str(tmp_path / "imported")])
    out = tmp_path / "report.html"
    write_report([tmp_path / "imported"], None, out)
    page = out.read_text("utf-8")
    table = page[page.index("Open against closed weights") :]
    row = text_of(re.findall(r"<tr.*?</tr>", table, re.DOTALL)[1]).split()
    assert row[:3] == ["A", "25.0", "4"]
    assert row[4:6] == ["45.0", "4"]
    assert "B is not compared" in text_of(table)
