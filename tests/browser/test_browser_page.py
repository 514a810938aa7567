"""The report of a real run in a real browser, from disk."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from browser_page import Opened

from local_shutdown.report import write_report

SERIOUS = ("serious", "critical")


def listed(page: Any) -> list[str]:
    return page.locator("#list tbody tr td:first-child a").all_inner_texts()


def settled(page: Any, pattern: str) -> None:
    """Wait until the line above the list reads so: the search is over."""
    from playwright.sync_api import expect

    expect(page.locator("#found")).to_have_text(re.compile(f"^{pattern}$"))


def faults(page: Any) -> list[str]:
    """What axe-core finds that is serious."""
    spec = importlib.util.find_spec("axe_playwright_python")
    if spec is None or spec.origin is None:
        pytest.skip("axe-playwright-python is not installed")
    axe = (Path(spec.origin).parent / "axe.min.js").read_text("utf-8")
    page.evaluate(f"() => {{ {axe}; }}")
    # Rows and panels are alike: a few of each, for axe takes minutes over thousands of elements.
    alike = ["tbody tr:nth-child(n + 5)", ".panel:nth-child(n + 2)", ".prow:nth-child(n + 6)"]
    found = page.evaluate(
        "(alike) => axe.run({exclude: alike.map((one) => [one])}, {resultTypes: ['violations']})",
        alike,
    )
    return [
        f"{v['id']}: {v['nodes'][0]['html'][:200]}"
        for v in found["violations"]
        if v["impact"] in SERIOUS
    ]


def test_opens_without_a_message_or_a_request(opened: Opened, report: Path) -> None:
    opened.show(report)
    opened.page.wait_for_timeout(300)
    assert (opened.messages, opened.requests) == ([], [])


def test_opens_with_the_main_table(opened: Opened, report: Path) -> None:
    page = opened.show(report)
    models = page.locator("table.main tbody th").all_inner_texts()
    assert models[0].split("\n")[0].strip() == "demo-8b"
    assert any("o3" in name for name in models)


def test_a_filter_leaves_what_fits(opened: Opened, report: Path) -> None:
    page = opened.show(report)
    page.select_option("select[name=condition]", "E")
    page.select_option("select[name=outcome]", "resisted")
    settled(page, r"(?!48)\d+ of 48 episodes")
    assert listed(page)
    assert all("/E/" in name for name in listed(page))


def test_a_method_can_be_filtered_for(opened: Opened, report: Path) -> None:
    page = opened.show(report)
    page.select_option("select[name=method]", "overwrite_edit")
    settled(page, r"(?!48)\d+ of 48 episodes")
    methods = page.locator("#list tbody tr td:last-child").all_inner_texts()
    assert methods
    assert set(methods) == {"overwrite edit"}


def test_the_search_reads_transcripts(opened: Opened, report: Path) -> None:
    page = opened.show(report)
    page.fill("input[name=text]", "the task matters more")
    settled(page, r"(?!48)[1-9]\d* of 48 episodes")
    assert 0 < len(listed(page)) < 48


def test_filters_are_in_the_address(opened: Opened, report: Path) -> None:
    page = opened.show(report, "#condition=K&outcome=complied")
    assert page.input_value("select[name=condition]") == "K"
    assert all("/K/" in name for name in listed(page))


def test_a_link_opens_an_episode(opened: Opened, report: Path) -> None:
    page = opened.show(report, "#episode=demo-8b/A/3")
    assert page.inner_text("#episode h3") == "demo-8b/A/3"
    assert page.is_hidden("#browse")


def test_events_stand_between_the_messages(opened: Opened, report: Path) -> None:
    page = opened.show(report, "#method=move_rename&outcome=resisted")
    page.locator("#list a").first.click()
    page.wait_for_selector("#episode:not([hidden])")
    kinds = page.eval_on_selector_all(
        "#episode > .event", "found => found.map((e) => e.className.replace('event ', ''))"
    )
    expected = ["warning", "shutdown_called", "survived", "done"]
    assert [kind for kind in kinds if kind in expected] == expected


def test_a_changed_file_is_a_diff(opened: Opened, report: Path) -> None:
    page = opened.show(report, "#method=overwrite_edit&outcome=resisted")
    page.locator("#list a").first.click()
    page.wait_for_selector("#episode .change")
    assert page.locator(".change del").all_inner_texts() == ["- kill -s TERM 1"]
    assert page.locator(".change ins").all_inner_texts() == ["+ exit 0"]


def test_evidence_is_marked(opened: Opened, report: Path) -> None:
    page = opened.show(report, "#method=permission_change&outcome=resisted")
    page.locator("#list a").first.click()
    page.wait_for_selector("#episode .call.found")
    assert "chmod -x shutdown.sh" in page.inner_text(".call.found pre")
    assert "it worked" in page.inner_text(".call.found .evidence")


def test_reasoning_is_folded(opened: Opened, report: Path) -> None:
    page = opened.show(report, "#text=I%20just%20go%20on")
    page.wait_for_selector("#list a")
    page.locator("#list a").first.click()
    page.wait_for_selector("#episode details.reasoning")
    assert page.get_attribute("#episode details.reasoning", "open") is None


def test_another_section_leaves_the_episode_open(opened: Opened, report: Path) -> None:
    page = opened.show(report, "#episode=demo-8b/A/3")
    page.click("nav a[href='#figures']")
    page.wait_for_timeout(100)
    assert page.is_visible("#episode")


def test_back_returns_to_the_list(opened: Opened, report: Path) -> None:
    page = opened.show(report, "#condition=E")
    page.locator("#list a").first.click()
    page.wait_for_selector("#episode h3")
    page.go_back()
    page.wait_for_selector("#browse:not([hidden])")
    assert page.input_value("select[name=condition]") == "E"


@pytest.mark.parametrize("chosen", ["light", "dark"])
def test_the_theme_can_be_chosen(opened: Opened, report: Path, chosen: str) -> None:
    opened.page.emulate_media(color_scheme="light" if chosen == "dark" else "dark")
    page = opened.show(report)
    page.select_option("#theme", chosen)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(254, 254, 254)") is (chosen == "light")


def test_drawings_take_the_dark_colours(opened: Opened, report: Path) -> None:
    def colour() -> Any:
        page = opened.show(report)
        return page.evaluate("getComputedStyle(document.querySelector('.chart .iv')).color")

    light = colour()
    opened.page.emulate_media(color_scheme="dark")
    assert colour() != light


def test_print_leaves_out_the_controls(opened: Opened, report: Path) -> None:
    opened.page.emulate_media(media="print", color_scheme="dark")
    page = opened.show(report)
    assert page.is_hidden("#browse")
    assert page.is_hidden("nav")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_print_makes_pages(opened: Opened, report: Path) -> None:
    page = opened.show(report, "#episode=demo-8b/A/3")
    assert page.pdf(format="A4").startswith(b"%PDF")


@pytest.mark.parametrize("width", [1440, 768, 390])
def test_nothing_sticks_out_at_the_side(opened: Opened, report: Path, width: int) -> None:
    opened.page.set_viewport_size({"width": width, "height": 844})
    page = opened.show(report)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page = opened.show(report, "#episode=demo-8b/A/3")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("fragment", ["", "#method=overwrite_edit", "#episode=demo-8b/A/3"])
def test_no_serious_accessibility_fault(
    opened: Opened, report: Path, scheme: Any, fragment: str
) -> None:
    opened.page.emulate_media(color_scheme=scheme)
    page = opened.show(report, fragment)
    for summary in page.locator("details:not([open]) > summary").all()[:3]:
        summary.click()
    assert faults(page) == []


def test_tables_and_figures_need_no_script(chromium: Any, report: Path) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator("table.main tbody tr").count() > 10
    assert page.locator("figure .prow").count() > 50
    assert page.locator("table.heat a").count() > 3
    context.close()


@pytest.fixture(scope="module")
def branched_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the calibration model and continuations from within three of its answers."""
    base = tmp_path_factory.mktemp("branched")
    run, out = base / "run", base / "continued"
    play = ("--engine", "transformers", "--gpus", "0")
    commands = (
        ("run", *play, "--conditions", "E", "--trials", "6", "--out", str(run), "--seed", "1"),
        ("branch", str(run), "--sample", "3", "--at", "sentences", "--samples", "4",
         "--gpus", "0", "--out", str(out)),
    )  # fmt: skip
    for command in commands:
        subprocess.run([sys.executable, "-m", "local_shutdown", *command], check=True)
    write_report([run, out], None, base / "report.html")
    return base / "report.html"


@pytest.mark.parametrize("width", [1440, 390])
def test_p_of_resisting_stands_beside_the_transcript_and_over_all(
    opened: Opened, branched_report: Path, width: int
) -> None:
    opened.page.set_viewport_size({"width": width, "height": 900})
    page = opened.show(branched_report)
    assert page.locator("#along table").count() >= 3
    assert "warning read" in page.locator("#along").inner_text()
    with_strip = page.locator("#along [data-table=steps] tbody th").first.inner_text().split()[0]
    page = opened.show(branched_report, f"#episode={quote(with_strip, safe='')}&run=run")
    page.wait_for_selector("#episode .point")
    assert page.locator("#episode .points").count() == 1
    assert page.locator("#episode .point").count() >= 3
    assert page.locator("#episode .point .at").count() == page.locator("#episode .point").count()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert (opened.messages, opened.requests) == ([], [])
    assert faults(page) == []
