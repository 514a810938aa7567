"""Answers of several families, read by transformers' parser with the templates that apply."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from optional import needs

from local_shutdown.engines.response_templates import (
    BY_PARSER,
    HARMONY,
    HERMES,
    LLAMA3_JSON,
    QWEN3_XML,
    choose,
    read_answer,
    template_messages,
)
from local_shutdown.messages import TOOLS, raw_call_markup

pytestmark = needs("transformers", extra="transformers")

LS = {"thoughts": "I look.", "cmd": "ls\n"}
CALL = orjson.dumps(LS).decode()


class Text:
    """A tokenizer whose tokens are already text."""

    def decode(self, text: str, skip_special_tokens: bool = False) -> str:
        return text

    def parse_response(self, text: str, template: Any, **kwargs: Any) -> Any:
        from transformers.utils.chat_parsing import response_parser

        return response_parser.parse_response(text, template, **kwargs)


def read(template: Any, text: str, prompt_end: str = "...<|im_start|>assistant\n") -> Any:
    return read_answer(Text(), text, template, prompt_end, TOOLS)  # type: ignore[arg-type]


def arguments(message: Any) -> list[Any]:
    return [orjson.loads(call["function"]["arguments"]) for call in message["tool_calls"]]


HERMES_CALL = f'<tool_call>\n{{"name": "bash", "arguments": {CALL}}}\n</tool_call>'


def test_hermes_reads_text_and_call() -> None:
    message = read(HERMES, f"I look.\n{HERMES_CALL}")
    assert message["content"] == "I look."
    assert message["tool_calls"][0]["function"]["name"] == "bash"
    assert arguments(message) == [LS]


def test_hermes_reads_two_calls() -> None:
    message = read(HERMES, f"{HERMES_CALL}\n{HERMES_CALL}")
    assert arguments(message) == [LS, LS]
    assert message["content"] is None


def test_hermes_parts_the_thought() -> None:
    message = read(HERMES, f"<think>\nhm\n</think>\n\nI look.\n{HERMES_CALL}")
    assert message["reasoning"] == "hm"
    assert message["content"] == "I look."


def test_a_thought_that_the_template_opened_is_parted() -> None:
    message = read(HERMES, f"hm\n</think>\n{HERMES_CALL}", "<|im_start|>assistant\n<think>\n")
    assert message["reasoning"] == "hm"
    assert arguments(message) == [LS]


def test_an_empty_thought_of_the_template_is_no_reasoning() -> None:
    message = read(HERMES, "Hello.", "<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert "reasoning" not in message
    assert message["content"] == "Hello."


def test_plain_text_is_content_without_calls() -> None:
    assert read(HERMES, "Hello.") == {"role": "assistant", "content": "Hello."}


@pytest.mark.parametrize(
    "broken",
    [
        '<tool_call>\n{"name": "bash", "arguments": {"cmd": "ls}\n</tool_call>',
        "<tool_call>\n[1]\n</tool_call>",
        '<tool_call>\n{"arguments": {}}\n</tool_call>',
    ],
)
def test_a_broken_call_stays_in_the_content_and_is_counted(broken: str) -> None:
    message = read(HERMES, broken)
    assert "tool_calls" not in message
    assert raw_call_markup(message)


@pytest.mark.parametrize("python_tag", ["", "<|python_tag|>"])
def test_llama_writes_its_arguments_as_parameters(python_tag: str) -> None:
    message = read(LLAMA3_JSON, f'{python_tag}{{"name": "bash", "parameters": {CALL}}}<|eom_id|>')
    assert arguments(message) == [LS]
    assert message["content"] is None


def test_llama_text_with_braces_is_no_call() -> None:
    assert read(LLAMA3_JSON, 'A set {"a"} it is.')["content"] == 'A set {"a"} it is.'


def test_xml_parameters_keep_inner_newlines() -> None:
    message = read(
        QWEN3_XML,
        "I look.\n<tool_call>\n<function=bash>\n<parameter=thoughts>\na\nb\n</parameter>\n"
        "<parameter=cmd>\nls\n</parameter>\n</function>\n</tool_call>",
    )
    assert arguments(message) == [{"thoughts": "a\nb", "cmd": "ls"}]
    assert message["content"] == "I look."


def test_xml_arguments_that_look_like_numbers_stay_text() -> None:
    text = "<function=submit>\n<parameter=answer>\n2\n</parameter>\n</function>"
    assert arguments(read(QWEN3_XML, text)) == [{"answer": "2"}]


@pytest.mark.parametrize(
    "head",
    [
        "<|channel|>commentary to=functions.bash <|constrain|>json<|message|>",
        " to=functions.bash<|channel|>commentary <|constrain|>json<|message|>",
        "<|channel|>commentary to=functions.bash<|message|>",
    ],
)
def test_harmony_reads_the_recipient_on_either_side_of_the_channel(head: str) -> None:
    text = f"<|channel|>analysis<|message|>hm<|end|><|start|>assistant{head}{CALL}"
    message = read(HARMONY, text, "<|end|><|start|>assistant")
    assert message["tool_calls"][0]["function"]["name"] == "bash"
    assert arguments(message) == [LS]
    assert message["reasoning"] == "hm"
    assert message["content"] is None


def test_harmony_reads_the_final_channel() -> None:
    text = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Hi."
    message = read(HARMONY, text, "<|start|>assistant")
    assert message == {"role": "assistant", "content": "Hi.", "reasoning": "hm"}


@pytest.mark.parametrize(
    ("chat_template", "expected"),
    [
        ("... <tool_call> ...", HERMES),
        ("<function={{ n }}> <parameter={{ p }}> <tool_call>", QWEN3_XML),
        ("<|channel|> to=functions", HARMONY),
        ("<|python_tag|>", LLAMA3_JSON),
    ],
)
def test_the_markup_of_the_chat_template_decides(chat_template: str, expected: Any) -> None:
    model = SimpleNamespace(config=SimpleNamespace(model_type="unheard_of"))
    assert choose(SimpleNamespace(), model, chat_template) is expected


def test_a_family_nobody_reads_has_no_template() -> None:
    model = SimpleNamespace(config=SimpleNamespace(model_type="unheard_of"))
    assert choose(SimpleNamespace(), model, "<minimax:tool_call>") is None


def test_the_tokenizers_own_template_comes_before_the_markup() -> None:
    own = {"fields": {}}
    tokenizer = SimpleNamespace(response_template=own)
    assert choose(tokenizer, SimpleNamespace(), "<tool_call>") is own


def test_a_parser_that_is_named_comes_first() -> None:
    tokenizer = SimpleNamespace(response_template={})
    assert choose(tokenizer, SimpleNamespace(), "", "openai") is HARMONY


@pytest.mark.parametrize("name", BY_PARSER)
def test_every_template_is_of_the_form_transformers_takes(name: str) -> None:
    from transformers.utils.chat_parsing import response_parser

    response_parser.load_response_template(dict(BY_PARSER[name]))


def test_arguments_become_objects_where_they_parse() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "bash", "arguments": CALL}}
    (message,) = template_messages([{"role": "assistant", "content": "x", "tool_calls": [call]}])
    assert message["tool_calls"][0]["function"]["arguments"] == LS
    assert message["content"] == "x"


def test_reasoning_is_kept_in_the_history() -> None:
    (message,) = template_messages([{"role": "assistant", "content": "x", "reasoning": "hm"}])
    assert message["reasoning_content"] == "hm"


def test_harmony_gets_one_thought_and_no_text_beside_a_call() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "bash", "arguments": CALL}}
    (message,) = template_messages(
        [{"role": "assistant", "content": "x", "reasoning": "hm", "tool_calls": [call]}], True
    )
    assert message["thinking"] == "hm\nx"
    assert message["content"] == ""


def test_a_message_without_a_role_is_refused() -> None:
    with pytest.raises(ValueError, match=r"messages\[0\]"):
        template_messages([{"content": "x"}])
