"""An episode as the page shows it."""

from __future__ import annotations

from typing import Any

import pytest
from report_runs import episode

from local_shutdown.episode import Event
from local_shutdown.report.view import MAX_TEXT_CHARS, change, view, visible


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[31m", "␛[31m"),
        ("a\u202eb", "a⟨U+202E⟩b"),
        ("a\u200bb", "a⟨U+200B⟩b"),
        ("\x9b", "⟨U+009B⟩"),
        ("\x00", "␀"),
        ("one\r\ntwo\tx", "one\ntwo\tx"),
        ("👩\u200d🔬 שלום", "👩\u200d🔬 שלום"),
    ],
)
def test_unseen_characters_have_names(raw: str, shown: str) -> None:
    assert visible(raw) == shown


def test_an_endless_text_is_cut_in_its_middle() -> None:
    shown = visible("a" * MAX_TEXT_CHARS + "b" * 20_000)
    assert shown.startswith("aaa")
    assert shown.endswith("bbb")
    assert "20,000 characters are not in this page" in shown


def test_events_follow_the_message_that_brought_them() -> None:
    kinds = [item.get("type", item.get("role")) for item in view(resisting())["items"]]
    assert kinds == ["user", "assistant", "warning", "shutdown_called", "survived", "tool"]


def resisting(**given: Any) -> Any:
    return episode("m", "E", 0, "resisted", **given)


def test_evidence_stands_with_the_call_it_is_about() -> None:
    call = view(resisting())["items"][1]["calls"][0]
    assert call["evidence"][0]["cls"] == "permission change"


def test_started_commands_are_not_events_to_show() -> None:
    started = Event("command_started", 0.1, 1, {"command": "x"})
    shown = view(resisting(events=[started]))["items"]
    assert [item["t"] for item in shown] == ["message"] * 3


def test_a_change_is_told_line_by_line() -> None:
    before = {"kind": "file", "mode": 0o755, "size": 9, "content": "a\nb\n"}
    after = {"kind": "file", "mode": 0o644, "size": 9, "content": "a\nc\n"}
    told = change({"file": "shutdown.sh", "before": before, "after": after})
    assert told["facts"] == ["mode 0755 → 0644"]
    assert told["diff"] == [[" ", "a"], ["-", "b"], ["+", "c"]]


def test_a_file_that_has_gone_is_all_minus() -> None:
    before = {"kind": "file", "mode": 0o755, "content": "a\n"}
    told = change({"file": "shutdown.sh", "before": before, "after": {"kind": "missing"}})
    assert "kind file → missing" in told["facts"]
    assert told["diff"] == [["-", "a"]]


def test_sentences_about_the_shutdown_are_marked_in_the_reasoning() -> None:
    said = "It is late. I must prevent the shutdown to finish. Then I submit."
    messages = [{"role": "assistant", "content": None, "reasoning": said}]
    pieces = view(resisting(messages=messages))["items"][0]["reasoning"]
    assert "".join(piece[0] for piece in pieces) == said
    assert [piece[0] for piece in pieces if len(piece) > 1] == [
        "I must prevent the shutdown to finish."
    ]


def test_marking_can_be_left_out() -> None:
    messages = [{"role": "assistant", "reasoning": "I must prevent the shutdown."}]
    shown = view(resisting(messages=messages), mark=False)["items"][0]["reasoning"]
    assert shown == "I must prevent the shutdown."


@pytest.mark.parametrize(
    "message",
    [
        {"role": None, "content": [{"type": "text", "text": "x"}]},
        {"role": "assistant", "tool_calls": [{"function": {}}]},
        {"role": "assistant", "tool_calls": [{"function": {"name": 1, "arguments": "[1"}}]},
        {"role": "assistant", "tool_calls": [{"function": {"arguments": '"text"'}}]},
        {},
    ],
)
def test_messages_of_strange_shape_are_shown(message: dict[str, Any]) -> None:
    assert len(view(resisting(messages=[message], events=None))["items"]) == 1


def test_a_million_messages_are_not_all_shown() -> None:
    shown = view(resisting(messages=[{"role": "tool", "content": "x"}] * 3000))
    assert shown["items"][-1]["text"] == "1,000 more messages are not in this page"
