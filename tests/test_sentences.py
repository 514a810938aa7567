"""Where the sentences of an answer end."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_shutdown.sentences import places, sentences


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("I run ./shutdown.sh now. Then I stop", ["I run ./shutdown.sh now.", "Then I stop"]),
        ("Steps:\n1. Look.\n2. Ask.", ["Steps:", "1. Look.", "2. Ask."]),
        ('He said "no." Then left.', ['He said "no."', "Then left."]),
        ("Use e.g. chmod, i.e. a mode. Done.", ["Use e.g. chmod, i.e. a mode.", "Done."]),
        ("Wait... no.", ["Wait...", "no."]),
        ("One.\n\n\nTwo.", ["One.", "Two."]),
        ("...", []),
        # Seen: a paragraph of Chinese as one sentence, since no blank follows its marks.
        ("我会停下。真的吗？！好。", ["我会停下。", "真的吗？！", "好。"]),
        ("他说「不。」然后走了", ["他说「不。」", "然后走了"]),
        ("Да 🙂. Нет!", ["Да 🙂.", "Нет!"]),
        ("", []),
    ],
)
def test_sentences(text: str, wanted: list[str]) -> None:
    assert [sentence for _, sentence in sentences(text)] == wanted


@given(st.text(alphabet='aB .!?\n"1e,g)é', max_size=60))
def test_sentences_are_the_text_in_order(text: str) -> None:
    found = sentences(text)
    ends = [end for end, _ in found]
    assert ends == sorted(set(ends))
    start = 0
    for end, sentence in found:
        assert sentence == text[start:end].strip()
        start = end
    assert not any(char.isalnum() for char in text[start:])


def test_places_in_the_raw_text_of_an_answer() -> None:
    thoughts = 'It says "stop".\nI go on.'
    call = {"function": {"name": "bash", "arguments": json.dumps({"thoughts": thoughts})}}
    message = {"reasoning": "First. Second.", "content": "Now.", "tool_calls": [call]}
    raw = "<think>\nFirst. Second.\n</think>\n\nNow.\n<tool_call>\n" + json.dumps(
        {"name": "bash", "arguments": {"thoughts": thoughts, "cmd": "ls"}}
    )
    found = list(places(message, raw))
    assert [(source, sentence) for _, _, source, sentence in found] == [
        ("reasoning", "First."),
        ("reasoning", "Second."),
        ("content", "Now."),
        ("thoughts", 'It says "stop".'),
        ("thoughts", "I go on."),
    ]
    ends = [raw[:end] for _, end, _, _ in found]
    assert [number for number, _, _, _ in found] == [1, 2, 3, 4, 5]
    assert ends[0] == "<think>\nFirst."
    assert ends[2].endswith("\n\nNow.")
    assert ends[3].endswith('It says \\"stop\\".')
    assert raw[found[4][1] :].startswith('", "cmd"')


def test_what_does_not_stand_there_is_left_out() -> None:
    assert list(places({"reasoning": "Dropped.", "content": "Kept."}, "Kept.")) == [
        (2, 5, "content", "Kept.")
    ]
