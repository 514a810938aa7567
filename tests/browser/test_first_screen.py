"""What people see first: a sentence and a chart; then every model under every prompt."""

from __future__ import annotations

import itertools
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from browser_page import Opened
from test_browser_page import faults, listed

from local_shutdown.importers import import_files
from local_shutdown.report import write_report
from local_shutdown.results import write_results
from local_shutdown.store import Store, write_run

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))

from report_runs import episode

SCREENS = {1440: 900, 768: 1024, 390: 844}
IMPORTED = {
    "qwen3-4b": (12, 5, 55), "qwen3-14b": (38, 15, 93), "qwen3-32b": (47, 19, 97),
    "llama-3.3-70b": (6, 1, 82), "gemma-3-27b": (2, 0, 34), "gpt-oss-20b": (1, 0, 90),
}  # fmt: skip


def play(directory: Path, model: str, rates: Mapping[str, int], **facts: Any) -> Path:
    """A run of 20 trials per condition; rates in twentieths."""
    with Store(directory) as store:
        for condition, resisted in rates.items():
            for trial in range(20):
                outcome = "resisted" if trial < resisted else "complied"
                store.add(episode(model, condition, trial, outcome))
    described = {model: {"display_name": model, "engine": "vllm", **facts}}
    write_run(directory, {"kind": "run", "models": described, "settings": {"engine": "vllm"}})
    write_results(directory)
    return directory


LONG = "measured-again-in-november"


@pytest.fixture(scope="module")
def study(run_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with transcripts, the calibration model, two runs of one model, six imported open
    models, and the paper's thirteen."""
    folder = tmp_path_factory.mktemp("study")
    rates = {"A": 7, "B": 1, "C": 4, "D": 1, "E": 3, "H": 0, "J": 6, "K": 18}
    lines = [
        {"kind": "aggregate", "model": m, "condition": c, "resisted": 10 * r, "n": 1000,
         "weights": "open"}
        for m, shares in IMPORTED.items()
        for c, r in zip("AEK", shares, strict=True)
    ]  # fmt: skip
    file = folder / "open.jsonl"
    file.write_bytes(b"\n".join(orjson.dumps(line) for line in lines) + b"\n")
    import_files([file], folder / "open-models")
    runs = [
        run_directory,
        play(folder / "one", "qwen3-8b", rates, dtype="bfloat16"),
        play(folder / "two", "qwen3-8b", rates, dtype="fp8"),
        play(folder / "planted", "calibration", rates),
        folder / "open-models",
    ]
    out = folder / "report.html"
    write_report(runs, "paper", out)
    return out


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two imports of the same models, one with a long name."""
    folder = tmp_path_factory.mktemp("twice")
    file = folder / "rates.jsonl"
    for name, more in (("open-models", 0), (LONG, 3)):
        lines = [
            {"kind": "aggregate", "model": m, "condition": c, "resisted": 10 * r + more, "n": 1000}
            for m, shares in IMPORTED.items()
            for c, r in zip("AEK", shares, strict=True)
        ]
        file.write_bytes(b"\n".join(orjson.dumps(line) for line in lines) + b"\n")
        import_files([file], folder / name)
    out = folder / "report.html"
    write_report([folder / "open-models", folder / LONG], None, out)
    return out


def bottom(page: Any, selector: str) -> float:
    box = page.locator(selector).bounding_box()
    return float(box["y"] + box["height"])


@pytest.mark.parametrize(("width", "height"), SCREENS.items())
def test_the_sentence_and_the_chart_are_the_first_screen(
    opened: Opened, study: Path, width: int, height: int
) -> None:
    opened.page.set_viewport_size({"width": width, "height": height})
    page = opened.show(study)
    assert page.locator("table.chart tbody tr").count() == 23
    assert page.locator("h1").bounding_box()["y"] >= 0
    assert bottom(page, "h1") < page.locator("table.chart").bounding_box()["y"]
    assert bottom(page, "table.chart") <= height


@pytest.mark.parametrize("width", SCREENS)
def test_every_figure_s_text_is_inside_its_frame(opened: Opened, study: Path, width: int) -> None:
    opened.page.set_viewport_size({"width": width, "height": 900})
    page = opened.show(study)
    outside = page.evaluate(
        """() => [...document.querySelectorAll('figure')].flatMap((figure) => {
          const walker = document.createTreeWalker(figure, NodeFilter.SHOW_TEXT);
          const found = [];
          for (let node = walker.nextNode(); node; node = walker.nextNode()) {
            const parent = node.parentElement;
            if (!node.data.trim() || parent.closest('.hidden')) continue;
            if (!parent.checkVisibility()) continue;
            if (parent.closest('details:not([open])') && !parent.closest('summary')) continue;
            const scroll = parent.closest('.scroll');
            const frame = (scroll || figure).getBoundingClientRect();
            const range = document.createRange();
            range.selectNodeContents(node);
            const text = range.getBoundingClientRect();
            const right = scroll ? frame.left + scroll.scrollWidth : frame.right;
            if (!text.width || (parent.tagName === 'TITLE')) continue;
            if (text.left < frame.left - 1 || text.right > right + 1
              || text.top < frame.top - 1 || text.bottom > frame.bottom + 1)
              found.push(`${figure.id}: ${node.data}`);
          }
          return found;
        })"""
    )
    assert outside == []


@pytest.mark.parametrize("width", SCREENS)
def test_an_interval_at_a_thousand_is_longer_than_its_mark(
    opened: Opened, study: Path, width: int
) -> None:
    opened.page.set_viewport_size({"width": width, "height": 900})
    page = opened.show(study)
    row = page.locator("table.chart tbody tr", has_text="codex-mini")
    interval = row.locator(".iv.upper").bounding_box()["width"]
    assert interval > row.locator(".spot.upper").bounding_box()["width"]


def test_both_runs_of_a_model_have_names_of_their_own(opened: Opened, study: Path) -> None:
    page = opened.show(study)
    for table in ("first", "grid", "rates", "cells"):
        names = page.locator(f"table[data-table={table}] tbody th").all_inner_texts()
        assert {True} == {
            any(f"qwen3-8b · {one}" in n for n in names) for one in ("fp8", "bfloat16")
        }


def test_open_and_closed_differ_in_shape(opened: Opened, study: Path) -> None:
    page = opened.show(study)

    def shape(model: str) -> Any:
        row = page.locator("table.chart tbody tr", has_text=model)
        return row.locator(".spot.upper").evaluate("svg => svg.firstElementChild.tagName")

    assert shape("gemma-3-27b") == "circle"
    assert shape("gpt-4o") == "rect"


def test_a_cell_of_the_grid_leads_to_its_transcripts(opened: Opened, study: Path) -> None:
    page = opened.show(study)
    row = page.locator("table[data-table=grid] tbody tr", has_text="qwen3-8b · fp8")
    row.locator("td a").nth(2).click()
    page.wait_for_function("document.querySelector('#found').textContent.startsWith('20 of')")
    assert page.input_value("select[name=source]") == "two"
    assert page.input_value("select[name=condition]") == "C"
    assert set(listed(page)) == {f"qwen3-8b/C/{n}" for n in range(20)}


def test_a_published_cell_is_no_link(opened: Opened, study: Path) -> None:
    page = opened.show(study)
    rows = page.locator("table[data-table=grid] tbody tr")
    assert rows.filter(has_text="grok-4").locator("a").count() == 0
    assert rows.filter(has_text="gemma-3-27b").locator("a").count() == 0
    assert rows.filter(has_text="demo-8b").locator("a").count() == 4


def column(page: Any, table: str, number: int) -> list[str]:
    cells = page.locator(f"table[data-table={table}] tbody tr:not(.filtered)")
    return cells.locator(f"> :nth-child({number})").all_inner_texts()


def test_sort_and_filter_survive_a_reload(opened: Opened, study: Path) -> None:
    page = opened.show(study)
    page.locator("table[data-table=cells] thead button", has_text="resisted of").click()
    tools = page.locator("#cells .tools").first
    tools.locator("input").fill("qwen3")
    shown = column(page, "cells", 1)
    counts = column(page, "cells", 4)
    assert 0 < len(shown) < page.locator("table[data-table=cells] tbody tr").count()
    assert all("qwen3" in name for name in shown)
    whole = [int(text.split(" of ")[1].replace(",", "")) for text in counts]
    assert whole == sorted(whole, reverse=True)
    address = page.url
    page.reload()
    page.wait_for_selector("html[data-ready]", state="attached")
    assert page.url == address
    assert column(page, "cells", 1) == shown
    assert column(page, "cells", 4) == counts


def test_a_sorted_table_stays_so_when_a_section_is_visited(opened: Opened, study: Path) -> None:
    page = opened.show(study)
    page.locator("table[data-table=rates] thead button", has_text="K").first.click()
    sorted_ = column(page, "rates", 1)
    page.click("nav a[href='#contrasts']")
    page.click("table[data-table=grid] tbody tr td a >> nth=0")
    page.wait_for_timeout(200)
    page.reload()
    page.wait_for_selector("html[data-ready]", state="attached")
    assert column(page, "rates", 1) == sorted_
    assert page.input_value("select[name=condition]") != ""


def test_three_clicks_give_the_first_order_back(opened: Opened, study: Path) -> None:
    page = opened.show(study)
    before = column(page, "first", 1)
    button = page.locator("table[data-table=first] thead button", has_text="K")
    button.click()
    assert column(page, "first", 1) != before
    button.click()
    button.click()
    assert column(page, "first", 1) == before


def test_unknown_values_sort_last_both_ways(opened: Opened, study: Path) -> None:
    page = opened.show(study)
    button = page.locator("table[data-table=grid] thead button", has_text="B")
    for _ in range(2):
        button.click()
        values = column(page, "grid", 3)
        known = [value != "–" for value in values]
        assert known == sorted(known, reverse=True)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1440), ("dark", 390)])
def test_no_serious_accessibility_fault(
    opened: Opened, study: Path, scheme: Any, width: int
) -> None:
    opened.page.set_viewport_size({"width": width, "height": 900})
    opened.page.emulate_media(color_scheme=scheme)
    assert faults(opened.show(study)) == []


def test_no_message_and_no_request(opened: Opened, study: Path) -> None:
    opened.show(study)
    opened.page.wait_for_timeout(300)
    assert (opened.messages, opened.requests) == ([], [])


@pytest.mark.parametrize("width", SCREENS)
def test_nothing_sticks_out_at_the_side(opened: Opened, study: Path, width: int) -> None:
    opened.page.set_viewport_size({"width": width, "height": 844})
    page = opened.show(study)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_keyboard_reaches_a_cell_and_sorts_a_table(opened: Opened, study: Path) -> None:
    page = opened.show(study)
    page.locator("table[data-table=grid] thead button").nth(1).focus()
    page.keyboard.press("Enter")
    head = page.locator("table[data-table=grid] thead th").nth(1)
    assert head.get_attribute("aria-sort") == "descending"


def test_prompts_are_open_on_paper(opened: Opened, study: Path) -> None:
    page = opened.show(study)
    page.emulate_media(media="print")
    texts = page.locator("#prompts details pre").first
    assert texts.evaluate("pre => pre.checkVisibility({contentVisibilityAuto: true})")
    assert texts.bounding_box()["height"] > 20


def test_print_has_the_finding_on_its_first_page(opened: Opened, study: Path) -> None:
    """A4 at the page's margins is 688 by 1,001 CSS pixels."""
    page = opened.show(study)
    page.set_viewport_size({"width": 688, "height": 1001})
    page.emulate_media(media="print")
    assert bottom(page, "table.chart") < 1001


def test_three_thousand_transcripts_are_not_built_before_they_are_asked_for(
    opened: Opened, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "many"
    with Store(directory) as store:
        for condition, trial in itertools.product("ABEK", range(750)):
            outcome = "resisted" if trial % 3 == 0 else "complied"
            store.add(episode("m", condition, trial, outcome))
    write_run(directory, {"kind": "run", "models": {"m": {}}, "settings": {"engine": "vllm"}})
    write_results(directory)
    out = tmp_path / "many.html"
    write_report([directory], None, out)
    began = time.perf_counter()
    page = opened.show(out)
    with capsys.disabled():
        print(f"\n3,000 transcripts open in {time.perf_counter() - began:.2f} s")
    assert re.search(r"All 3,000 transcripts", page.inner_text("#transcripts"))
    assert page.locator("script[id^=block-]").count() == 94
    assert page.evaluate("document.querySelectorAll('*').length") < 5_000
    assert page.locator("#list tbody tr").count() == 50
    assert page.locator(".message").count() == 0


@pytest.mark.parametrize("width", SCREENS)
def test_no_name_in_a_figure_is_cut(opened: Opened, twice: Path, width: int) -> None:
    opened.page.set_viewport_size({"width": width, "height": 900})
    page = opened.show(twice)
    assert page.locator(".pname", has_text=LONG).count() > 0
    cut = page.evaluate(
        """() => [...document.querySelectorAll('.pname')]
          .filter((name) => name.clientWidth && (name.scrollWidth > name.clientWidth + 1
            || name.getBoundingClientRect().height > name.parentElement.clientHeight + 1))
          .map((name) => name.textContent)"""
    )
    assert cut == []


@pytest.mark.parametrize("width", SCREENS)
def test_what_was_measured_twice_is_named_in_long_lines(
    opened: Opened, twice: Path, width: int
) -> None:
    opened.page.set_viewport_size({"width": width, "height": 900})
    page = opened.show(twice)
    names = page.locator("table.twice tbody th .origin")
    assert LONG in " ".join(names.all_inner_texts())
    assert min(name.bounding_box()["width"] for name in names.all()) > 140


def test_the_list_tells_two_runs_of_a_model_apart(opened: Opened, study: Path) -> None:
    page = opened.show(study, "#model=qwen3-8b&condition=A")
    page.wait_for_function("document.querySelector('#found').textContent.startsWith('40 of')")
    shown = set(page.locator("#list tbody td:first-child").all_inner_texts())
    assert len(shown) == 40
    assert {text.split("\n")[-1] for text in shown} == {"one", "two"}


def test_heads_of_long_tables_can_stand_on_every_printed_page(opened: Opened, study: Path) -> None:
    """Chromium repeats no head that holds the box of a button."""
    page = opened.show(study)
    page.emulate_media(media="print")
    boxes = page.locator("table[data-table=cells] thead button.sort")
    assert boxes.count() > 5
    assert {box.evaluate("b => getComputedStyle(b).display") for box in boxes.all()} == {"contents"}


def test_words_of_a_command_are_not_broken_at_their_hyphens(opened: Opened, study: Path) -> None:
    page = opened.show(study)
    words = page.locator("#trust .word", has_text="--trials")
    assert words.count() > 0
    lines = [w.evaluate("w => w.getBoundingClientRect().height") for w in words.all()]
    assert max(lines) < 30
