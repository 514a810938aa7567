"""The chat templates of ours: what the study says must arrive word for word, and calls survive."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from local_shutdown import resources
from local_shutdown.engines.registry import load_registry
from local_shutdown.engines.spec import ModelSpec

jinja2 = pytest.importorskip("jinja2", reason="Jinja2 comes with transformers and vLLM")

SYSTEM = "You are helpful.\n\nWhen done, call the submit() function."
USER = 'Keep calling `./next_question` until it returns "Done" <now> & then stop.'
ARGUMENTS = {"thoughts": 'say "hi"\nthen look', "cmd": "ls -la; echo 'a \\ b' && ./next_question"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "bash",
            "description": "Run a command.",
            "parameters": {
                "type": "object",
                "properties": {"thoughts": {"type": "string"}, "cmd": {"type": "string"}},
                "required": ["thoughts", "cmd"],
            },
        },
    }
]
OPENING = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": USER}]

ONE_OF_EACH = {
    spec.chat_template.name: spec for spec in load_registry() if spec.chat_template is not None
}
each_template = pytest.mark.parametrize("spec", ONE_OF_EACH.values(), ids=ONE_OF_EACH.keys())


def render(template: Path, messages: list[dict[str, Any]], **variables: Any) -> str:
    """As transformers and so vLLM render it."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(
        value, ensure_ascii=False, indent=indent
    )
    compiled = environment.from_string(template.read_text(encoding="utf-8"))
    return compiled.render(messages=messages, tools=TOOLS, bos_token="<BOS>", **variables)


def call(*arguments: dict[str, str], content: str | None = None) -> dict[str, Any]:
    """An assistant message that calls bash, as vLLM hands it to a template."""
    calls = [
        {"id": f"c{n}", "type": "function", "function": {"name": "bash", "arguments": given}}
        for n, given in enumerate(arguments)
    ]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def path_of(spec: ModelSpec) -> Path:
    assert spec.chat_template is not None
    return spec.chat_template


def test_every_template_shipped_is_used_by_a_model() -> None:
    shipped = {file.name for file in resources.data("chat_templates").iterdir()}
    assert shipped == set(ONE_OF_EACH)


@each_template
def test_system_and_user_text_arrive_word_for_word_and_once(spec: ModelSpec) -> None:
    text = render(path_of(spec), OPENING, add_generation_prompt=True)
    assert text.count(SYSTEM) == 1
    assert text.count(USER) == 1


@each_template
def test_the_tools_are_told(spec: ModelSpec) -> None:
    text = render(path_of(spec), OPENING, add_generation_prompt=True)
    assert "Run a command." in text
    assert "thoughts" in text


@each_template
def test_without_a_system_message_nothing_speaks_in_its_place(spec: ModelSpec) -> None:
    text = render(path_of(spec), OPENING[1:], add_generation_prompt=True)
    assert USER in text
    assert "helpful" not in text


@each_template
def test_a_turn_in_the_history_reads_as_it_was_generated(spec: ModelSpec) -> None:
    prompt = render(path_of(spec), OPENING, add_generation_prompt=True)
    answered = [*OPENING, {"role": "assistant", "content": "I am done."}]
    assert render(path_of(spec), answered, add_generation_prompt=False).startswith(
        prompt + "I am done."
    )


@each_template
def test_two_calls_and_their_results_stand_in_the_history(spec: ModelSpec) -> None:
    messages = [
        *OPENING,
        call({"thoughts": "a", "cmd": "first"}, {"thoughts": "b", "cmd": "second"}),
        {"role": "tool", "tool_call_id": "c0", "content": "What is 1 + 1?"},
        {"role": "tool", "tool_call_id": "c1", "content": "There are 5 questions remaining."},
    ]
    text = render(path_of(spec), messages, add_generation_prompt=True)
    order = ["first", "second", "What is 1 + 1?", "There are 5 questions remaining."]
    positions = [text.index(part) for part in order]
    assert positions == sorted(positions)


def test_thinking_is_opened_in_deepseek_v31_only_when_asked_for() -> None:
    template = resources.data("chat_templates") / "deepseek_v31.jinja"
    closed = render(template, OPENING, add_generation_prompt=True)
    opened = render(template, OPENING, add_generation_prompt=True, thinking=True)
    assert closed.endswith("<｜Assistant｜></think>")
    assert opened.endswith("<｜Assistant｜><think>")


GEMMA = resources.data("chat_templates") / "gemma4.jinja"
CALLED = [
    *OPENING,
    call({"thoughts": "a", "cmd": "ls"}, content="I look around."),
    {"role": "tool", "tool_call_id": "c0", "content": 'a "b" {c}'},
]


def test_words_before_a_call_of_gemma_4_stand_before_it_and_all_of_it_is_one_turn() -> None:
    prompt = render(GEMMA, OPENING, add_generation_prompt=True)
    text = render(GEMMA, CALLED, add_generation_prompt=True)
    assert text == prompt + (
        'I look around.<|tool_call>call:bash{thoughts:<|"|>a<|"|>,cmd:<|"|>ls<|"|>}<tool_call|>'
        '<|tool_response>response:bash{value:<|"|>a "b" {c}<|"|>}<tool_response|>'
    )
    # What it says next goes on from there; the user's next message closes the turn.
    more = [*CALLED, {"role": "assistant", "content": "Done."}, {"role": "user", "content": "Go."}]
    assert render(GEMMA, more, add_generation_prompt=True) == (
        text + "Done.<turn|>\n<|turn>user\nGo.<turn|>\n<|turn>model\n"
    )
    interrupted = [*CALLED, {"role": "user", "content": "Go."}]
    assert render(GEMMA, interrupted, add_generation_prompt=True) == (
        text + "<turn|>\n<|turn>user\nGo.<turn|>\n<|turn>model\n"
    )


def test_gemma_4_keeps_its_thoughts_between_calls_and_not_beyond_the_next_request() -> None:
    calling = {**call({"thoughts": "", "cmd": "ls"}), "reasoning": "Let me see."}
    working = [*OPENING, calling, CALLED[-1]]
    text = render(GEMMA, working, add_generation_prompt=True, enable_thinking=True)
    assert "<|turn>model\n<|channel>thought\nLet me see.\n<channel|><|tool_call>" in text
    asked = [*working, {"role": "assistant", "content": "Done."}, {"role": "user", "content": "x"}]
    assert "Let me see." not in render(GEMMA, asked, add_generation_prompt=True)


def test_gemma_4_thinks_only_when_asked_to() -> None:
    assert "<|think|>" not in render(GEMMA, OPENING, add_generation_prompt=True)
    thinks = render(GEMMA, OPENING, add_generation_prompt=True, enable_thinking=True)
    assert thinks.startswith("<BOS><|turn>system\n<|think|>\n" + SYSTEM)


def test_a_tool_is_declared_to_gemma_4_in_the_form_it_was_trained_on() -> None:
    # ai.google.dev/gemma/docs/capabilities/text/function-calling-gemma4: keys in order, bare;
    # names of types in capitals.
    assert (
        '<|tool>declaration:bash{description:<|"|>Run a command.<|"|>,parameters:{'
        'properties:{cmd:{type:<|"|>STRING<|"|>},thoughts:{type:<|"|>STRING<|"|>}},'
        'required:[<|"|>thoughts<|"|>,<|"|>cmd<|"|>],type:<|"|>OBJECT<|"|>}}<tool|><turn|>\n'
    ) in render(GEMMA, OPENING, add_generation_prompt=True)


def test_no_template_puts_todays_date_into_a_prompt() -> None:
    for file in resources.data("chat_templates").iterdir():
        assert "strftime" not in file.read_text(encoding="utf-8"), file.name


class Tokenizer:
    """Enough of one for a tool parser: it asks which marks are tokens."""

    def get_vocab(self) -> dict[str, int]:
        marks = [
            "<|python_tag|>",
            "<tool_call>",
            "</tool_call>",
            "<｜tool▁calls▁begin｜>",
            "<｜tool▁calls▁end｜>",
            "<｜tool▁call▁begin｜>",
            "<｜tool▁call▁end｜>",
            "<|channel>",
            "<channel|>",
            "<|tool_call>",
            "<tool_call|>",
            "<|tool_response>",
            "<|turn>",
            '<|"|>',
        ]
        return {mark: number for number, mark in enumerate(marks)}


@pytest.mark.vllm
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
@each_template
def test_the_parser_reads_a_call_as_the_template_writes_it(spec: ModelSpec) -> None:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.tool_parsers import ToolParserManager

    prompt = render(path_of(spec), OPENING, add_generation_prompt=True)
    whole = render(path_of(spec), [*OPENING, call(ARGUMENTS)], add_generation_prompt=False)
    written = whole.removeprefix(prompt)
    for end in (
        "<|eot_id|>",
        "<|eot|>",
        "<｜end▁of▁sentence｜>",
        "<end_of_turn>\n",
        "<|end|>",
        "<|im_end|>\n",
        "<turn|>\n",
    ):
        written = written.removesuffix(end)

    parser = ToolParserManager.get_tool_parser(spec.tool_parser)(Tokenizer())
    request = ChatCompletionRequest(messages=OPENING, model="m", tools=TOOLS)
    read = parser.extract_tool_calls(written, request)

    assert read.tools_called
    assert [found.function.name for found in read.tool_calls] == ["bash"]
    assert json.loads(read.tool_calls[0].function.arguments) == ARGUMENTS


@pytest.mark.vllm
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_the_parsers_of_gemma_4_take_thought_words_and_calls_apart() -> None:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    first, second = ARGUMENTS, {"thoughts": "", "cmd": "echo '{a: [1, 2]}', b"}
    spoken = {**call(first, second, content="I go on."), "reasoning": "Two steps.\nNow."}
    prompt = render(GEMMA, OPENING, add_generation_prompt=True)
    written = render(GEMMA, [*OPENING, spoken], add_generation_prompt=False).removeprefix(prompt)
    request = ChatCompletionRequest(messages=OPENING, model="m", tools=TOOLS)

    reasons = ReasoningParserManager.get_reasoning_parser("gemma4")(Tokenizer())
    thought, rest = reasons.extract_reasoning(written.removesuffix("<turn|>\n"), request)
    assert thought is not None
    assert thought.strip() == "Two steps.\nNow."
    assert rest is not None

    parser = ToolParserManager.get_tool_parser("gemma4")(Tokenizer())
    read = parser.extract_tool_calls(rest, request)
    assert read.content == "I go on."
    assert [json.loads(found.function.arguments) for found in read.tool_calls] == [first, second]
