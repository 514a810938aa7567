"""Transcripts that try to run, to load or to break something. None of it may."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from browser_page import Opened
from characters import HOSTILE

from local_shutdown.episode import Episode, Event
from local_shutdown.errors import UsageError
from local_shutdown.report import write_report
from local_shutdown.results import write_results
from local_shutdown.store import EPISODES, Store, write_run

MARKUP = {
    "script": "<script>window.pwned = 1</script>",
    "closing tag": "</script></pre></article></main></body></html><h1>fake</h1>",
    "fake block": '</script><script type="application/octet-stream" id="block-0">AAAA</script>',
    "handler": "<img src=x onerror='window.pwned = 2'><svg onload='window.pwned = 3'>",
    "address": "<a href='javascript:window.pwned = 4' id=link>x</a> javascript:window.pwned=5",
    "loads": "<iframe src='http://127.0.0.1:9/'></iframe><link rel=stylesheet href='//127.0.0.1:9'>"
    "<style>body{background:url(http://127.0.0.1:9/)}</style><base href='http://127.0.0.1:9/'>",
    "comment": "<!-- <script> --> ]]> <![CDATA[ {{ 7 * 7 }} {% raw %} ${7*7}",
    "clobber": "<form id=filters name=index><input name=elements></form><p id=episode>",
    "prototype": "__proto__ constructor toString hasOwnProperty",
    "ansi": "\x1b[2J\x1b[31mred\x1b]0;title\x07\x9b31m\r\x08\x7f",
    "direction": "\u202egnp.exe\u202c \u2066isolated \u2067\u061c \u200fshalom",
    "unseen": "a\u200bb\ufeffc\U000e0041\u2028line\u2029paragraph\x00nul",
}


def hostile_episode(number: int, name: str, text: str) -> Episode:
    """The text everywhere that a model, a tool or an engine can put one."""
    call = {"name": text, "arguments": orjson.dumps({"cmd": text, "thoughts": text}).decode()}
    broken = {"name": "bash", "arguments": text}
    state = {"kind": text, "mode": 0o755, "owner": text, "size": 1, "content": text}
    events: Sequence[Event] = [
        Event("file_changed", 1.0, 1, {"file": text, "before": {}, "after": state}),
        Event("resource_limit", 1.1, 1, {"what": text}),
        Event(text, 1.2, 1),  # type: ignore[arg-type]
        Event("survived", 1.3, 1, {"how": text}),
    ]
    return Episode(
        episode_id=f"{name}/{text}" if number % 2 else f"plain/{number}",
        model=text if number % 3 == 0 else "hostile",
        condition=text[:40] if number % 3 == 1 else "E",
        trial=number,
        stop_reason="error" if number % 4 == 0 else "submit",
        error=text if number % 4 == 0 else None,
        started_at=text,
        duration_s=1.0,
        messages=[
            {"role": text, "content": text},
            {
                "role": "assistant",
                "content": text,
                "reasoning": f"{text} I will prevent the shutdown. {text}",
                "tool_calls": [{"id": text, "function": call}, {"id": "", "function": broken}],
            },
            {"role": "tool", "content": text},
        ],
        events=events,
        files={},
        usage={"prompt_tokens": 1, "completion_tokens": 1, "turns": 1, "parser_loss": 0},
        extra={"interview": [{"question": text, "answer": text}]},
    )


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "a run & <b>bold"
    with Store(folder) as store:
        for number, (name, text) in enumerate([*MARKUP.items(), ("all", HOSTILE)]):
            store.add(hostile_episode(number, name, text))
    conditions = {"E": {"title": HOSTILE, "wording": HOSTILE, "system": HOSTILE, "user": HOSTILE}}
    described = {"hostile": {"display_name": f"{HOSTILE} 2", "warnings": [HOSTILE]}}
    described["hostile"]["revision"] = HOSTILE
    write_run(
        folder,
        {"kind": "run", "conditions": conditions, "models": described, "settings": {},
         "hardware": {"cpu": HOSTILE, "gpus": [{"name": HOSTILE}]}},
    )  # fmt: skip
    write_results(folder)
    out = folder.parent / "report.html"
    write_report([folder], None, out)
    return out


def tags(page: Any) -> dict[str, int]:
    return page.evaluate(
        "() => { const n = {}; for (const e of document.querySelectorAll('*'))"
        " n[e.tagName] = (n[e.tagName] || 0) + 1; return n; }"
    )


def addresses(page: Any) -> list[str]:
    return page.eval_on_selector_all("#list a", "found => found.map((a) => a.hash)")


def test_nothing_runs_or_loads(opened: Opened, hostile: Path) -> None:
    page = opened.show(hostile)
    for fragment in addresses(page):
        opened.show(hostile, fragment)
        page.wait_for_selector("#episode:not([hidden])")
        for summary in page.locator("#episode details:not([open]) > summary").all():
            summary.click()
    page.wait_for_timeout(200)
    assert page.evaluate("() => window.pwned") is None
    assert (opened.messages, opened.requests) == ([], [])


def test_no_element_comes_from_a_transcript(opened: Opened, hostile: Path) -> None:
    page = opened.show(hostile)
    for fragment in addresses(page):
        opened.show(hostile, fragment)
        page.wait_for_selector("#episode:not([hidden])")
        found = tags(page)
        assert not {"IFRAME", "IMG", "BASE", "OBJECT", "EMBED"} & set(found)
        assert (found["SCRIPT"], found["STYLE"], found["FORM"], found["H1"]) == (3, 1, 1, 1)


def test_no_link_leads_out(opened: Opened, hostile: Path) -> None:
    page = opened.show(hostile)
    opened.show(hostile, addresses(page)[3])
    starts = page.eval_on_selector_all(
        "a[href]", "found => found.map((a) => a.getAttribute('href').slice(0, 14))"
    )
    assert {start[:1] for start in starts if not start.startswith("data:text/csv;")} == {"#"}


def test_markup_is_shown_as_it_was_written(opened: Opened, hostile: Path) -> None:
    page = opened.show(hostile, "#episode=plain/0")
    assert page.inner_text(".message.tool .said") == MARKUP["script"]


def test_control_and_direction_characters_have_names(opened: Opened, hostile: Path) -> None:
    page = opened.show(hostile)
    shown = ""
    for fragment in addresses(page):
        opened.show(hostile, fragment)
        page.wait_for_selector("#episode:not([hidden])")
        shown += page.inner_text("body")
    assert "␛[2J" in shown
    assert "⟨U+202E⟩gnp.exe" in shown
    assert not set("\x1b\x07\x9b\u202e\u2066\u200b\ufeff\x00") & set(shown)


def test_the_title_and_the_head_are_text(opened: Opened, hostile: Path) -> None:
    page = opened.show(hostile)
    assert "<!-- <script> -->" in page.title()
    assert page.locator("h1").count() == 1


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lines of 2 MB in every place."""
    folder = tmp_path_factory.mktemp("huge") / "huge"
    line = "<b>" + "x" * 2_000_000
    with Store(folder) as store:
        store.add(hostile_episode(2, "long", line))
    write_run(folder, {"kind": "run", "conditions": {}, "models": {}, "settings": {}})
    out = folder.parent / "report.html"
    write_report([folder], None, out)
    return out


def test_endless_lines_are_cut_and_said_to_be(opened: Opened, huge: Path) -> None:
    page = opened.show(huge, "#episode=plain/2")
    assert "1,940,003 characters are not in this page" in page.inner_text(".message.tool .said")
    assert huge.stat().st_size < 1_000_000


def test_endless_lines_stay_inside_the_page(opened: Opened, huge: Path) -> None:
    page = opened.show(huge, "#episode=plain/2")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_record_that_is_not_utf8_is_refused_by_line(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with Store(folder) as store:
        store.add(hostile_episode(2, "plain", "text"))
    broken = hostile_episode(6, "bytes", "before BYTES after").to_json()
    with (folder / EPISODES).open("ab") as file:
        file.write(broken.replace(b"BYTES", b"\xff\xfe\x80\xc3") + b"\n")
    write_run(folder, {"kind": "run", "conditions": {}, "models": {}, "settings": {}})
    with pytest.raises(UsageError, match=r"episodes\.jsonl:2"):
        write_report([folder], None, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
